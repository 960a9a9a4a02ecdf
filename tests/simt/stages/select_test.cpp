// The select stage's CUDA kernels give the same bits as the CPU's.
#include "kernels/select/cuda.h"

#include <cmath>
#include <random>

#include "device.h"

namespace think {
namespace {

using namespace test;
using select::Pairs;

// One call on either side, over a basis of `slots` slots.
struct Outcome {
  std::vector<int32_t> kept, index;
  std::vector<int64_t> weight_offset;
  std::vector<uint8_t> mask;
  bool operator==(const Outcome &) const = default;
};

Outcome empty_outcome(const select::Select &choice, int32_t slots, int32_t batch) {
  const size_t heads = static_cast<size_t>(slots) * choice.kv_heads;
  return {std::vector<int32_t>(heads, -1), std::vector<int32_t>(heads * choice.channels, -1), std::vector<int64_t>(heads, 77),
          std::vector<uint8_t>(static_cast<size_t>(batch) * choice.kv_heads * choice.channels, 0xff)};
}

Outcome on_cpu(const select::Select &choice, const std::vector<float> &score, const Batch &batch, int32_t slots) {
  Outcome outcome = empty_outcome(choice, slots, batch.count);
  think_basis basis = THINK_BASIS_INIT;
  basis.channels = choice.channels;
  basis.kept = outcome.kept.data();
  basis.index = outcome.index.data();
  basis.weight_offset = outcome.weight_offset.data();
  select::select(choice, score.data(), batch, basis, outcome.mask.data());
  return outcome;
}

Outcome on_device(const select::Select &choice, const std::vector<float> &score, const Batch &batch, int32_t slots) {
  Outcome outcome = empty_outcome(choice, slots, batch.count);
  const Constant<float> scores("score", score.data(), score.size());
  const Constant<int32_t> widths("widths", choice.kept, int64_t{batch.count} * choice.kv_heads);
  const DeviceBatch device(batch);
  simt::Buffer<int32_t> kept("kept", outcome.kept), index("index", outcome.index);
  simt::Buffer<int64_t> weight_offset("weight_offset", outcome.weight_offset);
  simt::Buffer<uint8_t> mask("mask", outcome.mask);
  think_basis basis = THINK_BASIS_INIT;
  basis.channels = choice.channels;
  basis.kept = kept.device();
  basis.index = index.device();
  basis.weight_offset = weight_offset.device();
  select::Select on_it = choice;
  on_it.kept = widths.device();
  EXPECT_EQ(0, select::cuda::select(on_it, scores.device(), device.batch, basis, mask.device(), nullptr)) << simt::machine().fault().text();
  return {kept.download(), index.download(), weight_offset.download(), mask.download()};
}

TEST(SelectOnDevice, SameBitsAsTheCpu) {
  std::mt19937 random(1);
  uint64_t seed = 0;
  for (const int32_t channels : {8, 64, 80, 96, 128, 256}) {
    for (const int32_t width : {1, 7, 8, 9, 39, 63, 64, 65, 77, 127, 128, 255, 256}) {
      if (width > channels) break;
      for (const Pairs pairs : {Pairs::none, Pairs::halves, Pairs::interleaved}) {
        std::vector<float> score(channels);
        // Few different numbers, so that most are equal to others; signed zeros, infinities and NaN among them.
        for (float &s : score) s = static_cast<float>(random() % 6) - 1.0f;
        for (const float x : {NAN, -NAN, INFINITY, -INFINITY, -0.0f}) score[random() % channels] = x;
        const Batch batch{1, nullptr, nullptr, nullptr};
        const select::Select choice{1, channels, 1 + static_cast<int32_t>(random() % 9), width, nullptr, pairs};
        begin(++seed);
        ASSERT_EQ(on_cpu(choice, score, batch, 1), on_device(choice, score, batch, 1)) << channels << " " << width << " " << static_cast<int>(pairs);
        ASSERT_EQ(0u, simt::machine().total().bank_conflicts);
      }
    }
  }
}

TEST(SelectOnDevice, EqualScoresSlotsAndWidthsPerHead) {
  std::mt19937 random(2);
  const int32_t slots[3] = {4, 0, 3}, widths[9] = {3, 77, 128, 1, 120, 64, 8, 9, 40};
  const Batch batch{3, nullptr, nullptr, slots};
  for (const bool equal : {false, true}) {
    std::vector<float> score(9 * 128, 2.5f);
    for (float &s : score) s = equal ? s : static_cast<float>(random() % 1000);
    const select::Select choice{3, 128, 1, 9, widths, Pairs::none};
    begin(equal);
    const Outcome outcome = on_device(choice, score, batch, 5);
    ASSERT_EQ(on_cpu(choice, score, batch, 5), outcome);
    EXPECT_EQ(-1, outcome.kept[3]) << "slot 1 belongs to nobody";
  }
}

TEST(SelectOnDevice, MaskAndWeightOffsetMayBeMissing) {
  std::vector<float> score(64);
  for (int32_t i = 0; i < 64; ++i) score[i] = static_cast<float>(i * 37 % 64);
  begin(3);
  const Constant<float> scores("score", score.data(), 64);
  simt::Buffer<int32_t> kept("kept", 1), index("index", 64);
  think_basis basis = THINK_BASIS_INIT;
  basis.kept = kept.device();
  basis.index = index.device();
  ASSERT_RUNS(select::cuda::select({1, 64, 1, 20, nullptr, Pairs::none}, scores.device(), {1, nullptr, nullptr, nullptr}, basis, nullptr, nullptr));
  EXPECT_EQ(20, kept.download()[0]);
}

std::vector<int32_t> budgets_on_device(const select::Budgets &arguments, const std::vector<float> &gains) {
  const Constant<float> device_gains("gains", gains.data(), gains.size());
  simt::Buffer<int32_t> kept("kept", static_cast<size_t>(arguments.layers) * arguments.batch * arguments.kv_heads);
  simt::Buffer<char> workspace("workspace", static_cast<size_t>(select::cuda::budgets_workspace(arguments)));
  EXPECT_EQ(0, select::cuda::budgets(arguments, device_gains.device(), kept.device(), workspace.device(), nullptr)) << simt::machine().fault().text();
  return kept.download();
}

TEST(BudgetsOnDevice, SameBitsAsTheCpu) {
  std::mt19937 random(4);
  for (int32_t i = 0; i < cases(120); ++i) {
    select::Budgets arguments{};
    arguments.layers = 1 + static_cast<int32_t>(random() % 3);
    arguments.batch = 1 + static_cast<int32_t>(random() % 3);
    arguments.kv_heads = 1 + static_cast<int32_t>(random() % 5);
    arguments.channels = 8 << random() % 5;
    arguments.step = i % 3 ? 8 : 4;
    arguments.floor = std::min(arguments.channels, arguments.step * (1 + static_cast<int32_t>(random() % 2)));
    arguments.normalise = i % 2;
    const int32_t heads = arguments.layers * arguments.kv_heads;
    const int64_t least = static_cast<int64_t>(heads) * arguments.floor, most = static_cast<int64_t>(heads) * arguments.channels;
    arguments.total = least + static_cast<int64_t>(random() % static_cast<uint64_t>(most - least + 1)) + (i % 7 == 0 ? 1000 : 0);
    // Some with many equal gains, some whose sums round.
    std::vector<float> gains(static_cast<size_t>(heads) * arguments.batch * arguments.channels);
    for (float &g : gains) g = i % 4 ? static_cast<float>(random() % 4 * (random() % 3)) : std::ldexp(static_cast<float>(random() % 1000), -10);
    if (i % 5 == 0) gains[random() % gains.size()] = NAN, gains[random() % gains.size()] = -1, gains[random() % gains.size()] = INFINITY;
    std::vector<int32_t> want(static_cast<size_t>(heads) * arguments.batch);
    std::vector<char> workspace(static_cast<size_t>(select::budgets_workspace(arguments)) + 64);
    select::budgets(arguments, gains.data(), want.data(), workspace.data());
    begin(static_cast<uint64_t>(i));
    ASSERT_EQ(want, budgets_on_device(arguments, gains)) << i;
  }
}

}  // namespace
}  // namespace think
