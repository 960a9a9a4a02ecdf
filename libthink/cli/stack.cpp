#include "stack.h"

#include <algorithm>
#include <set>

#include "failure.h"

namespace think::cli {
namespace {

std::vector<std::string> split(const std::string &text, char separator) {
  std::vector<std::string> parts(1);
  for (const char character : text) {
    if (character == separator) {
      parts.emplace_back();
    } else {
      parts.back() += character;
    }
  }
  return parts;
}

// -1 when it is not a number of at most 7 digits.
int64_t number(const std::string &text) {
  return text.empty() || text.size() > 7 || text.find_first_not_of("0123456789") != std::string::npos ? -1 : std::stoll(text);
}

bool one_of(const std::string &text, std::initializer_list<const char *> words) {
  return std::any_of(words.begin(), words.end(), [&](const char *word) { return text == word; });
}

// Channels of a head, in steps of 8 from 8 on.
int32_t part_of(int32_t channels, int32_t numerator, int32_t denominator) {
  return std::max(8, channels * numerator / denominator / 8 * 8);
}

}  // namespace

Stack parse_stack(const std::string &text, int32_t key_channels, int32_t value_channels) {
  const auto wrong = [&](const std::string &what) { throw Failure(kUsage, "stack '" + printable(text) + "': " + what); };
  Stack stack;
  stack.name = text;
  std::set<std::string> seen;
  for (const std::string &part : split(text, '+')) {
    const std::vector<std::string> fields = split(part, ':');
    if (!seen.insert(fields[0]).second) wrong(printable(fields[0]) + " twice");
    if (part == "fold:block") continue;  // later rows, of which there are none here
    if (fields[0] == "evict") {
      const bool share = fields.size() == 3 && !fields[2].empty() && fields[2].back() == '%';
      const int64_t budget = fields.size() != 3 ? -1 : number(share ? fields[2].substr(0, fields[2].size() - 1) : fields[2]);
      if (fields.size() != 3 || !one_of(fields[1], {"snapkv", "h2o", "window", "tova", "recent"}) || budget < 1 || (share && budget > 100))
        wrong("evict:METHOD:BUDGET expected, METHOD = snapkv, h2o, window, tova or recent, BUDGET = rows of each head or a share as 50%");
      stack.eviction = fields[1];
      if (share) {
        stack.share = static_cast<double>(budget) / 100;
      } else {
        stack.rows = budget;
      }
      continue;
    }
    const bool keys = fields[0] == "keys";
    const int32_t channels = keys ? key_channels : value_channels;
    const int64_t kept = fields.size() > 2 ? number(fields[2]) : -1;
    if ((!keys && fields[0] != "values") || fields.size() < 3 || fields.size() > 4 || !one_of(fields[1], {"think", "regressed", "adaptive"}) ||
        kept < 1 || kept > (channels > 0 ? channels : 256) || (fields.size() == 4 && !one_of(fields[3], {"f32", "f16", "bf16", "int8",
            "int4", "int2", "fp8"}))) {
      wrong("SIDE:METHOD:KEPT[:FORMAT], evict:METHOD:BUDGET and fold:block, joined by +, expected; SIDE = keys or values, "
            "METHOD = think, regressed or adaptive, KEPT = 1 .. " +
            std::to_string(channels > 0 ? channels : 256));
    }
    StackSide &side = keys ? stack.key : stack.value;
    side.method = fields[1];
    side.kept = static_cast<int32_t>(kept);
    if (fields.size() == 4) side.format = fields[3];
  }
  if (stack.key.given() && stack.value.given() && stack.key.method != stack.value.method)
    wrong("keys and values are pruned by one method, not by " + stack.key.method + " and " + stack.value.method);
  return stack;
}

const char *family_name(Family family) {
  switch (family) {
    case Family::dense:
      return "dense";
    case Family::think:
      return "ThinK";
    case Family::regressed:
      return "regressed";
    case Family::adaptive:
      return "regressed + adaptive";
    case Family::both_sides:
      return "values too";
    case Family::quantized:
      return "quantized";
    default:
      return "evicted";
  }
}

Family family_of(const Stack &stack, int32_t key_channels, int32_t value_channels) {
  const bool keys = stack.key.given() && stack.key.kept < key_channels, values = stack.value.given() && stack.value.kept < value_channels;
  if (!stack.eviction.empty()) return Family::evicted;
  if (stack.key.quantized() || stack.value.quantized()) return Family::quantized;
  if (values) return Family::both_sides;
  if (!keys) return Family::dense;
  return stack.key.method == "think" ? Family::think : stack.key.method == "regressed" ? Family::regressed : Family::adaptive;
}

std::vector<std::string> default_stacks(int32_t key_channels, int32_t value_channels) {
  const auto keys = [&](const char *method, int32_t numerator, int32_t denominator) {
    return std::string("keys:") + method + ":" + std::to_string(part_of(key_channels, numerator, denominator));
  };
  const auto values = [&](const char *method, int32_t numerator, int32_t denominator) {
    return std::string("values:") + method + ":" + std::to_string(part_of(value_channels, numerator, denominator));
  };
  std::vector<std::string> stacks;
  for (const char *method : {"think", "regressed", "adaptive"}) {
    for (const int32_t eighths : {6, 4, 3, 2}) stacks.push_back(keys(method, eighths, 8));
  }
  const std::string half = keys("adaptive", 4, 8) + "+" + values("adaptive", 11, 16), most = keys("adaptive", 3, 8) + "+" + values("adaptive", 11, 16),
                    quarter = keys("adaptive", 2, 8) + "+" + values("adaptive", 4, 8);
  for (const std::string &stack : {half, most, quarter}) stacks.push_back(stack);
  for (const std::string end : {":int8", ":int4"}) {
    const std::string all_values = "values:adaptive:" + std::to_string(value_channels) + end;
    stacks.push_back("keys:adaptive:" + std::to_string(key_channels) + end + "+" + all_values);
    for (const int32_t eighths : {4, 3}) stacks.push_back(keys("adaptive", eighths, 8) + end + "+" + all_values);
    stacks.push_back(keys("think", 5, 8) + end + "+values:think:" + std::to_string(value_channels) + end);
    for (const auto &[key, value] : {std::pair{3, 11}, {2, 8}}) {
      stacks.push_back(keys("adaptive", key, 8) + end + "+" + values("adaptive", value, 16) + end);
    }
  }
  for (const char *budget : {"75%", "50%", "25%"}) {
    const std::string evict = std::string("evict:snapkv:") + budget;
    stacks.push_back(evict);
    stacks.push_back(evict + "+" + keys("adaptive", 4, 8));
    stacks.push_back(evict + "+" + keys("adaptive", 3, 8) + ":int4+" + values("adaptive", 11, 16) + ":int4");
  }
  std::vector<std::string> unique;  // small heads have fewer widths
  for (const std::string &stack : stacks) {
    if (std::find(unique.begin(), unique.end(), stack) == unique.end()) unique.push_back(stack);
  }
  return unique;
}

}  // namespace think::cli
