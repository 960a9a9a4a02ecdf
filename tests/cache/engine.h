// An engine that drives a cache and knows by itself what every sequence holds: rows as they were given, rounded to the cache's type. What attention gives is
// compared with dense attention in double over these rows; compact ones are first replaced by what their basis makes of them (tests/flow/dense.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "host.h"
#include "tests/flow/cache.h"
#include "tests/flow/dense.h"

namespace cache_test {

using Numbers = std::vector<int32_t>;

// A number in [-1, 1) that depends on nothing but its coordinates.
inline double noise(uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
  uint64_t x = a * 0x9E3779B97F4A7C15u + b * 0xC2B2AE3D27D4EB4Fu + c * 0x165667B19E3779F9u + d * 0x27D4EB2F165667C5u;
  for (const int shift : {30, 27, 31}) x = (x ^ x >> shift) * 0xBF58476D1CE4E5B9u;
  return static_cast<double>(x >> 11) * 0x1p-52 - 1;
}

struct Settings {
  think_problem problem = THINK_PROBLEM_INIT;
  think_cache_options options = THINK_CACHE_OPTIONS_INIT;
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  think_format format = THINK_FORMAT_INIT;
  std::vector<think_format> layer_formats;  // empty = format
  int32_t threads = 1;

  Settings() {
    problem.query_heads = 4;
    problem.kv_heads = 2;
    problem.key_channels = 32;
    problem.cache_dtype = THINK_F16;
    problem.window = 8;
    problem.max_batch = 4;
    problem.max_queries = 5;
    problem.max_tokens = 640;
    options.layers = 2;
    options.sequences = 6;
    prune.dense_limit = -1;
  }
};

// One plan of one host.
class Site {
 public:
  explicit Site(const Settings &settings) : context_options_(host.options(settings.threads)), plan(settings.problem, nullptr, &context_options_) {}
  Host host;

 private:
  think_context_options context_options_;

 public:
  flow::Plan plan;
};

class Engine {
 public:
  enum class Rows { rectangular, packed };

  Engine(const Settings &settings, Site &site) : settings_(settings), site_(site), plan_bytes_(site.host.bytes) {
    settings_.options.prune = &settings_.prune;
    settings_.options.format = &settings_.format;
    settings_.options.layer_formats = settings_.layer_formats.empty() ? nullptr : settings_.layer_formats.data();
    THINK_CALL(think_cache_create, site.plan, &settings_.options, &cache_);
    int64_t bytes = 0;
    THINK_CALL(think_cache_workspace_size, cache_, &bytes, nullptr);
    workspace_ = flow::Memory(bytes, 0);
    think_launch_init(&launch_, sizeof launch_);
    launch_.flags = THINK_LAUNCH_CHECK;
    launch_.workspace = workspace_.data();
    launch_.workspace_bytes = bytes;
    tokens_.resize(static_cast<size_t>(settings.options.sequences));
    mixed_.resize(tokens_.size());
  }
  Engine(const Engine &) = delete;
  ~Engine() { think_cache_destroy(cache_); }

  think_cache *cache() const { return cache_; }
  const think_launch *launch() const { return &launch_; }
  int64_t plan_bytes() const { return plan_bytes_; }
  int64_t tokens(int32_t sequence) const { return static_cast<int64_t>(tokens_[static_cast<size_t>(sequence)].size()); }

  think_cache_info usage(int32_t sequence = -1) const {
    think_cache_info info = THINK_CACHE_INFO_INIT;
    THINK_CALL(think_cache_usage, cache_, sequence, &info);
    return info;
  }

  // What the cache says it holds is what the allocator gave, and the parts make the whole.
  void expect_counted() const {
    const think_cache_info info = usage();
    EXPECT_EQ(site_.host.bytes - plan_bytes_, info.allocated_bytes);
    EXPECT_EQ(info.allocated_bytes, info.page_bytes + info.basis_bytes + info.score_bytes + info.table_bytes + info.spare_bytes);
    EXPECT_GT(info.table_bytes, 0);
    EXPECT_GE(info.spare_bytes, 0);
    int64_t tokens = 0;
    for (const auto &sequence : tokens_) tokens += static_cast<int64_t>(sequence.size());
    EXPECT_EQ(tokens, info.tokens);
  }

  // The first call of a step; on success the engine knows of the new tokens. `salt` tells contents apart.
  think_status begin(const Numbers &sequences, const Numbers &counts, think_error *error = nullptr, int64_t salt = 0) {
    const think_status status = think_cache_step(cache_, sequences.data(), counts.data(), static_cast<int32_t>(sequences.size()), &launch_, error);
    if (status != THINK_OK) return status;
    step_ = sequences;
    counts_ = counts;
    for (size_t i = 0; i < sequences.size(); ++i) {
      auto &tokens = tokens_[static_cast<size_t>(sequences[i])];
      for (int32_t t = 0; t < counts[i]; ++t) tokens.push_back({salt ? salt : sequences[i] + 1, tokens.empty() ? 0 : tokens.back().position + 1});
    }
    return status;
  }

  void append(int32_t layer, Rows rows = Rows::rectangular, bool with_query = true) {
    const int32_t kv_heads = settings_.problem.kv_heads;
    const flow::Tensor query = query_rows(layer, rows), key = fresh(layer, rows, 1, kv_heads, settings_.problem.key_channels, THINK_F32),
                       value = fresh(layer, rows, 2, kv_heads, value_channels(), THINK_F32);
    THINK_CALL(think_cache_append, cache_, layer, with_query ? query.view() : nullptr, key.view(), value.view(), &launch_);
  }

  // Attends and compares; gives what came out, row after row, LSE last.
  std::vector<double> attend(int32_t layer, Rows rows = Rows::rectangular, const float *sink_logit = nullptr) {
    const flow::Tensor query = query_rows(layer, rows);
    const int64_t batch = query.view()->extent[0], heads = settings_.problem.query_heads, width = query.view()->extent[2];
    flow::Tensor output(output_dtype(), batch, heads, width, value_channels(), flow::Order::tokens_first, 3);
    flow::Memory lse(batch * heads * width * 4);
    THINK_CALL(think_cache_attend, cache_, layer, query.view(), sink_logit, output.view(), lse.data<float>(), &launch_);
    return compare(layer, rows, query, output, lse.data<float>(), sink_logit);
  }

  // A whole step, all layers, compared where attention takes so many queries. Gives all outputs.
  std::vector<double> step(const Numbers &sequences, const Numbers &counts, Rows rows = Rows::rectangular) {
    think_error error = THINK_ERROR_INIT;
    if (begin(sequences, counts, &error) != THINK_OK) throw std::runtime_error(error.message);
    return finish(rows);
  }
  std::vector<double> finish(Rows rows = Rows::rectangular) {
    std::vector<double> all;
    for (int32_t layer = settings_.options.layers - 1; layer >= 0; --layer) {
      append(layer, rows);
      if (*std::max_element(counts_.begin(), counts_.end()) > settings_.problem.max_queries) continue;
      const std::vector<double> found = attend(layer, rows);
      all.insert(all.end(), found.begin(), found.end());
    }
    return all;
  }

  void prune(const Numbers &sequences) {
    THINK_CALL(think_cache_prune, cache_, sequences.data(), static_cast<int32_t>(sequences.size()), &launch_);
  }
  void trim(int32_t sequence, int64_t tokens) {
    THINK_CALL(think_cache_trim, cache_, sequence, tokens);
    tokens_[static_cast<size_t>(sequence)].resize(static_cast<size_t>(tokens));
  }
  void fork(int32_t source, int32_t destination) {
    THINK_CALL(think_cache_fork, cache_, source, destination);
    forked(source, destination);
  }
  void forked(int32_t source, int32_t destination) {
    tokens_[static_cast<size_t>(destination)] = tokens_[static_cast<size_t>(source)];
    mixed_[static_cast<size_t>(destination)] = mixed_[static_cast<size_t>(source)];
  }
  // Every head has kept `rows` of its dense rows: lists [layers][kv_heads][rows].
  void evicted(int32_t sequence, const Numbers &lists, int32_t rows) {
    auto &tokens = tokens_[static_cast<size_t>(sequence)];
    const think_cache_info info = usage(sequence);
    const size_t compact = static_cast<size_t>(info.compact_tokens), total = compact + static_cast<size_t>(rows);
    const size_t sinks = compact == 0 ? 0 : static_cast<size_t>(settings_.prune.sinks == 0 ? 4 : std::max(settings_.prune.sinks, 0));
    std::vector<std::vector<Token>> mixed;
    for (int32_t head = 0; head < settings_.options.layers * settings_.problem.kv_heads; ++head) {
      std::vector<Token> kept;
      for (size_t t = 0; t < total; ++t) {
        size_t from = t;
        if (t >= sinks + compact) from = static_cast<size_t>(lists[static_cast<size_t>(head * rows) + t - compact]) + compact;
        if (compact == 0) from = static_cast<size_t>(lists[static_cast<size_t>(head * rows) + t]);
        kept.push_back(token_of(sequence, head, from));
      }
      mixed.push_back(std::move(kept));
    }
    tokens.erase(tokens.begin(), tokens.end() - static_cast<std::ptrdiff_t>(total));
    mixed_[static_cast<size_t>(sequence)] = std::move(mixed);
  }
  void drop(int32_t sequence) {
    THINK_CALL(think_cache_drop, cache_, sequence);
    tokens_[static_cast<size_t>(sequence)].clear();
    mixed_[static_cast<size_t>(sequence)].clear();
  }
  // The sequence was loaded from a file of another engine's.
  void loaded(const Engine &other, int32_t sequence) {
    tokens_[static_cast<size_t>(sequence)] = other.tokens_[static_cast<size_t>(sequence)];
    mixed_[static_cast<size_t>(sequence)] = other.mixed_[static_cast<size_t>(sequence)];
  }
  // A step was given up.
  void take_back() {
    for (size_t i = 0; i < step_.size(); ++i) {
      auto &tokens = tokens_[static_cast<size_t>(step_[i])];
      tokens.resize(tokens.size() - std::min(tokens.size(), static_cast<size_t>(counts_[i])));
    }
  }

  // Rows at full width, all and a part of them, against the oracle. Of a sequence of the last step.
  void expect_exported(int32_t sequence, double tolerance) const {
    const size_t place = static_cast<size_t>(std::find(step_.begin(), step_.end(), sequence) - step_.begin());
    const int32_t kv_heads = settings_.problem.kv_heads, channels[2] = {settings_.problem.key_channels, value_channels()};
    const int64_t held_tokens = tokens(sequence), first = held_tokens / 3;
    for (int32_t layer = 0; layer < settings_.options.layers; ++layer) {
      think_segment segments[THINK_MAX_SEGMENTS];
      think_segment_init(segments, sizeof segments[0]);
      int32_t count = 0;
      THINK_CALL(think_cache_segments, cache_, layer, segments, THINK_MAX_SEGMENTS, &count);
      flow::Tensor key(THINK_F32, 1, kv_heads, held_tokens, channels[0], flow::Order::tokens_first, 3), value(THINK_F32, 1, kv_heads, held_tokens, channels[1]);
      flow::Tensor part(THINK_F32, 1, kv_heads, held_tokens - first, channels[0]);
      THINK_CALL(think_cache_export_dense, cache_, sequence, layer, int64_t{0}, held_tokens, key.view(), value.view(), nullptr);
      THINK_CALL(think_cache_export_dense, cache_, sequence, layer, first, held_tokens - first, part.view(), nullptr, nullptr);
      for (int32_t head = 0; head < kv_heads; ++head) {
        int64_t held = 0;
        const dense::Rows rows = rebuilt_rows(layer, place, head, segments, count, held);
        ASSERT_EQ(held_tokens, held);
        for (int64_t t = 0; t < held; ++t) {
          for (int32_t c = 0; c < channels[0]; ++c) {
            const double expected = rows.key[static_cast<size_t>(t * channels[0] + c)], found = key.get(0, head, t, c);
            ASSERT_NEAR(expected, found, tolerance * (1 + std::fabs(expected))) << "key " << t << ", " << c;
            if (t >= first) {
              ASSERT_EQ(found, part.get(0, head, t - first, c));
            }
          }
          for (int32_t c = 0; c < channels[1]; ++c) {
            const double expected = rows.value[static_cast<size_t>(t * channels[1] + c)];
            ASSERT_NEAR(expected, value.get(0, head, t, c), tolerance * (1 + std::fabs(expected))) << "value " << t << ", " << c;
          }
        }
      }
    }
  }

  // Stored rows of one KV head as the caller gave them.
  dense::Rows given_rows(int32_t layer, int32_t sequence, int32_t head) const {
    dense::Rows rows{settings_.problem.key_channels, value_channels(), {}, {}};
    const think_dtype dtype = settings_.problem.cache_dtype;
    for (size_t t = 0; t < tokens_[static_cast<size_t>(sequence)].size(); ++t) {
      const Token token = token_of(sequence, layer * settings_.problem.kv_heads + head, t);
      for (int32_t c = 0; c < rows.key_channels; ++c) rows.key.push_back(flow::rounded(dtype, number(1, layer, token, head, c)));
      for (int32_t c = 0; c < rows.value_channels; ++c) rows.value.push_back(flow::rounded(dtype, number(2, layer, token, head, c)));
    }
    return rows;
  }

  // A tensor of new rows, for calls by hand. which: 0 query, 1 key, 2 value.
  flow::Tensor fresh(int32_t layer, Rows rows, int which, int32_t heads, int32_t channels, think_dtype dtype) const {
    int64_t total = 0, longest = 0;
    for (const int32_t count : counts_) total += count, longest = std::max<int64_t>(longest, count);
    const bool packed = rows == Rows::packed;
    flow::Tensor tensor(dtype, packed ? 1 : static_cast<int64_t>(counts_.size()), heads, packed ? total : longest, channels,
                        which == 1 ? flow::Order::tokens_first : flow::Order::heads_first, which);
    int64_t at = 0;
    for (size_t i = 0; i < counts_.size(); ++i) {
      const auto &tokens = tokens_[static_cast<size_t>(step_[i])];
      for (int32_t t = 0; t < counts_[i]; ++t) {
        const Token &token = tokens[tokens.size() - static_cast<size_t>(counts_[i] - t)];
        for (int32_t h = 0; h < heads; ++h) {
          for (int32_t c = 0; c < channels; ++c) {
            const double value = number(which, layer, token, h, c);
            packed ? tensor.set(0, h, at + t, c, value) : tensor.set(static_cast<int64_t>(i), h, t, c, value);
          }
        }
      }
      at += counts_[i];
    }
    return tensor;
  }
  // The queries of the last `rows` tokens of a sequence.
  flow::Tensor last_queries(int32_t layer, int32_t sequence, int32_t rows) const {
    const auto &tokens = tokens_[static_cast<size_t>(sequence)];
    flow::Tensor tensor(THINK_F32, 1, settings_.problem.query_heads, rows, settings_.problem.key_channels);
    for (int32_t head = 0; head < settings_.problem.query_heads; ++head) {
      for (int32_t t = 0; t < rows; ++t) {
        const Token &token = tokens[tokens.size() - static_cast<size_t>(rows - t)];
        for (int32_t c = 0; c < settings_.problem.key_channels; ++c) tensor.set(0, head, t, c, number(0, layer, token, head, c));
      }
    }
    return tensor;
  }
  flow::Tensor query_rows(int32_t layer, Rows rows) const {
    const think_dtype dtype = settings_.problem.query_dtype ? settings_.problem.query_dtype : THINK_F32;
    return fresh(layer, rows, 0, settings_.problem.query_heads, settings_.problem.key_channels, dtype);
  }
  const Settings &settings() const { return settings_; }
  int32_t value_channels() const { return settings_.problem.value_channels ? settings_.problem.value_channels : settings_.problem.key_channels; }

 private:
  struct Token {
    int64_t salt, position;
  };

  // Token t of a sequence as one head of one layer holds it.
  Token token_of(int32_t sequence, int32_t head, size_t t) const {
    const auto &mixed = mixed_[static_cast<size_t>(sequence)];
    if (!mixed.empty() && t < mixed[static_cast<size_t>(head)].size()) return mixed[static_cast<size_t>(head)][t];
    return tokens_[static_cast<size_t>(sequence)][t];
  }

  think_dtype output_dtype() const {
    const think_problem &problem = settings_.problem;
    return problem.output_dtype ? problem.output_dtype : problem.query_dtype ? problem.query_dtype : THINK_F32;
  }

  // Channels of different sizes that depend on each other; exact in f32, so that a cache of 16 bits rounds once.
  double number(int which, int32_t layer, const Token &token, int32_t head, int32_t channel) const {
    const auto raw = [&](int32_t c) {
      return noise(static_cast<uint64_t>(token.salt), static_cast<uint64_t>(token.position), static_cast<uint64_t>(layer * 3 + which),
                   static_cast<uint64_t>(head * 512 + c));
    };
    const double size = 0.2 + 1.3 * ((channel * 7 + head * 3 + layer) % 5 == 0);
    if (which == 0) return static_cast<float>(raw(channel) * 0.5 * (0.3 + size));
    return static_cast<float>(raw(channel) * size + (channel >= 8 ? 0.7 * raw(channel - 8) : 0) + (channel % 6 == 1 ? 0.8 : 0));
  }

  dense::Rows exported_rows(int32_t layer, int32_t sequence, int32_t head) const {
    const int32_t kv_heads = settings_.problem.kv_heads, key_channels = settings_.problem.key_channels;
    dense::Rows rows{key_channels, value_channels(), {}, {}};
    const int64_t count = tokens(sequence);
    flow::Tensor key(THINK_F32, 1, kv_heads, count, key_channels), value(THINK_F32, 1, kv_heads, count, value_channels());
    THINK_CALL(think_cache_export_dense, cache_, sequence, layer, int64_t{0}, count, key.view(), value.view(), nullptr);
    for (int64_t t = 0; t < count; ++t) {
      for (int32_t c = 0; c < key_channels; ++c) rows.key.push_back(key.get(0, head, t, c));
      for (int32_t c = 0; c < value_channels(); ++c) rows.value.push_back(value.get(0, head, t, c));
    }
    return rows;
  }

  // Rows of sequence i of the step, the compact ones as their basis makes them.
  dense::Rows rebuilt_rows(int32_t layer, size_t i, int32_t head, const think_segment *segments, int32_t count, int64_t &held) const {
    dense::Rows rows = given_rows(layer, step_[i], head);
    int64_t position = settings_.prune.sinks == 0 ? 4 : std::max(settings_.prune.sinks, 0);
    held = segments[count - 1].lengths[i];
    for (int32_t s = 0; s < count - 1; ++s) {
      const int32_t length = segments[s].lengths[i];
      held += length;
      const auto rebuild = [&](const think_basis *basis, std::vector<double> &numbers, int32_t channels) {
        if (!basis || length == 0) return;
        const dense::Basis read = dense::read_basis(*basis, settings_.problem.kv_heads, segments[s].slot[i], head);
        for (int64_t t = position; t < position + length; ++t) dense::reconstruct(read, numbers.data() + t * channels);
      };
      rebuild(segments[s].key_basis, rows.key, rows.key_channels);
      rebuild(segments[s].value_basis, rows.value, rows.value_channels);
      position += length;
    }
    return rows;
  }

  std::vector<double> compare(int32_t layer, Rows mode, const flow::Tensor &query, const flow::Tensor &output, const float *lse,
                              const float *sink_logit) const {
    think_segment segments[THINK_MAX_SEGMENTS];
    think_segment_init(segments, sizeof segments[0]);
    int32_t count = 0;
    THINK_CALL(think_cache_segments, cache_, layer, segments, THINK_MAX_SEGMENTS, &count);
    const think_problem &problem = settings_.problem;
    const int32_t group = problem.query_heads / problem.kv_heads;
    const think_format &format = settings_.layer_formats.empty() ? settings_.format : settings_.layer_formats[static_cast<size_t>(layer)];
    const bool quantized = is_code(format.key_dtype) || is_code(format.value_dtype);
    const bool packed = mode == Rows::packed;
    std::vector<double> found;
    int64_t begin = 0;
    for (size_t i = 0; i < step_.size(); ++i) {
      for (int32_t head = 0; head < problem.kv_heads; ++head) {
        int64_t held = 0;
        dense::Rows rows = rebuilt_rows(layer, i, head, segments, count, held);
        // What codes stand for is for the tests of export and of the stages to say; attention must be attention over it.
        if (quantized) rows = exported_rows(layer, step_[i], head);
        EXPECT_EQ(rows.count(), held);
        for (int32_t g = 0; g < group; ++g) {
          const int32_t query_head = head * group + g;
          for (int32_t t = 0; t < counts_[i]; ++t) {
            const int64_t b = packed ? 0 : static_cast<int64_t>(i), row = packed ? begin + t : t;
            std::vector<double> q;
            for (int32_t c = 0; c < problem.key_channels; ++c) q.push_back(query.get(b, query_head, row, c));
            const dense::Logits logits{1 / std::sqrt(static_cast<double>(problem.key_channels)), 0, sink_logit ? sink_logit + query_head : nullptr};
            const dense::Attention expected = dense::attend(q.data(), rows, rows.count() - counts_[i] + t + 1, logits);
            double largest = 1e-3;
            for (const double value : expected.output) largest = std::max(largest, std::fabs(value));
            for (int32_t c = 0; c < rows.value_channels; ++c) {
              const double actual = output.get(b, query_head, row, c);
              found.push_back(actual);
              EXPECT_NEAR(expected.output[static_cast<size_t>(c)], actual, largest * ((quantized ? 1e-4 : 1e-5) + (output_dtype() == THINK_F32 ? 0 : 0x1p-8)))
                  << "layer " << layer << ", sequence " << step_[i] << ", query head " << query_head << ", row " << t << ", channel " << c;
            }
            const double actual = lse[(b * problem.query_heads + query_head) * query.view()->extent[2] + row];
            EXPECT_NEAR(expected.lse, actual, (quantized ? 4e-5 : 4e-6) * std::max(1.0, std::fabs(expected.lse)));
            found.push_back(actual);
          }
        }
      }
      begin += counts_[i];
    }
    return found;
  }

  Settings settings_;
  Site &site_;
  int64_t plan_bytes_;
  think_cache *cache_ = nullptr;
  flow::Memory workspace_;
  think_launch launch_;
  std::vector<std::vector<Token>> tokens_;              // [sequence]
  std::vector<std::vector<std::vector<Token>>> mixed_;  // [sequence][layer and head]: the first tokens, where an eviction has made them differ
  Numbers step_, counts_;
};

}  // namespace cache_test
