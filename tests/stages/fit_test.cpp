// The fit stage against plain elimination and the recorded vectors; singular, damaged and empty covariances; no allocation.
#include "kernels/fit/fit.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "instruction_sets.h"
#include "kernels/moments/moments.h"
#include "kernels/select/select.h"
#include "stats_problem.h"

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

using test::Guarded;
using test::Threads;

// Moments of every head of one slot and a basis with random choices, its arrays filled with rubbish.
struct Problem {
  Shape shape;
  int32_t side, slots;
  std::vector<char> moments;
  std::vector<int32_t> kept, index, slot;
  std::vector<char> weight;
  std::vector<int64_t> weight_offset;
  std::vector<float> offset;
  think_basis basis = THINK_BASIS_INIT;
  fit::Arguments arguments{};

  Problem(const Shape &shape_in, int32_t side_in, int32_t slots_in) : shape(shape_in), side(side_in), slots(slots_in) {
    const int32_t heads = slots * shape.kv_heads, n = channels();
    moments.assign(moments::state_bytes(shape) * slots, 0);
    kept.assign(heads, n);
    index.resize(static_cast<size_t>(heads) * n);
    for (int32_t h = 0; h < heads; ++h) std::iota(&index[h * n], &index[h * n] + n, 0);
    weight.assign(heads * fit::weight_head_bytes(n), 0x77);
    weight_offset.assign(heads, 12345);
    offset.assign(index.size(), 1e30f);
    for (int32_t s = 0; s < slots; ++s) slot.push_back(s);
    basis.channels = n;
    basis.slots = slots;
    basis.kept = kept.data();
    basis.index = index.data();
    basis.weight = weight.data();
    basis.weight_bytes = static_cast<int64_t>(weight.size());
    basis.weight_offset = weight_offset.data();
    basis.offset = offset.data();
    arguments = {shape, moments.data(), {slots, nullptr, nullptr, slot.data()}, side, 1e-3f, basis};
  }

  int32_t channels() const { return side == THINK_KEYS ? shape.key_channels : shape.value_channels; }
  moments::View view(int32_t s, int32_t h) { return moments::view(shape, moments.data(), s, h); }
  float *mean(int32_t s, int32_t h) { return side == THINK_KEYS ? view(s, h).key_mean : view(s, h).value_mean; }
  float *covariance(int32_t s, int32_t h) { return side == THINK_KEYS ? view(s, h).key_covariance : view(s, h).value_covariance; }

  // Keep `width` random channels, the rest is dropped.
  void choose(int32_t s, int32_t h, int32_t width, std::mt19937 &random) {
    const int32_t n = channels();
    int32_t *at = &index[(s * shape.kv_heads + h) * n];
    std::iota(at, at + n, 0);
    std::shuffle(at, at + n, random);
    std::sort(at, at + width);
    std::sort(at + width, at + n);
    kept[s * shape.kv_heads + h] = width;
  }

  void fill(int32_t s, int32_t h, std::mt19937 &random, float bias, const std::vector<int32_t> &zero = {}, int32_t rank = 0) {
    const int32_t n = channels(), rows = rank ? rank : 2 * n;
    std::normal_distribution<double> normal;
    std::vector<double> x(static_cast<size_t>(rows) * n);
    for (int32_t r = 0; r < rows; ++r) {
      const double common = normal(random);
      for (int32_t j = 0; j < n; ++j) x[r * n + j] = (common + normal(random)) * (0.3 + j % 5);
      for (const int32_t z : zero) x[r * n + z] = 0;
    }
    for (int32_t i = 0; i < n; ++i) {
      mean(s, h)[i] = bias + static_cast<float>(normal(random));
      for (int32_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int32_t r = 0; r < rows; ++r) sum += x[r * n + i] * x[r * n + j] / rows;
        covariance(s, h)[i * n + j] = static_cast<float>(sum);
      }
    }
  }

  void fit(int32_t threads = 2) {
    Guarded workspace(fit::workspace(shape, arguments.batch.count, threads));
    Threads pool{threads};
    fit::fit(arguments, workspace.data(), pool.parallel());
    EXPECT_TRUE(workspace.intact());
  }

  const uint16_t *block(int32_t s, int32_t h) const {
    return reinterpret_cast<const uint16_t *>(weight.data() + weight_offset[s * shape.kv_heads + h]);
  }
  float stored(int32_t s, int32_t h, int32_t dropped, int32_t place) const {
    return f16_to_f32(block(s, h)[dropped * ((kept[s * shape.kv_heads + h] + 7) / 8 * 8) + place]);
  }
};

void compare(Problem &problem, int32_t s, int32_t h, double tolerance = 1e-3) {
  const int32_t n = problem.channels(), at = s * problem.shape.kv_heads + h, kept = problem.kept[at], dropped = n - kept;
  SCOPED_TRACE("slot " + std::to_string(s) + " head " + std::to_string(h) + " keeps " + std::to_string(kept) + " of " + std::to_string(n));
  if (kept == n) {
    EXPECT_EQ(problem.weight_offset[at], -1);
    return;
  }
  ASSERT_EQ(problem.weight_offset[at], at * fit::weight_head_bytes(n));
  std::vector<double> mean(problem.mean(s, h), problem.mean(s, h) + n),
      covariance(problem.covariance(s, h), problem.covariance(s, h) + n * n);
  std::vector<double> weight(dropped * kept), offset(dropped);
  const int32_t *index = &problem.index[at * n];
  fit::reference::fit(n, mean.data(), covariance.data(), index, kept, problem.arguments.ridge, weight.data(), offset.data());
  const int32_t stride = (kept + 7) / 8 * 8;
  for (int32_t p = 0; p < dropped; ++p) {
    double constant = mean[index[kept + p]];
    for (int32_t i = 0; i < kept; ++i) {
      const double w = problem.stored(s, h, p, i);
      EXPECT_NEAR(w, weight[p * kept + i], tolerance * std::abs(weight[p * kept + i]) + 1e-6);
      constant -= w * mean[index[i]];
    }
    for (int32_t i = kept; i < stride; ++i) EXPECT_EQ(problem.block(s, h)[p * stride + i], 0);
    // The offset belongs to the stored W: the prediction is exact where the kept channels are at their mean.
    EXPECT_NEAR(problem.offset[at * n + kept + p], constant, 1e-6 * (std::abs(constant) + 1));
    double size = 1;
    for (int32_t i = 0; i < kept; ++i) size += std::abs(weight[p * kept + i] * mean[index[i]]);
    EXPECT_NEAR(problem.offset[at * n + kept + p], offset[p], tolerance * size);
  }
}

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

// What the prediction from the channels `kept` leaves of the variance, over all channels; hardly any ridge, as that
// would leave more than the choice does.
double residual(Problem &problem, int32_t s, int32_t h, const std::vector<int32_t> &kept) {
  const int32_t n = problem.channels(), count = static_cast<int32_t>(kept.size());
  std::vector<int32_t> index = kept;
  for (int32_t i = 0; i < n; ++i) {
    if (!std::count(kept.begin(), kept.end(), i)) index.push_back(i);
  }
  std::vector<double> mean(n, 0.0), covariance(problem.covariance(s, h), problem.covariance(s, h) + n * n), weight((n - count) * count),
      offset(n - count);
  fit::reference::fit(n, mean.data(), covariance.data(), index.data(), count, 1e-7, weight.data(), offset.data());
  double left = 0;
  for (int32_t p = 0; p < n - count; ++p) {
    const double *w = &weight[p * count], *row = &covariance[index[count + p] * n];
    left += row[index[count + p]];
    for (int32_t i = 0; i < count; ++i) {
      left -= 2 * w[i] * row[index[i]];
      for (int32_t j = 0; j < count; ++j) left += w[i] * w[j] * covariance[index[i] * n + index[j]];
    }
  }
  return left;
}

// From f16 rows to W: moments, gains, budgets, select and fit, against the recorded solution.
TEST(Fit, RecordedVectors) {
  for (const auto &recorded : test::recorded_problems()) {
    const Shape shape = test::make_shape(recorded.heads, recorded.group, recorded.channels, recorded.channels);
    const int32_t n = recorded.channels;
    moments::Arguments measured{};
    measured.shape = shape;
    think_tensor &query = measured.window_query;
    query.data = const_cast<uint16_t *>(recorded.query.data());
    query.dtype = THINK_F16;
    const int64_t extent[4] = {1, shape.query_heads, recorded.window, n}, stride[4] = {0, static_cast<int64_t>(recorded.window) * n, n, 1};
    std::copy(extent, extent + 4, query.extent);
    std::copy(stride, stride + 4, query.stride);
    think_segment source = THINK_SEGMENT_INIT;
    source.flags = THINK_SEGMENT_CAUSAL;
    source.key_dtype = source.value_dtype = THINK_F16;
    source.key = const_cast<uint16_t *>(recorded.key.data());
    source.value = const_cast<uint16_t *>(recorded.value.data());
    source.key_stride[1] = source.value_stride[1] = static_cast<int64_t>(recorded.tokens) * n * 2;
    source.lengths = &recorded.tokens;
    measured.source = source;
    measured.batch.count = 1;
    measured.sinks = recorded.json["sinks"];
    measured.recent = recorded.json["recent"];
    measured.attention_share = recorded.json["share"];
    for (const int32_t isa : test::instruction_sets()) {
      for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
        const bool keys = side == THINK_KEYS;
        SCOPED_TRACE(recorded.json["name"].get<std::string>() + (keys ? ", keys, " : ", values, ") + test::isa_name(isa));
        Problem problem(shape, side, 1);
        measured.moments = problem.moments.data();
        Guarded workspace(moments::workspace(shape, 1, recorded.tokens)), more(moments::gains_workspace(shape, 1));
        Threads pool{2};
        moments::measure(isa, measured, workspace.data(), pool.parallel());
        std::vector<float> score, gains(static_cast<size_t>(shape.kv_heads) * n);
        std::vector<int32_t> order(gains.size()), width(shape.kv_heads);
        for (int32_t h = 0; h < shape.kv_heads; ++h) {
          for (const double x : recorded.solution<double>(h, "score")) score.push_back(static_cast<float>(x));
        }
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
        for (int32_t h = 0; h < shape.kv_heads; ++h) {
          SCOPED_TRACE(h);
          const auto want_kept = recorded.solution<int32_t>(h, keys ? "key_kept" : "value_kept");
          const int32_t *index = &problem.index[h * n];
          const std::vector<int32_t> chosen(index, index + problem.kept[h]);
          ASSERT_EQ(chosen.size(), want_kept.size());
          if (problem.kept[h] == n) {
            EXPECT_EQ(problem.weight_offset[h], -1);
            continue;
          }
          if (keys) {
            ASSERT_EQ(chosen, want_kept);
          } else if (chosen != want_kept) {
            // Where next to nothing is left, rounding decides: another choice must leave as little.
            double trace = 0;
            for (int32_t i = 0; i < n; ++i) trace += problem.covariance(0, h)[i * (n + 1)];
            EXPECT_LE(residual(problem, 0, h, chosen), 1.001 * residual(problem, 0, h, want_kept) + 2e-5 * trace);
            compare(problem, 0, h);
            continue;
          }
          const auto weight = recorded.solution<double>(h, keys ? "key_weight" : "value_weight");
          const auto offset = recorded.solution<double>(h, keys ? "key_offset" : "value_offset");
          const auto mean = recorded.solution<double>(h, keys ? "key_mean" : "value_mean");
          const int32_t kept = problem.kept[h];
          for (int32_t p = 0; p < n - kept; ++p) {
            double size = 1;
            for (int32_t i = 0; i < kept; ++i) {
              EXPECT_NEAR(problem.stored(0, h, p, i), weight[p * kept + i], 1e-3 * std::abs(weight[p * kept + i]) + 3e-4) << p << " " << i;
              size += std::abs(weight[p * kept + i] * mean[index[i]]);
            }
            EXPECT_NEAR(problem.offset[h * n + kept + p], offset[p], 1e-3 * size) << p;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace think
