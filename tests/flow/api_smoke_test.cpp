// The shortest way through the public ABI, as a host writes it: score, prune, attend. And what a host relies on around it: threads, hooks, life times,
// the description of a plan, DLPack, and errors that leave outputs alone.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <think.h>
#include <think/dlpack.h>
#include <unistd.h>

#include <atomic>
#include <clocale>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int32_t kHeads = 2, kGroup = 2, kChannels = 64, kTokens = 300, kMoved = 256, kSinks = 4;

#define ASSERT_OK(call)                         \
  do {                                          \
    think_error error = THINK_ERROR_INIT;       \
    ASSERT_EQ(THINK_OK, call) << error.message; \
  } while (0)

think_problem small_problem() {
  think_problem problem = THINK_PROBLEM_INIT;
  problem.query_heads = kHeads * kGroup;
  problem.kv_heads = kHeads;
  problem.key_channels = kChannels;
  problem.cache_dtype = THINK_F32;
  problem.max_queries = 4;
  problem.max_tokens = 1024;
  return problem;
}

struct FreeMemory {
  void operator()(void *memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<char, FreeMemory>;
Memory aligned_memory(int64_t bytes) {
  bytes = (bytes + 63) / 64 * 64 + 64;
  char *memory = static_cast<char *>(std::aligned_alloc(64, static_cast<size_t>(bytes)));
  std::memset(memory, 0, static_cast<size_t>(bytes));
  return Memory(memory);
}

think_tensor tensor_of(std::vector<float> &rows, int64_t heads, int64_t tokens) {
  think_tensor tensor = THINK_TENSOR_INIT;
  tensor.data = rows.data();
  tensor.dtype = THINK_F32;
  const int64_t extent[4] = {1, heads, tokens, kChannels}, stride[4] = {heads * tokens * kChannels, tokens * kChannels, kChannels, 1};
  std::memcpy(tensor.extent, extent, sizeof extent);
  std::memcpy(tensor.stride, stride, sizeof stride);
  return tensor;
}

// One sequence, its rows [head][token][channel] and everything that a host keeps of it.
class Host {
 public:
  explicit Host(const think_plan *plan) : plan_(plan) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    query_.resize(kHeads * kGroup * kTokens * kChannels);
    key_.resize(kHeads * kTokens * kChannels);
    value_.resize(key_.size());
    for (float &x : query_) x = normal(random);
    for (float &x : value_) x = normal(random);
    // Channels of different sizes that depend on each other.
    for (size_t i = 0; i < key_.size(); ++i) {
      const size_t c = i % kChannels;
      key_[i] = normal(random) * 0.3f + (c >= 8 ? 0.6f * key_[i - 8] : 0) + (c % 3 == 0 ? 1.0f : 0);
    }
    key_stored_ = aligned_memory(int64_t{kHeads} * kMoved * kChannels * 4);
    value_stored_ = aligned_memory(int64_t{kHeads} * kMoved * kChannels * 4);
  }

  think_segment dense(int32_t *first, int32_t *length) {
    think_segment segment = THINK_SEGMENT_INIT;
    segment.key_dtype = segment.value_dtype = THINK_F32;
    segment.key = key_.data();
    segment.value = value_.data();
    for (int64_t *stride : {segment.key_stride, segment.value_stride}) {
      stride[1] = kTokens * kChannels * 4;
      stride[2] = kChannels * 4;
    }
    segment.first = first;
    segment.lengths = length;
    return segment;
  }

  void prune(int32_t mode, int32_t key_kept, int32_t value_kept) {
    int64_t bytes = 0;
    ASSERT_OK(think_score_state_size(plan_, 1, &bytes, &error));
    state_ = aligned_memory(bytes);
    think_launch launch = launch_for(THINK_STAGE_SCORE);
    ASSERT_OK(think_score_reset(plan_, state_.get(), nullptr, nullptr, &error));
    const think_tensor query = tensor_of(query_, kHeads * kGroup, kTokens), key = tensor_of(key_, kHeads, kTokens);
    ASSERT_OK(think_score_update(plan_, &query, &key, nullptr, state_.get(), &launch, &error));
    for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
      ASSERT_OK(think_basis_size(plan_, side, 1, &bytes, nullptr, &error));
      basis_memory_[side] = aligned_memory(bytes);
      ASSERT_OK(think_basis_bind(plan_, side, 1, basis_memory_[side].get(), bytes, &basis_[side], &error));
    }
    think_prune_options options = THINK_PRUNE_OPTIONS_INIT;
    options.mode = mode;
    options.key_kept = key_kept;
    options.value_kept = value_kept;
    options.dense_limit = -1;
    think_segment source = dense(nullptr, &all_);
    launch = launch_for(THINK_STAGE_PRUNE);
    mask_.assign(kHeads * kChannels, 9);
    think_segment destination = compact();
    ASSERT_OK(think_prune(plan_, state_.get(), &source, &destination, nullptr, &options, mask_.data(), &launch, &error));
    think_prune_result result = THINK_PRUNE_RESULT_INIT;
    think_format format = THINK_FORMAT_INIT;
    ASSERT_OK(think_prune_preview(plan_, &format, kTokens, &options, &result, &error));
    EXPECT_EQ(kMoved, result.rows);
    EXPECT_EQ(kSinks, result.first);
    int64_t total[2] = {};
    for (int head = 0; head < kHeads; ++head) {
      for (int side = 0; side < 2; ++side) total[side] += basis_[side].kept[head];
    }
    EXPECT_EQ(result.key_total, total[0]);
    EXPECT_EQ(result.value_total, total[1]);
  }

  think_segment compact() {
    think_segment segment = THINK_SEGMENT_INIT;
    segment.key_layout = THINK_TILES;
    segment.key_dtype = segment.value_dtype = THINK_F32;
    segment.key = key_stored_.get();
    segment.value = value_stored_.get();
    segment.page_tokens = kMoved;
    segment.key_head_offset = key_offset_;
    segment.value_head_offset = value_offset_;
    segment.lengths = &moved_;
    segment.key_basis = &basis_[THINK_KEYS];
    segment.value_basis = &basis_[THINK_VALUES];
    return segment;
  }

  // The last four queries over sinks, compact rows and the causal rest.
  std::vector<float> attend(int32_t slices = 1) {
    std::vector<float> last;
    for (int head = 0; head < kHeads * kGroup; ++head) {
      const float *row = &query_[(head * kTokens + kTokens - 4) * kChannels];
      last.insert(last.end(), row, row + 4 * kChannels);
    }
    std::vector<float> out(last.size(), -7);
    const think_tensor query = tensor_of(last, kHeads * kGroup, 4), output = tensor_of(out, kHeads * kGroup, 4);
    int32_t rest_first = kSinks + kMoved, rest = kTokens - rest_first, sinks = kSinks;
    think_segment segments[3] = {dense(nullptr, &sinks), compact(), dense(&rest_first, &rest)};
    segments[2].flags = THINK_SEGMENT_CAUSAL;
    think_launch launch = launch_for(THINK_STAGE_ATTEND);
    launch.slices = slices;
    std::vector<std::thread> threads;
    std::atomic<int> failures{0};
    const auto run = [&](int32_t slice) {
      think_launch own = launch;
      own.slice = slice;
      if (think_attend(plan_, &query, nullptr, segments, 3, nullptr, &output, nullptr, &own, nullptr) != THINK_OK) ++failures;
    };
    for (int32_t slice = 1; slice < slices; ++slice) threads.emplace_back(run, slice);
    run(0);
    for (std::thread &thread : threads) thread.join();
    EXPECT_EQ(0, failures);
    return out;
  }

  // The same in double precision, on rows that are written out in full: kept channels as stored, dropped ones as the basis says.
  std::vector<double> expected() const {
    std::vector<double> full[2] = {{key_.begin(), key_.end()}, {value_.begin(), value_.end()}};
    for (int side = 0; side < 2; ++side) {
      for (int head = 0; head < kHeads; ++head) {
        for (int t = kSinks; t < kSinks + kMoved; ++t) rebuild(basis_[side], head, &full[side][(head * kTokens + t) * kChannels]);
      }
    }
    std::vector<double> out;
    for (int head = 0; head < kHeads * kGroup; ++head) {
      for (int i = 0; i < 4; ++i) {
        const float *q = &query_[(head * kTokens + kTokens - 4 + i) * kChannels];
        const int rows = kTokens - 3 + i;
        std::vector<double> weight(rows), sum(kChannels);
        double mass = 0;
        for (int t = 0; t < rows; ++t) {
          double z = 0;
          for (int c = 0; c < kChannels; ++c) z += q[c] * full[0][(head / kGroup * kTokens + t) * kChannels + c];
          mass += weight[t] = std::exp(z / 8);
        }
        for (int t = 0; t < rows; ++t) {
          for (int c = 0; c < kChannels; ++c) sum[c] += weight[t] / mass * full[1][(head / kGroup * kTokens + t) * kChannels + c];
        }
        out.insert(out.end(), sum.begin(), sum.end());
      }
    }
    return out;
  }

  think_launch launch_for(int32_t stage) {
    int64_t bytes = 0;
    EXPECT_EQ(THINK_OK, think_workspace_size(plan_, stage, nullptr, &bytes, nullptr, nullptr));
    Memory &memory = workspace_[stage];
    if (!memory) memory = aligned_memory(bytes);
    think_launch launch = THINK_LAUNCH_INIT;
    launch.workspace = memory.get();
    launch.workspace_bytes = bytes;
    launch.flags = THINK_LAUNCH_CHECK;
    return launch;
  }

  const think_basis &basis(int side) const { return basis_[side]; }
  const std::vector<uint8_t> &mask() const { return mask_; }

 private:
  static double half(uint16_t bits) {
    const double sign = bits >> 15 ? -1 : 1, fraction = bits & 0x3ff;
    const int exponent = bits >> 10 & 31;
    return sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
  }

  static void rebuild(const think_basis &basis, int head, double *row) {
    const int32_t *index = basis.index + head * kChannels, kept = basis.kept[head];
    const int64_t block = basis.weight_offset[head];
    for (int32_t p = kept; p < kChannels; ++p) {
      double sum = block < 0 ? 0 : basis.offset[head * kChannels + p];
      const uint16_t *weight = reinterpret_cast<const uint16_t *>(static_cast<char *>(basis.weight) + block) + (p - kept) * ((kept + 7) / 8 * 8);
      for (int32_t i = 0; block >= 0 && i < kept; ++i) sum += half(weight[i]) * row[index[i]];
      row[index[p]] = sum;
    }
  }

  const think_plan *plan_;
  std::vector<float> query_, key_, value_;
  Memory state_, key_stored_, value_stored_, basis_memory_[2];
  std::map<int32_t, Memory> workspace_;
  think_basis basis_[2] = {THINK_BASIS_INIT, THINK_BASIS_INIT};
  int64_t key_offset_[kHeads] = {}, value_offset_[kHeads] = {};
  int32_t all_ = kTokens, moved_ = kMoved;
  std::vector<uint8_t> mask_;
};

void expect_close(const std::vector<double> &expected, const std::vector<float> &found) {
  ASSERT_EQ(expected.size(), found.size());
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(expected[i], found[i], 2e-5) << i;
}

struct World {
  think_context *context = nullptr;
  think_plan *plan = nullptr;
  explicit World(const think_context_options *options = nullptr) {
    think_error error = THINK_ERROR_INIT;
    const think_problem problem = small_problem();
    EXPECT_EQ(THINK_OK, think_context_create(options, &context, &error)) << error.message;
    EXPECT_EQ(THINK_OK, think_plan_create(context, &problem, &plan, &error)) << error.message;
    think_context_destroy(context);  // the plan keeps it
  }
  ~World() { think_plan_destroy(plan); }
};

TEST(Api, PrunedEqualsDenseOnRebuiltRows) {
  World world;
  Host host(world.plan);
  host.prune(THINK_MODE_REGRESSED, 0, 40);
  EXPECT_EQ(kHeads * kChannels / 2, host.basis(THINK_KEYS).kept[0] + host.basis(THINK_KEYS).kept[1]);
  EXPECT_GE(host.basis(THINK_KEYS).weight_offset[1], 0);
  expect_close(host.expected(), host.attend());
}

TEST(Api, PaperModeEqualsDenseOnZeroedChannels) {
  World world;
  Host host(world.plan);
  host.prune(THINK_MODE_CHANNELS, think_kept_channels(kChannels, 0.4), 40);
  int marked = 0;
  for (const uint8_t kept : host.mask()) marked += kept;
  EXPECT_EQ(kHeads * 39, marked);
  EXPECT_EQ(-1, host.basis(THINK_KEYS).weight_offset[0]);
  expect_close(host.expected(), host.attend());
}

TEST(Api, SlicesAndThreadsGiveTheSameBits) {
  World alone;
  Host reference(alone.plan);
  reference.prune(THINK_MODE_REGRESSED, 24, 24);
  const std::vector<float> expected = reference.attend();
  EXPECT_EQ(expected, reference.attend(3));
  for (const int32_t threads : {2, 5, -1}) {
    think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
    options.threads = threads;
    World world(&options);
    Host host(world.plan);
    host.prune(THINK_MODE_REGRESSED, 24, 24);
    EXPECT_EQ(expected, host.attend()) << threads << " threads";
    EXPECT_EQ(expected, host.attend(2)) << threads << " threads";
  }
}

// What a host hands to the library, with counts.
struct Hooks {
  std::atomic<int64_t> loops{0}, blocks{0}, bytes{0}, lines{0};
  int64_t allowed = INT64_MAX;  // allocations until there is no memory

  static void parallel_for(void *user, int64_t count, think_task task, void *arg) {
    ++static_cast<Hooks *>(user)->loops;
    for (int64_t i = count - 1; i >= 0; --i) task(arg, i);
  }
  static void *allocate(void *user, size_t bytes, size_t alignment) {
    Hooks &hooks = *static_cast<Hooks *>(user);
    if (hooks.allowed-- <= 0) return nullptr;
    ++hooks.blocks;
    hooks.bytes += static_cast<int64_t>(bytes);
    return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  }
  static void deallocate(void *user, void *memory, size_t bytes, size_t) {
    Hooks &hooks = *static_cast<Hooks *>(user);
    --hooks.blocks;
    hooks.bytes -= static_cast<int64_t>(bytes);
    std::free(memory);
  }
  static void log(void *user, int32_t, const char *) { ++static_cast<Hooks *>(user)->lines; }

  think_context_options options() {
    think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
    options.parallel_for = parallel_for;
    options.allocate = allocate;
    options.deallocate = deallocate;
    options.log = log;
    options.threads = 3;
    options.user = this;
    return options;
  }
};

TEST(Api, HooksOfTheHost) {
  World alone;
  Host reference(alone.plan);
  reference.prune(THINK_MODE_REGRESSED, 0, 0);
  Hooks hooks;
  {
    const think_context_options options = hooks.options();
    World world(&options);
    Host host(world.plan);
    const int64_t blocks = hooks.blocks;
    EXPECT_GE(blocks, 2);
    host.prune(THINK_MODE_REGRESSED, 0, 0);
    EXPECT_EQ(reference.attend(), host.attend());
    EXPECT_GT(hooks.loops, 0);
    EXPECT_GT(hooks.lines, 0);
    EXPECT_EQ(blocks, hooks.blocks) << "run calls do not allocate";
  }
  EXPECT_EQ(0, hooks.blocks);
  EXPECT_EQ(0, hooks.bytes);
}

TEST(Api, EveryAllocationMayFail) {
  for (const bool own_threads : {false, true}) {
    int64_t needed = -1;
    for (int64_t allowed = 0; needed < 0; ++allowed) {
      Hooks hooks;
      hooks.allowed = allowed;
      think_context_options options = hooks.options();
      if (own_threads) options.parallel_for = nullptr;
      think_context *context = nullptr;
      think_plan *plan = nullptr;
      think_error error = THINK_ERROR_INIT;
      const think_problem problem = small_problem();
      think_status status = think_context_create(&options, &context, &error);
      if (status == THINK_OK) status = think_plan_create(context, &problem, &plan, &error);
      if (status == THINK_OK) {
        needed = allowed;
      } else {
        EXPECT_EQ(THINK_E_MEMORY, status);
        EXPECT_STRNE("", error.message);
        EXPECT_EQ(nullptr, plan);
      }
      think_plan_destroy(plan);
      think_context_destroy(context);
      EXPECT_EQ(0, hooks.blocks) << allowed << " allocations allowed";
    }
    EXPECT_GE(needed, 2);
  }
}

TEST(Api, AForkedChildWorksAlone) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "the thread sanitizer does not follow threads that a forked child starts";
#endif
  think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
  options.threads = 4;
  World world(&options);
  Host host(world.plan);
  host.prune(THINK_MODE_REGRESSED, 0, 0);
  const std::vector<float> expected = host.attend();
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);  // a child that hangs is ended by the signal, which the parent sees
    const bool same = host.attend() == expected;
    think_plan_destroy(world.plan);  // nobody to join
    World fresh(&options);           // threads of its own
    Host again(fresh.plan);
    again.prune(THINK_MODE_REGRESSED, 0, 0);
    _exit(same && again.attend() == expected ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(child, waitpid(child, &status, 0));
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_EQ(expected, host.attend());
}

TEST(Api, DescriptionIsTheSameInEveryLocale) {
  World world;
  size_t needed = 0;
  ASSERT_OK(think_plan_describe(world.plan, nullptr, 0, &needed, &error));
  std::string whole(needed, 'x'), cut(17, 'x');
  ASSERT_OK(think_plan_describe(world.plan, whole.data(), whole.size(), nullptr, &error));
  EXPECT_EQ(needed, std::strlen(whole.c_str()) + 1);
  EXPECT_NE(std::string::npos, whole.find("\"scale\":0.125,"));
  EXPECT_NE(std::string::npos, whole.find("\"attend\":{\"kernel\":"));
  ASSERT_OK(think_plan_describe(world.plan, cut.data(), cut.size(), &needed, &error));
  EXPECT_EQ(whole.substr(0, 16), std::string(cut.c_str()));
  EXPECT_EQ(whole.size(), needed);
  // A locale with a decimal comma, where the machine has one.
  for (const char *name : {"de_DE.UTF-8", "fr_FR.UTF-8"}) {
    if (!std::setlocale(LC_ALL, name)) continue;
    std::string again(needed, 'x');
    EXPECT_EQ(THINK_OK, think_plan_describe(world.plan, again.data(), again.size(), nullptr, nullptr));
    std::setlocale(LC_ALL, "C");
    EXPECT_EQ(whole, again) << name;
    break;
  }
}

TEST(Api, ErrorsNameThePathAndTouchNothing) {
  World world;
  Host host(world.plan);
  host.prune(THINK_MODE_REGRESSED, 0, 0);
  std::vector<float> rows(kHeads * kGroup * kChannels, 1), out(rows.size(), -7);
  const think_tensor query = tensor_of(rows, kHeads * kGroup, 1), output = tensor_of(out, kHeads * kGroup, 1);
  int32_t length = 10;
  think_segment segments[2] = {host.dense(nullptr, &length), host.compact()};
  think_launch launch = host.launch_for(THINK_STAGE_ATTEND);
  const auto attend = [&](think_error *error) {
    return think_attend(world.plan, &query, nullptr, segments, 2, nullptr, &output, nullptr, &launch, error);
  };
  const auto expect = [&](think_status status, int32_t argument, const char *message) {
    think_error error = THINK_ERROR_INIT;
    EXPECT_EQ(status, attend(&error));
    EXPECT_EQ(status, error.code);
    EXPECT_EQ(argument, error.argument);
    EXPECT_NE(nullptr, std::strstr(error.message, message)) << error.message;
    EXPECT_EQ(std::vector<float>(out.size(), -7), out);
  };
  think_basis basis = host.basis(THINK_KEYS);
  basis.channels = 72;
  segments[1].key_basis = &basis;
  expect(THINK_E_ARGUMENT, 4, "segments[1].key_basis->channels: expected 64 (key_channels of the plan), got 72");
  basis = host.basis(THINK_KEYS);
  basis.struct_size = 8;
  expect(THINK_E_ARGUMENT, 4, "segments[1].key_basis->struct_size: expected 64");
  segments[1].key_basis = &host.basis(THINK_KEYS);
  length = -1;
  expect(THINK_E_ARGUMENT, 4, "segments[0].lengths[0]: expected 0 .. 1024 (max_tokens of the plan), got -1");
  length = 1024;
  expect(THINK_E_ARGUMENT, 4, "segments: expected at most 1024 tokens (max_tokens of the plan) in sequence 0, got 1280");
  length = 10;
  segments[0].flags = segments[1].flags = THINK_SEGMENT_CAUSAL;
  expect(THINK_E_ARGUMENT, 4, "segments[1].flags: expected one causal segment at most");
  segments[0].flags = segments[1].flags = 0;
  segments[1].value_layout = THINK_TILES;
  expect(THINK_E_UNSUPPORTED, 4, "segments[1].value_layout: expected 0 (rows)");
  segments[1].value_layout = THINK_ROWS;
  launch.workspace_bytes = 1;
  expect(THINK_E_WORKSPACE, 9, "launch->workspace_bytes: expected at least ");
  // A record that is too small to be one is left alone.
  think_error small = THINK_ERROR_INIT;
  small.struct_size = 24;
  EXPECT_EQ(THINK_E_WORKSPACE, attend(&small));
  EXPECT_EQ(THINK_OK, small.code);
  launch = host.launch_for(THINK_STAGE_ATTEND);
  ASSERT_OK(attend(&error));
}

// DLPack's own struct, as a framework lays it out.
struct FrameworkTensor {
  void *data;
  int32_t device_type, device_id, ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};

TEST(Api, DlpackTensors) {
  float data[64] = {};
  int64_t shape[4] = {2, 3, 8, 0}, strides[4] = {32, 8, 1, 0};
  FrameworkTensor framework{data, THINK_DEVICE_CPU, 0, 3, 2, 32, 1, shape, nullptr, 16};
  think_tensor tensor = THINK_TENSOR_INIT;
  think_device device = 0;
  const DLTensor *source = reinterpret_cast<const DLTensor *>(&framework);
  ASSERT_OK(think_tensor_from_dlpack(source, &device, &tensor, &error));
  EXPECT_EQ(THINK_DEVICE_CPU, device);
  EXPECT_EQ(data + 4, tensor.data);
  EXPECT_EQ(THINK_F32, tensor.dtype);
  const int64_t extent[4] = {1, 2, 3, 8}, stride[4] = {48, 24, 8, 1};
  EXPECT_EQ(0, std::memcmp(extent, tensor.extent, sizeof extent));
  EXPECT_EQ(0, std::memcmp(stride, tensor.stride, sizeof stride));
  framework.strides = strides;
  ASSERT_OK(think_tensor_from_dlpack(source, nullptr, &tensor, &error));
  EXPECT_EQ(32, tensor.stride[1]);
  const think_tensor before = tensor;
  framework.bits = 64;
  EXPECT_EQ(THINK_E_UNSUPPORTED, think_tensor_from_dlpack(source, nullptr, &tensor, nullptr));
  framework.bits = 32;
  strides[2] = 2;
  EXPECT_EQ(THINK_E_UNSUPPORTED, think_tensor_from_dlpack(source, nullptr, &tensor, nullptr));
  framework.ndim = 2;
  EXPECT_EQ(THINK_E_UNSUPPORTED, think_tensor_from_dlpack(source, nullptr, &tensor, nullptr));
  EXPECT_EQ(0, std::memcmp(&before, &tensor, sizeof tensor));
}

}  // namespace
