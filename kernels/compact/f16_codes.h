// Codes from the 16 bits of f16, without arithmetic on each number (AVX-512). A code never falls while its number grows, so the few numbers from which on it is
// another one say it all, and 32 numbers are compared or looked up at once where floats would be 16. Rounding stays that of code_of() and f8_code_of(): where a
// code begins is guessed, and believed if the numbers on both sides have the codes that belong there. Where one does not, the caller computes.
#pragma once

#include <initializer_list>

#include "../common/quantized.h"
#include "../common/simd.h"
#include "ahead.h"
#include "pack.h"

namespace think::compact {
namespace {

// Are values of U2 compared? Then finding the borders of so many takes as long as so many codes, for NextTiles.
#if defined(THINK_ISA_UNIT_AVX512)
template <class Element>
constexpr bool kCompares = Element::dtype == THINK_F16;
#else
template <class Element>
constexpr bool kCompares = false;
#endif
inline int32_t work_on_borders(int32_t numbers) { return numbers / 2; }

#if defined(THINK_ISA_UNIT_AVX512)

// ---- U2 of values ---------------------------------------------------------------------------------------------------------------------------------

// For each group [block of channels][token] the last numbers below codes 1, 2 and 3: in the order of integers, and twice, as words to broadcast.
struct Borders {
  alignas(64) int32_t below[3][kMaxChannels];
  bool found[kMaxChannels / kBlockChannels];  // all those of a block
};

// The bits of f16 as integers that grow with the numbers, and back.
inline __m256i in_order(__m256i bits) {
  return _mm256_ternarylogic_epi32(bits, _mm256_srai_epi16(bits, 15), _mm256_set1_epi16(0x7fff), 0x78);  // a ^ (b & c)
}
inline Line in_order(Line bits) { return _mm512_ternarylogic_epi32(bits, _mm512_srai_epi16(bits, 15), _mm512_set1_epi16(0x7fff), 0x78); }

// A number of a group lies so many steps above its zero: (number - zero) * inverse, each operation rounded. Where a border is close to 0, that difference has
// fewer digits than the number: the border lies in the middle between two differences, up to a few of them away.
inline void find_borders(const uint16_t *scale, const float *start, const float *inverse, int32_t blocks, NextTiles *next, Borders &out) {
  const Line twice = _mm512_set_epi16(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8, 7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  for (int32_t block = 0; block < blocks; ++block) {
    __mmask16 missed = 0;
    if (next) next->fetch_for(work_on_borders(kBlockChannels * kTileTokens));
    for (int32_t g = block * kTileTokens; g < (block + 1) * kTileTokens; g += kLanes) {
      const Vec step = load_f16(scale + g), zero_of = load(start + g), factor = load(inverse + g);
      const __mmask16 one_code = _mm512_cmp_ps_mask(factor, zero(), _CMP_EQ_OQ);
#pragma GCC unroll 3
      for (int code = 1; code <= 3; ++code) {
        const Vec distance = mul(step, broadcast(static_cast<float>(code) - 0.5f)), border = add(distance, zero_of);
        // Half way between two codes a number becomes the even one.
        const Vec least = broadcast(code == 1 ? 0x1.000002p-1f : code == 2 ? 1.5f : 0x1.400002p1f);
        const auto has_code = [&](__m256i bits) { return _mm512_cmp_ps_mask(mul(fused_sub(to_floats(bits), zero_of), factor), least, _CMP_GE_OQ); };
        __m256i below = _mm256_set1_epi16(0x7fff);  // nothing is above it
        const auto search = [&](Vec guess, __mmask16 open) {
          const __m256i bits = to_f16(guess), at = in_order(bits), one = _mm256_set1_epi16(1);
          const __mmask16 above = has_code(bits);
          const __m256i beside = _mm256_mask_sub_epi16(_mm256_add_epi16(at, one), above, at, one);
          below = _mm256_mask_mov_epi16(below, open, _mm256_mask_mov_epi16(at, above, beside));
          return static_cast<__mmask16>(open & ~(above ^ has_code(in_order(beside))));
        };
        __mmask16 open = search(border, static_cast<__mmask16>(~one_code));
        if (open) [[unlikely]] {
          const Vec half_digit = mul(_mm512_and_ps(distance, broadcast(bits_float(0x7f800000))), broadcast(0x1p-24f));
          for (int halves : {-1, 1}) {
            if (open) open = search(fma(half_digit, broadcast(static_cast<float>(halves)), border), open);
          }
          missed |= open;
        }
        store_line(reinterpret_cast<char *>(out.below[code - 1] + g), _mm512_permutexvar_epi16(twice, _mm512_castsi256_si512(below)));
      }
    }
    out.found[block] = missed == 0;
  }
}

// Of the 32 numbers of a block of values of rows[t] the 8 bytes of its codes, code i + 8 j in bits 2 j of byte i; for kCodeRows tokens.
constexpr int32_t kCodeRows = 4;
[[gnu::always_inline]] inline void find_codes_between(const char *const *rows, int32_t block, const Borders &borders, int32_t token, char *out) {
  const Line order =
      once(_mm512_set_epi16(31, 23, 15, 7, 30, 22, 14, 6, 29, 21, 13, 5, 28, 20, 12, 4, 27, 19, 11, 3, 26, 18, 10, 2, 25, 17, 9, 1, 24, 16, 8, 0));
#pragma GCC unroll 4
  for (int32_t t = token; t < token + kCodeRows; ++t) {
    const Line x = _mm512_permutexvar_epi16(order, in_order(load_line(rows[t] + block * int64_t{2} * kBlockChannels)));
    const auto below_code = [&](int code) { return _mm512_set1_epi32(borders.below[code - 1][block * kTileTokens + t]); };
    const __mmask32 upper = _mm512_cmpgt_epi16_mask(x, below_code(2));
    const __mmask32 lower = _mm512_cmpgt_epi16_mask(x, _mm512_mask_mov_epi16(below_code(1), upper, below_code(3)));
    const uint64_t codes = _pdep_u64(lower, 0x5555555555555555) | _pdep_u64(upper, 0xaaaaaaaaaaaaaaaa);
    __builtin_memcpy(out + 8 * t, &codes, sizeof codes);
  }
}

// ---- F8 -------------------------------------------------------------------------------------------------------------------------------------------

// Where codes begin, in steps of a number's bits u: its code is (u + step) >> 7. The codes of a power of two are eight and an f16's are 1024, so one and the
// same step serves 64 numbers as long as no more than one code begins among them, and so for every power of two. Below 2^-6 codes have fewer digits: they lie
// further apart than 128 numbers, but not in every power of two at the same places.
bool find_f8_steps(float scale, F8Steps &out) {
  typedef int32_t Numbers __attribute__((vector_size(sizeof(Vec))));
  const Numbers lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const float inverse = 1.0f / scale;
  const int32_t exponent = static_cast<int32_t>(float_bits(inverse) >> 23) - 127;
  if (exponent > 38) return false;  // u + step would not be 16 bits
  const auto code_at = [](Vec y) { return reinterpret_cast<Numbers>(round_f8(y, y)); };
  bool known = true;
  // Steps for a vector of `width` numbers each from `first` on: y(u) is a number times the inverse, guess(code) the number with which the next code might
  // begin.
  const auto find = [&](Numbers first, Numbers last, int32_t width, const auto &y, const auto &guess) {
    const Numbers code = code_at(y(first)), next = code_at(y(last));
    const Numbers u = guess(code), above = code_at(y(u)) > code, beside = u + 1 + 2 * above;  // a comparison gives 0 or -1
    const Numbers wrong = (code_at(y(beside)) > code) == above;
    const Numbers begins = u + 1 + above, step = 128 * (code + 1) - (next > code ? begins : first + width);
    const Numbers bad = (last >= first) & ((next > code + 1) | ((next > code) & wrong));
    for (int l = 0; l < kLanes; ++l) known &= bad[l] == 0;
    return step;
  };

  const Vec factor = broadcast(bits_float((float_bits(inverse) & 0x7fffff) | 0x3f800000));
  const Numbers first = lane * 64;
  const auto number = [&](Numbers u) { return mul(_mm512_cvtepi32_ps(reinterpret_cast<__m512i>(u + 1024)), broadcast(0x1p-10f)); };
  const Numbers step = find(first, first + 63, 64, [&](Numbers u) { return mul(number(u), factor); }, [&](Numbers code) {
    const Vec middle = reinterpret_cast<Vec>((code << 20) + ((120 << 23) + (1 << 19)));
    return reinterpret_cast<Numbers>(_mm512_cvtps_epi32(mul(middle / factor, broadcast(1024.0f)))) - 1024;
  });
  for (int l = 0; l < kLanes; ++l) out.normal[l] = out.normal[l + kLanes] = static_cast<uint16_t>(step[l] + 1024 * (exponent - 15));

  // The first number whose code has all its digits.
  const auto is_small = [&](uint32_t u) { return f16_to_f32(static_cast<uint16_t>(u)) * inverse < 0x1p-6f; };
  const float about = 0x1p-6f / inverse;
  uint32_t normal = about < kMostF16 ? f32_to_f16(about) : 0x7c00;
  while (normal > 0 && !is_small(normal - 1)) --normal;
  while (normal < 0x7c00 && is_small(normal)) ++normal;
  out.least_normal = out.floor = 0;
  out.least = 1024;
  if (normal <= 1024) return known;  // subnormal numbers, whose codes begin anywhere, are left out
  const int32_t end = static_cast<int32_t>(normal), top = (end + 127) / 128 * 128, floor = top < 8192 ? 0 : top - 8192;
  out.least_normal = static_cast<uint16_t>(normal);
  out.floor = static_cast<uint16_t>(floor);
  out.least = 0;
  known &= f8_code_of(f16_to_f32(out.floor), inverse) == 0;
  for (int32_t i = 0; i < 64; i += kLanes) {
    const Numbers begin = floor + (lane + i) * 128, last = begin + 127 < end ? begin + 127 : Numbers{} + (end - 1);
    const auto times = [&](Numbers u) { return mul(to_floats(_mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(u))), broadcast(inverse)); };
    const Numbers small = find(begin, last, 128, times, [&](Numbers code) {
      const Vec middle = mul(add(_mm512_cvtepi32_ps(reinterpret_cast<__m512i>(code)), broadcast(0.5f)), broadcast(0x1p-9f));
      return reinterpret_cast<Numbers>(_mm512_cvtepu16_epi32(to_f16(middle / broadcast(inverse))));
    });
    for (int l = 0; l < kLanes; ++l) out.small[begin[l] >> 7 & 63] = static_cast<uint16_t>(small[l]);
  }
  return known;
}

// The steps in registers.
struct F8Table {
  Line normal, small[2], floor, least_normal, least;

  explicit F8Table(const F8Steps &steps) {
    const auto all = [](uint16_t x) { return _mm512_set1_epi16(static_cast<int16_t>(x)); };
    normal = load_line(reinterpret_cast<const char *>(steps.normal));
    for (int i = 0; i < 2; ++i) small[i] = load_line(reinterpret_cast<const char *>(steps.small + 32 * i));
    floor = all(steps.floor), least_normal = all(steps.least_normal), least = all(steps.least);
  }
  static inline Line magnitude(Line x) { return _mm512_and_si512(x, _mm512_set1_epi16(0x7fff)); }
  // How far numbers are above the least one; zeros count as the least.
  inline Line above_least(Line x) const {
    const Line u = magnitude(x);
    return _mm512_maskz_sub_epi16(_mm512_test_epi16_mask(u, u), u, least);
  }
  // Are all numbers zeros or between the least one and infinity?
  inline bool holds(Line x, Line y) const {
    return _mm512_cmpge_epu16_mask(_mm512_max_epu16(above_least(x), above_least(y)), _mm512_sub_epi16(_mm512_set1_epi16(0x7c00), least)) == 0;
  }
  // Words, without signs.
  inline Line codes(Line x) const {
    const Line bits = magnitude(x), u = _mm512_max_epu16(bits, floor);
    const Line of_normal = _mm512_permutexvar_epi16(_mm512_srli_epi16(u, 6), normal);
    const Line of_small = _mm512_permutex2var_epi16(small[0], _mm512_srli_epi16(u, 7), small[1]);
    const Line step = _mm512_mask_mov_epi16(of_normal, _mm512_cmplt_epu16_mask(u, least_normal), of_small);
    const Line code = _mm512_srli_epi16(_mm512_add_epi16(u, step), 7);
    return _mm512_maskz_min_epu16(_mm512_test_epi16_mask(bits, bits), code, _mm512_set1_epi16(kMostF8));
  }
};

#else

bool find_f8_steps(float, F8Steps &) { return false; }

#endif

}  // namespace
}  // namespace think::compact
