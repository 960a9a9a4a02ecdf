// The flow of the stages on a batch of sequences, as an engine would drive it, and what the result must be by the double-precision oracle.
#pragma once

#include <functional>
#include <thread>

#include "cache.h"
#include "dense.h"

namespace flow {

// Rows of one sequence as the model made them, already rounded to the dtypes that carry them: [head][token][channel].
struct Sequence {
  int64_t tokens;
  std::vector<double> query, key, value;
};

// Channels that differ in size and depend on each other, keys with a bias and outlying first rows: what trained models look like, roughly.
inline Sequence make_sequence(const think_problem &problem, int64_t tokens, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  Sequence sequence{tokens, {}, {}, {}};
  constexpr int kLatent = 6;
  const auto fill = [&](std::vector<double> &rows, int32_t heads, int32_t channels, think_dtype dtype, double bias, double outlier) {
    for (int32_t head = 0; head < heads; ++head) {
      std::vector<double> size(channels), mean(channels), loading(static_cast<size_t>(channels) * kLatent);
      for (double &value : size) value = std::exp(0.6 * normal(random)) * 0.8;
      for (double &value : mean) value = bias * normal(random);
      for (double &value : loading) value = normal(random) / std::sqrt(kLatent);
      for (int64_t t = 0; t < tokens; ++t) {
        double latent[kLatent];
        for (double &value : latent) value = normal(random);
        const double stretch = t < 4 ? outlier : 1;
        for (int32_t c = 0; c < channels; ++c) {
          double value = 0.4 * normal(random);
          for (int r = 0; r < kLatent; ++r) value += latent[r] * loading[c * kLatent + r];
          rows.push_back(rounded(dtype, stretch * (mean[c] + size[c] * value)));
        }
      }
    }
  };
  fill(sequence.query, problem.query_heads, problem.key_channels, problem.query_dtype, 0.1, 1);
  fill(sequence.key, problem.kv_heads, problem.key_channels, problem.cache_dtype, 0.5, 2);
  fill(sequence.value, problem.kv_heads, problem.value_channels, problem.cache_dtype, 0.2, 1);
  return sequence;
}

// All fields filled in, so that the tests can read them.
inline think_problem make_problem(int32_t channels, int32_t group, think_dtype cache, int32_t kv_heads = 2) {
  think_problem problem = THINK_PROBLEM_INIT;
  problem.query_dtype = problem.output_dtype = THINK_F32;
  problem.cache_dtype = cache;
  problem.kv_heads = kv_heads;
  problem.query_heads = kv_heads * group;
  problem.key_channels = problem.value_channels = channels;
  problem.window = 32;
  problem.max_batch = 4;
  problem.max_queries = 64;
  problem.max_tokens = 1024;
  problem.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(channels)));
  return problem;
}

struct Options {
  think_problem problem;
  std::vector<int64_t> tokens;  // prefilled, per sequence
  std::vector<int32_t> slot;    // empty = 0, 1, 2, ...
  int32_t slots = 0;            // 0 = as many as sequences
  int64_t later_tokens = 64;    // room for tokens of later turns
  int32_t dense_page = 0, compact_page = 0;
  int32_t sinks = 4, recent = 32;
  int64_t chunk = 0;    // of the prefill; 0 = all at once
  bool packed = false;  // tensors of fresh rows: packed or rectangular
  Order order = Order::heads_first;
  int32_t slices = 0;          // more than 1: that many threads share each call that can be cut
  bool reversed = false;       // slices one after the other instead, the last one first
  bool one_workspace = false;  // for all calls of all stages, instead of an exact one for each
  uint32_t launch_flags = THINK_LAUNCH_CHECK;
  uint32_t seed = 1;
};

// Widths per [sequence][kv_head]; empty = all channels, no basis.
struct Choice {
  std::vector<int32_t> key, value;
  bool regress = false;
};

// Attention results by [sequence][query_head][query].
struct Output {
  std::vector<std::vector<double>> rows;
  std::vector<double> lse;
};

class Flow {
 public:
  Flow(const Plan &plan, Options options)
      : plan_(plan),
        options_(std::move(options)),
        count_(static_cast<int32_t>(options_.tokens.size())),
        slots_(options_.slots ? options_.slots : count_) {
    for (int32_t s = 0; s < count_; ++s) {
      sequences.push_back(make_sequence(problem(), options_.tokens[s] + options_.later_tokens, options_.seed * 1000 + s));
    }
    source = std::make_unique<DenseCache>(problem(), placement(options_.dense_page), options_.seed);
    think_batch_init(&batch_, sizeof batch_);
    batch_.count = count_;
    batch_.slot = options_.slot.empty() ? nullptr : options_.slot.data();
    int64_t bytes = 0;
    THINK_CALL(think_score_state_size, plan_, slots_, &bytes);
    state = Memory(bytes);
    THINK_CALL(think_moments_size, plan_, slots_, &bytes);
    moments = Memory(bytes);
    score.resize(static_cast<size_t>(count_) * problem().kv_heads * problem().key_channels);
    if (options_.one_workspace) {
      int64_t most = 0;
      for (int32_t stage = THINK_STAGE_SCORE; stage <= THINK_STAGE_EVICT; ++stage) {
        THINK_CALL(think_workspace_size, plan_, stage, nullptr, &bytes, nullptr);
        most = std::max(most, bytes);
      }
      workspace_ = std::make_unique<Memory>(most, 0);
    }
  }

  Launch launch_for(int32_t stage, const think_extent &extent) const {
    return {plan_, stage, extent, options_.launch_flags, workspace_.get()};
  }

  const think_problem &problem() const { return options_.problem; }
  const Options &options() const { return options_; }
  const think_batch *batch() const { return &batch_; }
  int32_t slot_of(int32_t sequence) const { return options_.slot.empty() ? sequence : options_.slot[sequence]; }
  int64_t moved(int32_t sequence) const {  // rows that a prune moves
    return std::max<int64_t>(0, (options_.tokens[sequence] - options_.sinks - options_.recent)) / 32 * 32;
  }

  // Dense rows of the prefill into the cache, queries and keys into the score, chunk by chunk.
  void prefill() {
    const Launch reset = launch_for(THINK_STAGE_SCORE, extent_of(count_, 1, 1));
    THINK_CALL(think_score_reset, plan_, state.data(), &batch_, reset.get());
    const int64_t longest = *std::max_element(options_.tokens.begin(), options_.tokens.end());
    const int64_t chunk = options_.chunk ? options_.chunk : std::max<int64_t>(longest, 1);
    for (int64_t first = 0; first < longest; first += chunk) {
      std::vector<int64_t> from, to;
      for (const int64_t tokens : options_.tokens) {
        from.push_back(std::min(first, tokens));
        to.push_back(std::min(first + chunk, tokens));
      }
      append(from, to);
      const Fresh query(*this, problem().query_heads, problem().key_channels, problem().query_dtype, from, to, &Sequence::query);
      const Fresh key(*this, problem().kv_heads, problem().key_channels, problem().cache_dtype, from, to, &Sequence::key);
      const Launch launch = launch_for(THINK_STAGE_SCORE, extent_of(count_, 1, query.most));
      shared(launch, [&](const think_launch *part) {
        THINK_CALL(think_score_update, plan_, query.tensor.view(), key.tensor.view(), &query.batch, state.data(), part);
      });
    }
    const Launch finish = launch_for(THINK_STAGE_SCORE, extent_of(count_, 1, 1));
    THINK_CALL(think_score_finish, plan_, state.data(), &batch_, nullptr, score.data(), finish.get());
  }

  // Put tokens [from, to) of each sequence into the dense cache.
  void append(const std::vector<int64_t> &from, const std::vector<int64_t> &to) {
    for (int32_t s = 0; s < count_; ++s) {
      for (int32_t head = 0; head < problem().kv_heads; ++head) {
        for (int64_t t = from[s]; t < to[s]; ++t) {
          for (int32_t c = 0; c < problem().key_channels; ++c) {
            store(source->key_row(s, slot_of(s), head, t), problem().cache_dtype, c,
                  element(sequences[s].key, s, head, t, c, problem().key_channels));
          }
          for (int32_t c = 0; c < problem().value_channels; ++c) {
            store(source->value_row(s, slot_of(s), head, t), problem().cache_dtype, c,
                  element(sequences[s].value, s, head, t, c, problem().value_channels));
          }
        }
      }
    }
  }

  // All rows of the prefill as one dense segment; `lengths` is the caller's.
  think_segment dense_segment(const std::vector<int32_t> &lengths, const std::vector<int32_t> *first = nullptr, uint32_t flags = 0) const {
    think_segment segment = source->segment();
    segment.flags = flags;
    segment.lengths = lengths.data();
    segment.first = first ? first->data() : nullptr;
    segment.lengths_stride[0] = 1;
    return segment;
  }

  void measure() {
    think_tensor window = THINK_TENSOR_INIT;
    THINK_CALL(think_score_window, plan_, state.data(), slots_, &window);
    const std::vector<int32_t> lengths = prefilled();
    const think_segment segment = dense_segment(lengths, nullptr, THINK_SEGMENT_CAUSAL);
    think_moments_options options = THINK_MOMENTS_OPTIONS_INIT;
    options.sinks = options_.sinks ? options_.sinks : -1;
    options.recent = options_.recent ? options_.recent : -1;
    const Launch launch = launch_for(THINK_STAGE_MOMENTS, extent_of(count_, problem().window, longest()));
    THINK_CALL(think_moments, plan_, &window, &segment, &batch_, &options, moments.data(), launch.get());
  }

  std::vector<float> gains(int32_t side, std::vector<int32_t> *order = nullptr) {
    const int32_t channels = side == THINK_KEYS ? problem().key_channels : problem().value_channels;
    std::vector<float> result(static_cast<size_t>(count_) * problem().kv_heads * channels);
    if (order) order->resize(result.size());
    const Launch launch = launch_for(THINK_STAGE_MOMENTS, extent_of(count_, problem().window, longest()));
    THINK_CALL(think_gains, plan_, moments.data(), &batch_, side, side == THINK_KEYS ? score.data() : nullptr, result.data(),
               order ? order->data() : nullptr, launch.get());
    return result;
  }

  std::vector<int32_t> adaptive_widths(int32_t side, int32_t kept_per_head, bool normalise = false) {
    const std::vector<float> gain = gains(side);
    think_budget_options options = THINK_BUDGET_OPTIONS_INIT;
    options.flags = normalise ? THINK_BUDGET_NORMALISE : 0;
    options.total = static_cast<int64_t>(kept_per_head) * problem().kv_heads;
    std::vector<int32_t> kept(static_cast<size_t>(count_) * problem().kv_heads);
    const Launch launch = launch_for(THINK_STAGE_SELECT, extent_of(count_, 1, 1));
    THINK_CALL(think_budgets, plan_, gain.data(), &batch_, side, &options, kept.data(), launch.get());
    return kept;
  }

  // Values are taken in the order of their gains: the scores count down along it.
  std::vector<float> value_score() {
    std::vector<int32_t> order;
    gains(THINK_VALUES, &order);
    const int32_t channels = problem().value_channels;
    std::vector<float> result(order.size());
    for (size_t i = 0; i < order.size(); ++i)
      result[i / channels * channels + order[i]] = static_cast<float>(channels - static_cast<int32_t>(i % channels));
    return result;
  }

  // select -> fit -> place -> compact of the rows between sinks and window, into a compact cache that is made for it. Needs prefill(), and
  // measure() where values are chosen or anything is fitted.
  void prune(const Choice &choice, const think_format *format = nullptr) {
    const auto total = [&](const std::vector<int32_t> &kept, int32_t channels) {
      int64_t most = kept.empty() ? static_cast<int64_t>(problem().kv_heads) * channels : 0;
      for (size_t at = 0; at < kept.size(); at += problem().kv_heads) {
        int64_t sum = 0;
        for (int32_t head = 0; head < problem().kv_heads; ++head) sum += kept[at + head];
        most = std::max(most, sum);
      }
      return most;
    };
    compact = std::make_unique<CompactCache>(plan_, problem(), placement(options_.compact_page), total(choice.key, problem().key_channels),
                                             total(choice.value, problem().value_channels), !choice.key.empty(), !choice.value.empty(),
                                             options_.seed + 7, format);
    mask.assign(score.size(), 2);
    if (!choice.key.empty()) select(THINK_KEYS, score, choice.key, compact->key_basis, mask.data(), choice.regress);
    if (!choice.value.empty()) select(THINK_VALUES, value_score(), choice.value, compact->value_basis, nullptr, choice.regress);
    const Launch launch = launch_for(THINK_STAGE_COMPACT, extent_of(count_, 1, longest()));
    THINK_CALL(think_segment_place, plan_, &compact->segment, &batch_, launch.get());
    compacted.assign(count_, 0);
    std::vector<int32_t> rows;
    for (int32_t s = 0; s < count_; ++s) rows.push_back(static_cast<int32_t>(moved(s)));
    fold(rows);
  }

  // The next rows[s] dense rows of each sequence go to the end of its compact ones.
  void fold(const std::vector<int32_t> &rows) {
    std::vector<int32_t> first;
    for (int32_t s = 0; s < count_; ++s) first.push_back(options_.sinks + compacted[s]);
    const think_segment from = dense_segment(rows, &first);
    think_segment to = compact->segment;
    const std::vector<int32_t> at = compacted;
    to.first = at.data();
    to.lengths = rows.data();
    to.lengths_stride[0] = 1;
    const Launch launch = launch_for(THINK_STAGE_COMPACT, extent_of(count_, 1, longest()));
    shared(launch, [&](const think_launch *part) { THINK_CALL(think_compact, plan_, &from, &to, &batch_, part); });
    for (int32_t s = 0; s < count_; ++s) compacted[s] += rows[s];
  }

  // Attention of the last fresh[s] of total[s] tokens over sinks, compact rows and the causal window. Tokens beyond the prefill must have
  // been appended. Without a compact cache: over one dense segment.
  Output attend(const std::vector<int64_t> &total, const std::vector<int32_t> &fresh, const float *sink_logit = nullptr,
                bool causal = true);
  Output expected(const std::vector<int64_t> &total, const std::vector<int32_t> &fresh, const float *sink_logit = nullptr,
                  bool causal = true) const;
  // The rows of one head as the oracle sees them: those that were compacted are rebuilt from their basis.
  dense::Rows full_rows(int32_t sequence, int32_t head, int64_t total) const;

  std::vector<int32_t> prefilled() const { return {options_.tokens.begin(), options_.tokens.end()}; }
  int64_t longest() const { return *std::max_element(options_.tokens.begin(), options_.tokens.end()) + options_.later_tokens; }
  Placement placement(int32_t page) const { return {count_, slots_, (longest() + 31) / 32 * 32, page}; }

  double element(const std::vector<double> &rows, int32_t sequence, int64_t head, int64_t token, int64_t channel, int32_t channels) const {
    return rows[static_cast<size_t>((head * sequences[sequence].tokens + token) * channels + channel)];
  }

 private:
  // Tensor and batch of rows [from, to) of each sequence, packed or rectangular with NaN as padding.
  struct Fresh {
    Fresh(const Flow &flow, int32_t heads, int32_t channels, think_dtype dtype, const std::vector<int64_t> &from,
          const std::vector<int64_t> &to, const std::vector<double> Sequence::*rows)
        : row_start{0}, most(0), tensor(THINK_F32, 0, 0, 0, 0) {
      for (int32_t s = 0; s < flow.count_; ++s) {
        lengths.push_back(static_cast<int32_t>(to[s] - from[s]));
        row_start.push_back(row_start.back() + lengths.back());
        most = std::max<int32_t>(most, lengths.back());
      }
      packed = flow.options_.packed;
      tensor = packed ? Tensor(dtype, 1, heads, row_start.back(), channels, flow.options_.order, 8)
                      : Tensor(dtype, flow.count_, heads, most + 1, channels, flow.options_.order, 8);
      for (int32_t s = 0; rows && s < flow.count_; ++s) {
        for (int32_t head = 0; head < heads; ++head) {
          for (int32_t t = 0; t < lengths[s]; ++t) {
            for (int32_t c = 0; c < channels; ++c) {
              tensor.set(row_of(s), head, token_of(s, t), c, flow.element(flow.sequences[s].*rows, s, head, from[s] + t, c, channels));
            }
          }
        }
      }
      batch = flow.batch_;
      (packed ? batch.row_start : batch.lengths) = packed ? row_start.data() : lengths.data();
    }
    int64_t row_of(int32_t sequence) const { return packed ? 0 : sequence; }
    int64_t token_of(int32_t sequence, int64_t token) const { return packed ? row_start[sequence] + token : token; }
    std::vector<int32_t> lengths, row_start;
    int32_t most;
    bool packed = false;
    Tensor tensor;
    think_batch batch;
  };

  void select(int32_t side, const std::vector<float> &scores, const std::vector<int32_t> &kept, think_basis &basis, uint8_t *chosen,
              bool regress) {
    think_select_options options = THINK_SELECT_OPTIONS_INIT;
    options.side = side;
    const Launch launch = launch_for(THINK_STAGE_SELECT, extent_of(count_, 1, 1));
    THINK_CALL(think_select, plan_, scores.data(), &batch_, &options, kept.data(), &basis, chosen, launch.get());
    if (!regress) return;
    think_fit_options fit = THINK_FIT_OPTIONS_INIT;
    fit.side = side;
    const Launch fit_launch = launch_for(THINK_STAGE_FIT, extent_of(count_, 1, 1));
    THINK_CALL(think_fit, plan_, moments.data(), &batch_, &fit, &basis, fit_launch.get());
  }

  // Run a call as a whole, or in slices on threads.
  void shared(const Launch &launch, const std::function<void(const think_launch *)> &call) const {
    if (options_.slices < 2) return call(launch.get());
    for (int32_t i = options_.slices; options_.reversed && i-- > 0;) {
      const think_launch part = launch.slice(i, options_.slices);
      call(&part);
    }
    if (options_.reversed) return;
    std::vector<std::string> failure(options_.slices);
    std::vector<std::thread> threads;
    for (int32_t i = 0; i < options_.slices; ++i) {
      threads.emplace_back([&, i] {
        try {
          const think_launch part = launch.slice(i, options_.slices);
          call(&part);
        } catch (const std::exception &error) {
          failure[i] = error.what();
        }
      });
    }
    for (std::thread &thread : threads) thread.join();
    for (const std::string &text : failure) {
      if (!text.empty()) throw std::runtime_error(text);
    }
  }

  const Plan &plan_;
  Options options_;
  int32_t count_, slots_;
  think_batch batch_;
  std::unique_ptr<Memory> workspace_;

 public:
  std::vector<Sequence> sequences;
  std::unique_ptr<DenseCache> source;
  std::unique_ptr<CompactCache> compact;
  Memory state, moments;
  std::vector<float> score;
  std::vector<uint8_t> mask;
  std::vector<int32_t> compacted;  // rows of each sequence in the compact cache
};

inline Output Flow::attend(const std::vector<int64_t> &total, const std::vector<int32_t> &fresh, const float *sink_logit, bool causal) {
  std::vector<int64_t> from(total);
  for (int32_t s = 0; s < count_; ++s) from[s] -= fresh[s];
  const Fresh query(*this, problem().query_heads, problem().key_channels, problem().query_dtype, from, total, &Sequence::query);
  const Fresh output(*this, problem().query_heads, problem().value_channels, problem().output_dtype, from, total, nullptr);
  std::vector<int32_t> sink_rows(count_, 0), window_first(count_, 0), window_rows;
  for (int32_t s = 0; s < count_; ++s) {
    // A sequence too short to be pruned is all window.
    if (compact && compacted[s] > 0) {
      sink_rows[s] = options_.sinks;
      window_first[s] = options_.sinks + compacted[s];
    }
    window_rows.push_back(static_cast<int32_t>(total[s]) - window_first[s]);
  }
  std::vector<think_segment> segments{dense_segment(window_rows, &window_first, causal ? THINK_SEGMENT_CAUSAL : 0)};
  if (compact) {
    segments.push_back(dense_segment(sink_rows));
    segments.push_back(compact->segment);
    segments.back().lengths = compacted.data();
    segments.back().lengths_stride[0] = 1;
  }
  const int32_t segment_count = static_cast<int32_t>(segments.size());
  const int64_t tokens = *std::max_element(total.begin(), total.end());
  const Launch launch = launch_for(THINK_STAGE_ATTEND, extent_of(count_, query.most, tokens, segment_count));
  const think_tensor &shape = *output.tensor.view();
  std::vector<float> lse(static_cast<size_t>(shape.extent[0] * shape.extent[1] * shape.extent[2]), -12345.0f);
  shared(launch, [&](const think_launch *part) {
    THINK_CALL(think_attend, plan_, query.tensor.view(), &query.batch, segments.data(), segment_count, sink_logit, output.tensor.view(),
               lse.data(), part);
  });
  Output result;
  size_t written = 0;
  for (int32_t s = 0; s < count_; ++s) {
    for (int32_t head = 0; head < problem().query_heads; ++head) {
      for (int32_t i = 0; i < fresh[s]; ++i) {
        std::vector<double> row;
        for (int32_t c = 0; c < problem().value_channels; ++c)
          row.push_back(output.tensor.get(output.row_of(s), head, output.token_of(s, i), c));
        result.rows.push_back(std::move(row));
        result.lse.push_back(
            lse[static_cast<size_t>((output.row_of(s) * shape.extent[1] + head) * shape.extent[2] + output.token_of(s, i))]);
        ++written;
      }
    }
  }
  // Rows that belong to no query stay as they were: nothing but the results may have lost its poison.
  size_t numbers = 0;
  const int64_t size = bytes_of(problem().output_dtype);
  for (int64_t at = 0; at < output.tensor.memory().bytes(); at += size) {
    const unsigned char *bytes = output.tensor.memory().data() + at;
    numbers += std::any_of(bytes, bytes + size, [](unsigned char byte) { return byte != kPoison; });
  }
  EXPECT_LE(numbers, written * problem().value_channels) << "padding of the output was written";
  EXPECT_EQ(lse.size() - written, static_cast<size_t>(std::count(lse.begin(), lse.end(), -12345.0f))) << "padding of the LSE was written";
  return result;
}

inline dense::Rows Flow::full_rows(int32_t s, int32_t head, int64_t total) const {
  dense::Rows rows{problem().key_channels, problem().value_channels, {}, {}};
  const auto at = [&](const std::vector<double> &all, int32_t channels) {
    const auto begin = all.begin() + head * sequences[s].tokens * channels;
    return std::vector<double>(begin, begin + total * channels);
  };
  rows.key = at(sequences[s].key, rows.key_channels);
  rows.value = at(sequences[s].value, rows.value_channels);
  if (!compact) return rows;
  const int64_t first = options_.sinks, last = first + compacted[s];
  const auto rebuild = [&](const think_basis *source_basis, think_dtype dtype, std::vector<double> &all, int32_t channels) {
    for (int64_t i = first * channels; i < last * channels; ++i) all[i] = rounded(dtype, all[i]);
    if (!source_basis) return;
    const dense::Basis basis = dense::read_basis(*source_basis, problem().kv_heads, slot_of(s), head);
    for (int64_t t = first; t < last; ++t) dense::reconstruct(basis, all.data() + t * channels);
  };
  if (compacted[s] == 0) return rows;
  rebuild(compact->segment.key_basis, compact->segment.key_dtype, rows.key, rows.key_channels);
  rebuild(compact->segment.value_basis, compact->segment.value_dtype, rows.value, rows.value_channels);
  return rows;
}

inline Output Flow::expected(const std::vector<int64_t> &total, const std::vector<int32_t> &fresh, const float *sink_logit,
                             bool causal) const {
  Output result;
  const int32_t group = problem().query_heads / problem().kv_heads;
  for (int32_t s = 0; s < count_; ++s) {
    for (int32_t kv_head = 0; kv_head < problem().kv_heads; ++kv_head) {
      const dense::Rows rows = full_rows(s, kv_head, total[s]);
      for (int32_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        const dense::Logits logits{problem().scale, problem().softcap, sink_logit ? sink_logit + head : nullptr};
        for (int32_t i = 0; i < fresh[s]; ++i) {
          const int64_t position = total[s] - fresh[s] + i;
          const double *query = sequences[s].query.data() + (head * sequences[s].tokens + position) * problem().key_channels;
          dense::Attention attention = dense::attend(query, rows, causal ? position + 1 : total[s], logits);
          result.rows.push_back(std::move(attention.output));
          result.lse.push_back(attention.lse);
        }
      }
    }
  }
  return result;
}

}  // namespace flow
