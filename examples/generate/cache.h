// The key-value cache and the attention of the engine, both libthink's: this pair of files is the pattern to copy into another engine.
//
//   Attention   one per process: libthink's context (on the engine's threads), its plan for this model's heads, and one workspace for all calls
//   Cache       one per conversation: a sequence of a think_cache, which owns all pages, counts them, prunes them and folds what comes later
//
// Life of a Cache: for every chunk of tokens step(), then attend() for every layer; at the end of the prompt evict() and prune().
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
  int64_t max_queries; // of one step
};

// What becomes of the rows when a Cache is pruned, and of those that come later.
struct CacheSettings {
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  think_format format = THINK_FORMAT_INIT; // of compact rows
  int64_t keep_layers = 0;                 // so many first layers and so many last ones have the type of the cache instead
  int32_t fold = THINK_FOLD_NEVER;
  bool prunes = true;  // false: rows stay dense
  bool evicts = false; // rows may go; where neither is so, no scores are kept
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

  // The workspace serves every call, because they come one after the other; it grows to the largest.
  void reserve_workspace(int64_t bytes);

private:
  CacheShape shape_;
  think_dtype cache_type_;
  std::unique_ptr<think_plan, void (*)(think_plan *)> plan_{nullptr, think_plan_destroy};
  std::unique_ptr<std::byte, void (*)(void *)> workspace_;
  think_launch launch_ = THINK_LAUNCH_INIT;
};

class Cache {
public:
  // What the cache holds for this conversation: whole pages and bases.
  struct Usage {
    int64_t tokens; // that the model has seen
    int64_t compact_tokens, dense_tokens, evicted_tokens;
    int64_t bytes;       // of all layers
    int64_t dense_bytes; // what a dense cache of as many tokens takes, without any slack
    int64_t key_channels, value_channels; // kept by all KV heads of a layer together
  };

  Cache(Attention &attention, const CacheSettings &settings);
  Cache(Cache &&) = default;
  ~Cache();

  // The same conversation once more: pages are shared until one of the two changes them.
  Cache fork() const;

  // A cache with other settings that holds the rows of this one, before anything was done to it. For comparisons; an engine has one cache.
  Cache copy(const CacheSettings &settings) const;

  int64_t tokens() const { return tokens_; } // so far: the position of the next one

  // `count` new tokens are coming, at most max_queries. libthink makes room, and folds what has become old.
  void step(int64_t count);

  // Appends the keys and values of the step's tokens to `layer` and lets their queries attend to everything before and to themselves.
  // out: [count][query_heads * channels].
  void attend(int64_t layer, Rows query, Rows key, Rows value, float *out);

  // End of the prompt, before prune(): each head keeps options.budget rows of its choice. A shorter prompt is left alone.
  void evict(think_evict_options options);

  // End of the prompt: all rows but the sinks and the recent ones become compact. Returns false where nothing is gained, as with a short prompt.
  bool prune();

  Usage usage() const;

  // Seconds spent in attention since the last call.
  double take_attention_seconds();

private:
  struct Shared; // the think_cache, its settings, and which of its sequences are taken
  Cache(Attention &attention, std::shared_ptr<Shared> shared);

  think_cache *get() const;

  Attention *attention_;
  std::shared_ptr<Shared> shared_;
  int32_t sequence_;
  int64_t tokens_ = 0;
  int64_t count_ = 0;                      // new tokens of the step
  std::vector<std::vector<float>> window_; // [layer][token][query_heads * channels]: the last queries of the last chunk, for the scores of a copy
  double attention_seconds_ = 0;
};

} // namespace generate
