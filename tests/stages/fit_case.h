// Random moments with a basis, and what must come out of them: shared by the tests of the fit stage on the CPU and in the emulator.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "kernels/fit/fit.h"
#include "kernels/moments/moments.h"
#include "stats_problem.h"

namespace think::test::fit_case {

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

inline void compare(Problem &problem, int32_t s, int32_t h, double tolerance = 1e-3) {
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

// What the prediction from the channels `kept` leaves of the variance, over all channels; hardly any ridge, as that
// would leave more than the choice does.
inline double residual(Problem &problem, int32_t s, int32_t h, const std::vector<int32_t> &kept) {
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

// The choice of one side and its weights against what was recorded: the same keys, and values that predict as well.
inline void compare_recorded(const Recorded &recorded, Problem &problem) {
  const Shape &shape = problem.shape;
  const bool keys = problem.side == THINK_KEYS;
  const int32_t n = recorded.channels;
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

// Cases that both backends must pass: `fit` fits a problem in place.

template <class Fit>
void slots_of_the_batch_only(const Fit &fit) {
  std::mt19937 random(2);
  Problem problem(make_shape(3, 1, 32, 32), THINK_KEYS, 5);
  for (int32_t s = 0; s < 5; ++s) {
    for (int32_t h = 0; h < 3; ++h) {
      problem.fill(s, h, random, 1);
      problem.choose(s, h, 8 + 5 * h + s, random);
    }
  }
  problem.slot = {4, 1, 2};
  problem.arguments.batch = {3, nullptr, nullptr, problem.slot.data()};
  const std::vector<int32_t> kept = problem.kept, index = problem.index;
  fit(problem);
  for (const int32_t s : problem.slot) {
    for (int32_t h = 0; h < 3; ++h) compare(problem, s, h);
  }
  EXPECT_EQ(problem.kept, kept);
  EXPECT_EQ(problem.index, index);
  for (const int32_t s : {0, 3}) {
    for (int32_t h = 0; h < 3; ++h) {
      EXPECT_EQ(problem.weight_offset[s * 3 + h], 12345);
      const int64_t bytes = think::fit::weight_head_bytes(32);
      for (int64_t i = 0; i < bytes; ++i) ASSERT_EQ(problem.weight[(s * 3 + h) * bytes + i], 0x77);
    }
  }
}

template <class Fit>
void channels_without_variance_have_no_weights(const Fit &fit) {
  std::mt19937 random(4);
  for (const float ridge : {1e-3f, 0.0f}) {
    Problem problem(make_shape(1, 1, 32, 32), THINK_KEYS, 1);
    problem.arguments.ridge = ridge;
    problem.fill(0, 0, random, 50, {0, 3, 20, 31});
    problem.choose(0, 0, 16, random);
    int32_t order[32], next = 0;
    for (const int32_t i : {0, 3}) order[next++] = i;  // kept
    for (int32_t i = 4; i < 18; ++i) order[next++] = i;
    for (const int32_t i : {1, 2, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31}) order[next++] = i;
    std::copy(order, order + 32, problem.index.begin());
    fit(problem);
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

template <class Fit>
void singular_covariances(const Fit &fit) {
  std::mt19937 random(5);
  for (const float ridge : {1e-3f, 1e-6f}) {
    Problem problem(make_shape(1, 1, 64, 64), THINK_KEYS, 1);
    problem.arguments.ridge = ridge;
    problem.fill(0, 0, random, 0, {}, 20);  // 20 rows, 40 channels kept
    problem.choose(0, 0, 40, random);
    fit(problem);
    compare(problem, 0, 0, ridge < 1e-4f ? 2e-2 : 2e-3);
  }
  // Without a ridge there is no solution: the mean is predicted.
  Problem problem(make_shape(1, 1, 16, 16), THINK_KEYS, 1);
  problem.arguments.ridge = 0;
  problem.fill(0, 0, random, 3);
  float *covariance = problem.covariance(0, 0);
  for (int32_t j = 0; j < 16; ++j) covariance[1 * 16 + j] = covariance[j];
  for (int32_t j = 0; j < 16; ++j) covariance[j * 16 + 1] = covariance[j * 16];
  problem.kept[0] = 8;  // the first eight, among them the two that are equal
  fit(problem);
  ASSERT_EQ(problem.weight_offset[0], 0);
  for (int32_t p = 0; p < 8; ++p) {
    for (int32_t i = 0; i < 8; ++i) EXPECT_EQ(problem.stored(0, 0, p, i), 0);
    EXPECT_EQ(problem.offset[8 + p], problem.mean(0, 0)[8 + p]);
  }
}

template <class Fit>
void no_rows_measured(const Fit &fit) {
  Problem problem(make_shape(1, 1, 16, 16), THINK_KEYS, 1);
  problem.kept[0] = 5;
  fit(problem);
  ASSERT_EQ(problem.weight_offset[0], 0);
  for (int32_t p = 0; p < 11; ++p) {
    for (int32_t i = 0; i < 8; ++i) EXPECT_EQ(problem.block(0, 0)[p * 8 + i], 0);
    EXPECT_EQ(problem.offset[5 + p], 0);
  }
}

template <class Fit>
void damaged_moments_fall_back_to_the_paper(const Fit &fit) {
  for (const float damage : {NAN, INFINITY}) {
    for (const bool in_mean : {false, true}) {
      std::mt19937 random(6);
      Problem problem(make_shape(2, 1, 16, 16), THINK_KEYS, 1);
      for (int32_t h = 0; h < 2; ++h) {
        problem.fill(0, h, random, 0);
        problem.choose(0, h, 8, random);
      }
      (in_mean ? problem.mean(0, 0)[3] : problem.covariance(0, 0)[37]) = damage;
      fit(problem);
      EXPECT_EQ(problem.weight_offset[0], -1);
      compare(problem, 0, 1);
    }
  }
}

template <class Fit>
void large_weights_saturate(const Fit &fit) {
  Problem problem(make_shape(1, 1, 8, 8), THINK_KEYS, 1);
  problem.arguments.ridge = 0;
  float *covariance = problem.covariance(0, 0);
  for (int32_t i = 0; i < 8; ++i) covariance[i * 9] = i < 4 ? 1 : 1e11f;
  covariance[0 * 8 + 5] = covariance[5 * 8 + 0] = 2e5f;
  covariance[1 * 8 + 6] = covariance[6 * 8 + 1] = -3e5f;
  problem.kept[0] = 4;
  fit(problem);
  EXPECT_EQ(problem.stored(0, 0, 1, 0), 65504);
  EXPECT_EQ(problem.stored(0, 0, 2, 1), -65504);
  for (int32_t p = 0; p < 4; ++p) {
    for (int32_t i = 0; i < 4; ++i) EXPECT_TRUE(std::isfinite(problem.stored(0, 0, p, i)));
  }
}

}  // namespace think::test::fit_case
