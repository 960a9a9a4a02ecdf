// The managed cache on a device that computes nothing: what it refuses, that it never looks into its slab, and that what fails leaves it as it was.
#include "device_plan.h"
#include "tests/cache/host.h"

namespace {

class DeviceCache : public DevicePlan {
 protected:
  void SetUp() override {
    options = host.options();
    problem.cache_dtype = problem.query_dtype = THINK_F16;
    DevicePlan::SetUp();
    settings.layers = 3;
    settings.sequences = 4;
    settings.flags = THINK_CACHE_KEEP_SCORES;
    settings.fold = THINK_FOLD_BLOCK;
    ASSERT_EQ(THINK_OK, think_cache_slab_size(plan, &settings, 4 * 512, 4 * 512, &settings.slab_bytes, &error)) << error.message;
    used = (used + 255) / 256 * 256;
    settings.slab = take<char>(settings.slab_bytes);
  }
  void TearDown() override {
    think_cache_destroy(cache);
    const StandInCalls *seen = calls;
    DevicePlan::TearDown();
    EXPECT_TRUE(host.empty());
    EXPECT_EQ(0, seen->host_blocks);
    EXPECT_EQ(0, seen->events);
  }
  void create() { ASSERT_EQ(THINK_OK, think_cache_create(plan, &settings, &cache, &error)) << error.message; }
  think_status step(std::vector<int32_t> sequences, std::vector<int32_t> counts) {
    return think_cache_step(cache, sequences.data(), counts.data(), static_cast<int32_t>(counts.size()), &launch, &error);
  }
  think_tensor rows(int64_t sequences, int64_t heads, int64_t tokens) {
    if (!row_memory) row_memory = take<char>(int64_t{16} << 20);
    return {sizeof(think_tensor), 0, row_memory, THINK_F16, 0, {sequences, heads, tokens, 64}, {heads * tokens * 64, tokens * 64, 64, 1}};
  }
  think_status append(int32_t layer, int64_t sequences, int64_t tokens) {
    const think_tensor query = rows(sequences, 4, tokens), key = rows(sequences, 2, tokens);
    return think_cache_append(cache, layer, &query, &key, &key, &launch, &error);
  }
  void fill(std::vector<int32_t> sequences, std::vector<int32_t> counts) {
    ASSERT_EQ(THINK_OK, step(sequences, counts)) << error.message;
    int32_t longest = 0;
    for (const int32_t count : counts) longest = std::max(longest, count);
    for (int32_t layer = 0; layer < 3; ++layer) {
      ASSERT_EQ(THINK_OK, append(layer, static_cast<int64_t>(counts.size()), longest)) << error.message;
    }
  }
  think_cache_info usage(int32_t sequence) {
    think_cache_info info = THINK_CACHE_INFO_INIT;
    EXPECT_EQ(THINK_OK, think_cache_usage(cache, sequence, &info, &error)) << error.message;
    return info;
  }
  std::vector<int64_t> numbers() {
    std::vector<int64_t> all;
    for (int32_t sequence = -1; sequence < 4; ++sequence) {
      const think_cache_info info = usage(sequence);
      for (const int64_t number : {info.tokens, info.compact_tokens, info.page_bytes, info.basis_bytes, info.score_bytes, info.evicted_tokens}) {
        all.push_back(number);
      }
    }
    return all;
  }
  void refused(think_status expected, const char *text, const think_cache_options &wrong) {
    think_cache *made = nullptr;
    EXPECT_EQ(expected, think_cache_create(plan, &wrong, &made, &error)) << text;
    EXPECT_NE(nullptr, std::strstr(error.message, text)) << error.message;
    EXPECT_EQ(nullptr, made);
  }

  cache_test::Host host;
  think_cache_options settings = THINK_CACHE_OPTIONS_INIT;
  think_cache *cache = nullptr;
  char *row_memory = nullptr;
};

TEST_F(DeviceCache, SaysWhatItCannotLiveIn) {
  think_cache_options wrong = settings;
  wrong.slab = nullptr;
  refused(THINK_E_ARGUMENT, "options->slab", wrong);
  wrong.slab = static_cast<char *>(settings.slab) + 128;
  refused(THINK_E_ARGUMENT, "multiple of 256", wrong);
  wrong = settings;
  wrong.slab_bytes = -1;
  refused(THINK_E_ARGUMENT, "options->slab_bytes", wrong);
  wrong.slab_bytes = 100000;
  refused(THINK_E_ARGUMENT, "options->slab_bytes", wrong);
  wrong = settings;
  wrong.limit_bytes = 1 << 20;
  refused(THINK_E_ARGUMENT, "options->limit_bytes", wrong);
  wrong = settings;
  wrong.reserve_tokens = 32;
  refused(THINK_E_ARGUMENT, "options->reserve_tokens", wrong);
  wrong = settings;
  wrong.bases = -1;
  refused(THINK_E_ARGUMENT, "options->bases", wrong);
  think_format format = THINK_FORMAT_INIT;
  format.key_dtype = THINK_F32;
  format.key_layout = THINK_TILES;
  wrong = settings;
  wrong.format = &format;
  refused(THINK_E_UNSUPPORTED, "f32", wrong);
  think_plan *wide = nullptr;
  think_problem other = problem;
  other.cache_dtype = THINK_F32;
  ASSERT_EQ(THINK_OK, think_plan_create(context, &other, &wide, &error)) << error.message;
  think_cache *made = nullptr;
  EXPECT_EQ(THINK_E_UNSUPPORTED, think_cache_create(wide, &settings, &made, &error));
  think_plan_destroy(wide);
}

TEST_F(DeviceCache, NeverLooksIntoItsSlab) {
  create();
  fill({0, 1, 2}, {300, 200, 70});
  EXPECT_EQ(launch.stream, calls->stream);
  const int32_t sequences[] = {0, 1};
  ASSERT_EQ(THINK_OK, think_cache_prune(cache, sequences, 2, &launch, &error)) << error.message;
  ASSERT_EQ(THINK_OK, think_cache_fork(cache, 0, 3, &error)) << error.message;
  fill({0, 3, 2}, {70, 40, 1});
  think_evict_options eviction = THINK_EVICT_OPTIONS_INIT;
  eviction.budget = 64;
  const int32_t dense[] = {2};
  ASSERT_EQ(THINK_OK, think_cache_evict(cache, dense, 1, &eviction, nullptr, nullptr, &launch, &error)) << error.message;
  std::vector<int32_t> kept;
  for (int32_t list = 0; list < 3 * 2; ++list) {
    for (int32_t row = 0; row < 40; ++row) kept.push_back(row + 8);
  }
  ASSERT_EQ(THINK_OK, think_cache_keep(cache, 2, kept.data(), 40, &error)) << error.message;
  EXPECT_EQ(launch.stream, calls->stream) << "the last stream";
  const int32_t one = 2, none = 0;
  ASSERT_EQ(THINK_OK, think_cache_step(cache, &one, &none, 1, nullptr, &error)) << error.message;
  EXPECT_EQ(launch.stream, calls->stream) << "without a launch the last stream as well";
  for (int32_t layer = 0; layer < 3; ++layer) ASSERT_EQ(THINK_OK, append(layer, 1, 1)) << error.message;
  const think_tensor to = rows(1, 2, 40);
  ASSERT_EQ(THINK_OK, think_cache_export_dense(cache, 2, 1, 0, 40, &to, &to, nullptr, &error)) << error.message;
  ASSERT_EQ(THINK_OK, think_cache_trim(cache, 3, usage(3).tokens - 10, &error)) << error.message;
  think_segment segments[4];
  think_segment_init(segments, sizeof segments[0]);
  int32_t count = 0;
  EXPECT_EQ(THINK_E_UNSUPPORTED, think_cache_sequence_segments(cache, 0, 0, segments, 4, &count, &error));
  think_tensor askew = rows(1, 4, 1);
  askew.data = static_cast<char *>(askew.data) + 2;
  ASSERT_EQ(THINK_OK, step({0}, {1})) << error.message;
  const think_tensor key = rows(1, 2, 1);
  EXPECT_EQ(THINK_E_UNSUPPORTED, think_cache_append(cache, 0, &askew, &key, &key, &launch, &error));
  ASSERT_EQ(THINK_OK, think_cache_drop(cache, 0, &error));
  ASSERT_EQ(THINK_OK, think_cache_reset(cache, &error));
  EXPECT_EQ(0, usage(-1).tokens);
}

TEST_F(DeviceCache, SaysWhatTheDeviceSaid) {
  calls->fail_with = 700;
  refused(THINK_E_DEVICE, "preparing the cache: CUDA error 700", settings);
  calls->fail_with = 0;
  create();
  fill({0, 1}, {300, 40});
  calls->fail_with = 700;
  const int32_t launched = calls->runs;
  EXPECT_EQ(THINK_E_DEVICE, step({0, 1}, {1, 1}));
  EXPECT_EQ(700, error.native_code);
  EXPECT_EQ(launched + 1, calls->runs) << "nothing is launched after a failure";
  calls->fail_with = 0;
  EXPECT_EQ(THINK_E_STATE, append(0, 2, 1)) << "a step whose tables have not arrived";
  EXPECT_EQ(300, usage(0).tokens);
  ASSERT_EQ(THINK_OK, step({0, 1}, {1, 1})) << error.message;
  calls->fail_with = 700;
  EXPECT_EQ(THINK_E_DEVICE, append(0, 2, 1));
  calls->fail_with = 0;
  for (int32_t layer = 0; layer < 3; ++layer) EXPECT_EQ(THINK_OK, append(layer, 2, 1)) << error.message;
  ASSERT_EQ(THINK_OK, think_cache_reset(cache, &error));
  fill({0}, {100});
  calls->fail_with = 700;
  const int32_t first = 0;
  EXPECT_EQ(THINK_E_DEVICE, think_cache_prune(cache, &first, 1, &launch, &error));
  const auto write = [](void *, const void *, int64_t) -> int32_t { return 0; };
  EXPECT_EQ(THINK_E_DEVICE, think_cache_save(cache, 0, write, nullptr, &error));
  calls->fail_with = 0;
}

// Every allocation of every call fails once: the call says so, and all sequences are as they were.
TEST_F(DeviceCache, EveryAllocationMayFail) {
  for (int32_t at = 0;; ++at) {
    host.fail_at = host.calls + at;
    const think_status status = think_cache_create(plan, &settings, &cache, &error);
    if (status == THINK_OK) break;
    ASSERT_EQ(THINK_E_MEMORY, status) << error.message;
    ASSERT_EQ(nullptr, cache);
  }
  host.fail_at = -1;
  const auto fails_well = [&](const char *what, auto call) {
    for (int32_t at = 0; at < 1000; ++at) {
      const std::vector<int64_t> before = numbers();
      host.fail_at = host.calls + at;
      const think_status status = call();
      const bool failed = host.calls > host.fail_at;
      host.fail_at = -1;
      if (status == THINK_OK && !failed) return;
      if (status == THINK_OK) continue;  // it did without
      ASSERT_EQ(THINK_E_MEMORY, status) << what << ": " << error.message;
      ASSERT_EQ(before, numbers()) << what;
    }
    FAIL() << what << " never ends";
  };
  fails_well("step", [&] { return step({0, 1}, {300, 90}); });
  for (int32_t layer = 0; layer < 3; ++layer) ASSERT_EQ(THINK_OK, append(layer, 2, 300)) << error.message;
  const int32_t sequences[] = {0, 1};
  fails_well("prune", [&] { return think_cache_prune(cache, sequences, 2, &launch, &error); });
  fails_well("fork", [&] { return think_cache_fork(cache, 0, 2, &error); });
  const auto write = [](void *, const void *, int64_t) -> int32_t { return 0; };
  EXPECT_EQ(THINK_E_STATE, think_cache_save(cache, 0, write, nullptr, &error)) << "widths that nobody chose";
  EXPECT_NE(nullptr, std::strstr(error.message, "cache: damaged in the slab")) << error.message;
  fill({3}, {200});
  fails_well("save", [&] { return think_cache_save(cache, 3, write, nullptr, &error); });
  fails_well("step of forks", [&] { return step({0, 2}, {80, 80}); });
  for (int32_t layer = 0; layer < 3; ++layer) ASSERT_EQ(THINK_OK, append(layer, 2, 80)) << error.message;
}

// Tables of many sequences need more page-locked memory than a new cache has.
TEST_F(DeviceCache, PageLockedMemoryMayFail) {
  think_plan *wide = nullptr;
  problem.kv_heads = 1;
  problem.max_batch = 64;
  ASSERT_EQ(THINK_OK, think_plan_create(context, &problem, &wide, &error)) << error.message;
  settings.sequences = 64;
  settings.layers = 1;
  settings.slab_bytes = 24 << 20;
  used = (used + 255) / 256 * 256;
  settings.slab = take<char>(settings.slab_bytes);
  calls->no_host_memory = 2;
  refused(THINK_E_MEMORY, "no memory", settings);
  calls->no_host_memory = 0;
  ASSERT_EQ(THINK_OK, think_cache_create(wide, &settings, &cache, &error)) << error.message;
  std::vector<int32_t> sequences, counts(40, 1);
  for (int32_t sequence = 0; sequence < 40; ++sequence) sequences.push_back(sequence);
  counts[7] = 4000;
  const int64_t allocated = usage(-1).allocated_bytes;
  calls->no_host_memory = 2;
  EXPECT_EQ(THINK_E_MEMORY, step(sequences, counts));
  EXPECT_EQ(0, usage(-1).tokens);
  calls->no_host_memory = 0;
  calls->no_host_memory = 700;
  EXPECT_EQ(THINK_E_DEVICE, step(sequences, counts));
  calls->no_host_memory = 0;
  EXPECT_EQ(THINK_OK, step(sequences, counts)) << error.message;
  EXPECT_EQ(4039, usage(-1).tokens);
  EXPECT_GT(usage(-1).allocated_bytes, allocated) << "page-locked memory counts";
  think_cache_destroy(cache);
  cache = nullptr;
  think_plan_destroy(wide);
}

}  // namespace
