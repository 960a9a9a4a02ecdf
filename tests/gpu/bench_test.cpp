// The benchmark of tests/bench/gpu and `think bench --device` on a layer so small that the emulator can run it: it measures, and counts the right bytes.
#include <cmath>
#include <map>

#include "device.h"
#include "libthink/cli/device_bench.h"

namespace {

using think::cli::Measured;

// How far two outputs in bf16 are apart, as a part of the second one.
double distance(const std::vector<uint16_t> &output, const std::vector<uint16_t> &other) {
  if (output.size() != other.size() || other.empty()) return INFINITY;
  double apart = 0, whole = 0;
  for (size_t i = 0; i < other.size(); ++i) {
    const double a = think::bf16_to_f32(output[i]), b = think::bf16_to_f32(other[i]);
    apart += (a - b) * (a - b);
    whole += b * b;
  }
  return std::sqrt(apart / whole);
}

class Bench : public testing::Test {
 protected:
  void SetUp() override { THINK_NEED_DEVICE(); }
};

// What a test measured, against the bytes that it knows.
void check(const std::string &name, const Measured &measured, int64_t bytes) {
  EXPECT_EQ(measured.skipped, "") << name;
  EXPECT_GT(measured.seconds, 0) << name;
  EXPECT_EQ(measured.bytes, bytes) << name;
}

TEST_F(Bench, MeasuresEveryStage) {
  think::cli::Driver driver(0);
  const think::cli::Context context = think::cli::make_context(1, {THINK_DEVICE_CUDA, 0});
  think::cli::DeviceBench bench(driver, context, 256 << 10, 1);
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
}

// A wrong segment is one that the emulator stops (heads or sequences over each other, rows that nothing has been stored in, a byte outside), or whose output is
// not that of the rows which the codes were made of. With half of the channels those of u8 stand for the rows.
TEST_F(Bench, MeasuresCodes) {
  think::cli::Driver driver(0);
  const think::cli::Context context = think::cli::make_context(1, {THINK_DEVICE_CUDA, 0});
  think::cli::DeviceBench bench(driver, context, 128 << 10, 1);
  struct Pair {
    think_dtype key, value;
    int64_t key_bits, value_bits;
    double limit;
  };
  const auto has_groups = [](think_dtype dtype) { return dtype == THINK_U8 || dtype == THINK_U4 || dtype == THINK_U2; };
  const std::vector<uint16_t> dense = bench.attend({4, 2, 64, 2, 64, 64, 64, 0}).output;
  std::vector<uint16_t> half;
  constexpr int64_t kHeads = 2 * 2, kTiles = 2 * kHeads;  // of all sequences
  for (const Pair &pair : {Pair{THINK_U8, THINK_U8, 8, 8, 0.01}, {THINK_U4, THINK_U4, 4, 4, 0.1}, {THINK_U2, THINK_U2, 2, 2, 0.5},
                           {THINK_F8_E4M3, THINK_F8_E4M3, 8, 8, 0.05}, {THINK_U4, THINK_BF16, 4, 16, 0.02}}) {
    for (const int32_t kept : {64, 32}) {
      int64_t bytes = kTiles * 32 * kept * (pair.key_bits + pair.value_bits) / 8;
      // A scale and a zero in f16: keys of each channel, values of each token and 32 channels; F8 has a scale of each head and side in f32.
      if (has_groups(pair.key)) bytes += kTiles * kept * 4;
      if (has_groups(pair.value)) bytes += kTiles * 32 * (kept / 32) * 4;
      if (pair.key == THINK_F8_E4M3) bytes += kHeads * 4;
      if (pair.value == THINK_F8_E4M3) bytes += kHeads * 4;
      if (kept < 64) bytes += 2 * kHeads * (64 - kept) * (kept * 2 + 4);
      const std::string name = std::string(think_dtype_name(pair.key)) + "/" + think_dtype_name(pair.value) + ", " + std::to_string(kept) + " channels";
      const Measured measured = bench.attend({4, 2, 64, 2, 64, kept, kept, 0, {}, pair.key, pair.value});
      check(name, measured, bytes);
      if (kept == 32 && half.empty()) half = measured.output;
      EXPECT_LE(distance(measured.output, kept == 32 ? half : dense), pair.limit) << name;
    }
  }
  // Of the second page one tile and one token of the next; its other room is not read.
  check("u8, pages", bench.attend({2, 1, 64, 1, 512, 64, 64, 0, {289}, THINK_U8, THINK_U8}), 10 * (64 * 32 * 2 + 64 * 4 + 2 * 32 * 4));
  // Of four heads with 64 values each, not of the most groups that heads with 256 values together could have.
  check("u4, 64 of 128 channels", bench.attend({4, 4, 128, 1, 64, 64, 64, 0, {}, THINK_U4, THINK_U4}),
        4 * (2 * 2 * (64 * 32 / 2 + 64 * 4) + 2 * (128 - 64) * (64 * 2 + 4)));
  EXPECT_NE(bench.attend({4, 2, 64, 2, 256, 64, 64, 0, {}, THINK_U4, THINK_U4}).skipped, "") << "made of a cache that is larger than the arena";
}

}  // namespace
