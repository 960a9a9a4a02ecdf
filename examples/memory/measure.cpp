#include "measure.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <vector>

namespace memory {
namespace {

void check(think_status status, const think_error &error, const char *what) {
  if (status != THINK_OK) throw std::runtime_error(std::string(what) + ": " + error.message);
}

class Allocator {
 public:
  int64_t bytes = 0, most = 0;

  think_context_options options() {
    think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
    options.allocate = [](void *user, size_t size, size_t alignment) { return static_cast<Allocator *>(user)->allocate(size, alignment); };
    options.deallocate = [](void *user, void *memory, size_t size, size_t) {
      static_cast<Allocator *>(user)->bytes -= static_cast<int64_t>(size);
      std::free(memory);
    };
    options.user = this;
    options.threads = 1;
    return options;
  }

 private:
  void *allocate(size_t size, size_t alignment) {
    void *memory = nullptr;
    if (posix_memalign(&memory, std::max(alignment, sizeof(void *)), size) != 0) return nullptr;
    bytes += static_cast<int64_t>(size);
    most = std::max(most, bytes);
    return memory;
  }
};

// Rows whose channels depend on each other and differ in size, as those of real keys do.
class Rows {
 public:
  Rows(int64_t heads, int64_t tokens, int64_t channels, uint32_t seed) : data_(static_cast<size_t>(heads * tokens * channels)) {
    for (int64_t row = 0; row < heads * tokens; ++row) {
      float hidden[8];
      for (float &number : hidden) {
        seed = seed * 1664525u + 1013904223u;
        number = static_cast<float>(seed >> 8) / 8388608.0f - 1.0f;
      }
      for (int64_t channel = 0; channel < channels; ++channel) {
        const float size = 0.1f + static_cast<float>(channel * 37 % 64) / 32.0f;
        data_[static_cast<size_t>(row * channels + channel)] = size * (hidden[channel % 8] + 0.3f * hidden[(channel / 8) % 8]);
      }
    }
    view_ = THINK_TENSOR_INIT;
    view_.data = data_.data();
    view_.dtype = THINK_F32;
    const int64_t extent[4] = {1, heads, tokens, channels}, stride[4] = {0, tokens * channels, channels, 1};
    std::copy_n(extent, 4, view_.extent);
    std::copy_n(stride, 4, view_.stride);
  }
  const think_tensor *view() const { return &view_; }
  // One token for each of `sequences`.
  think_tensor batch(int64_t sequences) const {
    think_tensor view = view_;
    view.extent[0] = sequences;
    view.extent[2] = 1;
    return view;  // the same rows for all: what they hold does not change what they take
  }

 private:
  std::vector<float> data_;
  think_tensor view_;
};

}  // namespace

think_dtype format_of(int32_t bits) { return bits == 16 ? THINK_F16 : bits == 8 ? THINK_U8 : bits == 4 ? THINK_U4 : bits == 2 ? THINK_U2 : 0; }

Measured measure(const Shape &shape, const Stack &stack, const Load &load) {
  Allocator allocator;
  think_error error = THINK_ERROR_INIT;
  const think_context_options context_options = allocator.options();
  think_context *context = nullptr;
  check(think_context_create(&context_options, &context, &error), error, "think_context_create");
  think_problem problem = THINK_PROBLEM_INIT;
  problem.query_heads = shape.query_heads;
  problem.kv_heads = shape.kv_heads;
  problem.key_channels = shape.channels;
  problem.max_tokens = load.tokens();
  problem.max_batch = load.sequences;
  think_plan *made = nullptr;
  const think_status status = think_plan_create(context, &problem, &made, &error);
  think_context_destroy(context);
  check(status, error, "think_plan_create");
  const std::unique_ptr<think_plan, void (*)(think_plan *)> plan(made, think_plan_destroy);
  const int64_t before = allocator.bytes;

  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  prune.mode = stack.mode;
  prune.key_kept = stack.key_kept;
  prune.value_kept = stack.value_kept;
  prune.sinks = stack.sinks;
  prune.recent = stack.recent;
  prune.dense_limit = -1;
  think_format format = THINK_FORMAT_INIT;
  format.key_dtype = format.value_dtype = format_of(stack.bits);
  format.key_layout = THINK_TILES;
  format.value_layout = stack.bits < 16 ? THINK_TILES : THINK_ROWS;
  think_cache_options options = THINK_CACHE_OPTIONS_INIT;
  options.flags = stack.prunes() ? 0 : THINK_CACHE_NO_SCORES;
  options.layers = load.layers;
  options.sequences = load.sequences;
  options.fold = stack.fold;
  options.rollback = -1;
  options.prune = &prune;
  options.format = &format;
  think_cache *created = nullptr;
  check(think_cache_create(plan.get(), &options, &created, &error), error, "think_cache_create");
  const std::unique_ptr<think_cache, void (*)(think_cache *)> cache(created, think_cache_destroy);
  int64_t bytes = 0;
  check(think_cache_workspace_size(cache.get(), &bytes, nullptr, &error), error, "think_cache_workspace_size");
  const std::unique_ptr<void, void (*)(void *)> workspace(std::aligned_alloc(64, static_cast<size_t>(bytes + 63) / 64 * 64), std::free);
  think_launch launch = THINK_LAUNCH_INIT;
  launch.workspace = workspace.get();
  launch.workspace_bytes = bytes;

  const Rows query(shape.query_heads, load.prompt, shape.channels, 1), key(shape.kv_heads, load.prompt, shape.channels, 2),
      value(shape.kv_heads, load.prompt, shape.channels, 3);
  const auto append = [&](const think_tensor *queries, const think_tensor *keys, const think_tensor *values) {
    for (int32_t layer = 0; layer < load.layers; ++layer) {
      check(think_cache_append(cache.get(), layer, stack.prunes() ? queries : nullptr, keys, values, &launch, &error), error, "think_cache_append");
    }
  };
  std::vector<int32_t> all, one(static_cast<size_t>(load.sequences), 1);
  for (int32_t sequence = 0; sequence < load.sequences; ++sequence) {
    check(think_cache_step(cache.get(), &sequence, &load.prompt, 1, &launch, &error), error, "think_cache_step");
    append(query.view(), key.view(), value.view());
    if (stack.prunes()) check(think_cache_prune(cache.get(), &sequence, 1, &launch, &error), error, "think_cache_prune");
    all.push_back(sequence);
  }
  const think_tensor queries = query.batch(load.sequences), keys = key.batch(load.sequences), values = value.batch(load.sequences);
  for (int32_t token = 0; token < load.generated; ++token) {
    check(think_cache_step(cache.get(), all.data(), one.data(), load.sequences, &launch, &error), error, "think_cache_step");
    append(&queries, &keys, &values);
  }

  think_cache_info info = THINK_CACHE_INFO_INIT;
  check(think_cache_usage(cache.get(), -1, &info, &error), error, "think_cache_usage");
  if (info.allocated_bytes != allocator.bytes - before) {
    throw std::runtime_error("the cache says it has " + std::to_string(info.allocated_bytes) + " bytes, the allocator has given " + std::to_string(allocator.bytes - before));
  }
  const int64_t dense = load.tokens() * load.sequences * load.layers * shape.row_bytes();
  if (info.dense_bytes != dense) throw std::runtime_error("the cache does not hold what it was given");
  return {dense, info.page_bytes + info.basis_bytes, info.basis_bytes, info.allocated_bytes, allocator.most - before, (info.tokens - info.compact_tokens) / load.sequences};
}

}  // namespace memory
