// A ragged batch in slots and shuffled pages, driven as an engine would: chunks, scores, widths, channels, compact pages, attention over them. On the device
// and on the CPU; integers and bytes must be equal, sums agree.
#include "flow.h"

namespace think::gpu_test {
namespace {

void expect_close(const std::vector<float> &expected, const std::vector<float> &actual, double relative, const char *what) {
  ASSERT_EQ(expected.size(), actual.size());
  double size = 0;
  for (const float number : expected) size = std::max(size, std::fabs(static_cast<double>(number)));
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(expected[i], actual[i], relative * size) << what << " " << i;
}

TEST(Flow, PrunesAsTheCpu) {
  THINK_NEED_DEVICE();
  const cli::Driver driver(0);
  run_or_skip([&] {
    Flow device(&driver), cpu(nullptr);
    const std::vector<int32_t> lengths = {200, 133};
    device.score(lengths);
    cpu.score(lengths);
    const std::vector<float> score = device.scores();
    std::vector<float> expected = cpu.scores();
    for (size_t i = 0; i < score.size(); ++i) ASSERT_NEAR(expected[i], score[i], 2e-5 * std::fabs(expected[i])) << i;
    // The same scores for both: near ties may fall either way.
    for (Flow *flow : {&device, &cpu}) {
      flow->choose(score);
      flow->compact(lengths);
    }
    EXPECT_EQ(cpu.kept(), device.kept());
    EXPECT_EQ(cpu.index(), device.index());
    EXPECT_EQ(cpu.keys(), device.keys());
    EXPECT_EQ(cpu.values(), device.values());
  });
}

// The side that the device is compared with, by itself: it needs no device.
TEST(Flow, CpuSideAttendsToEveryRow) {
  Flow cpu(nullptr);
  const auto run = [&](const std::vector<int32_t> &lengths) {
    cpu.score(lengths);
    cpu.choose_calls();
    cpu.compact(lengths);
    cpu.attend();
    for (const float number : cpu.output()) ASSERT_TRUE(std::isfinite(number));
  };
  run({200, 133});
  const std::vector<float> longer = cpu.lse();
  run({199, 132});
  // One row less is less mass, for every query head of both sequences, whatever the choice of channels makes of the others.
  EXPECT_NE(longer, cpu.lse());
}

TEST(Flow, AttendsAsTheCpu) {
  THINK_NEED_DEVICE();
  const cli::Driver driver(0);
  run_or_skip([&] {
    Flow device(&driver), cpu(nullptr);
    for (const std::vector<int32_t> &lengths : {std::vector<int32_t>{200, 133}, {37, 230}, {1, 100}}) {
      for (Flow *flow : {&device, &cpu}) {
        flow->score(lengths);
        flow->choose(device.scores());
        flow->compact(lengths);
        flow->attend();
      }
      expect_close(cpu.output(), device.output(), 2e-3, "output");
      expect_close(cpu.lse(), device.lse(), 2e-3, "lse");
      const std::vector<float> first = device.output();
      device.attend();
      EXPECT_EQ(first, device.output()) << "two runs differ";
    }
  });
}

// Tiles of codes beside rows of f16.
TEST(Flow, StoresCodesAndAttendsToThemAsTheCpu) {
  THINK_NEED_DEVICE();
  const cli::Driver driver(0);
  run_or_skip([&] {
    const think_dtype pairs[][2] = {{THINK_U8, THINK_U4}, {THINK_U4, THINK_U8}, {THINK_U2, THINK_F8_E4M3}, {THINK_F8_E4M3, THINK_U2}};
    for (const auto &[key, value] : pairs) {
      Flow device(&driver, key, value), cpu(nullptr, key, value);
      for (const std::vector<int32_t> &lengths : {std::vector<int32_t>{200, 133}, {37, 230}}) {
        for (Flow *flow : {&device, &cpu}) {
          flow->score(lengths);
          flow->choose(device.scores());
          flow->compact(lengths);
          flow->attend();
        }
        EXPECT_EQ(cpu.keys(), device.keys());
        EXPECT_EQ(cpu.values(), device.values());
        EXPECT_EQ(cpu.scales(), device.scales());
        expect_close(cpu.output(), device.output(), 3e-3, "output");
        expect_close(cpu.lse(), device.lse(), 2e-3, "lse");
      }
    }
  });
}

}  // namespace
}  // namespace think::gpu_test
