// No memory: the call fails, the sequences are as they were, and the same call works once there is memory again.
#include <functional>

#include "engine.h"

namespace cache_test {
namespace {

struct Snapshot {
  std::vector<int64_t> numbers;
  explicit Snapshot(const Engine &engine) {
    for (int32_t sequence = 0; sequence < engine.settings().options.sequences; ++sequence) {
      const think_cache_info info = engine.usage(sequence);
      numbers.insert(numbers.end(), {info.tokens, info.compact_tokens, info.evicted_tokens, info.page_bytes, info.basis_bytes, info.score_bytes, info.runs});
    }
    numbers.push_back(engine.usage().page_bytes);
    numbers.push_back(engine.usage().basis_bytes);
    numbers.push_back(engine.usage().score_bytes);
  }
};

class Scenario {
 public:
  Scenario(Engine &engine, Host &host) : engine_(engine), host_(host) {}

  std::vector<double> run() {
    step({0, 1}, {140, 70});
    step({0, 1}, {1, 2});
    attempt([&](think_error *error) { return prune({0, 1}, error); });
    step({0, 1, 2}, {1, 3, 64});
    for (const int32_t target : {3, 4}) {
      attempt([&](think_error *error) { return think_cache_fork(engine_.cache(), target - 3, target, error); });
      engine_.forked(target - 3, target);
    }
    // Rows that a fork shares go: some pages have to be copied.
    const Numbers kept = thirds(usage_rows(4));
    attempt([&](think_error *error) { return think_cache_keep(engine_.cache(), 4, kept.data(), static_cast<int32_t>(kept.size()) / 4, error); });
    engine_.evicted(4, kept, static_cast<int32_t>(kept.size()) / 4);
    step({4, 1}, {5, 5});
    engine_.trim(4, 0);
    step({3, 0, 2}, {40, 5, 5});
    for (int decode = 0; decode < 8; ++decode) step({0, 1, 2, 3}, {5, 5, 5, 5});
    attempt([&](think_error *error) { return prune({2}, error); });
    step({2, 3}, {3, 1});
    return outputs_;
  }
  int failures() const { return failures_; }

 private:
  void attempt(const std::function<think_status(think_error *)> &call) {
    const Snapshot before(engine_);
    think_error error = THINK_ERROR_INIT;
    think_status status = call(&error);
    if (status == THINK_E_MEMORY) {
      ++failures_;
      EXPECT_EQ(THINK_E_MEMORY, error.code);
      EXPECT_GT(std::strlen(error.message), 10u);
      EXPECT_EQ(before.numbers, Snapshot(engine_).numbers);
      engine_.expect_counted();
      status = call(&error);
    }
    ASSERT_EQ(THINK_OK, status) << error.message;
  }
  void step(const Numbers &sequences, const Numbers &counts) {
    attempt([&](think_error *error) { return engine_.begin(sequences, counts, error); });
    const int calls = host_.calls;
    const std::vector<double> found = engine_.finish();
    EXPECT_EQ(calls, host_.calls) << "append or attend allocated";
    outputs_.insert(outputs_.end(), found.begin(), found.end());
  }
  int32_t usage_rows(int32_t sequence) const {
    const think_cache_info info = engine_.usage(sequence);
    return static_cast<int32_t>(info.tokens - info.compact_tokens);
  }
  // Sinks, and of the other rows every third, in each of the two heads of two layers.
  static Numbers thirds(int32_t rows) {
    Numbers kept;
    for (int32_t head = 0; head < 4; ++head) {
      for (int32_t row = 0; row < rows; ++row) {
        if (row < 4 || row % 3 == 0) kept.push_back(row);
      }
    }
    return kept;
  }
  think_status prune(const Numbers &sequences, think_error *error) {
    return think_cache_prune(engine_.cache(), sequences.data(), static_cast<int32_t>(sequences.size()), engine_.launch(), error);
  }

  Engine &engine_;
  Host &host_;
  std::vector<double> outputs_;
  int failures_ = 0;
};

Settings scenario_settings() {
  Settings settings;
  settings.options.sequences = 5;
  settings.options.fold = THINK_FOLD_BLOCK;
  settings.options.refit = 1;
  settings.prune.value_kept = 16;
  settings.prune.recent = 16;
  return settings;
}

TEST(Memory, EveryAllocationMayFail) {
  const Settings settings = scenario_settings();
  std::vector<double> expected;
  {
    Site site(settings);
    Engine engine(settings, site);
    Scenario scenario(engine, site.host);
    expected = scenario.run();
    EXPECT_GT(engine.usage(3).runs, 1) << "the scenario wants a new fit";
  }
  int failures = 0;
  for (int at = 0;; ++at) {
    SCOPED_TRACE("allocation " + std::to_string(at));
    Site site(settings);
    const int64_t before = site.host.bytes;
    site.host.fail_at = site.host.calls + at;
    think_cache_options options = settings.options;
    think_cache *const nothing = reinterpret_cast<think_cache *>(uintptr_t{0x5A5A5A5A5A5A5A5A});
    think_cache *cache = nothing;
    think_error error = THINK_ERROR_INIT;
    if (think_cache_create(site.plan, &options, &cache, &error) != THINK_OK) {
      EXPECT_EQ(THINK_E_MEMORY, error.code);
      EXPECT_EQ(nothing, cache);
      EXPECT_EQ(before, site.host.bytes) << "leaked";
      ++failures;
      continue;
    }
    think_cache_destroy(cache);
    const int making = site.host.calls;
    site.host.fail_at = -1;
    std::unique_ptr<Engine> engine = std::make_unique<Engine>(settings, site);
    site.host.fail_at = site.host.calls + at - (site.host.calls - making);
    const int last = site.host.fail_at;
    Scenario scenario(*engine, site.host);
    EXPECT_TRUE(expected == scenario.run()) << "other results than without the failure";
    failures += scenario.failures();
    const bool done = site.host.calls <= last;
    engine.reset();
    EXPECT_EQ(before, site.host.bytes) << "leaked";
    if (done || testing::Test::HasFailure()) break;
  }
  EXPECT_GT(failures, 30);
}

TEST(Memory, TheLimitIsKept) {
  Settings settings;
  Site free_site(settings);
  Engine free_engine(settings, free_site);
  free_engine.step({0}, {200});
  const int64_t enough = free_engine.usage().allocated_bytes;
  settings.options.limit_bytes = enough + enough / 4;
  Site site(settings);
  const int64_t before = site.host.bytes;
  Engine engine(settings, site);
  engine.step({0}, {200});
  const Snapshot held(engine);
  think_error error = THINK_ERROR_INIT;
  EXPECT_EQ(THINK_E_MEMORY, engine.begin({1}, {300}, &error));
  EXPECT_NE(nullptr, std::strstr(error.message, "limit")) << error.message;
  EXPECT_EQ(held.numbers, Snapshot(engine).numbers);
  engine.step({0}, {1});
  EXPECT_LE(site.host.most - before, settings.options.limit_bytes);
  settings.options.limit_bytes = 100;
  think_cache *cache = nullptr;
  EXPECT_EQ(THINK_E_MEMORY, think_cache_create(site.plan, &settings.options, &cache, &error));
}

// What fits does not depend on what was tried before: with more memory never fewer tokens.
TEST(Memory, AGrowthThatDoesNotFitTakesNothing) {
  Settings settings;
  settings.options.layers = 6;
  settings.problem.max_tokens = 10000;
  int64_t most = 0;
  for (int64_t limit = 2000000; limit < 3500000; limit += 9000) {
    settings.options.limit_bytes = limit;
    Site site(settings);
    think_cache *cache = nullptr;
    settings.options.flags = THINK_CACHE_NO_SCORES;
    THINK_CALL(think_cache_create, site.plan, &settings.options, &cache);
    const flow::Tensor rows(THINK_F16, 1, settings.problem.kv_heads, 32, settings.problem.key_channels);
    int64_t tokens = 0;
    const int32_t sequence = 0, more = 32;
    while (think_cache_step(cache, &sequence, &more, 1, nullptr, nullptr) == THINK_OK) {
      for (int32_t layer = 0; layer < settings.options.layers; ++layer) {
        THINK_CALL(think_cache_append, cache, layer, nullptr, rows.view(), rows.view(), nullptr);
      }
      tokens += more;
    }
    EXPECT_GE(tokens, most) << limit;
    most = std::max(most, tokens);
    think_cache_destroy(cache);
  }
  EXPECT_GT(most, 1500);
}

}  // namespace
}  // namespace cache_test
