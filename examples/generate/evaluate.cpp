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

EvaluationRow parse_row(const std::string &name, int64_t channels) {
  const size_t first = name.find(':'), second = name.find(':', first == std::string::npos ? first : first + 1);
  const std::string usage = "row '" + name + "': SIDE:METHOD:KEPT expected, SIDE = keys or values, METHOD = think, regressed or adaptive, KEPT = 1 .. " + std::to_string(channels);
  if (second == std::string::npos) throw std::runtime_error(usage);
  const std::string side = name.substr(0, first), method = name.substr(first + 1, second - first - 1), kept = name.substr(second + 1);
  if ((side != "keys" && side != "values") || (method != "think" && method != "regressed" && method != "adaptive")) throw std::runtime_error(usage);
  if (kept.empty() || kept.size() > 4 || kept.find_first_not_of("0123456789") != std::string::npos || std::stoll(kept) < 1 || std::stoll(kept) > channels) throw std::runtime_error(usage);

  EvaluationRow row;
  row.name = name;
  row.options.mode = method == "think" ? THINK_MODE_CHANNELS : THINK_MODE_REGRESSED;
  row.options.budget = method == "adaptive" ? THINK_BUDGET_ADAPTIVE : THINK_BUDGET_UNIFORM;
  row.options.key_kept = side == "keys" ? std::stoi(kept) : -1;
  row.options.value_kept = side == "values" ? std::stoi(kept) : -1;
  row.options.sinks = method == "think" ? -1 : 4; // the paper keeps no sinks
  row.options.dense_limit = -1;                   // the question here is what pruning costs, not whether it pays
  return row;
}

std::string token_digest(std::span<const int32_t> tokens) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const int32_t token : tokens)
    for (int shift = 0; shift < 32; shift += 8) hash = (hash ^ (static_cast<uint32_t>(token) >> shift & 0xff)) * 0x100000001b3u;
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

std::vector<SegmentResult> evaluate(Model &model, Attention &attention, std::span<const int32_t> tokens, const EvaluationOptions &options, const std::vector<EvaluationRow> &rows,
                                    ThreadPool &pool, const std::function<void(int64_t, int64_t)> &progress) {
  const int64_t length = options.prefill + options.scored, spare = static_cast<int64_t>(tokens.size()) - length;
  if (spare < 0) throw std::runtime_error("the text has " + std::to_string(tokens.size()) + " tokens, " + std::to_string(length) + " are needed");
  const int64_t total = options.segments * (static_cast<int64_t>(rows.size()) + 1);
  std::vector<SegmentResult> results;
  std::vector<float> logits;
  int64_t done = 0;
  for (int64_t i = 0; i < options.segments; ++i) {
    SegmentResult result;
    result.start = static_cast<int64_t>((static_cast<double>(i) + 0.5) / static_cast<double>(options.segments) * static_cast<double>(spare));
    const auto segment = tokens.subspan(static_cast<size_t>(result.start), static_cast<size_t>(length));
    const auto follow = segment.subspan(static_cast<size_t>(options.prefill)), next = follow.subspan(1);
    result.digest = token_digest(segment);

    Cache prefilled(attention);
    model.forward(segment.first(static_cast<size_t>(options.prefill)), prefilled, Logits::none, logits);
    Cache dense = prefilled.clone();
    dense.stop_scoring();
    model.forward(follow, dense, Logits::all, logits);
    const int64_t vocabulary = model.config().vocabulary;
    for (size_t t = 0; t < next.size(); ++t) {
      const float *row = logits.data() + static_cast<int64_t>(t) * vocabulary;
      result.dense_nll += (log_sum_exp(row, vocabulary) - row[next[t]]) / static_cast<double>(next.size());
    }
    const Predictions predictions(std::move(logits), vocabulary, pool);
    logits = {};
    progress(++done, total);
    for (const EvaluationRow &row : rows) {
      Cache pruned = prefilled.clone();
      if (!pruned.prune(row.options)) throw std::runtime_error("a prefill of " + std::to_string(options.prefill) + " tokens is too short to prune");
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
