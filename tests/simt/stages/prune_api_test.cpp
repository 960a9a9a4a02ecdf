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

constexpr int32_t kQueryHeads = 6, kHeads = 3, kKeyChannels = 64, kValueChannels = 40, kBatch = 4, kSlots = 5, kTokens = 200, kPageTokens = 64, kPages = 20;
constexpr int32_t kPagesEach = 5;
constexpr int32_t kLengths[kBatch] = {200, 133, 70, 20}, kSlot[kBatch] = {2, 0, 4, 1};
constexpr int64_t kKeyPage = kHeads * kKeyChannels * kPageTokens, kValuePage = kHeads * kValueChannels * kPageTokens;  // numbers of the widest

struct Inputs {
  std::vector<uint16_t> query, key, value;

  Inputs() {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<uint16_t> &rows, int32_t heads, int32_t channels) {
      rows.resize(static_cast<size_t>(kBatch) * heads * kTokens * channels);
      float common = 0;
      for (size_t i = 0; i < rows.size(); ++i) {
        if (i % channels == 0) common = normal(random);
        const float size = 0.3f + static_cast<float>(i % channels * 7 % 11) / 4;
        rows[i] = think::f32_to_f16(0.5f + size * (normal(random) + common));
      }
    };
    fill(query, kQueryHeads, kKeyChannels);
    fill(key, kHeads, kKeyChannels);
    fill(value, kHeads, kValueChannels);
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
};

#define OK(call) ASSERT_EQ(THINK_OK, call) << error.message << "; " << simt::machine().fault().text()

think_tensor tensor(void *data, int64_t heads, int64_t channels, int64_t first, int64_t tokens) {
  return {sizeof(think_tensor), 0,           static_cast<uint16_t *>(data) + first * channels,           THINK_F16, 0,
          {kBatch, heads, tokens, channels}, {heads * kTokens * channels, kTokens * channels, channels, 1}};
}

think_problem problem_of() {
  think_problem problem = THINK_PROBLEM_INIT;
  problem.query_dtype = problem.cache_dtype = THINK_F16;
  problem.query_heads = kQueryHeads;
  problem.kv_heads = kHeads;
  problem.key_channels = kKeyChannels;
  problem.value_channels = kValueChannels;
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
  const think_tensor queries = tensor(query, kQueryHeads, kKeyChannels, 0, kTokens), keys = tensor(key, kHeads, kKeyChannels, 0, kTokens);
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
  rows.key_dtype = rows.value_dtype = tiles.key_dtype = tiles.value_dtype = THINK_F16;
  rows.key_stride[1] = kTokens * kKeyChannels * 2, rows.key_stride[0] = kHeads * rows.key_stride[1];
  rows.value_stride[1] = kTokens * kValueChannels * 2, rows.value_stride[0] = kHeads * rows.value_stride[1];
  rows.page_tokens = kTokens;
  rows.lengths = lengths;
  rows.lengths_stride[0] = 1;
  rows.slot = memory.make(std::vector<int32_t>{0, 1, 2, 3});
  // Whole tiles into pages in any order, behind tiles that an earlier prune has left.
  std::vector<int32_t> pages(kBatch * kPagesEach);
  for (int32_t i = 0; i < kBatch * kPagesEach; ++i) pages[i] = (i * 7 + 3) % kPages;
  tiles.key_layout = THINK_TILES;
  tiles.key = memory.make(std::vector<uint16_t>(kPages * kKeyPage, 0x7e00));
  tiles.value = memory.make(std::vector<uint16_t>(kPages * kValuePage, 0x7e00));
  tiles.key_stride[0] = kKeyPage * 2;
  tiles.value_stride[0] = kValuePage * 2;
  tiles.page_tokens = kPageTokens;
  tiles.pages = memory.make(pages);
  tiles.pages_stride = kPagesEach;
  tiles.first = memory.make(std::vector<int32_t>{0, 32, 64, 0});
  tiles.lengths = lengths;  // not read
  tiles.lengths_stride[0] = 1;
  tiles.key_basis = &basis[THINK_KEYS];
  tiles.value_basis = &basis[THINK_VALUES];
  tiles.key_head_offset = memory.make(std::vector<int64_t>(kSlots * kHeads, -1));
  tiles.value_head_offset = memory.make(std::vector<int64_t>(kSlots * kHeads, -1));
  uint8_t *mask = memory.take<uint8_t>(kBatch * kHeads * kKeyChannels);
  OK(think_prune(plan, state, &rows, &tiles, &batch, &prune, mask, &launch, &error));

  for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
    const size_t channels = static_cast<size_t>(basis[side].channels);
    outcome.basis[side] = {memory.fetch(basis[side].kept, kSlots * kHeads), memory.fetch(basis[side].index, kSlots * kHeads * channels),
                           memory.fetch(basis[side].weight_offset, kSlots * kHeads),
                           memory.fetch(static_cast<char *>(basis[side].weight), static_cast<size_t>(basis[side].weight_bytes)),
                           memory.fetch(basis[side].offset, kSlots * kHeads * channels)};
  }
  outcome.key_offset = memory.fetch(tiles.key_head_offset, kSlots * kHeads);
  outcome.value_offset = memory.fetch(tiles.value_head_offset, kSlots * kHeads);
  outcome.mask = memory.fetch(mask, kBatch * kHeads * kKeyChannels);
  outcome.keys = memory.fetch(static_cast<uint16_t *>(tiles.key), kPages * kKeyPage);
  outcome.values = memory.fetch(static_cast<uint16_t *>(tiles.value), kPages * kValuePage);
  think_plan_destroy(plan);
  think_context_destroy(context);
}

void compare_weights(const Basis &want, const Basis &got, int32_t channels) {
  ASSERT_EQ(want.weight_offset, got.weight_offset);
  for (const int32_t slot : kSlot) {
    for (int32_t head = slot * kHeads; head < (slot + 1) * kHeads; ++head) {
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
    ASSERT_TRUE(dlopen(STAND_INS "/stand_in_driver.so", RTLD_NOW | RTLD_GLOBAL)) << dlerror();
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
      compare_weights(cpu_.basis[side], device_.basis[side], side == THINK_KEYS ? kKeyChannels : kValueChannels);
    }
    EXPECT_EQ(cpu_.key_offset, device_.key_offset);
    EXPECT_EQ(cpu_.value_offset, device_.value_offset);
    EXPECT_EQ(cpu_.keys, device_.keys);
    EXPECT_EQ(cpu_.values, device_.values);
  }

  int32_t kept(int32_t side, int32_t sequence) const { return device_.basis[side].kept[kSlot[sequence] * kHeads]; }

  Outcome device_, cpu_;
};

TEST_F(PruneOnDevice, KeysByTheDefaults) {
  check(THINK_PRUNE_OPTIONS_INIT, 1);
  // 32 rows cost more with a basis than without, and 20 tokens have no rows to move: both keep all.
  EXPECT_LT(*std::min_element(device_.basis[0].kept.begin() + 2 * kHeads, device_.basis[0].kept.begin() + 3 * kHeads), kKeyChannels);
  for (const int32_t sequence : {2, 3}) EXPECT_EQ(kKeyChannels, kept(THINK_KEYS, sequence));
  for (int32_t sequence = 0; sequence < kBatch; ++sequence) EXPECT_EQ(kValueChannels, kept(THINK_VALUES, sequence));
}

TEST_F(PruneOnDevice, KeysAndValuesWhateverTheyCost) {
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  prune.key_kept = 20;
  prune.value_kept = 24;
  prune.dense_limit = -1;
  prune.sinks = 3;
  prune.recent = 10;
  check(prune, 2);
  EXPECT_EQ(kKeyChannels, kept(THINK_KEYS, 3)) << "no rows to move";
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
  EXPECT_EQ(kKeyChannels, kept(THINK_KEYS, 0));
}

TEST_F(PruneOnDevice, ThePapersMethod) {
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  prune.mode = THINK_MODE_CHANNELS;
  prune.key_kept = 39;
  check(prune, 5);
  EXPECT_EQ(39, kept(THINK_KEYS, 0));
  for (const simt::LaunchRecord &launch : simt::machine().launches()) EXPECT_NE("fit_head", launch.kernel);
}

TEST_F(PruneOnDevice, RunsEveryStageOnTheDevice) {
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  prune.value_kept = 24;
  check(prune, 6);
  std::vector<std::string> kernels;
  for (const simt::LaunchRecord &launch : simt::machine().launches()) kernels.push_back(launch.kernel);
  const std::vector<std::string> stages = {"prune_plan",      "moments_queries", "moments_scan",  "moments_join", "moments_mass",         "moments_mean",
                                           "moments_covariance", "moments_finish",  "score_finish",  "moments_gains", "select_worth",        "select_grant",
                                           "select_channels", "fit_head",        "prune_keep_all", "moments_gains", "prune_rank",         "select_worth",
                                           "select_grant",    "select_channels", "fit_head",      "prune_keep_all", "compact_place",      "compact_place"};
  const auto at = std::search(kernels.begin(), kernels.end(), stages.begin(), stages.end());
  EXPECT_NE(at, kernels.end()) << testing::PrintToString(kernels);
}

// The paper's score of values needs attention, which has no kernels: said before anything is launched.
TEST_F(PruneOnDevice, RefusesValuesByThePapersMethod) {
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  prune.mode = THINK_MODE_CHANNELS;
  prune.value_kept = 16;
  think_error error = THINK_ERROR_INIT;
  think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
  options.device_type = THINK_DEVICE_CUDA;
  think_context *context = nullptr;
  OK(think_context_create(&options, &context, &error));
  const think_problem problem = problem_of();
  think_plan *plan = nullptr;
  OK(think_plan_create(context, &problem, &plan, &error));
  simt::machine().reset();
  alignas(64) char memory[64];
  think_segment segment = THINK_SEGMENT_INIT;
  const think_launch launch = THINK_LAUNCH_INIT;
  EXPECT_EQ(THINK_E_UNSUPPORTED, think_prune(plan, memory, &segment, &segment, nullptr, &prune, nullptr, &launch, &error));
  EXPECT_NE(nullptr, std::strstr(error.message, "options->value_kept")) << error.message;
  EXPECT_TRUE(simt::machine().launches().empty());
  think_plan_destroy(plan);
  think_context_destroy(context);
}

}  // namespace
