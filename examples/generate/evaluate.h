// What pruning costs on a text: prefill, prune, feed the tokens that follow in one pass, compare the predictions with those over the dense cache.
#pragma once

#include "cache.h"
#include "model.h"
#include "stack.h"

#include <functional>
#include <span>
#include <string>
#include <vector>

namespace generate {

// Predictions for a run of tokens over the dense cache, kept to be compared with.
class Predictions {
public:
  Predictions(std::vector<float> logits, int64_t vocabulary, ThreadPool &pool);

  struct Difference {
    double kl = 0;        // mean of KL(dense || other) per prediction, nats
    double delta_nll = 0; // mean change of the negative log-likelihood of the next token of the run, nats
    double top1 = 0;      // share of predictions with the same most likely token
  };

  // other: logits of the same run. next: the tokens that followed each prediction; one fewer than predictions if the last one's is unknown.
  Difference compare(const std::vector<float> &other, std::span<const int32_t> next, ThreadPool &pool) const;

private:
  std::vector<float> logits_;
  std::vector<double> log_sum_; // log of the sum of exp(logits), per prediction
  int64_t vocabulary_;
};

struct SegmentResult {
  int64_t start = 0;
  std::string digest;  // FNV-1a of the tokens, so that figures of different programs are compared on the same ones
  double dense_nll = 0;
  std::vector<Predictions::Difference> rows; // one per stack
  std::vector<Cache::Usage> usage;           // after the prefill
};

struct EvaluationOptions {
  int64_t segments = 2, prefill = 1536, scored = 512;
};

std::string token_digest(std::span<const int32_t> tokens);

// progress(done, total) counts passes over scored tokens.
std::vector<SegmentResult> evaluate(Model &model, Attention &attention, std::span<const int32_t> tokens, const EvaluationOptions &options, const std::vector<Stack> &stacks,
                                    ThreadPool &pool, const std::function<void(int64_t, int64_t)> &progress);

} // namespace generate
