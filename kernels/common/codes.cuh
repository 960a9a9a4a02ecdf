// Tiles of codes as kernels see them: what quantized.h says, where it is no function that a device can call. Every operation rounds once, as there: the bytes
// are the CPU's.
#pragma once

#include "ptx.cuh"
#include "quantized.h"

namespace think::device {

using namespace ptx;

THINK_HOST_DEVICE int32_t bits_of(think_dtype dtype) { return dtype >> 8 & 0xff; }
THINK_HOST_DEVICE bool is_codes(think_dtype dtype) { return dtype == THINK_U8 || dtype == THINK_U4; }
THINK_HOST_DEVICE int32_t groups_of(int32_t value_channels) { return value_channels < 2 * kBlockChannels ? 1 : value_channels / kBlockChannels; }

THINK_HOST_DEVICE TileLayout code_tile(bool keys, int32_t channels, int32_t bits) {
  const int32_t rows = channels * kTileTokens * bits / 8, groups = keys ? channels : groups_of(channels), array = 2 * groups * (keys ? 1 : kTileTokens);
  const int32_t scale = (rows + kTileAlignment - 1) / kTileAlignment * kTileAlignment;
  return {scale, scale + array, (scale + 2 * array + kTileAlignment - 1) / kTileAlignment * kTileAlignment, groups};
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

}  // namespace think::device
