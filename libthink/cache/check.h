// What the calls on a cache have in common: is there such a sequence and layer, is now the time, and what became of it?
#pragma once

#include "libthink/cache/cache.h"
#include "libthink/core/error.h"

namespace think::cache {

think_status out_of_memory(think_error *error, const think_cache &cache);
think_status check_sequence(const Argument &argument, const char *field, const think_cache &cache, int32_t sequence);
think_status check_layer(const Argument &argument, const think_cache &cache, int32_t layer);
think_status check_no_step(think_error *error, const think_cache &cache, const char *function);

// body(), with the cache's device current and its launches in `stream`; false of it: no memory.
template <class Body>
think_status work(const think_cache &cache, void *stream, think_error *error, const Body &body) {
  bool fits = true;
  if (Device *device = cache.device) {
    device->stream = stream;
    device->error = 0;
    const think_status status = run_on_device(*cache.plan, error, [&](const cuda::Backend &) {
      fits = body();
      return device->error;
    });
    if (status) return status;
  } else {
    fits = body();
  }
  return fits ? THINK_OK : out_of_memory(error, cache);
}

// For calls without a launch.
static inline void *last_stream(const think_cache &cache) { return cache.device ? cache.device->stream : nullptr; }

}  // namespace think::cache
