// Whole rows go, then channels: every method chooses in the cache what think_evict() chooses, and a cache that has evicted goes on as one that never held more.
#include <functional>

#include "file.h"

namespace cache_test {
namespace {

constexpr int32_t kTokens = 203, kBudget = 90;

think_evict_options with(int32_t method, int32_t budget = kBudget, int32_t pooling = 0) {
  think_evict_options options = THINK_EVICT_OPTIONS_INIT;
  options.method = method;
  options.budget = budget;
  options.pooling = pooling;
  options.score_stride = 640;
  return options;
}

std::vector<think_evict_options> every_method() {
  return {with(THINK_EVICT_SNAPKV), with(THINK_EVICT_SNAPKV, kBudget, THINK_POOL_MEAN), with(THINK_EVICT_H2O), with(THINK_EVICT_WINDOW), with(THINK_EVICT_TOVA),
          with(THINK_EVICT_RECENT)};
}

bool sums(const think_evict_options &options) { return options.method == THINK_EVICT_H2O; }

// What think_evict() chooses of a sequence that has had a step of its own just now: [layers][kv_heads][rows]. score: [layers][kv_heads][score_stride].
Numbers choose(const Engine &engine, const Site &site, int32_t sequence, const think_evict_options &options, float *score = nullptr) {
  const think_problem &problem = engine.settings().problem;
  Numbers lists;
  for (int32_t layer = 0; layer < engine.settings().options.layers; ++layer) {
    think_segment segments[THINK_MAX_SEGMENTS];
    think_segment_init(segments, sizeof segments[0]);
    int32_t count = 0;
    THINK_CALL(think_cache_segments, engine.cache(), layer, segments, THINK_MAX_SEGMENTS, &count);
    const think_segment &dense = segments[count - 1];
    const int32_t rows = std::min(options.budget, dense.lengths[0]);
    Numbers kept(static_cast<size_t>(problem.kv_heads * options.budget)), lengths(static_cast<size_t>(problem.kv_heads));
    const flow::Tensor window = engine.last_queries(layer, sequence, problem.window);
    float *of_layer = score ? score + int64_t{layer} * problem.kv_heads * options.score_stride : nullptr;
    const think_tensor *queries = options.method == THINK_EVICT_RECENT ? nullptr : window.view();
    THINK_CALL(think_evict, site.plan, queries, &dense, nullptr, &options, nullptr, of_layer, kept.data(), lengths.data(), engine.launch());
    for (int32_t head = 0; head < problem.kv_heads; ++head) {
      EXPECT_EQ(rows, lengths[static_cast<size_t>(head)]);
      lists.insert(lists.end(), kept.begin() + head * options.budget, kept.begin() + head * options.budget + rows);
    }
  }
  return lists;
}

std::vector<float> no_sums(const Engine &engine, int32_t count) {
  return std::vector<float>(static_cast<size_t>(count * engine.settings().options.layers * engine.settings().problem.kv_heads) * 640, 0.0f);
}

void evict(Engine &engine, const Numbers &sequences, const think_evict_options &options, float *score = nullptr) {
  THINK_CALL(think_cache_evict, engine.cache(), sequences.data(), static_cast<int32_t>(sequences.size()), &options, nullptr, score, engine.launch());
}

TEST(Evict, EveryMethodInEveryHead) {
  const Settings settings;
  Site site(settings);
  const int64_t row = 2 * 2 * 64 * 2;  // of both layers, heads and sides, in 16 bits
  for (const think_evict_options &options : every_method()) {
    SCOPED_TRACE(testing::Message() << "method " << options.method << ", pooling " << options.pooling);
    Engine engine(settings, site);
    engine.step({1, 3}, {50, 70});
    engine.step({0}, {kTokens - 3});
    engine.step({0}, {3});
    std::vector<float> score = no_sums(engine, 1), both = no_sums(engine, 2);
    const Numbers lists = choose(engine, site, 0, options, sums(options) ? score.data() : nullptr);
    evict(engine, {1, 0}, options, sums(options) ? both.data() : nullptr);  // sequence 1 is short: it is left alone
    engine.evicted(0, lists, kBudget);
    engine.expect_counted();
    const think_cache_info info = engine.usage(0);
    EXPECT_EQ(kBudget, info.tokens);
    EXPECT_EQ(kTokens - kBudget, info.evicted_tokens);
    EXPECT_EQ(row * kTokens, info.dense_bytes);
    EXPECT_EQ(row * 96, info.page_bytes) << "3 pages of 32";
    EXPECT_EQ(0, engine.usage(1).evicted_tokens);
    EXPECT_EQ(kTokens - kBudget, engine.usage().evicted_tokens);
    if (sums(options)) {
      for (size_t list = 0; list < 4; ++list) {
        for (size_t t = 0; t < 640; ++t) {
          const float moved = t < kBudget ? score[list * 640 + static_cast<size_t>(lists[list * kBudget + t])] : 0;
          ASSERT_EQ(moved, both[(4 + list) * 640 + t]) << list << ", " << t;
        }
      }
    }
    for (int step = 0; step < 3; ++step) engine.step({0, 1}, {5, 1});
    engine.expect_exported(0, 1e-5);
    engine.prune({1, 0});
    EXPECT_GT(engine.usage(0).compact_tokens, 0);
    for (int step = 0; step < 3; ++step) engine.step({1, 3, 0}, {1, 2, 5});
    engine.drop(0);
    EXPECT_EQ(0, engine.usage().evicted_tokens);
  }
}

// evict -> score -> select -> fit -> compact -> quantize: every method with every form of compact rows gives the bits of a cache that was given the kept rows
// alone, in one step with the last queries.
TEST(Evict, ThenPrunedAsIfNothingElseHadBeenThere) {
  struct Form {
    int32_t mode, budget;
    think_dtype key, value;
  };
  for (const Form &form : {Form{THINK_MODE_CHANNELS, THINK_BUDGET_UNIFORM, 0, 0}, Form{THINK_MODE_REGRESSED, THINK_BUDGET_ADAPTIVE, THINK_U4, THINK_U8},
                           Form{THINK_MODE_REGRESSED, THINK_BUDGET_UNIFORM, THINK_U8, 0}}) {
    Settings settings = pruned_settings(form.key, form.value);
    settings.prune.mode = form.mode;
    settings.prune.budget = form.budget;
    Site site(settings), other_site(settings);
    for (const think_evict_options &options : every_method()) {
      SCOPED_TRACE(testing::Message() << "mode " << form.mode << ", keys " << form.key << ", method " << options.method << ", pooling " << options.pooling);
      Engine engine(settings, site), other(settings, other_site);
      engine.step({0}, {kTokens});
      std::vector<float> score = no_sums(engine, 1), expected = score;
      const Numbers lists = choose(engine, site, 0, options, sums(options) ? expected.data() : nullptr);
      evict(engine, {0}, options, sums(options) ? score.data() : nullptr);
      engine.evicted(0, lists, kBudget);

      ASSERT_EQ(THINK_OK, other.begin({0}, {kBudget}));
      for (int32_t layer = 0; layer < 2; ++layer) {
        flow::Tensor key(THINK_F32, 1, 2, kBudget, 32), value(THINK_F32, 1, 2, kBudget, 32), query(THINK_F32, 1, 4, kBudget, 32);
        THINK_CALL(think_cache_export_dense, engine.cache(), 0, layer, 0, kBudget, key.view(), value.view(), nullptr);
        const flow::Tensor last = engine.last_queries(layer, 0, settings.problem.window);
        for (int32_t head = 0; head < 4; ++head) {
          for (int32_t t = 0; t < kBudget; ++t) {
            const int32_t from = t - kBudget + settings.problem.window;
            for (int32_t c = 0; c < 32; ++c) query.set(0, head, t, c, from < 0 ? 0 : last.get(0, head, from, c));
          }
        }
        THINK_CALL(think_cache_append, other.cache(), layer, query.view(), key.view(), value.view(), other.launch());
      }
      other.loaded(engine, 0);
      engine.prune({0});
      other.prune({0});
      EXPECT_GT(engine.usage(0).compact_tokens, 0);
      EXPECT_EQ(engine.usage(0).page_bytes, other.usage(0).page_bytes);
      for (int step = 0; step < 16; ++step) ASSERT_TRUE(engine.step({0}, {5}) == other.step({0}, {5})) << "step " << step;
      EXPECT_GT(engine.usage(0).runs, 1) << "a new fit";
    }
  }
}

TEST(Evict, ForksFilesAndRollbacks) {
  const Settings settings = pruned_settings(THINK_U4, 0);
  Site site(settings), other_site(settings);
  Engine engine(settings, site), other(settings, other_site);
  engine.step({0}, {kTokens});
  engine.fork(0, 2);
  const int64_t before = engine.usage().page_bytes;
  const think_evict_options options = with(THINK_EVICT_SNAPKV);
  engine.step({0}, {1});
  const Numbers lists = choose(engine, site, 0, options);
  evict(engine, {0}, options);
  engine.evicted(0, lists, kBudget);
  engine.expect_counted();
  EXPECT_EQ(before + 3 * 2 * 32 * 2 * 64 * 2, engine.usage().page_bytes) << "three pages of its own";
  engine.step({0, 2}, {4, 5});
  engine.fork(0, 1);
  engine.step({1, 0}, {2, 3});
  // The window's 8 tokens are the last ones of every head, and 7 more have come; a head that happens to keep its neighbours may reach no further than that.
  think_error error = THINK_ERROR_INIT;
  EXPECT_EQ(THINK_E_STATE, think_cache_trim(engine.cache(), 0, 40, &error));
  EXPECT_EQ(3, error.argument);
  EXPECT_NE(nullptr, std::strstr(error.message, "evict")) << error.message;
  engine.trim(0, kBudget + 7 - 15);
  engine.step({0}, {2});
  // As a file into another cache, before and after the prune.
  for (int round = 0; round < 2; ++round) {
    const std::string bytes = saved(engine, 0);
    ASSERT_EQ(THINK_OK, load(other.cache(), 3, bytes, &error)) << error.message;
    other.loaded(engine, 0);
    const think_cache_info held = engine.usage(0), loaded = other.usage(3);
    EXPECT_EQ(0, std::memcmp(&held, &loaded, sizeof held));
    EXPECT_EQ(kTokens + 1 - kBudget, loaded.evicted_tokens);
    EXPECT_TRUE(bytes == saved(other, 3));
    EXPECT_EQ(THINK_E_STATE, think_cache_trim(other.cache(), 3, 40, &error)) << "the file says what can be rolled back";
    THINK_CALL(think_cache_drop, other.cache(), 3);
    if (round == 0) engine.prune({0, 1});
  }
  engine.step({2, 0, 1}, {1, 5, 2});
  engine.drop(0);
  engine.step({2, 1}, {1, 1});
  engine.expect_counted();
}

// Queries, sums and lists of the caller's.
TEST(Evict, WhatTheCallerBrings) {
  Settings settings;
  settings.options.flags = THINK_CACHE_NO_SCORES;
  Site site(settings);
  Engine engine(settings, site);
  const int32_t sequence = 0;
  engine.step({0}, {kTokens});
  // Two queries for each layer, in one tensor: those of the last two tokens.
  flow::Tensor probe(THINK_BF16, 2, 4, 2, 32);
  Numbers lists;
  think_evict_options options = with(THINK_EVICT_WINDOW, 120);
  for (int32_t layer = 0; layer < 2; ++layer) {
    const flow::Tensor last = engine.last_queries(layer, 0, 2);
    for (int32_t i = 0; i < 4 * 2 * 32; ++i) probe.set(layer, i / 64, i / 32 % 2, i % 32, last.get(0, i / 64, i / 32 % 2, i % 32));
    think_tensor of_layer = *probe.view();
    of_layer.data = static_cast<char *>(of_layer.data) + layer * of_layer.stride[0] * 2;
    of_layer.extent[0] = 1;
    think_segment segments[1] = {THINK_SEGMENT_INIT};
    int32_t count = 0;
    THINK_CALL(think_cache_segments, engine.cache(), layer, segments, 1, &count);
    Numbers kept(2 * 120), lengths(2);
    THINK_CALL(think_evict, site.plan, &of_layer, segments, nullptr, &options, nullptr, nullptr, kept.data(), lengths.data(), engine.launch());
    lists.insert(lists.end(), kept.begin(), kept.end());
  }
  THINK_CALL(think_cache_evict, engine.cache(), &sequence, 1, &options, probe.view(), nullptr, engine.launch());
  engine.evicted(0, lists, 120);
  engine.step({0}, {2});
  // Sums are taken as they are, as there are no queries: the highest of each head, wherever they are.
  options = with(THINK_EVICT_H2O, 30);
  options.recent = -1;
  std::vector<float> score = no_sums(engine, 1);
  lists.clear();
  for (int32_t head = 0; head < 4; ++head) {
    for (int32_t t = 0; t < 122; ++t) {
      const int32_t rank = (t * 37 + head * 11) % 122;
      score[static_cast<size_t>(head) * 640 + static_cast<size_t>(t)] = static_cast<float>(rank);
      if (rank >= 92) lists.push_back(t);
    }
  }
  THINK_CALL(think_cache_evict, engine.cache(), &sequence, 1, &options, nullptr, score.data(), engine.launch());
  engine.evicted(0, lists, 30);
  for (size_t t = 0; t < 640; ++t) ASSERT_TRUE(t < 30 ? score[t] >= 92 : score[t] == 0) << t;
  engine.step({0}, {5});
  // Lists: every head another third of the rows.
  lists.clear();
  for (int32_t head = 0; head < 4; ++head) {
    for (int32_t t = 0; t < 11; ++t) lists.push_back(3 * t + head % 3);
  }
  THINK_CALL(think_cache_keep, engine.cache(), 0, lists.data(), 11);
  engine.evicted(0, lists, 11);
  engine.step({0}, {3});
  engine.expect_counted();
  EXPECT_EQ(14, engine.usage(0).tokens);
  EXPECT_EQ(kTokens + 10 - 14, engine.usage(0).evicted_tokens);
}

// A conversation that goes on: compact rows and sinks stay, later dense rows go, twice; their sums go with them.
TEST(Evict, DenseRowsBehindCompactOnes) {
  Settings settings;
  settings.options.flags = THINK_CACHE_KEEP_SCORES;
  settings.prune.recent = 8;
  Site site(settings);
  Engine engine(settings, site);
  engine.step({0}, {150});
  engine.prune({0});
  const int64_t compact = engine.usage(0).compact_tokens;
  EXPECT_GT(compact, 96);
  engine.step({0}, {120});
  think_evict_options options = with(THINK_EVICT_H2O, 60);
  options.sinks = 4;
  std::vector<float> score = no_sums(engine, 1), expected = score;
  for (int round = 0; round < 2; ++round) {
    const Numbers lists = choose(engine, site, 0, options, expected.data());
    options.sinks = 0;  // they stay all the same
    evict(engine, {0}, options, score.data());
    options.sinks = 4;
    engine.evicted(0, lists, 60);
    for (size_t list = 0; list < 4; ++list) {
      std::vector<float> moved(640, 0.0f);
      for (size_t t = 0; t < 60; ++t) moved[t] = expected[list * 640 + static_cast<size_t>(lists[list * 60 + t])];
      std::copy(moved.begin(), moved.end(), expected.begin() + static_cast<std::ptrdiff_t>(list * 640));
    }
    ASSERT_EQ(expected, score);
    EXPECT_EQ(compact + 60, engine.usage(0).tokens);
    for (int step = 0; step < 4; ++step) engine.step({0}, {5});
  }
  engine.prune({0});
  EXPECT_EQ(2, engine.usage(0).runs);
  engine.step({0}, {5});
  engine.expect_counted();
}

}  // namespace
}  // namespace cache_test
