// think_prune() through the C ABI, on the CPU and on a CUDA context whose device is the emulator: the same channels, and weights within their rounding.
// Some sequences are long enough, one has a basis that would cost more than it saves, one has nothing to move.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "kernels/common/element.h"
#include "memory_of_either.h"
#include "think.h"

namespace {

using think::test::MemoryOfEither;

// Heads and channels of the running case.
int32_t query_heads = 6, heads = 3, key_channels = 64, value_channels = 40;
think_dtype stored = THINK_F16;  // what the rows that move become
constexpr int32_t kBatch = 4, kSlots = 5, kTokens = 200, kPageTokens = 64, kPages = 20;
constexpr int32_t kPagesEach = 5;
constexpr int32_t kLengths[kBatch] = {200, 133, 70, 20}, kSlot[kBatch] = {2, 0, 4, 1};
// Numbers of the widest page.
int64_t key_page() { return int64_t{heads} * key_channels * kPageTokens; }
int64_t value_page() { return int64_t{heads} * value_channels * kPageTokens; }

struct Inputs {
  std::vector<uint16_t> query, key, value;

  Inputs() {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<uint16_t> &rows, int32_t count, int32_t channels) {
      rows.resize(static_cast<size_t>(kBatch) * count * kTokens * channels);
      float common = 0;
      for (size_t i = 0; i < rows.size(); ++i) {
        if (i % channels == 0) common = normal(random);
        const float size = 0.3f + static_cast<float>(i % channels * 7 % 11) / 4;
        rows[i] = think::f32_to_f16(0.5f + size * (normal(random) + common));
      }
    };
    fill(query, query_heads, key_channels);
    fill(key, heads, key_channels);
    fill(value, heads, value_channels);
  }
};

struct Basis {
  std::vector<int32_t> kept, index;
  std::vector<int64_t> weight_offset;
  std::vector<char> weight;
  std::vector<float> offset;
};

struct Outcome {
  Basis basis[2];
  std::vector<int64_t> key_offset, value_offset;
  std::vector<uint8_t> mask;
  std::vector<uint16_t> keys, values;
  std::vector<float> key_scale, value_scale;
};

#define OK(call) ASSERT_EQ(THINK_OK, call) << error.message << "; " << simt::machine().fault().text()

think_tensor tensor(void *data, int64_t count, int64_t channels, int64_t first, int64_t tokens) {
  return {sizeof(think_tensor), 0,           static_cast<uint16_t *>(data) + first * channels,           THINK_F16, 0,
          {kBatch, count, tokens, channels}, {count * kTokens * channels, kTokens * channels, channels, 1}};
}

think_problem problem_of() {
  think_problem problem = THINK_PROBLEM_INIT;
  problem.query_dtype = problem.cache_dtype = THINK_F16;
  problem.query_heads = query_heads;
  problem.kv_heads = heads;
  problem.key_channels = key_channels;
  problem.value_channels = value_channels;
  problem.max_batch = kBatch;
  problem.max_tokens = 256;
  return problem;
}

void run(think_device device, const Inputs &inputs, const think_prune_options &prune, Outcome &outcome) {
  think_error error = THINK_ERROR_INIT;
  think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
  options.device_type = device;
  think_context *context = nullptr;
  OK(think_context_create(&options, &context, &error));
  const think_problem problem = problem_of();
  think_plan *plan = nullptr;
  OK(think_plan_create(context, &problem, &plan, &error));
  MemoryOfEither memory(device == THINK_DEVICE_CUDA);

  int64_t bytes = 0, needed = 0;
  for (const int32_t stage : {THINK_STAGE_SCORE, THINK_STAGE_PRUNE}) {
    OK(think_workspace_size(plan, stage, nullptr, &needed, nullptr, &error));
    bytes = std::max(bytes, needed);
  }
  think_launch launch = THINK_LAUNCH_INIT;
  launch.workspace = memory.take<char>(static_cast<size_t>(bytes));
  launch.workspace_bytes = bytes;
  if (device == THINK_DEVICE_CPU) std::memset(launch.workspace, 0, static_cast<size_t>(bytes));  // the counters of a score
  think_batch batch = THINK_BATCH_INIT;
  batch.count = kBatch;
  batch.slot = memory.make(std::vector<int32_t>(kSlot, kSlot + kBatch));
  int32_t *lengths = memory.make(std::vector<int32_t>(kLengths, kLengths + kBatch));

  OK(think_score_state_size(plan, kSlots, &bytes, &error));
  void *state = memory.take<char>(static_cast<size_t>(bytes));
  uint16_t *query = memory.make(inputs.query), *key = memory.make(inputs.key), *value = memory.make(inputs.value);
  OK(think_score_reset(plan, state, &batch, &launch, &error));
  const think_tensor queries = tensor(query, query_heads, key_channels, 0, kTokens), keys = tensor(key, heads, key_channels, 0, kTokens);
  batch.lengths = lengths;
  OK(think_score_update(plan, &queries, &keys, &batch, state, &launch, &error));
  batch.lengths = nullptr;

  think_basis basis[2] = {THINK_BASIS_INIT, THINK_BASIS_INIT};
  for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
    OK(think_basis_size(plan, side, kSlots, &bytes, nullptr, &error));
    OK(think_basis_bind(plan, side, kSlots, memory.make(std::vector<char>(static_cast<size_t>(bytes), 0x77)), bytes, &basis[side], &error));
  }

  think_segment rows = THINK_SEGMENT_INIT, tiles = THINK_SEGMENT_INIT;
  rows.key = key, rows.value = value;
  rows.key_dtype = rows.value_dtype = THINK_F16;
  tiles.key_dtype = tiles.value_dtype = stored;
  tiles.key_scale = memory.make(std::vector<float>(kSlots * heads, 0.3f));
  tiles.value_scale = memory.make(std::vector<float>(kSlots * heads, 0.3f));
  rows.key_stride[1] = kTokens * key_channels * 2, rows.key_stride[0] = heads * rows.key_stride[1];
  rows.value_stride[1] = kTokens * value_channels * 2, rows.value_stride[0] = heads * rows.value_stride[1];
  rows.page_tokens = kTokens;
  rows.lengths = lengths;
  rows.lengths_stride[0] = 1;
  rows.slot = memory.make(std::vector<int32_t>{0, 1, 2, 3});
  // Whole tiles into pages in any order, behind tiles that an earlier prune has left.
  std::vector<int32_t> pages(kBatch * kPagesEach);
  for (int32_t i = 0; i < kBatch * kPagesEach; ++i) pages[i] = (i * 7 + 3) % kPages;
  tiles.key_layout = THINK_TILES;
  if (stored != THINK_F16) tiles.value_layout = THINK_TILES;
  tiles.key = memory.make(std::vector<uint16_t>(kPages * key_page(), 0x7e00));
  tiles.value = memory.make(std::vector<uint16_t>(kPages * value_page(), 0x7e00));
  tiles.key_stride[0] = key_page() * 2;
  tiles.value_stride[0] = value_page() * 2;
  tiles.page_tokens = kPageTokens;
  tiles.pages = memory.make(pages);
  tiles.pages_stride = kPagesEach;
  tiles.first = memory.make(std::vector<int32_t>{0, 32, 64, 0});
  tiles.lengths = lengths;  // not read
  tiles.lengths_stride[0] = 1;
  tiles.key_basis = &basis[THINK_KEYS];
  tiles.value_basis = &basis[THINK_VALUES];
  tiles.key_head_offset = memory.make(std::vector<int64_t>(kSlots * heads, -1));
  tiles.value_head_offset = memory.make(std::vector<int64_t>(kSlots * heads, -1));
  uint8_t *mask = memory.take<uint8_t>(kBatch * heads * key_channels);
  OK(think_prune(plan, state, &rows, &tiles, &batch, &prune, mask, &launch, &error));

  for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
    const size_t channels = static_cast<size_t>(basis[side].channels);
    outcome.basis[side] = {memory.fetch(basis[side].kept, kSlots * heads), memory.fetch(basis[side].index, kSlots * heads * channels),
                           memory.fetch(basis[side].weight_offset, kSlots * heads),
                           memory.fetch(static_cast<char *>(basis[side].weight), static_cast<size_t>(basis[side].weight_bytes)),
                           memory.fetch(basis[side].offset, kSlots * heads * channels)};
  }
  outcome.key_offset = memory.fetch(tiles.key_head_offset, kSlots * heads);
  outcome.value_offset = memory.fetch(tiles.value_head_offset, kSlots * heads);
  outcome.mask = memory.fetch(mask, kBatch * heads * key_channels);
  outcome.key_scale = memory.fetch(tiles.key_scale, kSlots * heads);
  outcome.value_scale = memory.fetch(tiles.value_scale, kSlots * heads);
  outcome.keys = memory.fetch(static_cast<uint16_t *>(tiles.key), kPages * key_page());
  outcome.values = memory.fetch(static_cast<uint16_t *>(tiles.value), kPages * value_page());
  think_plan_destroy(plan);
  think_context_destroy(context);
}

void compare_weights(const Basis &want, const Basis &got, int32_t channels) {
  ASSERT_EQ(want.weight_offset, got.weight_offset);
  for (const int32_t slot : kSlot) {
    for (int32_t head = slot * heads; head < (slot + 1) * heads; ++head) {
      if (want.weight_offset[head] < 0) continue;
      const int32_t kept = want.kept[head], stride = (kept + 7) / 8 * 8;
      const auto number = [&](const Basis &basis, int32_t at) {
        uint16_t bits;
        std::memcpy(&bits, basis.weight.data() + basis.weight_offset[head] + 2 * at, 2);
        return think::f16_to_f32(bits);
      };
      for (int32_t i = 0; i < (channels - kept) * stride; ++i) {
        ASSERT_NEAR(number(want, i), number(got, i), 2e-3 * std::fabs(number(want, i)) + 3e-4) << "head " << head << " weight " << i;
      }
      for (int32_t p = kept; p < channels; ++p) {
        ASSERT_NEAR(want.offset[head * channels + p], got.offset[head * channels + p], 2e-3 * (1 + std::fabs(want.offset[head * channels + p])));
      }
    }
  }
}

class PruneOnDevice : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    ASSERT_TRUE(dlopen(EMULATED_DRIVER, RTLD_NOW | RTLD_GLOBAL)) << dlerror();
    setenv("THINK_BACKEND_PATH", EMULATED_BACKEND, 1);
  }

  void check(const think_prune_options &prune, uint64_t seed) {
    simt::machine().reset();
    simt::machine().options = {.seed = seed};
    const Inputs inputs;
    run(THINK_DEVICE_CUDA, inputs, prune, device_);
    if (HasFatalFailure()) return;
    run(THINK_DEVICE_CPU, inputs, prune, cpu_);
    if (HasFatalFailure()) return;
    EXPECT_EQ(cpu_.mask, device_.mask);
    for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
      SCOPED_TRACE(side == THINK_KEYS ? "keys" : "values");
      EXPECT_EQ(cpu_.basis[side].kept, device_.basis[side].kept);
      EXPECT_EQ(cpu_.basis[side].index, device_.basis[side].index);
      compare_weights(cpu_.basis[side], device_.basis[side], side == THINK_KEYS ? key_channels : value_channels);
    }
    EXPECT_EQ(cpu_.key_offset, device_.key_offset);
    EXPECT_EQ(cpu_.value_offset, device_.value_offset);
    EXPECT_EQ(cpu_.keys, device_.keys);
    EXPECT_EQ(cpu_.values, device_.values);
    EXPECT_EQ(cpu_.key_scale, device_.key_scale);
    EXPECT_EQ(cpu_.value_scale, device_.value_scale);
  }

  int32_t kept(int32_t side, int32_t sequence) const { return device_.basis[side].kept[kSlot[sequence] * heads]; }

  Outcome device_, cpu_;
};

TEST_F(PruneOnDevice, KeysByTheDefaults) {
  check(THINK_PRUNE_OPTIONS_INIT, 1);
  // 32 rows cost more with a basis than without, and 20 tokens have no rows to move: both keep all.
  EXPECT_LT(*std::min_element(device_.basis[0].kept.begin() + 2 * heads, device_.basis[0].kept.begin() + 3 * heads), key_channels);
  for (const int32_t sequence : {2, 3}) EXPECT_EQ(key_channels, kept(THINK_KEYS, sequence));
  for (int32_t sequence = 0; sequence < kBatch; ++sequence) EXPECT_EQ(value_channels, kept(THINK_VALUES, sequence));
}

TEST_F(PruneOnDevice, KeysAndValuesWhateverTheyCost) {
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  prune.key_kept = 20;
  prune.value_kept = 24;
  prune.dense_limit = -1;
  prune.sinks = 3;
  prune.recent = 10;
  check(prune, 2);
  EXPECT_EQ(key_channels, kept(THINK_KEYS, 3)) << "no rows to move";
}

TEST_F(PruneOnDevice, UniformWidths) {
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  prune.budget = THINK_BUDGET_UNIFORM;
  prune.key_kept = 27;
  prune.value_kept = 17;
  check(prune, 3);
  EXPECT_EQ(27, kept(THINK_KEYS, 0));
  EXPECT_EQ(24, kept(THINK_VALUES, 0));
}

TEST_F(PruneOnDevice, ValuesOnly) {
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  prune.key_kept = -1;
  prune.value_kept = 16;
  prune.attention_share = -1;
  check(prune, 4);
  EXPECT_EQ(key_channels, kept(THINK_KEYS, 0));
}

TEST_F(PruneOnDevice, ThePapersMethod) {
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  prune.mode = THINK_MODE_CHANNELS;
  prune.key_kept = 39;
  check(prune, 5);
  EXPECT_EQ(39, kept(THINK_KEYS, 0));
  for (const simt::LaunchRecord &launch : simt::machine().launches()) EXPECT_NE("fit_head", launch.kernel);
}

// Its score of values: the attention of the window's queries, which lie in the slots of the score state.
TEST_F(PruneOnDevice, ThePapersMethodForValues) {
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  prune.mode = THINK_MODE_CHANNELS;
  prune.key_kept = 39;
  prune.value_kept = 16;
  prune.dense_limit = -1;
  check(prune, 8);
  EXPECT_EQ(16, kept(THINK_VALUES, 0));
  EXPECT_EQ(value_channels, kept(THINK_VALUES, 3)) << "no rows to move";
  std::vector<std::string> kernels;
  for (const simt::LaunchRecord &launch : simt::machine().launches()) kernels.push_back(launch.kernel);
  const std::vector<std::string> stages = {"prune_plan",     "score_finish",  "select_channels", "prune_keep_all",
                                           "attend_prepare", "attend_decode", "score_values",    "select_channels", "prune_keep_all"};
  EXPECT_NE(std::search(kernels.begin(), kernels.end(), stages.begin(), stages.end()), kernels.end()) << testing::PrintToString(kernels);
}

// Scales of F8 are found in what moves, on either; a slot of no sequence keeps its own.
TEST_F(PruneOnDevice, IntoCodes) {
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  prune.value_kept = 24;
  for (const think_dtype dtype : {THINK_U2, THINK_F8_E4M3}) {
    stored = dtype;
    check(prune, 10);
    EXPECT_EQ(0.3f, device_.key_scale[3 * heads]);
    if (dtype == THINK_F8_E4M3) EXPECT_NE(0.3f, device_.key_scale[kSlot[0] * heads]);
  }
  stored = THINK_F16;
}

// Each sequence is a wave of its own here.
TEST_F(PruneOnDevice, MoreHeadsThanAWave) {
  query_heads = heads = 33, key_channels = 16, value_channels = 16;
  think_prune_options by_attention = THINK_PRUNE_OPTIONS_INIT;
  by_attention.mode = THINK_MODE_CHANNELS;
  by_attention.value_kept = 8;
  by_attention.dense_limit = -1;
  check(by_attention, 9);
  value_channels = 8;
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  prune.key_kept = 10;
  prune.dense_limit = -1;
  check(prune, 7);
  EXPECT_GT(std::count_if(simt::machine().launches().begin(), simt::machine().launches().end(), [](const auto &launch) { return launch.kernel == "fit_head"; }),
            3);
  query_heads = 6, heads = 3, key_channels = 64, value_channels = 40;
}

TEST_F(PruneOnDevice, RunsEveryStageOnTheDevice) {
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  prune.value_kept = 24;
  check(prune, 6);
  std::vector<std::string> kernels;
  for (const simt::LaunchRecord &launch : simt::machine().launches()) kernels.push_back(launch.kernel);
  const std::vector<std::string> stages = {
      "prune_plan",       "moments_queries", "moments_scan_mma", "moments_join",   "moments_mass_mma", "moments_mean",
      "moments_covariance", "moments_finish",  "score_finish",     "moments_gains",  "select_worth",     "select_grant",
      "select_channels",  "fit_head",        "prune_keep_all",   "moments_gains",  "prune_rank",       "select_worth",
      "select_grant",     "select_channels", "fit_head",         "prune_keep_all", "compact_place",    "compact_place"};
  const auto at = std::search(kernels.begin(), kernels.end(), stages.begin(), stages.end());
  EXPECT_NE(at, kernels.end()) << testing::PrintToString(kernels);
}

}  // namespace
