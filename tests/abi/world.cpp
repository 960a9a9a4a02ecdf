#include "tests/abi/world.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace think_test {

#define RESERVED(type, field)     \
  Reserved {                      \
#field, offsetof(type, field) \
  }

const StructType tensor_type = {"think_tensor", sizeof(think_tensor), alignof(think_tensor), {RESERVED(think_tensor, reserved)}};
const StructType batch_type = {"think_batch", sizeof(think_batch), alignof(think_batch), {RESERVED(think_batch, reserved)}};
const StructType context_options_type = {
    "think_context_options", sizeof(think_context_options), alignof(think_context_options), {RESERVED(think_context_options, reserved)}};
const StructType problem_type = {"think_problem", sizeof(think_problem), alignof(think_problem), {}};
const StructType launch_type = {"think_launch", sizeof(think_launch), alignof(think_launch), {}};
const StructType extent_type = {"think_extent", sizeof(think_extent), alignof(think_extent), {RESERVED(think_extent, reserved)}};
const StructType basis_type = {"think_basis", sizeof(think_basis), alignof(think_basis), {}};
const StructType segment_type = {"think_segment", sizeof(think_segment), alignof(think_segment), {RESERVED(think_segment, reserved)}};
const StructType format_type = {"think_format", sizeof(think_format), alignof(think_format), {}};
const StructType layout_info_type = {"think_layout_info", sizeof(think_layout_info), alignof(think_layout_info), {}};
const StructType score_options_type = {"think_score_options", sizeof(think_score_options), alignof(think_score_options), {}};
const StructType moments_options_type = {
    "think_moments_options", sizeof(think_moments_options), alignof(think_moments_options), {RESERVED(think_moments_options, reserved)}};
const StructType budget_options_type = {
    "think_budget_options", sizeof(think_budget_options), alignof(think_budget_options), {RESERVED(think_budget_options, reserved)}};
const StructType select_options_type = {
    "think_select_options", sizeof(think_select_options), alignof(think_select_options), {RESERVED(think_select_options, reserved)}};
const StructType fit_options_type = {"think_fit_options",
                                     sizeof(think_fit_options),
                                     alignof(think_fit_options),
                                     {RESERVED(think_fit_options, reserved), RESERVED(think_fit_options, reserved2)}};
const StructType evict_options_type = {"think_evict_options", sizeof(think_evict_options), alignof(think_evict_options), {}};
const StructType prune_options_type = {
    "think_prune_options", sizeof(think_prune_options), alignof(think_prune_options), {RESERVED(think_prune_options, reserved)}};
const StructType prune_result_type = {"think_prune_result", sizeof(think_prune_result), alignof(think_prune_result), {}};
const StructType cache_options_type = {
    "think_cache_options", sizeof(think_cache_options), alignof(think_cache_options),
    {RESERVED(think_cache_options, reserved)}};
const StructType cache_info_type = {"think_cache_info", sizeof(think_cache_info), alignof(think_cache_info), {}};

#undef RESERVED

namespace {

// DLPack's DLTensor, as its specification lays it out: the library must understand it without a header of DLPack.
struct DLTensorMirror {
  void *data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};

constexpr size_t kArenaBytes = size_t{1} << 20;

// Numbers between -1 and 1 that differ everywhere, the same in every run.
struct Noise {
  uint32_t state = 12345;
  float next() {
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(state >> 8) / 8388608.0f - 1.0f;
  }
};

// f16 of a number that is normal in f16, cut.
uint16_t half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000;
  const int32_t exponent = static_cast<int32_t>(bits >> 23 & 0xff) - 112;
  if (exponent <= 0) return static_cast<uint16_t>(sign);
  return static_cast<uint16_t>(sign | static_cast<uint32_t>(exponent) << 10 | (bits >> 13 & 0x3ff));
}

void describe(think_tensor &tensor, void *data, think_dtype dtype, int64_t batch, int64_t heads, int64_t tokens, int64_t channels) {
  tensor = THINK_TENSOR_INIT;
  tensor.data = data;
  tensor.dtype = dtype;
  const int64_t extent[4] = {batch, heads, tokens, channels}, stride[4] = {heads * tokens * channels, tokens * channels, channels, 1};
  std::memcpy(tensor.extent, extent, sizeof extent);
  std::memcpy(tensor.stride, stride, sizeof stride);
}

template <class T>
T *filled(T *memory, const T &initial) {
  *memory = initial;
  return memory;
}

}  // namespace

template <class T>
T *World::take(size_t count, size_t spare) {
  used_ = (used_ + 63) / 64 * 64;
  T *memory = reinterpret_cast<T *>(arena_ + used_);
  used_ += count * sizeof(T) + spare;
  if (used_ > kArenaBytes) {
    std::fprintf(stderr, "the arena of the tests' world is too small\n");
    std::abort();
  }
  return memory;
}

World::World() : arena_(static_cast<char *>(std::aligned_alloc(4096, kArenaBytes))) {
  std::memset(arena_, 0, kArenaBytes);
  lay_out();
  lay_out_segments();
  lay_out_cache();
  golden_ = memory();
  for (const char *step :
       {"think_score_reset", "think_score_update", "think_score_finish", "think_score_window", "think_evict", "think_evict_move", "think_moments",
        "think_gains", "think_budgets", "think_select", "think_fit", "think_segment_place", "think_compact", "think_attend"}) {
    call(step);
  }
  golden_ = memory();
}

World::~World() {
  think_cache_destroy(cache);
  think_plan_destroy(plan);
  think_context_destroy(context);
  std::free(arena_);
}

void World::call(const char *name) {
  const Function &chosen = function(name);
  think_error error = THINK_ERROR_INIT;
  const think_status status = chosen.invoke(chosen.values(*this), &error);
  if (status == THINK_OK) return;
  std::fprintf(stderr, "the flow of the tests' world failed in %s: %s, argument %d: %s\n", name, think_status_name(status), error.argument,
               error.message);
  std::abort();
}

void World::restore(const Function &chosen) {
  std::memcpy(arena_, golden_.data(), golden_.size());
  for (const Range &range : chosen.outputs(*this)) std::memset(range.memory, 0xA5, range.bytes);
}

void World::lay_out() {
  context_options = filled(take<think_context_options>(), think_context_options(THINK_CONTEXT_OPTIONS_INIT));
  problem = filled(take<think_problem>(), think_problem(THINK_PROBLEM_INIT));
  problem->query_heads = kQueryHeads;
  problem->kv_heads = kKvHeads;
  problem->key_channels = kKeyChannels;
  problem->value_channels = kValueChannels;
  problem->window = kWindow;
  problem->max_batch = kBatch;
  problem->max_queries = kQueries;
  problem->max_tokens = kMaxTokens;
  think_error error = THINK_ERROR_INIT;
  if (think_context_create(nullptr, &context, &error) != THINK_OK || think_plan_create(context, problem, &plan, &error) != THINK_OK) {
    std::fprintf(stderr, "the tests' world has no plan: %s\n", error.message);
    std::abort();
  }
  new_context = take<think_context *>();
  new_plan = take<think_plan *>();
  number = take<int64_t>();
  second_number = take<int64_t>();
  needed = take<size_t>();
  device = take<think_device>();
  text = take<char>(4096);
  extent = filled(take<think_extent>(), think_extent(THINK_EXTENT_INIT));

  slots = take<int32_t>(kBatch);
  slots[0] = 1;  // sequences do not sit in the slots of their own number
  batch = filled(take<think_batch>(), think_batch(THINK_BATCH_INIT));
  batch->count = kBatch;
  batch->slot = slots;

  // One workspace for all stages, as large as the largest needs.
  for (int32_t stage = THINK_STAGE_SCORE; stage <= THINK_STAGE_EVICT; ++stage) {
    int64_t bytes = 0;
    if (think_workspace_size(plan, stage, nullptr, &bytes, nullptr, &error) != THINK_OK) std::abort();
    if (bytes > workspace_bytes) workspace_bytes = bytes;
  }
  workspace = take<char>(static_cast<size_t>(workspace_bytes) + 64);
  launch = filled(take<think_launch>(), think_launch(THINK_LAUNCH_INIT));
  launch->workspace = workspace;
  launch->workspace_bytes = workspace_bytes;

  Noise noise;
  const auto floats = [&](size_t count) {
    float *memory = take<float>(count);
    for (size_t at = 0; at < count; ++at) memory[at] = noise.next();
    return memory;
  };
  query = take<think_tensor>();
  describe(*query, floats(size_t{kBatch} * kQueryHeads * kTokens * kKeyChannels), THINK_F32, kBatch, kQueryHeads, kTokens, kKeyChannels);
  attention = take<think_tensor>();
  describe(*attention, floats(size_t{kBatch} * kQueryHeads * kWindow * kValueChannels), THINK_F32, kBatch, kQueryHeads, kWindow,
           kValueChannels);
  new_query = take<think_tensor>();
  describe(*new_query, floats(size_t{kBatch} * kQueryHeads * kQueries * kKeyChannels), THINK_F32, kBatch, kQueryHeads, kQueries,
           kKeyChannels);
  output = take<think_tensor>();
  describe(*output, floats(size_t{kBatch} * kQueryHeads * kQueries * kValueChannels), THINK_F32, kBatch, kQueryHeads, kQueries,
           kValueChannels);
  partials = take<think_tensor>(2, 256);
  partial_lses = take<const float *>(2);
  for (int32_t part = 0; part < 2; ++part) {
    describe(partials[part], floats(size_t{kBatch} * kQueryHeads * kQueries * kValueChannels), THINK_F32, kBatch, kQueryHeads, kQueries,
             kValueChannels);
    partial_lses[part] = floats(size_t{kBatch} * kQueryHeads * kQueries);
  }
  lse = take<float>(size_t{kBatch} * kQueryHeads * kQueries);
  sink_logit = floats(kQueryHeads);
  window_query = filled(take<think_tensor>(), think_tensor(THINK_TENSOR_INIT));

  int64_t bytes = 0;
  if (think_score_state_size(plan, kBatch, &bytes, &error) != THINK_OK) std::abort();
  state_bytes_ = static_cast<size_t>(bytes);
  state = take<char>(state_bytes_);
  if (think_moments_size(plan, kBatch, &bytes, &error) != THINK_OK) std::abort();
  moments_bytes_ = static_cast<size_t>(bytes);
  moments = take<char>(moments_bytes_);
  score = take<float>(size_t{kBatch} * kKvHeads * kKeyChannels);
  value_score = take<float>(size_t{kBatch} * kKvHeads * kValueChannels);
  gains = take<float>(size_t{kBatch} * kKvHeads * kKeyChannels);
  order = take<int32_t>(size_t{kBatch} * kKvHeads * kKeyChannels);
  budgets = take<int32_t>(size_t{kBatch} * kKvHeads);
  mask = take<uint8_t>(size_t{kBatch} * kKvHeads * kKeyChannels);

  key_basis = filled(take<think_basis>(), think_basis(THINK_BASIS_INIT));
  value_basis = filled(take<think_basis>(), think_basis(THINK_BASIS_INIT));
  spare_basis = filled(take<think_basis>(), think_basis(THINK_BASIS_INIT));
  for (int32_t side : {THINK_VALUES, THINK_KEYS}) {
    if (think_basis_size(plan, side, kBatch, &basis_bytes, nullptr, &error) != THINK_OK) std::abort();
    char *memory = take<char>(static_cast<size_t>(basis_bytes));
    (side == THINK_KEYS ? key_basis_memory : value_basis_memory) = memory;
    if (think_basis_bind(plan, side, kBatch, memory, basis_bytes, side == THINK_KEYS ? key_basis : value_basis, &error) != THINK_OK)
      std::abort();
  }
  spare_basis_memory = take<char>(static_cast<size_t>(basis_bytes));
  // values keep their first half in every head, without prediction
  for (int32_t head = 0; head < kBatch * kKvHeads; ++head) {
    value_basis->kept[head] = kValueChannels / 2;
    value_basis->weight_offset[head] = -1;
    for (int32_t channel = 0; channel < kValueChannels; ++channel) value_basis->index[head * kValueChannels + channel] = channel;
  }

  format = filled(take<think_format>(), think_format(THINK_FORMAT_INIT));
  info = filled(take<think_layout_info>(), think_layout_info(THINK_LAYOUT_INFO_INIT));
  score_options = filled(take<think_score_options>(), think_score_options(THINK_SCORE_OPTIONS_INIT));
  moments_options = filled(take<think_moments_options>(), think_moments_options(THINK_MOMENTS_OPTIONS_INIT));
  budget_options = filled(take<think_budget_options>(), think_budget_options(THINK_BUDGET_OPTIONS_INIT));
  budget_options->total = 32;
  select_options = filled(take<think_select_options>(), think_select_options(THINK_SELECT_OPTIONS_INIT));
  select_options->kept = 16;
  fit_options = filled(take<think_fit_options>(), think_fit_options(THINK_FIT_OPTIONS_INIT));
  evict_options = filled(take<think_evict_options>(), think_evict_options(THINK_EVICT_OPTIONS_INIT));
  evict_options->budget = evict_options->kept_stride = kEvictBudget;
  evict_options->score_stride = kTokens;
  evict_budget = take<int32_t>(size_t{kBatch} * kKvHeads);
  for (int32_t head = 0; head < kBatch * kKvHeads; ++head) evict_budget[head] = kEvictBudget - 7 * head;
  evict_kept = take<int32_t>(size_t{kBatch} * kKvHeads * kEvictBudget);
  evict_lengths = take<int32_t>(size_t{kBatch} * kKvHeads);
  evict_score = take<float>(size_t{kBatch} * kKvHeads * kTokens);
  prune_options = filled(take<think_prune_options>(), think_prune_options(THINK_PRUNE_OPTIONS_INIT));
  prune_options->dense_limit = -1;
  prune_options->key_kept = 16;
  prune_options->value_kept = 8;
  prune_result = filled(take<think_prune_result>(), think_prune_result(THINK_PRUNE_RESULT_INIT));

  DLTensorMirror *mirror = take<DLTensorMirror>();
  *mirror = {query->data, THINK_DEVICE_CPU, 0, 4, 2, 32, 1, query->extent, query->stride, 0};
  dlpack = mirror;
}

void World::lay_out_cache() {
  new_cache = take<think_cache *>();
  cache_options = filled(take<think_cache_options>(), think_cache_options(THINK_CACHE_OPTIONS_INIT));
  cache_options->prune = prune_options;
  cache_options->format = format;
  cache_info = filled(take<think_cache_info>(), think_cache_info(THINK_CACHE_INFO_INIT));
  exported_key = take<think_tensor>();
  describe(*exported_key, take<uint16_t>(size_t{kBatch} * kKvHeads * kQueries * kKeyChannels), THINK_F16, kBatch, kKvHeads, kQueries, kKeyChannels);
  exported_value = take<think_tensor>();
  describe(*exported_value, take<float>(size_t{kBatch} * kKvHeads * kQueries * kValueChannels), THINK_F32, kBatch, kKvHeads, kQueries, kValueChannels);
  think_tensor value = *key;
  value.data = source->value;
  value.extent[3] = value.stride[2] = kValueChannels;
  value.stride[0] = kKvHeads * kRoom * kValueChannels;
  value.stride[1] = kRoom * kValueChannels;
  const int32_t sequences[kBatch] = {1, 0}, tokens[kBatch] = {kQueries, kQueries};
  think_error error = THINK_ERROR_INIT;
  if (think_cache_create(plan, cache_options, &cache, &error) != THINK_OK ||
      think_cache_step(cache, sequences, tokens, kBatch, launch, &error) != THINK_OK ||
      think_cache_append(cache, 0, new_query, key, &value, launch, &error) != THINK_OK) {
    std::fprintf(stderr, "the tests' world has no cache: %s\n", error.message);
    std::abort();
  }
}

void World::lay_out_segments() {
  const auto numbers = [&](int32_t value) {
    int32_t *memory = take<int32_t>(kBatch);
    for (int32_t sequence = 0; sequence < kBatch; ++sequence) memory[sequence] = value;
    return memory;
  };
  Noise noise;
  const auto halves = [&](size_t count) {
    uint16_t *memory = take<uint16_t>(count);
    for (size_t at = 0; at < count; ++at) memory[at] = half(noise.next());
    return memory;
  };
  // 4 sinks, 64 rows that move, 28 recent ones
  dense_lengths = numbers(kTokens);
  sink_lengths = numbers(4);
  pruned_lengths = numbers(64);
  recent_first = numbers(68);
  recent_lengths = numbers(28);

  think_segment dense = THINK_SEGMENT_INIT;
  dense.key_dtype = dense.value_dtype = THINK_F16;
  dense.key = halves(size_t{kBatch} * kKvHeads * kRoom * kKeyChannels);
  dense.value = halves(size_t{kBatch} * kKvHeads * kRoom * kValueChannels);
  dense.page_tokens = kRoom;
  dense.key_stride[1] = kRoom * kKeyChannels * 2;
  dense.key_stride[0] = dense.key_stride[1] * kKvHeads;
  dense.value_stride[1] = kRoom * kValueChannels * 2;
  dense.value_stride[0] = dense.value_stride[1] * kKvHeads;
  dense.lengths = dense_lengths;
  dense.lengths_stride[0] = 1;
  source = filled(take<think_segment>(), dense);

  key = take<think_tensor>();
  describe(*key, dense.key, THINK_F16, kBatch, kKvHeads, kTokens, kKeyChannels);
  key->stride[0] = kKvHeads * kRoom * kKeyChannels;
  key->stride[1] = kRoom * kKeyChannels;

  think_error error = THINK_ERROR_INIT;
  think_layout_info sizes = THINK_LAYOUT_INFO_INIT;
  const int64_t all_keys = kKvHeads * kKeyChannels, all_values = kKvHeads * kValueChannels;
  if (think_layout(plan, format, kRoom, all_keys, all_values, &sizes, &error) != THINK_OK) std::abort();
  page_key_bytes = sizes.key_page_bytes;
  page_value_bytes = sizes.value_page_bytes;
  compact_key = take<char>(static_cast<size_t>(page_key_bytes) * kBatch);
  compact_value = take<char>(static_cast<size_t>(page_value_bytes) * kBatch);
  key_head_offset = take<int64_t>(kBatch * kKvHeads);
  value_head_offset = take<int64_t>(kBatch * kKvHeads);

  think_segment compact = THINK_SEGMENT_INIT;
  compact.key_layout = THINK_TILES;
  compact.key_dtype = compact.value_dtype = THINK_F16;
  compact.page_tokens = kRoom;
  compact.key = compact_key;
  compact.value = compact_value;
  compact.key_stride[0] = page_key_bytes;
  compact.value_stride[0] = page_value_bytes;
  compact.key_head_offset = key_head_offset;
  compact.value_head_offset = value_head_offset;
  compact.key_basis = key_basis;
  compact.value_basis = value_basis;
  compact.lengths = pruned_lengths;
  compact.lengths_stride[0] = 1;
  destination = filled(take<think_segment>(), compact);

  think_segment rows = dense;
  rows.key = halves(size_t{kBatch} * kKvHeads * kRoom * kKeyChannels);
  rows.value = halves(size_t{kBatch} * kKvHeads * kRoom * kValueChannels);
  rows.lengths = evict_lengths;
  rows.lengths_stride[0] = kKvHeads;
  rows.lengths_stride[1] = 1;
  evicted = filled(take<think_segment>(), rows);

  segments = take<think_segment>(3, 256);
  segments[0] = dense;
  segments[0].lengths = sink_lengths;
  segments[1] = compact;
  segments[2] = dense;
  segments[2].flags = THINK_SEGMENT_CAUSAL;
  segments[2].first = recent_first;
  segments[2].lengths = recent_lengths;
}

}  // namespace think_test
