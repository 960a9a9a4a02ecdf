// The managed cache on a device against the one on the CPU: the same calls, the same tokens, pages and bases, and attention that agrees.
#include "cache_flow.h"

namespace think::gpu_test {
namespace {

constexpr double kOutput = 4e-3;  // 16-bit products against the CPU's f32, of outputs about 1

// `most`: the share of numbers that may be farther away.
void expect_close(const std::vector<float> &expected, const std::vector<float> &found, double tolerance, double most, const char *what) {
  ASSERT_EQ(expected.size(), found.size()) << what;
  size_t far = 0;
  for (size_t i = 0; i < found.size(); ++i) far += !(std::fabs(expected[i] - found[i]) <= tolerance * (1 + std::fabs(expected[i])));
  EXPECT_LE(static_cast<double>(far), most * static_cast<double>(found.size())) << what;
}

// Blocks fold as soon as they are older than the recent rows.
CacheSettings folding() {
  CacheSettings settings;
  settings.options.fold = THINK_FOLD_BLOCK;
  settings.options.rollback = -1;
  return settings;
}

// What a sequence holds is the same wherever it is.
void expect_same_usage(const CacheFlow &host, const CacheFlow &device) {
  for (int32_t sequence = 0; sequence < CacheFlow::kSequences; ++sequence) {
    const think_cache_info expected = host.usage(sequence), found = device.usage(sequence);
    EXPECT_EQ(expected.tokens, found.tokens);
    EXPECT_EQ(expected.compact_tokens, found.compact_tokens);
    EXPECT_EQ(expected.evicted_tokens, found.evicted_tokens);
    EXPECT_EQ(expected.page_bytes, found.page_bytes);
    EXPECT_EQ(expected.basis_bytes, found.basis_bytes);
    EXPECT_EQ(expected.score_bytes, found.score_bytes);
    EXPECT_EQ(expected.runs, found.runs);
  }
  const think_cache_info all = device.usage(-1);
  EXPECT_EQ(all.allocated_bytes, all.page_bytes + all.basis_bytes + all.score_bytes + all.table_bytes + all.spare_bytes);
  EXPECT_GE(all.allocated_bytes, device.slab_bytes());
  EXPECT_GE(all.spare_bytes, 0);
  EXPECT_GE(all.table_bytes, 0);
}

struct Pair {
  CacheFlow host, device;
  double pruned_share = 0.005;  // of numbers that may be another after a prune
  Pair(const cli::Driver &driver, const CacheSettings &settings) : host(nullptr, settings), device(&driver, settings) {}
  template <class Call>
  void both(const Call &call) {
    call(host);
    call(device);
  }
  void step(const std::vector<int32_t> &sequences, const std::vector<int32_t> &counts, bool packed = false) {
    both([&](CacheFlow &flow) { flow.step(sequences, counts, packed); });
    expect_close(host.output(), device.output(), kOutput, 0, "attention");
  }
  // Of many more rows than channels: a fit to hardly more says how its sums were rounded. What the device has made of a sequence goes on in both, or all
  // that follows would be measured against it.
  void prune(const std::vector<int32_t> &sequences) {
    both([&](CacheFlow &flow) { flow.prune(sequences); });
    for (const int32_t sequence : sequences) {
      expect_close(host.exported(sequence), device.exported(sequence), 2e-2, pruned_share, "pruned rows");
      adopt(sequence);
      expect_same(sequence);
    }
    expect_same_usage(host, device);
  }
  void adopt(int32_t sequence) {
    think_error error = THINK_ERROR_INIT;
    THINK_OK_OR_SKIP(think_cache_drop, host.cache(), sequence);
    ASSERT_EQ(THINK_OK, host.try_load(sequence, device.saved(sequence), &error)) << error.message;
  }
  void expect_same(int32_t sequence) { expect_close(host.exported(sequence), device.exported(sequence), 2e-5, 0, "rows"); }
};

class OnDevice : public ::testing::Test {
 protected:
  // A sequence of 150 tokens, one of 130 and one that comes later; the first two are pruned.
  static void fill(Pair &pair) {
    pair.step({0, 1}, {100, 130});
    pair.step({2, 0}, {33, 50}, true);
    pair.prune({0, 1});
    pair.expect_same(2);
  }
};

TEST_F(OnDevice, PrunesAndFoldsAsTheCpu) {
  THINK_NEED_DEVICE();
  const cli::Driver driver(0);
  run_or_skip([&] {
    CacheSettings settings = folding();
    Pair pair(driver, settings);
    fill(pair);
    const int64_t compact = pair.device.usage(0).compact_tokens;
    EXPECT_GT(compact, 0);
    for (int step = 0; step < 4; ++step) pair.step({0, 1, 2}, {13, 1, 17}, step % 2 == 1);
    EXPECT_GT(pair.device.usage(0).compact_tokens, compact);
    pair.prune({2});
    pair.step({1, 2}, {64, 1});
    pair.step({0, 1, 2}, {1, 1, 1});
    expect_same_usage(pair.host, pair.device);
    for (const int32_t sequence : {0, 1, 2}) pair.expect_same(sequence);
  });
}

TEST_F(OnDevice, RefitsAndKeepsSinksOfAnyNumber) {
  THINK_NEED_DEVICE();
  const cli::Driver driver(0);
  run_or_skip([&] {
    for (const int32_t sinks : {-1, 32, 40}) {
      CacheSettings settings = folding();
      settings.options.refit = 2;
      settings.prune.sinks = sinks;
      Pair pair(driver, settings);
      pair.step({0}, {150});
      pair.prune({0});
      for (int step = 0; step < 3; ++step) {
        pair.both([](CacheFlow &flow) { flow.begin({0, 1}, {70, 5}); });
        pair.both([](CacheFlow &flow) { flow.append_calls(); });
        expect_close(pair.host.exported(0), pair.device.exported(0), 2e-2, pair.pruned_share, "rows of another fit");
        expect_same_usage(pair.host, pair.device);
        pair.adopt(0);
      }
      EXPECT_GT(pair.device.usage(0).runs, 1);
    }
  });
}

TEST_F(OnDevice, StoresCodesAndThePapersMode) {
  THINK_NEED_DEVICE();
  const cli::Driver driver(0);
  run_or_skip([&] {
    for (const auto &[key, value] : {std::pair{THINK_F16, THINK_F16}, {THINK_U4, THINK_U8}, {THINK_F8_E4M3, THINK_U2}, {THINK_U2, THINK_F8_E4M3}}) {
      CacheSettings settings = folding();
      settings.format.key_layout = THINK_TILES;
      settings.format.key_dtype = key;
      settings.format.value_dtype = value;
      if (value != THINK_F16) settings.format.value_layout = THINK_TILES;
      if (key == THINK_F16) settings.prune.mode = THINK_MODE_CHANNELS;
      SCOPED_TRACE(key);
      Pair pair(driver, settings);
      if (key == THINK_U2 || value == THINK_U2) pair.pruned_share = 0.05;  // predictions from codes of 2 bits
      fill(pair);
      pair.step({0, 1, 2}, {40, 1, 2});
      pair.step({0, 1, 2}, {1, 1, 1});
      expect_same_usage(pair.host, pair.device);
    }
  });
}

TEST_F(OnDevice, PrunesOneSideAlone) {
  THINK_NEED_DEVICE();
  const cli::Driver driver(0);
  run_or_skip([&] {
    for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
      CacheSettings settings = folding();
      (side == THINK_KEYS ? settings.prune.value_kept : settings.prune.key_kept) = CacheFlow::kChannels;
      Pair pair(driver, settings);
      pair.step({0, 1}, {150, 140});
      pair.prune({0, 1});
      EXPECT_EQ(CacheFlow::kHeads * CacheFlow::kChannels, side == THINK_KEYS ? pair.device.usage(0).value_channels : pair.device.usage(0).key_channels);
      pair.step({1, 0}, {60, 1});
      pair.step({0, 1}, {1, 1});
      pair.expect_same(1);
    }
  });
}

TEST_F(OnDevice, ForksTrimsAndForgets) {
  THINK_NEED_DEVICE();
  const cli::Driver driver(0);
  run_or_skip([&] {
    CacheSettings settings;
    settings.options.flags = THINK_CACHE_KEEP_SCORES;
    Pair pair(driver, settings);
    fill(pair);
    // The fork shares pages, bases and scores until one of the two goes on.
    const think_cache_info before = pair.device.usage(-1);
    pair.both([](CacheFlow &flow) { THINK_OK_OR_SKIP(think_cache_fork, flow.cache(), 0, 3); });
    EXPECT_EQ(before.spare_bytes, pair.device.usage(-1).spare_bytes);
    pair.step({0, 3}, {9, 140});
    EXPECT_GT(pair.device.usage(-1).score_bytes, before.score_bytes);
    pair.both([](CacheFlow &flow) {
      THINK_OK_OR_SKIP(think_cache_trim, flow.cache(), 3, flow.usage(3).tokens - 20);
    });
    pair.prune({0, 3});
    pair.step({0, 3, 2}, {3, 1, 2});
    for (const int32_t sequence : {0, 3}) pair.expect_same(sequence);
    expect_same_usage(pair.host, pair.device);
    pair.both([](CacheFlow &flow) { THINK_OK_OR_SKIP(think_cache_drop, flow.cache(), 0); });
    pair.step({3, 2}, {1, 1});
    pair.both([](CacheFlow &flow) { THINK_OK_OR_SKIP(think_cache_reset, flow.cache()); });
    const think_cache_info empty = pair.device.usage(-1);
    EXPECT_EQ(0, empty.page_bytes + empty.basis_bytes + empty.score_bytes);
  });
}

TEST_F(OnDevice, EvictsAsTheCpu) {
  THINK_NEED_DEVICE();
  const cli::Driver driver(0);
  run_or_skip([&] {
    for (const int32_t method : {THINK_EVICT_SNAPKV, THINK_EVICT_RECENT, THINK_EVICT_TOVA}) {
      Pair pair(driver, {});
      pair.step({0, 1}, {150, 90});
      pair.both([&](CacheFlow &flow) {
        THINK_OK_OR_SKIP(think_cache_fork, flow.cache(), 0, 3);
        think_evict_options options = THINK_EVICT_OPTIONS_INIT;
        options.method = method;
        options.budget = 100;
        const int32_t sequences[] = {0, 1};
        THINK_OK_OR_SKIP(think_cache_evict, flow.cache(), sequences, 2, &options, nullptr, nullptr, flow.launch());
      });
      EXPECT_EQ(100, pair.device.usage(0).tokens);
      for (const int32_t sequence : {0, 1, 3}) pair.expect_same(sequence);
      pair.prune({0, 3});
      pair.step({0, 1, 3}, {1, 1, 1});
      expect_same_usage(pair.host, pair.device);
      for (const int32_t sequence : {0, 3}) pair.expect_same(sequence);
    }
  });
}

TEST_F(OnDevice, KeepsTheRowsOfALists) {
  THINK_NEED_DEVICE();
  const cli::Driver driver(0);
  run_or_skip([&] {
    Pair pair(driver, {});
    pair.step({0, 1}, {160, 90});
    constexpr int32_t rows = 127;
    std::vector<int32_t> kept;
    for (int32_t list = 0; list < CacheFlow::kLayers * CacheFlow::kHeads; ++list) {
      for (int32_t row = 0; row < rows; ++row) kept.push_back(row < 10 + list ? row : 160 - rows + row);
    }
    pair.both([&](CacheFlow &flow) { THINK_OK_OR_SKIP(think_cache_keep, flow.cache(), 0, kept.data(), rows); });
    pair.expect_same(0);
    pair.prune({0});
    pair.step({0, 1}, {5, 1});
    pair.expect_same(0);
    expect_same_usage(pair.host, pair.device);
  });
}

// A file is the same whichever cache it comes from, and goes into either.
TEST_F(OnDevice, SavesAndLoads) {
  THINK_NEED_DEVICE();
  const cli::Driver driver(0);
  run_or_skip([&] {
    CacheSettings settings;
    settings.options.flags = THINK_CACHE_KEEP_SCORES;
    settings.options.fold = THINK_FOLD_BLOCK;
    Pair pair(driver, settings);
    fill(pair);
    pair.step({0, 1, 2}, {40, 3, 1});
    const std::vector<char> pruned = pair.device.saved(0), dense = pair.device.saved(2);
    EXPECT_EQ(pair.host.saved(2).size(), dense.size());
    think_error error = THINK_ERROR_INIT;
    ASSERT_EQ(THINK_OK, pair.host.try_load(3, pruned, &error)) << error.message;
    EXPECT_EQ(pruned, pair.host.saved(3));
    ASSERT_EQ(THINK_OK, pair.device.try_load(3, pruned, &error)) << error.message;
    EXPECT_EQ(pruned, pair.device.saved(3));
    EXPECT_EQ(pair.device.exported(0), pair.device.exported(3));
    std::vector<char> damaged = pruned;
    damaged[damaged.size() / 2] = static_cast<char>(damaged[damaged.size() / 2] ^ 1);
    pair.both([](CacheFlow &flow) { THINK_OK_OR_SKIP(think_cache_drop, flow.cache(), 1); });
    const think_cache_info before = pair.device.usage(-1);
    EXPECT_EQ(THINK_E_FORMAT, pair.device.try_load(1, damaged, &error));
    EXPECT_EQ(before.spare_bytes, pair.device.usage(-1).spare_bytes);
    pair.step({0, 3}, {1, 1});
  });
}

TEST_F(OnDevice, AGraphIsReplayedWhileSequencesGrowAndFold) {
  THINK_NEED_DEVICE();
  const cli::Driver driver(0);
  run_or_skip([&] {
    CacheSettings settings = folding();
    CacheFlow called(&driver, settings), captured(&driver, settings);
    for (CacheFlow *flow : {&called, &captured}) {
      flow->step({0, 1}, {100, 150});
      flow->step({2, 0}, {130, 40}, true);
      flow->prune({0, 1, 2});
    }
    int64_t id = 0;
    think_error error = THINK_ERROR_INIT;
    EXPECT_EQ(THINK_E_STATE, think_cache_graph_id(captured.cache(), &id, &error));
    captured.begin({0, 1, 2}, {1, 1, 1});
    THINK_OK_OR_SKIP(think_cache_graph_id, captured.cache(), &id);
    driver.begin_capture();
    try {
      captured.append_calls();
      captured.attend_calls();
    } catch (...) {
      const cli::Driver::Graph unused(driver);
      throw;
    }
    const cli::Driver::Graph graph(driver);
    graph.launch();
    called.step({0, 1, 2}, {1, 1, 1});
    EXPECT_EQ(called.output(), captured.output());
    const int64_t compact = captured.usage(0).compact_tokens + captured.usage(1).compact_tokens;
    for (int step = 0; step < 40; ++step) {
      // In another order and with one sequence fewer that gets a token: tables of the same shape.
      const std::vector<int32_t> sequences = step % 3 ? std::vector<int32_t>{0, 1, 2} : std::vector<int32_t>{2, 0, 1};
      const std::vector<int32_t> counts = {1, step % 5 == 4 ? 0 : 1, 1};
      called.step(sequences, counts);
      captured.begin(sequences, counts);
      EXPECT_EQ(THINK_E_ARGUMENT, think_cache_replayed(captured.cache(), id + 1, &error));
      graph.launch();
      THINK_OK_OR_SKIP(think_cache_replayed, captured.cache(), id);
      EXPECT_EQ(THINK_E_STATE, think_cache_replayed(captured.cache(), id, &error));
      ASSERT_EQ(called.output(), captured.output()) << step;
    }
    EXPECT_GT(captured.usage(0).compact_tokens + captured.usage(1).compact_tokens, compact);
    for (const int32_t sequence : {0, 1, 2}) EXPECT_EQ(called.exported(sequence), captured.exported(sequence));
    // Packed rows of a graph must have room for those of every step of its number.
    captured.begin({0, 1, 2}, {4, 1, 1}, true);
    driver.begin_capture();
    EXPECT_THROW(captured.append_calls(), std::runtime_error);
    {
      const cli::Driver::Graph unused(driver);
    }
    captured.append_calls();  // no capture, no such rule
    // What a graph depends on has another number.
    int64_t other = 0;
    captured.begin({0, 1}, {1, 1});
    THINK_OK_OR_SKIP(think_cache_graph_id, captured.cache(), &other);
    EXPECT_NE(id, other);
    captured.append_calls();
    captured.begin({0, 1, 3}, {1, 1, 1});  // a sequence that keeps scores
    THINK_OK_OR_SKIP(think_cache_graph_id, captured.cache(), &other);
    EXPECT_NE(id, other);
    EXPECT_EQ(THINK_E_ARGUMENT, think_cache_replayed(captured.cache(), id, &error));
  });
}

// A slab holds what it was asked for, says when it is full without harm, and its memory serves pages of any kind again and again.
TEST_F(OnDevice, FillsItsSlab) {
  THINK_NEED_DEVICE();
  const cli::Driver driver(0);
  run_or_skip([&] {
    CacheSettings settings;
    settings.dense_tokens = 3 * 160;
    settings.compact_tokens = 96;
    CacheFlow flow(&driver, settings);
    std::vector<float> rows;
    for (int round = 0; round < 2; ++round) {
      flow.step({0, 1, 2}, {160, 160, 160});
      const think_cache_info full = flow.usage(-1);
      think_error error = THINK_ERROR_INIT;
      std::vector<int32_t> counts = {160, 100, 160};
      EXPECT_EQ(THINK_E_MEMORY, flow.try_step({0, 1, 2}, counts, &error));
      EXPECT_NE(nullptr, std::strstr(error.message, "slab")) << error.message;
      EXPECT_EQ(full.spare_bytes, flow.usage(-1).spare_bytes);
      EXPECT_EQ(480, flow.usage(-1).tokens);
      flow.prune({static_cast<int32_t>(round % 3)});
      EXPECT_EQ(96, flow.usage(round % 3).compact_tokens);
      flow.step({0, 1, 2}, {1, 1, 1});
      THINK_OK_OR_SKIP(think_cache_reset, flow.cache());
    }
    // Sequences that begin one after the other take no more.
    for (int32_t sequence = 0; sequence < 3; ++sequence) {
      for (int part = 0; part < 5; ++part) flow.step({sequence}, {32});
    }
    EXPECT_EQ(480, flow.usage(-1).tokens);
    think_cache_options options = THINK_CACHE_OPTIONS_INIT;
    options.slab = flow.bench().make(4096);
    options.slab_bytes = 4096;
    think_cache *cache = nullptr;
    think_error error = THINK_ERROR_INIT;
    EXPECT_EQ(THINK_E_ARGUMENT, think_cache_create(flow.bench(), &options, &cache, &error));
    EXPECT_NE(nullptr, std::strstr(error.message, "slab_bytes")) << error.message;
    options.slab = nullptr;
    EXPECT_EQ(THINK_E_ARGUMENT, think_cache_create(flow.bench(), &options, &cache, &error));
    EXPECT_EQ(nullptr, cache);
  });
}

}  // namespace
}  // namespace think::gpu_test
