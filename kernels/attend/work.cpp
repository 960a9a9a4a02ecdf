#include "work.h"

#include <algorithm>

namespace think::attend {

int64_t blocks_of(const Shape &shape, int64_t queries) {
  const int64_t width = block_columns(shape);
  return (queries * shape.group + width - 1) / width;
}

void make_group(const Arguments &a, int32_t sequence, int32_t head, int64_t block, Group &group) {
  const Shape &shape = a.shape;
  const int32_t width = block_columns(shape);
  group.sequence = sequence;
  group.head = head;
  group.queries = rows_of(a.query, a.batch, sequence).count;
  group.blocks = blocks_of(shape, group.queries);
  group.first_column = block * width;
  group.columns = static_cast<int32_t>(std::min<int64_t>(width, group.queries * shape.group - group.first_column));

  const int64_t last_query = (group.first_column + group.columns - 1) / shape.group;
  int64_t tokens = 0;
  for (int32_t s = 0; s < a.segment_count; ++s) {
    const think_segment &segment = a.segments[s];
    int64_t length = run_length(segment, sequence, head);
    if (segment.flags & THINK_SEGMENT_CAUSAL) length = std::max<int64_t>(0, length - group.queries + last_query + 1);
    group.run[s] = {run_first(segment, sequence, head), length};
    tokens += length;
    const int32_t slot = slot_of(segment, a.batch, sequence);
    const int64_t bytes = (key_tile(kept_of(segment.key_basis, shape.key_channels, shape.kv_heads, slot, head), segment.key_dtype).bytes +
                           value_tile(kept_of(segment.value_basis, shape.value_channels, shape.kv_heads, slot, head), segment.value_dtype).bytes) /
                          kTileTokens;
    // Memory decides for few columns, arithmetic for many.
    group.token_weight[s] = bytes * (8 + group.columns) / 8;
  }

  // Balanced between blocks: a sequence and head has at most kMaxItems items, and one more per segment and block for the remainders.
  const int64_t share = (tokens * group.blocks + kMaxItems - 1) / kMaxItems;
  group.item_tokens = std::max<int64_t>(kItemTokens, (share + kTileTokens - 1) / kTileTokens * kTileTokens);
  group.whole = group.blocks >= kWholeBlocks || tokens <= kItemTokens;
  group.items = 0;
  group.weight = 0;
  for (int32_t s = 0; s < a.segment_count; ++s) {
    group.items += static_cast<int32_t>(run_items(group, s));
    group.weight += group.run[s].length * group.token_weight[s];
  }
  if (group.whole || group.items <= 1) {
    group.whole = true;
    group.items = 1;
  }
  group.weight += group.items * kItemWeight;
}

int64_t counter_bytes(const Shape &shape) {
  const int64_t blocks = std::min<int64_t>(blocks_of(shape, shape.max_queries), kWholeBlocks);
  Carver carver{nullptr, 0};
  take<int32_t>(carver, shape.max_batch * static_cast<int64_t>(shape.kv_heads) * blocks);
  return carver.offset;
}

int64_t workspace(const Shape &shape, const Extent &extent) {
  // More queries mean longer items, so the largest call is not the one with most queries: take the largest of all.
  const int32_t most = static_cast<int32_t>(std::min<int64_t>(blocks_of(shape, extent.queries), kWholeBlocks - 1)), width = block_columns(shape);
  int64_t floats = 0;
  for (int32_t blocks = 1; blocks <= most; ++blocks) {
    const int32_t columns = static_cast<int32_t>(blocks == 1 ? std::min<int64_t>(width, static_cast<int64_t>(extent.queries) * shape.group) : width);
    const int64_t items = std::min<int64_t>((extent.tokens + kItemTokens - 1) / kItemTokens, kMaxItems / blocks) + extent.segments;
    floats = std::max(floats, blocks * items * partial_floats(shape, columns));
  }
  Carver carver{nullptr, counter_bytes(shape)};
  take<float>(carver, extent.batch * static_cast<int64_t>(shape.kv_heads) * floats);
  return carver.offset;
}

}  // namespace think::attend
