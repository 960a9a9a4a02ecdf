#include "model.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include <cblas.h>

namespace generate {
namespace {

// GGUF stores the rows of query and key matrices so that RoPE turns channels (2i, 2i + 1). Here they are put back into the order of the published
// weights, where RoPE turns (i, i + half): channel numbers and masks then compare with other tools.
void separate_rope_pairs(float *matrix, int64_t heads, int64_t channels, int64_t columns) {
  std::vector<float> head(static_cast<size_t>(channels * columns));
  for (int64_t h = 0; h < heads; ++h) {
    float *rows = matrix + h * channels * columns;
    std::copy_n(rows, head.size(), head.begin());
    for (int64_t i = 0; i < channels; ++i) std::copy_n(head.begin() + i * columns, columns, rows + (i / 2 + (i % 2) * channels / 2) * columns);
  }
}

ModelConfig read_config(const GgufFile &file) {
  const std::string &architecture = file.text("general.architecture");
  if (architecture != "llama") throw std::runtime_error("the architecture of the model is '" + architecture + "', 'llama' expected");
  if (file.has("llama.rope.scaling.type") && file.text("llama.rope.scaling.type") != "none")
    throw std::runtime_error("the model scales RoPE (" + file.text("llama.rope.scaling.type") + "), which is not done here");
  ModelConfig config;
  config.layers = file.integer("llama.block_count");
  config.hidden = file.integer("llama.embedding_length");
  config.feed_forward = file.integer("llama.feed_forward_length");
  config.context = file.integer("llama.context_length");
  config.query_heads = file.integer("llama.attention.head_count");
  config.kv_heads = file.integer_or("llama.attention.head_count_kv", config.query_heads);
  config.vocabulary = static_cast<int64_t>(file.texts("tokenizer.ggml.tokens").size());
  config.rope_base = file.has("llama.rope.freq_base") ? file.number("llama.rope.freq_base") : 10000.0;
  config.norm_epsilon = file.number("llama.attention.layer_norm_rms_epsilon");
  for (const int64_t value : {config.layers, config.hidden, config.feed_forward, config.context, config.query_heads, config.kv_heads, config.vocabulary})
    if (value < 1 || value > 1 << 20) throw std::runtime_error("a hyperparameter of the model is " + std::to_string(value));
  config.head_channels = file.integer_or("llama.attention.key_length", config.hidden / config.query_heads);
  if (config.head_channels < 2 || config.head_channels > 1 << 16 || config.query_heads % config.kv_heads != 0 || config.head_channels % 2 != 0 ||
      file.integer_or("llama.attention.value_length", config.head_channels) != config.head_channels)
    throw std::runtime_error("the heads of the model (" + std::to_string(config.query_heads) + " query, " + std::to_string(config.kv_heads) + " KV, " + std::to_string(config.head_channels) +
                             " channels) are not supported");
  if (file.integer_or("llama.rope.dimension_count", config.head_channels) != config.head_channels) throw std::runtime_error("the model rotates a part of each head only, which is not done here");
  return config;
}

} // namespace

Model::Model(const GgufFile &file, ThreadPool &pool) : config_(read_config(file)), pool_(pool) {
  const ModelConfig &c = config_;
  const int64_t query_columns = c.query_heads * c.head_channels, kv_columns = c.kv_heads * c.head_channels;
  openblas_set_num_threads(1); // products are shared out by the engine's own pool
  layers_.resize(static_cast<size_t>(c.layers));
  std::vector<std::string> errors(static_cast<size_t>(c.layers) + 1);
  pool_.run(c.layers + 1, [&](int64_t index) {
    try { // tasks must not throw
      if (index == 0) { // the largest one first
        file.append_f32("token_embd.weight", c.vocabulary, c.hidden, embedding_);
        file.append_f32("output_norm.weight", 1, c.hidden, output_norm_);
        if (file.has_tensor("output.weight")) file.append_f32("output.weight", c.vocabulary, c.hidden, output_);
        return;
      }
      Layer &layer = layers_[static_cast<size_t>(index - 1)];
      const std::string prefix = "blk." + std::to_string(index - 1) + ".";
      file.append_f32(prefix + "attn_norm.weight", 1, c.hidden, layer.attention_norm);
      layer.query_key_value.reserve(static_cast<size_t>((query_columns + 2 * kv_columns) * c.hidden));
      file.append_f32(prefix + "attn_q.weight", query_columns, c.hidden, layer.query_key_value);
      file.append_f32(prefix + "attn_k.weight", kv_columns, c.hidden, layer.query_key_value);
      file.append_f32(prefix + "attn_v.weight", kv_columns, c.hidden, layer.query_key_value);
      separate_rope_pairs(layer.query_key_value.data(), c.query_heads + c.kv_heads, c.head_channels, c.hidden);
      file.append_f32(prefix + "attn_output.weight", c.hidden, query_columns, layer.output);
      file.append_f32(prefix + "ffn_norm.weight", 1, c.hidden, layer.feed_forward_norm);
      layer.gate_up.reserve(static_cast<size_t>(2 * c.feed_forward * c.hidden));
      file.append_f32(prefix + "ffn_gate.weight", c.feed_forward, c.hidden, layer.gate_up);
      file.append_f32(prefix + "ffn_up.weight", c.feed_forward, c.hidden, layer.gate_up);
      file.append_f32(prefix + "ffn_down.weight", c.hidden, c.feed_forward, layer.down);
    } catch (const std::exception &error) {
      errors[static_cast<size_t>(index)] = error.what();
    }
  });
  for (const std::string &error : errors)
    if (!error.empty()) throw std::runtime_error(error);

  const int64_t half = c.head_channels / 2;
  cosine_.resize(static_cast<size_t>(c.context * half));
  sine_.resize(cosine_.size());
  for (int64_t i = 0; i < half; ++i) {
    const double frequency = std::pow(c.rope_base, -2.0 * static_cast<double>(i) / static_cast<double>(c.head_channels));
    for (int64_t position = 0; position < c.context; ++position) {
      cosine_[static_cast<size_t>(position * half + i)] = static_cast<float>(std::cos(frequency * static_cast<double>(position)));
      sine_[static_cast<size_t>(position * half + i)] = static_cast<float>(std::sin(frequency * static_cast<double>(position)));
    }
  }
}

CacheShape Model::cache_shape() const { return {config_.layers, config_.query_heads, config_.kv_heads, config_.head_channels, config_.context, kChunk}; }

// out[count][rows] = in[count][columns] * matrix^T, the rows of the matrix shared among the threads.
void Model::multiply(const std::vector<float> &matrix, const float *in, int64_t count, int64_t columns, int64_t rows, float *out) {
  const int64_t threads = pool_.threads();
  const int64_t share = (rows + threads * 16 - 1) / (threads * 16) * 16;
  pool_.run((rows + share - 1) / share, [&](int64_t part) {
    const int64_t first = part * share, size = std::min(share, rows - first);
    const float *block = matrix.data() + first * columns;
    const auto m = static_cast<blasint>(count), n = static_cast<blasint>(size), k = static_cast<blasint>(columns);
    if (count == 1) cblas_sgemv(CblasRowMajor, CblasNoTrans, n, k, 1.0f, block, k, in, 1, 0.0f, out + first, 1);
    else cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1.0f, in, k, block, k, 0.0f, out + first, static_cast<blasint>(rows));
  });
}

void Model::normalise(const float *in, const std::vector<float> &gain, int64_t count, float *out) {
  const int64_t width = config_.hidden;
  pool_.run(count, [&](int64_t row) {
    const float *x = in + row * width;
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += static_cast<double>(x[i]) * x[i];
    const auto scale = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(width) + config_.norm_epsilon));
    for (int64_t i = 0; i < width; ++i) out[row * width + i] = x[i] * scale * gain[static_cast<size_t>(i)];
  });
}

// RoPE on the query and key heads of [count] fused rows (query heads, key heads, value heads).
void Model::rotate(float *rows, int64_t count, int64_t first_position) {
  const int64_t channels = config_.head_channels, half = channels / 2, heads = config_.query_heads + config_.kv_heads;
  const int64_t stride = (config_.query_heads + 2 * config_.kv_heads) * channels;
  pool_.run(count, [&](int64_t row) {
    const float *cosine = cosine_.data() + (first_position + row) * half, *sine = sine_.data() + (first_position + row) * half;
    for (int64_t h = 0; h < heads; ++h) {
      float *x = rows + row * stride + h * channels;
      for (int64_t i = 0; i < half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
      }
    }
  });
}

void Model::forward(std::span<const int32_t> tokens, Cache &cache, Logits which, std::vector<float> &logits) {
  const int64_t count = static_cast<int64_t>(tokens.size());
  if (count < 1) throw std::runtime_error("no tokens to feed");
  if (cache.tokens() + count > config_.context)
    throw std::runtime_error(std::to_string(cache.tokens() + count) + " tokens exceed the model's context of " + std::to_string(config_.context));
  for (const int32_t token : tokens)
    if (token < 0 || token >= config_.vocabulary) throw std::runtime_error("token " + std::to_string(token) + " is outside the vocabulary");
  const int64_t wanted = which == Logits::none ? 0 : which == Logits::last ? 1 : count;
  logits.resize(static_cast<size_t>(wanted * config_.vocabulary));
  // Chunks of equal size: the last one holds all the queries that scores and eviction look through.
  const int64_t chunks = (count + kChunk - 1) / kChunk, chunk = (count + chunks - 1) / chunks;
  for (int64_t first = 0; first < count; first += chunk) {
    const int64_t size = std::min(chunk, count - first);
    forward_chunk(tokens.subspan(static_cast<size_t>(first), static_cast<size_t>(size)), cache);
    const int64_t rows = which == Logits::all ? size : which == Logits::last && first + size == count ? 1 : 0;
    if (rows == 0) continue;
    normalise(state_.data() + (size - rows) * config_.hidden, output_norm_, rows, normed_.data());
    multiply(output_.empty() ? embedding_ : output_, normed_.data(), rows, config_.hidden, config_.vocabulary, logits.data() + (which == Logits::all ? first * config_.vocabulary : 0));
  }
}

void Model::forward_chunk(std::span<const int32_t> tokens, Cache &cache) {
  const ModelConfig &c = config_;
  const int64_t n = static_cast<int64_t>(tokens.size()), position = cache.tokens();
  const int64_t query_columns = c.query_heads * c.head_channels, kv_columns = c.kv_heads * c.head_channels, fused = query_columns + 2 * kv_columns;
  const auto reserve = [&](std::vector<float> &buffer, int64_t columns) {
    if (static_cast<int64_t>(buffer.size()) < n * columns) buffer.resize(static_cast<size_t>(n * columns));
  };
  reserve(state_, c.hidden);
  reserve(normed_, c.hidden);
  reserve(query_key_value_, fused);
  reserve(attention_, query_columns);
  reserve(gate_up_, 2 * c.feed_forward);
  reserve(activated_, c.feed_forward);
  reserve(projected_, c.hidden);

  const auto add = [&] {
    for (int64_t i = 0; i < n * c.hidden; ++i) state_[static_cast<size_t>(i)] += projected_[static_cast<size_t>(i)];
  };
  cache.step(n);
  for (int64_t i = 0; i < n; ++i) std::copy_n(embedding_.data() + tokens[static_cast<size_t>(i)] * c.hidden, c.hidden, state_.data() + i * c.hidden);
  for (int64_t l = 0; l < c.layers; ++l) {
    const Layer &layer = layers_[static_cast<size_t>(l)];
    normalise(state_.data(), layer.attention_norm, n, normed_.data());
    multiply(layer.query_key_value, normed_.data(), n, c.hidden, fused, query_key_value_.data());
    rotate(query_key_value_.data(), n, position);
    float *query = query_key_value_.data();
    cache.attend(l, {query, fused}, {query + query_columns, fused}, {query + query_columns + kv_columns, fused}, attention_.data());
    multiply(layer.output, attention_.data(), n, query_columns, c.hidden, projected_.data());
    add();

    normalise(state_.data(), layer.feed_forward_norm, n, normed_.data());
    multiply(layer.gate_up, normed_.data(), n, c.hidden, 2 * c.feed_forward, gate_up_.data());
    pool_.run(n, [&](int64_t row) {
      const float *gate = gate_up_.data() + row * 2 * c.feed_forward, *up = gate + c.feed_forward;
      float *out = activated_.data() + row * c.feed_forward;
      for (int64_t i = 0; i < c.feed_forward; ++i) out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
    });
    multiply(layer.down, activated_.data(), n, c.feed_forward, c.hidden, projected_.data());
    add();
  }
}

} // namespace generate
