// Memory that the library asks for: through the host's hooks only while contexts and plans are made, never in run calls; and what happens
// when there is none. The last tests replace malloc in this program, which the library then uses as well.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "think.h"

namespace {

// A host's allocator that counts, remembers, and fails on demand.
struct Host {
  struct Block {
    size_t bytes, alignment;
  };
  std::map<void *, Block> live;
  int calls = 0;
  int fail_at = -1;  // the call that gets NULL, counted from 0
  std::vector<std::string> log;
  int loops = 0;

  static void *allocate(void *user, size_t bytes, size_t alignment) {
    Host &host = *static_cast<Host *>(user);
    EXPECT_GT(bytes, 0u);
    EXPECT_NE(0u, alignment);
    EXPECT_EQ(0u, alignment & (alignment - 1)) << "not a power of two";
    if (host.calls++ == host.fail_at) return nullptr;
    void *memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    std::memset(memory, 0xA5, bytes);  // the library must not hope for zeros
    host.live[memory] = {bytes, alignment};
    return memory;
  }
  static void deallocate(void *user, void *memory, size_t bytes, size_t alignment) {
    Host &host = *static_cast<Host *>(user);
    const auto found = host.live.find(memory);
    ASSERT_TRUE(found != host.live.end()) << "freed what was not allocated, or twice";
    EXPECT_EQ(found->second.bytes, bytes);
    EXPECT_EQ(found->second.alignment, alignment);
    host.live.erase(found);
    std::free(memory);
  }
  static void write(void *user, int32_t, const char *message) { static_cast<Host *>(user)->log.emplace_back(message); }
  static void loop(void *user, int64_t count, think_task task, void *arg) {
    ++static_cast<Host *>(user)->loops;
    for (int64_t index = count - 1; index >= 0; --index) task(arg, index);
  }
};

think_context_options options_of(Host &host, int32_t threads) {
  think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
  options.allocate = Host::allocate;
  options.deallocate = Host::deallocate;
  options.log = Host::write;
  options.user = &host;
  options.threads = threads;
  return options;
}

think_problem small_problem() {
  think_problem problem = THINK_PROBLEM_INIT;
  problem.query_heads = 4;
  problem.kv_heads = 2;
  problem.key_channels = 64;
  return problem;
}

class Threads : public testing::TestWithParam<int32_t> {};

TEST_P(Threads, EverythingIsFreedWithItsOwnSize) {
  Host host;
  const think_context_options options = options_of(host, GetParam());
  const think_problem problem = small_problem();
  think_context *context = nullptr;
  ASSERT_EQ(THINK_OK, think_context_create(&options, &context, nullptr));
  EXPECT_GT(host.calls, 0) << "the hooks are not used";
  think_plan *plans[3] = {};
  for (think_plan *&plan : plans) ASSERT_EQ(THINK_OK, think_plan_create(context, &problem, &plan, nullptr));
  think_context_destroy(context);  // the plans keep it alive
  for (think_plan *plan : plans) {
    size_t needed = 0;
    EXPECT_EQ(THINK_OK, think_plan_describe(plan, nullptr, 0, &needed, nullptr));
    EXPECT_GT(needed, 2u);
  }
  for (think_plan *plan : plans) think_plan_destroy(plan);
  EXPECT_TRUE(host.live.empty());
}

TEST_P(Threads, EveryAllocationMayFail) {
  const think_problem problem = small_problem();
  int failures = 0;
  for (int at = 0;; ++at) {
    Host host;
    host.fail_at = at;
    const think_context_options options = options_of(host, GetParam());
    think_error error = THINK_ERROR_INIT;
    think_context *const nowhere = reinterpret_cast<think_context *>(uintptr_t{0x5A5A5A5A5A5A5A5A});
    think_context *context = nowhere;
    const think_status status = think_context_create(&options, &context, &error);
    if (host.calls > at) {
      EXPECT_EQ(THINK_E_MEMORY, status);
      EXPECT_EQ(THINK_E_MEMORY, error.code);
      EXPECT_GT(std::strlen(error.message), 10u);
      EXPECT_EQ(nowhere, context) << "the output was written";
      EXPECT_TRUE(host.live.empty()) << "leaked";
      ++failures;
      continue;
    }
    ASSERT_EQ(THINK_OK, status) << error.message;
    think_plan *const no_plan = reinterpret_cast<think_plan *>(uintptr_t{0x5A5A5A5A5A5A5A5A});
    think_plan *plan = no_plan;
    const size_t before = host.live.size();
    const think_status plan_status = think_plan_create(context, &problem, &plan, &error);
    if (host.calls > at) {
      EXPECT_EQ(THINK_E_MEMORY, plan_status);
      EXPECT_EQ(THINK_E_MEMORY, error.code);
      EXPECT_GT(std::strlen(error.message), 10u);
      EXPECT_EQ(no_plan, plan) << "the output was written";
      EXPECT_EQ(before, host.live.size()) << "leaked";
      ++failures;
      // the context is still good
      host.fail_at = -1;
      EXPECT_EQ(THINK_OK, think_plan_create(context, &problem, &plan, &error)) << error.message;
      think_plan_destroy(plan);
      think_context_destroy(context);
      EXPECT_TRUE(host.live.empty());
      continue;
    }
    ASSERT_EQ(THINK_OK, plan_status) << error.message;
    think_plan_destroy(plan);
    think_context_destroy(context);
    EXPECT_TRUE(host.live.empty());
    break;
  }
  EXPECT_GE(failures, 2) << "neither the context nor the plan asked the hooks for memory";
}

INSTANTIATE_TEST_SUITE_P(Allocation, Threads, testing::Values(0, 1, 3));

TEST(Hooks, ParallelForIsUsedAndOwnThreadsAreNot) {
  Host host;
  think_context_options options = options_of(host, 4);
  options.parallel_for = Host::loop;
  think_context *context = nullptr;
  ASSERT_EQ(THINK_OK, think_context_create(&options, &context, nullptr));
  int64_t threads = 0;
  EXPECT_EQ(THINK_OK, think_query(context, THINK_QUERY_THREADS, &threads, nullptr));
  EXPECT_EQ(4, threads);
  think_problem problem = small_problem();
  problem.cache_dtype = THINK_F32;
  think_plan *plan = nullptr;
  ASSERT_EQ(THINK_OK, think_plan_create(context, &problem, &plan, nullptr));

  constexpr int kRows = 4096;
  std::vector<float> query_data(4 * 64, 0.5f), output_data(4 * 64), rows(size_t{2} * kRows * 64, 0.25f);
  think_tensor query = THINK_TENSOR_INIT, output;
  query.data = query_data.data();
  query.dtype = THINK_F32;
  const int64_t extent[4] = {1, 4, 1, 64}, stride[4] = {256, 64, 64, 1};
  std::memcpy(query.extent, extent, sizeof extent);
  std::memcpy(query.stride, stride, sizeof stride);
  output = query;
  output.data = output_data.data();
  const int32_t length = kRows;
  think_segment segment = THINK_SEGMENT_INIT;
  segment.key_dtype = segment.value_dtype = THINK_F32;
  segment.key = segment.value = rows.data();
  segment.key_stride[1] = segment.value_stride[1] = int64_t{kRows} * 64 * 4;
  segment.lengths = &length;
  int64_t bytes = 0;
  ASSERT_EQ(THINK_OK, think_workspace_size(plan, THINK_STAGE_ATTEND, nullptr, &bytes, nullptr, nullptr));
  void *workspace = std::aligned_alloc(64, static_cast<size_t>(bytes + 64) / 64 * 64);
  std::memset(workspace, 0, static_cast<size_t>(bytes));
  think_launch launch = THINK_LAUNCH_INIT;
  launch.workspace = workspace;
  launch.workspace_bytes = bytes;
  const int calls = host.calls;
  think_error error = THINK_ERROR_INIT;
  ASSERT_EQ(THINK_OK, think_attend(plan, &query, nullptr, &segment, 1, nullptr, &output, nullptr, &launch, &error)) << error.message;
  EXPECT_GT(host.loops, 0);
  EXPECT_EQ(calls, host.calls) << "a run call allocated";
  for (float number : output_data) EXPECT_NEAR(0.25f, number, 1e-5f);
  std::free(workspace);
  think_plan_destroy(plan);
  think_context_destroy(context);
  EXPECT_TRUE(host.live.empty());
}

TEST(Hooks, OneWithoutTheOtherIsRefused) {
  for (bool allocate : {false, true}) {
    Host host;
    think_context_options options = options_of(host, 1);
    if (allocate) {
      options.deallocate = nullptr;
    } else {
      options.allocate = nullptr;
    }
    think_context *context = nullptr;
    think_error error = THINK_ERROR_INIT;
    EXPECT_EQ(THINK_E_ARGUMENT, think_context_create(&options, &context, &error));
    EXPECT_EQ(1, error.argument);
    EXPECT_NE(nullptr, std::strstr(error.message, allocate ? "options->deallocate" : "options->allocate")) << error.message;
    EXPECT_EQ(nullptr, context);
    EXPECT_EQ(0, host.calls);
  }
}

}  // namespace

#if !defined(THINK_TEST_SANITIZED)

// ---- this program's malloc, which libthink and the C library use too ----
extern "C" {
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);
}

namespace {
thread_local bool watched = false;  // count (and fail) allocations of this thread only while a test says so
thread_local int allocations = 0;
thread_local int fail_at = -1;
bool refuse() {
  if (!watched || allocations++ != fail_at) return false;
  errno = ENOMEM;
  return true;
}
}  // namespace

extern "C" {
void *malloc(size_t bytes) { return refuse() ? nullptr : __libc_malloc(bytes); }
void *calloc(size_t count, size_t bytes) { return refuse() ? nullptr : __libc_calloc(count, bytes); }
void *realloc(void *memory, size_t bytes) { return refuse() ? nullptr : __libc_realloc(memory, bytes); }
void *aligned_alloc(size_t alignment, size_t bytes) { return refuse() ? nullptr : __libc_memalign(alignment, bytes); }
void *memalign(size_t alignment, size_t bytes) { return refuse() ? nullptr : __libc_memalign(alignment, bytes); }
int posix_memalign(void **memory, size_t alignment, size_t bytes) {
  void *found = refuse() ? nullptr : __libc_memalign(alignment, bytes);
  if (!found) return ENOMEM;
  *memory = found;
  return 0;
}
}

#include "tests/abi/world.h"

namespace {

// Whatever the library and the C library under it ask malloc for while a context and a plan are made, with own threads. With the host's
// hooks, which are not counted here, what is left is what starting threads needs: then every block that came from the hooks must go back.
int failures_of_malloc(int32_t threads, bool hooks) {
  const think_problem problem = small_problem();
  int failures = 0;
  for (int at = 0; at < 1000; ++at) {
    Host host;
    think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
    if (hooks) {
      options = options_of(host, threads);
      options.log = nullptr;
      options.allocate = [](void *user, size_t bytes, size_t alignment) {
        watched = false;
        void *memory = Host::allocate(user, bytes, alignment);
        watched = true;
        return memory;
      };
      options.deallocate = [](void *user, void *memory, size_t bytes, size_t alignment) {
        const bool before = watched;
        watched = false;
        Host::deallocate(user, memory, bytes, alignment);
        watched = before;
      };
    }
    options.threads = threads;
    think_context *context = nullptr;
    think_plan *plan = nullptr;
    think_error error = THINK_ERROR_INIT;
    allocations = 0;
    fail_at = at;
    watched = true;
    think_status status = think_context_create(&options, &context, &error);
    if (status == THINK_OK) status = think_plan_create(context, &problem, &plan, &error);
    watched = false;
    const bool failed = allocations > at;
    if (status != THINK_OK) {
      EXPECT_EQ(THINK_E_MEMORY, status) << error.message;
      EXPECT_EQ(nullptr, plan);
      EXPECT_TRUE(failed);
      ++failures;
    }
    think_plan_destroy(plan);
    think_context_destroy(context);
    EXPECT_TRUE(host.live.empty()) << "leaked after allocation " << at << " failed";
    if (!failed) return failures;
  }
  ADD_FAILURE() << "never succeeded";
  return failures;
}

TEST(Malloc, EveryCallMayFail) {
  EXPECT_GE(failures_of_malloc(1, false), 2);
  EXPECT_GE(failures_of_malloc(3, false), 2);
  EXPECT_EQ(0, failures_of_malloc(1, true)) << "something went past the hooks";
  // the C library keeps the stacks of a few threads that have ended, and starts others on them without asking: many are needed
  EXPECT_GE(failures_of_malloc(40, true), 1) << "no thread was started";
}

TEST(Malloc, RunCallsDoNotAllocate) {
  think_test::World world;
  for (const think_test::Function &target : think_test::functions()) {
    if (std::string(target.name).ends_with("_create")) continue;
    world.restore(target);
    const std::vector<think_test::Value> values = target.values(world);
    think_error error = THINK_ERROR_INIT;
    allocations = 0;
    fail_at = -1;
    watched = true;
    const think_status status = target.invoke(values, &error);
    watched = false;
    EXPECT_EQ(THINK_OK, status) << error.message;
    EXPECT_EQ(0, allocations) << target.name;
    std::vector<think_test::Value> wrong = values;
    for (think_test::Value &value : wrong) value.pointer = nullptr;
    allocations = 0;
    watched = true;
    (void)target.invoke(wrong, &error);
    watched = false;
    EXPECT_EQ(0, allocations) << target.name << ", refused";
  }
}

}  // namespace

#endif
