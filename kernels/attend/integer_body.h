// Attention over tiles of codes by integer dot products (VNNI), for processors that multiply 64 bytes where they multiply 16 floats.
//
// Scores of keys and sums of values are the same loop: sum[lane] += weight[row] * code[row][lane], where a row is a channel of keys and its lanes are tokens,
// or a row is a token of values and its lanes are channels. Scales are folded into the weights (the query, or the probabilities), which then become integers of
// 23 bits, as exact as the f32 sums that they stand for: three signed digits of 8 bits, each with sums of its own. Zeros go into one constant per column.
#pragma once

#include "../common/codes.h"
#include "columns.h"
#include "kernels.h"

namespace think::attend {
namespace {

constexpr int kColumns = 4;  // whose weights are made at once
constexpr int kDigits = 3;
constexpr int kGroup = 4;    // rows whose codes lie side by side in a 32-bit word

// Digits of weights, by column. Those of four rows are four words: low, middle, high, nothing.
using Digits = int32_t[kMaxChannels];

// ---- codes of four rows, lane by lane ------------------------------------------------------------------------------------------------------------

// Byte 4 l + r of vector v comes from byte index[v][4 l + r] of four consecutive rows, shifted down by shift[v][l] bits: code 16 v + l of row r.
struct Order {
  alignas(64) uint8_t index[2][64];
  alignas(64) uint32_t shift[2][16];
};

// Paired: the bytes of two rows take turns (keys of U2).
constexpr Order order_of(int bits, int width, bool paired = false) {
  Order order{};
  const int row_bytes = width * bits / 8;
  for (int lane = 0; lane < width; ++lane) {
    for (int row = 0; row < kGroup; ++row) {
      const int place = paired ? row / 2 * 2 * row_bytes + row % 2 + lane % row_bytes * 2 : row * row_bytes + lane % row_bytes;
      order.index[lane / 16][lane % 16 * kGroup + row] = static_cast<uint8_t>(place);
    }
    order.shift[lane / 16][lane % 16] = static_cast<uint32_t>(lane / row_bytes * bits);
  }
  return order;
}

// By width / 8 - 1.
template <class Code>
constexpr Order kOrders[4] = {order_of(dtype_bits(Code::dtype), 8), order_of(dtype_bits(Code::dtype), 16), order_of(dtype_bits(Code::dtype), 24),
                              order_of(dtype_bits(Code::dtype), 32)};
template <class Code>
constexpr Order kKeyOrder = order_of(dtype_bits(Code::dtype), kTileTokens, Code::dtype == THINK_U2);

// `bytes` of the rows may be read.
template <class Code, int V, bool Part>
inline void load_rows(const uint8_t *rows, int bytes, const Order &order, __m512i (&codes)[V]) {
  const auto load_line = [&](int line) {
    if (!Part) return _mm512_loadu_si512(rows + 64 * line);
    const int left = bytes - 64 * line;
    return _mm512_maskz_loadu_epi8(left >= 64 ? ~uint64_t{0} : left <= 0 ? 0 : (uint64_t{1} << left) - 1, rows + 64 * line);
  };
  const __m512i first = load_line(0);
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v) {
    const __m512i index = _mm512_load_si512(order.index[v]);
    if constexpr (Code::dtype == THINK_U8) {
      codes[v] = _mm512_permutex2var_epi8(first, index, load_line(1));
    } else {
      codes[v] = _mm512_srlv_epi32(_mm512_permutexvar_epi8(index, first), _mm512_load_si512(order.shift[v]));
      codes[v] = _mm512_and_si512(codes[v], _mm512_set1_epi8(static_cast<char>(most_code(Code::dtype))));
    }
  }
}

// ---- weights as digits ---------------------------------------------------------------------------------------------------------------------------

// The largest weight as an integer. In f32 its sum with kBias has a last bit that counts 1 and bytes that are the digits plus 0x80, 0x80 and 0x40.
constexpr float kMostInteger = 4161000.0f, kBias = 8388608.0f + 0x408080;

// What becomes of 16 weights, times `inverse` of what 1 counts.
inline void store_digits(int32_t *digits, Vec weights, Vec inverse) {
  const __m512i bytes = _mm512_sub_epi8(_mm512_castps_si512(fma(weights, inverse, broadcast(kBias))), _mm512_set1_epi32(0x4b408080));
  const __m512i turned = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  _mm512_store_si512(digits, _mm512_shuffle_epi8(bytes, turned));
}

// One number for each of four vectors, from all of its lanes.
template <class Operation>
inline __m128 reduce(const Vec (&x)[kColumns], const Operation &operation) {
  const Vec a = operation(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
  const Vec b = operation(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
  Vec all = operation(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
  all = operation(all, _mm512_shuffle_f32x4(all, all, 0x4e));
  return _mm512_castps512_ps128(operation(all, _mm512_shuffle_f32x4(all, all, 0xb1)));
}

// What 1 counts in four columns, from the largest weight of each, and its inverse. Weights so small that this would overflow count as none.
inline void units(__m128 largest, float (&inverse)[kColumns], float (&step)[kColumns]) {
  _mm_store_ps(inverse, _mm_maskz_div_ps(_mm_cmp_ps_mask(largest, _mm_set1_ps(1e-30f), _CMP_GT_OQ), _mm_set1_ps(kMostInteger), largest));
  _mm_store_ps(step, _mm_mul_ps(largest, _mm_set1_ps(1 / kMostInteger)));
}

// ---- the loop ------------------------------------------------------------------------------------------------------------------------------------

// The digits come from memory with the multiplication: loaded first, they would take as many instructions again, which compilers do not see.
inline void add_products(__m512i &sum, __m512i codes, const int32_t &digits) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(codes), "m"(digits));
}

// Calls finish(column, vector of lanes, sums) with the sums over `count` rows, in units of what a weight of 1 counts. All sums live in registers from the first
// row to the last; Part: the last group has fewer than four rows.
template <class Code, int C, int V, bool Part, class Finish>
[[gnu::noinline]] void add_rows(const uint8_t *rows, int row_bytes, int count, const Order &order, const char *ahead, const Digits *digits,
                                const Finish &finish) {
  __m512i sum[C][kDigits][V];
#pragma GCC unroll 4
  for (int c = 0; c < C; ++c) {
#pragma GCC unroll 3
    for (int d = 0; d < kDigits; ++d) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[c][d][v] = _mm512_setzero_si512();
    }
  }
  const int group_bytes = kGroup * row_bytes;
#pragma GCC unroll 1
  for (int row = 0; row < count; row += kGroup, rows += group_bytes) {
    __m512i codes[V];
    load_rows<Code, V, Part>(rows, (count - row) * row_bytes, order, codes);
    if (ahead) {
      prefetch_far_behind(_mm512_castsi512_ps(codes[V - 1]), ahead);
      if (group_bytes > 64) prefetch_far_behind(_mm512_castsi512_ps(codes[V - 1]), ahead + 64);
      ahead += group_bytes;
    }
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
#pragma GCC unroll 3
      for (int d = 0; d < kDigits; ++d) {
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) add_products(sum[c][d][v], codes[v], digits[c][row + d]);
      }
    }
  }
#pragma GCC unroll 4
  for (int c = 0; c < C; ++c) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      const __m512i high = _mm512_add_epi32(_mm512_slli_epi32(sum[c][2][v], 8), sum[c][1][v]);
      finish(c, v, fma(_mm512_cvtepi32_ps(high), broadcast(256.0f), _mm512_cvtepi32_ps(sum[c][0][v])));
    }
  }
}

// Two columns at a time: the sums of more would take most of the registers, and the compiler then keeps them in memory.
template <class Code, int C, int V, bool Part, class Finish>
inline void add_rows_of_columns(const uint8_t *rows, int row_bytes, int count, const Order &order, const char *ahead, const Digits *digits,
                                const Finish &finish) {
  constexpr int now = C < 2 ? C : 2;
  add_rows<Code, now, V, Part>(rows, row_bytes, count, order, ahead, digits, finish);
  if constexpr (C > 2) {
    add_rows<Code, C - 2, V, Part>(rows, row_bytes, count, order, nullptr, digits + 2, [&](int c, int v, Vec sum) { finish(c + 2, v, sum); });
  }
}

// ---- scores --------------------------------------------------------------------------------------------------------------------------------------

template <class Code, int C>
inline void score_columns(const ScoreArguments &a, int32_t column, const char *ahead, const float *scale, const float *start) {
  alignas(64) float scaled[C][kMaxChannels];
  alignas(64) Digits digits[C];
  Vec most[kColumns] = {}, total[kColumns] = {};
#pragma GCC unroll 4
  for (int c = 0; c < C; ++c) {
    const float *query = a.query + static_cast<int64_t>(column + c) * padded(a.channels);
    for (int32_t i = 0; i < a.channels; i += kLanes) {
      const Vec q = load(query + i), s = mul(q, load(scale + i));
      store(scaled[c] + i, s);
      most[c] = max(most[c], _mm512_abs_ps(s));
      total[c] = fma(q, load(start + i), total[c]);
    }
  }
  alignas(16) float inverse[kColumns], step[kColumns], constant[kColumns];
  units(reduce(most, [](Vec x, Vec y) { return max(x, y); }), inverse, step);
  _mm_store_ps(constant, reduce(total, [](Vec x, Vec y) { return add(x, y); }));
#pragma GCC unroll 4
  for (int c = 0; c < C; ++c) {
    for (int32_t i = 0; i < a.channels; i += kLanes) store_digits(digits[c] + i, load(scaled[c] + i), broadcast(inverse[c]));
  }
  const auto finish = [&](int c, int v, Vec sum) {
    store(a.score + (column + c) * a.score_stride + v * kLanes, fma(sum, broadcast(step[c]), broadcast(a.constant[column + c] + constant[c])));
  };
  const auto *rows = reinterpret_cast<const uint8_t *>(a.key);
  // A line of U2 holds 8 rows: 4 alone, with scales and zeros, are less. The row behind an odd number of them has codes and digits of zero.
  constexpr bool pairs = Code::dtype == THINK_U2;
  const int32_t count = key_rows(a.channels, Code::dtype);
  if (a.channels % kGroup || (pairs && a.channels < 2 * kGroup)) {
    add_rows_of_columns<Code, C, 2, true>(rows, row_bytes_of(Code::dtype), count, kKeyOrder<Code>, ahead, digits, finish);
  } else {
    add_rows_of_columns<Code, C, 2, false>(rows, row_bytes_of(Code::dtype), count, kKeyOrder<Code>, ahead, digits, finish);
  }
}

template <class Code>
void score_codes(const ScoreArguments &a) {
  const TileLayout layout = key_tile(a.channels, Code::dtype);
  alignas(64) float scale[kMaxChannels + kLanes], start[kMaxChannels + kLanes];
  widen_f16(a.key + layout.scale, a.channels, scale);
  widen_f16(a.key + layout.zero, a.channels, start);
  const char *ahead = a.ahead;
  if (ahead) prefetch_far(ahead + layout.scale, layout.bytes - layout.scale);
  for (int32_t column = 0; column < a.columns; column += kColumns) {
    const int32_t width = a.columns - column < kColumns ? a.columns - column : kColumns;
    with_columns<kColumns>(width, [&](auto c) { score_columns<Code, decltype(c)::value>(a, column, ahead, scale, start); });
    ahead = nullptr;
  }
}

// ---- values --------------------------------------------------------------------------------------------------------------------------------------

// What a group of channels makes of the probabilities of C columns.
template <int C>
struct Weights {
  alignas(64) Digits digits[C];
  alignas(16) float constant[kColumns], step[kColumns];
};

// Each column has a unit of its own, from the largest of its weights in this tile: where nearly all of its mass is in other tiles, what is here still counts.
template <int C>
inline void fold_weights(const char *scales, const char *zeros, int tokens, const float *probability, int64_t stride, Weights<C> &weights) {
  constexpr int kVectors = kTileTokens / kLanes;
  const uint32_t present = tokens == kTileTokens ? ~0u : (1u << tokens) - 1;
  const auto load_present = [&](const char *array, int v) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(array) + v);
    return _mm512_maskz_cvtph_ps(static_cast<__mmask16>(present >> (v * kLanes)), half);
  };
  const Vec scale[kVectors] = {load_present(scales, 0), load_present(scales, 1)}, start[kVectors] = {load_present(zeros, 0), load_present(zeros, 1)};
  Vec weight[C][kVectors], most[kColumns] = {}, total[kColumns] = {};
#pragma GCC unroll 4
  for (int c = 0; c < C; ++c) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const Vec p = _mm512_maskz_loadu_ps(static_cast<__mmask16>(present >> (v * kLanes)), probability + c * stride + v * kLanes);
      total[c] = fma(p, start[v], total[c]);
      weight[c][v] = mul(p, scale[v]);
      most[c] = max(most[c], weight[c][v]);
    }
  }
  alignas(16) float inverse[kColumns];
  units(reduce(most, [](Vec x, Vec y) { return max(x, y); }), inverse, weights.step);
  _mm_store_ps(weights.constant, reduce(total, [](Vec x, Vec y) { return add(x, y); }));
#pragma GCC unroll 4
  for (int c = 0; c < C; ++c) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store_digits(weights.digits[c] + v * kLanes, weight[c][v], broadcast(inverse[c]));
  }
}

template <class Code, int C, int V>
[[gnu::noinline]] void add_block(const uint8_t *rows, int32_t width, const char *ahead, const Weights<C> &weights, float *out, int64_t out_stride) {
  const auto finish = [&](int c, int v, Vec total) {
    const int32_t left = width - v * kLanes;
    const auto lanes = static_cast<__mmask16>(left >= kLanes ? 0xffff : (1 << left) - 1);
    float *to = out + c * out_stride + v * kLanes;
    const Vec more = fma(total, broadcast(weights.step[c]), broadcast(weights.constant[c]));
    _mm512_mask_storeu_ps(to, lanes, add(_mm512_maskz_loadu_ps(lanes, to), more));
  };
  add_rows_of_columns<Code, C, V, false>(rows, width * dtype_bits(Code::dtype) / 8, kTileTokens, kOrders<Code>[width / 8 - 1], ahead, weights.digits, finish);
}

template <class Code, int C>
inline void add_value_columns(const ValueArguments &a, int32_t column, const char *ahead) {
  const TileLayout layout = value_tile(a.channels, Code::dtype);
  Weights<C> weights;
  int64_t done = 0;
  for (int32_t first = 0, of_group = -1; first < a.channels; first += kBlockChannels) {
    const int32_t width = a.channels - first < kBlockChannels ? a.channels - first : kBlockChannels, group = value_group(a.channels, first);
    if (group != of_group) {
      const int64_t place = group * int64_t{2} * kTileTokens;
      fold_weights<C>(a.value + layout.scale + place, a.value + layout.zero + place, a.tokens, a.weight + column * a.weight_stride, a.weight_stride, weights);
      if (ahead) {
        prefetch_far(ahead + layout.scale + place);
        prefetch_far(ahead + layout.zero + place);
      }
      of_group = group;
    }
    // Behind a narrow block's last rows more is loaded than they have: scales and zeros.
    const auto *rows = reinterpret_cast<const uint8_t *>(a.value + done);
    float *out = a.sum + column * a.sum_stride + first;
    const char *next = ahead ? ahead + done : nullptr;
    const auto add = width <= kLanes ? add_block<Code, C, 1> : add_block<Code, C, 2>;
    add(rows, width, next, weights, out, a.sum_stride);
    done += int64_t{width} * kTileTokens * dtype_bits(Code::dtype) / 8;
  }
}

template <class Code>
void add_code_values(const ValueArguments &a) {
  const char *ahead = a.ahead;
  for (int32_t column = 0; column < a.columns; column += kColumns) {
    const int32_t width = a.columns - column < kColumns ? a.columns - column : kColumns;
    with_columns<kColumns>(width, [&](auto c) { add_value_columns<Code, decltype(c)::value>(a, column, ahead); });
    ahead = nullptr;
  }
}

constexpr CodeKernels code_kernels() { return {{score_codes<U8>, score_codes<U4>, score_codes<U2>}, {add_code_values<U8>, add_code_values<U4>, add_code_values<U2>}}; }

}  // namespace
}  // namespace think::attend
