// Attention over the cache is attention over the rows that were given to it: dense, pruned, ragged, in every type and group size.
#include "file.h"

namespace cache_test {
namespace {

using Rows = Engine::Rows;

TEST(Attend, DenseRaggedBatchesOfEveryGroupAndType) {
  const think_dtype dtypes[] = {THINK_F16, THINK_BF16, THINK_F32};
  for (int32_t group = 1; group <= 8; ++group) {
    SCOPED_TRACE("group " + std::to_string(group));
    Settings settings;
    settings.problem.query_heads = settings.problem.kv_heads * group;
    settings.problem.cache_dtype = dtypes[group % 3];
    settings.problem.query_dtype = dtypes[group / 3];
    settings.problem.value_channels = 24;
    Site site(settings);
    Engine engine(settings, site);
    const Rows packed = Rows::packed;
    engine.step({1}, {70});                           // a prefill in chunks of any size
    engine.step({1, 4, 0}, {11, 33, 1}, packed);      // another chunk, another prompt, and a prompt of one token
    engine.step({4, 1}, {1, 1});                      // decode, in another order
    engine.step({0, 1, 4, 2}, {5, 1, 0, 3}, packed);  // a mix, one sequence idle
    engine.step({0, 1, 4, 2}, {1, 5, 2, 4});
    const std::vector<float> sink_logits(static_cast<size_t>(settings.problem.query_heads), 1.5f);
    engine.attend(0, Rows::rectangular, sink_logits.data());
    engine.expect_counted();
  }
}

struct Case {
  int32_t mode, budget, key_kept, value_kept, sinks, recent;
  think_dtype dtype;
};

TEST(Attend, PrunedSequencesAmongOthers) {
  const Case cases[] = {
      {THINK_MODE_REGRESSED, THINK_BUDGET_ADAPTIVE, 0, 0, 0, 0, THINK_F16},     {THINK_MODE_REGRESSED, THINK_BUDGET_UNIFORM, 13, 16, 0, 0, THINK_F32},
      {THINK_MODE_CHANNELS, THINK_BUDGET_UNIFORM, 19, 0, -1, -1, THINK_BF16},   {THINK_MODE_CHANNELS, THINK_BUDGET_UNIFORM, -1, 16, 32, 7, THINK_F16},
      {THINK_MODE_REGRESSED, THINK_BUDGET_ADAPTIVE, 16, 24, 40, 1, THINK_BF16}, {THINK_MODE_REGRESSED, THINK_BUDGET_ADAPTIVE, -1, 16, 100, 33, THINK_F16},
  };
  for (const Case &one : cases) {
    SCOPED_TRACE(testing::Message() << "mode " << one.mode << ", kept " << one.key_kept << "/" << one.value_kept << ", sinks " << one.sinks);
    Settings settings;
    settings.prune.mode = one.mode;
    settings.prune.budget = one.budget;
    settings.prune.key_kept = one.key_kept;
    settings.prune.value_kept = one.value_kept;
    settings.prune.sinks = one.sinks;
    settings.prune.recent = one.recent;
    settings.problem.cache_dtype = one.dtype;
    settings.threads = 2;
    Site site(settings);
    Engine engine(settings, site);
    engine.step({0, 1, 2}, {210, 163, 20});
    engine.step({0, 1}, {3, 1});
    const think_cache_info before = engine.usage(0);
    engine.prune({1, 0, 2});
    engine.expect_counted();
    const think_cache_info after = engine.usage(0);
    const int64_t sinks = one.sinks == 0 ? 4 : std::max(one.sinks, 0), recent = one.recent == 0 ? 32 : std::max(one.recent, 0);
    EXPECT_EQ(before.tokens, after.tokens);
    EXPECT_EQ((213 - sinks - recent) / 32 * 32, after.compact_tokens);
    EXPECT_EQ(1, after.runs);
    EXPECT_EQ(0, engine.usage(2).compact_tokens) << "too short, but pruned";
    EXPECT_LT(after.page_bytes, before.page_bytes);
    EXPECT_EQ(0, after.score_bytes);
    engine.step({2, 0, 1, 3}, {1, 5, 2, 40});
    for (int decode = 0; decode < 34; ++decode) engine.step({0, 3, 1}, {1, 1, 1}, decode % 2 ? Rows::packed : Rows::rectangular);
    engine.expect_counted();
  }
}

// Keys that are pruned and values that are not, and the other way round, in one batch: each kind of page is a segment of its own.
TEST(Attend, SidesThatStayDenseForTheirLength) {
  Settings settings;
  settings.problem.value_channels = 128;
  settings.problem.max_tokens = 3000;
  settings.prune.value_kept = 64;
  settings.prune.dense_limit = 0;  // the default: bases must pay
  settings.options.layers = 1;
  Site site(settings);
  Engine engine(settings, site);
  engine.step({0, 1, 2}, {2500, 420, 105});
  engine.prune({0, 1, 2});
  int32_t kinds[2] = {};
  for (int32_t sequence = 0; sequence < 3; ++sequence) {
    const think_cache_info info = engine.usage(sequence);
    kinds[0] += info.key_channels < 64;
    kinds[1] += info.value_channels < 256;
  }
  EXPECT_NE(kinds[0], kinds[1]) << "the test wants sequences of different kinds";
  engine.step({1, 0, 2}, {1, 2, 3});
  engine.expect_counted();
}

TEST(Attend, SecondPruneMakesAnotherRun) {
  Settings settings;
  settings.options.flags = THINK_CACHE_KEEP_SCORES;
  settings.prune.value_kept = 16;
  Site site(settings);
  Engine engine(settings, site);
  engine.step({3, 0}, {150, 99});
  for (int32_t turn = 1; turn <= THINK_CACHE_MAX_RUNS; ++turn) {
    engine.prune({3});
    EXPECT_EQ(turn, engine.usage(3).runs);
    engine.step({0, 3}, {1, 2});
    engine.step({3}, {110});
    engine.step({0, 3}, {1, 2});
    engine.expect_counted();
  }
  think_error error = THINK_ERROR_INIT;
  const int32_t sequence = 3;
  EXPECT_EQ(THINK_E_STATE, think_cache_prune(engine.cache(), &sequence, 1, engine.launch(), &error));
  EXPECT_EQ(0, engine.usage(3).score_bytes) << "scores that nobody can use any more";
  engine.prune({0});
  engine.step({0, 3}, {5, 4});
}

// Through borrowed segments, think_attend() gives the same bits.
TEST(Attend, BorrowedSegmentsGiveTheSame) {
  Settings settings;
  Site site(settings);
  Engine engine(settings, site);
  engine.step({0, 1}, {130, 60});
  engine.prune({0, 1});
  engine.step({1, 0}, {2, 2});
  think_segment segments[THINK_MAX_SEGMENTS];
  think_segment_init(segments, sizeof segments[0]);
  int32_t count = 0;
  THINK_CALL(think_cache_segments, engine.cache(), 1, segments, THINK_MAX_SEGMENTS, &count);
  ASSERT_EQ(2, count);
  const flow::Tensor query = engine.query_rows(1, Rows::rectangular);
  flow::Tensor mine(THINK_F32, 2, 4, 2, 32), theirs(THINK_F32, 2, 4, 2, 32);
  THINK_CALL(think_attend, site.plan, query.view(), nullptr, segments, count, nullptr, mine.view(), nullptr, engine.launch());
  THINK_CALL(think_cache_attend, engine.cache(), 1, query.view(), nullptr, theirs.view(), nullptr, engine.launch());
  EXPECT_EQ(mine.memory().copy(), theirs.memory().copy());
  think_error error = THINK_ERROR_INIT;
  EXPECT_EQ(THINK_E_ARGUMENT, think_cache_segments(engine.cache(), 1, segments, 1, &count, &error));
  EXPECT_EQ(4, error.argument);
}

// Slices of one attend are the whole.
TEST(Attend, Slices) {
  Settings settings;
  Site site(settings);
  Engine engine(settings, site);
  engine.step({0, 1}, {230, 60});
  engine.prune({0});
  engine.step({1, 0}, {3, 2});
  const flow::Tensor query = engine.query_rows(0, Rows::rectangular);
  flow::Tensor whole(THINK_F32, 2, 4, 3, 32), parts(THINK_F32, 2, 4, 3, 32);
  THINK_CALL(think_cache_attend, engine.cache(), 0, query.view(), nullptr, whole.view(), nullptr, engine.launch());
  think_launch launch = *engine.launch();
  launch.slices = 3;
  for (launch.slice = 2; launch.slice >= 0; --launch.slice) {
    THINK_CALL(think_cache_attend, engine.cache(), 0, query.view(), nullptr, parts.view(), nullptr, &launch);
  }
  EXPECT_EQ(whole.memory().copy(), parts.memory().copy());
}

// Segments that are borrowed, for think_attend() by the caller, in every format: those of a step, and those of one sequence without one.
TEST(Attend, BorrowedSegments) {
  const think_dtype formats[][2] = {{0, 0}, {THINK_U4, THINK_U8}, {THINK_U8, THINK_U4}, {THINK_U8, 0}, {0, THINK_U4}};
  for (const auto &format : formats) {
    SCOPED_TRACE(testing::Message() << "formats " << format[0] << ", " << format[1]);
    Settings settings = pruned_settings(format[0], format[1]);
    Site site(settings), other_site(settings);
    Engine engine(settings, site), other(settings, other_site);
    fill(engine);
    const auto attend = [&](const Engine &of, const std::vector<think_segment> &segments, const flow::Tensor &query) {
      const int64_t batch = query.view()->extent[0], rows = query.view()->extent[2];
      flow::Tensor output(THINK_F32, batch, 4, rows, 32);
      think_batch all = THINK_BATCH_INIT;
      all.count = static_cast<int32_t>(batch);
      const int32_t count = static_cast<int32_t>(segments.size());
      THINK_CALL(think_attend, site.plan, query.view(), &all, segments.data(), count, nullptr, output.view(), nullptr, of.launch());
      std::vector<double> numbers;
      for (int64_t i = 0; i < batch * 4 * rows * 32; ++i) numbers.push_back(output.get(i / (4 * rows * 32), i / (rows * 32) % 4, i / 32 % rows, i % 32));
      return numbers;
    };
    const auto borrow = [](const Engine &of, int32_t sequence, int32_t layer) {
      std::vector<think_segment> segments(THINK_CACHE_MAX_RUNS + 1);
      think_segment_init(segments.data(), sizeof segments[0]);
      int32_t count = 0;
      THINK_CALL(think_cache_sequence_segments, of.cache(), sequence, layer, segments.data(), static_cast<int32_t>(segments.size()), &count);
      segments.resize(static_cast<size_t>(count));
      return segments;
    };
    const auto expect_near = [](const std::vector<double> &expected, const std::vector<double> &found) {
      ASSERT_EQ(expected.size(), found.size());
      for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(expected[i], found[i], 1e-5) << i;
    };
    engine.step({0, 1}, {1, 1});
    const std::string bytes = saved(engine, 0);
    think_error error = THINK_ERROR_INIT;
    ASSERT_EQ(THINK_OK, load(other.cache(), 3, bytes, &error)) << error.message;
    for (int32_t layer = 0; layer < 2; ++layer) {
      const flow::Tensor query = engine.query_rows(layer, Rows::rectangular);
      flow::Tensor output(THINK_F32, 2, 4, 1, 32), first(THINK_F32, 1, 4, 1, 32);
      THINK_CALL(think_cache_attend, engine.cache(), layer, query.view(), nullptr, output.view(), nullptr, engine.launch());
      std::vector<double> expected;
      for (int32_t i = 0; i < 2 * 4 * 32; ++i) expected.push_back(output.get(i / 128, i / 32 % 4, 0, i % 32));
      for (int32_t i = 0; i < 4 * 32; ++i) first.set(0, i / 32, 0, i % 32, query.get(0, i / 32, 0, i % 32));
      std::vector<think_segment> step(THINK_MAX_SEGMENTS);
      think_segment_init(step.data(), sizeof step[0]);
      int32_t count = 0;
      THINK_CALL(think_cache_segments, engine.cache(), layer, step.data(), THINK_MAX_SEGMENTS, &count);
      step.resize(static_cast<size_t>(count));
      EXPECT_TRUE(expected == attend(engine, step, query)) << "layer " << layer;
      expected.resize(4 * 32);
      const std::vector<think_segment> own = borrow(engine, 0, layer), loaded = borrow(other, 3, layer);
      EXPECT_EQ(own.size(), static_cast<size_t>(engine.usage(0).runs) + 1);
      expect_near(expected, attend(engine, own, first));
      EXPECT_TRUE(attend(engine, own, first) == attend(other, loaded, first)) << "a sequence that was never in a step";
    }
    EXPECT_EQ(1u, borrow(other, 0, 0).size()) << "a sequence without tokens is a dense segment of none";
  }
}

}  // namespace
}  // namespace cache_test
