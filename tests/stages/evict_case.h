// Cases of the evict stage, for the CPU and for the emulated device.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "kernels/evict/evict.h"
#include "kernels/moments/moments.h"
#include "libthink/core/evict.h"
#include "stats_problem.h"

namespace think::test::evict_case {

constexpr think_dtype kDtypes[] = {THINK_F32, THINK_F16, THINK_BF16};
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Scores of many kinds, by number 0 .. 5.
inline std::vector<float> scores_of_kind(int kind, int32_t tokens, std::mt19937 &random) {
  std::normal_distribution<float> normal;
  std::vector<float> score(tokens);
  for (float &value : score) {
    value = normal(random);
    if (kind == 1) value = std::floor(value);    // many ties
    if (kind == 2) value = 0.25f;                // nothing but ties
    if (kind == 3) value = std::exp(8 * value);  // far apart
    if (kind == 4 && random() % 9 == 0) value = random() % 2 ? kNan : random() % 2 ? INFINITY : -INFINITY;
    if (kind == 5) value = random() % 2 ? 0.0f : -0.0f;
  }
  return score;
}
constexpr int kKinds = 6;

struct Options {
  std::vector<int32_t> lengths = {100};
  think_dtype query_dtype = THINK_F32, key_dtype = THINK_F16, value_dtype = THINK_BF16;
  int32_t rows = 32;
  bool causal = true, pages = false, slots = false, ragged_heads = false, token_major = false;
  int32_t first = 0;
};

// Random dense rows in memory of the chosen layout, everything else NaN.
struct Problem {
  Shape shape;
  Options options;
  int32_t slots, batch, heads, most;
  std::vector<char> query, key, value;
  std::vector<int32_t> slot, pages, lengths, first;
  think_segment source = THINK_SEGMENT_INIT;
  think_tensor window = THINK_TENSOR_INIT;
  Batch sequences{};

  Problem(const Shape &shape_in, const Options &options_in, uint32_t seed) : shape(shape_in), options(options_in) {
    batch = static_cast<int32_t>(options.lengths.size());
    heads = shape.kv_heads;
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    slots = options.slots ? 2 * batch + 1 : batch;
    most = options.first + 1;
    for (int32_t b = 0; b < batch; ++b) {
      slot.push_back(options.slots ? 2 * (batch - 1 - b) + 1 : b);
      most = std::max(most, options.first + options.lengths[b]);
      for (int32_t h = 0; h < heads; ++h) {
        lengths.push_back(options.ragged_heads ? std::max(0, options.lengths[b] - 3 * h) : options.lengths[b]);
        first.push_back(options.first);
      }
    }
    const int32_t each = (most + 31) / 32, block_rows = options.pages ? 32 : most, blocks = options.pages ? each * batch : slots;
    pages.resize(static_cast<size_t>(each) * batch);
    std::iota(pages.begin(), pages.end(), 0);
    std::shuffle(pages.begin(), pages.end(), random);
    source.flags = options.causal ? THINK_SEGMENT_CAUSAL : 0;
    source.key_dtype = options.key_dtype;
    source.value_dtype = options.value_dtype;
    source.page_tokens = options.pages ? 32 : 0;
    source.pages = options.pages ? pages.data() : nullptr;
    source.pages_stride = each;
    source.lengths = lengths.data();
    source.first = first.data();
    source.lengths_stride[0] = heads;
    source.lengths_stride[1] = 1;
    const auto lay_out = [&](std::vector<char> &memory, think_dtype dtype, int32_t channels, int64_t *stride) {
      const int64_t row = channels * dtype_bytes(dtype);
      stride[1] = options.token_major ? row : row * block_rows;
      stride[2] = options.token_major ? row * heads : row;
      stride[0] = row * block_rows * heads;
      memory.assign(stride[0] * blocks, static_cast<char>(0xff));
      return memory.data();
    };
    source.key = lay_out(key, options.key_dtype, shape.key_channels, source.key_stride);
    source.value = lay_out(value, options.value_dtype, shape.value_channels, source.value_stride);
    sequences = {batch, nullptr, nullptr, options.slots ? slot.data() : nullptr};
    window.dtype = options.query_dtype;
    const int64_t extent[4] = {slots, shape.query_heads, options.rows, shape.key_channels};
    std::copy(extent, extent + 4, window.extent);
    window.stride[3] = 1;
    window.stride[2] = shape.key_channels + 8;
    window.stride[1] = window.stride[2] * options.rows;
    window.stride[0] = window.stride[1] * shape.query_heads;
    query.assign(window.stride[0] * slots * dtype_bytes(window.dtype), static_cast<char>(0xff));
    window.data = query.data();
    for (int32_t at = 0; at < batch * heads; ++at) {
      for (const Side side : {Side::keys, Side::values}) {
        const SideView rows = side_view(source, side, shape, sequences, at / heads, at % heads);
        for (int32_t t = 0; t < lengths[at]; ++t) {
          for (int32_t j = 0; j < rows.channels; ++j) store_element(row_address(rows, options.first + t), rows.dtype, j, 0.8f * normal(random));
        }
      }
      for (int32_t g = 0; g < shape.group; ++g) {
        for (int32_t i = options.rows - std::min(options.rows, lengths[at]); i < options.rows; ++i) {
          char *row = const_cast<char *>(element(window, slot_of(sequences, at / heads), at % heads * shape.group + g, i));
          for (int32_t j = 0; j < shape.key_channels; ++j) store_element(row, options.query_dtype, j, normal(random));
        }
      }
    }
  }

  EvictCall call(int32_t isa) const {
    EvictCall result{};
    result.shape = shape;
    result.isa = isa;
    result.measure = true;
    result.window_query = window;
    result.source = source;
    result.batch = sequences;
    result.recent = shape.window;
    result.kernel = 7;
    result.budget = 40;
    return result;
  }

  std::vector<double> mass(int32_t at) const {
    const int32_t tokens = lengths[at], real = std::min(options.rows, tokens);
    std::vector<double> q, k, result(tokens);
    const SideView rows = side_view(source, Side::keys, shape, sequences, at / heads, at % heads);
    for (int32_t t = 0; t < tokens; ++t) {
      for (int32_t j = 0; j < shape.key_channels; ++j) k.push_back(load_element(row_address(rows, options.first + t), rows.dtype, j));
    }
    for (int32_t g = 0; g < shape.group; ++g) {
      for (int32_t i = options.rows - real; i < options.rows; ++i) {
        const char *row = element(window, slot_of(sequences, at / heads), at % heads * shape.group + g, i);
        for (int32_t j = 0; j < shape.key_channels; ++j) q.push_back(load_element(row, options.query_dtype, j));
      }
    }
    moments::reference::attention_mass({shape.group, real, shape.key_channels, shape.value_channels, tokens, 0, 0, 1, shape.scale, shape.softcap,
                                        options.causal, q.data(), k.data(), nullptr},
                                       result.data());
    return result;
  }
};

struct Result {
  std::vector<float> score;
  std::vector<int32_t> kept, lengths;
  int64_t score_stride, kept_stride;

  // Before the call, with room to spare.
  Result(const Problem &problem, const EvictCall &call, float before)
      : score_stride(*std::max_element(problem.lengths.begin(), problem.lengths.end()) + 3), kept_stride(call.budget + 2) {
    const int32_t count = problem.batch * problem.heads;
    score.assign(problem.slots * problem.heads * score_stride, before);
    kept.assign(count * kept_stride, -7);
    lengths.assign(count, -7);
  }
};

// Scores against the double-precision mass; the lists against the reference's choice on those very scores.
inline void check(const Problem &problem, const EvictCall &call, const Result &result, double before) {
  for (int32_t at = 0; at < problem.batch * problem.heads; ++at) {
    SCOPED_TRACE("head " + std::to_string(at));
    const int32_t tokens = problem.lengths[at];
    const int64_t row = int64_t{slot_of(problem.sequences, at / problem.heads)} * problem.heads + at % problem.heads;
    std::vector<float> score(result.score.begin() + row * result.score_stride, result.score.begin() + (row + 1) * result.score_stride);
    const std::vector<double> mass = problem.mass(at);
    for (int32_t t = 0; t < tokens; ++t) ASSERT_NEAR(score[t], mass[t] + (call.accumulate ? before : 0), 2e-5 * (mass[t] + before) + 1e-6) << "row " << t;
    for (int64_t t = tokens; t < result.score_stride; ++t) ASSERT_EQ(score[t], static_cast<float>(before)) << "behind the rows";
    std::vector<int32_t> want(result.kept_stride, -7);
    std::vector<float> pooled(tokens);
    const int64_t budget = call.budgets ? call.budgets[at] : call.budget;
    const int32_t count =
        evict::reference::choose({tokens, budget, call.sinks, call.recent, call.pooling, call.kernel, score.data(), pooled.data()}, want.data());
    EXPECT_EQ(result.lengths[at], count);
    EXPECT_EQ(std::vector<int32_t>(result.kept.begin() + at * result.kept_stride, result.kept.begin() + (at + 1) * result.kept_stride), want);
  }
}

}  // namespace think::test::evict_case
