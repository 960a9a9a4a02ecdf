// What every stage is handed: the plan's shape with all defaults filled in, and the checked batch. Plain data, so that a device kernel can take it
// by value. Functions in kernels/common are `static inline`: a unit built for a newer instruction set must never lend its code to another unit.
#pragma once

#include <cstdint>

#include "think/segment.h"

namespace think {

constexpr int32_t kTileTokens = 32;
constexpr int32_t kMaxChannels = 256;

struct Shape {
  int32_t query_heads, kv_heads, group;
  int32_t key_channels, value_channels;
  int32_t window;
  int32_t max_batch, max_queries;
  int64_t max_tokens;
  think_dtype query_dtype, cache_dtype, output_dtype;
  float scale;
  float softcap;  // 0 = none
  int32_t attend_blocks;  // on a device: blocks of the attend kernel that it holds at a time,
  int32_t attend_each;    // and one of its multiprocessors, which
  int32_t attend_shared;  // has so many bytes of shared memory for all of them
  bool batch_invariant;   // THINK_PROBLEM_BATCH_INVARIANT
  bool on_device; // lengths, slots, widths and all other arrays are memory that the host cannot read
};

// Pointers may be NULL as in think_batch; count is always set.
struct Batch {
  int32_t count;
  const int32_t *lengths, *row_start, *slot;
};

constexpr Batch kOneSequence{1, nullptr, nullptr, nullptr};

static inline int32_t slot_of(const Batch &batch, int32_t sequence) { return batch.slot ? batch.slot[sequence] : sequence; }

// The slot of a sequence in a segment: the segment's own table wins over the batch's.
static inline int32_t slot_of(const think_segment &segment, const Batch &batch, int32_t sequence) {
  return segment.slot ? segment.slot[sequence] : slot_of(batch, sequence);
}

// The rows of one sequence inside a tensor: batch row, first token and number of tokens.
struct RowRange {
  int64_t row, first, count;
};

static inline RowRange rows_of(const think_tensor &tensor, const Batch &batch, int32_t sequence) {
  if (batch.row_start) {
    return {0, batch.row_start[sequence], static_cast<int64_t>(batch.row_start[sequence + 1]) - batch.row_start[sequence]};
  }
  return {sequence, 0, batch.lengths ? batch.lengths[sequence] : tensor.extent[2]};
}

// On a device, sequences that are worked on together where each needs large scratch: 64 heads keep it busy, and the workspace stops growing there.
static inline int32_t device_wave(const Shape &shape, int32_t batch) {
  constexpr int32_t kHeads = 64;
  const int32_t sequences = kHeads / shape.kv_heads;
  return sequences < 1 ? 1 : sequences < batch ? sequences : batch;
}

static inline int32_t dtype_bytes(think_dtype dtype) { return (dtype >> 8 & 0xff) / 8; }

static inline const char *element(const think_tensor &tensor, int64_t batch, int64_t head, int64_t token) {
  return static_cast<const char *>(tensor.data) +
         (batch * tensor.stride[0] + head * tensor.stride[1] + token * tensor.stride[2]) * dtype_bytes(tensor.dtype);
}

// Rows that a prune moves of a sequence of `tokens`: [first, first + count), whole tiles.
struct PruneRange {
  int64_t first, count;
};

static inline PruneRange prune_range(int64_t tokens, int64_t sinks, int64_t recent) {
  const int64_t free_rows = tokens - sinks - recent;
  return {sinks, free_rows > 0 ? free_rows / kTileTokens * kTileTokens : 0};
}

}  // namespace think
