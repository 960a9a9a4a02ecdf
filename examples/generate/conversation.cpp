#include "conversation.h"

#include <algorithm>
#include <chrono>

namespace generate {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); }

double median_ms(std::vector<double> seconds) {
  if (seconds.empty()) return 0;
  const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return 1e3 * *middle;
}

// A second cache that is fed the tokens of an answer, for comparison.
struct Follower {
  Cache cache;
  std::vector<float> logits, other_logits; // of every token: over the answer's cache, over this one
  double attention_ms = 0;
};

// A model this small repeats itself without end under plain greedy decoding: tokens that the answer already holds count less. The figures are taken from
// the logits as they are.
constexpr float kRepetitionPenalty = 1.1f;

int32_t choose(std::vector<float> logits, std::vector<int32_t> used) {
  std::sort(used.begin(), used.end());
  used.erase(std::unique(used.begin(), used.end()), used.end());
  for (const int32_t token : used) {
    float &logit = logits[static_cast<size_t>(token)];
    logit = logit > 0 ? logit / kRepetitionPenalty : logit * kRepetitionPenalty;
  }
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Decoding from `logits`, the prediction after everything in the cache. With a follower, every token is fed to that cache too, in turn: the two are
// measured on the same tokens and under the same load of the machine.
Answer decode(Model &model, Cache &cache, const Tokenizer &tokenizer, std::vector<float> logits, int64_t limit, Follower *follower) {
  Answer answer;
  std::vector<double> attention, follower_attention;
  std::vector<float> other;
  cache.take_attention_seconds();
  while (static_cast<int64_t>(answer.tokens.size()) < limit && cache.tokens() < model.config().context) {
    const int32_t token = choose(logits, answer.tokens);
    answer.ended = token == tokenizer.end_of_turn();
    if (answer.ended) break;
    answer.tokens.push_back(token);
    const auto start = std::chrono::steady_clock::now();
    model.forward({&token, 1}, cache, Logits::last, logits);
    answer.seconds += seconds_since(start);
    attention.push_back(cache.take_attention_seconds());
    if (follower == nullptr) continue;
    model.forward({&token, 1}, follower->cache, Logits::last, other);
    follower_attention.push_back(follower->cache.take_attention_seconds());
    follower->logits.insert(follower->logits.end(), logits.begin(), logits.end());
    follower->other_logits.insert(follower->other_logits.end(), other.begin(), other.end());
  }
  answer.attention_ms = median_ms(attention);
  if (follower != nullptr) follower->attention_ms = median_ms(follower_attention);
  return answer;
}

} // namespace

Conversation converse(Model &model, Attention &attention, const Tokenizer &tokenizer, ThreadPool &pool, const ConversationOptions &options,
                      const std::function<void(const std::string &)> &progress) {
  Conversation result;
  const std::vector<int32_t> prompt = tokenizer.first_turn(options.document.empty() ? options.question : options.document + "\n\n" + options.question);
  result.prompt_tokens = static_cast<int64_t>(prompt.size());

  progress("prefill of " + std::to_string(prompt.size()) + " tokens");
  Cache cache(attention);
  std::vector<float> logits, unused;
  auto start = std::chrono::steady_clock::now();
  model.forward(prompt, cache, Logits::last, logits);
  result.prefill_seconds = seconds_since(start);
  result.prefill_attention_seconds = cache.take_attention_seconds();

  // The dense copy is for the comparison only; an engine prunes the cache that it has.
  Cache dense = cache.clone();
  dense.stop_scoring();
  progress("prune");
  start = std::chrono::steady_clock::now();
  result.pruned = cache.prune(options.prune);
  result.prune_seconds = seconds_since(start);
  result.usage = cache.usage();

  progress("answer over the dense cache");
  Follower follower{cache.clone(), {}, {}};
  result.dense = decode(model, dense, tokenizer, logits, options.tokens, &follower);
  result.attention_ms_pruned = follower.attention_ms;
  if (!result.dense.tokens.empty()) {
    const Predictions predictions(std::move(follower.logits), model.config().vocabulary, pool);
    result.difference = predictions.compare(follower.other_logits, std::span(result.dense.tokens).subspan(1), pool);
    result.compared = static_cast<int64_t>(result.dense.tokens.size());
  }

  progress("answer over the pruned cache");
  result.compact = decode(model, cache, tokenizer, logits, options.tokens, nullptr);
  if (!options.next_question.empty()) {
    // The next turn: many new queries at once over the compact prefix.
    progress("second question over the pruned cache");
    model.forward(tokenizer.next_turn(options.next_question), cache, Logits::last, logits);
    result.next = decode(model, cache, tokenizer, logits, options.tokens, nullptr);
  }
  result.end_usage = cache.usage();
  progress("");
  return result;
}

} // namespace generate
