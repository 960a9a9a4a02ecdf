#include "libthink/backend/pool.h"

#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <mutex>

#include "libthink/backend/fork.h"

namespace think {
namespace {

constexpr uint32_t kOpen = 0x80000000u;
constexpr int kSpins = 512;  // some microseconds: layers follow each other closely, longer would burn the cores of the host
// The caller waits for a worker's last task, which ends soon for certain: sleeping there costs a wake-up of tens of microseconds in every call.
constexpr int kFinishSpins = 16384;
constexpr int32_t kMostCores = 1024;
constexpr size_t kStackBytes = 512 << 10;  // twice what is asked of a host's threads

// Starting and joining workers is serialised for all contexts, so that fork() can wait for it.
std::mutex life_cycle;
std::atomic<uint32_t> fork_generation{0};

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

}  // namespace

int32_t usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  long cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : sysconf(_SC_NPROCESSORS_ONLN);
  return cores < 1 ? 1 : cores > kMostCores ? kMostCores : static_cast<int32_t>(cores);
}

void Pool::before_fork() { life_cycle.lock(); }

void Pool::after_fork(bool in_child) {
  if (in_child) fork_generation.fetch_add(1, std::memory_order_relaxed);
  life_cycle.unlock();
}

void Pool::configure(pthread_t *handles, int32_t workers) {
  handles_ = handles;
  workers_ = workers;
}

bool Pool::acquire() {
  if (workers_ <= 0) return true;
  const std::lock_guard<std::mutex> lock(life_cycle);
  if (users_ == 0 && !start()) return false;
  ++users_;
  return true;
}

void Pool::release() {
  if (workers_ <= 0) return;
  const std::lock_guard<std::mutex> lock(life_cycle);
  if (--users_ > 0 || !running_) return;
  // In a forked child there is nobody to join.
  if (fork_generation_ == fork_generation.load(std::memory_order_relaxed)) stop(workers_);
  running_ = false;
}

bool Pool::start() {
  if (fork_error() != 0) return false;
  busy_.store(false);
  stop_.store(false);
  epoch_.store(0);
  state_.store(0);
  fork_generation_ = fork_generation.load(std::memory_order_relaxed);
  // Workers inherit the signal mask: no handler of the host ever runs on a thread that it does not know. Faults are different: their handler
  // must run where they happen, and blocked they would end the process.
  sigset_t all, before;
  sigfillset(&all);
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) sigdelset(&all, fault);
  if (pthread_sigmask(SIG_SETMASK, &all, &before) != 0) return false;
  // What the process gives threads by default (ulimit -s) may be too little.
  pthread_attr_t attributes;
  int32_t started = 0;
  if (pthread_attr_init(&attributes) == 0) {
    size_t stack_bytes = 0;
    if (pthread_attr_getstacksize(&attributes, &stack_bytes) == 0 && stack_bytes < kStackBytes) pthread_attr_setstacksize(&attributes, kStackBytes);
    while (started < workers_ && pthread_create(&handles_[started], &attributes, serve_thread, this) == 0) ++started;
    pthread_attr_destroy(&attributes);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (started < workers_) {
    stop(started);
    return false;
  }
  running_ = true;
  return true;
}

void Pool::stop(int32_t started) {
  stop_.store(true);
  epoch_.fetch_add(1);
  epoch_.notify_all();
  for (int32_t worker = 0; worker < started; ++worker) pthread_join(handles_[worker], nullptr);
}

void *Pool::serve_thread(void *self) {
  static_cast<Pool *>(self)->serve();
  return nullptr;
}

void Pool::serve() {
  uint32_t seen = 0;
  for (;;) {
    uint32_t epoch;
    for (int spins = 0; (epoch = epoch_.load()) == seen; ++spins) {
      if (spins < kSpins) {
        relax();
      } else {
        epoch_.wait(seen);
      }
    }
    seen = epoch;
    if (stop_.load()) return;
    // Enter only an open job: the caller closes it first and then waits for those who are inside, never for those who come late.
    uint32_t state = state_.load(std::memory_order_relaxed);
    while (state & kOpen) {
      if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire, std::memory_order_relaxed)) continue;
      work();
      if (state_.fetch_sub(1, std::memory_order_acq_rel) == 1) state_.notify_all();
      break;
    }
  }
}

void Pool::work() {
  for (int64_t index; (index = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) task_(arg_, index);
}

void Pool::run(int64_t count, think_task task, void *arg) {
  const bool here = running_ && fork_generation_ == fork_generation.load(std::memory_order_relaxed);
  if (!here || busy_.exchange(true, std::memory_order_acquire)) {
    for (int64_t index = 0; index < count; ++index) task(arg, index);
    return;
  }
  task_ = task;
  arg_ = arg;
  count_ = count;
  next_.store(0, std::memory_order_relaxed);
  state_.store(kOpen, std::memory_order_release);
  epoch_.fetch_add(1);
  const int64_t helpers = count - 1;
  if (helpers >= workers_) {
    epoch_.notify_all();
  } else {
    for (int64_t helper = 0; helper < helpers; ++helper) epoch_.notify_one();
  }
  work();
  uint32_t state = state_.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
  for (int spins = 0; state != 0; ++spins) {
    if (spins < kFinishSpins) {
      relax();
    } else {
      state_.wait(state);
    }
    state = state_.load(std::memory_order_acquire);
  }
  busy_.store(false, std::memory_order_release);
}

}  // namespace think
