// The size of each public struct in the release that first had it: what the library must accept for ever. Entries are added, never changed.
#pragma once

#include <cstdint>
#include <cstring>

namespace think_test {

#define THINK_FIRST_SIZES(X) \
  X(think_error, 280) \
  X(think_tensor, 88) \
  X(think_batch, 40) \
  X(think_context_options, 64) \
  X(think_problem, 64) \
  X(think_launch, 40) \
  X(think_extent, 32) \
  X(think_basis, 64) \
  X(think_segment, 184) \
  X(think_format, 24) \
  X(think_layout_info, 48) \
  X(think_score_options, 8) \
  X(think_moments_options, 24) \
  X(think_budget_options, 32) \
  X(think_select_options, 24) \
  X(think_fit_options, 24) \
  X(think_evict_options, 48) \
  X(think_prune_options, 48) \
  X(think_prune_result, 80) \
  X(think_cache_options, 64) \
  X(think_cache_info, 96)

// 0 = it is missing above.
inline uint32_t first_size(const char *name) {
#define THINK_FIRST_SIZE(type, bytes) \
  if (std::strcmp(name, #type) == 0) return bytes;
  THINK_FIRST_SIZES(THINK_FIRST_SIZE)
#undef THINK_FIRST_SIZE
  return 0;
}

}  // namespace think_test
