// Scalar conversions between f32, f16 and bf16, rounding to nearest even: the meaning of the vector versions in simd_*.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "think/tensor.h"

namespace think {

static inline float bits_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

static inline uint32_t float_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float f16_to_f32(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, magnitude = half & 0x7fff;
  if (magnitude >= 0x7c00) return bits_float(sign | 0x7f800000 | (magnitude & 0x3ff) << 13 | (magnitude > 0x7c00 ? 0x400000 : 0));
  // Multiplying by 2^112 moves the exponent from f16's bias to f32's and makes subnormals right as well.
  return bits_float(sign | float_bits(bits_float(magnitude << 13) * bits_float(0x77800000)));
}

static inline uint16_t f32_to_f16(float value) {
  const uint32_t bits = float_bits(value), sign = bits >> 16 & 0x8000;
  uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
  if (magnitude >= 0x47800000) return static_cast<uint16_t>(sign | 0x7c00);
  if (magnitude < 0x38800000) {
    // Adding 0.5 lines the last bit of a subnormal f16 up with the last bit of the f32, which does the rounding.
    return static_cast<uint16_t>(sign | (float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000));
  }
  magnitude += 0xc8000fff + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | magnitude >> 13);
}

static inline float bf16_to_f32(uint16_t value) { return bits_float(static_cast<uint32_t>(value) << 16); }

static inline uint16_t f32_to_bf16(float value) {
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float load_element(const void *row, think_dtype dtype, int64_t index) {
  if (dtype == THINK_F32) return static_cast<const float *>(row)[index];
  const uint16_t bits = static_cast<const uint16_t *>(row)[index];
  return dtype == THINK_F16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

static inline void store_element(void *row, think_dtype dtype, int64_t index, float value) {
  if (dtype == THINK_F32) {
    static_cast<float *>(row)[index] = value;
  } else {
    static_cast<uint16_t *>(row)[index] = dtype == THINK_F16 ? f32_to_f16(value) : f32_to_bf16(value);
  }
}

}  // namespace think
