// A plan on the stand-in for a device. Every array of that device lies in memory that cannot be read, so a look at one of them ends the process.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "stand_in_backend.h"
#include "think.h"

inline constexpr int64_t kDeviceBytes = int64_t{64} << 20;

class DevicePlan : public testing::Test {
 protected:
  void SetUp() override {
    const std::string folder = STAND_INS;
    ASSERT_TRUE(dlopen((folder + "/stand_in_driver.so").c_str(), RTLD_NOW | RTLD_GLOBAL)) << dlerror();
    const std::string backend = folder + "/stand_in_backend.so";
    setenv("THINK_BACKEND_PATH", backend.c_str(), 1);
    options.device_type = THINK_DEVICE_CUDA;
    options.device_index = 1;
    ASSERT_EQ(THINK_OK, think_context_create(&options, &context, &error)) << error.message;
    void *library = dlopen(backend.c_str(), RTLD_NOW | RTLD_NOLOAD);
    ASSERT_TRUE(library) << "the stand-in is not what was loaded";
    GetStandInCalls get_calls;
    void *symbol = dlsym(library, "stand_in_calls");
    std::memcpy(&get_calls, &symbol, sizeof get_calls);
    calls = get_calls();
    problem.query_heads = 4;
    problem.kv_heads = 2;
    problem.key_channels = 64;
    problem.max_batch = 3;
    problem.max_tokens = 4096;
    ASSERT_EQ(THINK_OK, think_plan_create(context, &problem, &plan, &error)) << error.message;
    memory = static_cast<char *>(mmap(nullptr, kDeviceBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(MAP_FAILED, static_cast<void *>(memory));
    calls->memory = memory;
    calls->memory_end = memory + kDeviceBytes;
    launch.workspace = take<char>(1 << 20);
    launch.workspace_bytes = 1 << 20;
    launch.stream = this;
    batch.count = 3;
    batch.lengths = take<int32_t>(3);
    batch.slot = take<int32_t>(3);
    before = calls->runs;
  }

  void TearDown() override {
    if (calls) calls->fail_with = 0;
    if (plan) think_plan_destroy(plan);
    if (context) think_context_destroy(context);
    if (memory) munmap(memory, kDeviceBytes);
    if (calls) {
      EXPECT_EQ(calls->entered, calls->left);
      EXPECT_EQ(calls->opened, calls->closed);
    }
  }

  // An array of the device.
  template <class T>
  T *take(int64_t count) {
    T *array = reinterpret_cast<T *>(memory + used);
    used += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    EXPECT_LE(used, kDeviceBytes);
    return array;
  }

  think_tensor tensor(int64_t heads, int64_t tokens) {
    return {sizeof(think_tensor), 0, take<float>(3 * heads * tokens * 64), THINK_F32, 0, {3, heads, tokens, 64}, {heads * tokens * 64, tokens * 64, 64, 1}};
  }

  think_basis basis(int32_t side) {
    think_basis bound = THINK_BASIS_INIT;
    int64_t bytes = 0;
    EXPECT_EQ(THINK_OK, think_basis_size(plan, side, 8, &bytes, nullptr, &error)) << error.message;
    EXPECT_EQ(THINK_OK, think_basis_bind(plan, side, 8, take<char>(bytes), bytes, &bound, &error)) << error.message;
    return bound;
  }

  think_segment segment(bool paged) {
    think_segment made = THINK_SEGMENT_INIT;
    made.key = take<char>(1 << 20);
    made.value = take<char>(1 << 20);
    made.key_dtype = made.value_dtype = THINK_F16;
    made.key_stride[0] = made.value_stride[0] = 1 << 17;
    made.key_stride[1] = made.value_stride[1] = 1 << 16;
    made.page_tokens = paged ? 64 : 512;
    made.lengths = take<int32_t>(6);
    made.first = take<int32_t>(6);
    made.lengths_stride[0] = 2;
    made.lengths_stride[1] = 1;
    made.slot = take<int32_t>(3);
    if (paged) {
      made.pages = take<int32_t>(3 * 16);
      made.pages_stride = 16;
    }
    return made;
  }

  void expect_run(const char *name, think_status status) {
    EXPECT_EQ(THINK_OK, status) << error.message;
    EXPECT_EQ(++before, calls->runs);
    EXPECT_STREQ(name, calls->last);
    EXPECT_EQ(this, calls->stream);
  }

  void expect_refused(think_status expected, const char *text, think_status status) {
    EXPECT_EQ(expected, status);
    EXPECT_NE(nullptr, std::strstr(error.message, text)) << error.message;
    EXPECT_EQ(before, calls->runs) << "something was launched all the same";
  }

  think_error error = THINK_ERROR_INIT;
  think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
  think_context *context = nullptr;
  think_problem problem = THINK_PROBLEM_INIT;
  think_plan *plan = nullptr;
  think_launch launch = THINK_LAUNCH_INIT;
  think_batch batch = THINK_BATCH_INIT;
  StandInCalls *calls = nullptr;
  char *memory = nullptr;
  int64_t used = 0;
  int32_t before = 0;
};
