// Tiles of quantized numbers: their bytes, the order of the numbers in them and what a code means. They are part of the ABI and of files on disk
// (include/think/segment.h words them for users); tests/vectors/quantized.txt holds small tiles byte by byte.
//
//   keys    rows [channel][32 tokens], padded to 16 bytes; f16 scale[channel]; f16 zero[channel]; padded to 16 bytes. Group: the 32 tokens of a channel.
//           U8: byte t = token t.  U4: byte b = token b (low), b + 16 (high).  U2: two channels share 16 bytes, byte 2 b (+ 1 for the odd channel) =
//           tokens b, b + 8, b + 16, b + 24 from the low bits up; an odd number of channels is followed by one of zero codes
//   values  [block of 32 channels][32 tokens][channels of the block]; f16 scale[group][token]; f16 zero[group][token]. Group: 32 channels of a token, the
//           remainder joins the last one. The last block may be narrower, w = 8, 16, 24.
//           U8: byte c = channel c.  U4: byte b = channels b (low), b + w / 2 (high).  U2: byte b = channels b, b + w / 4, b + w / 2, b + 3 w / 4
//
// A code stands for zero + scale * code. F8 has the rows of U8 and no groups: a code is a number of one sign, 4 bits of exponent and 3 of fraction, times a
// scale that the segment holds.
#pragma once

#include "element.h"
#include "shape.h"

namespace think {

constexpr int32_t kBlockChannels = 32;
constexpr int32_t kTileAlignment = 16;
constexpr float kMostF16 = 65504.0f;
constexpr uint16_t kNanF16 = 0x7e00;

static constexpr int32_t dtype_bits(think_dtype dtype) { return dtype >> 8 & 0xff; }
static constexpr bool has_groups(think_dtype dtype) { return dtype == THINK_U8 || dtype == THINK_U4 || dtype == THINK_U2; }
static constexpr bool is_quantized(think_dtype dtype) { return has_groups(dtype) || dtype == THINK_F8_E4M3; }
static constexpr int32_t most_code(think_dtype dtype) { return (1 << dtype_bits(dtype)) - 1; }

// Where the parts of a tile begin; all tiles, quantized or not.
struct TileLayout {
  int64_t scale, zero, bytes;
  int32_t groups;
};

static inline int64_t round_to_tile_alignment(int64_t bytes) { return (bytes + kTileAlignment - 1) / kTileAlignment * kTileAlignment; }

// Where the codes of a channel of keys begin: those of two channels of U2 take turns, byte by byte.
static inline int64_t key_row(int32_t channel, think_dtype dtype) {
  if (dtype == THINK_U2) return int64_t{channel / 2} * 16 + channel % 2;
  return static_cast<int64_t>(channel) * kTileTokens * dtype_bits(dtype) / 8;
}

// Rows of codes that a tile of keys has: U2 pairs channels.
static constexpr int32_t key_rows(int32_t channels, think_dtype dtype) { return dtype == THINK_U2 ? channels + channels % 2 : channels; }

static inline TileLayout key_tile(int32_t channels, think_dtype dtype) {
  const int64_t rows = key_row(key_rows(channels, dtype), dtype);
  if (!has_groups(dtype)) return {rows, rows, rows, 0};
  const int64_t scale = round_to_tile_alignment(rows), zero = scale + 2 * int64_t{channels};
  return {scale, zero, round_to_tile_alignment(zero + 2 * int64_t{channels}), channels};
}

static inline int32_t value_groups(int32_t channels) { return channels < 2 * kBlockChannels ? 1 : channels / kBlockChannels; }

static inline TileLayout value_tile(int32_t channels, think_dtype dtype) {
  const int64_t rows = static_cast<int64_t>(channels) * kTileTokens * dtype_bits(dtype) / 8;
  if (!has_groups(dtype)) return {rows, rows, rows, 0};
  const int32_t groups = value_groups(channels);
  const int64_t array = int64_t{2} * groups * kTileTokens;
  return {rows, rows + array, rows + 2 * array, groups};
}

// Bytes of `rows` rows (tiles: a multiple of 32) of one head.
static inline int64_t head_bytes(int64_t rows, int32_t channels, think_dtype dtype, bool keys) {
  if (!is_quantized(dtype)) return rows * channels * (dtype_bits(dtype) / 8);
  return rows / kTileTokens * (keys ? key_tile(channels, dtype) : value_tile(channels, dtype)).bytes;
}

// ---- where a code lies ----------------------------------------------------------------------------------------------------------------------------

// A code inside a tile: byte and shift.
struct CodePlace {
  int64_t byte;
  int32_t shift;
};

static inline CodePlace key_code(think_dtype dtype, int32_t channel, int32_t token) {
  const int32_t bits = dtype_bits(dtype), row_bytes = kTileTokens * bits / 8, distance = dtype == THINK_U2 ? 2 : 1;
  return {key_row(channel, dtype) + token % row_bytes * distance, token / row_bytes * bits};
}

static inline CodePlace value_code(think_dtype dtype, int32_t channels, int32_t channel, int32_t token) {
  const int32_t bits = dtype_bits(dtype), first = channel / kBlockChannels * kBlockChannels;
  const int32_t width = channels - first < kBlockChannels ? channels - first : kBlockChannels, row_bytes = width * bits / 8;
  return {int64_t{first} * kTileTokens * bits / 8 + token * row_bytes + (channel - first) % row_bytes, (channel - first) / row_bytes * bits};
}

static inline int32_t value_group(int32_t channels, int32_t channel) {
  const int32_t group = channel / kBlockChannels, last = value_groups(channels) - 1;
  return group < last ? group : last;
}

static inline uint32_t load_code(const void *tile, think_dtype dtype, CodePlace place) {
  return static_cast<uint32_t>(static_cast<const uint8_t *>(tile)[place.byte] >> place.shift & most_code(dtype));
}
// Into memory that is zero there.
static inline void store_code(void *tile, CodePlace place, uint32_t code) {
  static_cast<uint8_t *>(tile)[place.byte] = static_cast<uint8_t>(static_cast<const uint8_t *>(tile)[place.byte] | code << place.shift);
}

// ---- what a code means ----------------------------------------------------------------------------------------------------------------------------

// All of this is f32 with one rounding per operation, so that every instruction set writes the same bytes.

// The scale and zero of a group, as stored.
struct CodeRange {
  uint16_t scale, zero;
};

// The largest f16 that is not above x, |x| <= 65504: with a zero above the least number of a group, that number would have no code.
static inline uint16_t f16_not_above(float x) {
  const uint16_t half = f32_to_f16(x);
  if (!(f16_to_f32(half) > x)) return half;
  return static_cast<uint16_t>(half & 0x8000 ? half + 1 : half - 1);
}

static inline float clamp_to_f16(float x) { return x < -kMostF16 ? -kMostF16 : x > kMostF16 ? kMostF16 : x; }

// Of numbers between least and most. A group with a number that is not finite becomes NaN; finite ones beyond f16 are moved to its ends. A constant group has
// scale 0 where f16 holds the constant.
static inline CodeRange code_range(float least, float most, bool finite, think_dtype dtype) {
  if (!finite) return {0, kNanF16};
  const float low = clamp_to_f16(least) + 0.0f, high = clamp_to_f16(most) + 0.0f;  // -0 becomes 0
  const uint16_t zero = f16_not_above(low);
  const float range = high - f16_to_f32(zero);
  uint16_t scale = f32_to_f16(range / static_cast<float>(most_code(dtype)));
  // Rounded up, it could reach beyond f16, and a cache of f16 that the number goes back to would hold an infinity.
  if (f16_to_f32(zero) + f16_to_f32(scale) * static_cast<float>(most_code(dtype)) > kMostF16) --scale;
  return {static_cast<uint16_t>(scale == 0 && range > 0 ? 1 : scale), zero};
}

static inline float inverse_of(float scale) { return scale > 0 ? 1.0f / scale : 0.0f; }

static inline uint32_t code_of(float x, float zero, float inverse, think_dtype dtype) {
  const float most = static_cast<float>(most_code(dtype)), code = (x - zero) * inverse;
  const float inside = code > 0 ? (code < most ? code : most) : 0.0f;  // NaN becomes 0
  return float_bits(inside + 12582912.0f) & 0xff;                      // 1.5 * 2^23: the sum is rounded to an integer, nearest even
}

// ---- F8 --------------------------------------------------------------------------------------------------------------------------------------------

constexpr uint32_t kNanF8 = 0x7f, kMostF8 = 0x7e;  // but for the sign; the latter is 448
constexpr float kF8Unit = 256;                     // vectors of F8 (codes.h) hold numbers divided by this
constexpr float kLeastScaleF8 = 0x1p-100f, kMostScaleF8 = 0x1p100f;
constexpr float kHalfF8 = 224.0f;                  // what the largest number of a measured side is at most

static inline float f8_to_f32(uint32_t code) {
  const uint32_t magnitude = code & 0x7f, sign = (code & 0x80) << 24;
  if (magnitude == kNanF8) return bits_float(sign | 0x7fc00000);
  // The exponent moves from a bias of 7 to one of 127, which makes subnormals right as well.
  return bits_float(sign | float_bits(bits_float(magnitude << 20) * 0x1p120f));
}

// Of x * inverse, rounded to f32 once.
static inline uint32_t f8_code_of(float x, float inverse) {
  const uint32_t bits = float_bits(x * inverse), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
  if ((float_bits(x) & 0x7f800000) == 0x7f800000) return sign | kNanF8;
  // Below 2^-6 codes count 2^-9: added to 2^14, a number is rounded to that.
  const uint32_t code = magnitude < 0x3c800000 ? float_bits(bits_float(magnitude) + 0x1p14f) - float_bits(0x1p14f)
                                               : (magnitude + 0x7ffff + (magnitude >> 20 & 1) - (120u << 23)) >> 20;
  return sign | (code < kMostF8 ? code : kMostF8);
}

static inline bool is_scale(float x) { return x >= kLeastScaleF8 && x <= kMostScaleF8; }

// The scale of a side whose largest finite number is `most`.
static inline float f8_scale_of(float most) {
  float scale = 1;
  if (!(most > 0)) return scale;
  while (scale < kMostScaleF8 && most > kHalfF8 * scale) scale *= 2;
  while (scale > kLeastScaleF8 && most <= kHalfF8 * (scale / 2)) scale /= 2;
  return scale;
}

}  // namespace think
