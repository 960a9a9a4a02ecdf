// Plain loops: nothing waits for them, and they are what the kernels are compared with.
#include <algorithm>

#include "rebuild.h"

namespace think::rebuild {
namespace {

struct Head {
  SideView view;
  const think_basis *basis;  // NULL = every channel is stored
  int64_t row;               // of the basis
  bool keys;
};

Head head_of(const Arguments &arguments, int32_t head) {
  const think_segment &segment = arguments.segment;
  const bool keys = arguments.side == THINK_KEYS;
  const SideView view = side_view(segment, keys ? Side::keys : Side::values, arguments.shape, arguments.batch, 0, head);
  return {view, keys ? segment.key_basis : segment.value_basis, int64_t{view.slot} * arguments.shape.kv_heads + head, keys};
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

void rebuild_row(const Head &head, int64_t row, int32_t channels, float *numbers) {
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

void rebuild(const Arguments &arguments) {
  const Shape &shape = arguments.shape;
  const think_tensor &tensor = arguments.tensor;
  const int32_t channels = arguments.side == THINK_KEYS ? shape.key_channels : shape.value_channels;
  for (int32_t h = 0; h < shape.kv_heads; ++h) {
    const Head head = head_of(arguments, h);
    for (int64_t row = 0; row < arguments.count; ++row) {
      float numbers[kMaxChannels];
      rebuild_row(head, arguments.first + row, channels, numbers);
      char *target = const_cast<char *>(element(tensor, 0, h, row));
      for (int32_t channel = 0; channel < channels; ++channel) store_element(target, tensor.dtype, channel, numbers[channel]);
    }
  }
}

}  // namespace think::rebuild
