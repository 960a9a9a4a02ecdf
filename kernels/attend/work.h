// How a call of attend is cut into items. Everything here follows from the call alone (shape, lengths, widths), never from threads or slices, so that
// sums have one order whoever computes them.
#pragma once

#include "attend.h"
#include "think/attend.h"

namespace think::attend {

// A block of columns is what one pass over the keys and values serves. Queries, output sums and running outputs of a block live on the stack, 16 KiB each.
constexpr int32_t kBlockFloats = 4096;
constexpr int32_t kBlockColumns = 32;
// Tokens of an item at least: an item also pays for a partial result (written, read, rescaled) and a share of the fold of its queries.
constexpr int32_t kItemTokens = 256;
// Items per sequence and KV head at most, all column blocks together: longer sequences get longer items, not more of them.
constexpr int32_t kMaxItems = 64;
// From this many blocks of one sequence and KV head on there are enough items without cutting the tokens.
constexpr int32_t kWholeBlocks = 32;

static inline int32_t block_columns(const Shape &shape) {
  const int32_t widest = shape.key_channels > shape.value_channels ? shape.key_channels : shape.value_channels;
  const int32_t fitting = kBlockFloats / ((widest + 31) / 32 * 32);
  return fitting < kBlockColumns ? fitting : kBlockColumns;
}

// The rows of one segment that a group attends to.
struct Run {
  int64_t first, length;
};

// A block of columns of one sequence and KV head. Column c is query c / group of query head c % group.
struct Group {
  int32_t sequence, head;
  int32_t columns;
  int64_t first_column;
  int64_t blocks;         // of this sequence and head
  int64_t queries;        // of the sequence
  bool whole;             // one item does everything; otherwise an item is one run of at most item_tokens tokens of one segment
  int64_t item_tokens;
  int32_t items;
  int64_t weight;         // estimated work
  Run run[THINK_MAX_SEGMENTS];
  int64_t token_weight[THINK_MAX_SEGMENTS];
};

// Work that an item costs besides its bytes.
constexpr int64_t kItemWeight = 8192;

// Number of column blocks of a sequence and KV head.
int64_t blocks_of(const Shape &shape, int64_t queries);
void make_group(const Arguments &arguments, int32_t sequence, int32_t head, int64_t block, Group &group);
static inline int64_t run_items(const Group &group, int32_t segment) { return (group.run[segment].length + group.item_tokens - 1) / group.item_tokens; }

// A partial result: maximum and mass of each column, then the sums of the value channels of each column.
static inline int32_t round_up(int32_t n, int32_t step) { return (n + step - 1) / step * step; }
static inline int64_t sum_stride(const Shape &shape) { return round_up(shape.value_channels, 32); }
static inline int64_t partial_floats(const Shape &shape, int32_t columns) { return 2 * round_up(columns, 16) + columns * sum_stride(shape); }

// Bytes at the start of the workspace for the counters, the same for every call of a plan, so that a counter is never where another call had data.
int64_t counter_bytes(const Shape &shape);

}  // namespace think::attend
