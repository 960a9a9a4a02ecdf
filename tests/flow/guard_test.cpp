// What must not pass in silence: NaN among the logits, rooms that are too narrow, scores that were never taken, strides left at zero.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "pipeline.h"

namespace flow {
namespace {

constexpr int32_t kChannels = 8;

think_problem small_problem(int32_t batch, int64_t tokens) {
  think_problem problem = make_problem(kChannels, 1, THINK_F32, 2);
  problem.max_batch = batch;
  problem.max_tokens = tokens;
  return problem;
}

struct Block {
  explicit Block(int64_t bytes) : bytes(bytes), data(std::aligned_alloc(64, static_cast<size_t>(bytes + 127) / 64 * 64)) {
    std::memset(data, 0, static_cast<size_t>(bytes));
  }
  ~Block() { std::free(data); }
  Block(const Block &) = delete;
  int64_t bytes;
  void *data;
};

int64_t workspace_size(const think_plan *plan, int32_t stage) {
  int64_t bytes = 0;
  THINK_CALL(think_workspace_size, plan, stage, nullptr, &bytes, nullptr);
  return bytes;
}

// One query of ones per head over dense rows [sequence][head][tokens][kChannels].
void attend(const think_plan *plan, std::vector<float> &rows, int64_t tokens, std::vector<int32_t> lengths, std::vector<float> &out,
            std::vector<float> &lse) {
  const auto batch = static_cast<int64_t>(lengths.size());
  std::vector<float> query(static_cast<size_t>(batch * 2 * kChannels), 1.0f);
  out.assign(query.size(), 7.0f);
  lse.assign(static_cast<size_t>(batch * 2), 7.0f);
  think_tensor q = THINK_TENSOR_INIT;
  q.data = query.data();
  q.dtype = THINK_F32;
  const int64_t extent[4] = {batch, 2, 1, kChannels}, stride[4] = {2 * kChannels, kChannels, kChannels, 1};
  std::memcpy(q.extent, extent, sizeof extent);
  std::memcpy(q.stride, stride, sizeof stride);
  think_tensor output = q;
  output.data = out.data();
  think_segment segment = THINK_SEGMENT_INIT;
  segment.key_dtype = segment.value_dtype = THINK_F32;
  segment.key = segment.value = rows.data();
  segment.key_stride[1] = segment.value_stride[1] = tokens * kChannels * 4;
  segment.key_stride[0] = segment.value_stride[0] = 2 * segment.key_stride[1];
  segment.lengths = lengths.data();
  Block workspace(workspace_size(plan, THINK_STAGE_ATTEND));
  think_launch launch = THINK_LAUNCH_INIT;
  launch.workspace = workspace.data;
  launch.workspace_bytes = workspace.bytes;
  THINK_CALL(think_attend, plan, &q, nullptr, &segment, 1, nullptr, &output, lse.data(), &launch);
}

TEST(Guard, NanAmongTheLogitsReachesTheOutput) {
  for (const Isa &isa : available_isas()) {
    for (int64_t tokens : {int64_t{1}, int64_t{64}, int64_t{1200}}) {
      const Plan plan(small_problem(1, tokens), isa.name);
      for (int64_t bad : {int64_t{0}, int64_t{13}, int64_t{51}, int64_t{63}, int64_t{700}, tokens - 1}) {
        if (bad >= tokens) continue;
        std::vector<float> rows(static_cast<size_t>(2 * tokens * kChannels), 0.0f), out, lse;
        rows[static_cast<size_t>(bad * kChannels)] = std::numeric_limits<float>::quiet_NaN();
        attend(plan, rows, tokens, {static_cast<int32_t>(tokens)}, out, lse);
        EXPECT_TRUE(std::isnan(lse[0]) && std::isnan(out[1])) << isa.name << " token " << bad << " of " << tokens << ": " << lse[0] << ' ' << out[1];
        EXPECT_NEAR(lse[1], std::log(static_cast<double>(tokens)), 1e-5) << "the other head";
      }
    }
  }
}

TEST(Guard, LengthsStepByOneUnlessTold) {
  const Plan plan(small_problem(2, 128));
  std::vector<float> rows(2 * 2 * 128 * kChannels, 0.0f), out, lse;
  attend(plan, rows, 128, {128, 32}, out, lse);
  EXPECT_NEAR(lse[0], std::log(128.0), 1e-5);
  EXPECT_NEAR(lse[2], std::log(32.0), 1e-5);
}

// A batch of two sequences, as far as think_prune() looks at it.
struct Prune {
  explicit Prune(std::vector<int32_t> lengths) : lengths(std::move(lengths)), plan(small_problem(2, 1024)), rows(2 * 2 * 1024 * kChannels, 0.5f) {
    int64_t bytes = 0;
    THINK_CALL(think_score_state_size, plan, 2, &bytes);
    state = std::make_unique<Block>(bytes);
    THINK_CALL(think_basis_size, plan, THINK_KEYS, 2, &bytes, nullptr);
    basis_memory = std::make_unique<Block>(bytes);
    THINK_CALL(think_basis_bind, plan, THINK_KEYS, 2, basis_memory->data, bytes, &basis);
    workspace = std::make_unique<Block>(std::max(workspace_size(plan, THINK_STAGE_PRUNE), workspace_size(plan, THINK_STAGE_SCORE)));
    launch.workspace = workspace->data;
    launch.workspace_bytes = workspace->bytes;
    source.key_dtype = source.value_dtype = target.key_dtype = target.value_dtype = THINK_F32;
    source.key = rows.data();
    source.lengths = this->lengths.data();
    source.key_stride[1] = 1024 * kChannels * 4;
    source.key_stride[0] = 2 * source.key_stride[1];
    target.key = store.data();
    target.key_layout = THINK_TILES;
    target.key_basis = &basis;
    target.key_head_offset = offset;
    target.page_tokens = 1024;
    batch.count = 2;
    batch.lengths = this->lengths.data();
    THINK_CALL(think_score_reset, plan, state->data, &batch, &launch);
  }
  void score() {
    think_tensor key = THINK_TENSOR_INIT;
    key.data = rows.data();
    key.dtype = THINK_F32;
    const int64_t extent[4] = {2, 2, 1024, kChannels}, stride[4] = {2 * 1024 * kChannels, 1024 * kChannels, kChannels, 1};
    std::memcpy(key.extent, extent, sizeof extent);
    std::memcpy(key.stride, stride, sizeof stride);
    THINK_CALL(think_score_update, plan, &key, &key, &batch, state->data, &launch);
  }
  think_status prune(think_error &error) {
    think_batch slots = THINK_BATCH_INIT;
    slots.count = 2;
    think_prune_options options = THINK_PRUNE_OPTIONS_INIT;
    options.key_kept = 4;
    options.budget = THINK_BUDGET_UNIFORM;
    options.dense_limit = 0.55f;  // half of the channels and the basis: little for 960 rows, too much for 32
    return think_prune(plan, state->data, &source, &target, &slots, &options, nullptr, &launch, &error);
  }
  std::vector<int32_t> lengths;
  Plan plan;
  std::vector<float> rows, store = std::vector<float>(2 * 2 * 1024 * kChannels, -1.0f);
  std::unique_ptr<Block> state, basis_memory, workspace;
  think_basis basis = THINK_BASIS_INIT;
  think_launch launch = THINK_LAUNCH_INIT;
  think_segment source = THINK_SEGMENT_INIT, target = THINK_SEGMENT_INIT;
  think_batch batch = THINK_BATCH_INIT;
  int64_t offset[4] = {-1, -1, -1, -1};
};

TEST(Guard, PruneNeedsScoresOfAllTokens) {
  Prune call({1024, 1024});
  call.target.key_stride[0] = 2 * 1024 * kChannels * 4;
  think_error error = THINK_ERROR_INIT;
  EXPECT_EQ(call.prune(error), THINK_E_STATE);
  EXPECT_EQ(error.argument, 2);
  EXPECT_NE(std::string(error.message).find("1024"), std::string::npos) << error.message;
  EXPECT_EQ(call.offset[0], -1) << "outputs are untouched";
  call.score();
  EXPECT_EQ(call.prune(error), THINK_OK) << error.message;
}

// A short sequence stays dense, so it is wider than the long one that the slots were made for.
TEST(Guard, PruneStaysInsideItsSlots) {
  Prune call({1024, 90});
  call.score();
  call.target.key_stride[0] = 2 * 1024 * 4 * 4;
  think_error error = THINK_ERROR_INIT;
  EXPECT_EQ(call.prune(error), THINK_E_ARGUMENT);
  EXPECT_EQ(error.argument, 4);
  EXPECT_NE(std::string(error.message).find("destination->key_stride[0]"), std::string::npos) << error.message;
  for (float value : call.store) ASSERT_EQ(value, -1.0f);
  call.target.key_stride[0] = 2 * 1024 * kChannels * 4;
  EXPECT_EQ(call.prune(error), THINK_OK) << error.message;
}

// Rows further apart than their channels need: heads are then a page of such rows apart.
TEST(Guard, PruneCountsTheStrideOfRows) {
  Prune call({1024, 1024});
  call.score();
  call.target.key_layout = THINK_ROWS;
  call.target.key_stride[2] = kChannels * 4;
  call.target.key_stride[0] = 2 * 1024 * 4 * 4;
  think_error error = THINK_ERROR_INIT;
  EXPECT_EQ(call.prune(error), THINK_E_ARGUMENT);
  EXPECT_NE(std::string(error.message).find("destination->key_stride[0]"), std::string::npos) << error.message;
  for (float value : call.store) ASSERT_EQ(value, -1.0f);
  call.target.key_stride[0] = 2 * 1024 * kChannels * 4;
  EXPECT_EQ(call.prune(error), THINK_OK) << error.message;
  EXPECT_EQ(call.offset[1], 1024 * kChannels * 4);
}

TEST(Guard, TilesNeedWholeTilesOfRoom) {
  Prune call({1024, 1024});
  call.score();
  call.target.page_tokens = 1016;
  think_error error = THINK_ERROR_INIT;
  EXPECT_EQ(call.prune(error), THINK_E_ARGUMENT);
  EXPECT_NE(std::string(error.message).find("page_tokens"), std::string::npos) << error.message;
}

// The first row of what is pruned lies behind the sinks: source first + length is a 32-bit row number too.
TEST(Guard, PruneRefusesRowNumbersThatWrap) {
  Prune call({1024, 1024});
  call.score();
  call.target.key_stride[0] = 2 * 1024 * kChannels * 4;
  call.source.page_tokens = 0;
  const int32_t first[2] = {0, INT32_MAX - 500};
  call.source.first = first;
  think_error error = THINK_ERROR_INIT;
  EXPECT_EQ(call.prune(error), THINK_E_ARGUMENT);
  EXPECT_EQ(error.argument, 3);
  EXPECT_NE(std::string(error.message).find("first"), std::string::npos) << error.message;
  for (float value : call.store) ASSERT_EQ(value, -1.0f);
}

// Tiles start at multiples of 16 bytes; the table is device memory, so only a checked call looks at it.
TEST(Guard, HeadOffsetsOfTilesAreAligned) {
  const Plan plan(small_problem(1, 64));
  std::vector<float> rows(2 * 64 * kChannels, 0.5f), out(2 * kChannels, 7.0f);
  think_tensor query = THINK_TENSOR_INIT;
  std::vector<float> ones(2 * kChannels, 1.0f);
  query.data = ones.data();
  query.dtype = THINK_F32;
  const int64_t extent[4] = {1, 2, 1, kChannels}, stride[4] = {2 * kChannels, kChannels, kChannels, 1};
  std::memcpy(query.extent, extent, sizeof extent);
  std::memcpy(query.stride, stride, sizeof stride);
  think_tensor output = query;
  output.data = out.data();
  think_segment segment = THINK_SEGMENT_INIT;
  const int32_t length = 32;
  Block store(4 * 2 * 64 * kChannels);
  segment.key_dtype = segment.value_dtype = THINK_F32;
  segment.key = store.data;
  segment.value = rows.data();
  segment.value_stride[1] = 64 * kChannels * 4;
  segment.key_layout = THINK_TILES;
  segment.page_tokens = 64;
  segment.lengths = &length;
  Block workspace(workspace_size(plan, THINK_STAGE_ATTEND));
  think_launch launch = THINK_LAUNCH_INIT;
  launch.flags = THINK_LAUNCH_CHECK;
  launch.workspace = workspace.data;
  launch.workspace_bytes = workspace.bytes;
  for (const int64_t second : {int64_t{64 * kChannels * 4}, int64_t{64 * kChannels * 4 - 4}, int64_t{-16}}) {
    const int64_t offset[2] = {0, second};
    segment.key_head_offset = const_cast<int64_t *>(offset);
    think_error error = THINK_ERROR_INIT;
    const think_status status = think_attend(plan, &query, nullptr, &segment, 1, nullptr, &output, nullptr, &launch, &error);
    if (second == 64 * kChannels * 4) {
      EXPECT_EQ(status, THINK_OK) << error.message;
      out.assign(out.size(), 7.0f);
    } else {
      EXPECT_EQ(status, THINK_E_ARGUMENT) << second;
      EXPECT_NE(std::string(error.message).find("key_head_offset[1]"), std::string::npos) << error.message;
      for (float value : out) EXPECT_EQ(value, 7.0f);
    }
  }
}

TEST(Guard, AHookIsUsedWithoutBeingToldItsThreads) {
  think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
  options.threads = -1;
  int64_t all = 0, hooked = 0;
  const auto threads = [](const think_context_options &chosen, int64_t &count) {
    think_context *context = nullptr;
    THINK_CALL(think_context_create, &chosen, &context);
    THINK_CALL(think_query, context, THINK_QUERY_THREADS, &count);
    think_context_destroy(context);
  };
  threads(options, all);
  options.threads = 0;
  options.parallel_for = [](void *, int64_t count, think_task task, void *arg) {
    for (int64_t index = 0; index < count; ++index) task(arg, index);
  };
  threads(options, hooked);
  EXPECT_EQ(hooked, all);
}

}  // namespace
}  // namespace flow
