// The context behind the opaque handle: counted by its creator and its plans, so that it may be destroyed before them.
#pragma once

#include <atomic>
#include <cstddef>

#include "kernels/common/parallel.h"
#include "libthink/backend/cuda_backend.h"
#include "libthink/backend/isa.h"
#include "libthink/backend/pool.h"
#include "libthink/core/error.h"

struct think_context {
  std::atomic<int64_t> references;
  think_device device_type;
  int32_t device_index;
  int32_t threads;  // tasks at the same time, at least 1
  think::IsaChoice isa;
  const think::cuda::Backend *cuda;  // NULL on the CPU
  think::cuda::Device device;        // of `cuda`
  think_parallel_for parallel_for;
  think_allocate allocate;
  think_deallocate deallocate;
  think_log log;
  void *user;
  think::Pool pool;
};

namespace think {

// What think_context_create() and think_supports() have in common: options checked and defaults filled in.
think_status read_context_options(const Argument &argument, const think_context_options *in, think_context_options &out, IsaChoice &isa);

// Opens the device and makes the context. Out of memory is THINK_E_MEMORY, a device that does not open THINK_E_DEVICE.
think_status make_context(const think_context_options &options, IsaChoice isa, think_context *&context, think_error *error);
void retain(think_context &context);
void release(think_context &context);

void *allocate(think_context &context, size_t bytes);  // aligned to 64; NULL: no memory
void deallocate(think_context &context, void *memory, size_t bytes);
void log(const think_context &context, int32_t level, const char *format, ...) __attribute__((format(printf, 3, 4)));

Parallel parallel_of(think_context &context);

}  // namespace think
