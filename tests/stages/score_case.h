// Rows for the tests of the score stage, on the CPU and in the emulator of CUDA kernels.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/common/element.h"
#include "kernels/score/score.h"

namespace think::test {

inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
inline constexpr think_dtype kDtypes[] = {THINK_F32, THINK_F16, THINK_BF16};

inline Shape make_shape(int32_t kv_heads, int32_t group, int32_t channels, int32_t window, think_dtype query_dtype) {
  Shape shape{};
  shape.query_heads = kv_heads * group;
  shape.kv_heads = kv_heads;
  shape.group = group;
  shape.key_channels = shape.value_channels = channels;
  shape.window = window;
  shape.max_batch = 8;
  shape.max_queries = 1;
  shape.max_tokens = 1 << 20;
  shape.query_dtype = query_dtype;
  return shape;
}

// Tokens of one tensor in memory of any order of the axes, everything that is not set poisoned with the NaN of which all bits are set.
struct Rows {
  std::vector<char> memory;
  think_tensor tensor = THINK_TENSOR_INIT;

  // order: which of batch, head, token lies outermost, in the middle, innermost; gap: unused elements behind each row
  Rows(think_dtype dtype, int64_t batch, int64_t heads, int64_t tokens, int64_t channels, const char *order = "bht", int64_t gap = 0) {
    const int64_t extent[3] = {batch, heads, tokens};
    int64_t stride = channels + gap;
    for (int i = 2; i >= 0; --i) {
      const int axis = order[i] == 'b' ? 0 : order[i] == 'h' ? 1 : 2;
      tensor.stride[axis] = stride;
      stride *= extent[axis];
    }
    memory.resize(stride * dtype_bytes(dtype), '\xff');
    tensor.data = memory.data();
    tensor.dtype = dtype;
    for (int i = 0; i < 3; ++i) tensor.extent[i] = extent[i];
    tensor.extent[3] = channels;
    tensor.stride[3] = 1;
  }

  void set(int64_t batch, int64_t head, int64_t token, int64_t channel, float x) {
    store_element(const_cast<char *>(element(tensor, batch, head, token)), tensor.dtype, channel, x);
  }
  float get(int64_t batch, int64_t head, int64_t token, int64_t channel) const {
    return load_element(element(tensor, batch, head, token), tensor.dtype, channel);
  }

  think_tensor part(int64_t first, int64_t count) const {
    think_tensor view = tensor;
    view.data = const_cast<char *>(element(tensor, 0, 0, first));
    view.extent[2] = count;
    return view;
  }
};

inline void fill(Rows &rows, int64_t batch, int64_t first, int64_t count, std::mt19937 &random, float scale = 1) {
  std::normal_distribution<float> normal;
  for (int64_t h = 0; h < rows.tensor.extent[1]; ++h) {
    for (int64_t t = first; t < first + count; ++t) {
      for (int64_t c = 0; c < rows.tensor.extent[3]; ++c) rows.set(batch, h, t, c, scale * static_cast<float>(1 + c % 5) * normal(random));
    }
  }
}

inline std::vector<double> widened(const Rows &rows, int64_t batch, int64_t first, int64_t count) {
  std::vector<double> out;
  for (int64_t h = 0; h < rows.tensor.extent[1]; ++h) {
    for (int64_t t = first; t < first + count; ++t) {
      for (int64_t c = 0; c < rows.tensor.extent[3]; ++c) out.push_back(rows.get(batch, h, t, c));
    }
  }
  return out;
}

inline void expect_near(const float *actual, const std::vector<double> &expected, const std::string &what) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::isinf(expected[i])) {
      ASSERT_EQ(actual[i], std::numeric_limits<float>::infinity()) << what << " at " << i;
    } else {
      ASSERT_NEAR(actual[i], expected[i], 2e-5 * std::fabs(expected[i]) + 1e-30) << what << " at " << i;
    }
  }
}

// Two query heads of 40 tokens and their keys, 24 channels: NaN in one key and one query, an infinite key times queries of zero.
inline void set_not_finite(Rows &query, Rows &key) {
  key.set(0, 0, 3, 5, kNaN);
  query.set(0, 1, 39, 17, kNaN);
  key.set(0, 0, 30, 20, std::numeric_limits<float>::infinity());
  for (int t = 0; t < 40; ++t) query.set(0, 0, t, 20, 0), query.set(0, 1, t, 20, 0);
}

// ... and the scores of it, for the KV head and for each query head: what is not a number counts as infinity.
inline void expect_infinities(const std::vector<float> &score, const std::vector<float> &heads) {
  for (int c = 0; c < 24; ++c) EXPECT_EQ(std::isinf(score[c]) && score[c] > 0, c == 5 || c == 17 || c == 20) << "channel " << c << " is " << score[c];
  EXPECT_TRUE(std::isinf(heads[5]) && std::isinf(heads[24 + 5]));
  EXPECT_TRUE(std::isfinite(heads[17]) && std::isinf(heads[24 + 17]));
}

}  // namespace think::test
