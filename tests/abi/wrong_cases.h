// Ways to be wrong that several functions share: tensors, batches, segments and bases. Each case spoils one value of a right call and says
// which argument the library must name, and what the message must contain: the path of the field, what was expected and what was found.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "tests/abi/world.h"

namespace think_test {

using Values = std::vector<Value>;
using Texts = std::vector<std::string>;

struct Case {
  const char *function;
  const char *parameter;
  std::string what;
  std::function<void(World &, Values &)> spoil;
  Texts texts;
  think_status code = THINK_E_ARGUMENT;
};

constexpr int32_t kLeast = INT32_MIN, kMost = INT32_MAX;

static inline void add(std::vector<Case> &cases, std::vector<Case> more) { cases.insert(cases.end(), more.begin(), more.end()); }

struct TensorUse {
  const char *function, *parameter;
  std::string fields;  // "query->"
  think_tensor *World::*tensor;
  int32_t element;
  int32_t heads, channels;
  bool any_dtype;
};
std::vector<Case> tensor_cases(const TensorUse &use);

struct BatchUse {
  const char *function;
  bool rows;            // lengths and row_start say which rows of tensors are real
  int64_t tokens;       // rows of the tensors
  bool slots;           // the call uses slots
  int64_t known_slots;  // 0 = the call cannot know how many there are
  bool written;         // the slots are written: no two sequences in one (checked on request)
};
std::vector<Case> batch_cases(const BatchUse &use);

struct SegmentUse {
  const char *function, *parameter;
  std::string fields;  // "segments[1]."
  think_segment *World::*segment;
  int32_t element;
  bool dense, tiles, lengths, required;
};
std::vector<Case> segment_cases(const SegmentUse &use);

// `contents`: the call reads kept and index (checked on request); `weights`: it reads or writes the prediction.
std::vector<Case> basis_cases(const char *function, const char *parameter, const std::string &fields, think_basis *World::*basis,
                              int32_t channels, bool contents, bool weights);

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();

// A number that is an argument by itself.
static inline Case number(const char *function, const char *parameter, int64_t value, Texts texts = {},
                          think_status code = THINK_E_ARGUMENT) {
  const int32_t index = think_test::function(function).position(parameter);
  texts.insert(texts.begin(), {parameter, std::to_string(value)});
  return {function,
          parameter,
          std::string(parameter) + " = " + std::to_string(value),
          [=](World &, Values &values) { values[index].number = value; },
          texts,
          code};
}

static inline std::string text_of(int64_t value) { return std::to_string(value); }
static inline std::string text_of(int32_t value) { return std::to_string(value); }
static inline std::string text_of(float value) { return std::isnan(value) ? "nan" : std::isinf(value) ? "inf" : ""; }

// A field of a struct that lies in the world: `object` is a member of World, `path` is how messages call the field.
template <class Struct, class Field, class Number>
Case field(const char *function, const char *parameter, Struct *World::*object, Field Struct::*member, Number value,
           const std::string &path, Texts texts = {}, think_status code = THINK_E_ARGUMENT) {
  const Field spoiled = static_cast<Field>(value);
  texts.insert(texts.begin(), {path, text_of(spoiled)});
  return {function, parameter, path + " = " + std::to_string(value), [=](World &w, Values &) { (w.*object)->*member = spoiled; },
          texts,    code};
}

// Contexts, plans and everything that is asked before a run.
std::vector<Case> set_up_cases();
std::vector<Case> problem_cases();
// What think_evict() and think_evict_move() refuse besides.
std::vector<Case> evict_cases();
// Caches, as far as the table of functions has them.
std::vector<Case> cache_cases();

}  // namespace think_test
