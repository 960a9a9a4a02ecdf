// Codes of quantized tiles (quantized.h) as vectors of floats: what simd.h is for numbers.
//
//   U8, U4, U2       code types as template arguments: `load(row, first)` gives codes first .. first + 2 * kLanes of a row of 32 as floats, the codes of a
//                    token in a whole block of values: code i of a row of U4 lies in byte i % 16, nibble i / 16; of U2 in byte i % 8, two bits i / 8.
//                    `load_key(row, first)` the same of a channel of keys, whose row begins at key_row(); of U2 every other byte belongs to it
//   F8               the same of F8, as numbers times 1 / kF8Unit: half way there are f16, whose exponent has another bias
//   spread<C>(p)     lane l = p[l / C], C divides kLanes
#pragma once

#include <type_traits>

#include "quantized.h"
#include "simd.h"

namespace think {
namespace {

// Two vectors of consecutive codes.
struct CodePair {
  Vec first, second;
};

constexpr int32_t kRowCodes = 32;
inline int32_t row_bytes_of(think_dtype dtype) { return kRowCodes * dtype_bits(dtype) / 8; }

#if defined(THINK_ISA_UNIT_AVX512) || defined(THINK_ISA_UNIT_AVX512BF16)

inline __m128i load_bytes(const uint8_t *p) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(p)); }
inline CodePair load_u8(const uint8_t *row, int) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_bytes(row))), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_bytes(row + kLanes)))};
}
inline CodePair load_f8(const uint8_t *row, int) {
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(row));
  const __m512i shifted = _mm512_and_si512(_mm512_slli_epi16(_mm512_cvtepi8_epi16(bytes), 7), _mm512_set1_epi16(static_cast<int16_t>(0xbf80)));
  const __mmask32 nan = _mm256_cmpeq_epi8_mask(_mm256_or_si256(bytes, _mm256_set1_epi8(-128)), _mm256_set1_epi8(-1));
  const __m512i half = _mm512_mask_mov_epi16(shifted, nan, _mm512_set1_epi16(kNanF16));
  return {_mm512_cvtph_ps(_mm512_castsi512_si256(half)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1))};
}
inline CodePair load_u4(const uint8_t *row, int) {
  // A permutation looks at the low four bits of each word only, so it takes the nibble out and makes it a float at once.
  const Vec numbers = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i words = _mm512_cvtepu8_epi32(load_bytes(row));
  return {_mm512_permutexvar_ps(words, numbers), _mm512_permutexvar_ps(_mm512_srli_epi32(words, 4), numbers)};
}
// Words with eight bytes of codes each in their low byte, twice.
inline CodePair load_quarters(__m512i words) {
  const Vec numbers = _mm512_setr_ps(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
  const __m512i shift = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2);
  words = _mm512_srlv_epi32(words, shift);
  return {_mm512_permutexvar_ps(words, numbers), _mm512_permutexvar_ps(_mm512_srli_epi32(words, 4), numbers)};
}
inline CodePair load_u2(const uint8_t *row, int) {
  return load_quarters(_mm512_cvtepu8_epi32(_mm_castpd_si128(_mm_loaddup_pd(reinterpret_cast<const double *>(row)))));
}
inline CodePair load_u2_key(const uint8_t *row, int) { return load_quarters(_mm512_cvtepu16_epi32(_mm256_broadcastsi128_si256(load_bytes(row)))); }
template <int C>
inline Vec spread(const float *p) {
  if constexpr (C == 1) return load(p);
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_permutexvar_ps(_mm512_srli_epi32(lanes, C == 2 ? 1 : C == 4 ? 2 : 3), load(p));
}

#elif defined(THINK_ISA_UNIT_AVX2)

inline Vec widen_codes(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)); }
inline CodePair load_u8(const uint8_t *row, int first) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(row + first));
  return {widen_codes(bytes), widen_codes(_mm_srli_si128(bytes, kLanes))};
}
inline CodePair load_f8(const uint8_t *row, int first) {
  const __m256i words = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(row + first)));
  const __m256i nan = _mm256_cmpeq_epi16(_mm256_or_si256(words, _mm256_set1_epi16(-128)), _mm256_set1_epi16(-1));
  const __m256i half = _mm256_or_si256(_mm256_and_si256(_mm256_slli_epi16(words, 7), _mm256_set1_epi16(static_cast<int16_t>(0xbf80))), nan);
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(half)), _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1))};
}
inline CodePair load_u4(const uint8_t *row, int first) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(row));
  const __m128i codes = _mm_and_si128(first ? _mm_srli_epi16(bytes, 4) : bytes, _mm_set1_epi8(15));
  return {widen_codes(codes), widen_codes(_mm_srli_si128(codes, kLanes))};
}
// A permutation looks at the low three bits of each word only.
inline CodePair load_quarters(__m256i words, int first) {
  const Vec numbers = _mm256_setr_ps(0, 1, 2, 3, 0, 1, 2, 3);
  if (first) words = _mm256_srli_epi32(words, 4);
  return {_mm256_permutevar8x32_ps(numbers, words), _mm256_permutevar8x32_ps(numbers, _mm256_srli_epi32(words, 2))};
}
inline CodePair load_u2(const uint8_t *row, int first) {
  return load_quarters(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(row))), first);
}
inline CodePair load_u2_key(const uint8_t *row, int first) {
  return load_quarters(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(row))), first);
}
template <int C>
inline Vec spread(const float *p) {
  if constexpr (C == 1) return load(p);
  return _mm256_permutevar8x32_ps(load(p), _mm256_srli_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), C == 2 ? 1 : C == 4 ? 2 : 3));
}

#else

#if defined(THINK_ISA_UNIT_NEON)
inline CodePair widen_codes(uint8x8_t bytes) {
  const uint16x8_t words = vmovl_u8(bytes);
  return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(words))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(words)))};
}
inline CodePair load_u8(const uint8_t *row, int first) { return widen_codes(vld1_u8(row + first)); }
inline CodePair load_f8(const uint8_t *row, int first) {
  const uint16x8_t words = vreinterpretq_u16_s16(vmovl_s8(vreinterpret_s8_u8(vld1_u8(row + first))));
  const uint16x8_t nan = vceqq_u16(vorrq_u16(words, vdupq_n_u16(0xff80)), vdupq_n_u16(0xffff));
  const float16x8_t half = vreinterpretq_f16_u16(vorrq_u16(vandq_u16(vshlq_n_u16(words, 7), vdupq_n_u16(0xbf80)), nan));
  return {vcvt_f32_f16(vget_low_f16(half)), vcvt_f32_f16(vget_high_f16(half))};
}
inline CodePair load_u4(const uint8_t *row, int first) {
  const uint8x8_t bytes = vld1_u8(row + first % 16);
  return widen_codes(first < 16 ? vand_u8(bytes, vdup_n_u8(15)) : vshr_n_u8(bytes, 4));
}
inline CodePair load_quarters(uint8x8_t bytes, int first) {
  return widen_codes(vand_u8(vshl_u8(bytes, vdup_n_s8(static_cast<int8_t>(-(first / 4)))), vdup_n_u8(3)));
}
inline CodePair load_u2(const uint8_t *row, int first) { return load_quarters(vld1_u8(row), first); }
inline CodePair load_u2_key(const uint8_t *row, int first) {
  // The low bytes of eight words.
  return load_quarters(vmovn_u16(vreinterpretq_u16_u8(vld1q_u8(row))), first);
}
#else
inline Vec widen_codes(const uint8_t *p, int shift, int mask, int step = 1) {
  const IntVec words = (IntVec{p[0], p[step], p[2 * step], p[3 * step]} >> shift) & mask;
  return __builtin_convertvector(words, Vec);
}
inline CodePair load_u8(const uint8_t *row, int first) { return {widen_codes(row + first, 0, 255), widen_codes(row + first + kLanes, 0, 255)}; }
inline Vec widen_f8(const uint8_t *p) {
  const IntVec words = IntVec{p[0], p[1], p[2], p[3]}, magnitude = words & 0x7f, nan = magnitude == 0x7f;
  const IntVec number = reinterpret_cast<IntVec>(mul(reinterpret_cast<Vec>(magnitude << 20), broadcast(0x1p120f / kF8Unit)));
  return reinterpret_cast<Vec>(number | (words & 0x80) << 24 | (nan & 0x7fc00000));
}
inline CodePair load_f8(const uint8_t *row, int first) { return {widen_f8(row + first), widen_f8(row + first + kLanes)}; }
inline CodePair load_u4(const uint8_t *row, int first) {
  const uint8_t *bytes = row + first % 16;
  return {widen_codes(bytes, first / 16 * 4, 15), widen_codes(bytes + kLanes, first / 16 * 4, 15)};
}
inline CodePair load_u2(const uint8_t *row, int first) { return {widen_codes(row, first / 4, 3), widen_codes(row + kLanes, first / 4, 3)}; }
inline CodePair load_u2_key(const uint8_t *row, int first) { return {widen_codes(row, first / 4, 3, 2), widen_codes(row + 2 * kLanes, first / 4, 3, 2)}; }
#endif
template <int C>
inline Vec spread(const float *p) {
  if constexpr (C == 1) return load(p);
  if constexpr (C == 2) return Vec{p[0], p[0], p[1], p[1]};
  return broadcast(p[0]);
}

#endif

struct U8 {
  static constexpr think_dtype dtype = THINK_U8;
  static inline CodePair load(const uint8_t *row, int first) { return load_u8(row, first); }
  static inline CodePair load_key(const uint8_t *row, int first) { return load_u8(row, first); }
};
struct U4 {
  static constexpr think_dtype dtype = THINK_U4;
  static inline CodePair load(const uint8_t *row, int first) { return load_u4(row, first); }
  static inline CodePair load_key(const uint8_t *row, int first) { return load_u4(row, first); }
};
struct U2 {
  static constexpr think_dtype dtype = THINK_U2;
  static inline CodePair load(const uint8_t *row, int first) { return load_u2(row, first); }
  static inline CodePair load_key(const uint8_t *row, int first) { return load_u2_key(row, first); }
};

struct F8 {
  static constexpr think_dtype dtype = THINK_F8_E4M3;
  static inline CodePair load(const uint8_t *row, int first) { return load_f8(row, first); }
  static inline CodePair load_key(const uint8_t *row, int first) { return load_f8(row, first); }
};
// What the codes of a narrow block are loaded as once they lie in bytes.
template <class Code>
using ByteCode = std::conditional_t<has_groups(Code::dtype), U8, F8>;

// `count` f16 as floats, up to the next multiple of kLanes of them; nothing behind the last one is read.
inline void widen_f16(const char *from, int count, float *to) {
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, load_f16(reinterpret_cast<const uint16_t *>(from) + i));
  if (i == count) return;
  uint16_t last[kLanes] = {};
  __builtin_memcpy(last, from + 2 * i, 2 * static_cast<size_t>(count - i));
  store(to + i, load_f16(last));
}

// Rows of a block of values that is narrower than 32 channels, as rows of 32 bytes with zeros behind the end.
template <class Code>
inline void widen_rows(const uint8_t *rows, int width, int count, uint8_t *to) {
  __builtin_memset(to, 0, static_cast<size_t>(count) * kRowCodes);
  const int bits = dtype_bits(Code::dtype), bytes = width * bits / 8;
  for (int t = 0; t < count; ++t, rows += bytes, to += kRowCodes) {
    for (int part = 0; part < 8 / bits; ++part) {
      for (int b = 0; b < bytes; ++b) to[part * bytes + b] = static_cast<uint8_t>(rows[b] >> (part * bits) & most_code(Code::dtype));
    }
  }
}

}  // namespace
}  // namespace think
