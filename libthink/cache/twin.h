// A sequence of a cache on a device, in memory of the host: a cache of one sequence, for what only the host can do (files).
#pragma once

#include "libthink/cache/cache.h"

namespace think::cache {

Holder make_twin(const think_cache &cache);  // empty; NULL: no memory

// Between sequence 0 of the twin and one of the cache; both wait for the stream. False: no memory; nothing has changed.
bool download(const think_cache &cache, int32_t sequence, think_cache &twin);
bool upload(think_cache &cache, int32_t sequence, const think_cache &twin);

}  // namespace think::cache
