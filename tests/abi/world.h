// Every fallible function of the library with a set of right arguments, small enough to be called thousands of times. The tests spoil one
// thing at a time and see what the library says. All memory that a call can reach lies in one arena, so that "outputs untouched" is one
// comparison.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <iosfwd>
#include <string>
#include <vector>

#include "think.h"
#include "think/dlpack.h"

namespace think_test {

// One argument, whatever its type.
struct Value {
  const void *pointer = nullptr;
  int64_t number = 0;
};

struct Reserved {
  const char *field;
  size_t offset;
};

// A public struct and its fields that must be zero.
struct StructType {
  const char *name;
  uint32_t size;
  uint32_t alignment;
  std::vector<Reserved> reserved;
};

extern const StructType tensor_type, batch_type, context_options_type, problem_type, launch_type, extent_type, basis_type, segment_type,
    format_type, layout_info_type, score_options_type, moments_options_type, budget_options_type, select_options_type, fit_options_type,
    evict_options_type, prune_options_type, prune_result_type, cache_options_type, cache_info_type;

enum class Kind {
  handle,     // context or plan
  structure,  // a struct that is read
  answer,     // a struct that is filled: only its size is read
  array,      // numbers or bytes; `alignment` is what they need
  number
};

struct Parameter {
  const char *name;
  Kind kind;
  bool optional = false;             // NULL is allowed
  const StructType *type = nullptr;  // of structs
  uint32_t alignment = 1;            // of arrays
  int32_t elements = 1;              // of arrays of structs
};

// A struct inside another argument: "segments[1].key_basis".
struct Nested {
  std::string path;
  int32_t parameter;  // index, from 0
  const StructType *type;
  std::function<void *(const std::vector<Value> &)> locate;
};

struct Range {
  void *memory;
  size_t bytes;
};

class World;

struct Function {
  const char *name;
  std::vector<Parameter> parameters;  // without the error record, which is the last one
  think_status (*invoke)(const std::vector<Value> &values, think_error *error);
  std::function<std::vector<Value>(World &)> values;  // right arguments
  std::function<std::vector<Range>(World &)> outputs;
  std::vector<Nested> nested = {};
  bool sliced = false;
  int32_t position(const char *parameter) const;  // index of a parameter, from 0; aborts on a wrong name
};

// What a failing test prints.
void PrintTo(const Function &function, std::ostream *out);

// Struct arguments that can be read back from the values.
template <class T>
static inline T &as(const Value &value) {
  return *static_cast<T *>(const_cast<void *>(value.pointer));
}

class World {
 public:
  World();
  ~World();
  World(const World &) = delete;
  World &operator=(const World &) = delete;

  // Memory as it was after the flow has run once, with the outputs of `function` filled with a pattern.
  void restore(const Function &function);
  std::vector<char> memory() const { return {arena_, arena_ + used_}; }
  int64_t offset_of(const void *pointer) const { return static_cast<const char *>(pointer) - arena_; }

  template <class T>
  T *take(size_t count = 1, size_t spare = 64);  // zeroed, at a multiple of 64, with `spare` zero bytes behind

  static constexpr int32_t kQueryHeads = 4, kKvHeads = 2, kKeyChannels = 24, kValueChannels = 16, kWindow = 8, kBatch = 2, kQueries = 3,
                           kTokens = 96, kRoom = 128, kMaxTokens = 256, kEvictBudget = 40;

  think_context *context = nullptr;
  think_plan *plan = nullptr;

  // In the arena.
  think_context_options *context_options;
  think_problem *problem;
  think_context **new_context;
  think_plan **new_plan;
  int64_t *number, *second_number;
  size_t *needed;
  char *text;
  think_extent *extent;
  think_batch *batch;
  int32_t *slots, *dense_lengths, *recent_first, *recent_lengths, *sink_lengths, *pruned_lengths;
  think_launch *launch;
  char *workspace;
  think_tensor *query, *key, *attention, *window_query, *new_query, *output;
  think_tensor *partials;  // two results to merge
  const float **partial_lses;
  float *lse, *sink_logit;
  char *state, *moments;
  float *score, *value_score, *gains;
  int32_t *order, *budgets;
  uint8_t *mask;
  think_basis *key_basis, *value_basis, *spare_basis;
  char *key_basis_memory, *value_basis_memory, *spare_basis_memory;
  int64_t basis_bytes = 0, workspace_bytes = 0;
  think_segment *source, *destination;
  think_segment *segments;  // sinks, compact, recent rows
  char *compact_key, *compact_value;
  int64_t *key_head_offset, *value_head_offset;
  think_format *format;
  think_layout_info *info;
  think_score_options *score_options;
  think_moments_options *moments_options;
  think_budget_options *budget_options;
  think_select_options *select_options;
  think_fit_options *fit_options;
  think_evict_options *evict_options;
  int32_t *evict_budget, *evict_kept, *evict_lengths;
  float *evict_score;
  think_segment *evicted;  // where kept rows go
  think_prune_options *prune_options;
  think_prune_result *prune_result;
  void *dlpack;  // a DLTensor of the query
  think_cache *cache = nullptr;  // in a step, appended; calls that change it have a table of their own (tests/cache/arguments_test.cpp)
  think_cache **new_cache;
  think_cache_options *cache_options;
  think_cache_info *cache_info;
  think_tensor *exported_key, *exported_value;
  think_device *device;
  int64_t page_key_bytes = 0, page_value_bytes = 0;
  size_t state_bytes() const { return state_bytes_; }
  size_t moments_bytes() const { return moments_bytes_; }

 private:
  void lay_out();
  void run_flow();
  void lay_out_segments();
  void lay_out_cache();
  void call(const char *name);  // a function with its right arguments; aborts when it fails
  char *arena_;
  size_t used_ = 0, state_bytes_ = 0, moments_bytes_ = 0;
  std::vector<char> golden_;
};

// Where a public struct lies among the arguments of a function.
struct Place {
  std::string fields;  // how messages begin that are about one of its fields: "segments[1].key_basis->"
  int32_t parameter;   // index, from 0
  const StructType *type;
  bool answer;  // only its size is read
  bool first_of_array;
  std::function<void *(const std::vector<Value> &)> locate;
};
std::vector<Place> places(const Function &function);

// Calls the function. Contexts and plans that it makes are destroyed again and leave a fixed mark.
think_status run(World &world, const Function &function, const std::vector<Value> &values, think_error *error);

// Spoils the right arguments, calls, and compares: the status, the position, every text in the message, and all memory. Returns what is
// wrong, or "".
using Spoil = std::function<void(std::vector<Value> &values)>;
std::string refused(World &world, const Function &function, const Spoil &spoil, think_status code, int32_t position,
                    const std::vector<std::string> &texts);

// All functions that return a status, with right arguments.
const std::vector<Function> &functions();
const Function &function(const std::string &name);

}  // namespace think_test
