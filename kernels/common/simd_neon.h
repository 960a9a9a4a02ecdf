#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace think {
namespace {

constexpr int kLanes = 4, kRegisters = 32;
using Vec = float32x4_t;

inline Vec zero() { return vdupq_n_f32(0); }
inline Vec broadcast(float x) { return vdupq_n_f32(x); }
inline Vec load(const float *p) { return vld1q_f32(p); }
inline void store(float *p, Vec v) { vst1q_f32(p, v); }
inline Vec load_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
inline Vec load_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
inline void store_f16(uint16_t *p, Vec v) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v))); }
inline void store_bf16(uint16_t *p, Vec v) {
  const uint32x4_t bits = vreinterpretq_u32_f32(v);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff)), 16);
  const uint32x4_t quiet = vorrq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(0x40));
  vst1_u16(p, vmovn_u32(vbslq_u32(vceqq_f32(v, v), rounded, quiet)));
}
inline Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
inline Vec add(Vec a, Vec b) { return vaddq_f32(a, b); }
inline Vec sub(Vec a, Vec b) { return vsubq_f32(a, b); }
inline Vec mul(Vec a, Vec b) { return vmulq_f32(a, b); }
inline Vec max(Vec a, Vec b) { return vmaxq_f32(a, b); }
inline float sum(Vec v) { return vaddvq_f32(v); }
inline float maximum(Vec v) { return vmaxvq_f32(v); }

inline Vec exp(Vec x) {
  const uint32x4_t live = vmvnq_u32(vcltq_f32(x, broadcast(-87.3f)));
  const Vec n = vrndnq_f32(mul(x, broadcast(1.44269504f)));
  Vec r = vfmsq_f32(x, n, broadcast(0.693359375f));
  r = vfmsq_f32(r, n, broadcast(-2.12194440e-4f));
  Vec p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), broadcast(1.0f));
  const int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
  return vreinterpretq_f32_u32(vandq_u32(live, vreinterpretq_u32_f32(mul(p, vreinterpretq_f32_s32(power)))));
}

}  // namespace
}  // namespace think
