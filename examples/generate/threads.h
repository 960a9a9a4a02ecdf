// The engine's only thread pool. Matrix products and libthink share it: the library gets it through the parallel_for hook of its context, so no second
// set of threads competes for the same cores.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace generate {

class ThreadPool {
public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool &) = delete;
  ThreadPool &operator=(const ThreadPool &) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls task(0) .. task(count - 1) on all threads and returns when all are done. Tasks must not throw and must not call run() themselves.
  void run(int64_t count, const std::function<void(int64_t)> &task);

private:
  void work();
  void drain();

  std::vector<std::thread> workers_;
  const std::function<void(int64_t)> *task_ = nullptr;
  int64_t count_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<uint32_t> round_{0};
  std::atomic<uint32_t> busy_{0};
  bool stop_ = false;
};

} // namespace generate
