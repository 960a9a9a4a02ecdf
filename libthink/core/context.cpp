#include "libthink/core/context.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "libthink/backend/cuda_loader.h"
#include "libthink/backend/registry.h"
#include "libthink/core/device.h"
#include "libthink/core/structs.h"

namespace think {
namespace {

constexpr size_t kAlignment = 64;
constexpr int32_t kMostThreads = 1024;

void *default_allocate(void *, size_t bytes, size_t alignment) { return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment); }

void default_deallocate(void *, void *memory, size_t, size_t) { std::free(memory); }

int32_t own_workers(const think_context &context) { return context.parallel_for ? 0 : context.threads - 1; }

think_status check_cpu(const Argument &argument, think_context_options &options) {
  if (options.device_index != 0) return wrong(argument, "device_index", "expected 0, the only CPU device, got %d", options.device_index);
  if (options.threads < -1 || options.threads > kMostThreads) return wrong(argument, "threads", "expected -1 .. %d, got %d", kMostThreads, options.threads);
  if (options.threads == 0) options.threads = options.parallel_for ? -1 : 1;  // a hook is given to be used
  if (options.threads == -1) options.threads = usable_cores();
  return THINK_OK;
}

think_status check_cuda(const Argument &argument, think_context_options &options) {
  const cuda::Search search = cuda::find_backend();
  if (!search.backend) return without_backend(argument, search);
  if (options.device_index < 0 || options.device_index >= search.devices) {
    return wrong(argument, "device_index", "expected 0 .. %d, got %d", search.devices - 1, options.device_index);
  }
  if (options.threads < -1 || options.threads > kMostThreads) return wrong(argument, "threads", "expected -1 .. %d, got %d", kMostThreads, options.threads);
  options.threads = 1;  // the device does the work
  return THINK_OK;
}

size_t context_bytes(int32_t workers) { return sizeof(think_context) + static_cast<size_t>(workers) * sizeof(pthread_t); }

}  // namespace

think_status read_context_options(const Argument &argument, const think_context_options *in, think_context_options &out, IsaChoice &isa) {
  static const think_context_options defaults = THINK_CONTEXT_OPTIONS_INIT;
  if (const think_status status = read_options(argument, in, out, defaults)) return status;
  if (out.device_type == 0) out.device_type = THINK_DEVICE_CPU;
  if (out.device_type != THINK_DEVICE_CPU && out.device_type != THINK_DEVICE_CUDA) {
    return unsupported(argument, "device_type", "device kind %d: %s", out.device_type, backend_reason(out.device_type).text);
  }
  if (out.reserved != 0) return wrong(argument, "reserved", "expected 0, got %d", out.reserved);
  if (!out.allocate != !out.deallocate) {
    return wrong(argument, out.allocate ? "deallocate" : "allocate", "expected allocate and deallocate together or none of them, got NULL");
  }
  if (!out.allocate) {
    out.allocate = default_allocate;
    out.deallocate = default_deallocate;
  }
  if (const think_status status = choose_isa(argument.error, isa)) return status;
  // Last of all, so that no backend is loaded for options that are refused anyway.
  return out.device_type == THINK_DEVICE_CPU ? check_cpu(argument, out) : check_cuda(argument, out);
}

think_status make_context(const think_context_options &options, IsaChoice isa, think_context *&made, think_error *error) {
  const cuda::Backend *backend = nullptr;
  cuda::Device device{};
  if (options.device_type == THINK_DEVICE_CUDA) {
    // Asked again, and what was there for check_cuda() may be gone.
    const cuda::Search search = cuda::find_backend();
    if (!search.backend) return without_backend({error, 1, "options"}, search);
    backend = search.backend;
  }
  if (backend) {
    if (const int32_t code = backend->open(options.device_index, device)) {
      return device_failed(*backend, code, Text("opening CUDA device %d", options.device_index).text, error);
    }
  }
  const int32_t workers = options.parallel_for ? 0 : options.threads - 1;
  void *memory = options.allocate(options.user, context_bytes(workers), kAlignment);
  if (!memory) {
    if (backend) backend->close(device);
    return fail(error, THINK_E_MEMORY, 0, "the allocator gave no memory for a context");
  }
  think_context *context = new (memory) think_context{};
  context->references.store(1);
  context->device_type = options.device_type;
  context->device_index = options.device_index;
  context->threads = options.threads;
  context->isa = isa;
  context->cuda = backend;
  context->device = device;
  context->parallel_for = options.parallel_for;
  context->allocate = options.allocate;
  context->deallocate = options.deallocate;
  context->log = options.log;
  context->user = options.user;
  context->pool.configure(reinterpret_cast<pthread_t *>(context + 1), workers);
  made = context;
  return THINK_OK;
}

void retain(think_context &context) { context.references.fetch_add(1, std::memory_order_relaxed); }

void release(think_context &context) {
  if (context.references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  const size_t bytes = context_bytes(own_workers(context));
  const think_deallocate free_memory = context.deallocate;
  void *user = context.user;
  if (context.cuda) context.cuda->close(context.device);
  context.~think_context();
  free_memory(user, &context, bytes, kAlignment);
}

void *allocate(think_context &context, size_t bytes) { return context.allocate(context.user, bytes, kAlignment); }

void deallocate(think_context &context, void *memory, size_t bytes) { context.deallocate(context.user, memory, bytes, kAlignment); }

void log(const think_context &context, int32_t level, const char *format, ...) {
  if (!context.log) return;
  char message[256];
  va_list values;
  va_start(values, format);
  std::vsnprintf(message, sizeof message, format, values);
  va_end(values);
  context.log(context.user, level, message);
}

Parallel parallel_of(think_context &context) {
  if (context.threads <= 1) return {1, nullptr, nullptr};
  if (context.parallel_for) return {context.threads, context.parallel_for, context.user};
  const auto run = [](void *self, int64_t count, think_task task, void *arg) { static_cast<Pool *>(self)->run(count, task, arg); };
  return {context.threads, run, &context.pool};
}

}  // namespace think
