#include "libthink/core/layout.h"

#include <algorithm>

#include "kernels/common/quantized.h"
#include "kernels/common/workspace.h"
#include "kernels/fit/fit.h"
#include "libthink/core/plan.h"

namespace think {

// The arrays with the widest elements come first, so that each is aligned for any number of slots and the whole stays proportional to it.
BasisLayout basis_layout(const Shape &shape, int32_t side, bool predicts) {
  const int64_t channels = channels_of(shape, side), heads = shape.kv_heads;
  BasisLayout layout{};
  layout.weight = predicts ? heads * fit::weight_head_bytes(static_cast<int32_t>(channels)) : 0;
  layout.weight_offset = heads * static_cast<int64_t>(sizeof(int64_t));
  layout.index = heads * channels * static_cast<int64_t>(sizeof(int32_t));
  layout.offset = predicts ? heads * channels * static_cast<int64_t>(sizeof(float)) : 0;
  layout.kept = heads * static_cast<int64_t>(sizeof(int32_t));
  const int64_t sum = layout.weight + layout.weight_offset + layout.index + layout.offset + layout.kept;
  layout.padding = (kWorkspaceAlignment - sum % kWorkspaceAlignment) % kWorkspaceAlignment;
  return layout;
}

int64_t basis_bytes(const Shape &shape, int32_t side, bool predicts) {
  const BasisLayout layout = basis_layout(shape, side, predicts);
  return layout.weight + layout.weight_offset + layout.index + layout.offset + layout.kept + layout.padding;
}

void bind_basis(const Shape &shape, int32_t side, int32_t slots, void *memory, think_basis &basis, bool predicts) {
  const BasisLayout layout = basis_layout(shape, side, predicts);
  char *at = static_cast<char *>(memory);
  const auto array = [&](int64_t bytes) {
    char *start = at;
    at += bytes * slots;
    return static_cast<void *>(start);
  };
  basis = THINK_BASIS_INIT;
  basis.channels = channels_of(shape, side);
  basis.slots = slots;
  basis.weight = predicts ? array(layout.weight) : nullptr;
  basis.weight_bytes = layout.weight * slots;
  basis.weight_offset = static_cast<int64_t *>(array(layout.weight_offset));
  basis.index = static_cast<int32_t *>(array(layout.index));
  basis.offset = predicts ? static_cast<float *>(array(layout.offset)) : nullptr;
  basis.kept = static_cast<int32_t *>(array(layout.kept));
}

think_basis basis_of_slot(const Shape &shape, const think_basis &basis, int32_t slot) {
  const int64_t heads = shape.kv_heads, head = slot * heads;
  const int64_t weight_bytes = heads * fit::weight_head_bytes(basis.channels);
  think_basis view = basis;
  view.slots = 1;
  view.kept += head;
  view.index += head * basis.channels;
  view.weight_offset += head;
  if (view.offset) view.offset += head * basis.channels;
  if (view.weight) view.weight = static_cast<char *>(view.weight) + slot * weight_bytes;
  view.weight_bytes = view.weight ? weight_bytes : 0;
  return view;
}

void restore_weight_offset(const Shape &shape, const think_basis &slot_view, const think_basis &basis) {
  const int64_t distance = static_cast<char *>(slot_view.weight) - static_cast<char *>(basis.weight);
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    if (slot_view.weight_offset[head] >= 0) slot_view.weight_offset[head] += distance;
  }
}

int64_t rows_bytes(const Shape &shape, int32_t side, int64_t rows, int64_t total, int32_t step, think_dtype dtype) {
  const int64_t heads = shape.kv_heads, bits = dtype_bits(dtype);
  if (!has_groups(dtype)) return rows * total * (bits / 8);
  if (total == heads * channels_of(shape, side)) return heads * head_bytes(rows, channels_of(shape, side), dtype, side == THINK_KEYS);
  const int64_t tiles = rows / kTileTokens, numbers = total * kTileTokens * bits / 8;
  if (side == THINK_KEYS) {
    // What a tile is padded with depends on its width modulo 4, and a width of 1 takes most (12 bytes; 20 of U2). The most is when all heads but one have
    // a 1 and that one what makes the total.
    const auto padding = [&](int32_t width) { return key_tile(width, dtype).bytes - width * (kTileTokens * bits / 8 + 4); };
    const int32_t other = static_cast<int32_t>(((total - heads) % 4 + 4) % 4) + 1;
    const int64_t most = step % 4 == 0 || total < heads ? 0 : (heads - 1) * padding(1) + padding(other);
    return tiles * (numbers + 4 * total + most);
  }
  // Every head has one group of 32 channels, a second one from 64 on, a third from 96 on: the most is when few heads have as many channels as there are.
  const int64_t most = channels_of(shape, side) / kBlockChannels * kBlockChannels, spare = std::max<int64_t>(0, total - 8 * heads);
  const auto more = [](int64_t channels) { return channels < 2 * kBlockChannels - 8 ? 0 : (channels - (kBlockChannels - 8)) / kBlockChannels; };
  const int64_t groups = heads + (most > kBlockChannels ? spare / (most - 8) * more(most - 8) + more(spare % (most - 8)) : 0);
  return tiles * (numbers + 4 * kTileTokens * groups);
}

}  // namespace think
