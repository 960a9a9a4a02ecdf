// Baseline for every processor: GCC's generic vectors of four floats, which become whatever the target has.
#pragma once

#include <cstdint>
#include <cstring>

#include "element.h"

namespace think {
namespace {

constexpr int kLanes = 4, kRegisters = 16;
typedef float Vec __attribute__((vector_size(16)));
typedef int32_t IntVec __attribute__((vector_size(16)));

inline Vec zero() { return Vec{0, 0, 0, 0}; }
inline Vec broadcast(float x) { return Vec{x, x, x, x}; }
inline Vec load(const float *p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float *p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline IntVec widen(const uint16_t *p) { return IntVec{p[0], p[1], p[2], p[3]}; }
inline Vec load_f16(const uint16_t *p) {
  const IntVec half = widen(p), sign = (half & 0x8000) << 16, magnitude = half & 0x7fff;
  const Vec finite = reinterpret_cast<Vec>(magnitude << 13) * broadcast(0x1p112f);
  // NaN and inf: the exponent is all ones; |0x400000 quiets a signalling NaN like the hardware does.
  const IntVec special = magnitude >= 0x7c00, nan = magnitude > 0x7c00;
  const IntVec infinite = (magnitude << 13) | 0x7f800000 | (nan & 0x400000);
  return reinterpret_cast<Vec>(sign | (special & infinite) | (~special & reinterpret_cast<IntVec>(finite)));
}
inline Vec load_bf16(const uint16_t *p) { return reinterpret_cast<Vec>(widen(p) << 16); }
inline void store_f16(uint16_t *p, Vec v) {
  for (int i = 0; i < kLanes; ++i) p[i] = f32_to_f16(v[i]);
}
inline void store_bf16(uint16_t *p, Vec v) {
  for (int i = 0; i < kLanes; ++i) p[i] = f32_to_bf16(v[i]);
}
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec add(Vec a, Vec b) { return a + b; }
inline Vec sub(Vec a, Vec b) { return a - b; }
inline Vec mul(Vec a, Vec b) { return a * b; }
inline Vec max(Vec a, Vec b) { return a > b ? a : b; }
inline float sum(Vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }
inline float maximum(Vec v) {
  const float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
  return a > b ? a : b;
}

inline Vec exp(Vec x) {
  const IntVec live = ~(x < broadcast(-87.3f));
  const Vec clamped = x < broadcast(-87.3f) ? broadcast(-87.3f) : x;
  // Adding 1.5 * 2^23 rounds to nearest and leaves the integer in the low bits.
  const Vec shifted = clamped * broadcast(1.44269504f) + broadcast(12582912.0f);
  const Vec n = shifted - broadcast(12582912.0f);
  const IntVec power = (reinterpret_cast<IntVec>(shifted) - 0x4b400000 + 127) << 23;
  Vec r = clamped - n * broadcast(0.693359375f);
  r = r - n * broadcast(-2.12194440e-4f);
  Vec p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), broadcast(1.0f));
  return reinterpret_cast<Vec>(live & reinterpret_cast<IntVec>(mul(p, reinterpret_cast<Vec>(power))));
}

}  // namespace
}  // namespace think
