// A stack: the ways of shrinking a cache that are put on top of each other. Which rows stay, which channels stay and what stands for the others, how many
// bits the rest has, and what becomes of the rows that come later.
//
// As text: PART+PART+..., every part at most once,
//   keys:METHOD:KEPT[:FORMAT]    values:METHOD:KEPT[:FORMAT]    evict:METHOD:BUDGET    fold:block    layers:N
// METHOD of channels: think (the paper: zeros, no sinks), regressed (uniform widths), adaptive (regressed, adaptive widths). KEPT of the head's channels.
// FORMAT: f16, f32, int8, int4, int2, fp8; the cache's where none is given. METHOD of rows: snapkv, h2o, window, tova, recent. BUDGET: rows of each head, or
// a share of the prompt as 50%. N: so many first and so many last layers keep the format of the cache.
#pragma once

#include "cache.h"

#include <optional>
#include <string>

namespace generate {

struct Eviction {
  int32_t method = THINK_EVICT_SNAPKV;
  int64_t rows = 0; // of each KV head; 0 = a share
  double share = 0; // of the prompt
  int32_t pooling = THINK_POOL_MAX;
};

struct Stack {
  std::string name;
  CacheSettings cache;
  std::optional<Eviction> eviction;

  // Rows of a prompt go first, if any; then Cache::prune().
  void evict(Cache &prompt) const;
};

Eviction parse_eviction(const std::string &text); // METHOD:BUDGET
think_dtype parse_format(const std::string &text); // FORMAT

// Settings that follow from others: layouts of the formats, and whether there is anything to prune. Throws where parts do not go together.
void complete(Stack &stack);

Stack parse_stack(const std::string &text, int64_t channels);

} // namespace generate
