// What the host has current in a thread is so afterwards: every public function that has to do with a device, in every surroundings, those that are refused
// and (where they have a status) those in which the driver fails (guest.h compares, around each call).
#include <algorithm>

#include "cache_flow.h"
#include "flow.h"
#include "libthink/cli/selftest.h"
#include "tests/gpu/guest.h"

namespace think::gpu_test {
namespace {

class Context : public testing::Test {
 protected:
  void TearDown() override { watch() = {}; }
};

constexpr cli::SelftestShape kShape{"short", 4, 1, 64, 64, 170, THINK_F16, 0};
constexpr int32_t kTokens = 70;

void run_stages(const cli::Driver &driver) {
  cli::selftest_layer(
      kShape, {{THINK_DEVICE_CUDA, 0}, &driver, 1}, [](const char *stage, double error, double limit) { EXPECT_LE(error, limit) << stage; },
      [](const char *, const std::string &) {});
  Flow flow(&driver);
  flow.score({kTokens, 41});
  flow.choose_calls();
  flow.compact_calls();
  flow.attend();
  const std::vector<float> zeros(Flow::kQueryHeads * Flow::kChannels);
  const think_tensor attention = tensor_of(flow.bench().copy(zeros), THINK_F32, 1, Flow::kQueryHeads, 1, Flow::kChannels);
  const think_launch launch = flow.bench().launch(THINK_STAGE_SCORE);
  THINK_OK_OR_SKIP(think_value_score, flow.bench(), &attention, nullptr, flow.bench().copy(zeros), &launch);
}

void evict_rows(const cli::Driver &driver) {
  Bench bench(&driver, problem_of(1, 1, 64, 1, kTokens));
  think_launch launch = bench.launch(THINK_STAGE_EVICT);
  const think_tensor window = tensor_of(bench.copy(random_rows(32, 64, 1)), THINK_F16, 1, 1, 32, 64);
  think_segment rows = THINK_SEGMENT_INIT;
  rows.flags = THINK_SEGMENT_CAUSAL;
  rows.key = bench.copy(random_rows(kTokens, 64, 2)), rows.value = bench.copy(random_rows(kTokens, 64, 3));
  rows.key_dtype = rows.value_dtype = THINK_F16;
  rows.key_stride[0] = rows.value_stride[0] = rows.key_stride[1] = rows.value_stride[1] = kTokens * 64 * 2;
  rows.page_tokens = kTokens;
  rows.lengths = bench.copy(std::vector<int32_t>{kTokens});
  think_evict_options choice = THINK_EVICT_OPTIONS_INIT;
  choice.method = THINK_EVICT_SNAPKV;
  choice.budget = 50;
  choice.score_stride = kTokens;
  int32_t *kept = bench.copy(std::vector<int32_t>(50, -1)), *lengths = bench.copy(std::vector<int32_t>(1));
  float *score = bench.copy(std::vector<float>(kTokens));
  THINK_OK_OR_SKIP(think_evict, bench, &window, &rows, nullptr, &choice, nullptr, score, kept, lengths, &launch);
  think_segment left = rows;
  left.lengths = lengths;
  THINK_OK_OR_SKIP(think_evict_move, bench, &rows, &left, nullptr, kept, int64_t{50}, score, int64_t{kTokens}, &launch);
}

// Calls on a cache that has sequences of 70 and 40 tokens, each by itself.
using CacheCall = void (*)(CacheFlow &);
constexpr CacheCall kCacheCalls[] = {
    [](CacheFlow &flow) { flow.begin({0, 1}, {3, 33}); },
    [](CacheFlow &flow) { flow.step({0, 1}, {3, 33}, true); },
    [](CacheFlow &flow) {
      flow.begin({0}, {1});
      int64_t id = 0;
      THINK_OK_OR_SKIP(think_cache_graph_id, flow.cache(), &id);
      THINK_OK_OR_SKIP(think_cache_replayed, flow.cache(), id);
    },
    [](CacheFlow &flow) { flow.prune({0, 1}); },
    [](CacheFlow &flow) { flow.exported(0); },
    [](CacheFlow &flow) {
      think_error error = THINK_ERROR_INIT;
      EXPECT_EQ(THINK_OK, flow.try_load(2, flow.saved(0), &error)) << error.message;
    },
    [](CacheFlow &flow) {
      THINK_OK_OR_SKIP(think_cache_fork, flow.cache(), 0, 3);
      flow.step({3}, {1});
      THINK_OK_OR_SKIP(think_cache_trim, flow.cache(), 3, int64_t{30});
      THINK_OK_OR_SKIP(think_cache_drop, flow.cache(), 3);
    },
    [](CacheFlow &flow) {
      think_evict_options options = THINK_EVICT_OPTIONS_INIT;
      options.method = THINK_EVICT_SNAPKV;
      options.budget = 50;
      const int32_t sequence = 0;
      THINK_OK_OR_SKIP(think_cache_evict, flow.cache(), &sequence, 1, &options, nullptr, nullptr, flow.launch());
    },
    [](CacheFlow &flow) {
      std::vector<int32_t> kept;
      for (int32_t list = 0; list < CacheFlow::kLayers * CacheFlow::kHeads; ++list) {
        for (int32_t row = 0; row < 50; ++row) kept.push_back(row + list);
      }
      THINK_OK_OR_SKIP(think_cache_keep, flow.cache(), 0, kept.data(), 50);
    },
    [](CacheFlow &flow) {
      think_segment segments[THINK_MAX_SEGMENTS];
      segments[0].struct_size = sizeof(think_segment);
      int32_t count = 0;
      THINK_OK_OR_SKIP(think_cache_segments, flow.cache(), 0, segments, THINK_MAX_SEGMENTS, &count);
    },
    [](CacheFlow &flow) { THINK_OK_OR_SKIP(think_cache_reset, flow.cache()); },
};

void on_a_cache(const cli::Driver &driver, CacheCall call) {
  CacheFlow flow(&driver, {});
  flow.step({0, 1}, {kTokens, 40});
  call(flow);
}

// Asked of a context and a plan, without memory of the device.
void ask(const cli::Driver &driver) {
  Flow flow(&driver);
  const think_plan *plan = flow.bench();
  think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
  options.device_type = THINK_DEVICE_CUDA;
  think_context *context = nullptr;
  THINK_OK_OR_SKIP(think_context_create, &options, &context);
  int64_t number = 0;
  for (const int32_t key : {THINK_QUERY_DEVICE_TYPE, THINK_QUERY_BACKENDS}) THINK_OK_OR_SKIP(think_query, context, key, &number);
  const think_problem problem = flow.problem();
  THINK_OK_OR_SKIP(think_supports, context, &problem);
  char text[4096];
  size_t length = 0;
  THINK_OK_OR_SKIP(think_backend_reason, THINK_DEVICE_CUDA, text, sizeof text, &length);
  THINK_OK_OR_SKIP(think_plan_describe, plan, text, sizeof text, &length);
  THINK_OK_OR_SKIP(think_moments_size, plan, 1, &number);
  think_layout_info layout = THINK_LAYOUT_INFO_INIT;
  THINK_OK_OR_SKIP(think_layout, plan, nullptr, 64, int64_t{64}, int64_t{128}, &layout);
  think_prune_result preview = THINK_PRUNE_RESULT_INIT;
  THINK_OK_OR_SKIP(think_prune_preview, plan, nullptr, int64_t{500}, nullptr, &preview);
  think_context_destroy(context);
}

#define EXPECT_REFUSED(call) EXPECT_NE(THINK_OK, call)

// One of each kind: what there is no room, no memory, no device or no time for, and what is wrong in itself.
void be_refused(const cli::Driver &driver) {
  think_error error = THINK_ERROR_INIT;
  think_context_options elsewhere = THINK_CONTEXT_OPTIONS_INIT;
  elsewhere.device_type = THINK_DEVICE_CUDA;
  elsewhere.device_index = 1000;
  think_context *context = nullptr;
  EXPECT_REFUSED(think_context_create(&elsewhere, &context, &error));
  elsewhere.device_index = 0;
  elsewhere.allocate = [](void *, size_t, size_t) -> void * { return nullptr; };
  elsewhere.deallocate = [](void *, void *, size_t, size_t) {};
  EXPECT_REFUSED(think_context_create(&elsewhere, &context, &error));
  Flow flow(&driver);
  const think_plan *plan = flow.bench();
  elsewhere = THINK_CONTEXT_OPTIONS_INIT;
  elsewhere.device_type = THINK_DEVICE_CUDA;
  THINK_OK_OR_SKIP(think_context_create, &elsewhere, &context);
  think_problem wrong = flow.problem();
  wrong.key_channels = 7;
  think_plan *none = nullptr;
  EXPECT_REFUSED(think_plan_create(context, &wrong, &none, &error));
  think_context_destroy(context);
  int64_t bytes = 0;
  EXPECT_REFUSED(think_workspace_size(plan, 1000, nullptr, &bytes, nullptr, &error));
  think_launch launch = flow.bench().launch(THINK_STAGE_SCORE);
  EXPECT_REFUSED(think_score_reset(plan, nullptr, nullptr, &launch, &error));
  void *state = flow.bench().make(4096);
  launch.flags = THINK_LAUNCH_CHECK;
  EXPECT_REFUSED(think_score_reset(plan, state, nullptr, &launch, &error));
  launch.flags = 0;
  launch.slices = 2;
  EXPECT_REFUSED(think_score_reset(plan, state, nullptr, &launch, &error));
  const think_tensor query = tensor_of(state, THINK_F16, 1, 1, 1, 64);
  launch = THINK_LAUNCH_INIT;
  EXPECT_REFUSED(think_attend(plan, &query, nullptr, nullptr, 1, nullptr, &query, nullptr, &launch, &error));
  think_cache_options options = THINK_CACHE_OPTIONS_INIT;
  think_cache *cache = nullptr;
  EXPECT_REFUSED(think_cache_create(plan, &options, &cache, &error));
  options.slab = state;
  options.slab_bytes = 4096;
  EXPECT_REFUSED(think_cache_create(plan, &options, &cache, &error));

  CacheSettings small;
  small.dense_tokens = small.compact_tokens = 64;
  CacheFlow rows(&driver, small);
  EXPECT_EQ(THINK_E_MEMORY, rows.try_step({0, 1, 2}, {160, 160, 160}, &error)) << error.message;
  EXPECT_REFUSED(think_cache_attend(rows.cache(), 0, &query, nullptr, &query, nullptr, rows.launch(), &error));
  EXPECT_REFUSED(rows.try_load(0, std::vector<char>(100, 'x'), &error));
  think_segment segment = THINK_SEGMENT_INIT;
  int32_t count = 0;
  EXPECT_REFUSED(think_cache_sequence_segments(rows.cache(), 0, 0, &segment, 1, &count, &error));
  EXPECT_REFUSED(think_cache_trim(rows.cache(), 0, 10, &error));
}

void everything(const cli::Driver &driver) {
  ask(driver);
  run_stages(driver);
  evict_rows(driver);
  for (const CacheCall call : kCacheCalls) on_a_cache(driver, call);
  be_refused(driver);
}

TEST_F(Context, IsAsItWasInAllSurroundings) {
  THINK_NEED_DEVICE();
  ASSERT_TRUE(can_look());
  const cli::Driver driver(0);
  run_or_skip([&] {
    for (const Surroundings surroundings : {Surroundings::nothing, Surroundings::primary_context, Surroundings::foreign_context}) {
      watch() = {surroundings};
      everything(driver);
      // All but those that know nothing of a device, or of no handle at all.
      std::vector<std::string> missing;
      const std::set<std::string> others = {"think_version", "think_abi_version", "think_version_string", "think_status_name", "think_dtype_bytes",
                                            "think_dtype_name", "think_kept_channels", "think_tensor_from_dlpack"};
      for (const char *name : kPublicFunctions) {
        const bool fills_a_struct = std::string(name).ends_with("_init");
        if (!fills_a_struct && !others.contains(name) && !watch().called.contains(name)) missing.push_back(name);
      }
      EXPECT_EQ(std::vector<std::string>(), missing) << "functions that were not called";
    }
  });
}

// Whatever the driver refuses comes out as an error of the call, and nothing is left behind.
TEST_F(Context, IsAsItWasWhenTheDriverFails) {
  THINK_NEED_DEVICE();
  ASSERT_TRUE(can_look());
  if (!can_fail()) GTEST_SKIP() << "this driver does not fail when asked to";
  const cli::Driver driver(0);
  run_or_skip([&] {
    for (const char *function : {"cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain"}) {  // which a context needs, and nothing else
      watch() = {Surroundings::foreign_context, function};
      ask(driver);
      EXPECT_EQ(2, watch().failures) << function;
    }
    for (const char *function : {"cuCtxPushCurrent_v2", "launch"}) {
      SCOPED_TRACE(function);
      watch() = {Surroundings::foreign_context, function};
      run_stages(driver);
      evict_rows(driver);
      int failures = watch().failures;
      // What a cache holds after such a call is undefined, so that each gets one of its own.
      for (const CacheCall call : kCacheCalls) {
        watch() = {Surroundings::foreign_context, function};
        CacheFlow flow(&driver, {});
        failures += watch().failures;
        watch() = {Surroundings::foreign_context};
        flow.step({0, 1}, {kTokens, 40});
        watch() = {Surroundings::foreign_context, function, false};
        try {
          call(flow);
        } catch (const std::runtime_error &) {
          EXPECT_GT(watch().failures, 0);
        }
        failures += watch().failures;
        watch() = {Surroundings::foreign_context};
      }
      EXPECT_GE(failures, 50);
    }
  });
}

// Nobody else uses it here; on a device the CUDA runtime does, as long as the process lives.
TEST_F(Context, IsReleasedAsOftenAsRetained) {
  THINK_NEED_DEVICE();
  ASSERT_TRUE(can_look());
  if (!can_fail()) GTEST_SKIP() << "the CUDA runtime keeps the context";
  EXPECT_FALSE(primary_context_is_in_use());
  {
    const cli::Driver driver(0);
    run_or_skip([&] {
      ask(driver);
      on_a_cache(driver, kCacheCalls[0]);
      be_refused(driver);
      for (const char *function : {"cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2", "launch"}) {
        watch() = {Surroundings::as_they_are, function};
        ask(driver);
        watch() = {};
      }
    });
    EXPECT_TRUE(primary_context_is_in_use());
  }
  EXPECT_FALSE(primary_context_is_in_use());
}

}  // namespace
}  // namespace think::gpu_test
