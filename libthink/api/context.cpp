#include "think/context.h"

#include <cstring>

#include "kernels/common/shape.h"
#include "libthink/backend/registry.h"
#include "libthink/core/context.h"
#include "libthink/core/structs.h"

using namespace think;

extern "C" {

void think_context_options_init(think_context_options *options, uint32_t struct_size) {
  const think_context_options initial = THINK_CONTEXT_OPTIONS_INIT;
  init_struct(options, struct_size, initial);
}

think_status think_context_create(const think_context_options *options, think_context **context, think_error *error) {
  return fence(error, [&]() -> think_status {
    think_context_options copy;
    IsaChoice isa;
    if (const think_status status = read_context_options({error, 1, "options"}, options, copy, isa)) return status;
    if (const think_status status = check_array({error, 2, "context"}, context)) return status;
    think_context *made = nullptr;
    if (const think_status status = make_context(copy, isa, made, error)) return status;
    if (made->cuda) {
      log(*made, THINK_LOG_INFO, "libthink %s: CUDA device %d, sm_%d%d, %d multiprocessors", think_version_string(), made->device_index, made->device.major,
          made->device.minor, made->device.multiprocessors);
    } else {
      log(*made, THINK_LOG_INFO, "libthink %s: cpu, %s, %d thread%s", think_version_string(), isa_name(isa.isa), copy.threads, copy.threads > 1 ? "s" : "");
    }
    *context = made;
    return THINK_OK;
  });
}

void think_context_destroy(think_context *context) {
  if (context) release(*context);
}

think_status think_query(const think_context *context, int32_t key, int64_t *value, think_error *error) {
  return fence(error, [&]() -> think_status {
    const bool needs_context = key >= THINK_QUERY_DEVICE_TYPE && key <= THINK_QUERY_ISA;
    if (needs_context && !context) return wrong({error, 1, "context"}, "", "expected a context for key %d, got NULL", key);
    int64_t answer;
    switch (key) {
      case THINK_QUERY_VERSION: answer = think_version(); break;
      case THINK_QUERY_ABI: answer = think_abi_version(); break;
      case THINK_QUERY_DEVICE_TYPE: answer = context->device_type; break;
      case THINK_QUERY_DEVICE_INDEX: answer = context->device_index; break;
      case THINK_QUERY_THREADS: answer = context->threads; break;
      case THINK_QUERY_ISA: answer = context->isa.isa; break;
      case THINK_QUERY_ISA_AVAILABLE: answer = isa_available(); break;
      case THINK_QUERY_BACKENDS: answer = backends_available(); break;
      case THINK_QUERY_MAX_CHANNELS: answer = kMaxChannels; break;
      case THINK_QUERY_MAX_SEGMENTS: answer = THINK_MAX_SEGMENTS; break;
      default: return unsupported({error, 2, "key"}, "", "this library does not know key %d", key);
    }
    if (const think_status status = check_array({error, 3, "value"}, value)) return status;
    *value = answer;
    return THINK_OK;
  });
}

think_status think_backend_reason(think_device device, char *text, size_t capacity, size_t *needed, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!text && capacity > 0) return wrong({error, 2, "text"}, "", "expected a pointer to %zu bytes (capacity), got NULL", capacity);
    if (const think_status status = check_optional({error, 4, "needed"}, needed)) return status;
    const BackendReason reason = backend_reason(device);
    const size_t length = std::strlen(reason.text);
    if (capacity > 0) {
      const size_t copied = length < capacity ? length : capacity - 1;
      std::memcpy(text, reason.text, copied);
      text[copied] = 0;
    }
    if (needed) *needed = length + 1;
    return THINK_OK;
  });
}

}  // extern "C"
