#include "conversation.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <stdexcept>

namespace generate {
namespace {

using Progress = std::function<void(const std::string &)>;

double seconds_since(std::chrono::steady_clock::time_point start) { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); }

double median_ms(std::vector<double> seconds) {
  if (seconds.empty()) return 0;
  const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return 1e3 * *middle;
}

CacheSettings stays_dense() {
  CacheSettings settings;
  settings.prunes = false;
  return settings;
}

// A second cache that is fed the tokens of an answer, for comparison.
class Follower {
public:
  Follower(Cache cache, std::string name) : cache_(std::move(cache)) {
    result_.name = std::move(name);
    result_.usage = cache_.usage();
  }

  void feed(Model &model, int32_t token) {
    model.forward({&token, 1}, cache_, Logits::last, logits_);
    attention_.push_back(cache_.take_attention_seconds());
  }

  // The prediction after the last token. next: the token that followed, if the answer went on.
  void compare(const Predictions &dense, std::span<const int32_t> next, ThreadPool &pool) {
    const Predictions::Difference difference = dense.compare(logits_, next, pool);
    ++result_.compared;
    followed_ += static_cast<int64_t>(next.size());
    result_.difference.kl += difference.kl;
    result_.difference.top1 += difference.top1;
    result_.difference.delta_nll += difference.delta_nll;
  }

  Comparison finish() {
    result_.attention_ms = median_ms(attention_);
    result_.end_usage = cache_.usage();
    const auto compared = static_cast<double>(std::max<int64_t>(1, result_.compared));
    result_.difference.kl /= compared;
    result_.difference.top1 /= compared;
    result_.difference.delta_nll /= static_cast<double>(std::max<int64_t>(1, followed_));
    return std::move(result_);
  }

private:
  Cache cache_;
  Comparison result_;
  std::vector<float> logits_;
  std::vector<double> attention_;
  int64_t followed_ = 0;
};

// A model this small repeats itself without end under plain greedy decoding: tokens that the answer already holds count less. The figures are taken from
// the logits as they are.
constexpr float kRepetitionPenalty = 1.1f;

int32_t choose(std::vector<float> logits, std::vector<int32_t> used, int32_t forbidden) {
  if (forbidden >= 0) logits[static_cast<size_t>(forbidden)] = -HUGE_VALF;
  std::sort(used.begin(), used.end());
  used.erase(std::unique(used.begin(), used.end()), used.end());
  for (const int32_t token : used) {
    float &logit = logits[static_cast<size_t>(token)];
    logit = logit > 0 ? logit / kRepetitionPenalty : logit * kRepetitionPenalty;
  }
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

class Decoder {
public:
  Decoder(Model &model, const Tokenizer &tokenizer, ThreadPool &pool, const ConversationOptions &options, const Progress &progress)
      : model_(model), tokenizer_(tokenizer), pool_(pool), options_(options), progress_(progress) {}

  // Decoding from `logits`, the prediction after everything in the cache.
  Answer answer(const std::string &what, Cache &cache, std::vector<float> logits, std::span<Follower> followers = {}) const {
    Answer answer;
    std::vector<double> attention;
    cache.take_attention_seconds();
    const auto compare = [&](std::span<const int32_t> next) {
      if (answer.tokens.empty() || followers.empty()) return;
      const Predictions predictions(logits, model_.config().vocabulary, pool_);
      for (Follower &follower : followers) follower.compare(predictions, next, pool_);
    };
    while (static_cast<int64_t>(answer.tokens.size()) < options_.tokens && cache.tokens() < model_.config().context) {
      const int32_t token = choose(logits, answer.tokens, options_.never_ends ? tokenizer_.end_of_turn() : -1);
      answer.ended = token == tokenizer_.end_of_turn();
      if (answer.ended) break;
      compare({&token, 1});
      answer.tokens.push_back(token);
      progress_(what + ": token " + std::to_string(answer.tokens.size()) + " of at most " + std::to_string(options_.tokens));
      const auto start = std::chrono::steady_clock::now();
      model_.forward({&token, 1}, cache, Logits::last, logits);
      answer.seconds += seconds_since(start);
      attention.push_back(cache.take_attention_seconds());
      for (Follower &follower : followers) follower.feed(model_, token);
    }
    compare({});
    answer.attention_ms = median_ms(attention);
    return answer;
  }

private:
  Model &model_;
  const Tokenizer &tokenizer_;
  ThreadPool &pool_;
  const ConversationOptions &options_;
  const Progress &progress_;
};

std::vector<int32_t> prompt_of(const Tokenizer &tokenizer, const ConversationOptions &options) {
  return tokenizer.first_turn(options.document.empty() ? options.question : options.document + "\n\n" + options.question);
}

} // namespace

Conversation converse(Model &model, Attention &attention, const Tokenizer &tokenizer, ThreadPool &pool, const ConversationOptions &options, const Progress &progress) {
  Conversation result;
  const Decoder decoder(model, tokenizer, pool, options, progress);
  const std::vector<int32_t> prompt = prompt_of(tokenizer, options);
  result.prompt_tokens = static_cast<int64_t>(prompt.size());

  progress("prefill of " + std::to_string(prompt.size()) + " tokens");
  const Stack &stack = options.stack;
  Cache cache(attention, stack.cache);
  std::vector<float> logits;
  auto start = std::chrono::steady_clock::now();
  model.forward(prompt, cache, Logits::last, logits);
  result.prefill_seconds = seconds_since(start);
  result.prefill_attention_seconds = cache.take_attention_seconds();

  // The dense copy is for the comparison only; an engine prunes the cache that it has.
  Cache dense = cache.copy(stays_dense());
  progress("prune");
  start = std::chrono::steady_clock::now();
  stack.evict(cache);
  const bool compact = cache.prune();
  result.prune_seconds = seconds_since(start);
  result.pruned = compact || cache.usage().evicted_tokens > 0;

  Follower follower(cache.fork(), stack.name);
  result.dense = decoder.answer("answer over the dense cache", dense, logits, {&follower, 1});
  result.comparison = follower.finish();

  result.compact = decoder.answer("answer over the pruned cache", cache, logits);
  if (!options.next_question.empty()) {
    // The next turn: many new queries at once over the compact prefix.
    progress("second question over the pruned cache");
    model.forward(tokenizer.next_turn(options.next_question), cache, Logits::last, logits);
    result.next = decoder.answer("second answer", cache, logits);
  }
  result.end_usage = cache.usage();
  progress("");
  return result;
}

Table compare_stacks(Model &model, Attention &attention, const Tokenizer &tokenizer, ThreadPool &pool, const ConversationOptions &options, const std::vector<Stack> &stacks,
                     const Progress &progress) {
  Table table;
  const std::vector<int32_t> prompt = prompt_of(tokenizer, options);
  table.prompt_tokens = static_cast<int64_t>(prompt.size());
  progress("prefill of " + std::to_string(prompt.size()) + " tokens");
  Cache dense(attention, stays_dense());
  std::vector<float> logits;
  model.forward(prompt, dense, Logits::last, logits);
  std::vector<Follower> followers;
  for (const Stack &stack : stacks) {
    progress(stack.name);
    Cache cache = dense.copy(stack.cache);
    stack.evict(cache);
    cache.prune();
    if (cache.usage().compact_tokens == 0 && cache.usage().evicted_tokens == 0) throw std::runtime_error(stack.name + ": nothing is pruned of a prompt of " + std::to_string(prompt.size()) + " tokens");
    followers.emplace_back(std::move(cache), stack.name);
  }
  Comparison itself;
  itself.name = "dense";
  itself.usage = dense.usage();
  table.dense = Decoder(model, tokenizer, pool, options, progress).answer("dense answer, fed to " + std::to_string(followers.size()) + " caches", dense, logits, followers);
  itself.attention_ms = table.dense.attention_ms;
  itself.end_usage = dense.usage();
  itself.difference.top1 = 1;
  table.rows.push_back(itself);
  for (Follower &follower : followers) table.rows.push_back(follower.finish());
  progress("");
  return table;
}

} // namespace generate
