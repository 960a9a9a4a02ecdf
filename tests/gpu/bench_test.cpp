// The benchmark of tests/bench/gpu and `think bench --device` on a layer so small that the emulator can run it: it measures, and counts the right bytes.
#include <map>

#include "device.h"
#include "libthink/cli/device_bench.h"

namespace {

using think::cli::Measured;

TEST(Bench, MeasuresEveryStage) {
  THINK_NEED_DEVICE();
  think::cli::Driver driver(0);
  const think::cli::Context context = think::cli::make_context(1, {THINK_DEVICE_CUDA, 0});
  think::cli::DeviceBench bench(driver, context, 256 << 10, 1);
  std::string skipped;
  const auto check = [&](const std::string &name, const Measured &measured, int64_t bytes) {
    if (!measured.skipped.empty()) {
      skipped += "\n  " + name + ": " + measured.skipped;
      return;
    }
    EXPECT_GT(measured.seconds, 0) << name;
    EXPECT_EQ(measured.bytes, bytes) << name;
  };
  // The emulator loads no kernel from text, which is no reason to call all of this skipped.
  const Measured probe = bench.probe();
  EXPECT_TRUE(!probe.skipped.empty() || (probe.seconds > 0 && probe.bytes == 256 << 10));
  constexpr int64_t kDense = 2 * 2 * 64 * 64 * 2;  // two sequences, two heads, 64 tokens, 64 channels, bf16: one side
  check("attend dense", bench.attend({4, 2, 64, 2, 64, 64, 64, 0}), 2 * kDense);
  // 39 kept keys in rows of 40 weights, and an offset, for each of the 25 dropped.
  check("attend, 39 keys", bench.attend({4, 2, 64, 2, 64, 39, 64, 0}), kDense * 39 / 64 + kDense + 4 * 25 * (80 + 4));
  check("attend, 32 keys, 48 values", bench.attend({4, 2, 64, 2, 64, 32, 48, 30}), kDense / 2 + kDense * 3 / 4 + 4 * 32 * (64 + 4) + 4 * 16 * (96 + 4));
  // On pages of 256: what counts is the rows, not the room.
  constexpr int64_t kMixed = (33 + 200) * 2 * 64 * 2;
  check("attend, mixed lengths", bench.attend({4, 2, 64, 2, 256, 64, 64, 0, {33, 200}}), 2 * kMixed);
  check("attend, mixed lengths, 32 keys", bench.attend({4, 2, 64, 2, 256, 32, 64, 0, {33, 200}}), kMixed * 3 / 2 + 4 * 32 * (64 + 4));
  check("attend, two pages", bench.attend({4, 2, 64, 1, 512, 64, 64, 0, {300}}), 2 * 300 * 2 * 64 * 2);
  const Measured large = bench.attend({4, 2, 64, 2, 4096, 64, 64, 0});
  EXPECT_NE(large.skipped, "") << "a cache that is larger than the arena";
  const int64_t side = kDense / 2;
  const std::map<std::string, int64_t> bytes = {{"score", side},          {"moments", 3 * side}, {"select", 0}, {"fit", 0}, {"compact", side * 7 / 2},
                                                {"prune", side * 13 / 2}};
  for (const think::cli::StageTime &time : bench.prune(4, 2, 64, 64)) check(time.stage, time.measured, bytes.at(time.stage));
  if (!skipped.empty()) GTEST_SKIP() << "the others were measured" << skipped;
}

}  // namespace
