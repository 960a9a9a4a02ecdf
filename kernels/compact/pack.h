// What making codes needs of registers besides lines.h and kernels/common/codes.h.
//
//   max_signed<B> max_unsigned<B> min_unsigned<B>(a, b)  of the bits of numbers of B bytes
//   by_sign<B>(x, a, b)           a where x is negative, else b
//   differ_in_sign<B>(a, b)       no number of a is negative, all of b are
//   once(x)                       x; GCC would load it again for each use that can take it from memory
//   fused_sub(a, b)               a - b; by the units that multiply, where those that add have to convert as well
//   round_to_f16(x)               x as the f16 beside it
//   transpose_lanes(x)            kLaneCount lines: line i, lane l <-> line l, lane i
//   Words, round_codes<Small>     kLanes codes: (x, most) -> x rounded to nearest even, between 0 and most; NaN becomes 0. Small: |x| < 2^31, and the bound
//                                 may be left to the functions below
//   round_f8(x, y)                codes of F8 of y = x * inverse: f8_code_of()
//   interleave_codes(w)           bytes w[0][0] w[1][0] w[2][0] w[3][0] w[0][1] ...
//   concat_codes(w)               bytes w[0][0] w[0][1] ... w[1][0] ...
//   bound_codes<kBits>(x)         bytes, those above what kBits hold as that
//   join_codes<kShift>(low, high) low | high << kShift of bytes; high << kShift stays inside its byte
//   pair_codes(x)                 bytes of words in turn, two words at a time: w0 0, w1 0, w0 1, w1 1, ...
//   interleave_lanes(a, b)        lanes a[0] b[0] a[1] ... of two lines
//   concat_halves(a, b)           the lower 64 bits of each lane of a, then of b
// and of AVX-512 alone
//   gather_halves(p, q)           32 bytes from each of two places
//   to_floats(f16) to_f16(x)      a vector of f16 in a register
//   even_lanes odd_lanes(a, b)    lanes 0 and 2 (1 and 3) of two lines
//   interleave_words concat_words(a, b, x, y)  bytes of words and the signs of the numbers x and y that they were made of
#pragma once

#include <type_traits>

#include "lines.h"

namespace think::compact {
namespace {

#if defined(THINK_ISA_UNIT_AVX512)

template <int kBytes>
inline Line max_signed(Line a, Line b) {
  return kBytes == 2 ? _mm512_max_epi16(a, b) : _mm512_max_epi32(a, b);
}
template <int kBytes>
inline Line max_unsigned(Line a, Line b) {
  return kBytes == 2 ? _mm512_max_epu16(a, b) : _mm512_max_epu32(a, b);
}
template <int kBytes>
inline Line min_unsigned(Line a, Line b) {
  return kBytes == 2 ? _mm512_min_epu16(a, b) : _mm512_min_epu32(a, b);
}
template <int kBytes>
inline Line by_sign(Line x, Line a, Line b) {
  return kBytes == 2 ? _mm512_mask_mov_epi16(b, _mm512_movepi16_mask(x), a) : _mm512_mask_mov_epi32(b, _mm512_movepi32_mask(x), a);
}
template <int kBytes>
inline bool differ_in_sign(Line a, Line b) {
  const Line same = _mm512_ternarylogic_epi32(a, b, b, 0xf3);  // a | ~b
  return kBytes == 2 ? _mm512_movepi16_mask(same) == 0 : _mm512_movepi32_mask(same) == 0;
}
inline Line once(Line x) {
  asm("" : "+v"(x));
  return x;
}
// 32 bytes from each of two places; lanes 0 and 2 (1 and 3) of two lines.
inline Line gather_halves(const char *a, const char *b) {
  const auto half = [](const char *p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)); };
  return _mm512_mask_broadcast_i64x4(_mm512_castsi256_si512(half(a)), 0xf0, half(b));
}
inline Line even_lanes(Line a, Line b) { return _mm512_shuffle_i64x2(a, b, 0x88); }
inline Line odd_lanes(Line a, Line b) { return _mm512_shuffle_i64x2(a, b, 0xdd); }
inline void transpose_lanes(Line (&x)[kLaneCount]) {
  const Line a = _mm512_shuffle_i32x4(x[0], x[1], 0x44), b = _mm512_shuffle_i32x4(x[0], x[1], 0xee);
  const Line c = _mm512_shuffle_i32x4(x[2], x[3], 0x44), d = _mm512_shuffle_i32x4(x[2], x[3], 0xee);
  x[0] = _mm512_shuffle_i32x4(a, c, 0x88), x[1] = _mm512_shuffle_i32x4(a, c, 0xdd);
  x[2] = _mm512_shuffle_i32x4(b, d, 0x88), x[3] = _mm512_shuffle_i32x4(b, d, 0xdd);
}

inline Vec fused_sub(Vec a, Vec b) { return _mm512_fmsub_ps(a, broadcast(1.0f), b); }
inline Vec to_floats(__m256i f16) { return _mm512_cvtph_ps(f16); }
inline __m256i to_f16(Vec x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec round_to_f16(Vec x) { return to_floats(to_f16(x)); }

using Words = __m512i;
// The minimum of two numbers is the second where one is NaN, and NaN becomes the least integer. Below 0 is left to pack_codes().
template <bool kSmall>
inline Words round_codes(Vec x, Vec most) {
  return _mm512_cvtps_epi32(kSmall ? x : _mm512_min_ps(most, x));
}
inline Line pack_codes(const Words (&w)[4]) { return _mm512_packus_epi16(_mm512_packs_epi32(w[0], w[1]), _mm512_packs_epi32(w[2], w[3])); }
inline Line interleave_codes(const Words (&w)[4]) {
  return _mm512_shuffle_epi8(pack_codes(w), _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
}
inline Line concat_codes(const Words (&w)[4]) {
  return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), pack_codes(w));
}
template <int kBits>
inline Line bound_codes(Line x) {
  return kBits == 8 ? x : _mm512_min_epu8(x, _mm512_set1_epi8(static_cast<char>((1 << kBits) - 1)));
}
template <int kShift>
inline Line join_codes(Line low, Line high) {
  return _mm512_or_si512(low, _mm512_slli_epi16(high, kShift));
}
inline Line pair_codes(Line x) {
  return _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15)));
}
inline void interleave_lanes(Line &a, Line &b) {
  const Line first = _mm512_permutex2var_epi64(a, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), b);
  b = _mm512_permutex2var_epi64(a, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), b);
  a = first;
}
// Bytes of words without signs, with the signs of numbers of 16 bits. Of words a[0 .. 15] and b[0 .. 15], a[16 .. 31] and b[16 .. 31]: a0 b0 a16 b16 a1 ...
inline Line interleave_words(Line a, Line b, Line of_a, Line of_b) {
  const Line order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const Line signs = _mm512_ternarylogic_epi32(_mm512_set1_epi16(static_cast<int16_t>(0xff00)), of_b, _mm512_srli_epi16(of_a, 8), 0xca);  // a ? b : c
  const Line codes = _mm512_or_si512(a, _mm512_slli_epi16(b, 8));
  return _mm512_permutexvar_epi16(order, _mm512_ternarylogic_epi32(codes, signs, _mm512_set1_epi8(-128), 0xf8));  // a | (b & c)
}
// ... those of a, then those of b.
inline Line concat_words(Line a, Line b, Line of_a, Line of_b) {
  const Line signs = _mm512_packs_epi16(of_a, of_b);
  const Line codes = _mm512_ternarylogic_epi32(_mm512_packus_epi16(a, b), signs, _mm512_set1_epi8(-128), 0xf8);
  return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), codes);
}
inline Line concat_halves(Line a, Line b) { return _mm512_permutex2var_epi64(a, _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), b); }

#elif defined(THINK_ISA_UNIT_AVX2)

template <int kBytes>
inline Line max_signed(Line a, Line b) {
  return kBytes == 2 ? _mm256_max_epi16(a, b) : _mm256_max_epi32(a, b);
}
template <int kBytes>
inline Line max_unsigned(Line a, Line b) {
  return kBytes == 2 ? _mm256_max_epu16(a, b) : _mm256_max_epu32(a, b);
}
template <int kBytes>
inline Line min_unsigned(Line a, Line b) {
  return kBytes == 2 ? _mm256_min_epu16(a, b) : _mm256_min_epu32(a, b);
}
template <int kBytes>
inline Line by_sign(Line x, Line a, Line b) {
  return _mm256_blendv_epi8(b, a, kBytes == 2 ? _mm256_srai_epi16(x, 15) : _mm256_srai_epi32(x, 31));
}
template <int kBytes>
inline bool differ_in_sign(Line a, Line b) {
  const Line differ = _mm256_andnot_si256(a, b);
  return (kBytes == 2 ? ~_mm256_movemask_epi8(differ) & static_cast<int>(0xaaaaaaaa) : ~_mm256_movemask_ps(_mm256_castsi256_ps(differ)) & 0xff) == 0;
}
inline Line once(Line x) {
  asm("" : "+x"(x));
  return x;
}
inline void transpose_lanes(Line (&x)[kLaneCount]) {
  const Line a = x[0];
  x[0] = _mm256_permute2x128_si256(a, x[1], 0x20), x[1] = _mm256_permute2x128_si256(a, x[1], 0x31);
}

inline Vec fused_sub(Vec a, Vec b) { return _mm256_fmsub_ps(a, broadcast(1.0f), b); }
inline Vec round_to_f16(Vec x) { return _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)); }

using Words = __m256i;
template <bool kSmall>
inline Words round_codes(Vec x, Vec most) {
  return _mm256_cvtps_epi32(kSmall ? x : _mm256_min_ps(most, x));
}
inline Line pack_codes(const Words (&w)[4]) { return _mm256_packus_epi16(_mm256_packs_epi32(w[0], w[1]), _mm256_packs_epi32(w[2], w[3])); }
inline Line interleave_codes(const Words (&w)[4]) {
  return _mm256_shuffle_epi8(pack_codes(w), _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
}
inline Line concat_codes(const Words (&w)[4]) { return _mm256_permutevar8x32_epi32(pack_codes(w), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)); }
template <int kBits>
inline Line bound_codes(Line x) {
  return kBits == 8 ? x : _mm256_min_epu8(x, _mm256_set1_epi8(static_cast<char>((1 << kBits) - 1)));
}
template <int kShift>
inline Line join_codes(Line low, Line high) {
  return _mm256_or_si256(low, _mm256_slli_epi16(high, kShift));
}
inline Line pair_codes(Line x) {
  return _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15)));
}
inline void interleave_lanes(Line &a, Line &b) {
  const Line first = _mm256_permute2x128_si256(a, b, 0x20);
  b = _mm256_permute2x128_si256(a, b, 0x31);
  a = first;
}
inline Line concat_halves(Line a, Line b) { return _mm256_permute4x64_epi64(_mm256_unpacklo_epi64(a, b), 0xd8); }

#else

typedef int16_t Signed16 __attribute__((vector_size(16)));
typedef int32_t Signed32 __attribute__((vector_size(16)));
typedef uint8_t Line8 __attribute__((vector_size(16)));

template <int kBytes>
using SignedLine = std::conditional_t<kBytes == 2, Signed16, Signed32>;
template <int kBytes>
using UnsignedLine = std::conditional_t<kBytes == 2, Line, Line32>;
template <int kBytes>
inline Line max_signed(Line a, Line b) {
  const auto x = reinterpret_cast<SignedLine<kBytes>>(a), y = reinterpret_cast<SignedLine<kBytes>>(b);
  return reinterpret_cast<Line>(x > y ? x : y);
}
template <int kBytes>
inline Line max_unsigned(Line a, Line b) {
  const auto x = reinterpret_cast<UnsignedLine<kBytes>>(a), y = reinterpret_cast<UnsignedLine<kBytes>>(b);
  return reinterpret_cast<Line>(x > y ? x : y);
}
template <int kBytes>
inline Line min_unsigned(Line a, Line b) {
  const auto x = reinterpret_cast<UnsignedLine<kBytes>>(a), y = reinterpret_cast<UnsignedLine<kBytes>>(b);
  return reinterpret_cast<Line>(x < y ? x : y);
}
template <int kBytes>
inline Line by_sign(Line x, Line a, Line b) {
  using Signed = SignedLine<kBytes>;
  return reinterpret_cast<Line>(reinterpret_cast<Signed>(x) < 0 ? reinterpret_cast<Signed>(a) : reinterpret_cast<Signed>(b));
}
template <int kBytes>
inline bool differ_in_sign(Line a, Line b) {
  constexpr uint64_t kSigns = kBytes == 2 ? 0x8000800080008000 : 0x8000000080000000;
  const auto same = reinterpret_cast<Line64>(a | ~b);
  return ((same[0] | same[1]) & kSigns) == 0;
}
inline Line once(Line x) { return x; }
inline void transpose_lanes(Line (&)[kLaneCount]) {}

inline Vec fused_sub(Vec a, Vec b) { return sub(a, b); }
inline Vec round_to_f16(Vec x) {
  uint16_t half[kLanes];
  store_f16(half, x);
  return load_f16(half);
}

using Words = Line32;
template <bool>
inline Words round_codes(Vec x, Vec most) {
  x = x > zero() ? x : zero();
  x = x < most ? x : most;
  return reinterpret_cast<Words>(add(x, broadcast(12582912.0f))) & 0xff;  // 1.5 * 2^23: the sum is rounded to an integer
}
inline Line interleave_codes(const Words (&w)[4]) { return reinterpret_cast<Line>(w[0] | w[1] << 8 | w[2] << 16 | w[3] << 24); }
inline Line concat_codes(const Words (&w)[4]) {
  const Line a = __builtin_shufflevector(reinterpret_cast<Line>(w[0]), reinterpret_cast<Line>(w[1]), 0, 2, 4, 6, 8, 10, 12, 14);
  const Line b = __builtin_shufflevector(reinterpret_cast<Line>(w[2]), reinterpret_cast<Line>(w[3]), 0, 2, 4, 6, 8, 10, 12, 14);
  return reinterpret_cast<Line>(
      __builtin_shufflevector(reinterpret_cast<Line8>(a), reinterpret_cast<Line8>(b), 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30));
}
template <int>
inline Line bound_codes(Line x) {
  return x;  // round_codes() did
}
template <int kShift>
inline Line join_codes(Line low, Line high) {
  return low | high << kShift;
}
inline Line pair_codes(Line x) {
  const auto bytes = reinterpret_cast<Line8>(x);
  return reinterpret_cast<Line>(__builtin_shufflevector(bytes, bytes, 0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15));
}
inline void interleave_lanes(Line &, Line &) {}
inline Line concat_halves(Line a, Line b) { return low64(a, b); }

#endif

inline Words round_f8(Vec x, Vec y) {
  typedef int32_t Numbers __attribute__((vector_size(sizeof(Vec))));
  typedef uint32_t Bits __attribute__((vector_size(sizeof(Vec))));
  const auto bits = reinterpret_cast<Numbers>(y), magnitude = bits & 0x7fffffff;
  // Unsigned, as the magnitude of a NaN may be the largest integer.
  const auto wide = reinterpret_cast<Bits>(magnitude);
  const auto large = reinterpret_cast<Numbers>((wide + (wide >> 20 & 1) + (0x7ffffu - (120u << 23))) >> 20);
  const Vec base = broadcast(0x1p14f);
  const auto small = reinterpret_cast<Numbers>(add(reinterpret_cast<Vec>(magnitude), base)) - reinterpret_cast<Numbers>(base);
  const Numbers most = Numbers{} + kMostF8, nan = Numbers{} + kNanF8;
  Numbers code = magnitude < 0x3c800000 ? small : large;
  code = code < most ? code : most;
  code = (reinterpret_cast<Numbers>(x) & 0x7fffffff) >= 0x7f800000 ? nan : code;
  return reinterpret_cast<Words>(code | ((bits >> 24) & 0x80));
}

}  // namespace
}  // namespace think::compact
