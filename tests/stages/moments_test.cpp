// The moments stage against its double-precision reference and the recorded vectors, on every instruction set.
#include "kernels/moments/moments.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "instruction_sets.h"
#include "moments_case.h"

namespace think {
namespace {

using namespace test::moments_case;
using test::Guarded;
using test::Threads;

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
    Options options = test::layout_options<Options>(mask);
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

void check_gains(GainsProblem &problem, double tolerance = 1e-6) {
  for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
    const ExpectedGains want = expected_gains(problem, side);
    for (const int32_t isa : test::instruction_sets()) {
      SCOPED_TRACE(std::string(test::isa_name(isa)) + (side == THINK_KEYS ? " keys" : " values"));
      std::vector<float> gains;
      std::vector<int32_t> order;
      problem.run(isa, side, gains, order);
      compare_gains(problem, side, want, gains, order, tolerance);
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
    moments::Arguments arguments = recorded_arguments(problem);
    const Shape &shape = arguments.shape;
    std::vector<char> state(moments::state_bytes(shape), static_cast<char>(0xff));
    arguments.moments = state.data();
    for (const int32_t isa : test::instruction_sets()) {
      SCOPED_TRACE(problem.json["name"].get<std::string>() + " " + test::isa_name(isa));
      Guarded workspace(moments::workspace(shape, 1, problem.tokens)), more(moments::gains_workspace(shape, 1));
      Threads pool{2};
      moments::measure(isa, arguments, workspace.data(), pool.parallel());
      EXPECT_TRUE(workspace.intact());
      const std::vector<float> score = recorded_score(problem);
      for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
        std::vector<float> gains(score.size());
        std::vector<int32_t> order(score.size());
        moments::gains(isa, shape, state.data(), arguments.batch, side, side == THINK_KEYS ? score.data() : nullptr, gains.data(), order.data(),
                       more.data(), pool.parallel());
        compare_recorded(problem, shape, state, side, gains, order);
      }
    }
  }
}

}  // namespace
}  // namespace think
