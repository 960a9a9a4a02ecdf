// Generated tokens are folded into tiles as they leave the recent rows: a long generation keeps its saving.
#include "engine.h"

namespace cache_test {
namespace {

Settings small_settings() {
  Settings settings;
  settings.problem.query_heads = 2;
  settings.problem.kv_heads = 1;
  settings.problem.max_tokens = 4700;
  settings.options.layers = 1;
  settings.options.fold = THINK_FOLD_BLOCK;
  settings.prune.budget = THINK_BUDGET_UNIFORM;
  settings.prune.key_kept = 12;
  settings.prune.value_kept = 16;
  return settings;
}

TEST(Fold, AttentionIsThatOfTheFoldedRows) {
  for (const int32_t sinks : {-1, 4, 32, 45}) {
    for (const int32_t mode : {THINK_MODE_REGRESSED, THINK_MODE_CHANNELS}) {
      SCOPED_TRACE(testing::Message() << sinks << " sinks, mode " << mode);
      Settings settings;
      settings.options.fold = THINK_FOLD_BLOCK;
      settings.prune.sinks = sinks;
      settings.prune.mode = mode;
      settings.prune.recent = 10;
      settings.prune.value_kept = 16;
      Site site(settings);
      Engine engine(settings, site);
      engine.step({0, 1, 2}, {150, 190, 20});
      engine.prune({0, 1, 2});
      const int64_t compact = engine.usage(0).compact_tokens;
      for (int step = 0; step < 24; ++step) engine.step({1, 2, 0}, {5, 1 + step % 5, 3});
      EXPECT_GT(engine.usage(0).compact_tokens, compact);
      EXPECT_EQ(1, engine.usage(0).runs);
      EXPECT_LE(engine.usage(0).tokens - engine.usage(0).compact_tokens, std::max(sinks, 0) + 10 + 31 + 5 + 3);
      EXPECT_EQ(0, engine.usage(2).compact_tokens) << "folded without a basis";
      engine.expect_counted();
    }
  }
}

// Rows that a roll-back may reach are never folded.
TEST(Fold, TheLastQueriesCanAlwaysBeRolledBack) {
  Settings settings;
  settings.options.fold = THINK_FOLD_BLOCK;
  settings.problem.max_queries = 40;
  settings.prune.recent = 8;
  Site site(settings);
  Engine engine(settings, site);
  engine.step({0}, {200});
  engine.prune({0});
  for (int step = 0; step < 12; ++step) {
    engine.step({0}, {40});
    engine.trim(0, engine.tokens(0) - 40 + step);
  }
  engine.step({0}, {1});
  engine.expect_counted();
}

// What folds leave: `rollback` rows, or the recent ones where they are more; the step's own rows come on top. So many tokens can be forgotten, no more.
TEST(Fold, RollbackSaysHowManyRowsStayDense) {
  const struct {
    int32_t rollback, recent, kept;
  } cases[] = {{0, 8, 40}, {-1, 8, 8}, {-1, -1, 0}, {5, 8, 8}, {70, 8, 70}};
  for (const auto &one : cases) {
    SCOPED_TRACE(testing::Message() << "rollback " << one.rollback << ", recent " << one.recent);
    Settings settings;
    settings.options.fold = THINK_FOLD_BLOCK;
    settings.options.rollback = one.rollback;
    settings.problem.max_queries = 40;
    settings.problem.max_tokens = 1000;
    settings.prune.recent = one.recent;
    Site site(settings);
    Engine engine(settings, site);
    const auto dense = [&] { return engine.usage(0).tokens - engine.usage(0).compact_tokens; };
    engine.step({0}, {200});
    engine.prune({0});
    int64_t fewest = 200;
    for (int step = 0; step < 3 * 32; ++step) {
      engine.step({0}, {3});
      if (engine.usage(0).compact_tokens > 200) fewest = std::min(fewest, dense());
    }
    // 3 and 32 have no factor in common: each remainder is met.
    EXPECT_EQ(4 + one.kept + 3, fewest);
    for (const int32_t drafts : {40, 11}) {  // of which none is accepted: the step that wrote them has folded, and what it left is there
      for (int step = 0; step < 2; ++step) engine.step({0}, {40});
      const int64_t before = engine.tokens(0);
      engine.step({0}, {drafts});
      engine.trim(0, before - one.kept);
    }
    think_error error = THINK_ERROR_INIT;
    EXPECT_EQ(THINK_E_STATE, think_cache_trim(engine.cache(), 0, engine.tokens(0) - dense() + 3, &error)) << "sinks went, compact rows stayed";
    engine.step({0}, {1});
    engine.expect_counted();
  }
}

TEST(Fold, ForksFoldForThemselves) {
  Settings settings;
  settings.options.fold = THINK_FOLD_BLOCK;
  settings.prune.recent = 5;
  settings.prune.sinks = 7;
  Site site(settings);
  Engine engine(settings, site);
  engine.step({0}, {150});
  engine.prune({0});
  engine.step({0}, {5});
  engine.fork(0, 1);
  engine.fork(0, 2);
  for (int step = 0; step < 20; ++step) {
    engine.step({1, 0, 2}, {5, 4, 3});
    if (step == 9) engine.drop(2), engine.step({2}, {70});
  }
  engine.expect_counted();
}

TEST(Fold, NewBasisAfterSoManyFolds) {
  Settings settings = small_settings();
  settings.options.refit = 3;
  Site site(settings);
  Engine engine(settings, site);
  engine.step({0}, {150});
  engine.prune({0});
  EXPECT_GT(engine.usage(0).score_bytes, 0) << "a later fit needs scores";
  int32_t runs = 1;
  for (int step = 0; step < 170; ++step) {
    engine.step({0}, {4});
    runs = std::max(runs, engine.usage(0).runs);
    if (engine.usage(0).runs < THINK_CACHE_MAX_RUNS) {
      EXPECT_LE(engine.usage(0).tokens - engine.usage(0).compact_tokens, 4 + 32 + 31 + 4 + 3 * 32) << "held back for too long";
    }
  }
  EXPECT_EQ(THINK_CACHE_MAX_RUNS, runs);
  EXPECT_EQ(0, engine.usage(0).score_bytes) << "scores that nobody can use any more";
  EXPECT_LE(engine.usage(0).tokens - engine.usage(0).compact_tokens, 4 + 32 + 31 + 4);
  engine.expect_counted();
}

// 4,000 generated tokens: bytes grow by one compact page for 32 tokens, and what the allocator gave is little more.
TEST(Fold, LongGenerationGrowsAtTheFoldedRate) {
  const int64_t dense_page = 32 * (32 + 32) * 2, compact_page = 32 * (12 + 16) * 2;
  for (const int32_t policy : {THINK_FOLD_BLOCK, THINK_FOLD_NEVER}) {
    Settings settings = small_settings();
    settings.options.fold = policy;
    Site site(settings);
    Engine engine(settings, site);
    engine.step({0}, {512});
    engine.prune({0});
    think_error error = THINK_ERROR_INIT;
    think_cache_info at_start{};
    for (int32_t token = 0; token < 4000; ++token) {
      ASSERT_EQ(THINK_OK, engine.begin({0}, {1}, &error)) << error.message;
      engine.append(0, Engine::Rows::rectangular, false);
      if (token % 800 == 799) engine.attend(0);
      if (token == 159) at_start = engine.usage();
    }
    const think_cache_info at_end = engine.usage();
    const int64_t page = policy == THINK_FOLD_BLOCK ? compact_page : dense_page;
    EXPECT_EQ((4000 - 160) / 32 * page, at_end.page_bytes - at_start.page_bytes);
    EXPECT_LE(at_end.allocated_bytes - at_start.allocated_bytes, (4000 - 160) / 32 * page * 9 / 8 + 2048);
    engine.expect_counted();
    EXPECT_EQ(4512, at_end.tokens);
    if (policy == THINK_FOLD_BLOCK) {
      EXPECT_LT(at_end.allocated_bytes * 100, at_end.dense_bytes * 56) << "28 of 64 channels, and all that comes with them";
    }
  }
}

}  // namespace
}  // namespace cache_test
