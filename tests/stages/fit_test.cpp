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

void fit_here(Problem &problem) { problem.fit(); }

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

TEST(Fit, SlotsOfTheBatchOnly) { slots_of_the_batch_only(fit_here); }

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

TEST(Fit, ChannelsWithoutVarianceHaveNoWeights) { channels_without_variance_have_no_weights(fit_here); }

TEST(Fit, SingularCovariances) { singular_covariances(fit_here); }

TEST(Fit, NoRowsMeasured) { no_rows_measured(fit_here); }

TEST(Fit, DamagedMomentsFallBackToThePaper) { damaged_moments_fall_back_to_the_paper(fit_here); }

TEST(Fit, LargeWeightsSaturate) { large_weights_saturate(fit_here); }

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
