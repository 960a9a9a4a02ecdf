// The select stage: choices by rank counting against sorting, widths, pairs, ties; budgets against sorting.
#include "kernels/select/select.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>

#include "stats_problem.h"

namespace think {
namespace {

using select::Pairs;
using test::Guarded;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Choice {
  int32_t heads, channels, slots;
  std::vector<int32_t> kept, index;
  std::vector<int64_t> weight_offset;
  std::vector<float> offset;
  std::vector<uint8_t> mask;
  think_basis basis = THINK_BASIS_INIT;

  Choice(int32_t heads_in, int32_t channels_in, int32_t slots_in = 1, int32_t batch = 1)
      : heads(heads_in),
        channels(channels_in),
        slots(slots_in),
        kept(slots * heads, -7),
        index(static_cast<size_t>(slots) * heads * channels, -7),
        weight_offset(slots * heads, 77),
        offset(index.size(), 3.0f),
        mask(static_cast<size_t>(batch) * heads * channels, 9) {
    basis.channels = channels;
    basis.slots = slots;
    basis.kept = kept.data();
    basis.index = index.data();
    basis.weight_offset = weight_offset.data();
    basis.offset = offset.data();
  }
};


TEST(Select, MatchesSorting) {
  std::mt19937 random(1);
  for (const int32_t channels : {8, 64, 80, 96, 128, 256}) {
    for (const int32_t width : {1, 7, 8, 9, 16, 39, 40, 52, 63, 64, 65, 77, 80, 127, 128, 255, 256, 1000}) {
      for (const Pairs pairs : {Pairs::none, Pairs::halves, Pairs::interleaved}) {
        std::vector<float> score(channels);
        // Few different numbers, so that most are equal to others.
        for (float &s : score) s = static_cast<float>(random() % 6) - 1.0f;
        score[random() % channels] = kNaN;
        score[random() % channels] = INFINITY;
        score[random() % channels] = -INFINITY;
        Choice choice(1, channels);
        select::select({1, channels, 1, width, nullptr, pairs}, score.data(), kOneSequence, choice.basis, choice.mask.data());
        const int32_t kept = select::rounded_width(width, 1, channels, pairs);
        EXPECT_EQ(choice.kept[0], kept);
        EXPECT_EQ(choice.weight_offset[0], -1);
        std::vector<int32_t> want(channels);
        select::reference::select(channels, score.data(), kept, pairs, want.data());
        EXPECT_EQ(choice.index, want) << channels << " " << width;
        for (int32_t i = 0; i < channels; ++i) EXPECT_EQ(choice.mask[want[i]], i < kept);
      }
    }
  }
}

TEST(Select, EqualScoresKeepTheLowerChannels) {
  const std::vector<float> score(64, 2.5f);
  Choice choice(1, 64);
  select::select({1, 64, 1, 40, nullptr, Pairs::none}, score.data(), kOneSequence, choice.basis, nullptr);
  for (int32_t i = 0; i < 64; ++i) EXPECT_EQ(choice.index[i], i);
  const std::vector<float> zeros = {0.0f, -0.0f, 0.0f, -0.0f, -0.0f, 0.0f, -0.0f, 0.0f};
  Choice signs(1, 8);
  select::select({1, 8, 1, 3, nullptr, Pairs::none}, zeros.data(), kOneSequence, signs.basis, nullptr);
  for (int32_t i = 0; i < 8; ++i) EXPECT_EQ(signs.index[i], i);
}

TEST(Select, NaNCountsAsInfinity) {
  const float score[8] = {1, kNaN, 3, INFINITY, -kNaN, 4, 0, 2};
  Choice choice(1, 8);
  select::select({1, 8, 1, 3, nullptr, Pairs::none}, score, kOneSequence, choice.basis, nullptr);
  EXPECT_EQ(choice.index, (std::vector<int32_t>{1, 3, 4, 0, 2, 5, 6, 7}));
  select::select({1, 8, 1, 2, nullptr, Pairs::none}, score, kOneSequence, choice.basis, nullptr);
  EXPECT_EQ(choice.index, (std::vector<int32_t>{1, 3, 0, 2, 4, 5, 6, 7}));
}

TEST(Select, PairsStayTogether) {
  const float score[8] = {0, 0, 9, 1, 5, 0, 0, 3};
  Choice choice(1, 8);
  select::select({1, 8, 1, 3, nullptr, Pairs::halves}, score, kOneSequence, choice.basis, nullptr);  // sums 5 0 9 4
  EXPECT_EQ(choice.kept[0], 4);
  EXPECT_EQ(choice.index, (std::vector<int32_t>{0, 2, 4, 6, 1, 3, 5, 7}));
  select::select({1, 8, 1, 4, nullptr, Pairs::interleaved}, score, kOneSequence, choice.basis, nullptr);  // sums 0 10 5 3
  EXPECT_EQ(choice.index, (std::vector<int32_t>{2, 3, 4, 5, 0, 1, 6, 7}));
}

TEST(Select, Widths) {
  EXPECT_EQ(select::rounded_width(77, 1, 128, Pairs::none), 77);
  EXPECT_EQ(select::rounded_width(77, 8, 128, Pairs::none), 80);
  EXPECT_EQ(select::rounded_width(77, 1, 128, Pairs::halves), 78);
  EXPECT_EQ(select::rounded_width(77, 3, 128, Pairs::none), 78);
  EXPECT_EQ(select::rounded_width(127, 16, 128, Pairs::none), 128);
  EXPECT_EQ(select::rounded_width(70, 64, 72, Pairs::none), 72);
  EXPECT_EQ(select::rounded_width(0, 1, 64, Pairs::none), 1);
  EXPECT_EQ(select::rounded_width(-5, 8, 64, Pairs::none), 8);
  EXPECT_EQ(select::rounded_width(INT32_MAX, 8, 64, Pairs::interleaved), 64);
  EXPECT_EQ(select::rounded_width(5, 0, 64, Pairs::none), 5);
}

TEST(Select, SlotsAndWidthsPerHead) {
  std::mt19937 random(2);
  const int32_t slots[3] = {4, 0, 3}, widths[6] = {3, 77, 128, 0, 500, 64};
  const Batch batch{3, nullptr, nullptr, slots};
  std::vector<float> score(6 * 128);
  for (float &s : score) s = static_cast<float>(random() % 1000);
  Choice choice(2, 128, 5, 3);
  select::select({2, 128, 1, 9, widths, Pairs::none}, score.data(), batch, choice.basis, choice.mask.data());
  for (int32_t b = 0; b < 3; ++b) {
    for (int32_t h = 0; h < 2; ++h) {
      const int32_t kept = std::clamp(widths[b * 2 + h], 1, 128), at = slots[b] * 2 + h;
      EXPECT_EQ(choice.kept[at], kept);
      std::vector<int32_t> want(128);
      select::reference::select(128, &score[(b * 2 + h) * 128], kept, Pairs::none, want.data());
      EXPECT_TRUE(std::equal(want.begin(), want.end(), &choice.index[at * 128]));
      EXPECT_EQ(std::accumulate(&choice.mask[(b * 2 + h) * 128], &choice.mask[(b * 2 + h) * 128] + 128, 0), kept);
    }
  }
  for (const int32_t slot : {1, 2}) {
    for (int32_t h = 0; h < 2; ++h) {
      EXPECT_EQ(choice.kept[slot * 2 + h], -7);
      EXPECT_EQ(choice.weight_offset[slot * 2 + h], 77);
      EXPECT_EQ(choice.index[(slot * 2 + h) * 128], -7);
    }
  }
}

std::vector<int32_t> run_budgets(const select::Budgets &arguments, const std::vector<float> &gains) {
  std::vector<int32_t> kept(static_cast<size_t>(arguments.layers) * arguments.batch * arguments.kv_heads, -1);
  Guarded workspace(select::budgets_workspace(arguments));
  select::budgets(arguments, gains.data(), kept.data(), workspace.data());
  EXPECT_TRUE(workspace.intact());
  return kept;
}

TEST(Budgets, MatchSorting) {
  std::mt19937 random(3);
  for (int i = 0; i < 200; ++i) {
    select::Budgets arguments{};
    arguments.layers = 1 + static_cast<int32_t>(random() % 3);
    arguments.batch = 1 + static_cast<int32_t>(random() % 3);
    arguments.kv_heads = 1 + static_cast<int32_t>(random() % 5);
    arguments.channels = 16 << random() % 4;
    arguments.step = i % 3 ? 8 : 4;
    arguments.floor = arguments.step * static_cast<int32_t>(random() % 3);
    if (arguments.floor == 0) arguments.floor = arguments.step;
    arguments.normalise = i % 2;
    const int32_t heads = arguments.layers * arguments.kv_heads;
    const int64_t least = static_cast<int64_t>(heads) * arguments.floor, most = static_cast<int64_t>(heads) * arguments.channels;
    arguments.total = least + static_cast<int64_t>(random() % static_cast<uint64_t>(most - least + 1));
    // Whole numbers, so that equal blocks are frequent and both sums are exact; the layers' sums are powers of two by their last channel.
    std::vector<float> gains(static_cast<size_t>(heads) * arguments.batch * arguments.channels);
    for (float &g : gains) g = static_cast<float>(random() % 4 * (random() % 3));
    if (arguments.normalise) {
      const size_t layer = static_cast<size_t>(arguments.kv_heads) * arguments.channels;
      for (size_t at = 0; at < gains.size(); at += layer) {
        const float sum = std::accumulate(gains.begin() + at, gains.begin() + at + layer, -gains[at]);
        gains[at] = std::exp2(std::ceil(std::log2(sum + 1))) - sum;
      }
    }
    const std::vector<double> exact(gains.begin(), gains.end());
    std::vector<int32_t> want(static_cast<size_t>(heads) * arguments.batch);
    select::reference::budgets(arguments, exact.data(), want.data());
    const std::vector<int32_t> kept = run_budgets(arguments, gains);
    ASSERT_EQ(kept, want) << i;
    for (int32_t b = 0; b < arguments.batch; ++b) {
      int64_t sum = 0;
      for (int32_t h = 0; h < heads; ++h) {
        const int32_t width =
            kept[(static_cast<int64_t>(h / arguments.kv_heads) * arguments.batch + b) * arguments.kv_heads + h % arguments.kv_heads];
        EXPECT_GE(width, arguments.floor);
        EXPECT_LE(width, arguments.channels);
        EXPECT_EQ(width % arguments.step, 0);
        sum += width;
      }
      EXPECT_EQ(sum, arguments.total / arguments.step * arguments.step);
    }
  }
}

TEST(Budgets, EqualGainsGoToTheLowerHead) {
  const std::vector<float> gains(3 * 32, 1.0f);
  EXPECT_EQ(run_budgets({1, 1, 3, 32, 8, 8, 48, false}, gains), (std::vector<int32_t>{32, 8, 8}));
  EXPECT_EQ(run_budgets({1, 1, 3, 32, 8, 8, 60, false}, gains), (std::vector<int32_t>{32, 16, 8}));
  EXPECT_EQ(run_budgets({3, 1, 1, 32, 8, 8, 48, false}, gains), (std::vector<int32_t>{32, 8, 8}));
}

// A late gain must not pull in the poor block before it.
TEST(Budgets, GainsAreMadeNonIncreasing) {
  std::vector<float> gains(2 * 32, 0.0f);
  gains[24] = 1000;                                          // head 0, last block
  for (int i = 0; i < 4; ++i) gains[32 + 8 * i] = 1.0f + i;  // head 1, each block
  EXPECT_EQ(run_budgets({1, 1, 2, 32, 8, 8, 40, false}, gains), (std::vector<int32_t>{8, 32}));
}

TEST(Budgets, NormalisedLayersCompare) {
  std::vector<float> gains(2 * 2 * 16, 0.0f);  // two layers of two heads of 16 channels
  gains[8] = 1000, gains[0] = 9000;            // layer 0: a tenth of the layer
  gains[56] = 3, gains[48] = 3;                // layer 1, head 1: a half
  EXPECT_EQ(run_budgets({2, 1, 2, 16, 8, 8, 40, false}, gains), (std::vector<int32_t>{16, 8, 8, 8}));
  EXPECT_EQ(run_budgets({2, 1, 2, 16, 8, 8, 40, true}, gains), (std::vector<int32_t>{8, 8, 8, 16}));
}

TEST(Budgets, UselessGains) {
  std::vector<float> gains(3 * 16, 0.0f);
  EXPECT_EQ(run_budgets({1, 1, 3, 16, 8, 8, 32, true}, gains), (std::vector<int32_t>{16, 8, 8}));
  for (int j = 0; j < 16; ++j) gains[j] = kNaN;
  gains[32] = gains[32 + 8] = 1;
  EXPECT_EQ(run_budgets({1, 1, 3, 16, 8, 8, 32, false}, gains), (std::vector<int32_t>{8, 8, 16}));
  EXPECT_EQ(run_budgets({1, 1, 3, 16, 8, 8, 32, true}, gains), (std::vector<int32_t>{8, 8, 16}));
  EXPECT_EQ(run_budgets({1, 1, 3, 16, 8, 8, 1000, false}, gains), (std::vector<int32_t>{16, 16, 16}));
  gains[16] = INFINITY;
  EXPECT_EQ(run_budgets({1, 1, 3, 16, 8, 8, 24, false}, gains), (std::vector<int32_t>{8, 8, 8}));
}

TEST(Budgets, RecordedVectors) {
  for (const auto &problem : test::recorded_problems()) {
    for (const bool keys : {true, false}) {
      std::vector<float> gains;
      std::vector<int32_t> want;
      for (int32_t h = 0; h < problem.heads; ++h) {
        for (const double g : problem.solution<double>(h, keys ? "key_gains" : "value_gains")) gains.push_back(static_cast<float>(g));
        want.push_back(static_cast<int32_t>(problem.solution<int32_t>(h, keys ? "key_kept" : "value_kept").size()));
      }
      EXPECT_EQ(run_budgets({1, 1, problem.heads, problem.channels, 8, 8, problem.json[keys ? "key_total" : "value_total"], false}, gains),
                want);
      for (int32_t h = 0; h < problem.heads && keys; ++h) {
        std::vector<float> score;
        for (const double s : problem.solution<double>(h, "score")) score.push_back(static_cast<float>(s));
        Choice choice(1, problem.channels);
        select::select({1, problem.channels, 1, want[h], nullptr, Pairs::none}, score.data(), kOneSequence, choice.basis, nullptr);
        EXPECT_EQ(std::vector<int32_t>(choice.index.begin(), choice.index.begin() + want[h]), problem.solution<int32_t>(h, "key_kept"));
      }
    }
  }
}

}  // namespace
}  // namespace think
