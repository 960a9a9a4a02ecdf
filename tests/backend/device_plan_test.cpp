// Calls on a CUDA plan never touch device memory on the host, and hand on what they were given.
#include "device_plan.h"

namespace {

TEST_F(DevicePlan, LoadsKernelsWhenItIsMade) {
  EXPECT_EQ(1, calls->loaded);
  int64_t value = 0;
  ASSERT_EQ(THINK_OK, think_query(context, THINK_QUERY_DEVICE_TYPE, &value, nullptr));
  EXPECT_EQ(THINK_DEVICE_CUDA, value);
  ASSERT_EQ(THINK_OK, think_query(context, THINK_QUERY_DEVICE_INDEX, &value, nullptr));
  EXPECT_EQ(1, value);
  char json[8192];
  ASSERT_EQ(THINK_OK, think_plan_describe(plan, json, sizeof json, nullptr, &error));
  EXPECT_TRUE(std::strstr(json, "\"device\":\"cuda\"") && std::strstr(json, "\"isa\":\"sm_90\"")) << json;
  EXPECT_TRUE(std::strstr(json, "\"score\":{\"kernel\":\"cuda\"") && std::strstr(json, "\"evict\":{\"kernel\":\"cuda\"")) << json;
}

TEST_F(DevicePlan, Score) {
  void *state = take<char>(1 << 20);
  const think_tensor query = tensor(4, 200), key = tensor(2, 200);
  expect_run("score_reset", think_score_reset(plan, state, &batch, &launch, &error));
  expect_run("score_update", think_score_update(plan, &query, &key, &batch, state, &launch, &error));
  EXPECT_EQ(200, calls->longest);
  think_batch packed = THINK_BATCH_INIT;
  packed.count = 3;
  packed.row_start = take<int32_t>(4);
  expect_run("score_update", think_score_update(plan, &query, &key, &packed, state, &launch, &error));
  expect_run("score_finish", think_score_finish(plan, state, &batch, nullptr, take<float>(6 * 64), &launch, &error));
  expect_run("score_values", think_value_score(plan, &query, &batch, take<float>(6 * 64), &launch, &error));
  think_tensor window = THINK_TENSOR_INIT;
  EXPECT_EQ(THINK_OK, think_score_window(plan, state, 3, &window, &error));
  think_tensor odd = query;
  odd.stride[2] = 66;
  expect_refused(THINK_E_UNSUPPORTED, "query->stride[2]: CUDA kernels need a multiple of 4",
                 think_score_update(plan, &odd, &key, &batch, state, &launch, &error));
  odd = key;
  odd.data = static_cast<char *>(odd.data) + 4;
  expect_refused(THINK_E_UNSUPPORTED, "key->data: CUDA kernels need", think_score_update(plan, &query, &odd, &batch, state, &launch, &error));
}

TEST_F(DevicePlan, Select) {
  think_basis keys = basis(THINK_KEYS);
  think_budget_options budgets = THINK_BUDGET_OPTIONS_INIT;
  budgets.total = 64;
  int32_t *kept = take<int32_t>(6);
  expect_run("budgets", think_budgets(plan, take<float>(6 * 64), &batch, THINK_KEYS, &budgets, kept, &launch, &error));
  think_select_options choice = THINK_SELECT_OPTIONS_INIT;
  expect_run("select", think_select(plan, take<float>(6 * 64), &batch, &choice, kept, &keys, take<uint8_t>(6 * 64), &launch, &error));
}

TEST_F(DevicePlan, Compact) {
  think_basis keys = basis(THINK_KEYS), values = basis(THINK_VALUES);
  for (const bool paged : {false, true}) {
    const think_segment rows = segment(!paged);
    think_segment tiles = segment(paged);
    tiles.key_layout = THINK_TILES;
    tiles.key_basis = &keys;
    tiles.value_basis = &values;
    tiles.key_head_offset = take<int64_t>(16);
    tiles.value_head_offset = take<int64_t>(16);
    expect_run("place", think_segment_place(plan, &tiles, &batch, &launch, &error));
    expect_run("compact", think_compact(plan, &rows, &tiles, &batch, &launch, &error));
    EXPECT_EQ(paged ? 1024 : 512, calls->longest) << "lengths are bounded by the room of the destination";
  }
}

TEST_F(DevicePlan, MomentsAndFit) {
  const think_tensor query = tensor(4, 20);
  think_basis keys = basis(THINK_KEYS);
  int64_t bytes = 0;
  ASSERT_EQ(THINK_OK, think_moments_size(plan, 8, &bytes, &error));
  void *moments = take<char>(bytes);
  for (const bool paged : {false, true}) {
    const think_segment rows = segment(paged);
    expect_run("moments", think_moments(plan, &query, &rows, &batch, nullptr, moments, &launch, &error));
    EXPECT_EQ(paged ? 1024 : 512, calls->longest) << "lengths are bounded by the room of the source";
  }
  float *gains = take<float>(6 * 64), *score = take<float>(6 * 64);
  expect_run("gains", think_gains(plan, moments, &batch, THINK_VALUES, nullptr, gains, nullptr, &launch, &error));
  expect_run("gains", think_gains(plan, moments, &batch, THINK_KEYS, score, gains, take<int32_t>(6 * 64), &launch, &error));
  expect_run("fit", think_fit(plan, moments, &batch, nullptr, &keys, &launch, &error));
  launch.workspace_bytes = 63;
  expect_refused(THINK_E_WORKSPACE, "expected at least 64, got 63", think_fit(plan, moments, &batch, nullptr, &keys, &launch, &error));
}

TEST_F(DevicePlan, Prune) {
  think_basis keys = basis(THINK_KEYS), values = basis(THINK_VALUES);
  void *state = take<char>(1 << 20);
  think_segment rows = segment(false), tiles = segment(true);
  rows.lengths_stride[0] = tiles.lengths_stride[0] = 1;
  rows.lengths_stride[1] = tiles.lengths_stride[1] = 0;
  tiles.key_layout = THINK_TILES;
  tiles.key_basis = &keys;
  tiles.value_basis = &values;
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  prune.value_kept = 32;
  EXPECT_EQ(THINK_OK, think_prune(plan, state, &rows, &tiles, &batch, &prune, take<uint8_t>(6 * 64), &launch, &error)) << error.message;
  // plan, moments; keys: score, gains, budgets, select, fit, dense ones; values: gains, rank, budgets, select, fit, dense ones; compact.
  EXPECT_EQ(before += 15, calls->runs);
  EXPECT_STREQ("compact", calls->last);
  EXPECT_EQ(this, calls->stream);
  EXPECT_EQ(512, calls->longest);
  prune.mode = THINK_MODE_CHANNELS;
  EXPECT_EQ(THINK_OK, think_prune(plan, state, &rows, &tiles, &batch, &prune, nullptr, &launch, &error)) << error.message;
  EXPECT_EQ(before += 9, calls->runs) << "plan; keys: score, select, dense ones; values: attend, score, select, dense ones; compact";
  // Attention takes 16-bit rows; what the others ask for takes any.
  think_segment wide = rows;
  wide.value_dtype = THINK_F32;
  expect_refused(THINK_E_UNSUPPORTED, "source->value_dtype: expected f16, bf16, u8, u4, u2 or f8_e4m3 for attention",
                 think_prune(plan, state, &wide, &tiles, &batch, &prune, nullptr, &launch, &error));
  wide.value_dtype = rows.value_dtype == THINK_F16 ? THINK_BF16 : THINK_F16;
  expect_refused(THINK_E_UNSUPPORTED, "source->key_dtype: expected one type for attention",
                 think_prune(plan, state, &wide, &tiles, &batch, &prune, nullptr, &launch, &error));
  wide.value_dtype = wide.key_dtype = THINK_F32;
  prune.value_kept = 0;
  EXPECT_EQ(THINK_OK, think_prune(plan, state, &wide, &tiles, &batch, &prune, nullptr, &launch, &error)) << error.message;
  before += 6;
  EXPECT_EQ(THINK_OK, think_prune(plan, state, &rows, &tiles, &batch, &prune, nullptr, &launch, &error)) << error.message;
  EXPECT_EQ(before += 6, calls->runs) << "plan, score, select, dense ones of both sides, compact";
}

TEST_F(DevicePlan, Attend) {
  think_basis keys = basis(THINK_KEYS), values = basis(THINK_VALUES);
  const think_tensor query = tensor(4, 1), output = tensor(4, 1);
  think_segment segments[2] = {segment(true), segment(false)};
  segments[0].key_layout = THINK_TILES;
  segments[0].key_basis = &keys;
  segments[0].value_basis = &values;
  segments[1].flags = THINK_SEGMENT_CAUSAL;
  int64_t bytes = 0;
  think_extent extent = THINK_EXTENT_INIT;
  extent.tokens = 1536;
  ASSERT_EQ(THINK_OK, think_workspace_size(plan, THINK_STAGE_ATTEND, &extent, &bytes, nullptr, &error)) << error.message;
  launch.workspace_bytes = bytes;
  float *lse = take<float>(12), *sinks = take<float>(4);
  expect_run("attend", think_attend(plan, &query, &batch, segments, 2, sinks, &output, lse, &launch, &error));
  EXPECT_EQ(1536, calls->longest) << "tokens are bounded by the room of all segments";
  // The rows of a packed batch are known, and say how much is needed.
  think_tensor packed_query = tensor(4, 3), packed_output = tensor(4, 3);
  packed_query.extent[0] = packed_output.extent[0] = 1;
  think_batch ragged = batch;
  ragged.lengths = nullptr;
  ragged.row_start = take<int32_t>(4);
  extent.rows = 3;
  int64_t more = 0;
  ASSERT_EQ(THINK_OK, think_workspace_size(plan, THINK_STAGE_ATTEND, &extent, &more, nullptr, &error)) << error.message;
  EXPECT_LT(bytes, more) << "as the stand-in says";
  expect_refused(THINK_E_WORKSPACE, "workspace_bytes",
                 think_attend(plan, &packed_query, &ragged, segments, 2, sinks, &packed_output, lse, &launch, &error));
  launch.workspace_bytes = more;
  expect_run("attend", think_attend(plan, &packed_query, &ragged, segments, 2, sinks, &packed_output, lse, &launch, &error));
  launch.workspace_bytes = bytes;
  --launch.workspace_bytes;
  expect_refused(THINK_E_WORKSPACE, "workspace_bytes", think_attend(plan, &query, &batch, segments, 2, sinks, &output, lse, &launch, &error));
  ++launch.workspace_bytes;
  segments[1].value_dtype = THINK_BF16;
  expect_refused(THINK_E_UNSUPPORTED, "segments[1].value_dtype: expected one type for attention",
                 think_attend(plan, &query, &batch, segments, 2, nullptr, &output, nullptr, &launch, &error));
  segments[0].key_dtype = segments[0].value_dtype = THINK_F32;
  expect_refused(THINK_E_UNSUPPORTED, "segments[0].value_dtype: expected f16, bf16, u8, u4, u2 or f8_e4m3 for attention",
                 think_attend(plan, &query, &batch, segments, 2, nullptr, &output, nullptr, &launch, &error));
  const think_tensor outputs[2] = {tensor(4, 1), tensor(4, 1)};
  const float *lses[2] = {take<float>(12), take<float>(12)};
  expect_run("merge", think_merge(plan, outputs, lses, 2, &output, lse, &launch, &error));
}

TEST_F(DevicePlan, EvictsAndMoves) {
  const think_tensor query = tensor(4, 1);
  const think_segment rows = segment(false);
  int32_t *kept = take<int32_t>(6 * 512), *lengths = take<int32_t>(6);
  float *score = take<float>(3 * 2 * 512);
  think_evict_options eviction = THINK_EVICT_OPTIONS_INIT;
  int64_t bytes = 0;
  ASSERT_EQ(THINK_OK, think_workspace_size(plan, THINK_STAGE_EVICT, nullptr, &bytes, nullptr, &error)) << error.message;
  EXPECT_EQ(2 * 3 * 2 * 4096 * 4 + 3 * 64, bytes);  // mass and pooled scores of 3 sequences of 2 heads, and what the mass needs
  // Lengths and budgets are unknown here: lists have to end where the room for them ends.
  eviction.budget = 100;
  eviction.kept_stride = 99;
  expect_refused(THINK_E_ARGUMENT, "options->kept_stride: expected at least 100 rows, got 99",
                 think_evict(plan, &query, &rows, &batch, &eviction, nullptr, nullptr, kept, lengths, &launch, &error));
  eviction.kept_stride = 512;
  ++before;  // the mass
  expect_run("evict_choose", think_evict(plan, &query, &rows, &batch, &eviction, nullptr, nullptr, kept, lengths, &launch, &error));
  EXPECT_EQ(512, calls->longest);
  // Where there is room for fewer scores than rows, no run is taken to be longer.
  eviction.score_stride = 300;
  ++before;
  expect_run("evict_choose", think_evict(plan, &query, &rows, &batch, &eviction, take<int32_t>(6), score, kept, lengths, &launch, &error));
  EXPECT_EQ(300, calls->longest);
  eviction = THINK_EVICT_OPTIONS_INIT;
  eviction.method = THINK_EVICT_RECENT;
  eviction.budget = 100;
  expect_run("evict_choose", think_evict(plan, nullptr, &rows, &batch, &eviction, nullptr, nullptr, kept, lengths, &launch, &error));
  expect_run("evict_move", think_evict_move(plan, &rows, &rows, &batch, kept, 100, nullptr, 0, &launch, &error));
  EXPECT_EQ(100, calls->longest);
  expect_refused(THINK_E_ARGUMENT, "score_stride: expected 512",
                 think_evict_move(plan, &rows, &rows, &batch, kept, 100, score, 0, &launch, &error));
}

// Tiles of codes go beside numbers of one 16-bit type, whatever their order.
TEST_F(DevicePlan, QuantizedSegments) {
  const think_segment rows = segment(false);
  think_segment tiles = segment(true);
  tiles.key_layout = tiles.value_layout = THINK_TILES;
  tiles.key_dtype = THINK_U4;
  tiles.value_dtype = THINK_U8;
  expect_run("compact", think_compact(plan, &rows, &tiles, &batch, &launch, &error));
  const think_tensor query = tensor(4, 1), output = tensor(4, 1);
  think_segment segments[2] = {tiles, rows};
  expect_run("attend", think_attend(plan, &query, &batch, segments, 2, nullptr, &output, nullptr, &launch, &error));
  segments[1].key_dtype = THINK_BF16;
  expect_refused(THINK_E_UNSUPPORTED, "segments[1].key_dtype: expected one type for attention",
                 think_attend(plan, &query, &batch, segments, 2, nullptr, &output, nullptr, &launch, &error));
  segments[1].key_dtype = segments[1].value_dtype = THINK_F32;
  expect_refused(THINK_E_UNSUPPORTED, "segments[1].value_dtype: expected f16, bf16, u8, u4, u2 or f8_e4m3 for attention on a CUDA device, got f32",
                 think_attend(plan, &query, &batch, segments, 2, nullptr, &output, nullptr, &launch, &error));
  segments[1] = rows;
  for (const think_dtype dtype : {THINK_U2, THINK_F8_E4M3}) {
    segments[0].key_dtype = segments[0].value_dtype = dtype;
    expect_run("attend", think_attend(plan, &query, &batch, segments, 2, nullptr, &output, nullptr, &launch, &error));
  }
  think_format format = THINK_FORMAT_INIT;
  format.key_layout = THINK_TILES;
  format.key_dtype = THINK_U8;
  think_layout_info info = THINK_LAYOUT_INFO_INIT;
  EXPECT_EQ(THINK_OK, think_layout(plan, &format, 32, 64, 64, &info, &error)) << error.message;
}

TEST_F(DevicePlan, RefusesWhatTheHostCannotDo) {
  void *state = take<char>(1 << 20);
  const think_tensor query = tensor(4, 200), key = tensor(2, 200);
  launch.flags = THINK_LAUNCH_CHECK;
  expect_refused(THINK_E_UNSUPPORTED, "launch->flags: THINK_LAUNCH_CHECK", think_score_reset(plan, state, &batch, &launch, &error));
  launch.flags = 0;
  launch.slices = 2;
  expect_refused(THINK_E_UNSUPPORTED, "launch->slices: expected 0 or 1 on a CUDA device, got 2",
                 think_score_update(plan, &query, &key, &batch, state, &launch, &error));
  launch.slices = 0;
  launch.workspace_bytes = 64 * 3 + 199;
  expect_refused(THINK_E_WORKSPACE, "expected at least 392, got 391", think_score_update(plan, &query, &key, &batch, state, &launch, &error));
}

TEST_F(DevicePlan, RefusesGridsThatCannotBe) {
  think_plan *second = nullptr;
  problem.max_batch = 65536;
  expect_refused(THINK_E_UNSUPPORTED, "problem->max_batch: at most 65535 on a CUDA device, got 65536", think_supports(context, &problem, &error));
  expect_refused(THINK_E_UNSUPPORTED, "problem->max_batch: at most 65535", think_plan_create(context, &problem, &second, &error));
  problem.max_batch = 65535;
  EXPECT_EQ(THINK_OK, think_supports(context, &problem, &error));
  problem.query_heads = problem.kv_heads = 65536;
  expect_refused(THINK_E_UNSUPPORTED, "problem->kv_heads: at most 65535", think_supports(context, &problem, &error));
  EXPECT_EQ(nullptr, second);
}

TEST_F(DevicePlan, HandsOnWhatTheDeviceSays) {
  calls->fail_with = 700;
  EXPECT_EQ(THINK_E_DEVICE, think_score_reset(plan, take<char>(1 << 20), &batch, &launch, &error));
  EXPECT_EQ(700, error.native_code);
  EXPECT_STREQ("launching the kernels: CUDA error 700, what the stand-in was told to say", error.message);
  think_plan *second = nullptr;
  EXPECT_EQ(THINK_E_DEVICE, think_plan_create(context, &problem, &second, &error));
  EXPECT_EQ(nullptr, second);
  think_context *other = nullptr;
  EXPECT_EQ(THINK_E_DEVICE, think_context_create(&options, &other, &error));
  EXPECT_STREQ("opening CUDA device 1: CUDA error 700, what the stand-in was told to say", error.message);
  --calls->opened;  // one that did not open is not closed
  calls->fail_with = 0;
  options.device_index = 2;
  EXPECT_EQ(THINK_E_ARGUMENT, think_context_create(&options, &other, &error));
  EXPECT_STREQ("options->device_index: expected 0 .. 1, got 2", error.message);
}

}  // namespace
