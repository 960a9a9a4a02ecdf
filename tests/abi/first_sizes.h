// The size of each public struct in the release that first had it: what the library must accept for ever. Entries are added, never changed.
#pragma once

#include <cstdint>
#include <cstring>

namespace think_test {

struct FirstSize {
  const char *name;
  uint32_t bytes;
};

inline constexpr FirstSize kFirstSizes[] = {
    {"think_error", 280},
    {"think_tensor", 88},
    {"think_batch", 40},
    {"think_context_options", 64},
    {"think_problem", 64},
    {"think_launch", 40},
    {"think_extent", 32},
    {"think_basis", 64},
    {"think_segment", 184},
    {"think_format", 24},
    {"think_layout_info", 48},
    {"think_score_options", 8},
    {"think_moments_options", 24},
    {"think_budget_options", 32},
    {"think_select_options", 24},
    {"think_fit_options", 24},
    {"think_evict_options", 48},
    {"think_prune_options", 48},
    {"think_prune_result", 80},
};

// 0 = it is missing above.
inline uint32_t first_size(const char *name) {
  for (const FirstSize &entry : kFirstSizes) {
    if (std::strcmp(entry.name, name) == 0) return entry.bytes;
  }
  return 0;
}

}  // namespace think_test
