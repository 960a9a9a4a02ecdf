#include "cache.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>

#include <sys/mman.h>

namespace generate {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr int64_t kWindow = 32; // queries that scores look through: the library's default

void check(think_status status, const think_error &error, const char *what) {
  if (status != THINK_OK) throw std::runtime_error(std::string(what) + ": " + think_status_name(status) + ": " + error.message);
}

// libthink's hooks. Blocks of 2 MiB and more start on a huge page and ask for huge pages: attention reads them from end to end for every token.
void *allocate(void *, size_t bytes, size_t alignment) {
  void *memory = nullptr;
  if (posix_memalign(&memory, bytes >= kHugePage ? kHugePage : alignment, bytes) != 0) return nullptr;
  if (bytes >= kHugePage) madvise(memory, bytes, MADV_HUGEPAGE);
  return memory;
}

void deallocate(void *, void *memory, size_t, size_t) { std::free(memory); }

void parallel_for(void *user, int64_t count, think_task task, void *arg) { // the engine's threads do the library's work
  static_cast<ThreadPool *>(user)->run(count, [&](int64_t index) { task(arg, index); });
}

// One sequence. Elements from one head to the next, from one token to the next.
think_tensor tensor(const void *data, think_dtype type, int64_t heads, int64_t count, int64_t channels, int64_t head_stride, int64_t token_stride) {
  think_tensor tensor = THINK_TENSOR_INIT;
  tensor.data = const_cast<void *>(data);
  tensor.dtype = type;
  const int64_t extent[4] = {1, heads, count, channels}, stride[4] = {0, head_stride, token_stride, 1};
  std::copy_n(extent, 4, tensor.extent);
  std::copy_n(stride, 4, tensor.stride);
  return tensor;
}

} // namespace

// ---- Attention ----------------------------------------------------------------------------------------------------------------------------------

Attention::Attention(const CacheShape &shape, think_dtype cache_type, ThreadPool &pool)
    : shape_(shape), cache_type_(cache_type), workspace_(nullptr, std::free) {
  think_error error = THINK_ERROR_INIT;
  think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
  options.threads = pool.threads();
  options.parallel_for = parallel_for;
  options.allocate = allocate;
  options.deallocate = deallocate;
  options.user = &pool;
  think_context *context = nullptr;
  check(think_context_create(&options, &context, &error), error, "think_context_create");

  think_problem problem = THINK_PROBLEM_INIT;
  problem.query_dtype = THINK_F32;
  problem.cache_dtype = cache_type;
  problem.query_heads = static_cast<int32_t>(shape.query_heads);
  problem.kv_heads = static_cast<int32_t>(shape.kv_heads);
  problem.key_channels = static_cast<int32_t>(shape.channels);
  problem.max_tokens = shape.max_tokens;
  problem.max_queries = static_cast<int32_t>(shape.max_queries);
  think_plan *plan = nullptr;
  const think_status status = think_plan_create(context, &problem, &plan, &error);
  think_context_destroy(context); // the plan keeps what it needs
  check(status, error, "think_plan_create");
  plan_.reset(plan);
}

void Attention::reserve_workspace(int64_t bytes) {
  if (bytes <= launch_.workspace_bytes) return;
  workspace_.reset(static_cast<std::byte *>(allocate(nullptr, static_cast<size_t>(bytes), 64)));
  if (!workspace_) throw std::bad_alloc();
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

// ---- Cache: life --------------------------------------------------------------------------------------------------------------------------------

struct Cache::Shared {
  std::unique_ptr<think_cache, void (*)(think_cache *)> cache{nullptr, think_cache_destroy};
  CacheSettings settings;
  std::array<bool, 4> taken{}; // sequences: a conversation and its forks
};

Cache::Cache(Attention &attention, const CacheSettings &settings) : Cache(attention, std::make_shared<Shared>()) {
  think_error error = THINK_ERROR_INIT;
  think_cache_options options = THINK_CACHE_OPTIONS_INIT;
  options.flags = settings.prunes || settings.evicts ? 0 : THINK_CACHE_NO_SCORES;
  options.layers = static_cast<int32_t>(attention.shape().layers);
  options.sequences = static_cast<int32_t>(shared_->taken.size());
  options.fold = settings.fold;
  options.rollback = -1; // nothing is taken back here, so a fold leaves the recent rows only, not as many as a chunk of a prompt has
  options.prune = &settings.prune;
  think_format plain = THINK_FORMAT_INIT;
  plain.key_layout = THINK_TILES;
  std::vector<think_format> formats(static_cast<size_t>(options.layers), settings.format);
  const int64_t kept = std::min<int64_t>(settings.keep_layers, options.layers);
  std::fill_n(formats.begin(), kept, plain);
  std::fill_n(formats.rbegin(), kept, plain);
  options.layer_formats = formats.data();
  think_cache *cache = nullptr;
  check(think_cache_create(attention.plan(), &options, &cache, &error), error, "think_cache_create");
  shared_->cache.reset(cache);
  shared_->settings = settings;
  int64_t bytes = 0;
  check(think_cache_workspace_size(cache, &bytes, nullptr, &error), error, "think_cache_workspace_size");
  attention.reserve_workspace(bytes);
}

Cache::Cache(Attention &attention, std::shared_ptr<Shared> shared) : attention_(&attention), shared_(std::move(shared)) {
  const auto free = std::find(shared_->taken.begin(), shared_->taken.end(), false);
  if (free == shared_->taken.end()) throw std::runtime_error("a cache has room for " + std::to_string(shared_->taken.size()) + " forks");
  *free = true;
  sequence_ = static_cast<int32_t>(free - shared_->taken.begin());
}

Cache::~Cache() {
  if (!shared_) return;
  think_cache_drop(get(), sequence_, nullptr);
  shared_->taken[static_cast<size_t>(sequence_)] = false;
}

think_cache *Cache::get() const { return shared_->cache.get(); }

Cache Cache::fork() const {
  think_error error = THINK_ERROR_INIT;
  Cache other(*attention_, shared_);
  check(think_cache_fork(get(), sequence_, other.sequence_, &error), error, "think_cache_fork");
  other.tokens_ = tokens_;
  return other;
}

// ---- Cache: the flow ----------------------------------------------------------------------------------------------------------------------------

void Cache::step(int64_t count) {
  think_error error = THINK_ERROR_INIT;
  const auto added = static_cast<int32_t>(count);
  check(think_cache_step(get(), &sequence_, &added, 1, attention_->launch(), &error), error, "think_cache_step");
  count_ = count;
  tokens_ += count;
}

void Cache::attend(int64_t index, Rows query, Rows key, Rows value, float *out) {
  const CacheShape &shape = attention_->shape();
  think_error error = THINK_ERROR_INIT;
  const auto layer = static_cast<int32_t>(index);
  const int64_t width = shape.query_heads * shape.channels;
  const auto rows = [&](const float *data, int64_t heads, int64_t stride) {
    return tensor(data, THINK_F32, heads, count_, shape.channels, shape.channels, stride);
  };
  const think_tensor queries = rows(query.data, shape.query_heads, query.stride), output = rows(out, shape.query_heads, width);
  const think_tensor keys = rows(key.data, shape.kv_heads, key.stride), values = rows(value.data, shape.kv_heads, value.stride);
  check(think_cache_append(get(), layer, &queries, &keys, &values, attention_->launch(), &error), error, "think_cache_append");
  const auto start = std::chrono::steady_clock::now();
  check(think_cache_attend(get(), layer, &queries, nullptr, &output, nullptr, attention_->launch(), &error), error, "think_cache_attend");
  attention_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  if (count_ == 1) return; // not a chunk of a prompt
  window_.resize(static_cast<size_t>(shape.layers));
  const int64_t kept = std::min(count_, kWindow);
  std::vector<float> &window = window_[static_cast<size_t>(index)];
  window.resize(static_cast<size_t>(kept * width));
  for (int64_t i = 0; i < kept; ++i) std::copy_n(query.data + (count_ - kept + i) * query.stride, width, window.data() + i * width);
}

bool Cache::prune() {
  if (!shared_->settings.prunes) return false;
  think_error error = THINK_ERROR_INIT;
  check(think_cache_prune(get(), &sequence_, 1, attention_->launch(), &error), error, "think_cache_prune");
  return usage().compact_tokens > 0;
}

void Cache::evict(think_evict_options options) {
  const CacheShape &shape = attention_->shape();
  std::vector<float> score; // of H2O: the sums so far
  if (options.method == THINK_EVICT_H2O) score.resize(static_cast<size_t>(shape.layers * shape.kv_heads * tokens_));
  options.score_stride = tokens_;
  think_error error = THINK_ERROR_INIT;
  check(think_cache_evict(get(), &sequence_, 1, &options, nullptr, score.empty() ? nullptr : score.data(), attention_->launch(), &error), error,
        "think_cache_evict");
}

Cache Cache::copy(const CacheSettings &settings) const {
  const CacheShape &shape = attention_->shape();
  const int64_t width = shape.query_heads * shape.channels;
  think_error error = THINK_ERROR_INIT;
  Cache other(*attention_, settings);
  other.step(tokens_);
  other.window_ = window_;
  // Only the last queries of a prompt count for its scores.
  const auto window_rows = static_cast<int64_t>(window_.at(0).size()) / width;
  std::vector<float> query(static_cast<size_t>(tokens_ * width));
  std::vector<std::byte> key(static_cast<size_t>(shape.kv_heads * tokens_ * shape.channels * think_dtype_bytes(attention_->cache_type()))), value(key.size());
  const auto rows = [&](const void *data, think_dtype type, int64_t heads, int64_t head_stride, int64_t token_stride) {
    return tensor(data, type, heads, tokens_, shape.channels, head_stride, token_stride);
  };
  const think_tensor queries = rows(query.data(), THINK_F32, shape.query_heads, shape.channels, width);
  const think_tensor keys = rows(key.data(), attention_->cache_type(), shape.kv_heads, tokens_ * shape.channels, shape.channels);
  const think_tensor values = rows(value.data(), attention_->cache_type(), shape.kv_heads, tokens_ * shape.channels, shape.channels);
  for (int32_t layer = 0; layer < static_cast<int32_t>(shape.layers); ++layer) {
    const std::vector<float> &last = window_[static_cast<size_t>(layer)];
    std::copy(last.begin(), last.end(), query.begin() + (tokens_ - window_rows) * width);
    check(think_cache_export_dense(get(), sequence_, layer, 0, tokens_, &keys, &values, nullptr, &error), error, "think_cache_export_dense");
    check(think_cache_append(other.get(), layer, &queries, &keys, &values, attention_->launch(), &error), error, "think_cache_append");
  }
  return other;
}

Cache::Usage Cache::usage() const {
  think_error error = THINK_ERROR_INIT;
  think_cache_info info = THINK_CACHE_INFO_INIT;
  check(think_cache_usage(get(), sequence_, &info, &error), error, "think_cache_usage");
  return {tokens_, info.compact_tokens, info.tokens - info.compact_tokens, info.evicted_tokens, info.page_bytes + info.basis_bytes, info.dense_bytes,
          info.key_channels, info.value_channels};
}

double Cache::take_attention_seconds() { return std::exchange(attention_seconds_, 0.0); }

} // namespace generate
