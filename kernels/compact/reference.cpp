#include "../common/element.h"
#include "../common/quantized.h"
#include "compact.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace think::compact::reference {

namespace {

// The address rule as include/think/segment.h words it, number by number and apart from kernels/common/segment.h.
struct Place {
  char *row;        // start of a row, or of one token's column in a tile; of a quantized tile its start
  int64_t distance; // numbers from channel to channel
  int32_t token;    // in a tile
  int32_t kept;
  float scale;      // of F8
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
  const think_dtype dtype = keys ? s.key_dtype : s.value_dtype;
  const float *scales = keys ? s.key_scale : s.value_scale, scale = scales ? scales[slot * shape.kv_heads + h] : 1.0f;
  const int32_t token = static_cast<int32_t>(row % 32), width = static_cast<int32_t>(kept);
  char *base = static_cast<char *>(keys ? s.key : s.value) + block * stride[0] + (head_offset ? head_offset[slot * shape.kv_heads + h] : h * stride[1]);
  if (is_quantized(dtype)) return {base + row / 32 * (keys ? key_tile(width, dtype) : value_tile(width, dtype)).bytes, 0, token, width, scale};
  if ((keys ? s.key_layout : s.value_layout) == THINK_TILES) return {base + row / 32 * (kept * 32 * size) + row % 32 * size, 32, token, width, scale};
  return {base + row * (stride[2] ? stride[2] : kept * size), 1, token, width, scale};
}

uint16_t half_at(const char *array, int64_t i) { return reinterpret_cast<const uint16_t *>(array)[i]; }

// zero + scale * code, which f32 holds; of F8 code * scale, rounded.
float decode_element(const Place &from, bool keys, think_dtype dtype, int32_t channel) {
  if (!has_groups(dtype)) {
    const CodePlace place = keys ? key_code(dtype, channel, from.token) : value_code(dtype, from.kept, channel, from.token);
    return static_cast<float>(static_cast<double>(f8_to_f32(load_code(from.row, dtype, place))) * from.scale);
  }
  const TileLayout layout = keys ? key_tile(from.kept, dtype) : value_tile(from.kept, dtype);
  const int64_t group = keys ? channel : value_group(from.kept, channel) * kTileTokens + from.token;
  const uint32_t code = load_code(from.row, dtype, keys ? key_code(dtype, channel, from.token) : value_code(dtype, from.kept, channel, from.token));
  const double scale = f16_to_f32(half_at(from.row + layout.scale, group)), zero = f16_to_f32(half_at(from.row + layout.zero, group));
  return static_cast<float>(zero + scale * code);
}

// A tile of codes from numbers [channel][32 tokens], of which `count` tokens are real.
void encode_tile(const Place &to, bool keys, think_dtype dtype, int64_t count, const std::vector<float> &numbers) {
  char *tile = to.row;
  const int32_t kept = to.kept;
  const TileLayout layout = keys ? key_tile(kept, dtype) : value_tile(kept, dtype);
  std::memset(tile, 0, static_cast<size_t>(layout.bytes));
  for (int32_t c = 0; c < kept && !has_groups(dtype); ++c) {
    for (int32_t t = 0; t < count; ++t) {
      store_code(tile, keys ? key_code(dtype, c, t) : value_code(dtype, kept, c, t), f8_code_of(numbers[c * kTileTokens + t], 1.0f / to.scale));
    }
  }
  if (!has_groups(dtype)) return;
  const int32_t groups = keys ? kept : layout.groups * kTileTokens;
  for (int32_t group = 0; group < groups; ++group) {
    const auto is_member = [&](int32_t channel, int64_t token) {
      return token < count && (keys ? channel == group : value_group(kept, channel) * kTileTokens + token == group);
    };
    float least = INFINITY, most = -INFINITY;
    bool finite = true, any = false;
    for (int32_t c = 0; c < kept; ++c) {
      for (int32_t t = 0; t < kTileTokens; ++t) {
        if (!is_member(c, t)) continue;
        const float x = numbers[c * kTileTokens + t];
        any = true;
        finite = finite && std::isfinite(x);
        least = std::min(least, x);
        most = std::max(most, x);
      }
    }
    if (!any) continue;  // a token of values behind the end
    const CodeRange range = code_range(least, most, finite, dtype);
    reinterpret_cast<uint16_t *>(tile + layout.scale)[group] = range.scale;
    reinterpret_cast<uint16_t *>(tile + layout.zero)[group] = range.zero;
    const float zero = f16_to_f32(range.zero), inverse = inverse_of(f16_to_f32(range.scale));
    for (int32_t c = 0; c < kept; ++c) {
      for (int32_t t = 0; t < kTileTokens; ++t) {
        if (is_member(c, t)) store_code(tile, keys ? key_code(dtype, c, t) : value_code(dtype, kept, c, t), code_of(numbers[c * kTileTokens + t], zero, inverse, dtype));
      }
    }
  }
}

// What the destination stores of a number of the source.
float moved_number(const Arguments &arguments, bool keys, int64_t b, int64_t h, int64_t t, int64_t i) {
  const auto &[shape, source, destination, batch] = arguments;
  const think_basis *from_basis = keys ? source.key_basis : source.value_basis, *basis = keys ? destination.key_basis : destination.value_basis;
  const think_dtype dtype = keys ? source.key_dtype : source.value_dtype;
  const int64_t slot = destination.slot ? destination.slot[b] : batch.slot ? batch.slot[b] : b;
  const Place from = place_of(source, keys, shape, batch, b, h, t);
  const int64_t position = basis && !from_basis ? basis->index[(slot * shape.kv_heads + h) * basis->channels + i] : i;
  return is_quantized(dtype) ? decode_element(from, keys, dtype, static_cast<int32_t>(position)) : load_element(from.row, dtype, position * from.distance);
}

void measure_head(const Arguments &arguments, bool keys, int64_t b, int64_t h, int64_t length, int64_t kept, float &scale) {
  double most = 0;
  for (int64_t t = 0; t < length; ++t) {
    for (int64_t i = 0; i < kept; ++i) {
      const double x = moved_number(arguments, keys, b, h, t, i);
      if (std::isfinite(x)) most = std::max(most, std::abs(x));
    }
  }
  scale = most > 0 ? static_cast<float>(std::exp2(std::clamp(std::ceil(std::log2(most / 224)), -100.0, 100.0))) : 1.0f;
}

void move_side(const Arguments &arguments, bool keys) {
  const auto &[shape, source, destination, batch] = arguments;
  if (!(keys ? destination.key : destination.value)) return;
  const think_dtype from_dtype = keys ? source.key_dtype : source.value_dtype, to_dtype = keys ? destination.key_dtype : destination.value_dtype;
  const think_basis *basis = keys ? destination.key_basis : destination.value_basis;
  const bool tiles = (keys ? destination.key_layout : destination.value_layout) == THINK_TILES;
  for (int64_t b = 0; b < batch.count; ++b) {
    const int64_t slot = destination.slot ? destination.slot[b] : batch.slot ? batch.slot[b] : b;
    for (int64_t h = 0; h < shape.kv_heads; ++h) {
      const int64_t length = destination.lengths[b * destination.lengths_stride[0] + h * destination.lengths_stride[1]];
      const int64_t head = slot * shape.kv_heads + h;
      const int64_t kept = basis ? basis->kept[head] : keys ? shape.key_channels : shape.value_channels;
      const int64_t end = tiles ? (length + 31) / 32 * 32 : length;
      float *scales = keys ? destination.key_scale : destination.value_scale;
      if ((destination.flags & THINK_SEGMENT_MEASURE) && scales && to_dtype == THINK_F8_E4M3) measure_head(arguments, keys, b, h, length, kept, scales[head]);
      std::vector<float> numbers(static_cast<size_t>(kept * kTileTokens));
      for (int64_t t = 0; t < end; ++t) {
        const Place to = place_of(destination, keys, shape, batch, b, h, t);
        for (int64_t i = 0; i < kept; ++i) {
          const float x = t < length ? moved_number(arguments, keys, b, h, t, i) : 0;
          if (is_quantized(to_dtype)) {
            numbers[i * kTileTokens + t % kTileTokens] = x;
          } else {
            store_element(to.row, to_dtype, i * to.distance, x);
          }
        }
        if (!is_quantized(to_dtype) || t % kTileTokens != kTileTokens - 1) continue;
        const int64_t count = std::min<int64_t>(kTileTokens, length - (t - t % kTileTokens));
        if (from_dtype == to_dtype && count == kTileTokens) {  // of fewer, token t of the source may have no page
          const Place from = place_of(source, keys, shape, batch, b, h, t);
          if (from.kept == kept && (has_groups(to_dtype) || from.scale == to.scale)) {
            std::memcpy(to.row, from.row, static_cast<size_t>((keys ? key_tile(to.kept, to_dtype) : value_tile(to.kept, to_dtype)).bytes));
            continue;
          }
        }
        encode_tile(to, keys, to_dtype, count, numbers);
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
