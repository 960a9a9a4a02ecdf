// Every stage on the device against its double-precision reference: the checks of `think selftest`, over more shapes.
#include <set>

#include "device.h"
#include "libthink/cli/selftest.h"

namespace think::cli {
void PrintTo(const SelftestShape &shape, std::ostream *out) { *out << shape.name; }
}  // namespace think::cli

namespace {

using think::cli::SelftestShape;

class Stages : public testing::TestWithParam<SelftestShape> {};

TEST_P(Stages, AgreeWithTheReference) {
  THINK_NEED_DEVICE();
  const think::cli::Driver driver(0);
  std::set<std::string> skipped;
  think::cli::selftest_layer(
      GetParam(), {{THINK_DEVICE_CUDA, 0}, &driver, 1},
      [](const char *stage, double error, double limit) { EXPECT_LE(error, limit) << stage; },
      [&](const char *stage, const std::string &reason) { skipped.insert(std::string(stage) + ": " + reason); });
  std::string reasons;
  for (const std::string &reason : skipped) reasons += "\n  " + reason;
  if (!skipped.empty()) GTEST_SKIP() << "all other stages were compared" << reasons;
}

INSTANTIATE_TEST_SUITE_P(Shapes, Stages,
                         testing::Values(SelftestShape{"llama_group4", 8, 2, 128, 128, 517, THINK_F16, 0},
                                         SelftestShape{"qwen_group7", 14, 2, 64, 64, 389, THINK_BF16, 0},
                                         SelftestShape{"gemma_wide_softcap", 4, 2, 256, 256, 550, THINK_BF16, 50},
                                         SelftestShape{"mha_f32", 3, 3, 96, 80, 301, THINK_F32, 0},
                                         SelftestShape{"group5_uneven", 10, 2, 80, 64, 359, THINK_F16, 30},
                                         SelftestShape{"short", 4, 1, 64, 64, 170, THINK_F16, 0}),
                         [](const auto &info) { return std::string(info.param.name); });

}  // namespace
