// Where the rows of a segment lie: the address rule of include/think/segment.h, once.
#pragma once

#include "quantized.h"
#include "shape.h"

namespace think {

enum class Side : int32_t { keys = THINK_KEYS, values = THINK_VALUES };

// One side of a segment for one sequence and KV head, resolved as far as the page.
struct SideView {
  char *base;               // key or value pointer plus head offset, without the block
  int64_t block_stride;     // bytes from page to page, or slot to slot
  int64_t row_stride;       // bytes; THINK_ROWS
  int64_t tile_bytes;       // bytes of a whole tile; THINK_TILES
  const int32_t *pages;     // this sequence's row of the page table, NULL = contiguous
  int32_t page_tokens;
  int32_t slot;
  int32_t layout;
  int32_t channels;         // stored per row
  think_dtype dtype;
  float scale;              // of F8
};

static inline int32_t kept_of(const think_basis *basis, int32_t channels, int32_t kv_heads, int32_t slot, int32_t head) {
  return basis ? basis->kept[static_cast<int64_t>(slot) * kv_heads + head] : channels;
}

// The scales of an F8 side; NULL: it is not F8, or all scales are 1.
static inline float *f8_scales(const think_segment &segment, bool keys) {
  if ((keys ? segment.key_dtype : segment.value_dtype) != THINK_F8_E4M3) return nullptr;
  return keys ? segment.key_scale : segment.value_scale;
}

static inline SideView side_view(const think_segment &segment, Side side, const Shape &shape, const Batch &batch, int32_t sequence, int32_t head) {
  const bool keys = side == Side::keys;
  const int32_t slot = slot_of(segment, batch, sequence);
  const int64_t *stride = keys ? segment.key_stride : segment.value_stride;
  const int64_t *head_offset = keys ? segment.key_head_offset : segment.value_head_offset;
  SideView view;
  view.dtype = keys ? segment.key_dtype : segment.value_dtype;
  view.layout = keys ? segment.key_layout : segment.value_layout;
  view.channels = kept_of(keys ? segment.key_basis : segment.value_basis, keys ? shape.key_channels : shape.value_channels, shape.kv_heads, slot, head);
  const int64_t offset = head_offset ? head_offset[static_cast<int64_t>(slot) * shape.kv_heads + head] : head * stride[1];
  view.base = static_cast<char *>(keys ? segment.key : segment.value) + offset;
  view.block_stride = stride[0];
  view.row_stride = stride[2] ? stride[2] : static_cast<int64_t>(view.channels) * dtype_bytes(view.dtype);
  view.tile_bytes = (keys ? key_tile(view.channels, view.dtype) : value_tile(view.channels, view.dtype)).bytes;
  view.pages = segment.pages ? segment.pages + sequence * segment.pages_stride : nullptr;
  view.page_tokens = segment.page_tokens;
  view.slot = slot;
  const float *scale = f8_scales(segment, keys);
  view.scale = scale ? scale[static_cast<int64_t>(slot) * shape.kv_heads + head] : 1.0f;
  return view;
}

// Address of a row (THINK_ROWS), or of the tile that holds it (THINK_TILES). `row` counts from the start of the pages or slot.
static inline char *row_address(const SideView &view, int64_t row) {
  int64_t block = view.slot;
  if (view.pages) {
    block = view.pages[row / view.page_tokens];
    row %= view.page_tokens;
  }
  char *start = view.base + block * view.block_stride;
  return view.layout == THINK_TILES ? start + row / kTileTokens * view.tile_bytes : start + row * view.row_stride;
}

// Rows from `row` on that lie at a regular distance: to the end of the page, or without end.
static inline int64_t rows_in_block(const SideView &view, int64_t row) {
  return view.pages ? view.page_tokens - row % view.page_tokens : INT64_MAX;
}

static inline int64_t run_first(const think_segment &segment, int32_t sequence, int32_t head) {
  return segment.first ? segment.first[sequence * segment.lengths_stride[0] + head * segment.lengths_stride[1]] : 0;
}

static inline int64_t run_length(const think_segment &segment, int32_t sequence, int32_t head) {
  return segment.lengths[sequence * segment.lengths_stride[0] + head * segment.lengths_stride[1]];
}

}  // namespace think
