// What attend needs beyond kernels/common/simd.h: pairs of vectors, partial loads, and many horizontal sums at once.
//
// A Pair holds 2 * kLanes consecutive elements. Where kSplit<Element> is true its vectors hold the even and the odd elements, because two bf16 numbers
// in one 32-bit word become two floats by one shift and one mask, half of what widening in order costs. Sums over channels do not care; where order
// matters, `join` and `split` translate once per tile or step.
#pragma once

#include <cstring>

#include "../common/element.h"
#include "../common/simd.h"

namespace think {
namespace {

struct Pair {
  Vec first, second;
};

template <class Element>
constexpr bool kSplit = false;
template <class Element>
inline Pair load_pair(const typename Element::Type *p) {
  return {Element::load(p), Element::load(p + kLanes)};
}
// The first n < 2 * kLanes elements, zeros behind; nothing behind them is read.
template <class Element>
inline Pair load_pair_part(const typename Element::Type *p, int n) {
  typename Element::Type buffer[2 * kLanes] = {};
  std::memcpy(buffer, p, static_cast<size_t>(n) * sizeof buffer[0]);
  return load_pair<Element>(buffer);
}
template <class Element>
inline Pair join(Pair pair);
template <class Element>
inline Pair split(Pair pair);

#if defined(THINK_ISA_UNIT_AVX512) || defined(THINK_ISA_UNIT_AVX512BF16)

template <>
constexpr bool kSplit<BF16> = true;
inline Pair split_bf16(__m512i words) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(words, 16)), _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(-65536)))};
}
template <>
inline Pair load_pair<BF16>(const uint16_t *p) {
  return split_bf16(_mm512_loadu_si512(p));
}
template <>
inline Pair load_pair_part<BF16>(const uint16_t *p, int n) {
  return split_bf16(_mm512_maskz_loadu_epi16((1u << n) - 1, p));
}
template <>
inline Pair load_pair_part<F16>(const uint16_t *p, int n) {
  const __m512i words = _mm512_maskz_loadu_epi16((1u << n) - 1, p);
  return {_mm512_cvtph_ps(_mm512_castsi512_si256(words)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(words, 1))};
}
template <>
inline Pair load_pair_part<F32>(const float *p, int n) {
  const uint32_t mask = (1u << n) - 1;
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p), _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), p + kLanes)};
}
inline Pair join_pair(Pair pair) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  return {_mm512_permutex2var_ps(pair.first, low, pair.second), _mm512_permutex2var_ps(pair.first, high, pair.second)};
}
inline Pair split_pair(Pair pair) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return {_mm512_permutex2var_ps(pair.first, even, pair.second), _mm512_permutex2var_ps(pair.first, odd, pair.second)};
}

// out[i] = sum over the lanes of v[i]: three halvings that pair vectors up, then two inside 128-bit lanes. 45 instructions instead of 16 times 8.
constexpr int kSums = 16;
inline void sums(const Vec (&v)[kSums], float *out) {
  Vec quarter[4];  // quarter[p], 128-bit lane l: what is left of v[4 * l + p]
#pragma GCC unroll 4
  for (int p = 0; p < 4; ++p) {
    const Vec a = add(_mm512_shuffle_f32x4(v[p], v[4 + p], 0x44), _mm512_shuffle_f32x4(v[p], v[4 + p], 0xee));
    const Vec b = add(_mm512_shuffle_f32x4(v[8 + p], v[12 + p], 0x44), _mm512_shuffle_f32x4(v[8 + p], v[12 + p], 0xee));
    quarter[p] = add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  }
  const Vec a = add(_mm512_unpacklo_ps(quarter[0], quarter[1]), _mm512_unpackhi_ps(quarter[0], quarter[1]));
  const Vec b = add(_mm512_unpacklo_ps(quarter[2], quarter[3]), _mm512_unpackhi_ps(quarter[2], quarter[3]));
  store(out, add(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee)));
}

#elif defined(THINK_ISA_UNIT_AVX2)

template <>
constexpr bool kSplit<BF16> = true;
inline Pair split_bf16(__m256i words) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(words, 16)), _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(-65536)))};
}
template <>
inline Pair load_pair<BF16>(const uint16_t *p) {
  return split_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}
inline Pair join_pair(Pair pair) {
  const Vec low = _mm256_unpacklo_ps(pair.first, pair.second), high = _mm256_unpackhi_ps(pair.first, pair.second);
  return {_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)};
}
inline Pair split_pair(Pair pair) {
  const Vec low = _mm256_permute2f128_ps(pair.first, pair.second, 0x20), high = _mm256_permute2f128_ps(pair.first, pair.second, 0x31);
  return {_mm256_shuffle_ps(low, high, 0x88), _mm256_shuffle_ps(low, high, 0xdd)};
}

constexpr int kSums = 8;
inline void sums(const Vec (&v)[kSums], float *out) {
  const Vec a = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  const Vec b = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
  store(out, add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31)));
}

#else

inline Pair join_pair(Pair pair) { return pair; }
inline Pair split_pair(Pair pair) { return pair; }

#if defined(THINK_ISA_UNIT_NEON)
constexpr int kSums = 16;
inline void sums(const Vec (&v)[kSums], float *out) {
#pragma GCC unroll 4
  for (int i = 0; i < kSums; i += 4) store(out + i, vpaddq_f32(vpaddq_f32(v[i], v[i + 1]), vpaddq_f32(v[i + 2], v[i + 3])));
}
#else
constexpr int kSums = 8;
inline void sums(const Vec (&v)[kSums], float *out) {
  for (int i = 0; i < kSums; ++i) out[i] = sum(v[i]);
}
#endif

#endif

template <class Element>
inline Pair join(Pair pair) {
  return kSplit<Element> ? join_pair(pair) : pair;
}
template <class Element>
inline Pair split(Pair pair) {
  return kSplit<Element> ? split_pair(pair) : pair;
}

}  // namespace
}  // namespace think
