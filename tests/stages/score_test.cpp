// The score stage against its double-precision reference: chunks, batches, strides, overflow, slices, every instruction set.
#include "kernels/score/score.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "instruction_sets.h"
#include "score_case.h"

namespace think {
namespace {

using namespace test;

struct ThreadedLoop {
  // One std::thread per index: more tasks at once than any pool would give.
  static void run(void *, int64_t count, think_task task, void *arg) {
    std::vector<std::thread> threads;
    for (int64_t i = 0; i < count; ++i) threads.emplace_back(task, arg, i);
    for (std::thread &thread : threads) thread.join();
  }
};
constexpr Parallel kSerial = {1, nullptr, nullptr};
constexpr Parallel kThreaded = {3, ThreadedLoop::run, nullptr};

// State and workspace of one test, between guards that must survive.
struct Store {
  Shape shape;
  std::vector<char> state, workspace;
  int32_t slots;
  int64_t workspace_bytes;
  static constexpr int64_t kGuard = 256;

  Store(const Shape &s, int32_t slots_, int32_t batch, int64_t tokens) : shape(s), slots(slots_) {
    state.assign(kGuard + slots * score::state_bytes(shape) + kGuard, '\x55');
    workspace_bytes = score::update_workspace(shape, batch, tokens);
    workspace.assign(workspace_bytes + kGuard, '\x55');
    std::memset(workspace.data(), 0, workspace_bytes);
  }
  void *state_memory() { return aligned(state.data() + 64); }
  void *workspace_memory() { return workspace.data(); }
  static char *aligned(char *p) { return p + (64 - reinterpret_cast<uintptr_t>(p) % 64) % 64; }

  void reset(const Batch &batch) { score::reset(shape, state_memory(), batch); }
  void update(int32_t isa, const think_tensor &query, const think_tensor &key, const Batch &batch, const Parallel &parallel = kSerial, int slices = 1) {
    const score::Update arguments{shape, query, key, batch, state_memory()};
    if (slices == 1) {
      score::update(isa, arguments, workspace_memory(), parallel, {0, 1});
    } else {
      std::vector<std::thread> threads;
      for (int i = slices - 1; i >= 0; --i) {
        threads.emplace_back([&, i] { score::update(isa, arguments, workspace_memory(), parallel, {i, slices}); });
      }
      for (std::thread &thread : threads) thread.join();
    }
    for (int64_t i = 0; i < workspace_bytes; ++i) ASSERT_EQ(workspace[i], 0) << "workspace byte " << i << " is not zero after the call";
    for (int64_t i = 0; i < kGuard; ++i) ASSERT_EQ(workspace[workspace_bytes + i], '\x55') << "written behind the workspace";
    char *begin = static_cast<char *>(state_memory()), *end = begin + slots * score::state_bytes(shape);
    for (char *p = state.data(); p < state.data() + state.size(); ++p) {
      if (p < begin || p >= end) {
        ASSERT_EQ(*p, '\x55') << "written outside the state";
      }
    }
  }
  std::vector<float> finish(const Batch &batch, bool query_heads = false) {
    const int64_t heads = query_heads ? shape.query_heads : shape.kv_heads;
    std::vector<float> out(batch.count * heads * shape.key_channels, -7);
    score::finish(shape, state_memory(), batch, query_heads, out.data());
    return out;
  }
};

class ScoreTest : public testing::TestWithParam<int32_t> {
 protected:
  int32_t isa() const { return GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(Isa, ScoreTest, testing::ValuesIn(test::instruction_sets()),
                         [](const auto &set) { return std::string(test::isa_name(set.param)); });

TEST_P(ScoreTest, EveryHeadSizeGroupAndDtype) {
  std::mt19937 random(1);
  for (int32_t channels : {8, 16, 24, 40, 64, 72, 80, 96, 128, 200, 256}) {
    for (int32_t group : {1, 3, 4}) {
      const think_dtype query_dtype = kDtypes[(channels / 8 + group) % 3], key_dtype = kDtypes[channels / 8 % 3];
      const int64_t tokens = 33 + channels;
      const Shape shape = make_shape(2, group, channels, 32, query_dtype);
      Rows query(query_dtype, 1, shape.query_heads, tokens, channels), key(key_dtype, 1, shape.kv_heads, tokens, channels);
      fill(query, 0, 0, tokens, random);
      fill(key, 0, 0, tokens, random);
      Store setup(shape, 1, 1, tokens);
      const Batch batch{1, nullptr, nullptr, nullptr};
      setup.reset(batch);
      setup.update(isa(), query.tensor, key.tensor, batch);
      for (bool heads : {false, true}) {
        std::vector<double> expected((heads ? shape.query_heads : shape.kv_heads) * channels);
        score::reference::score(shape, widened(query, 0, 0, tokens).data(), widened(key, 0, 0, tokens).data(), tokens, heads, expected.data());
        expect_near(setup.finish(batch, heads).data(), expected, "channels " + std::to_string(channels) + " group " + std::to_string(group));
      }
    }
  }
}

TEST_P(ScoreTest, AnyChunksGiveOnePass) {
  const int64_t tokens = 2600;
  const Shape shape = make_shape(2, 2, 64, 32, THINK_F16);
  std::mt19937 random(2);
  Rows query(THINK_F16, 1, 4, tokens, 64), key(THINK_BF16, 1, 2, tokens, 64);
  fill(query, 0, 0, tokens, random);
  fill(key, 0, 0, tokens, random);
  std::vector<double> expected(2 * 64);
  score::reference::score(shape, widened(query, 0, 0, tokens).data(), widened(key, 0, 0, tokens).data(), tokens, false, expected.data());
  const std::vector<std::vector<int64_t>> plans = {{2600}, {1, 2599}, {2599, 1}, {2568, 32}, {2569, 31}, {1024, 1024, 552}, {1025, 1500, 40, 20, 15},
                                                   {0, 2000, 0, 571, 3, 5, 1, 20}};
  Batch batch{1, nullptr, nullptr, nullptr};
  std::vector<char> first_window;
  for (const auto &plan : plans) {
    Store setup(shape, 1, 1, tokens);
    setup.reset(batch);
    int64_t done = 0;
    for (int64_t chunk : plan) {
      setup.update(isa(), query.part(done, chunk), key.part(done, chunk), batch);
      done += chunk;
    }
    ASSERT_EQ(done, tokens);
    expect_near(setup.finish(batch).data(), expected, "plan of " + std::to_string(plan.size()) + " chunks");
    const score::StateView view = score::state_view(shape, setup.state_memory(), 0);
    EXPECT_EQ(*view.tokens, tokens);
    for (int64_t h = 0; h < 4; ++h) {
      for (int64_t r = 0; r < 32; ++r) {
        ASSERT_EQ(std::memcmp(static_cast<char *>(view.window) + (h * 32 + r) * 64 * 2, element(query.tensor, 0, h, tokens - 32 + r), 64 * 2), 0)
            << "window row " << r << " of query head " << h;
      }
    }
  }
}

TEST_P(ScoreTest, FewerTokensThanTheWindowAreRightAligned) {
  const Shape shape = make_shape(1, 2, 16, 32, THINK_F32);
  std::mt19937 random(3);
  Rows query(THINK_F32, 1, 2, 10, 16), key(THINK_F32, 1, 1, 10, 16);
  fill(query, 0, 0, 10, random);
  fill(key, 0, 0, 10, random);
  Batch batch{1, nullptr, nullptr, nullptr};
  Store setup(shape, 1, 1, 10);
  setup.reset(batch);
  for (float x : setup.finish(batch)) EXPECT_EQ(x, 0);
  setup.update(isa(), query.part(0, 3), key.part(0, 3), batch);
  setup.update(isa(), query.part(3, 7), key.part(3, 7), batch);
  std::vector<double> expected(16);
  score::reference::score(shape, widened(query, 0, 0, 10).data(), widened(key, 0, 0, 10).data(), 10, false, expected.data());
  expect_near(setup.finish(batch).data(), expected, "ten tokens");
  const score::StateView view = score::state_view(shape, setup.state_memory(), 0);
  for (int64_t h = 0; h < 2; ++h) {
    for (int64_t r = 0; r < 32; ++r) {
      for (int64_t c = 0; c < 16; ++c) {
        ASSERT_EQ(static_cast<float *>(view.window)[(h * 32 + r) * 16 + c], r < 22 ? 0.0f : query.get(0, h, r - 22, c));
      }
    }
  }
}

// Three sequences of different lengths in slots 4, 0, 2 of 5, as padded rows and as packed ones, every order of the axes, gaps between rows.
TEST_P(ScoreTest, RaggedBatchesStridesAndSlots) {
  const int32_t lengths[] = {1500, 7, 0, 1024}, slot[] = {4, 0, 3, 2};
  for (const char *order : {"bht", "bth", "thb", "htb"}) {
    for (bool packed : {false, true}) {
      const Shape shape = make_shape(2, 3, 40, 16, THINK_BF16);
      std::mt19937 random(4);
      const int64_t batch_rows = packed ? 1 : 4, tokens = packed ? 1500 + 7 + 1024 : 1600;
      Rows query(THINK_BF16, batch_rows, 6, tokens, 40, order, 3), key(THINK_F16, batch_rows, 2, tokens, 40, order, 5);
      const int32_t row_start[] = {0, 1500, 1507, 1507, 2531};
      for (int b = 0; b < 4; ++b) {
        fill(query, packed ? 0 : b, packed ? row_start[b] : 0, lengths[b], random);
        fill(key, packed ? 0 : b, packed ? row_start[b] : 0, lengths[b], random);
      }
      const Batch batch{4, packed ? nullptr : lengths, packed ? row_start : nullptr, slot};
      Store setup(shape, 5, 4, 1500);
      const int32_t all[] = {0, 1, 2, 3, 4};
      setup.reset({5, nullptr, nullptr, all});
      for (int slices : {1, 3}) {
        setup.reset(batch);
        setup.update(isa(), query.tensor, key.tensor, batch, kSerial, slices);
        const std::vector<float> actual = setup.finish(batch);
        for (int b = 0; b < 4; ++b) {
          std::vector<double> expected(2 * 40);
          const int64_t row = packed ? 0 : b, first = packed ? row_start[b] : 0;
          score::reference::score(shape, widened(query, row, first, lengths[b]).data(), widened(key, row, first, lengths[b]).data(), lengths[b],
                                  false, expected.data());
          expect_near(actual.data() + b * 80, expected, std::string(order) + (packed ? " packed" : " padded") + " sequence " + std::to_string(b));
          EXPECT_EQ(*score::state_view(shape, setup.state_memory(), slot[b]).tokens, lengths[b]);
        }
        const int32_t other[] = {1};
        for (float x : setup.finish({1, nullptr, nullptr, other})) ASSERT_EQ(x, 0) << "a slot outside the batch was written";
      }
    }
  }
}

TEST_P(ScoreTest, LargeHalvesDoNotOverflow) {
  const Shape shape = make_shape(1, 1, 16, 32, THINK_F16);
  Rows query(THINK_F16, 1, 1, 64, 16), key(THINK_F16, 1, 1, 64, 16);
  for (int t = 0; t < 64; ++t) {
    for (int c = 0; c < 16; ++c) {
      query.set(0, 0, t, c, c % 2 ? 300 : 20000);
      key.set(0, 0, t, c, c < 8 ? 256 : 60000);
    }
  }
  Batch batch{1, nullptr, nullptr, nullptr};
  Store setup(shape, 1, 1, 64);
  setup.reset(batch);
  setup.update(isa(), query.tensor, key.tensor, batch);
  std::vector<double> expected(16);
  score::reference::score(shape, widened(query, 0, 0, 64).data(), widened(key, 0, 0, 64).data(), 64, false, expected.data());
  for (double x : expected) ASSERT_TRUE(std::isfinite(x));
  expect_near(setup.finish(batch).data(), expected, "large halves");
}

TEST_P(ScoreTest, NotANumberCountsAsInfinity) {
  for (think_dtype dtype : kDtypes) {
    const Shape shape = make_shape(1, 2, 24, 8, dtype);
    std::mt19937 random(5);
    Rows query(dtype, 1, 2, 40, 24), key(dtype, 1, 1, 40, 24);
    fill(query, 0, 0, 40, random);
    fill(key, 0, 0, 40, random);
    set_not_finite(query, key);
    Batch batch{1, nullptr, nullptr, nullptr};
    Store setup(shape, 1, 1, 40);
    setup.reset(batch);
    setup.update(isa(), query.tensor, key.tensor, batch);
    const std::vector<float> actual = setup.finish(batch);
    expect_infinities(actual, setup.finish(batch, true));
  }
}

TEST_P(ScoreTest, SlicesAndThreadsGiveTheSameBits) {
  const int32_t lengths[] = {5000, 1, 2048, 0, 1025}, row_start[] = {0, 5000, 5001, 7049, 7049, 8074};
  const Shape shape = make_shape(3, 2, 64, 32, THINK_F32);
  std::mt19937 random(6);
  Rows query(THINK_F32, 1, 6, 8074, 64), key(THINK_F16, 1, 3, 8074, 64);
  for (int b = 0; b < 5; ++b) {
    fill(query, 0, row_start[b], lengths[b], random);
    fill(key, 0, row_start[b], lengths[b], random);
  }
  const Batch batch{5, nullptr, row_start, nullptr};
  std::vector<char> expected;
  for (int slices : {1, 2, 3, 7, 40}) {
    for (const Parallel &parallel : {kSerial, kThreaded}) {
      for (int repeat = 0; repeat < 4; ++repeat) {
        Store setup(shape, 5, 5, 5000);
        setup.reset(batch);
        setup.update(isa(), query.tensor, key.tensor, batch, parallel, slices);
        setup.update(isa(), query.part(100, 8074 - 1000), key.part(100, 8074 - 1000), {1, nullptr, nullptr, nullptr}, parallel, slices);
        const char *state = static_cast<const char *>(setup.state_memory());
        const std::vector<char> actual(state, state + 5 * score::state_bytes(shape));
        if (expected.empty()) expected = actual;
        ASSERT_TRUE(actual == expected) << slices << " slices, " << parallel.threads << " threads";
      }
    }
  }
}

TEST(ScoreValueTest, SumsWindowAndGroup) {
  for (think_dtype dtype : kDtypes) {
    const int32_t lengths[] = {16, 5, 0};
    Shape shape = make_shape(2, 3, 64, 16, THINK_F32);
    shape.value_channels = 40;
    std::mt19937 random(7);
    Rows attention(dtype, 3, 6, 16, 40, "bth", 2);
    for (int b = 0; b < 3; ++b) fill(attention, b, 0, lengths[b], random);
    std::vector<float> actual(3 * 2 * 40, -1);
    score::value_score(shape, attention.tensor, {3, lengths, nullptr, nullptr}, actual.data());
    for (int b = 0; b < 3; ++b) {
      std::vector<double> expected(2 * 40);
      score::reference::value_score(shape, widened(attention, b, 0, lengths[b]).data(), lengths[b], expected.data());
      expect_near(actual.data() + b * 80, expected, "sequence " + std::to_string(b));
    }
    attention.set(1, 4, 2, 7, kNaN);
    score::value_score(shape, attention.tensor, {3, lengths, nullptr, nullptr}, actual.data());
    EXPECT_TRUE(std::isinf(actual[80 + 40 + 7]));
    EXPECT_FALSE(std::isinf(actual[80 + 7]));
  }
}

TEST(ScoreStateTest, BlocksAreAlignedAndSlotsDoNotOverlap) {
  for (int32_t channels : {8, 64, 136}) {
    for (int32_t window : {1, 7, 32}) {
      for (think_dtype dtype : kDtypes) {
        const Shape shape = make_shape(3, 5, channels, window, dtype);
        std::vector<char> memory(64);
        const score::StateView a = score::state_view(shape, memory.data(), 2), b = score::state_view(shape, memory.data(), 3);
        const char *window_end = static_cast<char *>(a.window) + int64_t{15} * window * channels * dtype_bytes(dtype);
        EXPECT_EQ(score::state_bytes(shape) % 64, 0);
        EXPECT_LE(static_cast<void *>(a.square_sum + 3 * channels), a.window);
        EXPECT_LE(window_end, reinterpret_cast<char *>(a.tokens));
        EXPECT_LE(reinterpret_cast<char *>(a.tokens + 1), reinterpret_cast<char *>(b.square_sum));
        EXPECT_EQ((static_cast<char *>(a.window) - memory.data()) % 64, 0);
        EXPECT_EQ(reinterpret_cast<char *>(b.square_sum) - reinterpret_cast<char *>(a.square_sum), score::state_bytes(shape));
      }
    }
  }
}

}  // namespace
}  // namespace think
