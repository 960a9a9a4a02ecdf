// The kernel that assemble_test.sh compiles for real, in the emulator: its copies and counters are right.
#include "every_function.h"

#include <gtest/gtest.h>

#include "buffer.h"

namespace think::simt_test {
namespace {

TEST(EveryFunction, RunsUnderEverySeed) {
  constexpr int32_t kBlocks = 5;
  std::vector<uint32_t> values(64 * 4);
  for (uint32_t i = 0; i < values.size(); ++i) values[i] = i * 0x01010101u;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    simt::machine().reset();
    simt::machine().options = {.seed = seed};
    simt::Buffer<uint32_t> input("input", values), output("output", kBlocks * values.size() * 4), counter("counter", 5);
    input.freeze();
    ASSERT_EQ(everything({input.device(), output.device(), counter.device()}, kBlocks, nullptr), 0) << simt::machine().fault().text();
    const std::vector<uint32_t> counted = counter.download(), copied = output.download();
    EXPECT_EQ(counted, (std::vector<uint32_t>{kBlocks, static_cast<uint32_t>(-kBlocks), 0, kBlocks, kBlocks}));
    for (uint32_t i = 0; i < copied.size(); ++i) ASSERT_EQ(copied[i], values[i % values.size()]) << i;
    const simt::Counters counters = simt::machine().total();
    // Five widths, four stores each; one more store by the last block.
    EXPECT_EQ(counters.global_write_bytes, kBlocks * 64 * 4 * (1 + 2 + 4 + 8 + 16) + 4u);
    EXPECT_EQ(counters.atomics, 4u * kBlocks);
  }
}

}  // namespace
}  // namespace think::simt_test
