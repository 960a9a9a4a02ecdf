// The thin vector layer: each simd_<isa>.h defines, in an anonymous namespace, one type of kLanes floats with the same functions. Stage bodies
// (kernels/<stage>/cpu_body.h) are written once against it and compiled once per instruction set.
//
//   kLanes                                   floats per vector: 16 (AVX-512), 8 (AVX2), 4 (NEON, portable)
//   kRegisters                               vector registers, for the choice of block sizes
//   Vec                                      the vector
//   zero() broadcast(x)                      constants
//   load(p) store(p, v)                      f32, unaligned
//   load_f16(p) load_bf16(p)                 kLanes 16-bit numbers, widened
//   store_f16(p, v) store_bf16(p, v)         rounded to nearest even
//   fma(a, b, c) = a * b + c; add sub mul max
//   exp(v)                                   relative error < 2e-7; exactly 0 below -87.3 and for -inf; NaN stays NaN
//   sum(v) maximum(v)                        over the lanes, fixed order
//
// Below, for all of them: prefetch_far_behind(v, p), a prefetch (prefetch.h) right after a load.
#pragma once

#if defined(THINK_ISA_UNIT_AVX512) || defined(THINK_ISA_UNIT_AVX512BF16)
#include "simd_avx512.h"
#elif defined(THINK_ISA_UNIT_AVX2)
#include "simd_avx2.h"
#elif defined(THINK_ISA_UNIT_NEON)
#include "simd_neon.h"
#else
#include "simd_portable.h"
#endif

#include "prefetch.h"
#include "shape.h"

namespace think {
namespace {

#if defined(__x86_64__)
#define THINK_ORDERED(p, loaded) asm("" : "+r"(p) : "v"(loaded))
#elif defined(__aarch64__)
#define THINK_ORDERED(p, loaded) asm("" : "+r"(p) : "w"(loaded))
#else
#define THINK_ORDERED(p, loaded) static_cast<void>(loaded)
#endif

// Prefetches stand right behind the load of the row that they go with, one line at a time. In front of it, or several in a row, they fill the buffers
// that the load needs as well, and a core reads a third less. The address is made to depend on what was loaded, so that the compiler keeps that order.
inline void prefetch_far_behind(Vec loaded, const char *p) {
  THINK_ORDERED(p, loaded);
  prefetch_far(p);
}
#undef THINK_ORDERED

// Element types as template arguments: what a row holds, and how kLanes of it become floats.
struct F32 {
  using Type = float;
  static constexpr think_dtype dtype = THINK_F32;
  static inline Vec load(const float *p) { return think::load(p); }
  static inline void store(float *p, Vec v) { think::store(p, v); }
};
struct F16 {
  using Type = uint16_t;
  static constexpr think_dtype dtype = THINK_F16;
  static inline Vec load(const uint16_t *p) { return load_f16(p); }
  static inline void store(uint16_t *p, Vec v) { store_f16(p, v); }
};
struct BF16 {
  using Type = uint16_t;
  static constexpr think_dtype dtype = THINK_BF16;
  static inline Vec load(const uint16_t *p) { return load_bf16(p); }
  static inline void store(uint16_t *p, Vec v) { store_bf16(p, v); }
};

}  // namespace
}  // namespace think
