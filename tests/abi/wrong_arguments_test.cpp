// What every function says to arguments that are wrong in ways that the table of functions knows by itself: NULL, misaligned, unknown
// flags, reserved fields, workspace, slices. What is special to a function is in wrong_values_test.cpp.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <string_view>
#include <tuple>
#include <type_traits>

#include "tests/abi/world.h"

namespace think_test {
namespace {

World &world() {
  static World instance;
  return instance;
}

using Values = std::vector<Value>;

class WrongArguments : public testing::TestWithParam<Function> {};

TEST_P(WrongArguments, RightOnesAreAccepted) {
  const Function &target = GetParam();
  world().restore(target);
  think_error error = THINK_ERROR_INIT;
  EXPECT_EQ(THINK_OK, run(world(), target, target.values(world()), &error)) << error.message;
  EXPECT_EQ(THINK_OK, error.code);
}

TEST_P(WrongArguments, EveryCallGivesTheSameBits) {
  const Function &target = GetParam();
  world().restore(target);
  const Values values = target.values(world());
  ASSERT_EQ(THINK_OK, run(world(), target, values, nullptr));
  const std::vector<char> first = world().memory();
  world().restore(target);
  ASSERT_EQ(THINK_OK, run(world(), target, values, nullptr));
  EXPECT_TRUE(first == world().memory());
}

TEST_P(WrongArguments, NullPointers) {
  const Function &target = GetParam();
  for (size_t index = 0; index < target.parameters.size(); ++index) {
    const Parameter &parameter = target.parameters[index];
    if (parameter.kind == Kind::number) continue;
    SCOPED_TRACE(parameter.name);
    if (!parameter.optional) {
      EXPECT_EQ("", refused(world(), target, [&](Values &values) { values[index].pointer = nullptr; }, THINK_E_ARGUMENT,
                            static_cast<int32_t>(index) + 1, {parameter.name, "NULL"}));
    } else if (std::strcmp(parameter.name, "launch") != 0) {  // NULL launch: see Workspace
      world().restore(target);
      Values values = target.values(world());
      values[index].pointer = nullptr;
      think_error error = THINK_ERROR_INIT;
      EXPECT_EQ(THINK_OK, run(world(), target, values, &error)) << error.message;
    }
  }
}

TEST_P(WrongArguments, MisalignedPointers) {
  const Function &target = GetParam();
  for (size_t index = 0; index < target.parameters.size(); ++index) {
    const Parameter &parameter = target.parameters[index];
    const bool structure = parameter.kind == Kind::structure || parameter.kind == Kind::answer;
    const uint32_t alignment = structure ? parameter.type->alignment : parameter.alignment;
    if (parameter.kind == Kind::handle || parameter.kind == Kind::number || alignment == 1) continue;
    for (uint32_t skew : {1u, alignment / 2}) {
      EXPECT_EQ("",
                refused(world(), target, [&](Values &values) { values[index].pointer = &as<char>(values[index]) + skew; }, THINK_E_ARGUMENT,
                        static_cast<int32_t>(index) + 1, {parameter.name, "multiple of " + std::to_string(alignment)}))
          << parameter.name << " + " << skew;
    }
  }
}

TEST_P(WrongArguments, UnknownFlags) {
  const Function &target = GetParam();
  for (const Place &place : places(target)) {
    if (place.answer) continue;
    for (uint32_t flag : {0x80000000u, 0x100u}) {
      char text[16];
      std::snprintf(text, sizeof text, "0x%x", flag);
      const auto spoil = [&](Values &values) { std::memcpy(static_cast<char *>(place.locate(values)) + 4, &flag, sizeof flag); };
      EXPECT_EQ("", refused(world(), target, spoil, THINK_E_ARGUMENT, place.parameter + 1, {place.fields + "flags", text}));
    }
  }
}

TEST_P(WrongArguments, ReservedFields) {
  const Function &target = GetParam();
  for (const Place &place : places(target)) {
    if (place.answer) continue;
    for (const Reserved &reserved : place.type->reserved) {
      const auto spoil = [&](Values &values) {
        const int32_t one = 0x3F800000;  // also 1.0f
        std::memcpy(static_cast<char *>(place.locate(values)) + reserved.offset, &one, sizeof one);
      };
      EXPECT_EQ("", refused(world(), target, spoil, THINK_E_ARGUMENT, place.parameter + 1, {place.fields + reserved.field, "expected 0"}));
    }
  }
}

// Index of the launch parameter, -1 for functions that do not run anything.
int32_t launch_of(const Function &target) {
  for (size_t index = 0; index < target.parameters.size(); ++index) {
    if (std::strcmp(target.parameters[index].name, "launch") == 0) return static_cast<int32_t>(index);
  }
  return -1;
}

TEST_P(WrongArguments, Workspace) {
  const Function &target = GetParam();
  const int32_t index = launch_of(target);
  if (index < 0) return;
  // How much this call needs: the smallest size that is accepted.
  int64_t least = 0, most = world().workspace_bytes;
  const auto status_with = [&](int64_t bytes) {
    world().restore(target);
    world().launch->workspace_bytes = bytes;
    return run(world(), target, target.values(world()), nullptr);
  };
  ASSERT_EQ(THINK_OK, status_with(most));
  while (least < most) {
    const int64_t middle = (least + most) / 2;
    if (status_with(middle) == THINK_OK) {
      most = middle;
    } else {
      least = middle + 1;
    }
  }
  const std::string needed = std::to_string(least);
  if (least == 0) {
    world().restore(target);
    Values values = target.values(world());
    values[index].pointer = nullptr;
    EXPECT_EQ(THINK_OK, run(world(), target, values, nullptr)) << "no workspace is needed";
    return;
  }
  RecordProperty("workspace_bytes", needed);
  EXPECT_EQ("", refused(world(), target, [&](Values &values) { values[index].pointer = nullptr; }, THINK_E_WORKSPACE, index + 1,
                        {"launch", needed, "0"}));
  EXPECT_EQ("", refused(world(), target, [&](Values &) { world().launch->workspace = nullptr; }, THINK_E_WORKSPACE, index + 1,
                        {"launch", needed, "NULL"}));
  for (int64_t bytes : {int64_t{0}, least - 1, int64_t{-1}, INT64_MIN}) {
    EXPECT_EQ("", refused(world(), target, [&](Values &) { world().launch->workspace_bytes = bytes; }, THINK_E_WORKSPACE, index + 1,
                          {"launch->workspace", needed, std::to_string(bytes)}));
  }
  for (int skew : {1, 8, 32}) {
    EXPECT_EQ("", refused(world(), target, [&](Values &) { world().launch->workspace = world().workspace + skew; }, THINK_E_WORKSPACE,
                          index + 1, {"launch->workspace", "multiple of 64"}));
  }
  // exactly as much is enough, and nothing behind it is touched
  world().restore(target);
  world().launch->workspace_bytes = least;
  std::memset(world().workspace + least, 0x5A, static_cast<size_t>(world().workspace_bytes - least));
  ASSERT_EQ(THINK_OK, run(world(), target, target.values(world()), nullptr));
  for (int64_t at = least; at < world().workspace_bytes; ++at)
    ASSERT_EQ(0x5A, world().workspace[at]) << "byte " << at << " behind the workspace";
}

// think_workspace_size() is enough for every call of its stage, and grows with every field of the extent.
TEST(WorkspaceSize, GrowsWithEveryField) {
  for (int32_t stage = THINK_STAGE_SCORE; stage <= THINK_STAGE_EVICT; ++stage) {
    think_extent extent = THINK_EXTENT_INIT;
    const auto bytes_of = [&](const think_extent &asked) {
      int64_t bytes = -1, alignment = -1;
      think_error error = THINK_ERROR_INIT;
      EXPECT_EQ(THINK_OK, think_workspace_size(world().plan, stage, &asked, &bytes, &alignment, &error)) << error.message;
      EXPECT_EQ(64, alignment);
      return bytes;
    };
    extent.batch = 1;
    extent.queries = 1;
    extent.segments = 1;
    extent.tokens = 1;
    int64_t last = bytes_of(extent);
    EXPECT_GE(last, 0);
    const auto grown = [&](const char *what) {
      const int64_t bytes = bytes_of(extent);
      EXPECT_GE(bytes, last) << what << " of stage " << stage;
      last = bytes;
    };
    for (extent.tokens = 2; extent.tokens <= World::kMaxTokens; extent.tokens += 7) grown("tokens");
    extent.tokens = World::kMaxTokens;
    for (extent.queries = 1; extent.queries < World::kQueries; ++extent.queries) grown("queries");
    for (extent.segments = 2; extent.segments <= THINK_MAX_SEGMENTS; ++extent.segments) grown("segments");
    extent.segments = THINK_MAX_SEGMENTS;
    extent.batch = World::kBatch;
    grown("batch");
  }
}

TEST_P(WrongArguments, Slices) {
  const Function &target = GetParam();
  const int32_t index = launch_of(target);
  if (index < 0) return;
  const auto expect = [&](int32_t slice, int32_t slices, think_status code, const char *field, const std::string &found) {
    EXPECT_EQ("", refused(world(), target,
                          [&](Values &) {
                            world().launch->slice = slice;
                            world().launch->slices = slices;
                          },
                          code, index + 1, {std::string("launch->") + field, found}));
  };
  expect(0, -1, THINK_E_ARGUMENT, "slices", "-1");
  expect(-1, 0, THINK_E_ARGUMENT, "slice", "-1");
  expect(1, 0, THINK_E_ARGUMENT, "slice", "1");
  expect(1, 1, THINK_E_ARGUMENT, "slice", "1");
  if (target.sliced) {
    expect(2, 2, THINK_E_ARGUMENT, "slice", "2");
    expect(-1, 2, THINK_E_ARGUMENT, "slice", "-1");
    expect(INT32_MAX, 2, THINK_E_ARGUMENT, "slice", "2147483647");
  } else {
    expect(0, 2, THINK_E_UNSUPPORTED, "slices", "2");
  }
}

// A call in slices, in any order, is the same call.
TEST_P(WrongArguments, SlicesTogetherAreTheCall) {
  const Function &target = GetParam();
  if (!target.sliced) return;
  world().restore(target);
  const Values values = target.values(world());
  ASSERT_EQ(THINK_OK, run(world(), target, values, nullptr));
  const auto outside_workspace = [&] {
    std::vector<char> memory = world().memory();
    std::memset(memory.data() + world().offset_of(world().workspace), 0, static_cast<size_t>(world().workspace_bytes));
    std::memset(memory.data() + world().offset_of(world().launch), 0, sizeof(think_launch));
    return memory;
  };
  const std::vector<char> expected = outside_workspace();
  for (int32_t slices : {2, 3, 7, 64}) {
    for (bool backwards : {false, true}) {
      world().restore(target);
      for (int32_t call = 0; call < slices; ++call) {
        world().launch->slice = backwards ? slices - 1 - call : call;
        world().launch->slices = slices;
        think_error error = THINK_ERROR_INIT;
        ASSERT_EQ(THINK_OK, run(world(), target, values, &error)) << error.message;
      }
      EXPECT_TRUE(expected == outside_workspace()) << slices << (backwards ? " slices, last first" : " slices");
    }
  }
}

// A call that changes a cache changes memory that no copy of the arena restores: tests/cache/arguments_test.cpp has a table of its own, as complete as this.
// So have think_cache_segments(), which fills an array, those that take a function, and those that every cache of the CPU refuses.
constexpr bool in_table_of_caches(std::string_view name) {
  for (std::string_view call : {"step", "append", "evict", "keep", "prune", "segments", "sequence_segments", "trim", "fork", "drop", "reset", "save", "load",
                                "slab_size", "graph_id", "replayed"}) {
    if (name.starts_with("think_cache_") && name.substr(12) == call) return true;
  }
  return false;
}

// A new function cannot be forgotten here: every one that can fail is in the table, with as many parameters as it has.
template <class Result, class... Parameters>
constexpr int parameters_of_fallible(Result (*)(Parameters...)) {
  if constexpr (sizeof...(Parameters) > 0) {
    using Last = std::tuple_element_t<sizeof...(Parameters) - 1, std::tuple<Parameters...>>;
    return std::is_same_v<Last, think_error *> ? static_cast<int>(sizeof...(Parameters)) : 0;
  }
  return 0;
}

TEST(Table, HoldsEveryFallibleFunction) {
  size_t count = 0;
#define THINK_FUNCTION(name, since)                                                             \
  if (constexpr int parameters = parameters_of_fallible(&name); parameters > 0 && !in_table_of_caches(#name)) { \
    EXPECT_EQ(static_cast<size_t>(parameters), function(#name).parameters.size() + 1) << #name; \
    ++count;                                                                                    \
  }
#include "libthink/abi/functions.def"
#undef THINK_FUNCTION
  EXPECT_EQ(functions().size(), count);
}

std::string name_of(const testing::TestParamInfo<Function> &info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(EveryFunction, WrongArguments, testing::ValuesIn(functions()), name_of);

}  // namespace
}  // namespace think_test
