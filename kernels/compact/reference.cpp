#include "../common/element.h"
#include "compact.h"

namespace think::compact::reference {

namespace {

// The address rule as include/think/segment.h words it, number by number and apart from kernels/common/segment.h.
struct Place {
  char *row;        // start of a row, or of one token's column in a tile
  int64_t distance; // numbers from channel to channel
};

Place place_of(const think_segment &s, bool keys, const Shape &shape, const Batch &batch, int64_t b, int64_t h, int64_t t) {
  const int64_t slot = s.slot ? s.slot[b] : batch.slot ? batch.slot[b] : b;
  const think_basis *basis = keys ? s.key_basis : s.value_basis;
  const int64_t size = dtype_bytes(keys ? s.key_dtype : s.value_dtype);
  const int64_t kept = basis ? basis->kept[slot * shape.kv_heads + h] : keys ? shape.key_channels : shape.value_channels;
  const int64_t *stride = keys ? s.key_stride : s.value_stride;
  const int64_t *head_offset = keys ? s.key_head_offset : s.value_head_offset;
  int64_t row = t + (s.first ? s.first[b * s.lengths_stride[0] + h * s.lengths_stride[1]] : 0), block = slot;
  if (s.pages) {
    block = s.pages[b * s.pages_stride + row / s.page_tokens];
    row = row % s.page_tokens;
  }
  char *base = static_cast<char *>(keys ? s.key : s.value) + block * stride[0] + (head_offset ? head_offset[slot * shape.kv_heads + h] : h * stride[1]);
  if ((keys ? s.key_layout : s.value_layout) == THINK_TILES) return {base + row / 32 * (kept * 32 * size) + row % 32 * size, 32};
  return {base + row * (stride[2] ? stride[2] : kept * size), 1};
}

void move_side(const Arguments &arguments, bool keys) {
  const auto &[shape, source, destination, batch] = arguments;
  if (!(keys ? destination.key : destination.value)) return;
  const think_dtype from_dtype = keys ? source.key_dtype : source.value_dtype, to_dtype = keys ? destination.key_dtype : destination.value_dtype;
  const think_basis *from_basis = keys ? source.key_basis : source.value_basis, *basis = keys ? destination.key_basis : destination.value_basis;
  const bool tiles = (keys ? destination.key_layout : destination.value_layout) == THINK_TILES;
  for (int64_t b = 0; b < batch.count; ++b) {
    const int64_t slot = destination.slot ? destination.slot[b] : batch.slot ? batch.slot[b] : b;
    for (int64_t h = 0; h < shape.kv_heads; ++h) {
      const int64_t length = destination.lengths[b * destination.lengths_stride[0] + h * destination.lengths_stride[1]];
      const int64_t head = slot * shape.kv_heads + h;
      const int64_t kept = basis ? basis->kept[head] : keys ? shape.key_channels : shape.value_channels;
      const int64_t end = tiles ? (length + 31) / 32 * 32 : length;
      for (int64_t t = 0; t < end; ++t) {
        const Place to = place_of(destination, keys, shape, batch, b, h, t);
        for (int64_t i = 0; i < kept; ++i) {
          float x = 0;
          if (t < length) {
            const Place from = place_of(source, keys, shape, batch, b, h, t);
            const int64_t position = basis && !from_basis ? basis->index[head * basis->channels + i] : i;
            x = load_element(from.row, from_dtype, position * from.distance);
          }
          store_element(to.row, to_dtype, i * to.distance, x);
        }
      }
    }
  }
}

}  // namespace

void compact(const Arguments &arguments) {
  move_side(arguments, true);
  move_side(arguments, false);
}

}  // namespace think::compact::reference
