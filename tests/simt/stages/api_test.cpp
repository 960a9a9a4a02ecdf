// A prune with the paper's method and attention on what it leaves, through the C ABI, twice: on the CPU, and on a CUDA context whose device is the
// emulator. Device memory cannot be touched by the host here, so this also shows that the core does not try.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "kernels/common/element.h"
#include "memory_of_either.h"
#include "think.h"

namespace {

using think::test::MemoryOfEither;

constexpr int32_t kQueryHeads = 6, kHeads = 3, kKeyChannels = 64, kValueChannels = 40, kBatch = 2, kSlots = 3, kTokens = 200, kPageTokens = 64, kPages = 8;
constexpr int32_t kLengths[kBatch] = {200, 133}, kSlot[kBatch] = {2, 0};

struct Inputs {
  std::vector<uint16_t> query, key, value;
  std::vector<float> gains;

  Inputs() {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<uint16_t> &rows, int32_t heads, int32_t channels) {
      rows.resize(static_cast<size_t>(kBatch) * heads * kTokens * channels);
      for (size_t i = 0; i < rows.size(); ++i) rows[i] = think::f32_to_f16(static_cast<float>(1 + i % 7) * normal(random));
    };
    fill(query, kQueryHeads, kKeyChannels);
    fill(key, kHeads, kKeyChannels);
    fill(value, kHeads, kValueChannels);
    gains.resize(static_cast<size_t>(kBatch) * kHeads * kKeyChannels);
    for (float &gain : gains) gain = std::fabs(normal(random));
  }
};

struct Outcome {
  std::vector<float> score;
  std::vector<int32_t> kept, index;
  std::vector<int64_t> key_offset;
  std::vector<uint8_t> mask;
  std::vector<uint16_t> keys, values;
  std::vector<float> attention, lse;
};

#define OK(call) ASSERT_EQ(THINK_OK, call) << error.message << "; " << simt::machine().fault().text()

think_tensor tensor(void *data, int64_t heads, int64_t channels, int64_t first, int64_t tokens) {
  return {sizeof(think_tensor), 0,           static_cast<uint16_t *>(data) + first * channels,           THINK_F16, 0,
          {kBatch, heads, tokens, channels}, {heads * kTokens * channels, kTokens * channels, channels, 1}};
}

// `scores`: what to select by instead of the scores that come out, which agree between backends within rounding only.
void run(think_device device, const Inputs &inputs, const std::vector<float> &scores, Outcome &outcome) {
  think_error error = THINK_ERROR_INIT;
  think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
  options.device_type = device;
  think_context *context = nullptr;
  OK(think_context_create(&options, &context, &error));
  think_problem problem = THINK_PROBLEM_INIT;
  problem.query_dtype = problem.cache_dtype = THINK_F16;
  problem.output_dtype = THINK_F32;
  problem.query_heads = kQueryHeads;
  problem.kv_heads = kHeads;
  problem.key_channels = kKeyChannels;
  problem.value_channels = kValueChannels;
  problem.max_batch = kBatch;
  problem.max_queries = 2;
  problem.max_tokens = 512;
  think_plan *plan = nullptr;
  OK(think_plan_create(context, &problem, &plan, &error));
  MemoryOfEither memory(device == THINK_DEVICE_CUDA);

  int64_t bytes = 0, needed = 0;
  for (const int32_t stage : {THINK_STAGE_SCORE, THINK_STAGE_SELECT, THINK_STAGE_COMPACT, THINK_STAGE_ATTEND}) {
    OK(think_workspace_size(plan, stage, nullptr, &needed, nullptr, &error));
    bytes = std::max(bytes, needed);
  }
  think_launch launch = THINK_LAUNCH_INIT;
  launch.workspace = memory.make(std::vector<char>(bytes));
  launch.workspace_bytes = bytes;
  think_batch batch = THINK_BATCH_INIT;
  batch.count = kBatch;
  batch.slot = memory.make(std::vector<int32_t>(kSlot, kSlot + kBatch));

  // The prompt comes in two chunks.
  OK(think_score_state_size(plan, kSlots, &bytes, &error));
  void *state = memory.make(std::vector<char>(bytes));
  uint16_t *query = memory.make(inputs.query), *key = memory.make(inputs.key), *value = memory.make(inputs.value);
  OK(think_score_reset(plan, state, &batch, &launch, &error));
  constexpr int32_t kFirstChunk = 70;
  for (const bool second : {false, true}) {
    const int64_t first = second ? kFirstChunk : 0, tokens = second ? kTokens - kFirstChunk : kFirstChunk;
    std::vector<int32_t> lengths;
    for (const int32_t length : kLengths) lengths.push_back(second ? length - kFirstChunk : kFirstChunk);
    const think_tensor queries = tensor(query, kQueryHeads, kKeyChannels, first, tokens), keys = tensor(key, kHeads, kKeyChannels, first, tokens);
    batch.lengths = memory.make(lengths);
    OK(think_score_update(plan, &queries, &keys, &batch, state, &launch, &error));
  }
  batch.lengths = nullptr;
  float *score = memory.make(std::vector<float>(inputs.gains.size()));
  OK(think_score_finish(plan, state, &batch, nullptr, score, &launch, &error));
  outcome.score = memory.fetch(score, inputs.gains.size());

  // Widths by gains, channels by score.
  think_basis basis = THINK_BASIS_INIT;
  OK(think_basis_size(plan, THINK_KEYS, kSlots, &bytes, nullptr, &error));
  OK(think_basis_bind(plan, THINK_KEYS, kSlots, memory.make(std::vector<char>(bytes)), bytes, &basis, &error));
  think_budget_options budgets = THINK_BUDGET_OPTIONS_INIT;
  budgets.total = 100;
  int32_t *widths = memory.make(std::vector<int32_t>(kBatch * kHeads));
  OK(think_budgets(plan, memory.make(inputs.gains), &batch, THINK_KEYS, &budgets, widths, &launch, &error));
  think_select_options choice = THINK_SELECT_OPTIONS_INIT;
  uint8_t *mask = memory.make(std::vector<uint8_t>(inputs.gains.size()));
  const float *by = scores.empty() ? score : memory.make(scores);
  OK(think_select(plan, by, &batch, &choice, widths, &basis, mask, &launch, &error));

  // All whole tiles behind the sinks, into pages in any order.
  think_segment rows = THINK_SEGMENT_INIT, tiles = THINK_SEGMENT_INIT;
  const std::vector<int32_t> row_slot = {0, 1}, row_first = {4, 4}, lengths = {192, 96}, pages = {5, 2, 7, -1, 0, 3, -1, -1};
  rows.key = key, rows.value = value;
  rows.key_dtype = rows.value_dtype = tiles.key_dtype = tiles.value_dtype = THINK_F16;
  rows.key_stride[1] = kTokens * kKeyChannels * 2, rows.key_stride[0] = kHeads * rows.key_stride[1];
  rows.value_stride[1] = kTokens * kValueChannels * 2, rows.value_stride[0] = kHeads * rows.value_stride[1];
  rows.page_tokens = kTokens;
  rows.slot = memory.make(row_slot);
  rows.first = memory.make(row_first);
  constexpr int64_t kKeyPage = 96 * kPageTokens, kValuePage = kHeads * kValueChannels * kPageTokens;  // numbers; 96 = 100 in whole blocks of 8
  tiles.key_layout = THINK_TILES;
  tiles.key = memory.make(std::vector<uint16_t>(kPages * kKeyPage, 0x7e00));
  tiles.value = memory.make(std::vector<uint16_t>(kPages * kValuePage, 0x7e00));
  tiles.key_stride[0] = kKeyPage * 2;
  tiles.value_stride[0] = kValuePage * 2, tiles.value_stride[1] = kValueChannels * kPageTokens * 2;
  tiles.page_tokens = kPageTokens;
  tiles.pages = memory.make(pages);
  tiles.pages_stride = 4;
  tiles.lengths = memory.make(lengths);
  tiles.key_basis = &basis;
  tiles.key_head_offset = memory.make(std::vector<int64_t>(kSlots * kHeads, -1));
  OK(think_segment_place(plan, &tiles, &batch, &launch, &error));
  OK(think_compact(plan, &rows, &tiles, &batch, &launch, &error));

  // Two new queries of each sequence over sinks, tiles and the recent rows, which are causal; then the same in two calls and a merge.
  think_segment segments[3] = {rows, tiles, rows};
  const int32_t sink_lengths[] = {4, 4}, recent_first[] = {196, 100}, recent_lengths[] = {4, 33};
  segments[0].first = nullptr;
  segments[0].lengths = memory.make(std::vector<int32_t>(sink_lengths, sink_lengths + 2));
  segments[2].first = memory.make(std::vector<int32_t>(recent_first, recent_first + 2));
  segments[2].lengths = memory.make(std::vector<int32_t>(recent_lengths, recent_lengths + 2));
  segments[2].flags = THINK_SEGMENT_CAUSAL;
  constexpr int32_t kNew = 2;
  think_tensor queries = tensor(query, kQueryHeads, kKeyChannels, 7, kNew), output = THINK_TENSOR_INIT;
  constexpr int64_t kNumbers = kBatch * kQueryHeads * kNew * kValueChannels, kRows = kBatch * kQueryHeads * kNew;
  output.dtype = THINK_F32;
  const int64_t extent[] = {kBatch, kQueryHeads, kNew, kValueChannels};
  for (int axis = 3, stride = 1; axis >= 0; stride *= static_cast<int>(extent[axis--])) output.extent[axis] = extent[axis], output.stride[axis] = stride;
  think_tensor outputs[2] = {output, output};
  float *attention[3], *lse[3];
  for (int i = 0; i < 3; ++i) attention[i] = memory.make(std::vector<float>(kNumbers)), lse[i] = memory.make(std::vector<float>(kRows));
  output.data = attention[0];
  OK(think_attend(plan, &queries, &batch, segments, 3, nullptr, &output, lse[0], &launch, &error));
  outcome.attention = memory.fetch(attention[0], kNumbers);
  outcome.lse = memory.fetch(lse[0], kRows);
  for (int i = 0; i < 2; ++i) {
    outputs[i].data = attention[1 + i];
    OK(think_attend(plan, &queries, &batch, segments + i, 1 + i, nullptr, &outputs[i], lse[1 + i], &launch, &error));
  }
  OK(think_merge(plan, outputs, lse + 1, 2, &outputs[1], lse[1], &launch, &error));
  const std::vector<float> merged = memory.fetch(attention[2], kNumbers), merged_lse = memory.fetch(lse[1], kRows);
  for (size_t i = 0; i < merged.size(); ++i) ASSERT_NEAR(outcome.attention[i], merged[i], 5e-3) << i;
  for (size_t i = 0; i < merged_lse.size(); ++i) ASSERT_NEAR(outcome.lse[i], merged_lse[i], 1e-4 * std::fabs(outcome.lse[i])) << i;

  outcome.kept = memory.fetch(basis.kept, kSlots * kHeads);
  outcome.index = memory.fetch(basis.index, kSlots * kHeads * kKeyChannels);
  outcome.key_offset = memory.fetch(tiles.key_head_offset, kSlots * kHeads);
  outcome.mask = memory.fetch(mask, inputs.gains.size());
  outcome.keys = memory.fetch(static_cast<uint16_t *>(tiles.key), kPages * kKeyPage);
  outcome.values = memory.fetch(static_cast<uint16_t *>(tiles.value), kPages * kValuePage);
  think_plan_destroy(plan);
  think_context_destroy(context);
}

TEST(EmulatedDevice, PrunesAsTheCpu) {
  ASSERT_TRUE(dlopen(EMULATED_DRIVER, RTLD_NOW | RTLD_GLOBAL)) << dlerror();
  setenv("THINK_BACKEND_PATH", EMULATED_BACKEND, 1);
  simt::machine().reset();
  const Inputs inputs;
  Outcome device, cpu;
  run(THINK_DEVICE_CUDA, inputs, {}, device);
  if (HasFatalFailure()) return;
  run(THINK_DEVICE_CPU, inputs, device.score, cpu);
  if (HasFatalFailure()) return;
  for (size_t i = 0; i < cpu.score.size(); ++i) ASSERT_NEAR(cpu.score[i], device.score[i], 2e-5 * std::fabs(cpu.score[i])) << i;
  EXPECT_EQ(cpu.kept, device.kept);
  EXPECT_EQ(cpu.index, device.index);
  EXPECT_EQ(cpu.key_offset, device.key_offset);
  EXPECT_EQ(cpu.mask, device.mask);
  EXPECT_EQ(cpu.keys, device.keys);
  EXPECT_EQ(cpu.values, device.values);
  for (size_t i = 0; i < cpu.attention.size(); ++i) ASSERT_NEAR(cpu.attention[i], device.attention[i], 1e-2) << i;
  for (size_t i = 0; i < cpu.lse.size(); ++i) ASSERT_NEAR(cpu.lse[i], device.lse[i], 2e-3 * std::fabs(cpu.lse[i]) + 1e-3) << i;
  // It was the kernels that did it: those that a prune with the paper's method needs, each when it was called.
  std::vector<std::string> kernels;
  for (const simt::LaunchRecord &launch : simt::machine().launches()) kernels.push_back(launch.kernel);
  EXPECT_EQ(kernels, (std::vector<std::string>{"score_reset", "score_slab", "score_complete", "score_slab", "score_complete", "score_finish", "select_worth",
                                               "select_grant", "select_channels", "compact_place", "compact_rows_to_tiles", "compact_to_rows", "attend_prepare",
                                               "attend_decode", "attend_prepare", "attend_decode", "attend_prepare", "attend_decode", "attend_merge"}));
}

}  // namespace
