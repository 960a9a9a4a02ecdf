#include "think/store.h"

#include "libthink/cache/check.h"
#include "libthink/cache/twin.h"
#include "libthink/core/structs.h"
#include "libthink/store/file.h"

using namespace think;

namespace {

think_status check_saved(think_error *error, const think_cache *cache, int32_t sequence, const char *function) {
  if (!cache) return null_pointer({error, 1, "cache"});
  if (const think_status status = cache::check_sequence({error, 2, "sequence"}, "", *cache, sequence)) return status;
  if (const think_status status = cache::check_no_step(error, *cache, function)) return status;
  if (cache::tokens_of(cache->sequences[sequence]) > 0) return THINK_OK;
  return fail(error, THINK_E_STATE, 2, "sequence: expected one with tokens, sequence %d holds none", sequence);
}

}  // namespace

extern "C" {

think_status think_cache_save_size(const think_cache *cache, int32_t sequence, int64_t *bytes, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (cache) {
      if (const think_status status = cache::check_sequence({error, 2, "sequence"}, "", *cache, sequence)) return status;
      if (const think_status status = check_array({error, 3, "bytes"}, bytes)) return status;
    }
    if (const think_status status = check_saved(error, cache, sequence, "think_cache_save_size")) return status;
    *bytes = store::saved_bytes(*cache, cache->sequences[sequence]);
    return THINK_OK;
  });
}

think_status think_cache_save(const think_cache *cache, int32_t sequence, think_writer write, void *user, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!cache) return null_pointer({error, 1, "cache"});
    if (const think_status status = cache::check_sequence({error, 2, "sequence"}, "", *cache, sequence)) return status;
    if (!write) return null_pointer({error, 3, "write"});
    if (const think_status status = check_saved(error, cache, sequence, "think_cache_save")) return status;
    store::Writer writer(write, user);
    if (cache->device) {
      const cache::Holder twin = cache::make_twin(*cache);
      const auto fetch = [&] { return twin && cache::download(*cache, sequence, *twin); };
      if (const think_status status = cache::work(*cache, cache::last_stream(*cache), error, fetch)) return status;
      if (const think_status status = store::check({error, 1, "cache"}, *twin, twin->sequences[0])) return status;
      store::save(*twin, twin->sequences[0], writer);
    } else {
      store::save(*cache, cache->sequences[sequence], writer);
    }
    if (!writer.failed()) return THINK_OK;
    const think_status status = fail(error, THINK_E_IO, 3, "write: the caller's function gave up with %d", writer.code());
    set_native_code(error, writer.code());
    return status;
  });
}

think_status think_cache_load(think_cache *cache, int32_t sequence, think_reader read, void *user, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!cache) return null_pointer({error, 1, "cache"});
    if (const think_status status = cache::check_sequence({error, 2, "sequence"}, "", *cache, sequence)) return status;
    if (!read) return null_pointer({error, 3, "read"});
    if (const think_status status = cache::check_no_step(error, *cache, "think_cache_load")) return status;
    if (const int64_t tokens = cache::tokens_of(cache->sequences[sequence])) {
      return fail(error, THINK_E_STATE, 2, "sequence: expected one without tokens, sequence %d holds %lld", sequence, static_cast<long long>(tokens));
    }
    store::Reader reader(read, user, error);
    const cache::Holder twin = cache->device ? cache::make_twin(*cache) : nullptr;
    if (cache->device && !twin) return cache::out_of_memory(error, *cache);
    if (twin ? store::load(*twin, 0, reader) : store::load(*cache, sequence, reader)) {
      const auto put = [&] { return !twin || cache::upload(*cache, sequence, *twin); };
      const think_status status = cache::work(*cache, cache::last_stream(*cache), error, put);
      if (status == THINK_E_DEVICE) cache::drop(*cache, sequence);
      if (!status) cache::end_step(*cache);
      return status;
    }
    return reader.status() ? reader.status() : cache::out_of_memory(error, *cache);
  });
}

}  // extern "C"
