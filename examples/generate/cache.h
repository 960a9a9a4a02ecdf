// The key-value cache and the attention of the engine, both libthink's: this pair of files is the pattern to copy into another engine.
//
//   Attention   one per process: libthink's context (on the engine's threads), its plan for this model's heads, and one workspace for all calls
//   Cache       one per conversation: per layer a dense segment that grows, and after prune() a compact one before it
//
// Life of a Cache: attend() for every layer of every chunk of the prompt, advance(); at the end of the prompt prune(); then attend() for every new token,
// or for the next question, over sinks + compact prefix + dense window.
#pragma once

#include "threads.h"

#include <think.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace generate {

struct CacheShape {
  int64_t layers, query_heads, kv_heads, channels;
  int64_t max_tokens;  // of one conversation
  int64_t max_queries; // of one call of attend()
};

// Rows of fresh activations inside a wider buffer; libthink takes strides, so nothing is copied to bring heads together.
struct Rows {
  const float *data;
  int64_t stride; // elements from one token to the next
};

class Attention {
public:
  Attention(const CacheShape &shape, think_dtype cache_type, ThreadPool &pool);
  Attention(const Attention &) = delete;
  Attention &operator=(const Attention &) = delete;

  const CacheShape &shape() const { return shape_; }
  think_dtype cache_type() const { return cache_type_; }
  const think_plan *plan() const { return plan_.get(); }
  const think_launch *launch() const { return &launch_; }
  std::string describe() const; // the plan, as JSON

private:
  CacheShape shape_;
  think_dtype cache_type_;
  std::unique_ptr<think_plan, void (*)(think_plan *)> plan_{nullptr, think_plan_destroy};
  std::unique_ptr<std::byte, void (*)(void *)> workspace_;
  think_launch launch_ = THINK_LAUNCH_INIT;
};

class Cache {
public:
  // What the cache occupies, as allocated: rows with their spare capacity, compact pages with padding, bases, head offsets.
  struct Usage {
    int64_t tokens, compact_tokens, dense_tokens;
    int64_t bytes;            // of all layers
    int64_t dense_bytes;      // what a dense cache of as many tokens would have allocated
    int64_t key_channels;     // kept by all KV heads of a layer together
    int64_t value_channels;
  };

  explicit Cache(Attention &attention);
  Cache(Cache &&) = default;

  Cache clone() const;

  int64_t tokens() const { return compact_tokens_ + dense_tokens_; }

  // Appends the keys and values of `count` new tokens to `layer` and lets their queries attend to everything before and to themselves.
  // out: [count][query_heads * channels].
  void attend(int64_t layer, Rows query, Rows key, Rows value, int64_t count, float *out);

  // The chunk is complete in every layer.
  void advance(int64_t count) { dense_tokens_ += static_cast<int32_t>(count); }

  // End of the prompt: all rows but the sinks and the recent window become compact, layer by layer, and the dense rows they came from are freed.
  // Returns false, and changes nothing, when the prompt is too short. Once per cache.
  bool prune(const think_prune_options &options);

  // Nothing will be pruned: the score state is freed and no longer kept up.
  void stop_scoring();

  Usage usage() const;

  // Seconds spent in think_attend() since the last call.
  double take_attention_seconds();

private:
  // Memory whose size is known, because it is counted.
  struct Block {
    std::unique_ptr<std::byte, void (*)(void *)> memory{nullptr, nullptr};
    int64_t bytes = 0;

    Block() = default;
    explicit Block(int64_t size);
    Block copy() const;
  };

  struct Side { // keys or values of a compact layer
    Block rows, basis_memory;
    std::vector<int64_t> head_offset; // [kv_heads]
    think_basis basis = THINK_BASIS_INIT;
    bool has_basis = false;
  };

  struct Layer {
    Block key, value; // dense: [kv_heads][capacity][channels]
    Block score;      // state of the score stage, until prune()
    Side compact_key, compact_value;
  };

  void reserve(Layer &layer, int64_t tokens);
  think_segment dense_segment(const Block &key, const Block &value, int64_t capacity, const int32_t *first, const int32_t *length) const;
  think_segment compact_segment(Layer &layer) const;
  void allocate(Side &side, int32_t which, int64_t page_bytes, bool with_basis) const;
  void prune_layer(Layer &layer, const think_prune_options &options, const think_prune_result &result);
  int64_t row_bytes() const;

  Attention *attention_;
  std::vector<Layer> layers_;
  std::vector<int64_t> capacity_; // [layer] rows of the dense part
  int32_t compact_tokens_ = 0, dense_tokens_ = 0;
  int64_t key_channels_ = 0, value_channels_ = 0;
  bool scoring_ = true;
  double attention_seconds_ = 0;
};

} // namespace generate
