// The demonstration: one prompt, the answer over the dense cache, the answer over the pruned one, a second question over the pruned one, and the figures.
#pragma once

#include "cache.h"
#include "evaluate.h"
#include "model.h"
#include "stack.h"
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
  int64_t tokens = 64;      // of an answer, at most
  bool never_ends = false;  // answers go on to the limit
  Stack stack;
};

// The dense answer's tokens, fed to another cache in turn: the two are measured on the same tokens and under the same load of the machine.
struct Comparison {
  std::string name;
  Cache::Usage usage{}, end_usage{}; // after the prompt, after the answer
  double attention_ms = 0;           // like that of an answer
  Predictions::Difference difference;
  int64_t compared = 0;              // predictions in `difference`
};

struct Conversation {
  int64_t prompt_tokens = 0;
  double prefill_seconds = 0, prefill_attention_seconds = 0, prune_seconds = 0;
  bool pruned = false;       // or evicted
  Cache::Usage end_usage{};  // of the pruned cache after everything
  Answer dense, compact, next;
  Comparison comparison;
};

Conversation converse(Model &model, Attention &attention, const Tokenizer &tokenizer, ThreadPool &pool, const ConversationOptions &options,
                      const std::function<void(const std::string &)> &progress);

// The prompt and the dense answer once, the comparison for many stacks; options.stack and options.next_question are not used.
struct Table {
  int64_t prompt_tokens = 0;
  Answer dense;
  std::vector<Comparison> rows; // the first is the dense cache itself
};

Table compare_stacks(Model &model, Attention &attention, const Tokenizer &tokenizer, ThreadPool &pool, const ConversationOptions &options, const std::vector<Stack> &stacks,
                     const std::function<void(const std::string &)> &progress);

} // namespace generate
