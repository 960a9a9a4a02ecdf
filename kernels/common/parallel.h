// How a stage runs on the CPU: loops that somebody else's threads (or one thread) execute, and the instruction set to use.
#pragma once

#include <cstdint>

#include "think/context.h"

namespace think {

struct Parallel {
  int32_t threads;  // tasks that can run at the same time, at least 1
  void (*run)(void *self, int64_t count, think_task task, void *arg);
  void *self;
};

// body(index) for every index below count; body is any callable and lives on the caller's stack.
template <class Body>
static inline void parallel_for(const Parallel &parallel, int64_t count, const Body &body) {
  if (count <= 0) return;
  if (count == 1 || parallel.threads <= 1) {
    for (int64_t index = 0; index < count; ++index) body(index);
    return;
  }
  parallel.run(
      parallel.self, count, [](void *arg, int64_t index) { (*static_cast<const Body *>(arg))(index); }, const_cast<Body *>(&body));
}

// The caller's share of a call that is cut into slices; {0, 1} = the whole call, which may use `Parallel`.
struct Slice {
  int32_t index, count;
};

}  // namespace think
