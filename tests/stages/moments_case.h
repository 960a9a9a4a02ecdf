// Random rows with their arguments, random covariances, and what must come out of them: shared by the tests of the moments stage on the CPU and in the
// emulator.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "kernels/moments/moments.h"
#include "stats_problem.h"

namespace think::test::moments_case {

inline constexpr think_dtype kDtypes[] = {THINK_F32, THINK_F16, THINK_BF16};

struct Options {
  std::vector<int32_t> lengths = {100};  // one sequence each
  think_dtype query_dtype = THINK_F32, key_dtype = THINK_F32, value_dtype = THINK_F32;
  int32_t rows = 32;  // of the window tensor
  int32_t sinks = 4, recent = 32;
  float share = 0.9f;
  bool causal = true, values = true;
  bool pages = false;         // 32 rows each, shuffled
  bool slots = false;         // permuted, with unused slots between
  bool ragged_heads = false;  // head h has h tokens less
  bool token_major = false;   // [token][head][channel]
  int32_t first = 0;
  int32_t shift = 0;  // numbers in front of the first
  float bias = 0;
  std::vector<int32_t> constant;  // channels that have the value of the bias
};

// Random rows in memory of the chosen layout, everything else NaN, and the arguments that describe them.
struct Problem {
  Shape shape;
  Options options;
  int32_t slots;
  std::vector<char> query, key, value, moments;
  std::vector<int32_t> slot, pages, lengths, first;
  moments::Arguments arguments{};

  Problem(const Shape &shape_in, const Options &options_in, uint32_t seed) : shape(shape_in), options(options_in) {
    const int32_t batch = static_cast<int32_t>(options.lengths.size()), heads = shape.kv_heads;
    std::mt19937 random(seed);
    slots = options.slots ? 2 * batch + 1 : batch;
    for (int32_t b = 0; b < batch; ++b) slot.push_back(options.slots ? 2 * (batch - 1 - b) + 1 : b);
    int32_t most = options.first + 1;
    for (int32_t b = 0; b < batch; ++b) {
      for (int32_t h = 0; h < heads; ++h) {
        lengths.push_back(options.ragged_heads ? std::max(0, options.lengths[b] - h) : options.lengths[b]);
        first.push_back(options.first);
      }
      most = std::max(most, options.first + options.lengths[b]);
    }
    const int32_t page_rows = 32, pages_each = (most + page_rows - 1) / page_rows;
    const int32_t block_rows = options.pages ? page_rows : most, blocks = options.pages ? pages_each * batch : slots;
    pages.resize(static_cast<size_t>(pages_each) * batch);
    std::iota(pages.begin(), pages.end(), 0);
    std::shuffle(pages.begin(), pages.end(), random);

    think_segment source = THINK_SEGMENT_INIT;
    source.flags = options.causal ? THINK_SEGMENT_CAUSAL : 0;
    source.key_dtype = options.key_dtype;
    source.value_dtype = options.value_dtype;
    source.page_tokens = options.pages ? page_rows : 0;
    source.pages = options.pages ? pages.data() : nullptr;
    source.pages_stride = pages_each;
    source.lengths = lengths.data();
    source.first = options.first ? first.data() : nullptr;
    source.lengths_stride[0] = heads;
    source.lengths_stride[1] = 1;
    const auto lay_out = [&](std::vector<char> &memory, think_dtype dtype, int32_t channels, int64_t *stride) {
      const int64_t row = channels * dtype_bytes(dtype);
      stride[1] = options.token_major ? row : row * block_rows;
      stride[2] = options.token_major ? row * heads : options.pages ? 0 : row;  // 0 stands for packed rows
      stride[0] = row * block_rows * heads;
      memory.assign(stride[0] * blocks + options.shift * dtype_bytes(dtype), static_cast<char>(0xff));
      return memory.data() + options.shift * dtype_bytes(dtype);
    };
    source.key = lay_out(key, options.key_dtype, shape.key_channels, source.key_stride);
    if (options.values) source.value = lay_out(value, options.value_dtype, shape.value_channels, source.value_stride);
    arguments.source = source;
    arguments.batch = {batch, nullptr, nullptr, options.slots ? slot.data() : nullptr};

    think_tensor window = THINK_TENSOR_INIT;
    const int64_t extent[4] = {slots, shape.query_heads, options.rows, shape.key_channels};
    const int64_t gap = 8;  // between rows
    window.dtype = options.query_dtype;
    for (int i = 0; i < 4; ++i) window.extent[i] = extent[i];
    window.stride[3] = 1;
    window.stride[2] = shape.key_channels + gap;
    window.stride[1] = window.stride[2] * options.rows;
    window.stride[0] = window.stride[1] * shape.query_heads;
    query.assign((window.stride[0] * slots + options.shift) * dtype_bytes(window.dtype), static_cast<char>(0xff));
    window.data = query.data() + options.shift * dtype_bytes(window.dtype);
    arguments.window_query = window;
    arguments.shape = shape;
    arguments.sinks = options.sinks;
    arguments.recent = options.recent;
    arguments.attention_share = options.share;
    moments.assign(moments::state_bytes(shape) * slots, static_cast<char>(0xff));
    arguments.moments = moments.data();
    fill(random);
  }

  void fill(std::mt19937 &random) {
    std::normal_distribution<float> normal;
    const auto constant = [&](int32_t j) { return std::count(options.constant.begin(), options.constant.end(), j) > 0; };
    for (int32_t b = 0; b < arguments.batch.count; ++b) {
      for (int32_t h = 0; h < shape.kv_heads; ++h) {
        for (const Side side : {Side::keys, Side::values}) {
          if (side == Side::values && !options.values) continue;
          const SideView view = side_view(arguments.source, side, shape, arguments.batch, b, h);
          for (int32_t t = 0; t < lengths[b * shape.kv_heads + h]; ++t) {
            const float common = normal(random);
            for (int32_t j = 0; j < view.channels; ++j) {
              const float x = constant(j) ? 0 : (common + normal(random)) * (0.2f + static_cast<float>(j % 7) / 7);
              store_element(row_address(view, options.first + t), view.dtype, j, x + options.bias);
            }
          }
        }
        const int32_t real = std::min(options.rows, lengths[b * shape.kv_heads + h]);
        for (int32_t g = 0; g < shape.group; ++g) {
          for (int32_t i = options.rows - real; i < options.rows; ++i) {
            const char *row = element(arguments.window_query, slot_of(arguments.batch, b), h * shape.group + g, i);
            for (int32_t j = 0; j < shape.key_channels; ++j) {
              store_element(const_cast<char *>(row), options.query_dtype, j, 0.7f * normal(random) + (j == 3 ? 1.0f : 0.0f));
            }
          }
        }
      }
    }
  }

  void measure(int32_t isa, int32_t threads = 2) {
    const int32_t longest = *std::max_element(options.lengths.begin(), options.lengths.end());
    Guarded workspace(moments::workspace(shape, arguments.batch.count, longest));
    Threads pool{threads};
    moments::measure(isa, arguments, workspace.data(), pool.parallel());
    EXPECT_TRUE(workspace.intact());
  }
};

struct Expected {
  std::vector<double> key_mean, key_covariance, query_moment, value_mean, value_covariance;
  int64_t rows;
};

inline Expected expected(const Problem &problem, int32_t sequence, int32_t kv_head) {
  const Shape &shape = problem.shape;
  const int64_t tokens = problem.lengths[sequence * shape.kv_heads + kv_head], d = shape.key_channels, e = shape.value_channels;
  const int32_t real = static_cast<int32_t>(std::min<int64_t>(problem.options.rows, tokens));
  std::vector<double> query, key, value;
  const auto rows = [&](Side side, std::vector<double> &to) {
    const SideView view = side_view(problem.arguments.source, side, shape, problem.arguments.batch, sequence, kv_head);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int32_t j = 0; j < view.channels; ++j) to.push_back(load_element(row_address(view, problem.options.first + t), view.dtype, j));
    }
  };
  rows(Side::keys, key);
  if (problem.options.values) rows(Side::values, value);
  for (int32_t g = 0; g < shape.group; ++g) {
    for (int32_t i = problem.options.rows - real; i < problem.options.rows; ++i) {
      const char *row = element(problem.arguments.window_query, slot_of(problem.arguments.batch, sequence), kv_head * shape.group + g, i);
      for (int32_t j = 0; j < d; ++j) query.push_back(load_element(row, problem.options.query_dtype, j));
    }
  }
  const moments::reference::Head head{shape.group,
                                      real,
                                      shape.key_channels,
                                      shape.value_channels,
                                      tokens,
                                      problem.options.sinks,
                                      problem.options.recent,
                                      problem.options.share,
                                      shape.scale,
                                      shape.softcap,
                                      problem.options.causal,
                                      query.data(),
                                      key.data(),
                                      problem.options.values ? value.data() : nullptr};
  Expected result{std::vector<double>(d),          std::vector<double>(d * d),
                  std::vector<double>(d * d),      std::vector<double>(e, 0.0),
                  std::vector<double>(e * e, 0.0), prune_range(tokens, problem.options.sinks, problem.options.recent).count};
  moments::reference::measure(head, result.key_mean.data(), result.key_covariance.data(), result.query_moment.data(),
                              result.value_mean.data(), result.value_covariance.data());
  return result;
}

// Relative to the deviations of the channels, and of the mean's own size for means.
inline void compare(const float *actual, const std::vector<double> &mean, const float *moment, const std::vector<double> &matrix,
             double tolerance) {
  const size_t n = mean.size();
  double worst_mean = 0, worst = 0;
  for (size_t i = 0; i < n; ++i) {
    const double deviation = std::sqrt(matrix[i * n + i]);
    worst_mean = std::max(worst_mean, std::abs(actual[i] - mean[i]) / (deviation + std::abs(mean[i]) + 1e-3));
    if (!(std::abs(actual[i] - mean[i]) < 1e30)) worst_mean = INFINITY;
    for (size_t j = 0; j < n; ++j) {
      const double scale = std::sqrt(matrix[i * n + i] * matrix[j * n + j]) + 1e-9;
      const double error = std::abs(moment[i * n + j] - matrix[i * n + j]) / scale;
      worst = error <= worst ? worst : std::isnan(error) ? INFINITY : error;
      if (moment[i * n + j] != moment[j * n + i]) worst = INFINITY;  // symmetric to the bit
    }
  }
  EXPECT_LE(worst_mean, tolerance);
  EXPECT_LE(worst, tolerance);
}

inline std::vector<Expected> expected_of_all(const Problem &problem) {
  std::vector<Expected> all;
  for (int32_t b = 0; b < problem.arguments.batch.count; ++b) {
    for (int32_t h = 0; h < problem.shape.kv_heads; ++h) all.push_back(expected(problem, b, h));
  }
  return all;
}

inline void compare_all(Problem &problem, const std::vector<Expected> &all, double tolerance) {
  for (int32_t b = 0; b < problem.arguments.batch.count; ++b) {
    for (int32_t h = 0; h < problem.shape.kv_heads; ++h) {
      SCOPED_TRACE("sequence " + std::to_string(b) + " head " + std::to_string(h));
      const Expected &want = all[b * problem.shape.kv_heads + h];
      const moments::View view = moments::view(problem.shape, problem.moments.data(), slot_of(problem.arguments.batch, b), h);
      EXPECT_EQ(*view.rows, static_cast<float>(want.rows));
      compare(view.key_mean, want.key_mean, view.key_covariance, want.key_covariance, tolerance);
      compare(view.value_mean, want.value_mean, view.value_covariance, want.value_covariance, tolerance);
      const std::vector<double> no_mean(problem.shape.key_channels, 0.0);
      const std::vector<float> zero(problem.shape.key_channels, 0.0f);
      compare(zero.data(), no_mean, view.query_moment, want.query_moment, 1e-5);
    }
  }
}

// ---- gains

// Moments of `heads` heads in one slot: covariances of random rows, of the rank asked for.
struct GainsProblem {
  Shape shape;
  std::vector<char> moments;
  std::vector<float> score;
  Batch batch{1, nullptr, nullptr, nullptr};

  GainsProblem(const Shape &shape_in, int32_t rank, uint32_t seed, std::vector<int32_t> zero = {}) : shape(shape_in) {
    moments.assign(moments::state_bytes(shape), 0);
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    const auto gram = [&](int32_t n, int32_t rows, float *to) {
      std::vector<double> x(static_cast<size_t>(rows) * n), sum(static_cast<size_t>(n) * n, 0.0);
      for (size_t i = 0; i < x.size(); ++i) x[i] = normal(random) * (0.1 + static_cast<double>(i % n % 5)) + 0.5 * x[i ? i - 1 : 0];
      for (int32_t r = 0; r < rows; ++r) {
        for (int32_t i = 0; i < n; ++i) {
          for (int32_t j = 0; j < n; ++j) sum[i * n + j] += x[r * n + i] * x[r * n + j] / rows;
        }
      }
      for (const int32_t z : zero) {
        for (int32_t j = 0; j < n && z < n; ++j) sum[z * n + j] = sum[j * n + z] = 0;
      }
      std::copy(sum.begin(), sum.end(), to);
    };
    for (int32_t h = 0; h < shape.kv_heads; ++h) {
      const moments::View view = moments::view(shape, moments.data(), 0, h);
      gram(shape.key_channels, rank, view.key_covariance);
      gram(shape.key_channels, 2 * shape.key_channels, view.query_moment);
      gram(shape.value_channels, rank, view.value_covariance);
      for (int32_t j = 0; j < shape.key_channels; ++j) score.push_back(static_cast<float>(std::abs(normal(random))));
    }
  }

  int32_t channels(int32_t side) const { return side == THINK_KEYS ? shape.key_channels : shape.value_channels; }

  void run(int32_t isa, int32_t side, std::vector<float> &gains, std::vector<int32_t> &order, int32_t threads = 2) {
    gains.assign(static_cast<size_t>(shape.kv_heads) * channels(side), -1);
    order.assign(gains.size(), -1);
    Guarded workspace(moments::gains_workspace(shape, 1));
    Threads pool{threads};
    moments::gains(isa, shape, moments.data(), batch, side, side == THINK_KEYS ? score.data() : nullptr, gains.data(), order.data(),
                   workspace.data(), pool.parallel());
    EXPECT_TRUE(workspace.intact());
  }
};

inline std::vector<int32_t> sorted_by_score(const float *score, int32_t channels) {
  std::vector<int32_t> order(channels);
  std::iota(order.begin(), order.end(), 0);
  const auto value = [&](int32_t i) { return std::isnan(score[i]) ? INFINITY : score[i]; };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return value(a) > value(b); });
  return order;
}

struct ExpectedGains {
  std::vector<double> gains;
  std::vector<int32_t> order;
};

inline ExpectedGains expected_gains(GainsProblem &problem, int32_t side) {
  const int32_t n = problem.channels(side);
  ExpectedGains want;
  want.gains.resize(static_cast<size_t>(problem.shape.kv_heads) * n);
  want.order.resize(want.gains.size());
  for (int32_t h = 0; h < problem.shape.kv_heads; ++h) {
    const moments::View view = moments::view(problem.shape, problem.moments.data(), 0, h);
    const float *covariance = side == THINK_KEYS ? view.key_covariance : view.value_covariance;
    std::vector<double> metric(n * n, 0.0), matrix(covariance, covariance + n * n);
    for (int32_t i = 0; i < n * n; ++i) metric[i] = side == THINK_KEYS ? view.query_moment[i] : i % (n + 1) == 0;
    const std::vector<int32_t> by_score = side == THINK_KEYS ? sorted_by_score(&problem.score[h * n], n) : std::vector<int32_t>();
    moments::reference::gains(n, metric.data(), matrix.data(), side == THINK_KEYS ? by_score.data() : nullptr, &want.gains[h * n], &want.order[h * n]);
  }
  return want;
}

inline void compare_gains(const GainsProblem &problem, int32_t side, const ExpectedGains &want, const std::vector<float> &gains,
                          const std::vector<int32_t> &order, double tolerance) {
  const int32_t n = problem.channels(side);
  EXPECT_EQ(order, want.order);
  for (int32_t h = 0; h < problem.shape.kv_heads; ++h) {
    const double largest = *std::max_element(want.gains.begin() + h * n, want.gains.begin() + (h + 1) * n);
    for (int32_t t = h * n; t < (h + 1) * n; ++t)
      EXPECT_NEAR(gains[t], want.gains[t], tolerance * (want.gains[t] + 1e-3 * largest)) << "head " << h << " step " << t;
  }
}

// ---- recorded

// A recorded problem as the arguments of a measurement; moments are the caller's.
inline moments::Arguments recorded_arguments(const Recorded &problem) {
  const Shape shape = make_shape(problem.heads, problem.group, problem.channels, problem.channels);
  const int64_t n = problem.channels;
  moments::Arguments arguments{};
  arguments.shape = shape;
  think_tensor &query = arguments.window_query;
  query = THINK_TENSOR_INIT;
  query.data = const_cast<uint16_t *>(problem.query.data());
  query.dtype = THINK_F16;
  const int64_t extent[4] = {1, shape.query_heads, problem.window, n}, stride[4] = {0, problem.window * n, n, 1};
  std::copy(extent, extent + 4, query.extent);
  std::copy(stride, stride + 4, query.stride);
  think_segment &source = arguments.source;
  source = THINK_SEGMENT_INIT;
  source.flags = THINK_SEGMENT_CAUSAL;
  source.key_dtype = source.value_dtype = THINK_F16;
  source.key = const_cast<uint16_t *>(problem.key.data());
  source.value = const_cast<uint16_t *>(problem.value.data());
  source.key_stride[1] = source.value_stride[1] = problem.tokens * n * 2;
  source.lengths = &problem.tokens;
  arguments.batch.count = 1;
  arguments.sinks = problem.json["sinks"];
  arguments.recent = problem.json["recent"];
  arguments.attention_share = problem.json["share"];
  return arguments;
}

inline std::vector<float> recorded_score(const Recorded &problem) {
  std::vector<float> score;
  for (int32_t h = 0; h < problem.heads; ++h) {
    for (const double x : problem.solution<double>(h, "score")) score.push_back(static_cast<float>(x));
  }
  return score;
}

// Moments of one slot and the gains of one side against what was recorded.
inline void compare_recorded(const Recorded &problem, const Shape &shape, std::vector<char> &state, int32_t side, const std::vector<float> &gains,
                             const std::vector<int32_t> &order) {
  const bool keys = side == THINK_KEYS;
  const int32_t n = problem.channels;
  for (int32_t h = 0; h < problem.heads; ++h) {
    SCOPED_TRACE(std::string(keys ? "keys" : "values") + " of head " + std::to_string(h));
    const moments::View view = moments::view(shape, state.data(), 0, h);
    const auto mean = problem.solution<double>(h, keys ? "key_mean" : "value_mean");
    const auto variance = problem.solution<double>(h, keys ? "key_variance" : "value_variance");
    const auto want = problem.solution<double>(h, keys ? "key_gains" : "value_gains");
    const auto want_order = problem.solution<int32_t>(h, keys ? "key_order" : "value_order");
    const float *covariance = keys ? view.key_covariance : view.value_covariance;
    double trace = 0;
    for (int32_t j = 0; j < n; ++j) {
      EXPECT_NEAR((keys ? view.key_mean : view.value_mean)[j], mean[j], 3e-6 * std::abs(mean[j]) + 1e-4 * std::sqrt(variance[j]));
      EXPECT_NEAR(covariance[j * (n + 1)], variance[j], 2e-4 * variance[j]);
      trace += variance[j];
    }
    if (keys) {
      EXPECT_EQ(std::vector<int32_t>(&order[h * n], &order[h * n] + n), want_order);
    }
    // Gains of a nearly singular covariance are differences: the sums, which budgets use, must agree, and for
    // values what is left to predict.
    double sum = 0, want_sum = 0, largest = *std::max_element(want.begin(), want.end());
    for (int32_t t = 0; t < n; ++t) {
      sum += gains[h * n + t];
      want_sum += want[t];
      EXPECT_NEAR(sum, want_sum, 1e-3 * want_sum) << "step " << t;
      if (keys) {
        EXPECT_NEAR(gains[h * n + t], want[t], 2e-3 * want[t] + 1e-5 * largest) << "step " << t;
      } else {
        EXPECT_NEAR(trace - sum, trace - want_sum, 1e-3 * std::abs(trace - want_sum) + 2e-5 * trace) << "step " << t;
      }
    }
  }
}

}  // namespace think::test::moments_case
