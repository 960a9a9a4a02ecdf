// A managed cache on a device or on the CPU, fed with the same rows: what a test does to one it does to the other.
#pragma once

#include <algorithm>
#include <cstring>

#include "device.h"

namespace think::gpu_test {

struct CacheSettings {
  think_cache_options options = THINK_CACHE_OPTIONS_INIT;
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  think_format format = THINK_FORMAT_INIT;
  int64_t dense_tokens = 4 * 256, compact_tokens = 4 * 256;  // for which there is a slab
};

class CacheFlow {
 public:
  static constexpr int32_t kLayers = 2, kSequences = 4, kBatch = 3, kQueryHeads = 4, kHeads = 2, kChannels = 64, kMostTokens = 384, kMostNew = 160;

  CacheFlow(const cli::Driver *driver, CacheSettings settings) : bench_(driver, problem()) {
    think_cache_options &options = settings.options;
    options.layers = kLayers;
    options.sequences = kSequences;
    if (settings.prune.key_kept == 0) settings.prune.key_kept = 40;
    if (settings.prune.value_kept == 0) settings.prune.value_kept = 40;
    settings.prune.dense_limit = -1;
    options.prune = &settings.prune;
    options.format = &settings.format;
    if (driver) {
      THINK_OK_OR_SKIP(think_cache_slab_size, bench_, &options, settings.dense_tokens, settings.compact_tokens, &options.slab_bytes);
      slab_ = options.slab = bench_.make(options.slab_bytes);
      slab_bytes_ = options.slab_bytes;
    }
    THINK_OK_OR_SKIP(think_cache_create, bench_, &options, &cache_);
    int64_t bytes = 0;
    THINK_OK_OR_SKIP(think_cache_workspace_size, cache_, &bytes, nullptr);
    launch_ = THINK_LAUNCH_INIT;
    launch_.workspace = bench_.make(bytes, 0);
    launch_.workspace_bytes = bytes;
    launch_.stream = driver ? driver->stream() : nullptr;
    for (int side = 0; side < 3; ++side) {
      const int64_t heads = side == 0 ? kQueryHeads : kHeads;
      rows_[side] = static_cast<uint16_t *>(bench_.make(kLayers * kBatch * heads * kMostNew * kChannels * 2));
    }
    output_ = static_cast<float *>(bench_.make(kLayers * kBatch * kQueryHeads * kMostNew * kChannels * 4));
    lse_ = static_cast<float *>(bench_.make(kLayers * kBatch * kQueryHeads * kMostNew * 4));
  }
  CacheFlow(const CacheFlow &) = delete;
  ~CacheFlow() { think_cache_destroy(cache_); }

  think_cache *cache() const { return cache_; }
  const think_launch *launch() const { return &launch_; }
  Bench &bench() { return bench_; }
  int64_t slab_bytes() const { return slab_bytes_; }

  // The step without its rows.
  think_status try_step(const std::vector<int32_t> &sequences, const std::vector<int32_t> &counts, think_error *error) {
    return think_cache_step(cache_, sequences.data(), counts.data(), static_cast<int32_t>(sequences.size()), &launch_, error);
  }
  // The new rows of a step, for all layers: the same ones whenever the salt is the same. `packed`: one behind the other.
  void begin(const std::vector<int32_t> &sequences, const std::vector<int32_t> &counts, bool packed = false) {
    packed_ = packed && counts.size() > 1;
    sequences_ = sequences;
    counts_ = counts;
    THINK_OK_OR_SKIP(think_cache_step, cache_, sequences.data(), counts.data(), static_cast<int32_t>(sequences.size()), &launch_);
    ++salt_;
    for (int side = 0; side < 3; ++side) {
      const size_t heads = side == 0 ? kQueryHeads : kHeads;
      bench_.put(rows_[side], random_rows(kLayers * kBatch * heads * kMostNew, kChannels, static_cast<uint32_t>(3 * salt_ + side)));
    }
  }
  // What can be captured: the rows of the step, whatever they are then.
  void append_calls() {
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      const think_tensor query = tensor(layer, 0), key = tensor(layer, 1), value = tensor(layer, 2);
      THINK_OK_OR_SKIP(think_cache_append, cache_, layer, &query, &key, &value, &launch_);
    }
  }
  void attend_calls() {
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      const think_tensor query = tensor(layer, 0);
      think_tensor output = query;
      output.data = output_ + int64_t{layer} * kBatch * kQueryHeads * kMostNew * kChannels;
      output.dtype = THINK_F32;
      float *lse = lse_ + int64_t{layer} * kBatch * kQueryHeads * kMostNew;
      THINK_OK_OR_SKIP(think_cache_attend, cache_, layer, &query, nullptr, &output, lse, &launch_);
    }
  }
  void step(const std::vector<int32_t> &sequences, const std::vector<int32_t> &counts, bool packed = false) {
    begin(sequences, counts, packed);
    append_calls();
    attend_calls();
  }
  void prune(const std::vector<int32_t> &sequences) {
    THINK_OK_OR_SKIP(think_cache_prune, cache_, sequences.data(), static_cast<int32_t>(sequences.size()), &launch_);
  }

  // Attention of the last step: [layer][sequence][query head][new token][channel], those that there are.
  std::vector<float> output() const {
    std::vector<float> numbers;
    const size_t batch = packed_ ? 1 : counts_.size();
    size_t longest = 0;
    for (const int32_t count : counts_) longest = packed_ ? longest + static_cast<size_t>(count) : std::max(longest, static_cast<size_t>(count));
    for (size_t layer = 0; layer < kLayers; ++layer) {
      const std::vector<float> all = bench_.fetch(output_ + layer * kBatch * kQueryHeads * kMostNew * kChannels, kBatch * kQueryHeads * kMostNew * kChannels);
      for (size_t i = 0; i < batch; ++i) {
        const size_t rows = packed_ ? longest : static_cast<size_t>(counts_[i]);
        for (size_t head = 0; head < kQueryHeads; ++head) {
          const float *at = all.data() + (i * kQueryHeads + head) * longest * kChannels;
          numbers.insert(numbers.end(), at, at + rows * kChannels);
        }
      }
    }
    return numbers;
  }
  think_cache_info usage(int32_t sequence) const {
    think_cache_info info = THINK_CACHE_INFO_INIT;
    THINK_OK_OR_SKIP(think_cache_usage, cache_, sequence, &info);
    return info;
  }
  // All rows of a sequence at full width, keys then values of each layer.
  std::vector<float> exported(int32_t sequence) {
    const int64_t tokens = usage(sequence).tokens;
    std::vector<float> numbers;
    float *sides[2];
    for (float *&side : sides) side = static_cast<float *>(bench_.make(kHeads * kMostTokens * kChannels * 4));
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      const think_tensor key = tensor_of(sides[0], THINK_F32, 1, kHeads, tokens, kChannels);
      const think_tensor value = tensor_of(sides[1], THINK_F32, 1, kHeads, tokens, kChannels);
      THINK_OK_OR_SKIP(think_cache_export_dense, cache_, sequence, layer, int64_t{0}, tokens, &key, &value, &launch_);
      for (const float *side : sides) {
        const std::vector<float> rows = bench_.fetch(side, static_cast<size_t>(kHeads * tokens * kChannels));
        numbers.insert(numbers.end(), rows.begin(), rows.end());
      }
    }
    return numbers;
  }
  std::vector<char> saved(int32_t sequence) const {
    std::vector<char> file;
    const auto write = [](void *user, const void *data, int64_t bytes) -> int32_t {
      auto &to = *static_cast<std::vector<char> *>(user);
      to.insert(to.end(), static_cast<const char *>(data), static_cast<const char *>(data) + bytes);
      return 0;
    };
    THINK_OK_OR_SKIP(think_cache_save, cache_, sequence, write, &file);
    int64_t bytes = 0;
    THINK_OK_OR_SKIP(think_cache_save_size, cache_, sequence, &bytes);
    EXPECT_EQ(bytes, static_cast<int64_t>(file.size()));
    return file;
  }
  think_status try_load(int32_t sequence, const std::vector<char> &file, think_error *error) {
    struct Source {
      const std::vector<char> &file;
      size_t at;
    } source{file, 0};
    const auto read = [](void *user, void *data, int64_t bytes) -> int64_t {
      Source &from = *static_cast<Source *>(user);
      const size_t count = std::min(static_cast<size_t>(bytes), from.file.size() - from.at);
      std::memcpy(data, from.file.data() + from.at, count);
      from.at += count;
      return static_cast<int64_t>(count);
    };
    return think_cache_load(cache_, sequence, read, &source, error);
  }

 private:
  static think_problem problem() {
    think_problem problem = problem_of(kQueryHeads, kHeads, kChannels, kBatch, kMostTokens);
    problem.max_queries = kMostNew;
    return problem;
  }

  // Rows of the step: 0 query, 1 key, 2 value.
  think_tensor tensor(int32_t layer, int side) const {
    int64_t tokens = 0;
    for (const int32_t count : counts_) tokens = packed_ ? tokens + count : std::max<int64_t>(tokens, count);
    const int64_t heads = side == 0 ? kQueryHeads : kHeads;
    return tensor_of(rows_[side] + layer * kBatch * heads * kMostNew * kChannels, THINK_F16, packed_ ? 1 : static_cast<int64_t>(counts_.size()), heads, tokens,
                     kChannels);
  }

  Bench bench_;
  think_cache *cache_ = nullptr;
  void *slab_ = nullptr;
  int64_t slab_bytes_ = 0;
  think_launch launch_;
  uint16_t *rows_[3] = {};
  float *output_ = nullptr, *lse_ = nullptr;
  std::vector<int32_t> sequences_, counts_;
  bool packed_ = false;
  int salt_ = 0;
};

}  // namespace think::gpu_test
