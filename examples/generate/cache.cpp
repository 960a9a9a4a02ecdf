#include "cache.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>

#include <sys/mman.h>

namespace generate {
namespace {

constexpr int64_t kGrowth = 32;             // dense rows are allocated in steps of so many tokens
constexpr size_t kHugePage = size_t{2} << 20;

void check(think_status status, const think_error &error, const char *what) {
  if (status != THINK_OK) throw std::runtime_error(std::string(what) + ": " + think_status_name(status) + ": " + error.message);
}

// Blocks of 2 MiB and more start on a huge page and ask for huge pages: attention reads them from end to end for every token.
std::unique_ptr<std::byte, void (*)(void *)> allocate_aligned(size_t bytes) {
  void *memory = nullptr;
  if (posix_memalign(&memory, bytes >= kHugePage ? kHugePage : 64, std::max<size_t>(bytes, 64)) != 0) throw std::bad_alloc();
  if (bytes >= kHugePage) madvise(memory, bytes, MADV_HUGEPAGE);
  return {static_cast<std::byte *>(memory), std::free};
}

// libthink's parallel_for hook: the engine's threads do the library's work.
void parallel_for(void *user, int64_t count, think_task task, void *arg) {
  static_cast<ThreadPool *>(user)->run(count, [&](int64_t index) { task(arg, index); });
}

think_tensor rows_tensor(const float *data, int64_t heads, int64_t count, int64_t channels, int64_t token_stride) {
  think_tensor tensor = THINK_TENSOR_INIT;
  tensor.data = const_cast<float *>(data);
  tensor.dtype = THINK_F32;
  const int64_t extent[4] = {1, heads, count, channels}, stride[4] = {count * token_stride, channels, token_stride, 1};
  std::copy_n(extent, 4, tensor.extent);
  std::copy_n(stride, 4, tensor.stride);
  return tensor;
}

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

} // namespace

// ---- Attention ----------------------------------------------------------------------------------------------------------------------------------

Attention::Attention(const CacheShape &shape, think_dtype cache_type, ThreadPool &pool) : shape_(shape), cache_type_(cache_type), workspace_(nullptr, std::free) {
  think_error error = THINK_ERROR_INIT;
  think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
  options.threads = pool.threads();
  options.parallel_for = parallel_for;
  options.user = &pool;
  think_context *context = nullptr;
  check(think_context_create(&options, &context, &error), error, "think_context_create");

  think_problem problem = THINK_PROBLEM_INIT;
  problem.query_dtype = THINK_F32;
  problem.cache_dtype = cache_type;
  problem.query_heads = static_cast<int32_t>(shape.query_heads);
  problem.kv_heads = static_cast<int32_t>(shape.kv_heads);
  problem.key_channels = static_cast<int32_t>(shape.channels);
  problem.max_queries = static_cast<int32_t>(shape.max_queries);
  problem.max_tokens = shape.max_tokens;
  think_plan *plan = nullptr;
  const think_status status = think_plan_create(context, &problem, &plan, &error);
  think_context_destroy(context); // the plan keeps what it needs
  check(status, error, "think_plan_create");
  plan_.reset(plan);

  // One workspace serves every call, because they come one after the other.
  int64_t bytes = 0;
  think_extent extent = THINK_EXTENT_INIT;
  for (const int32_t stage : {THINK_STAGE_SCORE, THINK_STAGE_COMPACT, THINK_STAGE_ATTEND, THINK_STAGE_PRUNE}) {
    // New tokens of one update of the score are at most one chunk.
    extent.tokens = stage == THINK_STAGE_SCORE ? shape.max_queries : 0;
    int64_t needed = 0;
    check(think_workspace_size(plan, stage, &extent, &needed, nullptr, &error), error, "think_workspace_size");
    bytes = std::max(bytes, needed);
  }
  workspace_ = allocate_aligned(static_cast<size_t>(bytes));
  std::memset(workspace_.get(), 0, static_cast<size_t>(bytes));
  launch_.workspace = workspace_.get();
  launch_.workspace_bytes = bytes;
}

std::string Attention::describe() const {
  think_error error = THINK_ERROR_INIT;
  size_t needed = 0;
  check(think_plan_describe(plan(), nullptr, 0, &needed, &error), error, "think_plan_describe");
  std::string json(needed, '\0');
  check(think_plan_describe(plan(), json.data(), json.size(), &needed, &error), error, "think_plan_describe");
  json.resize(needed - 1);
  return json;
}

// ---- Cache: memory ------------------------------------------------------------------------------------------------------------------------------

Cache::Block::Block(int64_t size) : memory(allocate_aligned(static_cast<size_t>(size))), bytes(size) {}

Cache::Block Cache::Block::copy() const {
  if (bytes == 0) return {};
  Block other(bytes);
  std::memcpy(other.memory.get(), memory.get(), static_cast<size_t>(bytes));
  return other;
}

Cache::Cache(Attention &attention)
    : attention_(&attention), layers_(static_cast<size_t>(attention.shape().layers)), capacity_(layers_.size()), key_channels_(attention.shape().kv_heads * attention.shape().channels),
      value_channels_(key_channels_) {
  think_error error = THINK_ERROR_INIT;
  int64_t bytes = 0;
  check(think_score_state_size(attention.plan(), 1, &bytes, &error), error, "think_score_state_size");
  for (Layer &layer : layers_) {
    layer.score = Block(bytes);
    check(think_score_reset(attention.plan(), layer.score.memory.get(), nullptr, attention.launch(), &error), error, "think_score_reset");
  }
}

Cache Cache::clone() const {
  Cache other(*attention_);
  other.capacity_ = capacity_;
  other.compact_tokens_ = compact_tokens_;
  other.dense_tokens_ = dense_tokens_;
  other.key_channels_ = key_channels_;
  other.value_channels_ = value_channels_;
  other.scoring_ = scoring_;
  const auto copy_side = [&](const Side &from, Side &to, int32_t which) {
    to.rows = from.rows.copy();
    to.head_offset = from.head_offset;
    to.has_basis = from.has_basis;
    if (!from.has_basis) return;
    to.basis_memory = from.basis_memory.copy();
    think_error error = THINK_ERROR_INIT;
    check(think_basis_bind(attention_->plan(), which, 1, to.basis_memory.memory.get(), to.basis_memory.bytes, &to.basis, &error), error, "think_basis_bind");
  };
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer &from = layers_[i];
    Layer &to = other.layers_[i];
    to.key = from.key.copy();
    to.value = from.value.copy();
    to.score = from.score.copy();
    copy_side(from.compact_key, to.compact_key, THINK_KEYS);
    copy_side(from.compact_value, to.compact_value, THINK_VALUES);
  }
  return other;
}

int64_t Cache::row_bytes() const { return attention_->shape().channels * think_dtype_bytes(attention_->cache_type()); }

void Cache::reserve(Layer &layer, int64_t tokens) {
  int64_t &capacity = capacity_[static_cast<size_t>(&layer - layers_.data())];
  if (tokens <= capacity) return;
  const int64_t heads = attention_->shape().kv_heads, larger = round_up(tokens, kGrowth);
  for (Block *block : {&layer.key, &layer.value}) {
    Block grown(heads * larger * row_bytes());
    for (int64_t h = 0; h < heads && dense_tokens_ > 0; ++h)
      std::memcpy(grown.memory.get() + h * larger * row_bytes(), block->memory.get() + h * capacity * row_bytes(), static_cast<size_t>(dense_tokens_ * row_bytes()));
    *block = std::move(grown);
  }
  capacity = larger;
}

void Cache::stop_scoring() {
  scoring_ = false;
  for (Layer &layer : layers_) layer.score = {};
}

Cache::Usage Cache::usage() const {
  Usage usage{tokens(), compact_tokens_, dense_tokens_, 0, 0, key_channels_, value_channels_};
  const int64_t heads = attention_->shape().kv_heads;
  for (const Layer &layer : layers_) {
    usage.bytes += layer.key.bytes + layer.value.bytes;
    for (const Side *side : {&layer.compact_key, &layer.compact_value})
      usage.bytes += side->rows.bytes + side->basis_memory.bytes + static_cast<int64_t>(side->head_offset.size() * sizeof(int64_t));
  }
  usage.dense_bytes = 2 * static_cast<int64_t>(layers_.size()) * heads * round_up(tokens(), kGrowth) * row_bytes();
  return usage;
}

double Cache::take_attention_seconds() { return std::exchange(attention_seconds_, 0.0); }

// ---- Cache: segments ----------------------------------------------------------------------------------------------------------------------------

think_segment Cache::dense_segment(const Block &key, const Block &value, int64_t capacity, const int32_t *first, const int32_t *length) const {
  think_segment segment = THINK_SEGMENT_INIT;
  segment.page_tokens = static_cast<int32_t>(capacity);
  segment.key_dtype = segment.value_dtype = attention_->cache_type();
  segment.key = key.memory.get();
  segment.value = value.memory.get();
  const int64_t stride[3] = {0, capacity * row_bytes(), row_bytes()}; // one sequence: the slot stride is never used
  std::copy_n(stride, 3, segment.key_stride);
  std::copy_n(stride, 3, segment.value_stride);
  segment.first = first;
  segment.lengths = length;
  return segment;
}

think_segment Cache::compact_segment(Layer &layer) const {
  think_segment segment = THINK_SEGMENT_INIT;
  segment.key_layout = THINK_TILES;
  segment.page_tokens = compact_tokens_;
  segment.key_dtype = segment.value_dtype = attention_->cache_type();
  segment.key = layer.compact_key.rows.memory.get();
  segment.value = layer.compact_value.rows.memory.get();
  segment.key_head_offset = layer.compact_key.head_offset.data();
  segment.value_head_offset = layer.compact_value.head_offset.data();
  segment.key_basis = layer.compact_key.has_basis ? &layer.compact_key.basis : nullptr;
  segment.value_basis = layer.compact_value.has_basis ? &layer.compact_value.basis : nullptr;
  segment.lengths = &compact_tokens_;
  return segment;
}

// ---- Cache: the flow ----------------------------------------------------------------------------------------------------------------------------

void Cache::attend(int64_t index, Rows query, Rows key, Rows value, int64_t count, float *out) {
  const CacheShape &shape = attention_->shape();
  Layer &layer = layers_[static_cast<size_t>(index)];
  think_error error = THINK_ERROR_INIT;
  const think_tensor query_rows = rows_tensor(query.data, shape.query_heads, count, shape.channels, query.stride);
  if (scoring_) {
    const think_tensor key_rows = rows_tensor(key.data, shape.kv_heads, count, shape.channels, key.stride);
    check(think_score_update(attention_->plan(), &query_rows, &key_rows, nullptr, layer.score.memory.get(), attention_->launch(), &error), error, "think_score_update");
  }

  // Append: think_compact() without a basis copies rows of any layout and rounds them to the type of the cache.
  reserve(layer, dense_tokens_ + count);
  const int64_t capacity = capacity_[static_cast<size_t>(index)];
  const auto added = static_cast<int32_t>(count);
  think_segment fresh = THINK_SEGMENT_INIT;
  fresh.key_dtype = fresh.value_dtype = THINK_F32;
  fresh.key = const_cast<float *>(key.data);
  fresh.value = const_cast<float *>(value.data);
  fresh.lengths = &added;
  fresh.key_stride[1] = fresh.value_stride[1] = shape.channels * static_cast<int64_t>(sizeof(float));
  fresh.key_stride[2] = key.stride * static_cast<int64_t>(sizeof(float));
  fresh.value_stride[2] = value.stride * static_cast<int64_t>(sizeof(float));
  const think_segment tail = dense_segment(layer.key, layer.value, capacity, &dense_tokens_, &added);
  check(think_compact(attention_->plan(), &fresh, &tail, nullptr, attention_->launch(), &error), error, "think_compact");

  // Attend: the compact prefix is visible to every query; sinks, window and new tokens are one causal run of dense rows.
  const int32_t length = dense_tokens_ + added;
  think_segment segments[2];
  int32_t segment_count = 0;
  if (compact_tokens_ > 0) segments[segment_count++] = compact_segment(layer);
  segments[segment_count] = dense_segment(layer.key, layer.value, capacity, nullptr, &length);
  segments[segment_count++].flags = THINK_SEGMENT_CAUSAL;
  const think_tensor output = rows_tensor(out, shape.query_heads, count, shape.channels, shape.query_heads * shape.channels);
  const auto start = std::chrono::steady_clock::now();
  check(think_attend(attention_->plan(), &query_rows, nullptr, segments, segment_count, nullptr, &output, nullptr, attention_->launch(), &error), error, "think_attend");
  attention_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

bool Cache::prune(const think_prune_options &requested) {
  if (!scoring_) throw std::runtime_error("prune: this cache keeps no scores (it was pruned before, or scoring was stopped)");
  think_error error = THINK_ERROR_INIT;
  think_prune_result result = THINK_PRUNE_RESULT_INIT;
  check(think_prune_preview(attention_->plan(), nullptr, tokens(), &requested, &result, &error), error, "think_prune_preview");
  if (result.rows == 0) return false;

  // A side that stays dense is copied without a basis, so none is allocated for it.
  think_prune_options options = requested;
  if (result.key_basis_bytes == 0) options.key_kept = -1;
  if (result.value_basis_bytes == 0) options.value_kept = -1;
  for (Layer &layer : layers_) prune_layer(layer, options, result);
  compact_tokens_ = static_cast<int32_t>(result.rows);
  dense_tokens_ -= compact_tokens_;
  key_channels_ = result.key_total;
  value_channels_ = result.value_total;
  scoring_ = false;
  return true;
}

void Cache::allocate(Side &side, int32_t which, int64_t page_bytes, bool with_basis) const {
  side.rows = Block(page_bytes);
  side.head_offset.assign(static_cast<size_t>(attention_->shape().kv_heads), 0);
  side.has_basis = with_basis;
  if (!with_basis) return;
  think_error error = THINK_ERROR_INIT;
  int64_t bytes = 0;
  check(think_basis_size(attention_->plan(), which, 1, &bytes, nullptr, &error), error, "think_basis_size");
  side.basis_memory = Block(bytes);
  check(think_basis_bind(attention_->plan(), which, 1, side.basis_memory.memory.get(), bytes, &side.basis, &error), error, "think_basis_bind");
}

void Cache::prune_layer(Layer &layer, const think_prune_options &options, const think_prune_result &result) {
  const think_plan *plan = attention_->plan();
  const think_launch *launch = attention_->launch();
  think_error error = THINK_ERROR_INIT;
  const auto rows = static_cast<int32_t>(result.rows), sinks = static_cast<int32_t>(result.first);

  // 1. Room for the compact rows: all sizes are known beforehand, only the split among the heads is not.
  think_layout_info info = THINK_LAYOUT_INFO_INIT;
  check(think_layout(plan, nullptr, rows, result.key_total, result.value_total, &info, &error), error, "think_layout");
  allocate(layer.compact_key, THINK_KEYS, info.key_page_bytes, result.key_basis_bytes > 0);
  allocate(layer.compact_value, THINK_VALUES, info.value_page_bytes, result.value_basis_bytes > 0);

  // 2. Moments, gains, budgets, select, fit and compact in one call.
  int64_t &capacity = capacity_[static_cast<size_t>(&layer - layers_.data())];
  think_segment all = dense_segment(layer.key, layer.value, capacity, nullptr, &dense_tokens_);
  all.flags = THINK_SEGMENT_CAUSAL;
  think_segment compact = compact_segment(layer);
  compact.page_tokens = rows;
  compact.lengths = &rows;
  check(think_prune(plan, layer.score.memory.get(), &all, &compact, nullptr, &options, nullptr, launch, &error), error, "think_prune");

  // 3. Sinks and window move to a small dense segment; the large one is freed.
  const int32_t parts[2][3] = {{0, 0, sinks}, {sinks + rows, sinks, dense_tokens_ - sinks - rows}}; // from, to, length
  const int64_t room = round_up(dense_tokens_ - rows, kGrowth), heads = attention_->shape().kv_heads;
  Block key(heads * room * row_bytes()), value(heads * room * row_bytes());
  for (const auto &[from, to, length] : parts) {
    if (length == 0) continue;
    const think_segment source = dense_segment(layer.key, layer.value, capacity, &from, &length);
    const think_segment destination = dense_segment(key, value, room, &to, &length);
    check(think_compact(plan, &source, &destination, nullptr, launch, &error), error, "think_compact");
  }
  layer.key = std::move(key);
  layer.value = std::move(value);
  layer.score = {};
  capacity = room;
}

} // namespace generate
