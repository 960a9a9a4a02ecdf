// Options that think_prune(), its stages and think_evict() have in common: one check, one default. In all of them 0 is the default and -1 means none.
#pragma once

#include "libthink/core/error.h"

namespace think {

inline constexpr int32_t kDefaultSinks = 4, kDefaultRecent = 32;

// A number of rows.
think_status read_count(const Argument &argument, const char *field, int32_t value, int32_t otherwise, int32_t &count);
think_status read_attention_share(const Argument &argument, float value, float &share);
think_status read_ridge(const Argument &argument, float value, float &ridge);

}  // namespace think
