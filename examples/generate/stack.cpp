#include "stack.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

namespace generate {
namespace {

[[noreturn]] void wrong(const std::string &what) { throw std::runtime_error(what); }

std::vector<std::string> split(const std::string &text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator) parts.emplace_back();
    else parts.back() += c;
  }
  return parts;
}

// -1 when it is not a number of at most 7 digits.
int64_t number(const std::string &text) {
  return text.empty() || text.size() > 7 || text.find_first_not_of("0123456789") != std::string::npos ? -1 : std::stoll(text);
}

constexpr std::array<std::pair<const char *, int32_t>, 5> kEvictions = {{{"snapkv", THINK_EVICT_SNAPKV},
                                                                         {"h2o", THINK_EVICT_H2O},
                                                                         {"window", THINK_EVICT_WINDOW},
                                                                         {"tova", THINK_EVICT_TOVA},
                                                                         {"recent", THINK_EVICT_RECENT}}};

} // namespace

Eviction parse_eviction(const std::string &text) {
  const std::vector<std::string> parts = split(text, ':');
  const auto method = std::find_if(kEvictions.begin(), kEvictions.end(), [&](const auto &entry) { return parts[0] == entry.first; });
  const std::string usage = "eviction '" + text + "': METHOD:BUDGET expected, METHOD = snapkv, h2o, window, tova or recent, BUDGET = rows of each head or a share as 50%";
  if (parts.size() != 2 || method == kEvictions.end() || parts[1].empty()) wrong(usage);
  Eviction eviction;
  eviction.method = method->second;
  const bool share = parts[1].back() == '%';
  const int64_t budget = number(share ? parts[1].substr(0, parts[1].size() - 1) : parts[1]);
  if (budget < 1 || (share && budget > 100)) wrong(usage);
  if (share) eviction.share = static_cast<double>(budget) / 100;
  else eviction.rows = budget;
  return eviction;
}

think_dtype parse_format(const std::string &text) {
  constexpr std::pair<const char *, think_dtype> formats[] = {{"f16", THINK_F16}, {"f32", THINK_F32}, {"int8", THINK_U8}, {"int4", THINK_U4}, {"int2", THINK_U2}, {"fp8", THINK_F8_E4M3}};
  for (const auto &[name, dtype] : formats)
    if (text == name) return dtype;
  wrong("format '" + text + "': f16, f32, int8, int4, int2 or fp8 expected");
}

void complete(Stack &stack) {
  think_format &format = stack.cache.format;
  const auto quantized = [](think_dtype dtype) { return dtype != THINK_F16 && dtype != THINK_F32 && dtype != 0; };
  format.key_layout = THINK_TILES;
  format.value_layout = quantized(format.value_dtype) ? THINK_TILES : THINK_ROWS;
  stack.cache.evicts = stack.eviction.has_value();
  stack.cache.prunes = stack.cache.prune.key_kept >= 0 || stack.cache.prune.value_kept > 0 || quantized(format.key_dtype) || quantized(format.value_dtype);
  if (stack.cache.fold == THINK_FOLD_BLOCK && !stack.cache.prunes) wrong("later rows are folded as the prompt was pruned, and here it is not: drop channels or choose a quantized format");
}

Stack parse_stack(const std::string &text, int64_t channels) {
  Stack stack;
  stack.name = text;
  think_prune_options &prune = stack.cache.prune;
  prune.key_kept = prune.value_kept = -1;
  prune.dense_limit = -1; // the question here is what pruning costs, not whether it pays
  std::string method;
  std::set<std::string> seen;
  for (const std::string &part : split(text, '+')) {
    const std::vector<std::string> fields = split(part, ':');
    if (!seen.insert(fields[0]).second) wrong("row '" + text + "': " + fields[0] + " twice");
    if (fields[0] == "evict") {
      stack.eviction = parse_eviction(part.substr(std::min<size_t>(6, part.size())));
      continue;
    }
    if (part == "fold:block") {
      stack.cache.fold = THINK_FOLD_BLOCK;
      continue;
    }
    if (fields[0] == "layers") {
      stack.cache.keep_layers = fields.size() == 2 ? number(fields[1]) : -1;
      if (stack.cache.keep_layers < 1) wrong("row '" + text + "': layers:N expected, so many first and last layers keep the format of the cache");
      continue;
    }
    const bool keys = fields[0] == "keys";
    const int64_t kept = fields.size() > 2 ? number(fields[2]) : -1;
    if ((!keys && fields[0] != "values") || fields.size() < 3 || fields.size() > 4 || (fields[1] != "think" && fields[1] != "regressed" && fields[1] != "adaptive") || kept < 1 ||
        kept > channels)
      wrong("row '" + text + "': SIDE:METHOD:KEPT[:FORMAT], evict:METHOD:BUDGET, fold:block and layers:N, joined by +, expected; SIDE = keys or values, METHOD = think, regressed or adaptive, KEPT = 1 .. " +
            std::to_string(channels));
    if (!method.empty() && method != fields[1]) wrong("row '" + text + "': keys and values are pruned by one method, not by " + method + " and " + fields[1]);
    method = fields[1];
    (keys ? prune.key_kept : prune.value_kept) = kept == channels ? -1 : static_cast<int32_t>(kept);
    if (fields.size() == 4) (keys ? stack.cache.format.key_dtype : stack.cache.format.value_dtype) = parse_format(fields[3]);
  }
  prune.mode = method == "think" ? THINK_MODE_CHANNELS : THINK_MODE_REGRESSED;
  prune.budget = method == "adaptive" ? THINK_BUDGET_ADAPTIVE : THINK_BUDGET_UNIFORM;
  prune.sinks = method == "think" ? -1 : 4; // the paper keeps no sinks
  complete(stack);
  return stack;
}

void Stack::evict(Cache &prompt) const {
  if (!eviction) return;
  think_evict_options options = THINK_EVICT_OPTIONS_INIT;
  options.method = eviction->method;
  options.pooling = eviction->pooling;
  const int64_t rows = eviction->rows > 0 ? eviction->rows : std::llround(eviction->share * static_cast<double>(prompt.tokens()));
  options.budget = static_cast<int32_t>(std::max<int64_t>(1, rows));
  prompt.evict(options);
}

} // namespace generate
