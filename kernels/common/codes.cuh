// Tiles of codes as kernels see them: what quantized.h says, where it is no function that a device can call. Every operation rounds once, as there: the bytes
// are the CPU's.
#pragma once

#include "ptx.cuh"
#include "quantized.h"

namespace think::device {

using namespace ptx;

THINK_HOST_DEVICE int32_t bits_of(think_dtype dtype) { return dtype >> 8 & 0xff; }
THINK_HOST_DEVICE bool has_groups(think_dtype dtype) { return dtype == THINK_U8 || dtype == THINK_U4 || dtype == THINK_U2; }
THINK_HOST_DEVICE bool is_codes(think_dtype dtype) { return has_groups(dtype) || dtype == THINK_F8_E4M3; }
THINK_HOST_DEVICE int32_t groups_of(int32_t value_channels) { return value_channels < 2 * kBlockChannels ? 1 : value_channels / kBlockChannels; }

// The codes of a tile in pieces of kTileAlignment bytes: whole ones, as two channels of keys share one of U2.
THINK_HOST_DEVICE int32_t code_pieces(int32_t channels, think_dtype dtype) { return (channels * bits_of(dtype) + 3) / 4; }

THINK_HOST_DEVICE TileLayout code_tile(bool keys, int32_t channels, think_dtype dtype) {
  const int32_t scale = code_pieces(channels, dtype) * kTileAlignment;
  if (!has_groups(dtype)) return {scale, scale, scale, 0};
  const int32_t groups = keys ? channels : groups_of(channels), array = 2 * groups * (keys ? 1 : kTileTokens);
  return {scale, scale + array, (scale + 2 * array + kTileAlignment - 1) / kTileAlignment * kTileAlignment, groups};
}

// Where the byte lies that has a token's code of keys, and by how much it is shifted there.
THINK_DEVICE CodePlace key_code(think_dtype dtype, int32_t channel, int32_t token) {
  if (dtype == THINK_U2) return {channel / 2 * 16 + channel % 2 + token % 8 * 2, token / 8 * 2};
  if (dtype == THINK_U4) return {channel * 16 + token % 16, token / 16 * 4};
  return {channel * kTileTokens + token, 0};
}

THINK_DEVICE float half_to_float(uint16_t bits) { return to_float(F16{bits}); }

THINK_DEVICE uint16_t f16_not_above(float x) {
  const uint16_t half = from_float<F16>(x).bits;
  if (!(half_to_float(half) > x)) return half;
  return static_cast<uint16_t>(half & 0x8000 ? half + 1 : half - 1);
}

THINK_DEVICE float clamp_to_f16(float x) { return x < -65504.0f ? -65504.0f : x > 65504.0f ? 65504.0f : x; }

THINK_DEVICE CodeRange code_range(float least, float most, bool finite, int32_t bits) {
  if (!finite) return {0, 0x7e00};
  const float codes = static_cast<float>((1 << bits) - 1), low = clamp_to_f16(least) + 0.0f, high = clamp_to_f16(most) + 0.0f;
  const uint16_t zero = f16_not_above(low);
  const float range = high - half_to_float(zero);
  uint16_t scale = from_float<F16>(range / codes).bits;
  // The product is exact: 11 times 8 bits. So it does not matter whether the compiler makes one operation of the two.
  if (half_to_float(zero) + half_to_float(scale) * codes > 65504.0f) --scale;
  return {static_cast<uint16_t>(scale == 0 && range > 0 ? 1 : scale), zero};
}

THINK_DEVICE float inverse_of(float scale) { return scale > 0 ? 1.0f / scale : 0.0f; }

THINK_DEVICE uint32_t code_of(float x, float zero, float inverse, int32_t bits) {
  const float most = static_cast<float>((1 << bits) - 1), code = (x - zero) * inverse;
  const float inside = code > 0 ? (code < most ? code : most) : 0.0f;  // NaN becomes 0
  return as_bits(inside + 12582912.0f) & 0xff;                         // 1.5 * 2^23: rounded to an integer, nearest even
}

THINK_DEVICE float f8_to_float(uint32_t code) {
  const uint32_t magnitude = code & 0x7f, sign = (code & 0x80) << 24;
  if (magnitude == kNanF8) return as_float(sign | 0x7fc00000);
  return as_float(sign | as_bits(as_float(magnitude << 20) * 0x1p120f));
}

THINK_DEVICE float load_half(const char *array, int32_t i) { return to_float(load_constant(reinterpret_cast<const F16 *>(array) + i)); }

// What a code stands for; of F8 `scale` is that of the segment.
THINK_DEVICE float number_of_code(think_dtype dtype, uint32_t code, float scale, float zero) {
  return dtype == THINK_F8_E4M3 ? f8_to_float(code) * scale : fmaf(scale, static_cast<float>(code), zero);
}

THINK_DEVICE uint32_t f8_code_of(float x, float inverse) {
  // A sum with a zero, or the compiler would make one operation of the product and what is added to it below: it has to be rounded. The zero keeps the sign.
  const uint32_t bits = as_bits(fmaf(x, inverse, -0.0f)), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
  if ((as_bits(x) & 0x7f800000) == 0x7f800000) return sign | kNanF8;
  const uint32_t code = magnitude < 0x3c800000 ? as_bits(as_float(magnitude) + 0x1p14f) - as_bits(0x1p14f)
                                               : (magnitude + 0x7ffff + (magnitude >> 20 & 1) - (120u << 23)) >> 20;
  return sign | (code < kMostF8 ? code : kMostF8);
}

THINK_DEVICE float f8_scale_of(float most) {
  float scale = 1;
  if (!(most > 0)) return scale;
  while (scale < kMostScaleF8 && most > kHalfF8 * scale) scale *= 2;
  while (scale > kLeastScaleF8 && most <= kHalfF8 * (scale / 2)) scale /= 2;
  return scale;
}

}  // namespace think::device
