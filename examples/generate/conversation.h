// The demonstration: one prompt, the answer over the dense cache, the answer over the pruned one, a second question over the pruned one, and the figures.
#pragma once

#include "cache.h"
#include "evaluate.h"
#include "model.h"
#include "tokenizer.h"

#include <functional>
#include <string>
#include <vector>

namespace generate {

struct Answer {
  std::vector<int32_t> tokens; // without the end-of-turn token
  bool ended = false;          // by the model, not by the limit
  double seconds = 0;          // of decoding, this cache only
  double attention_ms = 0;     // per decoded token, all layers: the median
};

struct ConversationOptions {
  std::string document, question, next_question;
  int64_t tokens = 64; // of an answer, at most
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
};

struct Conversation {
  int64_t prompt_tokens = 0;
  double prefill_seconds = 0, prefill_attention_seconds = 0, prune_seconds = 0;
  bool pruned = false;
  Cache::Usage usage{};      // after the prompt
  Cache::Usage end_usage{};  // of the pruned cache after everything
  Answer dense, compact, next;
  double attention_ms_pruned = 0;     // like dense.attention_ms, for the same tokens over the pruned cache, measured in turn
  Predictions::Difference difference; // of the dense answer's tokens under the pruned cache
  int64_t compared = 0;               // predictions in `difference`
};

Conversation converse(Model &model, Attention &attention, const Tokenizer &tokenizer, ThreadPool &pool, const ConversationOptions &options,
                      const std::function<void(const std::string &)> &progress);

} // namespace generate
