#include "threads.h"

#include <algorithm>

namespace generate {
namespace {

// A decode step starts the pool about 200 times: a short spin saves most of the wake-ups, a long one would only heat a core.
template <typename Ready> bool spin(const Ready &ready) {
  for (int i = 0; i < 2000; ++i) {
    if (ready()) return true;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  return false;
}

} // namespace

ThreadPool::ThreadPool(int threads) {
  for (int i = 1; i < std::max(threads, 1); ++i) workers_.emplace_back([this] { work(); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (std::thread &worker : workers_) worker.join();
}

void ThreadPool::drain() {
  for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) (*task_)(i);
}

void ThreadPool::work() {
  uint32_t seen = 0;
  for (;;) {
    if (!spin([&] { return round_.load(std::memory_order_acquire) != seen; })) round_.wait(seen, std::memory_order_acquire);
    // A worker takes part in every round, because run() waits for all of them: rounds are never skipped.
    seen = round_.load(std::memory_order_acquire);
    if (stop_) return;
    drain();
    if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
  }
}

void ThreadPool::run(int64_t count, const std::function<void(int64_t)> &task) {
  if (workers_.empty() || count <= 1) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  task_ = &task;
  count_ = count;
  next_.store(0, std::memory_order_relaxed);
  busy_.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  drain();
  const auto done = [&] { return busy_.load(std::memory_order_acquire) == 0; };
  if (spin(done)) return;
  for (uint32_t left; (left = busy_.load(std::memory_order_acquire)) != 0;) busy_.wait(left, std::memory_order_acquire);
}

} // namespace generate
