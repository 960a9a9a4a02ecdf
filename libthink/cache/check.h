// What the calls on a cache have in common: is there such a sequence and layer, and is now the time?
#pragma once

#include "libthink/cache/cache.h"
#include "libthink/core/error.h"

namespace think::cache {

think_status out_of_memory(think_error *error, const think_cache &cache);
think_status check_sequence(const Argument &argument, const char *field, const think_cache &cache, int32_t sequence);
think_status check_layer(const Argument &argument, const think_cache &cache, int32_t layer);
think_status check_no_step(think_error *error, const think_cache &cache, const char *function);

}  // namespace think::cache
