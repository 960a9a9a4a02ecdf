// A sequence of a cache as a file (think/store.h).
//
// The header of the file is a function of the plan, of the cache's options and of the few numbers of Contents, to the byte: load() makes it again and compares.
// So nothing in a header is believed but those numbers, and they are checked before they are used.
#pragma once

#include "libthink/cache/cache.h"
#include "libthink/store/stream.h"

namespace think::store {

int64_t saved_bytes(const think_cache &cache, const cache::Sequence &sequence);
// Of a twin of a device's cache: what came from the caller's slab. Else THINK_E_STATE.
think_status check(const Argument &argument, const think_cache &cache, const cache::Sequence &sequence);
void save(const think_cache &cache, const cache::Sequence &sequence, Writer &writer);
// Into a sequence without tokens. False: the reader has said why, or (its status is THINK_OK) there is no memory. Then no sequence has changed.
bool load(think_cache &cache, int32_t sequence, Reader &reader);

}  // namespace think::store
