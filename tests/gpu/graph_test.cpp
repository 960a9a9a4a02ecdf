// Run calls are captured into a graph at one length and replayed at others: lengths are device memory that only kernels read.
#include "flow.h"

namespace think::gpu_test {
namespace {

TEST(Graph, PrunesAtOtherLengths) {
  THINK_NEED_DEVICE();
  const cli::Driver driver(0);
  run_or_skip([&] {
    Flow captured(&driver), called(&driver);
    captured.put_lengths({40, 41});
    driver.begin_capture();
    captured.score_calls();
    captured.choose_calls();
    captured.compact_calls();
    const cli::Driver::Graph graph(driver);
    // Nothing has run yet.
    EXPECT_EQ(captured.keys(), std::vector<uint16_t>(captured.keys().size(), 0xffff));
    for (const std::vector<int32_t> &lengths : {std::vector<int32_t>{200, 133}, {256, 68}, {40, 250}}) {
      captured.put_lengths(lengths);
      graph.launch();
      called.score(lengths);
      called.choose_calls();
      called.compact_calls();
      EXPECT_EQ(called.scores(), captured.scores());
      EXPECT_EQ(called.index(), captured.index());
      EXPECT_EQ(called.keys(), captured.keys());
      EXPECT_EQ(called.values(), captured.values());
    }
  });
}

TEST(Graph, AttendsWhileTheSequenceGrows) {
  THINK_NEED_DEVICE();
  const cli::Driver driver(0);
  run_or_skip([&] {
    Flow captured(&driver), called(&driver);
    for (Flow *flow : {&captured, &called}) {
      flow->score({256, 256});
      flow->choose_calls();
      flow->compact({256, 256});
      flow->prepare_attend();
    }
    captured.put_lengths({1, 1});
    driver.begin_capture();
    try {
      captured.attend_calls();
    } catch (...) {
      const cli::Driver::Graph unused(driver);
      throw;
    }
    const cli::Driver::Graph graph(driver);
    for (const std::vector<int32_t> &lengths : {std::vector<int32_t>{1, 1}, {40, 256}, {256, 133}, {3, 70}}) {
      captured.put_lengths(lengths);
      called.put_lengths(lengths);
      graph.launch();
      called.attend_calls();
      EXPECT_EQ(called.output(), captured.output());
      EXPECT_EQ(called.lse(), captured.lse());
    }
  });
}

}  // namespace
}  // namespace think::gpu_test
