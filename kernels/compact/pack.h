// What making codes needs of registers besides lines.h and kernels/common/codes.h.
//
//   max_signed<B> max_unsigned<B> min_unsigned<B>(a, b)  of the bits of numbers of B bytes
//   by_sign<B>(x, a, b)           a where x is negative, else b
//   once(x)                       x; GCC would load it again for each use that can take it from memory
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
// Does the host leave the processor's f32 as it finds it? Else subnormal numbers may be zeros, and sums rounded another way.
inline bool rounds_as_usual() { return (_mm_getcsr() & (_MM_DENORMALS_ZERO_MASK | _MM_ROUND_MASK)) == 0; }
// f8_code_of() of the 32 f16 of a line, as words: half the registers that floats take, but for the product and its rounding. If rounds_as_usual(), for a
// subnormal f16 is a subnormal f32 here. Scales are between 2^-100 and 2^100.
inline Line f8_of_f16(Line x, Vec inverse) {
  // Moved into the place of an f32, an f16 is 2^-112 times as large. The inverse makes up for 2^27 of them, which is as much as the largest one bears.
  constexpr float kUnit = 0x1p-85f;
  constexpr int kLeast = 127 - 85 - 6, kDigits = 20;
  // Added to 2^20 times its power of two, a number is rounded to three binary digits behind the first; below 2^-6 to those of that. The upper half of the
  // sum's bits is the power, whose exponent e counts codes in steps of 8 from 16 bits on: e << 3 == bits >> 20. The lower half is the digits, 0 to 16, and
  // 0x10000 - (the least e << 3), so that both halves together are the code: 2^-6 has the least e and digits of 8, and 8 is its code.
  constexpr float kSum = 0x1p20f + (0x10000 - ((kLeast + kDigits) << 3)) * 0x1p-3f;
  const Vec factor = mul(inverse, broadcast(kUnit * 0x1p112f));
  const auto rounded = [&](Line magnitude) {  // of the numbers of 16 bits in the upper half of words, without their signs
    const Vec product = mul(_mm512_castsi512_ps(_mm512_srli_epi32(magnitude, 3)), factor);
    const Line power = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(product), _mm512_set1_epi32(0x7f800000)), _mm512_set1_epi32(kLeast << 23));
    return _mm512_castps_si512(fma(_mm512_castsi512_ps(power), broadcast(kSum), product));
  };
  const Line even = rounded(_mm512_and_si512(_mm512_slli_epi32(x, 16), _mm512_set1_epi32(0x7fff0000)));
  const Line odd = rounded(_mm512_and_si512(x, _mm512_set1_epi32(0x7fff0000)));
  const Line power = _mm512_mask_mov_epi16(_mm512_srli_epi32(even, 16), 0xaaaaaaaa, odd);
  const Line digits = _mm512_mask_mov_epi16(even, 0xaaaaaaaa, _mm512_slli_epi32(odd, 16));
  Line code = _mm512_min_epu16(_mm512_add_epi16(_mm512_srli_epi16(power, 4), digits), _mm512_set1_epi16(kMostF8));
  const __mmask32 not_finite = _mm512_cmpgt_epi16_mask(_mm512_and_si512(x, _mm512_set1_epi16(0x7fff)), _mm512_set1_epi16(0x7bff));
  code = _mm512_mask_mov_epi16(code, not_finite, _mm512_set1_epi16(kNanF8));
  return _mm512_ternarylogic_epi32(code, _mm512_srli_epi16(x, 8), _mm512_set1_epi16(0x80), 0xf8);  // code | (x >> 8 & 0x80)
}
// Words a[0 .. 15] and b[0 .. 15], a[16 .. 31] and b[16 .. 31] as bytes a0 b0 a16 b16 a1 ...; words of a, then those of b as bytes.
inline Line interleave_words(Line a, Line b) {
  const Line order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, _mm512_or_si512(a, _mm512_slli_epi16(b, 8)));
}
inline Line concat_words(Line a, Line b) { return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_packus_epi16(a, b)); }
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
inline Line once(Line x) {
  asm("" : "+x"(x));
  return x;
}
inline void transpose_lanes(Line (&x)[kLaneCount]) {
  const Line a = x[0];
  x[0] = _mm256_permute2x128_si256(a, x[1], 0x20), x[1] = _mm256_permute2x128_si256(a, x[1], 0x31);
}

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
inline Line once(Line x) { return x; }
inline void transpose_lanes(Line (&)[kLaneCount]) {}

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
