// The fit stage against plain elimination and the recorded vectors; singular, damaged and empty covariances; no allocation.
#include "kernels/fit/fit.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "fit_case.h"
#include "instruction_sets.h"
#include "kernels/moments/moments.h"
#include "kernels/select/select.h"
#include "moments_case.h"

// Counts allocations of this thread while it is asked to. Sanitizers bring a malloc of their own.
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define THINK_COUNT_ALLOCATIONS 1
extern "C" void *__libc_malloc(size_t);
extern "C" void *__libc_memalign(size_t, size_t);
namespace {
thread_local int64_t allocations = -1;
void count_allocation() {
  if (allocations >= 0) ++allocations;
}
}  // namespace
extern "C" void *malloc(size_t bytes) {
  count_allocation();
  return __libc_malloc(bytes);
}
extern "C" int posix_memalign(void **memory, size_t alignment, size_t bytes) {
  count_allocation();
  *memory = __libc_memalign(alignment, bytes);
  return *memory ? 0 : 12;
}
extern "C" void *aligned_alloc(size_t alignment, size_t bytes) {
  count_allocation();
  return __libc_memalign(alignment, bytes);
}
#endif

namespace think {
namespace {

using namespace test::fit_case;
using test::Guarded;
using test::Threads;

TEST(Fit, MatchesPlainElimination) {
  std::mt19937 random(1);
  for (const int32_t channels : {8, 16, 40, 64, 80, 96, 128, 256}) {
    for (const int32_t wanted : {1, 7, 8, 9, 16, 39, 40, 52, 63, 64, 65, 77, 80, 127, 128, 200, 255, 256}) {
      const int32_t width = std::min(wanted, channels);
      if (channels == 256 && wanted < 63) continue;
      for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
        if (side == THINK_VALUES && width % 8) continue;
        Problem problem(side == THINK_KEYS ? test::make_shape(2, 1, channels, 16) : test::make_shape(2, 1, 24, channels), side, 1);
        for (int32_t h = 0; h < 2; ++h) {
          problem.fill(0, h, random, h ? 50.0f : 0.0f);
          problem.choose(0, h, std::max(1, width - h * (side == THINK_VALUES ? 8 : 1)), random);
        }
        problem.fit();
        for (int32_t h = 0; h < 2; ++h) compare(problem, 0, h);
        if (width == channels && wanted > channels) break;
      }
    }
  }
}

TEST(Fit, SlotsOfTheBatchOnly) {
  std::mt19937 random(2);
  Problem problem(test::make_shape(3, 1, 32, 32), THINK_KEYS, 5);
  for (int32_t s = 0; s < 5; ++s) {
    for (int32_t h = 0; h < 3; ++h) {
      problem.fill(s, h, random, 1);
      problem.choose(s, h, 8 + 5 * h + s, random);
    }
  }
  problem.slot = {4, 1, 2};
  problem.arguments.batch = {3, nullptr, nullptr, problem.slot.data()};
  const std::vector<int32_t> kept = problem.kept, index = problem.index;
  problem.fit();
  for (const int32_t s : problem.slot) {
    for (int32_t h = 0; h < 3; ++h) compare(problem, s, h);
  }
  EXPECT_EQ(problem.kept, kept);
  EXPECT_EQ(problem.index, index);
  for (const int32_t s : {0, 3}) {
    for (int32_t h = 0; h < 3; ++h) {
      EXPECT_EQ(problem.weight_offset[s * 3 + h], 12345);
      const int64_t bytes = fit::weight_head_bytes(32);
      for (int64_t i = 0; i < bytes; ++i) ASSERT_EQ(problem.weight[(s * 3 + h) * bytes + i], 0x77);
    }
  }
}

TEST(Fit, SameBitsForAnyThreads) {
  std::mt19937 random(3);
  Problem problem(test::make_shape(7, 1, 64, 64), THINK_VALUES, 1);
  for (int32_t h = 0; h < 7; ++h) {
    problem.fill(0, h, random, 0);
    problem.choose(0, h, 8 + 8 * h, random);
  }
  problem.fit(1);
  const std::vector<char> weight = problem.weight;
  const std::vector<float> offset = problem.offset;
  for (const int32_t threads : {2, 4, 9}) {
    std::fill(problem.offset.begin(), problem.offset.end(), 1e30f);
    problem.fit(threads);
    EXPECT_TRUE(problem.weight == weight);
    EXPECT_EQ(problem.offset, offset);
  }
}

TEST(Fit, ChannelsWithoutVarianceHaveNoWeights) {
  std::mt19937 random(4);
  for (const float ridge : {1e-3f, 0.0f}) {
    Problem problem(test::make_shape(1, 1, 32, 32), THINK_KEYS, 1);
    problem.arguments.ridge = ridge;
    problem.fill(0, 0, random, 50, {0, 3, 20, 31});
    problem.choose(0, 0, 16, random);
    int32_t order[32], next = 0;
    for (const int32_t i : {0, 3}) order[next++] = i;  // kept
    for (int32_t i = 4; i < 18; ++i) order[next++] = i;
    for (const int32_t i : {1, 2, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31}) order[next++] = i;
    std::copy(order, order + 32, problem.index.begin());
    problem.fit();
    ASSERT_EQ(problem.weight_offset[0], 0);
    compare(problem, 0, 0);
    for (int32_t p = 0; p < 16; ++p) {
      EXPECT_EQ(problem.stored(0, 0, p, 0), 0);
      EXPECT_EQ(problem.stored(0, 0, p, 1), 0);
      for (int32_t i = 0; i < 16 && (order[16 + p] == 20 || order[16 + p] == 31); ++i) EXPECT_EQ(problem.stored(0, 0, p, i), 0);
    }
    EXPECT_EQ(problem.offset[31], problem.mean(0, 0)[31]);
  }
}

TEST(Fit, SingularCovariances) {
  std::mt19937 random(5);
  for (const float ridge : {1e-3f, 1e-6f}) {
    Problem problem(test::make_shape(1, 1, 64, 64), THINK_KEYS, 1);
    problem.arguments.ridge = ridge;
    problem.fill(0, 0, random, 0, {}, 20);  // 20 rows, 40 channels kept
    problem.choose(0, 0, 40, random);
    problem.fit();
    compare(problem, 0, 0, ridge < 1e-4f ? 2e-2 : 2e-3);
  }
  // Without a ridge there is no solution: the mean is predicted.
  Problem problem(test::make_shape(1, 1, 16, 16), THINK_KEYS, 1);
  problem.arguments.ridge = 0;
  problem.fill(0, 0, random, 3);
  float *covariance = problem.covariance(0, 0);
  for (int32_t j = 0; j < 16; ++j) covariance[1 * 16 + j] = covariance[j];
  for (int32_t j = 0; j < 16; ++j) covariance[j * 16 + 1] = covariance[j * 16];
  problem.kept[0] = 8;  // the first eight, among them the two that are equal
  problem.fit();
  ASSERT_EQ(problem.weight_offset[0], 0);
  for (int32_t p = 0; p < 8; ++p) {
    for (int32_t i = 0; i < 8; ++i) EXPECT_EQ(problem.stored(0, 0, p, i), 0);
    EXPECT_EQ(problem.offset[8 + p], problem.mean(0, 0)[8 + p]);
  }
}

TEST(Fit, NoRowsMeasured) {
  Problem problem(test::make_shape(1, 1, 16, 16), THINK_KEYS, 1);
  problem.kept[0] = 5;
  problem.fit();
  ASSERT_EQ(problem.weight_offset[0], 0);
  for (int32_t p = 0; p < 11; ++p) {
    for (int32_t i = 0; i < 8; ++i) EXPECT_EQ(problem.block(0, 0)[p * 8 + i], 0);
    EXPECT_EQ(problem.offset[5 + p], 0);
  }
}

TEST(Fit, DamagedMomentsFallBackToThePaper) {
  for (const float damage : {NAN, INFINITY}) {
    for (const bool in_mean : {false, true}) {
      std::mt19937 random(6);
      Problem problem(test::make_shape(2, 1, 16, 16), THINK_KEYS, 1);
      for (int32_t h = 0; h < 2; ++h) {
        problem.fill(0, h, random, 0);
        problem.choose(0, h, 8, random);
      }
      (in_mean ? problem.mean(0, 0)[3] : problem.covariance(0, 0)[37]) = damage;
      problem.fit();
      EXPECT_EQ(problem.weight_offset[0], -1);
      compare(problem, 0, 1);
    }
  }
}

TEST(Fit, LargeWeightsSaturate) {
  Problem problem(test::make_shape(1, 1, 8, 8), THINK_KEYS, 1);
  problem.arguments.ridge = 0;
  float *covariance = problem.covariance(0, 0);
  for (int32_t i = 0; i < 8; ++i) covariance[i * 9] = i < 4 ? 1 : 1e11f;
  covariance[0 * 8 + 5] = covariance[5 * 8 + 0] = 2e5f;
  covariance[1 * 8 + 6] = covariance[6 * 8 + 1] = -3e5f;
  problem.kept[0] = 4;
  problem.fit();
  EXPECT_EQ(problem.stored(0, 0, 1, 0), 65504);
  EXPECT_EQ(problem.stored(0, 0, 2, 1), -65504);
  for (int32_t p = 0; p < 4; ++p) {
    for (int32_t i = 0; i < 4; ++i) EXPECT_TRUE(std::isfinite(problem.stored(0, 0, p, i)));
  }
}

TEST(Fit, BlocksFitTheirPlaces) {
  for (int32_t channels = 8; channels <= 256; channels += 8) {
    for (int32_t kept = 1; kept <= channels; ++kept) ASSERT_LE(fit::weight_block_bytes(channels, kept), fit::weight_head_bytes(channels));
    ASSERT_EQ(fit::weight_head_bytes(channels) % 16, 0);
  }
  const Shape shape = test::make_shape(3, 1, 64, 128);
  for (int32_t i = 1; i < 6; ++i) {
    EXPECT_GE(fit::workspace(shape, i + 1, 4), fit::workspace(shape, i, 4));
    EXPECT_GE(fit::workspace(shape, 2, i + 1), fit::workspace(shape, 2, i));
  }
}

#if THINK_COUNT_ALLOCATIONS
TEST(Fit, NeverAllocates) {
  std::mt19937 random(7);
  for (const int32_t channels : {64, 128, 256}) {
    for (int32_t kept = 8; kept < channels; kept += 24) {
      Problem problem(test::make_shape(1, 1, channels, channels), THINK_KEYS, 1);
      problem.fill(0, 0, random, 0);
      problem.choose(0, 0, kept, random);
      Guarded workspace(fit::workspace(problem.shape, 1, 1));
      Threads pool{1};
      const Parallel parallel = pool.parallel();
      allocations = 0;
      fit::fit(problem.arguments, workspace.data(), parallel);
      const int64_t during_fit = allocations;
      std::vector<char> *one = new std::vector<char>(100);
      const int64_t with_vector = allocations;
      allocations = -1;
      delete one;
      EXPECT_EQ(during_fit, 0) << kept << " of " << channels;
      EXPECT_EQ(with_vector, during_fit + 2);  // the counter does count
    }
  }
}
#endif

// From f16 rows to W: moments, gains, budgets, select and fit, against the recorded solution.
TEST(Fit, RecordedVectors) {
  for (const auto &recorded : test::recorded_problems()) {
    moments::Arguments measured = test::moments_case::recorded_arguments(recorded);
    const Shape &shape = measured.shape;
    const int32_t n = recorded.channels;
    for (const int32_t isa : test::instruction_sets()) {
      for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
        const bool keys = side == THINK_KEYS;
        SCOPED_TRACE(recorded.json["name"].get<std::string>() + (keys ? ", keys, " : ", values, ") + test::isa_name(isa));
        Problem problem(shape, side, 1);
        measured.moments = problem.moments.data();
        Guarded workspace(moments::workspace(shape, 1, recorded.tokens)), more(moments::gains_workspace(shape, 1));
        Threads pool{2};
        moments::measure(isa, measured, workspace.data(), pool.parallel());
        std::vector<float> score = test::moments_case::recorded_score(recorded), gains(static_cast<size_t>(shape.kv_heads) * n);
        std::vector<int32_t> order(gains.size()), width(shape.kv_heads);
        moments::gains(isa, shape, problem.moments.data(), measured.batch, side, keys ? score.data() : nullptr, gains.data(), order.data(),
                       more.data(), pool.parallel());
        select::Budgets budgets{1, 1, shape.kv_heads, n, 8, 8, recorded.json[keys ? "key_total" : "value_total"], false};
        Guarded blocks(select::budgets_workspace(budgets));
        select::budgets(budgets, gains.data(), width.data(), blocks.data());
        if (!keys) {
          // Values are chosen in the order in which they were taken.
          for (int32_t h = 0; h < shape.kv_heads; ++h) {
            for (int32_t t = 0; t < n; ++t) score[h * n + order[h * n + t]] = static_cast<float>(n - t);
          }
        }
        select::Select choice{shape.kv_heads, n, keys ? 1 : 8, 0, width.data(), select::Pairs::none};
        std::vector<uint8_t> mask(gains.size());
        select::select(choice, score.data(), measured.batch, problem.basis, mask.data());
        problem.fit();
        compare_recorded(recorded, problem);
      }
    }
  }
}

}  // namespace
}  // namespace think
