// Sequences come, are rolled back, forked, dropped; every byte is counted, and calls at the wrong moment change nothing.
#include "engine.h"

namespace cache_test {
namespace {

int64_t dense_page(const Settings &settings) { return int64_t{32} * settings.problem.kv_heads * 2 * settings.problem.key_channels * 2; }

TEST(Usage, EveryByteIsTheAllocators) {
  Settings settings;
  settings.prune.key_kept = 16;
  settings.prune.budget = THINK_BUDGET_UNIFORM;
  Site site(settings);
  const int64_t before = site.host.bytes;
  {
    Engine engine(settings, site);
    engine.expect_counted();
    EXPECT_EQ(0, engine.usage().page_bytes);
    engine.step({0, 1}, {330, 31});
    engine.expect_counted();
    const int64_t layers = settings.options.layers, page = dense_page(settings);
    EXPECT_EQ(layers * page * (11 + 1), engine.usage().page_bytes);
    EXPECT_EQ(layers * page * 11, engine.usage(0).page_bytes);
    EXPECT_EQ(layers * 330 * 2 * 64 * 2, engine.usage(0).dense_bytes);
    EXPECT_GT(engine.usage(0).score_bytes, 0);
    engine.prune({0});
    engine.expect_counted();
    // 9 pages of 16 of 32 key channels and all values; 42 dense rows in 2 pages
    const think_cache_info pruned = engine.usage(0);
    EXPECT_EQ(288, pruned.compact_tokens);
    EXPECT_EQ(layers * (9 * (page * 3 / 4) + 2 * page), pruned.page_bytes);
    EXPECT_EQ(32, pruned.key_channels);
    EXPECT_EQ(64, pruned.value_channels);
    int64_t basis_bytes = 0;
    THINK_CALL(think_basis_size, site.plan, THINK_KEYS, 1, &basis_bytes, nullptr);
    EXPECT_EQ(layers * (basis_bytes + 2 * 8), pruned.basis_bytes);
    EXPECT_LT(engine.usage().spare_bytes, layers * page * 9) << "dense pages that are free were not given back";
    EXPECT_LT(engine.usage().table_bytes, 16384);
    engine.step({0, 1}, {1, 1});
    engine.drop(0);
    engine.expect_counted();
    engine.step({1, 0}, {1, 40});
    THINK_CALL(think_cache_reset, engine.cache());
    const think_cache_info empty = engine.usage();
    EXPECT_EQ(0, empty.page_bytes + empty.basis_bytes + empty.score_bytes + empty.spare_bytes + empty.tokens);
    EXPECT_EQ(site.host.bytes - before, empty.allocated_bytes);
  }
  EXPECT_EQ(before, site.host.bytes) << "the cache kept memory";
}

TEST(Usage, ReservedRowsNeedNoAllocation) {
  Settings settings;
  settings.options.reserve_tokens = 320;
  settings.options.flags = THINK_CACHE_NO_SCORES;
  Site site(settings);
  Engine engine(settings, site);
  EXPECT_EQ(2 * 10 * dense_page(settings), engine.usage().spare_bytes);
  engine.step({0}, {100});
  engine.step({0}, {100});
  const int64_t bytes = engine.usage().allocated_bytes;
  engine.step({1}, {60});
  EXPECT_LT(engine.usage().allocated_bytes - bytes, 1024) << "more than lists";
  engine.drop(0);
  engine.drop(1);
  EXPECT_EQ(2 * 10 * dense_page(settings), engine.usage().spare_bytes);
  engine.expect_counted();
}

TEST(Trim, RolledBackTokensNeverWere) {
  Settings settings;
  settings.options.flags = THINK_CACHE_NO_SCORES;
  Site site(settings);
  Engine with(settings, site);
  with.step({0, 1}, {95, 64});
  with.step({0, 1}, {5, 3});
  with.trim(0, 96);
  with.trim(1, 64);
  with.expect_counted();
  with.step({0, 1}, {2, 4});
  with.trim(0, 40);
  with.step({0}, {3});
  with.trim(1, 0);
  with.step({1}, {2});
  with.expect_counted();
}

TEST(Trim, NotIntoCompactRows) {
  Settings settings;
  Site site(settings);
  Engine engine(settings, site);
  engine.step({2}, {150});
  engine.prune({2});  // 96 compact, 4 sinks, 50 recent
  const think_cache_info before = engine.usage(2);
  think_error error = THINK_ERROR_INIT;
  EXPECT_EQ(THINK_E_STATE, think_cache_trim(engine.cache(), 2, 99, &error));
  EXPECT_EQ(3, error.argument);
  EXPECT_NE(nullptr, std::strstr(error.message, "100"));
  EXPECT_EQ(before.page_bytes, engine.usage(2).page_bytes);
  engine.trim(2, 100);
  engine.step({2}, {5});
  engine.trim(2, 103);
  engine.step({2}, {4});
  engine.trim(2, 0);
  engine.expect_counted();
  EXPECT_EQ(0, engine.usage().basis_bytes);
}

TEST(Fork, SharesPagesUntilSomebodyWrites) {
  Settings settings;
  settings.prune.sinks = 5;
  Site site(settings);
  Engine engine(settings, site);
  engine.step({0}, {200});
  engine.prune({0});
  engine.step({0}, {3});
  const think_cache_info one = engine.usage();
  engine.fork(0, 3);
  engine.fork(3, 1);
  const think_cache_info three = engine.usage();
  EXPECT_EQ(one.page_bytes, three.page_bytes);
  EXPECT_EQ(one.basis_bytes, three.basis_bytes);
  EXPECT_EQ(3 * one.tokens, three.tokens);
  EXPECT_EQ(engine.usage(0).page_bytes, engine.usage(1).page_bytes);
  // They part: each writes its own tokens behind what they share.
  for (int step = 0; step < 3; ++step) engine.step({1, 0, 3}, {5, 1, 2});
  engine.expect_counted();
  EXPECT_EQ(three.page_bytes + 2 * 2 * dense_page(settings), engine.usage().page_bytes) << "more than two copies of the last page";
  engine.trim(3, 204);
  engine.step({3, 1}, {4, 1});
  engine.drop(0);
  engine.step({1, 3}, {1, 1});
  engine.drop(1);
  engine.step({3}, {1});
  engine.expect_counted();
  EXPECT_EQ(engine.usage().page_bytes, engine.usage(3).page_bytes);
  engine.drop(3);
  EXPECT_EQ(0, engine.usage().page_bytes + engine.usage().basis_bytes);
}

TEST(Fork, DensePromptIsPrunedByEachForItself) {
  Settings settings;
  settings.prune.value_kept = 16;
  Site site(settings);
  Engine engine(settings, site);
  engine.step({0}, {170});
  engine.fork(0, 5);
  engine.step({5, 0}, {3, 4});
  engine.prune({5});
  engine.step({0, 5}, {1, 1});
  engine.prune({0});
  engine.step({0, 5}, {2, 3});
  engine.expect_counted();
}

TEST(Step, GivenUpInTheMiddle) {
  Settings settings;
  Site site(settings);
  Engine engine(settings, site);
  engine.step({0, 1}, {90, 33});
  think_error error = THINK_ERROR_INIT;
  ASSERT_EQ(THINK_OK, engine.begin({1, 0, 4}, {40, 1, 7}));
  engine.append(1);
  const int32_t sequence = 0, token = 1;
  think_cache *cache = engine.cache();
  EXPECT_EQ(THINK_E_STATE, think_cache_step(cache, &sequence, &token, 1, engine.launch(), &error));
  EXPECT_EQ(THINK_E_STATE, think_cache_prune(cache, &sequence, 1, engine.launch(), &error));
  EXPECT_EQ(THINK_E_STATE, think_cache_trim(cache, 0, 3, &error));
  EXPECT_EQ(THINK_E_STATE, think_cache_fork(cache, 0, 3, &error));
  EXPECT_NE(nullptr, std::strstr(error.message, "1 of 2")) << error.message;
  engine.take_back();
  engine.drop(5);  // of nobody: it only ends the step
  engine.expect_counted();
  EXPECT_EQ(0, engine.usage(4).page_bytes);
  engine.step({4, 1, 0}, {2, 3, 5});
  engine.prune({0});
  engine.step({1, 0}, {1, 1});
}

TEST(Step, WrongMomentsAreRefused) {
  Settings settings;
  Site site(settings);
  Engine engine(settings, site);
  think_cache *cache = engine.cache();
  think_error error = THINK_ERROR_INIT;
  think_segment segment = THINK_SEGMENT_INIT;
  int32_t count = 7;
  EXPECT_EQ(THINK_E_STATE, think_cache_segments(cache, 0, &segment, 1, &count, &error));
  engine.step({0}, {5});
  const flow::Tensor query = engine.query_rows(0, Engine::Rows::rectangular);
  flow::Tensor output(THINK_F32, 1, 4, 5, 32);
  EXPECT_EQ(THINK_OK, think_cache_attend(cache, 0, query.view(), nullptr, output.view(), nullptr, engine.launch(), &error));
  ASSERT_EQ(THINK_OK, engine.begin({0}, {5}));
  EXPECT_EQ(THINK_E_STATE, think_cache_attend(cache, 0, query.view(), nullptr, output.view(), nullptr, engine.launch(), &error));
  EXPECT_EQ(2, error.argument);
  engine.append(0);
  const flow::Tensor key = engine.fresh(0, Engine::Rows::rectangular, 1, 2, 32, THINK_F32);
  const flow::Tensor value = engine.fresh(0, Engine::Rows::rectangular, 2, 2, 32, THINK_F32);
  EXPECT_EQ(THINK_E_STATE, think_cache_append(cache, 0, query.view(), key.view(), value.view(), engine.launch(), &error));
  EXPECT_EQ(THINK_E_ARGUMENT, think_cache_append(cache, 1, nullptr, key.view(), value.view(), engine.launch(), &error));
  EXPECT_EQ(3, error.argument) << error.message;
  engine.append(1);
  engine.trim(0, 9);
  EXPECT_EQ(THINK_E_STATE, think_cache_attend(cache, 0, query.view(), nullptr, output.view(), nullptr, engine.launch(), &error));
  EXPECT_EQ(THINK_E_STATE, think_cache_fork(cache, 1, 0, &error)) << "over a sequence that holds tokens";
  ASSERT_EQ(THINK_OK, engine.begin({0}, {6}));
  engine.append(0);
  const flow::Tensor long_query = engine.query_rows(0, Engine::Rows::rectangular);
  flow::Tensor long_output(THINK_F32, 1, 4, 6, 32);
  EXPECT_EQ(THINK_E_ARGUMENT, think_cache_attend(cache, 0, long_query.view(), nullptr, long_output.view(), nullptr, engine.launch(), &error));
  EXPECT_NE(nullptr, std::strstr(error.message, "max_queries")) << error.message;
  engine.append(1);
  EXPECT_EQ(7, count);
}

TEST(Scores, OnlyWhereTheyAreKept) {
  Settings settings;
  settings.options.flags = THINK_CACHE_NO_SCORES;
  Site site(settings);
  Engine engine(settings, site);
  ASSERT_EQ(THINK_OK, engine.begin({0}, {100}));
  for (int32_t layer = 0; layer < 2; ++layer) engine.append(layer, Engine::Rows::rectangular, false);
  EXPECT_EQ(0, engine.usage().score_bytes);
  think_error error = THINK_ERROR_INIT;
  const int32_t sequence = 0;
  EXPECT_EQ(THINK_E_STATE, think_cache_prune(engine.cache(), &sequence, 1, engine.launch(), &error));
  EXPECT_EQ(2, error.argument);
}

}  // namespace
}  // namespace cache_test
