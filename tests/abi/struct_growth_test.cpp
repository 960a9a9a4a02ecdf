// Every public struct in every function that takes it, as an older and as a newer caller would pass it.
#include <gtest/gtest.h>

#include <cstring>

#include "first_sizes.h"
#include "tests/abi/world.h"

namespace think_test {
namespace {

World &world() {
  static World instance;
  return instance;
}

void set_size(void *memory, uint32_t size) { std::memcpy(memory, &size, sizeof size); }

class StructGrowth : public testing::TestWithParam<Function> {};

constexpr uint32_t kGrowth = 24;  // of a struct of the future, in bytes

TEST_P(StructGrowth, TooSmallIsRefused) {
  const Function &target = GetParam();
  for (const Place &place : places(target)) {
    const uint32_t first = first_size(place.type->name);
    ASSERT_GE(first, 8u) << place.type->name << " is missing in first_sizes.h";
    for (uint32_t size : {0u, 1u, 4u, 7u, first - 8, first - 1}) {
      const auto spoil = [&](std::vector<Value> &values) { set_size(place.locate(values), size); };
      EXPECT_EQ("", refused(world(), target, spoil, THINK_E_ARGUMENT, place.parameter + 1,
                            {place.fields + "struct_size", std::to_string(place.type->size), "got " + std::to_string(size)}));
    }
  }
}

// Uninitialised memory rather than a struct of the future: nothing may be read that far.
TEST_P(StructGrowth, AbsurdSizeIsRefused) {
  const Function &target = GetParam();
  for (const Place &place : places(target)) {
    for (uint32_t size : {0x10000u, 0xA5A5A5A5u, 0xFFFFFFFFu}) {
      const auto spoil = [&](std::vector<Value> &values) { set_size(place.locate(values), size); };
      EXPECT_EQ(
          "", refused(world(), target, spoil, THINK_E_ARGUMENT, place.parameter + 1, {place.fields + "struct_size", std::to_string(size)}));
    }
  }
}

TEST_P(StructGrowth, LongerWithNothingNewIsTheSame) {
  const Function &target = GetParam();
  think_error error = THINK_ERROR_INIT;
  world().restore(target);
  std::vector<Value> values = target.values(world());
  ASSERT_EQ(THINK_OK, run(world(), target, values, &error)) << error.message;
  const std::vector<char> expected = world().memory();
  for (const Place &place : places(target)) {
    const Parameter &parameter = target.parameters[place.parameter];
    if (parameter.elements > 1 && !place.fields.ends_with("->")) continue;  // below
    SCOPED_TRACE(place.fields);
    world().restore(target);
    set_size(place.locate(values), place.type->size + kGrowth);
    ASSERT_EQ(THINK_OK, run(world(), target, values, &error)) << error.message;
    uint32_t size;
    std::memcpy(&size, place.locate(values), sizeof size);
    EXPECT_EQ(place.type->size + kGrowth, size) << "the caller's struct_size was changed";
    set_size(place.locate(values), place.type->size);
    EXPECT_TRUE(expected == world().memory()) << "another result";
  }
}

TEST_P(StructGrowth, LongerWithSomethingNewIsUnsupported) {
  const Function &target = GetParam();
  for (const Place &place : places(target)) {
    const Parameter &parameter = target.parameters[place.parameter];
    if (place.answer || (parameter.elements > 1 && !place.fields.ends_with("->"))) continue;
    for (uint32_t at : {0u, 7u, kGrowth - 1}) {
      const auto spoil = [&](std::vector<Value> &values) {
        char *memory = static_cast<char *>(place.locate(values));
        set_size(memory, place.type->size + kGrowth);
        memory[place.type->size + at] = 1;
      };
      EXPECT_EQ("", refused(world(), target, spoil, THINK_E_UNSUPPORTED, place.parameter + 1, {place.fields + "struct_size"}));
    }
  }
}

// Of an answer only the size is read: what lies behind the known fields is the caller's, whatever it holds.
TEST_P(StructGrowth, TailOfAnAnswerIsLeftAlone) {
  const Function &target = GetParam();
  for (const Place &place : places(target)) {
    if (!place.answer) continue;
    world().restore(target);
    const std::vector<Value> values = target.values(world());
    char *memory = static_cast<char *>(place.locate(values));
    set_size(memory, place.type->size + kGrowth);
    std::memset(memory + place.type->size, 0x5A, kGrowth);
    think_error error = THINK_ERROR_INIT;
    ASSERT_EQ(THINK_OK, run(world(), target, values, &error)) << error.message;
    for (uint32_t at = 0; at < kGrowth; ++at) EXPECT_EQ(0x5A, memory[place.type->size + at]) << "byte " << at;
  }
}

// Arrays of structs step by the struct_size of element 0.
struct Array {
  char *memory;
  uint32_t size;
  int32_t elements;
  void spread(uint32_t step) const {
    for (int32_t element = elements - 1; element >= 0; --element) {
      std::memmove(memory + static_cast<size_t>(element) * step, memory + static_cast<size_t>(element) * size, size);
      std::memset(memory + static_cast<size_t>(element) * step + size, 0, step - size);
      set_size(memory + static_cast<size_t>(element) * step, step);
    }
  }
  void gather(uint32_t step) const {
    for (int32_t element = 0; element < elements; ++element) {
      std::memmove(memory + static_cast<size_t>(element) * size, memory + static_cast<size_t>(element) * step, size);
      set_size(memory + static_cast<size_t>(element) * size, size);
    }
    std::memset(memory + static_cast<size_t>(elements) * size, 0, static_cast<size_t>(elements) * (step - size));
  }
};

TEST_P(StructGrowth, ArraysStepByTheFirstElement) {
  const Function &target = GetParam();
  for (size_t index = 0; index < target.parameters.size(); ++index) {
    const Parameter &parameter = target.parameters[index];
    if (parameter.elements == 1) continue;
    SCOPED_TRACE(parameter.name);
    think_error error = THINK_ERROR_INIT;
    world().restore(target);
    std::vector<Value> values = target.values(world());
    const Array array = {&as<char>(values[index]), parameter.type->size, parameter.elements};
    const uint32_t step = array.size + kGrowth;
    ASSERT_EQ(THINK_OK, run(world(), target, values, &error)) << error.message;
    const std::vector<char> expected = world().memory();
    world().restore(target);
    array.spread(step);
    ASSERT_EQ(THINK_OK, run(world(), target, values, &error)) << error.message;
    array.gather(step);
    EXPECT_TRUE(expected == world().memory()) << "another result with longer elements";

    for (int32_t element = 0; element < parameter.elements; ++element) {
      const std::string fields = std::string(parameter.name) + "[" + std::to_string(element) + "].struct_size";
      const auto new_field = [&](std::vector<Value> &) {
        array.spread(step);
        array.memory[static_cast<size_t>(element) * step + array.size + 5] = 1;
      };
      EXPECT_EQ("", refused(world(), target, new_field, THINK_E_UNSUPPORTED, static_cast<int32_t>(index) + 1, {fields}));
      if (element == 0) continue;
      const auto unequal = [&](std::vector<Value> &) { set_size(array.memory + static_cast<size_t>(element) * array.size, step); };
      EXPECT_EQ("", refused(world(), target, unequal, THINK_E_ARGUMENT, static_cast<int32_t>(index) + 1,
                            {fields, std::to_string(array.size), std::to_string(step)}));
    }
  }
}

TEST_P(StructGrowth, ErrorRecordsOfOtherVersions) {
  const Function &target = GetParam();
  world().restore(target);
  std::vector<Value> values = target.values(world());
  const std::vector<Place> all = places(target);
  if (all.empty()) return;
  set_size(all[0].locate(values), 1);
  // longer: the known fields are filled, the tail is the caller's
  alignas(think_error) char memory[sizeof(think_error) + 32];
  std::memset(memory, 0x5A, sizeof memory);
  think_error *longer = reinterpret_cast<think_error *>(memory);
  longer->struct_size = sizeof memory;
  EXPECT_EQ(THINK_E_ARGUMENT, run(world(), target, values, longer));
  EXPECT_EQ(THINK_E_ARGUMENT, longer->code);
  EXPECT_EQ(all[0].parameter + 1, longer->argument);
  EXPECT_EQ(sizeof memory, longer->struct_size);
  EXPECT_EQ(0u, longer->flags);
  EXPECT_EQ(0, longer->native_code);
  EXPECT_NE(nullptr, std::memchr(longer->message, 0, sizeof longer->message));
  for (size_t at = sizeof(think_error); at < sizeof memory; ++at) EXPECT_EQ(0x5A, memory[at]);
}

// A call that succeeds leaves the record alone.
TEST_P(StructGrowth, SuccessLeavesTheErrorRecord) {
  const Function &target = GetParam();
  world().restore(target);
  think_error error, before;
  std::memset(&error, 0x5A, sizeof error);
  error.struct_size = sizeof error;
  std::memcpy(&before, &error, sizeof error);
  EXPECT_EQ(THINK_OK, run(world(), target, target.values(world()), &error));
  EXPECT_EQ(0, std::memcmp(&before, &error, sizeof error));
  EXPECT_EQ(THINK_OK, run(world(), target, target.values(world()), nullptr));
}

std::string name_of(const testing::TestParamInfo<Function> &info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(EveryFunction, StructGrowth, testing::ValuesIn(functions()), name_of);

// The initialisers, for languages without macros: same contents as the macros, at any size.
template <class T>
void check_initialiser(void (*initialise)(T *, uint32_t), const T &macro) {
  T value;
  std::memset(&value, 0x5A, sizeof value);
  initialise(&value, sizeof value);
  EXPECT_EQ(0, std::memcmp(&value, &macro, sizeof value));
  initialise(nullptr, sizeof value);

  alignas(T) char longer[sizeof(T) + 16];
  std::memset(longer, 0x5A, sizeof longer);
  initialise(reinterpret_cast<T *>(longer), sizeof longer - 8);
  uint32_t size;
  std::memcpy(&size, longer, sizeof size);
  EXPECT_EQ(sizeof longer - 8, size);
  EXPECT_EQ(0, std::memcmp(longer + 4, reinterpret_cast<const char *>(&macro) + 4, sizeof(T) - 4));
  for (size_t at = sizeof(T); at < sizeof longer - 8; ++at) EXPECT_EQ(0, longer[at]) << at;
  for (size_t at = sizeof longer - 8; at < sizeof longer; ++at) EXPECT_EQ(0x5A, longer[at]) << "wrote behind the struct";

  char shorter[sizeof(T)];
  std::memset(shorter, 0x5A, sizeof shorter);
  initialise(reinterpret_cast<T *>(shorter), 8);
  for (size_t at = 8; at < sizeof shorter; ++at) EXPECT_EQ(0x5A, shorter[at]) << "wrote behind a shorter struct";
}

TEST(Initialisers, AreTheMacros) {
  check_initialiser(think_error_init, think_error(THINK_ERROR_INIT));
  check_initialiser(think_tensor_init, think_tensor(THINK_TENSOR_INIT));
  check_initialiser(think_batch_init, think_batch(THINK_BATCH_INIT));
  check_initialiser(think_context_options_init, think_context_options(THINK_CONTEXT_OPTIONS_INIT));
  check_initialiser(think_problem_init, think_problem(THINK_PROBLEM_INIT));
  check_initialiser(think_launch_init, think_launch(THINK_LAUNCH_INIT));
  check_initialiser(think_extent_init, think_extent(THINK_EXTENT_INIT));
  check_initialiser(think_basis_init, think_basis(THINK_BASIS_INIT));
  check_initialiser(think_segment_init, think_segment(THINK_SEGMENT_INIT));
  check_initialiser(think_format_init, think_format(THINK_FORMAT_INIT));
  check_initialiser(think_layout_info_init, think_layout_info(THINK_LAYOUT_INFO_INIT));
  check_initialiser(think_score_options_init, think_score_options(THINK_SCORE_OPTIONS_INIT));
  check_initialiser(think_moments_options_init, think_moments_options(THINK_MOMENTS_OPTIONS_INIT));
  check_initialiser(think_budget_options_init, think_budget_options(THINK_BUDGET_OPTIONS_INIT));
  check_initialiser(think_select_options_init, think_select_options(THINK_SELECT_OPTIONS_INIT));
  check_initialiser(think_fit_options_init, think_fit_options(THINK_FIT_OPTIONS_INIT));
  check_initialiser(think_evict_options_init, think_evict_options(THINK_EVICT_OPTIONS_INIT));
  check_initialiser(think_prune_options_init, think_prune_options(THINK_PRUNE_OPTIONS_INIT));
  check_initialiser(think_prune_result_init, think_prune_result(THINK_PRUNE_RESULT_INIT));
  check_initialiser(think_cache_options_init, think_cache_options(THINK_CACHE_OPTIONS_INIT));
  check_initialiser(think_cache_info_init, think_cache_info(THINK_CACHE_INFO_INIT));
}

}  // namespace
}  // namespace think_test
