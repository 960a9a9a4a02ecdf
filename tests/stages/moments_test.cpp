// The moments stage against its double-precision reference and the recorded vectors, on every instruction set.
#include "kernels/moments/moments.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "instruction_sets.h"
#include "stats_problem.h"

namespace think {
namespace {

using test::Guarded;
using test::Threads;

constexpr think_dtype kDtypes[] = {THINK_F32, THINK_F16, THINK_BF16};

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
      memory.assign(stride[0] * blocks, static_cast<char>(0xff));
      return memory.data();
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
    query.assign(window.stride[0] * slots * dtype_bytes(window.dtype), static_cast<char>(0xff));
    window.data = query.data();
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

Expected expected(const Problem &problem, int32_t sequence, int32_t kv_head) {
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
void compare(const float *actual, const std::vector<double> &mean, const float *moment, const std::vector<double> &matrix,
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

std::vector<Expected> expected_of_all(const Problem &problem) {
  std::vector<Expected> all;
  for (int32_t b = 0; b < problem.arguments.batch.count; ++b) {
    for (int32_t h = 0; h < problem.shape.kv_heads; ++h) all.push_back(expected(problem, b, h));
  }
  return all;
}

void compare_all(Problem &problem, const std::vector<Expected> &all, double tolerance) {
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

void check(const Shape &shape, const Options &options, uint32_t seed, double tolerance = 3e-5) {
  Problem problem(shape, options, seed);
  const std::vector<Expected> all = expected_of_all(problem);
  for (const int32_t isa : test::instruction_sets()) {
    SCOPED_TRACE(test::isa_name(isa));
    std::fill(problem.moments.begin(), problem.moments.end(), static_cast<char>(0xff));
    problem.measure(isa);
    compare_all(problem, all, tolerance);
  }
}

TEST(Moments, LengthsOfASequence) {
  for (const int32_t tokens : {0, 1, 31, 32, 33, 67, 68, 69, 100, 257}) {
    SCOPED_TRACE(tokens);
    Options options;
    options.lengths = {tokens};
    check(test::make_shape(2, 3, 64, 64), options, tokens);
  }
}

TEST(Moments, ShapesAndTypes) {
  const int32_t groups[] = {1, 2, 3, 4, 5, 7, 8, 16};
  int i = 0;
  for (const int32_t channels : {8, 16, 24, 40, 64, 80, 96, 128, 256}) {
    for (int k = 0; k < 2; ++k, ++i) {
      SCOPED_TRACE(std::to_string(channels) + " channels, group " + std::to_string(groups[i % 8]));
      Options options;
      options.lengths = {100 + 37 * (i % 4)};
      options.query_dtype = kDtypes[i % 3];
      options.key_dtype = kDtypes[(i + 1) % 3];
      options.value_dtype = kDtypes[(i / 3) % 3];
      check(test::make_shape(1 + i % 2, groups[i % 8], channels, i % 3 ? channels : 72), options, 100 + i);
    }
  }
}

TEST(Moments, PrefillOfTheExampleModel) {
  Options options;
  options.lengths = {1536};
  options.key_dtype = options.value_dtype = THINK_F16;
  check(test::make_shape(3, 3, 64, 64), options, 7);
  check(test::make_shape(1, 4, 128, 128), options, 8);
}

TEST(Moments, LongSequence) {
  Options options;
  options.lengths = {8201};
  options.key_dtype = options.value_dtype = THINK_BF16;
  check(test::make_shape(1, 1, 16, 8), options, 9);
}

TEST(Moments, PagesSlotsRaggedHeadsAndStrides) {
  for (int mask = 0; mask < 16; ++mask) {
    SCOPED_TRACE(mask);
    Options options;
    options.lengths = {100, 0, 171, 68, 33};
    options.pages = mask & 1;
    options.slots = mask & 2;
    options.ragged_heads = mask & 4;
    options.token_major = mask & 8;
    options.first = mask % 3 ? 0 : 7;
    options.key_dtype = kDtypes[mask % 3];
    options.value_dtype = kDtypes[(mask + 1) % 3];
    check(test::make_shape(3, 2, 16, 24), options, 20 + mask);
  }
}

TEST(Moments, SlotsThatAreNotInTheBatchStayAsTheyAre) {
  Options options;
  options.lengths = {100, 80};
  options.slots = true;
  Problem problem(test::make_shape(2, 1, 16, 16), options, 5);
  problem.measure(THINK_ISA_PORTABLE);
  const int64_t bytes = moments::state_bytes(problem.shape);
  for (int32_t slot = 0; slot < problem.slots; slot += 2) {
    for (int64_t i = 0; i < bytes; ++i) ASSERT_EQ(problem.moments[slot * bytes + i], static_cast<char>(0xff));
  }
}

TEST(Moments, Options) {
  for (int i = 0; i < 12; ++i) {
    SCOPED_TRACE(i);
    Options options;
    options.lengths = {150, 75};
    options.share = i % 3 == 0 ? 0.0f : i % 3 == 1 ? 1.0f : 0.5f;
    options.causal = i % 2 == 0;
    options.sinks = i % 4;
    options.recent = i % 5 * 10;  // fewer than the window: measured rows that not every query sees
    options.rows = i % 4 == 1 ? 5 : 32;
    options.values = i % 4 != 2;
    Shape shape = test::make_shape(2, 3, 32, 32);
    shape.softcap = i % 2 ? 0.0f : i % 4 ? 2.0f : 30.0f;
    shape.scale = i % 3 ? 0.125f : 1.0f;
    check(shape, options, 40 + i);
  }
}

TEST(Moments, WideWindow) {
  Options options;
  options.lengths = {400};
  options.rows = 256;
  check(test::make_shape(1, 4, 16, 16, 256), options, 60);
}

// Sums of uncentred squares in f32 would lose everything here: the square of the bias is 2,500 times the variance and more.
TEST(Moments, BiasedKeysSurvive) {
  for (const think_dtype dtype : {THINK_F32, THINK_F16}) {
    Options options;
    options.lengths = {1000};
    options.key_dtype = options.value_dtype = dtype;
    options.bias = 50;
    Shape shape = test::make_shape(1, 3, 64, 64);
    shape.scale = 0.01f;
    check(shape, options, 70, 2e-4);
  }
}

TEST(Moments, ConstantChannelsHaveNoVariance) {
  for (const float bias : {50.3f, 0.1f, -77.77f, 1000.7f, 3.3e-4f}) {
    SCOPED_TRACE(bias);
    Options options;
    options.lengths = {333};
    options.bias = bias;
    options.constant = {0, 7, 30};
    Shape shape = test::make_shape(2, 2, 32, 32);
    shape.scale = 0.001f;
    Problem problem(shape, options, 71);
    for (const int32_t isa : test::instruction_sets()) {
      SCOPED_TRACE(test::isa_name(isa));
      problem.measure(isa);
      const moments::View view = moments::view(shape, problem.moments.data(), 0, 1);
      for (const int32_t i : options.constant) {
        EXPECT_NEAR(view.key_mean[i], bias, 1e-6 * std::abs(bias));
        for (int32_t j = 0; j < 32; ++j) {
          EXPECT_EQ(view.key_covariance[i * 32 + j], 0) << i << " " << j;
          EXPECT_EQ(view.value_covariance[j * 32 + i], 0) << i << " " << j;
        }
      }
      EXPECT_GT(view.key_covariance[1 * 33], 0);
    }
  }
}

// Every query looks at the sinks, e^-200 is left for the others: they weigh the same, instead of 0 / 0.
TEST(Moments, AllAttentionOnTheSinks) {
  Options options;
  Shape shape = test::make_shape(1, 2, 8, 8);
  shape.scale = 1;
  Problem problem(shape, options, 72);
  for (int32_t t = 0; t < 100; ++t) {
    const SideView view = side_view(problem.arguments.source, Side::keys, shape, problem.arguments.batch, 0, 0);
    store_element(row_address(view, t), THINK_F32, 3, t < 4 ? 20.0f : 0.0f);
  }
  for (int32_t i = 0; i < 64; ++i) {
    char *row = const_cast<char *>(element(problem.arguments.window_query, 0, i / 32, i % 32));
    for (int32_t j = 0; j < 8; ++j) store_element(row, THINK_F32, j, j == 3 ? 10.0f : 0.0f);
  }
  const std::vector<Expected> all = expected_of_all(problem);
  for (const int32_t isa : test::instruction_sets()) {
    SCOPED_TRACE(test::isa_name(isa));
    problem.measure(isa);
    compare_all(problem, all, 3e-5);
  }
}

TEST(Moments, SameBitsForAnyThreadsAndBatch) {
  Options options;
  options.lengths = {700, 50, 1536, 99, 300};
  const Shape shape = test::make_shape(3, 3, 64, 64);
  Problem problem(shape, options, 80);
  for (const int32_t isa : test::instruction_sets()) {
    SCOPED_TRACE(test::isa_name(isa));
    std::fill(problem.moments.begin(), problem.moments.end(), static_cast<char>(0xff));
    problem.measure(isa, 1);
    const std::vector<char> once = problem.moments;
    for (const int32_t threads : {2, 3, 7}) {
      std::fill(problem.moments.begin(), problem.moments.end(), static_cast<char>(0xff));
      problem.measure(isa, threads);
      EXPECT_TRUE(problem.moments == once) << threads << " threads";
    }
    // One sequence alone, in the place of the third.
    Problem alone = problem;
    alone.options.lengths = {1536};
    alone.arguments.moments = alone.moments.data();
    std::fill(alone.moments.begin(), alone.moments.end(), static_cast<char>(0xff));
    const int32_t slot = 2;
    alone.arguments.batch = {1, nullptr, nullptr, &slot};
    alone.arguments.source.lengths = problem.lengths.data() + 2 * 3;
    alone.measure(isa, 2);
    const int64_t bytes = moments::state_bytes(shape);
    EXPECT_EQ(std::memcmp(alone.moments.data() + slot * bytes, once.data() + slot * bytes, bytes), 0);
  }
}

TEST(Moments, WorkspaceGrowsWithTheExtent) {
  const Shape shape = test::make_shape(3, 3, 64, 128);
  int64_t before = 0;
  for (const int64_t tokens : {1, 5, 31, 32, 33, 100, 1536, 1537, 100000}) {
    const int64_t bytes = moments::workspace(shape, 2, tokens);
    EXPECT_GE(bytes, before);
    EXPECT_EQ(bytes % 64, 0);
    before = bytes;
  }
  for (int32_t batch = 1; batch < 9; ++batch) {
    EXPECT_GE(moments::workspace(shape, batch + 1, 1000), moments::workspace(shape, batch, 1000));
    EXPECT_GE(moments::gains_workspace(shape, batch + 1), moments::gains_workspace(shape, batch));
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

std::vector<int32_t> sorted_by_score(const float *score, int32_t channels) {
  std::vector<int32_t> order(channels);
  std::iota(order.begin(), order.end(), 0);
  const auto value = [&](int32_t i) { return std::isnan(score[i]) ? INFINITY : score[i]; };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return value(a) > value(b); });
  return order;
}

void check_gains(GainsProblem &problem, double tolerance = 1e-6) {
  for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
    const int32_t n = problem.channels(side);
    std::vector<double> want(static_cast<size_t>(problem.shape.kv_heads) * n);
    std::vector<int32_t> want_order(want.size());
    for (int32_t h = 0; h < problem.shape.kv_heads; ++h) {
      const moments::View view = moments::view(problem.shape, problem.moments.data(), 0, h);
      const float *covariance = side == THINK_KEYS ? view.key_covariance : view.value_covariance;
      std::vector<double> metric(n * n, 0.0), matrix(covariance, covariance + n * n);
      for (int32_t i = 0; i < n * n; ++i) metric[i] = side == THINK_KEYS ? view.query_moment[i] : i % (n + 1) == 0;
      const std::vector<int32_t> by_score = side == THINK_KEYS ? sorted_by_score(&problem.score[h * n], n) : std::vector<int32_t>();
      moments::reference::gains(n, metric.data(), matrix.data(), side == THINK_KEYS ? by_score.data() : nullptr, &want[h * n],
                                &want_order[h * n]);
    }
    for (const int32_t isa : test::instruction_sets()) {
      SCOPED_TRACE(std::string(test::isa_name(isa)) + (side == THINK_KEYS ? " keys" : " values"));
      std::vector<float> gains;
      std::vector<int32_t> order;
      problem.run(isa, side, gains, order);
      EXPECT_EQ(order, want_order);
      for (int32_t h = 0; h < problem.shape.kv_heads; ++h) {
        const double largest = *std::max_element(want.begin() + h * n, want.begin() + (h + 1) * n);
        for (int32_t t = h * n; t < (h + 1) * n; ++t)
          EXPECT_NEAR(gains[t], want[t], tolerance * (want[t] + 1e-3 * largest)) << "head " << h << " step " << t;
      }
    }
  }
}

TEST(Gains, MatchTheReference) {
  for (const int32_t channels : {8, 16, 40, 64, 80, 96, 128}) {
    SCOPED_TRACE(channels);
    GainsProblem problem(test::make_shape(2, 1, channels, channels == 40 ? 72 : channels), 3 * channels, channels);
    check_gains(problem, 1e-5);
  }
  GainsProblem problem(test::make_shape(1, 1, 256, 8), 600, 1);
  check_gains(problem, 1e-5);
}

TEST(Gains, ChannelsWithoutVarianceGainNothingAndComeLast) {
  GainsProblem problem(test::make_shape(3, 1, 16, 16), 50, 2, {0, 5, 15});
  check_gains(problem);
  std::vector<float> gains;
  std::vector<int32_t> order;
  problem.run(THINK_ISA_PORTABLE, THINK_VALUES, gains, order);
  EXPECT_EQ(std::vector<int32_t>(order.begin() + 13, order.begin() + 16), (std::vector<int32_t>{0, 5, 15}));
  EXPECT_EQ(gains[13], 0);
  EXPECT_EQ(gains[15], 0);
}

TEST(Gains, AMillionthOfTheVarianceIsTheEnd) {
  for (const float left : {5e-7f, 2e-6f}) {
    GainsProblem problem(test::make_shape(1, 1, 8, 8), 20, 8);
    const moments::View view = moments::view(problem.shape, problem.moments.data(), 0, 0);
    for (float *covariance : {view.key_covariance, view.value_covariance}) {
      for (int32_t i = 0; i < 64; ++i) covariance[i] = i % 9 == 0 ? 1 : 0;
      covariance[1] = covariance[8] = std::sqrt(1 - left);
    }
    std::iota(problem.score.rbegin(), problem.score.rend(), 1.0f);
    std::vector<float> gains;
    std::vector<int32_t> order;
    for (const int32_t isa : test::instruction_sets()) {
      problem.run(isa, THINK_KEYS, gains, order);
      EXPECT_EQ(gains[1] > 0, left > 1e-6f);
      problem.run(isa, THINK_VALUES, gains, order);
      EXPECT_EQ(gains[7] > 0, left > 1e-6f);
      EXPECT_EQ(order[7], 1);
    }
  }
}

TEST(Gains, FewerRowsThanChannels) {
  GainsProblem problem(test::make_shape(2, 1, 64, 64), 20, 3);
  std::vector<float> gains;
  std::vector<int32_t> order;
  for (const int32_t isa : test::instruction_sets()) {
    problem.run(isa, THINK_VALUES, gains, order);
    // What f32 moments leave behind their rank is rounding.
    for (int32_t t = 20; t < 64; ++t) EXPECT_LT(gains[t], 1e-3 * gains[0]) << t;
    EXPECT_GT(gains[19], 0);
    problem.run(isa, THINK_KEYS, gains, order);
    for (int32_t t = 0; t < 64; ++t) EXPECT_TRUE(t < 20 ? gains[t] > 0 : gains[t] < 1e-3 * gains[0]) << t;
  }
}

TEST(Gains, AllZeroMoments) {
  GainsProblem problem(test::make_shape(1, 1, 16, 24), 1, 4);
  std::fill(problem.moments.begin(), problem.moments.end(), 0);
  std::vector<float> gains;
  std::vector<int32_t> order;
  for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
    problem.run(THINK_ISA_PORTABLE, side, gains, order);
    for (const float gain : gains) EXPECT_EQ(gain, 0);
  }
  for (int32_t t = 0; t < 24; ++t) EXPECT_EQ(order[t], t);
}

TEST(Gains, EqualAndUndefinedScores) {
  GainsProblem problem(test::make_shape(2, 1, 16, 16), 40, 5);
  std::fill(problem.score.begin(), problem.score.end(), 1.5f);
  problem.score[16 + 9] = std::numeric_limits<float>::quiet_NaN();
  problem.score[16 + 4] = INFINITY;
  problem.score[16 + 12] = -1;
  check_gains(problem);
  std::vector<float> gains;
  std::vector<int32_t> order;
  problem.run(THINK_ISA_PORTABLE, THINK_KEYS, gains, order);
  for (int32_t t = 0; t < 16; ++t) EXPECT_EQ(order[t], t);
  EXPECT_EQ(std::vector<int32_t>(order.begin() + 16, order.end()),
            (std::vector<int32_t>{4, 9, 0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 13, 14, 15, 12}));
}

TEST(Gains, DamagedCovarianceGivesAPermutationAndNoNaN) {
  GainsProblem problem(test::make_shape(1, 1, 16, 16), 40, 6);
  moments::View view = moments::view(problem.shape, problem.moments.data(), 0, 0);
  for (int32_t i = 0; i < 256; i += 3) view.key_covariance[i] = view.value_covariance[i] = std::numeric_limits<float>::quiet_NaN();
  view.value_covariance[17] = INFINITY;
  for (const int32_t isa : test::instruction_sets()) {
    for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
      std::vector<float> gains;
      std::vector<int32_t> order;
      problem.run(isa, side, gains, order);
      for (const float gain : gains) EXPECT_GE(gain, 0);
      std::sort(order.begin(), order.end());
      for (int32_t t = 0; t < 16; ++t) EXPECT_EQ(order[t], t);
    }
  }
}

TEST(Gains, SameBitsForAnyThreads) {
  GainsProblem problem(test::make_shape(20, 1, 32, 24), 90, 7);
  std::vector<float> once, again;
  std::vector<int32_t> order, order_again;
  for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
    problem.run(THINK_ISA_PORTABLE, side, once, order, 1);
    problem.run(THINK_ISA_PORTABLE, side, again, order_again, 5);
    EXPECT_EQ(std::memcmp(once.data(), again.data(), once.size() * sizeof(float)), 0);
    EXPECT_EQ(order, order_again);
  }
}

// ---- recorded

TEST(Moments, RecordedVectors) {
  const auto problems = test::recorded_problems();
  ASSERT_EQ(problems.size(), 5u);
  for (const auto &problem : problems) {
    const Shape shape = test::make_shape(problem.heads, problem.group, problem.channels, problem.channels);
    const int32_t n = problem.channels;
    moments::Arguments arguments{};
    arguments.shape = shape;
    think_tensor &query = arguments.window_query;
    query.data = const_cast<uint16_t *>(problem.query.data());
    query.dtype = THINK_F16;
    const int64_t extent[4] = {1, shape.query_heads, problem.window, n}, stride[4] = {0, static_cast<int64_t>(problem.window) * n, n, 1};
    std::copy(extent, extent + 4, query.extent);
    std::copy(stride, stride + 4, query.stride);
    think_segment source = THINK_SEGMENT_INIT;
    source.flags = THINK_SEGMENT_CAUSAL;
    source.key_dtype = source.value_dtype = THINK_F16;
    source.key = const_cast<uint16_t *>(problem.key.data());
    source.value = const_cast<uint16_t *>(problem.value.data());
    source.key_stride[1] = source.value_stride[1] = static_cast<int64_t>(problem.tokens) * n * 2;
    source.lengths = &problem.tokens;
    arguments.source = source;
    arguments.batch.count = 1;
    arguments.sinks = problem.json["sinks"];
    arguments.recent = problem.json["recent"];
    arguments.attention_share = problem.json["share"];
    std::vector<char> state(moments::state_bytes(shape), static_cast<char>(0xff));
    arguments.moments = state.data();
    for (const int32_t isa : test::instruction_sets()) {
      SCOPED_TRACE(problem.json["name"].get<std::string>() + " " + test::isa_name(isa));
      Guarded workspace(moments::workspace(shape, 1, problem.tokens)), more(moments::gains_workspace(shape, 1));
      Threads pool{2};
      moments::measure(isa, arguments, workspace.data(), pool.parallel());
      EXPECT_TRUE(workspace.intact());
      std::vector<float> score;
      for (int32_t h = 0; h < problem.heads; ++h) {
        for (const double x : problem.solution<double>(h, "score")) score.push_back(static_cast<float>(x));
      }
      for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
        const bool keys = side == THINK_KEYS;
        std::vector<float> gains(score.size());
        std::vector<int32_t> order(score.size());
        moments::gains(isa, shape, state.data(), arguments.batch, side, keys ? score.data() : nullptr, gains.data(), order.data(),
                       more.data(), pool.parallel());
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
    }
  }
}

}  // namespace
}  // namespace think
