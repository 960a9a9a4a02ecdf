// Rows of a sequence at full width. Plain loops: nothing waits for them.
#include <algorithm>

#include "kernels/common/segment.h"
#include "libthink/cache/cache.h"

namespace think::cache {
namespace {

struct Head {
  SideView view;
  const think_basis *basis;  // NULL = every channel is stored
  int64_t row;               // of the basis
  bool keys;
};

Head head_of(const think_segment &segment, int32_t side, const Shape &shape, int32_t head) {
  const bool keys = side == THINK_KEYS;
  const SideView view = side_view(segment, keys ? Side::keys : Side::values, shape, kOneSequence, 0, head);
  return {view, keys ? segment.key_basis : segment.value_basis, int64_t{view.slot} * shape.kv_heads + head, keys};
}

float stored_number(const Head &head, int64_t row, int32_t position) {
  const SideView &view = head.view;
  const char *address = row_address(view, row);
  const int32_t token = static_cast<int32_t>(row % kTileTokens);
  if (!is_quantized(view.dtype)) return load_element(address, view.dtype, view.layout == THINK_TILES ? int64_t{position} * kTileTokens + token : position);
  const TileLayout tile = head.keys ? key_tile(view.channels, view.dtype) : value_tile(view.channels, view.dtype);
  const CodePlace place = head.keys ? key_code(view.dtype, position, token) : value_code(view.dtype, view.channels, position, token);
  if (!has_groups(view.dtype)) return view.scale * f8_to_f32(load_code(address, view.dtype, place));
  const int64_t group = head.keys ? position : int64_t{value_group(view.channels, position)} * kTileTokens + token;
  const float scale = load_element(address + tile.scale, THINK_F16, group), zero = load_element(address + tile.zero, THINK_F16, group);
  return zero + scale * static_cast<float>(load_code(address, view.dtype, place));
}

void rebuild(const Head &head, int64_t row, int32_t channels, float *numbers) {
  float kept[kMaxChannels];
  const int32_t width = head.view.channels;
  for (int32_t position = 0; position < width; ++position) kept[position] = stored_number(head, row, position);
  if (!head.basis) {
    std::copy_n(kept, channels, numbers);
    return;
  }
  const think_basis &basis = *head.basis;
  const int32_t *index = basis.index + head.row * channels;
  const int64_t block = basis.weight_offset[head.row];
  for (int32_t position = 0; position < width; ++position) numbers[index[position]] = kept[position];
  for (int32_t position = width; position < channels; ++position) {
    float sum = 0;
    if (block >= 0) {
      const int64_t padded = (width + 7) / 8 * 8;
      const char *weight = static_cast<const char *>(basis.weight) + block + (position - width) * padded * 2;
      for (int32_t i = 0; i < width; ++i) sum += load_element(weight, THINK_F16, i) * kept[i];
      sum += basis.offset[head.row * channels + position];
    }
    numbers[index[position]] = sum;
  }
}

}  // namespace

void export_rows(const think_cache &cache, int32_t number, int32_t layer, int64_t first, int64_t count, int32_t side, const think_tensor &tensor) {
  const Sequence &sequence = cache.sequences[number];
  const Shape &shape = cache.plan->shape;
  const int32_t channels = channels_of(shape, side);
  // Rows [begin, begin + rows) of the sequence are rows from `place` on of the segment.
  const auto part = [&](const think_segment &segment, int64_t begin, int64_t rows, int64_t place) {
    for (int32_t h = 0; h < shape.kv_heads; ++h) {
      const Head head = head_of(segment, side, shape, h);
      for (int64_t row = std::max(first, begin); row < std::min(first + count, begin + rows); ++row) {
        float numbers[kMaxChannels];
        rebuild(head, place + row - begin, channels, numbers);
        char *target = static_cast<char *>(tensor.data) + (h * tensor.stride[1] + (row - first) * tensor.stride[2]) * dtype_bytes(tensor.dtype);
        for (int32_t channel = 0; channel < channels; ++channel) store_element(target, tensor.dtype, channel, numbers[channel]);
      }
    }
  };
  const think_segment dense = dense_segment(cache, layer, sequence);
  const int64_t sinks = sequence.run_count > 0 ? cache.prune.sinks : sequence.dense_rows;
  part(dense, 0, sinks, 0);
  int64_t begin = sinks;
  for (int32_t index = 0; index < sequence.run_count; ++index) {
    const Run &run = sequence.runs[index];
    part(compact_segment(cache, layer, run), begin, run.rows, 0);
    begin += run.rows;
  }
  part(dense, begin, sequence.dense_rows - sinks, sinks);
}

}  // namespace think::cache
