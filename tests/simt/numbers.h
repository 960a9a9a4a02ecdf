// 16-bit arithmetic as the device does it: one rounding to nearest even.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/common/element.h"

namespace simt {

// Branch-free, so that the loops over fragments become vector code.
inline float wide_f16(uint32_t half) {
  const uint32_t sign = (half & 0x8000) << 16, magnitude = (half & 0x7fff) << 13;
  const uint32_t finite = think::float_bits(think::bits_float(magnitude) * think::bits_float(0x77800000));
  const uint32_t special = 0u - static_cast<uint32_t>(magnitude >= 0x0f800000u);
  return think::bits_float(sign | (finite & ~special) | ((magnitude | 0x7f800000u) & special));
}
inline float wide_bf16(uint32_t value) { return think::bits_float(value << 16); }

// The f32 next to an exact sum with its last bit set when inexact ("round to odd"): rounding that again to 16 bits gives what one rounding gives.
inline float odd_float(double high, double low) {
  // Make the double itself odd first when a rest was lost.
  if (low != 0 && std::isfinite(high)) {
    uint64_t bits = __builtin_bit_cast(uint64_t, high);
    if (!(bits & 1)) {
      // Truncate towards zero, then set the last bit.
      if ((low < 0) == (high > 0)) --bits;
      bits |= 1;
      high = __builtin_bit_cast(double, bits);
    }
  }
  float nearest = static_cast<float>(high);
  if (static_cast<double>(nearest) != high && std::isfinite(nearest)) {
    uint32_t bits = think::float_bits(nearest);
    if (std::fabs(static_cast<double>(nearest)) > std::fabs(high)) --bits;
    nearest = think::bits_float(bits | 1);
  }
  return nearest;
}

inline float fused_odd(float a, float b, float c) {
  const double product = static_cast<double>(a) * b, sum = product + c;  // the product of two 16-bit floats is exact
  const double part = sum - product, rest = (product - (sum - part)) + (c - part);
  return odd_float(sum, std::isfinite(sum) ? rest : 0);
}

template <bool Half>
inline float widen(uint32_t bits) {
  return Half ? wide_f16(bits) : wide_bf16(bits);
}
template <bool Half>
inline uint32_t narrow(float value) {
  return Half ? think::f32_to_f16(value) : think::f32_to_bf16(value);
}

template <bool Half, class Function>
inline uint32_t each_half(uint32_t a, uint32_t b, uint32_t c, Function function) {
  const uint32_t low = narrow<Half>(function(widen<Half>(a & 0xffff), widen<Half>(b & 0xffff), widen<Half>(c & 0xffff)));
  const uint32_t high = narrow<Half>(function(widen<Half>(a >> 16), widen<Half>(b >> 16), widen<Half>(c >> 16)));
  return low | high << 16;
}

inline float flush_subnormal(float value) { return std::fabs(value) < 1.17549435e-38f ? std::copysign(0.0f, value) : value; }

}  // namespace simt
