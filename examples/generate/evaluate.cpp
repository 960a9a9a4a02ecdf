#include "evaluate.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>

namespace generate {
namespace {

double log_sum_exp(const float *logits, int64_t count) {
  const float top = *std::max_element(logits, logits + count);
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += std::exp(logits[i] - top);
  return top + std::log(sum);
}

} // namespace

Predictions::Predictions(std::vector<float> logits, int64_t vocabulary, ThreadPool &pool) : logits_(std::move(logits)), vocabulary_(vocabulary) {
  log_sum_.resize(logits_.size() / static_cast<size_t>(vocabulary));
  pool.run(static_cast<int64_t>(log_sum_.size()), [&](int64_t row) { log_sum_[static_cast<size_t>(row)] = log_sum_exp(logits_.data() + row * vocabulary_, vocabulary_); });
}

Predictions::Difference Predictions::compare(const std::vector<float> &other, std::span<const int32_t> next, ThreadPool &pool) const {
  const auto count = static_cast<int64_t>(log_sum_.size());
  if (other.size() != logits_.size() || static_cast<int64_t>(next.size()) > count)
    throw std::runtime_error("compare: " + std::to_string(other.size()) + " logits for " + std::to_string(logits_.size()) + ", " + std::to_string(next.size()) + " next tokens");
  std::vector<Difference> rows(static_cast<size_t>(count));
  pool.run(count, [&](int64_t row) {
    const float *dense = logits_.data() + row * vocabulary_, *pruned = other.data() + row * vocabulary_;
    const double dense_sum = log_sum_[static_cast<size_t>(row)], pruned_sum = log_sum_exp(pruned, vocabulary_);
    double difference = 0; // sum of p (dense - pruned); the normalisers follow outside the sum
    for (int64_t i = 0; i < vocabulary_; ++i) difference += std::exp(dense[i] - static_cast<float>(dense_sum)) * (static_cast<double>(dense[i]) - pruned[i]);
    Difference &out = rows[static_cast<size_t>(row)];
    out.kl = difference - dense_sum + pruned_sum;
    out.top1 = std::max_element(dense, dense + vocabulary_) - dense == std::max_element(pruned, pruned + vocabulary_) - pruned ? 1 : 0;
    if (row < static_cast<int64_t>(next.size())) {
      const int32_t token = next[static_cast<size_t>(row)];
      out.delta_nll = (dense[token] - dense_sum) - (pruned[token] - pruned_sum);
    }
  });
  Difference mean;
  for (const Difference &row : rows) {
    mean.kl += row.kl / static_cast<double>(count);
    mean.top1 += row.top1 / static_cast<double>(count);
    if (!next.empty()) mean.delta_nll += row.delta_nll / static_cast<double>(next.size());
  }
  return mean;
}

std::string token_digest(std::span<const int32_t> tokens) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const int32_t token : tokens)
    for (int shift = 0; shift < 32; shift += 8) hash = (hash ^ (static_cast<uint32_t>(token) >> shift & 0xff)) * 0x100000001b3u;
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

std::vector<SegmentResult> evaluate(Model &model, Attention &attention, std::span<const int32_t> tokens, const EvaluationOptions &options, const std::vector<Stack> &stacks,
                                    ThreadPool &pool, const std::function<void(int64_t, int64_t)> &progress) {
  const int64_t length = options.prefill + options.scored, spare = static_cast<int64_t>(tokens.size()) - length;
  if (spare < 0) throw std::runtime_error("the text has " + std::to_string(tokens.size()) + " tokens, " + std::to_string(length) + " are needed");
  const int64_t total = options.segments * (static_cast<int64_t>(stacks.size()) + 1);
  std::vector<SegmentResult> results;
  std::vector<float> logits;
  int64_t done = 0;
  for (int64_t i = 0; i < options.segments; ++i) {
    SegmentResult result;
    result.start = static_cast<int64_t>((static_cast<double>(i) + 0.5) / static_cast<double>(options.segments) * static_cast<double>(spare));
    const auto segment = tokens.subspan(static_cast<size_t>(result.start), static_cast<size_t>(length));
    const auto follow = segment.subspan(static_cast<size_t>(options.prefill)), next = follow.subspan(1);
    result.digest = token_digest(segment);

    CacheSettings stays_dense;
    stays_dense.prunes = false;
    Cache prefilled(attention, stays_dense);
    model.forward(segment.first(static_cast<size_t>(options.prefill)), prefilled, Logits::none, logits);
    Cache dense = prefilled.copy(stays_dense);
    model.forward(follow, dense, Logits::all, logits);
    const int64_t vocabulary = model.config().vocabulary;
    for (size_t t = 0; t < next.size(); ++t) {
      const float *row = logits.data() + static_cast<int64_t>(t) * vocabulary;
      result.dense_nll += (log_sum_exp(row, vocabulary) - row[next[t]]) / static_cast<double>(next.size());
    }
    const Predictions predictions(std::move(logits), vocabulary, pool);
    logits = {};
    progress(++done, total);
    for (const Stack &stack : stacks) {
      Cache pruned = prefilled.copy(stack.cache);
      stack.evict(pruned);
      if (!pruned.prune() && !stack.eviction) throw std::runtime_error(stack.name + ": nothing is pruned of a prefill of " + std::to_string(options.prefill) + " tokens");
      result.usage.push_back(pruned.usage());
      model.forward(follow, pruned, Logits::all, logits);
      result.rows.push_back(predictions.compare(logits, next, pool));
      progress(++done, total);
    }
    results.push_back(std::move(result));
  }
  return results;
}

} // namespace generate
