// Caches of one plan in threads of their own at the same time, on the plan's own threads: nothing is shared but the plan (tsan preset), and nothing differs.
#include <thread>

#include "engine.h"

namespace cache_test {
namespace {

std::vector<double> generate(const Settings &settings, Site &site) {
  Engine engine(settings, site);
  std::vector<double> all;
  const auto keep = [&](const std::vector<double> &found) { all.insert(all.end(), found.begin(), found.end()); };
  engine.step({0, 1}, {150, 90});
  engine.prune({1, 0});
  engine.fork(0, 2);
  for (int decode = 0; decode < 12; ++decode) keep(engine.step({0, 2, 1}, {5, 3, 1}));
  engine.drop(2);
  engine.step({2}, {40});
  keep(engine.step({2, 1}, {1, 1}));
  return all;
}

TEST(Threads, CachesOfOnePlanAtTheSameTime) {
  for (const int32_t threads : {1, 3}) {
    Settings settings;
    settings.options.fold = THINK_FOLD_BLOCK;
    settings.prune.recent = 8;
    settings.prune.value_kept = 16;
    settings.threads = threads;
    Site site(settings);
    const std::vector<double> expected = generate(settings, site);
    constexpr int kCaches = 3;
    std::vector<double> found[kCaches];
    std::vector<std::thread> running;
    for (std::vector<double> &one : found) running.emplace_back([&] { one = generate(settings, site); });
    for (std::thread &thread : running) thread.join();
    for (const std::vector<double> &one : found) EXPECT_TRUE(expected == one);
  }
}

}  // namespace
}  // namespace cache_test
