// The Llama architecture in f32: everything but attention and its cache, which are libthink's (cache.h).
#pragma once

#include "cache.h"
#include "gguf.h"
#include "threads.h"

#include <cstdint>
#include <span>
#include <vector>

namespace generate {

// Hyperparameters, all read from the metadata of the file.
struct ModelConfig {
  int64_t layers = 0, hidden = 0, feed_forward = 0, vocabulary = 0, context = 0;
  int64_t query_heads = 0, kv_heads = 0, head_channels = 0;
  double rope_base = 0, norm_epsilon = 0;
};

enum class Logits { none, last, all }; // for which of the fed tokens

class Model {
public:
  Model(const GgufFile &file, ThreadPool &pool);

  const ModelConfig &config() const { return config_; }
  CacheShape cache_shape() const;

  // Feeds tokens in chunks; the cache grows by them. `logits` receives [0, 1 or tokens.size()][vocabulary].
  void forward(std::span<const int32_t> tokens, Cache &cache, Logits which, std::vector<float> &logits);

  static constexpr int64_t kChunk = 512;

private:
  struct Layer {
    std::vector<float> attention_norm, query_key_value, output, feed_forward_norm, gate_up, down; // matrices as [rows out][columns in]
  };

  void forward_chunk(std::span<const int32_t> tokens, Cache &cache);
  void multiply(const std::vector<float> &matrix, const float *in, int64_t count, int64_t columns, int64_t rows, float *out);
  void normalise(const float *in, const std::vector<float> &gain, int64_t count, float *out);
  void rotate(float *rows, int64_t count, int64_t first_position);

  ModelConfig config_;
  ThreadPool &pool_;
  std::vector<float> embedding_, output_norm_, output_; // output_ is empty when tied to the embedding
  std::vector<Layer> layers_;
  std::vector<float> cosine_, sine_; // [position][head_channels / 2]
  std::vector<float> state_, normed_, query_key_value_, attention_, gate_up_, activated_, projected_;
};

} // namespace generate
