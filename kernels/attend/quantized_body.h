// The loops over tiles of codes (kernels/common/quantized.h), compiled once per instruction set. Codes become floats in registers and nothing else: scales are
// folded into the query (keys) or the probabilities (values), zeros into one constant per column, so a number costs what a 16-bit one does.
#pragma once

#include "../common/codes.h"
#include "kernels.h"
#include "lanes.h"

namespace think::attend {
namespace {

inline Pair pair_of(CodePair codes) { return {codes.first, codes.second}; }

// The query of C columns times the scales of the channels, and what the zeros add to each column's score.
template <int C>
inline void fold_scales(const float *query, int channels, const float *scale, const float *start, const float *constant, float *scaled, float *out) {
  if constexpr (kLanes % C == 0) {
    Vec total = zero();
    const int numbers = channels * C;
    int i = 0;
    for (; i + kLanes <= numbers; i += kLanes) {
      const Vec q = load(query + i);
      store(scaled + i, mul(q, spread<C>(scale + i / C)));
      total = think::fma(q, spread<C>(start + i / C), total);
    }
    float sum[kLanes];
    store(sum, total);
    for (int l = C; l < kLanes; ++l) sum[l % C] += sum[l];
    for (; i < numbers; ++i) {
      scaled[i] = query[i] * scale[i / C];
      sum[i % C] += query[i] * start[i / C];
    }
    for (int c = 0; c < C; ++c) out[c] = constant[c] + sum[c];
  } else {
    float sum[C] = {};
    for (int channel = 0; channel < channels; ++channel) {
      for (int c = 0; c < C; ++c) {
        scaled[channel * C + c] = query[channel * C + c] * scale[channel];
        sum[c] += query[channel * C + c] * start[channel];
      }
    }
    for (int c = 0; c < C; ++c) out[c] = constant[c] + sum[c];
  }
}

template <class Code>
void score_codes(const ScoreArguments &a) {
  const TileLayout layout = key_tile(a.channels, Code::dtype);
  alignas(64) float scale[kMaxChannels + kLanes], start[kMaxChannels + kLanes], scaled[kMaxChannels * kColumns];
  widen_f16(a.key + layout.scale, a.channels, scale);
  widen_f16(a.key + layout.zero, a.channels, start);
  const char *ahead = a.ahead;
  if (ahead) {
    for (int64_t byte = layout.scale; byte < layout.bytes; byte += kLine) prefetch_far(ahead + byte);
  }
  for (int32_t column = 0; column < a.columns; column += kColumns) {
    const int32_t width = a.columns - column < kColumns ? a.columns - column : kColumns;
    with_columns<kColumns>(width, [&](auto c) {
      constexpr int C = decltype(c)::value;
      float constant[C] = {};
      fold_scales<C>(a.query + static_cast<int64_t>(column) * a.channels, a.channels, scale, start, a.constant + column, scaled, constant);
      score_tile<Code, C>(a.key, ahead, a.channels, scaled, constant, a.score + column * a.score_stride, a.score_stride);
    });
    ahead = nullptr;
  }
}

// What each token of a tile counts in a group of channels, and what its zeros add.
template <int C>
inline void fold_weights(const char *scales, const char *zeros, int tokens, const float *weight, int64_t weight_stride, float (&scaled)[C][kTileTokens],
                         float (&constant)[C]) {
  float scale[kTileTokens], start[kTileTokens];
  widen_f16(scales, kTileTokens, scale);
  widen_f16(zeros, kTileTokens, start);
  for (int c = 0; c < C; ++c) {
    const float *of_column = weight + c * weight_stride;
    if (tokens == kTileTokens) {
      Vec total = zero();
      for (int t = 0; t < kTileTokens; t += kLanes) {
        const Vec w = load(of_column + t);
        store(scaled[c] + t, mul(w, load(scale + t)));
        total = think::fma(w, load(start + t), total);
      }
      constant[c] = sum(total);
      continue;
    }
    constant[c] = 0;
    for (int t = 0; t < tokens; ++t) {
      scaled[c][t] = of_column[t] * scale[t];
      constant[c] += of_column[t] * start[t];
    }
  }
}

// The same of F8.
template <int C>
inline void scale_weights(float scale, int tokens, const float *weight, int64_t weight_stride, float (&scaled)[C][kTileTokens]) {
  for (int c = 0; c < C; ++c) {
    for (int t = 0; t < tokens; ++t) scaled[c][t] = weight[c * weight_stride + t] * (scale * kF8Unit);
  }
}

// Channels first .. first + 2 * kLanes * P of a block: sum += constant + weight * code.
template <class Code, int C, int P>
inline void add_codes(const uint8_t *rows, int first, const char *ahead, int tokens, const float (&weight)[C][kTileTokens], const float (&constant)[C], float *out,
                      int64_t sum_stride) {
  const int row_bytes = row_bytes_of(Code::dtype);
  Pair total[C][P];
#pragma GCC unroll 16
  for (int c = 0; c < C; ++c) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) total[c][p] = {broadcast(constant[c]), broadcast(constant[c])};
  }
  for (int token = 0; token < tokens; ++token, rows += row_bytes) {
    Pair codes[P];
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) codes[p] = pair_of(Code::load(rows, first + p * 2 * kLanes));
    if (ahead) prefetch_far_behind(codes[P - 1].second, ahead + token * row_bytes);
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) {
      const Vec factor = broadcast(weight[c][token]);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) total[c][p] = fma(codes[p], factor, total[c][p]);
    }
  }
#pragma GCC unroll 16
  for (int c = 0; c < C; ++c) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      float *to = out + c * sum_stride + p * 2 * kLanes;
      store_two(to, add(load_two(to), total[c][p]));
    }
  }
}

template <class Code, int C>
inline void add_code_block(const uint8_t *rows, const char *ahead, int tokens, const float (&weight)[C][kTileTokens], const float (&constant)[C], float *out,
                           int64_t sum_stride) {
  constexpr int kPairs = kBlockChannels / (2 * kLanes);
  constexpr int fitting = kAccumulators / (2 * C), P = fitting < 1 ? 1 : fitting < kPairs ? (fitting >= 4 ? 4 : fitting >= 2 ? 2 : 1) : kPairs;
  for (int first = 0; first < kBlockChannels; first += P * 2 * kLanes) {
    add_codes<Code, C, P>(rows, first, ahead, tokens, weight, constant, out + first, sum_stride);
    ahead = nullptr;
  }
}

template <class Code, int C>
inline void add_value_tile(const ValueArguments &a, int32_t column, const char *ahead) {
  const TileLayout layout = value_tile(a.channels, Code::dtype);
  const float *weight = a.weight + column * a.weight_stride;
  float *out = a.sum + column * a.sum_stride;
  alignas(64) float scaled[C][kTileTokens];
  float constant[C] = {};
  const auto *rows = reinterpret_cast<const uint8_t *>(a.value);
  for (int32_t first = 0, of_group = -1; first < a.channels; first += kBlockChannels) {
    const int32_t width = a.channels - first < kBlockChannels ? a.channels - first : kBlockChannels;
    const int32_t group = has_groups(Code::dtype) ? value_group(a.channels, first) : 0;
    if constexpr (!has_groups(Code::dtype)) {
      if (first == 0) scale_weights<C>(a.scale, a.tokens, weight, a.weight_stride, scaled);
    } else if (group != of_group) {
      const int64_t place = group * int64_t{2} * kTileTokens;
      fold_weights<C>(a.value + layout.scale + place, a.value + layout.zero + place, a.tokens, weight, a.weight_stride, scaled, constant);
      if (ahead) {
        prefetch_far(ahead + layout.scale + place);
        prefetch_far(ahead + layout.zero + place);
      }
      of_group = group;
    }
    const int64_t done = reinterpret_cast<const char *>(rows) - a.value;
    if (width == kBlockChannels) {
      add_code_block<Code, C>(rows, ahead ? ahead + done : nullptr, a.tokens, scaled, constant, out + first, a.sum_stride);
    } else {
      // A narrow last block: its channels side by side first, and no constant for those behind the end.
      alignas(64) uint8_t codes[kTileTokens * kRowCodes];
      alignas(64) float part[C][kBlockChannels] = {};
      widen_rows<Code>(rows, width, a.tokens, codes);
      add_code_block<ByteCode<Code>, C>(codes, nullptr, a.tokens, scaled, constant, part[0], kBlockChannels);
      for (int c = 0; c < C; ++c) {
        for (int32_t j = 0; j < width; ++j) out[c * a.sum_stride + first + j] += part[c][j];
      }
      if (ahead) prefetch_far(ahead + done, kTileTokens * width * dtype_bits(Code::dtype) / 8);
    }
    rows += kTileTokens * width * dtype_bits(Code::dtype) / 8;
  }
}

template <class Code>
void add_code_values(const ValueArguments &a) {
  const char *ahead = a.ahead;
  for (int32_t column = 0; column < a.columns; column += kColumns) {
    const int32_t width = a.columns - column < kColumns ? a.columns - column : kColumns;
    with_columns<kColumns>(width, [&](auto c) { add_value_tile<Code, decltype(c)::value>(a, column, ahead); });
    ahead = nullptr;
  }
}

}  // namespace
}  // namespace think::attend
