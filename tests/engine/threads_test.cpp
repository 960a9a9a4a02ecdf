#include "examples/generate/threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace {

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (const int threads : {1, 2, 5}) {
    generate::ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (int round = 0; round < 2000; ++round) {
      const int64_t count = round % 17;
      std::vector<std::atomic<int>> calls(17);
      pool.run(count, [&](int64_t i) { calls[static_cast<size_t>(i)].fetch_add(1); });
      for (int64_t i = 0; i < 17; ++i) ASSERT_EQ(calls[static_cast<size_t>(i)].load(), i < count ? 1 : 0) << threads << " threads, round " << round << ", task " << i;
    }
  }
}

TEST(ThreadPool, ResultsAreVisibleAfterRun) {
  generate::ThreadPool pool(4);
  std::vector<int64_t> sums(64);
  for (int64_t round = 1; round <= 500; ++round) {
    pool.run(64, [&](int64_t i) { sums[static_cast<size_t>(i)] += round; }); // not atomic: run() is the barrier
    for (const int64_t sum : sums) ASSERT_EQ(sum, round * (round + 1) / 2);
  }
}

} // namespace
