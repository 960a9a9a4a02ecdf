// The library's own threads, for hosts that have none to lend. See README.md.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>

#include "think/context.h"

namespace think {

int32_t usable_cores();  // that this process may run on, at least 1

class Pool {
 public:
  // `handles` has room for `workers` threads and lives as long as the pool.
  void configure(pthread_t *handles, int32_t workers);

  // Each user (a plan) acquires and releases: the first one starts the workers, the last one joins them. False: a thread could not be started.
  bool acquire();
  void release();

  // task(arg, 0 .. count - 1); the caller works too. Runs alone when another call has the workers, or in a forked child.
  void run(int64_t count, think_task task, void *arg);

  // Around every fork, for all pools (fork.h).
  static void before_fork();
  static void after_fork(bool in_child);

 private:
  bool start();
  void stop(int32_t started);
  void work();
  void serve();
  static void *serve_thread(void *self);

  pthread_t *handles_ = nullptr;
  int32_t workers_ = 0;
  int64_t users_ = 0;                // guarded by the life-cycle lock
  uint32_t fork_generation_ = 0;     // of the process that started the workers
  bool running_ = false;

  // The job. Written only while no worker can be inside: see state_.
  think_task task_ = nullptr;
  void *arg_ = nullptr;
  int64_t count_ = 0;

  alignas(64) std::atomic<bool> busy_{false};   // a call has the workers
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<uint32_t> epoch_{0};  // workers sleep on it, every job raises it
  alignas(64) std::atomic<uint32_t> state_{0};  // highest bit: the job is open; below: workers inside
  alignas(64) std::atomic<int64_t> next_{0};    // next index of the job
};

}  // namespace think
