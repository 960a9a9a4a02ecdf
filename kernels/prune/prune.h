// What a prune decides about its sequences, where only the device knows how long they are. The CPU decides the same in libthink/core/prune.cpp.
#pragma once

#include "../common/segment.h"

namespace think::pruning {

// When a side is pruned: asked for, rows to move (whole tiles), and basis + compact tiles below `limit` times its dense tiles (a negative limit: in any case).
struct Rule {
  bool asked;
  int64_t basis_bytes, tile_bytes, dense_tile_bytes;  // of all heads together
  double limit;
};

static inline bool prunes(const Rule &rule, int64_t rows) {
  if (!rule.asked || rows == 0) return false;
  const int64_t tiles = rows / kTileTokens;
  return rule.limit < 0 || static_cast<double>(rule.basis_bytes + tiles * rule.tile_bytes) < rule.limit * static_cast<double>(tiles * rule.dense_tile_bytes);
}

struct Plan {
  think_segment source, destination;
  Batch batch;
  int32_t sinks, recent;
  Rule key, value;
  // One number per sequence out: what compact() needs, 1 where a side stays dense, and the slots, those of `batch` in the score state.
  int32_t *source_first, *destination_first, *rows, *key_dense, *value_dense;
  int32_t *state_slot, *source_slot, *destination_slot;
};

}  // namespace think::pruning
