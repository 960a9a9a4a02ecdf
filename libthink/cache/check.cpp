#include "libthink/cache/check.h"

namespace think::cache {

using Long = long long;  // what %lld takes

think_status out_of_memory(think_error *error, const think_cache &cache) {
  if (const Device *device = cache.device) {
    const think_cache_info held = usage(cache, -1);
    return fail(error, THINK_E_MEMORY, 0, "the slab has no room for it (%lld bytes; %lld of them free, in places where not everything fits), nor bases for "
                "another run if it needs one (%d of %d are in use), or the host gave no memory", static_cast<Long>(device->slab_bytes),
                static_cast<Long>(held.spare_bytes), device->bases.slots_used, device->bases.slot_capacity);
  }
  return fail(error, THINK_E_MEMORY, 0, "the context's allocator gave no memory, or the cache would have more than its limit (%lld bytes; it has %lld)",
              static_cast<Long>(cache.memory.limit), static_cast<Long>(cache.memory.bytes));
}

think_status check_sequence(const Argument &argument, const char *field, const think_cache &cache, int32_t sequence) {
  if (sequence >= 0 && sequence < cache.sequences.size) return THINK_OK;
  return wrong(argument, field, "expected 0 .. %d, got %d", cache.sequences.size - 1, sequence);
}

think_status check_no_step(think_error *error, const think_cache &cache, const char *function) {
  if (cache.step.missing == 0) return THINK_OK;
  return fail(error, THINK_E_STATE, 1, "%s: expected every layer of the step to be appended before, %d of %d are missing", function, cache.step.missing,
              cache.layers);
}

think_status check_layer(const Argument &argument, const think_cache &cache, int32_t layer) {
  if (layer >= 0 && layer < cache.layers) return THINK_OK;
  return wrong(argument, "", "expected 0 .. %d, got %d", cache.layers - 1, layer);
}

}  // namespace think::cache
