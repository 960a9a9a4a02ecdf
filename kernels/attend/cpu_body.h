// The loops of attend, written once and compiled once per instruction set. Every kernel keeps its accumulators in registers: `columns` of them times a
// few vectors of tokens (THINK_TILES), of rows (THINK_ROWS) or of channels (values). All sums are f32.
#pragma once

#include "../common/codes.h"
#include "columns.h"
#include "kernels.h"
#include "lanes.h"

namespace think::attend {
namespace {

constexpr int kLine = 64;                                 // bytes that one prefetch brings
constexpr int kColumns = kLanes == 16 ? 8 : 4;            // columns of a query block, and of one pass over a row
constexpr int kAccumulators = kRegisters == 32 ? 16 : 8;  // the rest of the registers holds rows and broadcasts

inline Pair zero_pair() { return {zero(), zero()}; }
inline Pair load_two(const float *p) { return {load(p), load(p + kLanes)}; }
inline void store_two(float *p, Pair v) {
  store(p, v.first);
  store(p + kLanes, v.second);
}
inline Pair fma(Pair a, Vec b, Pair c) { return {think::fma(a.first, b, c.first), think::fma(a.second, b, c.second)}; }
inline Pair add(Pair a, Pair b) { return {think::add(a.first, b.first), think::add(a.second, b.second)}; }

// ---- scores of tiles: vertical sums, one vector of tokens per row and a broadcast of the query --------------------------------------------------

// Pairs of vectors of tokens in one pass over the channels, and independent sums over the channels (few columns need them to hide the latency).
template <int C>
constexpr int kTilePairs = kLanes == 16 ? 1 : kLanes == 8 ? (C <= 2 ? 2 : 1) : C == 1 ? 4 : C == 2 ? kAccumulators / 4 : kAccumulators / 8;
template <int C>
constexpr int kTileSums = kLanes == 16 ? (C == 1 ? 4 : C == 2 ? 2 : 1) : C == 1 && kTilePairs<C> < 4 ? 2 : 1;

// Tokens first .. first + 2 * kLanes of a channel: numbers are a type with an element, codes are not.
template <class Element>
inline Pair load_tokens(const char *tile, int channel, int first) {
  if constexpr (requires { typename Element::Type; }) {
    return load_pair<Element>(reinterpret_cast<const typename Element::Type *>(tile) + static_cast<int64_t>(channel) * kTileTokens + first);
  } else {
    const CodePair codes = Element::load_key(reinterpret_cast<const uint8_t *>(tile) + key_row(channel, Element::dtype), first);
    return {codes.first, codes.second};
  }
}

template <class Element, int C>
inline void score_tile(const char *tile, const char *ahead, int channels, const float *query, const float *constant, float *score,
                       int64_t score_stride) {
  constexpr int P = kTilePairs<C>, U = kTileSums<C>;
  constexpr int row_bytes = kTileTokens * dtype_bits(Element::dtype) / 8;
  for (int token = 0; token < kTileTokens; token += P * 2 * kLanes) {
    Pair total[U][C][P];
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) {
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        total[0][c][p] = {broadcast(constant[c]), broadcast(constant[c])};
#pragma GCC unroll 16
        for (int u = 1; u < U; ++u) total[u][c][p] = zero_pair();
      }
    }
    const auto add_row = [&](int channel, Pair(&sum)[C][P]) {
      Pair keys[P];
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) keys[p] = load_tokens<Element>(tile, channel, token + p * 2 * kLanes);
      if (ahead) {
#pragma GCC unroll 2
        for (int line = 0; line < row_bytes; line += kLine) prefetch_far_behind(keys[P - 1].second, ahead + static_cast<int64_t>(channel) * row_bytes + line);
      }
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) {
        const Vec factor = broadcast(query[channel * C + c]);
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) sum[c][p] = fma(keys[p], factor, sum[c][p]);
      }
    };
    int channel = 0;
    for (; channel + U <= channels; channel += U) {
#pragma GCC unroll 16
      for (int u = 0; u < U; ++u) add_row(channel + u, total[u]);
    }
    for (; channel < channels; ++channel) add_row(channel, total[0]);
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) {
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        Pair sum = total[0][c][p];
#pragma GCC unroll 16
        for (int u = 1; u < U; ++u) sum = add(sum, total[u][c][p]);
        store_two(score + c * score_stride + token + p * 2 * kLanes, join<Element>(sum));
      }
    }
    ahead = nullptr;  // one pass has fetched the whole tile
  }
}

template <class Element>
void score_tiles(const ScoreArguments &a) {
  const char *ahead = a.ahead;
  for (int32_t column = 0; column < a.columns; column += kColumns) {
    const int32_t width = a.columns - column < kColumns ? a.columns - column : kColumns;
    with_columns<kColumns>(width, [&](auto c) {
      score_tile<Element, decltype(c)::value>(a.key, ahead, a.channels,
                                              a.query + static_cast<int64_t>(column) * a.channels, a.constant + column,
                                              a.score + column * a.score_stride, a.score_stride);
    });
    ahead = nullptr;
  }
}

// ---- scores of rows: dot products, several rows times several columns at once, all horizontal sums together ---------------------------------------

template <class Element, int C>
inline void score_row_block(const char *key, int64_t row_stride, const char *ahead, int tokens, int channels, const float *query,
                            const float *constant, float *score, int64_t score_stride) {
  constexpr int T = kSums / (C == 3 ? 4 : C);
  const int64_t query_stride = padded(channels);
  for (int token = 0; token < tokens; token += T) {
    const typename Element::Type *row[T];
    // Rows behind the end are never read: the last one stands in for them and its scores are overwritten or masked.
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      row[t] = reinterpret_cast<const typename Element::Type *>(key + (token + t < tokens ? token + t : tokens - 1) * row_stride);
    }
    Vec total[kSums];
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) total[i] = zero();
    const auto add_channels = [&](const Pair(&keys)[T], int channel) {
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) {
        const Pair factor = load_two(query + c * query_stride + channel);
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) total[c * T + t] = think::fma(keys[t].first, factor.first, total[c * T + t]);
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) total[c * T + t] = think::fma(keys[t].second, factor.second, total[c * T + t]);
      }
    };
    int channel = 0;
    for (; channel + 2 * kLanes <= channels; channel += 2 * kLanes) {
      Pair keys[T];
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) {
        keys[t] = load_pair<Element>(row[t] + channel);
        if (ahead) {
#pragma GCC unroll 4
          for (int byte = 0; byte < 2 * kLanes * static_cast<int>(sizeof(typename Element::Type)); byte += kLine) {
            prefetch_far_behind(keys[t].second, ahead + (token + t) * row_stride + channel * static_cast<int>(sizeof(typename Element::Type)) + byte);
          }
        }
      }
      add_channels(keys, channel);
    }
    if (channel < channels) {
      Pair keys[T];
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) {
        keys[t] = load_pair_part<Element>(row[t] + channel, channels - channel);
        if (ahead) prefetch_far(ahead + (token + t) * row_stride + channel * static_cast<int>(sizeof(typename Element::Type)));
      }
      add_channels(keys, channel);
    }
    float result[kSums];
    sums(total, result);
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      float *out = score + c * score_stride + token;
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) out[t] = result[c * T + t] + constant[c];
    }
  }
}

template <class Element>
void score_rows(const ScoreArguments &a) {
  constexpr int32_t block = 4;
  const char *ahead = a.ahead;
  for (int32_t column = 0; column < a.columns; column += block) {
    const auto pass = [&](auto c) {
      score_row_block<Element, decltype(c)::value>(a.key, a.row_stride, ahead, a.tokens, a.channels, a.query + column * static_cast<int64_t>(padded(a.channels)),
                                                   a.constant + column, a.score + column * a.score_stride, a.score_stride);
    };
    switch (a.columns - column) {
      case 1: pass(Constant<1>()); break;
      case 2: pass(Constant<2>()); break;
      case 3: pass(Constant<3>()); break;
      default: pass(Constant<4>()); break;
    }
    ahead = nullptr;
  }
}

// ---- weighted sums of value rows ------------------------------------------------------------------------------------------------------------------

// Where the prefetches of a block of channels start and how they go on from token to token.
struct Ahead {
  const char *start;  // NULL = none
  int64_t stride;
};

template <class Element, int C, int P, bool Part>
inline void add_value_block(const char *value, int64_t row_stride, Ahead ahead, int tokens, int width, const float *weight, int64_t weight_stride, float *sum,
                            int64_t sum_stride) {
  constexpr int pair_bytes = 2 * kLanes * static_cast<int>(sizeof(typename Element::Type));
  Pair total[C][P];
#pragma GCC unroll 16
  for (int c = 0; c < C; ++c) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) total[c][p] = split<Element>(load_two(sum + c * sum_stride + p * 2 * kLanes));
  }
  for (int token = 0; token < tokens; ++token) {
    const typename Element::Type *row = reinterpret_cast<const typename Element::Type *>(value + token * row_stride);
    Vec factor[C];
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) factor[c] = broadcast(weight[c * weight_stride + token]);
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      const Pair values = Part ? load_pair_part<Element>(row, width) : load_pair<Element>(row + p * 2 * kLanes);
      if (ahead.start) {
#pragma GCC unroll 8
        for (int byte = p * pair_bytes; byte < (p + 1) * pair_bytes; byte += kLine) {
          if (byte % kLine == 0) prefetch_far_behind(values.second, ahead.start + byte);
        }
      }
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) total[c][p] = fma(values, factor[c], total[c][p]);
    }
    ahead.start += ahead.stride;
  }
#pragma GCC unroll 16
  for (int c = 0; c < C; ++c) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) store_two(sum + c * sum_stride + p * 2 * kLanes, join<Element>(total[c][p]));
  }
}

template <class Element, int C>
inline void add_value_columns(const ValueArguments &a, int32_t column, const char *ahead) {
  constexpr int P = C == 1 ? 4 : kAccumulators / 2 / (C <= 2 ? 2 : C <= 4 ? 4 : 8);
  constexpr int pair = 2 * kLanes, element_bytes = static_cast<int>(sizeof(typename Element::Type));
  const float *weight = a.weight + column * a.weight_stride;
  float *sum = a.sum + column * a.sum_stride;
  const auto fetch = [&](int32_t channel, int32_t width) -> Ahead {
    if (!ahead) return {nullptr, 0};
    // Rows without gaps are fetched in order of address, although the blocks of channels jump from row to row: memory likes that better.
    if (a.row_stride == a.channels * element_bytes) return {ahead + static_cast<int64_t>(channel) * a.tokens * element_bytes, width * element_bytes};
    return {ahead + channel * element_bytes, a.row_stride};
  };
  int32_t channel = 0;
  for (; channel + P * pair <= a.channels; channel += P * pair) {
    add_value_block<Element, C, P, false>(a.value + channel * element_bytes, a.row_stride, fetch(channel, P * pair), a.tokens, 0, weight, a.weight_stride,
                                          sum + channel, a.sum_stride);
  }
  for (; channel + pair <= a.channels; channel += pair) {
    add_value_block<Element, C, 1, false>(a.value + channel * element_bytes, a.row_stride, fetch(channel, pair), a.tokens, 0, weight, a.weight_stride,
                                          sum + channel, a.sum_stride);
  }
  if (channel < a.channels) {
    const int32_t width = a.channels - channel;
    add_value_block<Element, C, 1, true>(a.value + channel * element_bytes, a.row_stride, fetch(channel, width), a.tokens, width, weight, a.weight_stride,
                                         sum + channel, a.sum_stride);
  }
}

template <class Element>
void add_values(const ValueArguments &a) {
  const char *ahead = a.ahead;
  for (int32_t column = 0; column < a.columns; column += kColumns) {
    const int32_t width = a.columns - column < kColumns ? a.columns - column : kColumns;
    with_columns<kColumns>(width, [&](auto c) { add_value_columns<Element, decltype(c)::value>(a, column, ahead); });
    ahead = nullptr;
  }
}

// ---- softmax of a step ----------------------------------------------------------------------------------------------------------------------------

inline Vec divide(Vec a, Vec b) { return a / b; }

// Relative error below 3e-7: a polynomial near 0, where 1 - 2 / (exp(2x) + 1) would cancel.
inline Vec tanh(Vec x) {
  const Vec square = mul(x, x);
  Vec p = broadcast(-5.70498872745e-3f);
  p = think::fma(p, square, broadcast(2.06390887954e-2f));
  p = think::fma(p, square, broadcast(-5.37397155531e-2f));
  p = think::fma(p, square, broadcast(1.33314422036e-1f));
  p = think::fma(p, square, broadcast(-3.33332819422e-1f));
  const Vec near = think::fma(mul(p, square), x, x);
  const Vec magnitude = max(x, sub(zero(), x));
  const Vec clamped = magnitude > broadcast(10.0f) ? broadcast(10.0f) : magnitude;
  const Vec positive = sub(broadcast(1.0f), divide(broadcast(2.0f), think::add(exp(think::add(clamped, clamped)), broadcast(1.0f))));
  const Vec far = x < zero() ? sub(zero(), positive) : positive;
  return magnitude < broadcast(0.625f) ? near : far;
}

// Without branches on what the logits are: whether a maximum grows cannot be predicted, and a wrong guess costs more than scaling by 1.
void update_softmax(const SoftmaxArguments &a) {
  const float infinity = bits_float(0x7f800000);
  const int32_t end = (a.tokens + kLanes - 1) / kLanes * kLanes;
  for (int32_t first = 0; first < a.columns; first += kLanes) {
    const int32_t columns = a.columns - first < kLanes ? a.columns - first : kLanes;
    float largest[kLanes] = {}, factor[kLanes];
    for (int32_t c = 0; c < columns; ++c) {
      float *score = a.score + (first + c) * static_cast<int64_t>(kScoreStride);
      const int32_t visible = a.visible ? a.visible[first + c] : a.tokens;
      if (a.softcap > 0) {
        const Vec cap = broadcast(a.softcap), inverse = broadcast(1.0f / a.softcap);
        for (int32_t t = 0; t < visible; t += kLanes) store(score + t, mul(cap, tanh(mul(load(score + t), inverse))));
      }
      // Whatever the kernels found behind the last token may be NaN: it is gone before the maximum is taken.
      for (int32_t t = visible; t < end; ++t) score[t] = -infinity;
      Vec most = load(score);
      for (int32_t t = kLanes; t < end; t += kLanes) most = max(most, load(score + t));
      largest[c] = maximum(most);
    }
    const Vec before = load(a.maximum + first), step = load(largest);
    const Vec after = step <= before ? before : step;  // a NaN of the step stays
    // Equal ones may both be -inf, whose difference is none.
    const Vec scale = before == after ? broadcast(1.0f) : exp(sub(before, after));
    store(a.maximum + first, after);
    store(a.mass + first, mul(load(a.mass + first), scale));
    store(factor, scale);
    for (int32_t c = 0; c < columns; ++c) {
      float *score = a.score + (first + c) * static_cast<int64_t>(kScoreStride), *sum_of_column = a.sum + (first + c) * a.sum_stride;
      for (int32_t j = 0; j < a.channels; j += kLanes) store(sum_of_column + j, mul(load(sum_of_column + j), broadcast(factor[c])));
      const float column_maximum = a.maximum[first + c];
      if (column_maximum == -infinity) {
        // Nothing to see, unless a NaN was lost among the lanes of the maximum.
        for (int32_t t = 0; t < end; ++t) {
          if (score[t] != score[t]) a.maximum[first + c] = a.mass[first + c] = score[t];
          score[t] = 0;
        }
        continue;
      }
      const Vec shift = broadcast(column_maximum);
      Vec mass = zero();
      for (int32_t t = 0; t < end; t += kLanes) {
        const Vec p = exp(sub(load(score + t), shift));
        mass = think::add(mass, p);
        store(score + t, p);
      }
      a.mass[first + c] += sum(mass);
    }
  }
}

// ---- rows of queries and outputs --------------------------------------------------------------------------------------------------------------------

template <class Element>
void widen_row(const void *row, int64_t n, float factor, float *out) {
  const typename Element::Type *in = static_cast<const typename Element::Type *>(row);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, mul(Element::load(in + i), broadcast(factor)));
  for (; i < n; ++i) out[i] = load_element(row, Element::dtype, i) * factor;
}

template <class Element>
void narrow_row(const float *row, int64_t n, float factor, void *out) {
  typename Element::Type *to = static_cast<typename Element::Type *>(out);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Element::store(to + i, mul(load(row + i), broadcast(factor)));
  for (; i < n; ++i) store_element(out, Element::dtype, i, row[i] * factor);
}

}  // namespace
}  // namespace think::attend

#include "quantized_body.h"

namespace think::attend {
namespace {

constexpr Kernels kernel_table() {
  return {kColumns,
          {{}, {}, kSplit<BF16> ? 2 * kLanes : 0},
          {{score_rows<F32>, score_rows<F16>, score_rows<BF16>},
           {score_tiles<F32>, score_tiles<F16>, score_tiles<BF16>, score_codes<U8>, score_codes<U4>, score_codes<U2>, score_tiles<F8>}},
          {add_values<F32>, add_values<F16>, add_values<BF16>, add_code_values<U8>, add_code_values<U4>, add_code_values<U2>, add_code_values<F8>},
          update_softmax,
          {widen_row<F32>, widen_row<F16>, widen_row<BF16>},
          {narrow_row<F32>, narrow_row<F16>, narrow_row<BF16>},
          false};
}

}  // namespace
}  // namespace think::attend
