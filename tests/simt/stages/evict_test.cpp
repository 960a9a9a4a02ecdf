// The evict stage's CUDA kernels: the choice against the reference's, the masses against double precision, the moves against the CPU's.
#include "kernels/evict/cuda.h"

#include "device.h"
#include "evict_case.h"
#include "kernels/moments/cuda.h"

namespace think {
namespace {

using namespace test;
using namespace test::evict_case;

const cuda::Backend &kernels() {
  static const cuda::Backend table = [] {
    cuda::Backend made{};
    made.mass_stride = moments::cuda::mass_stride;
    made.mass_workspace = moments::cuda::mass_workspace;
    made.mass = moments::cuda::attention_mass;
    made.evict_choose = evict::cuda::choose;
    made.evict_move = evict::cuda::move_rows;
    return made;
  }();
  return table;
}

// ---- the choice, scores given

struct Rule {
  int32_t sinks, recent, kernel, pooling;
};

TEST(EvictOnDevice, ChoosesAsTheReference) {
  constexpr int32_t kTokens[] = {1, 31, 33, 300, 1021};
  constexpr int32_t kBudgets[] = {0, 1, 5, 40, 97, 299, 300, 5000};
  constexpr int32_t kLongest = 1021, kStride = 1100, kUnused = -7;
  std::mt19937 random(1);
  std::vector<std::vector<float>> scores;
  std::vector<int32_t> lengths;
  std::vector<float> score;
  for (const int32_t tokens : kTokens) {
    for (int kind = 0; kind < kKinds; ++kind) {
      scores.push_back(scores_of_kind(kind, tokens, random));
      lengths.push_back(tokens);
      score.insert(score.end(), scores.back().begin(), scores.back().end());
      score.resize(scores.size() * kLongest, -1);
    }
  }
  const int32_t count = static_cast<int32_t>(scores.size());
  int calls = 0;
  for (const Rule &rule : {Rule{0, 0, 1, 0}, Rule{4, 32, 7, THINK_POOL_MAX}, Rule{4, 1, 7, THINK_POOL_MEAN}, Rule{0, 32, 63, THINK_POOL_MAX},
                           Rule{4, INT32_MAX, 1, 0}}) {
    for (int32_t turn = 0; turn < 2; ++turn, ++calls) {
      SCOPED_TRACE("rule " + std::to_string(calls));
      begin(static_cast<uint64_t>(calls));
      std::vector<int32_t> budgets;
      for (int32_t at = 0; at < count; ++at) budgets.push_back(kBudgets[(at + calls) % 8]);
      const Constant<float> device_score("score", score.data(), static_cast<int64_t>(score.size()));
      const Constant<int32_t> device_lengths("lengths", lengths.data(), count), device_budgets("budgets", budgets.data(), count);
      simt::Buffer<float> pooled("pooled", static_cast<size_t>(count) * kLongest);
      simt::Buffer<int32_t> kept("kept", std::vector<int32_t>(static_cast<size_t>(count) * kStride, kUnused)), kept_lengths("lengths", static_cast<size_t>(count));
      evict::Choices choices{};
      choices.shape = make_shape(1, 1, 8, 8);
      choices.source.lengths = device_lengths.device();
      choices.source.lengths_stride[0] = 1;
      choices.batch = {count, nullptr, nullptr, nullptr};
      choices.sequences = count;
      choices.budgets = device_budgets.device();
      choices.sinks = rule.sinks, choices.recent = rule.recent, choices.kernel = rule.kernel, choices.pooling = rule.pooling;
      choices.score = rule.recent == INT32_MAX ? nullptr : const_cast<float *>(device_score.device());
      choices.score_stride = kLongest;
      choices.pooled = pooled.device();
      choices.kept = kept.device();
      choices.kept_stride = kStride;
      choices.lengths = kept_lengths.device();
      ASSERT_RUNS(evict::cuda::load());
      ASSERT_RUNS(evict::cuda::choose(choices, kLongest, nullptr));
      const std::vector<int32_t> got = kept.download(), got_lengths = kept_lengths.download();
      for (int32_t at = 0; at < count; ++at) {
        std::vector<int32_t> want(kStride, kUnused);
        const float *own = choices.score ? scores[at].data() : nullptr;
        const int32_t rows = evict::reference::choose({lengths[at], budgets[at], rule.sinks, rule.recent, rule.pooling, rule.kernel, own, nullptr}, want.data());
        ASSERT_EQ(rows, got_lengths[at]) << lengths[at] << " tokens, budget " << budgets[at];
        ASSERT_EQ(want, std::vector<int32_t>(got.begin() + at * kStride, got.begin() + (at + 1) * kStride))
            << lengths[at] << " tokens, kind " << at % kKinds << ", budget " << budgets[at];
      }
      EXPECT_EQ(0u, simt::machine().total().bank_conflicts);
      EXPECT_EQ(0u, simt::machine().total().atomics);
    }
  }
}

// ---- the whole stage

// A problem on the device; what the host left as NaN stays uninitialised.
class OnDevice {
 public:
  explicit OnDevice(const Problem &problem)
      : query_("query", problem.query.size()), key("key", problem.key.size()), value("value", problem.value.size()),
        lengths_("lengths", problem.lengths.data(), static_cast<int64_t>(problem.lengths.size())),
        first_("first", problem.first.data(), static_cast<int64_t>(problem.first.size())),
        pages_("pages", problem.pages.data(), static_cast<int64_t>(problem.pages.size())), batch_(problem.sequences), source(problem.source),
        batch(batch_.batch), window(problem.window) {
    const auto upload = [](simt::Buffer<char> &buffer, const std::vector<char> &memory, think_dtype dtype) {
      upload_numbers(buffer.device(), memory.data(), static_cast<int64_t>(memory.size()), dtype_bytes(dtype));
    };
    upload(query_, problem.query, problem.options.query_dtype);
    upload(key, problem.key, problem.options.key_dtype);
    upload(value, problem.value, problem.options.value_dtype);
    query_.freeze();
    window.data = query_.device();
    source.key = key.device();
    source.value = value.device();
    source.lengths = lengths_.device();
    source.first = first_.device();
    if (source.pages) source.pages = pages_.device();
  }

 private:
  simt::Buffer<char> query_;

 public:
  simt::Buffer<char> key, value;

 private:
  Constant<int32_t> lengths_, first_, pages_;
  DeviceBatch batch_;

 public:
  think_segment source;
  Batch batch;
  think_tensor window;
};

// The workspace is exactly as large as asked for, and nobody has written it.
Result run(const Problem &problem, EvictCall call, float before, int64_t longest) {
  Result result(problem, call, before);
  OnDevice device(problem);
  simt::Buffer<float> score("score", result.score);
  simt::Buffer<int32_t> kept("kept", result.kept), lengths("lengths", result.lengths);
  simt::Buffer<char> workspace("workspace", static_cast<size_t>(evict_workspace(kernels(), problem.shape, problem.batch, longest)));
  const Constant<int32_t> budgets("budgets", call.budgets, problem.batch * problem.heads);
  call.window_query = device.window;
  call.source = device.source;
  call.batch = device.batch;
  call.budgets = budgets.device();
  call.score = score.device();
  call.score_stride = result.score_stride;
  call.kept = kept.device();
  call.kept_stride = result.kept_stride;
  call.lengths = lengths.device();
  device.key.freeze();
  EXPECT_EQ(0, moments::cuda::load() + evict::cuda::load());
  EXPECT_EQ(0, evict_rows(kernels(), call, longest, workspace.device(), nullptr)) << simt::machine().fault().text();
  EXPECT_EQ(0u, simt::machine().total().bank_conflicts);
  result.score = score.download();
  result.kept = kept.download();
  result.lengths = lengths.download();
  return result;
}

int64_t longest_of(const Problem &problem) { return *std::max_element(problem.lengths.begin(), problem.lengths.end()); }

void run_and_check(const Problem &problem, const EvictCall &call, uint64_t seed, float before = 0.5f) {
  begin(seed);
  check(problem, call, run(problem, call, before, longest_of(problem)), before);
}

TEST(EvictOnDevice, LengthsOfASequence) {
  for (const int32_t tokens : {1, 31, 32, 33, 41, 67, 257}) {
    SCOPED_TRACE(tokens);
    Options options;
    options.lengths = {tokens};
    const Problem problem(make_shape(1, 2, 16, 8), options, static_cast<uint32_t>(tokens));
    EvictCall call = problem.call(0);
    call.budget = tokens % 2 ? 40 : 7;
    run_and_check(problem, call, static_cast<uint64_t>(tokens));
    if (HasFatalFailure()) return;
  }
}

TEST(EvictOnDevice, ShapesAndTypes) {
  const int32_t groups[] = {1, 3, 5, 8, 16, 2, 7};
  int i = 0;
  for (const int32_t channels : {8, 40, 64, 96, 128, 256}) {
    for (const bool same : {false, true}) {  // of one 16-bit type: the logits are products of matrices
      SCOPED_TRACE(std::to_string(channels) + " channels, group " + std::to_string(groups[i]) + (same ? ", one type" : ", types"));
      Options options;
      options.lengths = {100 + 37 * (i % 4)};
      options.query_dtype = kDtypes[same ? 1 + i % 2 : i % 3];
      options.key_dtype = same ? options.query_dtype : kDtypes[(i + 1 + i / 3) % 3];
      options.rows = i % 4 == 3 ? 9 : 32;
      const Problem problem(make_shape(1 + i % 2, groups[i], channels, 16), options, static_cast<uint32_t>(50 + i));
      EvictCall call = problem.call(0);
      call.accumulate = i % 2;
      call.pooling = i % 3 == 0 ? THINK_POOL_MEAN : THINK_POOL_MAX;
      run_and_check(problem, call, static_cast<uint64_t>(i));
      if (HasFatalFailure()) return;
    }
    ++i;
  }
}

TEST(EvictOnDevice, PagesSlotsRaggedHeadsStridesAndBudgetsPerHead) {
  for (int mask = 0; mask < 16; mask += mask % 3 + 1) {
    SCOPED_TRACE(mask);
    Options options = layout_options<Options>(mask);
    options.causal = mask % 3;
    Shape shape = make_shape(3, 2, 16, 24);
    shape.softcap = mask % 2 ? 3.0f : 0.0f;
    const Problem problem(shape, options, static_cast<uint32_t>(20 + mask));
    EvictCall call = problem.call(0);
    call.budget = 60;
    call.sinks = mask % 5;
    std::vector<int32_t> budgets;
    for (int32_t at = 0; at < 15; ++at) budgets.push_back(at * 4);
    if (mask % 2) call.budgets = budgets.data();
    run_and_check(problem, call, static_cast<uint64_t>(mask));
    if (HasFatalFailure()) return;
  }
}

// More sequences than are worked on together, under another seed and with a larger workspace.
TEST(EvictOnDevice, EverySeedAndWorkspaceGivesTheSameBits) {
  Options options;
  options.lengths = {50, 40};
  options.rows = 4;
  const Problem problem(make_shape(33, 1, 8, 8, 4), options, 6);
  ASSERT_EQ(device_wave(problem.shape, 2), 1);
  const EvictCall call = problem.call(0);
  begin(0);
  const Result once = run(problem, call, 0, 50);
  check(problem, call, once, 0);
  begin(1);
  const Result again = run(problem, call, 0, 3000);
  EXPECT_EQ(0, std::memcmp(once.score.data(), again.score.data(), once.score.size() * sizeof(float)));
  EXPECT_EQ(once.kept, again.kept);
  EXPECT_EQ(once.lengths, again.lengths);
}

TEST(EvictOnDevice, DamagedKeysGiveAList) {
  for (const think_dtype query_dtype : {THINK_F32, THINK_F16}) {
    Options options;
    options.lengths = {150};
    options.query_dtype = query_dtype;
    const Problem problem(make_shape(1, 2, 16, 16), options, 3);
    store_element(row_address(side_view(problem.source, Side::keys, problem.shape, problem.sequences, 0, 0), 60), problem.source.key_dtype, 2, INFINITY);
    begin(3);
    const Result result = run(problem, problem.call(0), 0, 150);
    ASSERT_EQ(result.lengths[0], 40);
    for (int32_t i = 0; i < 40; ++i) EXPECT_TRUE(result.kept[i] > (i ? result.kept[i - 1] : -1) && result.kept[i] < 150);
  }
}

// What the arrays of the device say cannot be checked, so it must not lead out of memory.
TEST(EvictOnDevice, WrongLengthsAndBudgetsStayInside) {
  Options options;
  options.lengths = {100, 100};
  Problem problem(make_shape(1, 1, 16, 16), options, 8);
  const std::vector<int32_t> budgets = {1 << 30, -5};
  EvictCall call = problem.call(0);
  call.budgets = budgets.data();
  begin(8);
  const Result result = run(problem, call, 0, 100);
  EXPECT_EQ(result.lengths, (std::vector<int32_t>{42, 0})) << "lists end where their room ends";
  problem.lengths = {1 << 30, -3};
  std::vector<int32_t> list(2 * 100, 0);
  std::iota(list.begin(), list.end(), 0);
  begin(9);
  OnDevice device(problem);
  const Constant<int32_t> kept("kept", list.data(), 200);
  const evict::Move move{problem.shape, device.source, device.source, device.batch, kept.device(), 100, nullptr, 0};
  ASSERT_RUNS(evict::cuda::load());
  ASSERT_RUNS(evict::cuda::move_rows(move, 100, 100, nullptr));
}

// ---- the move

// Bytes of `memory` after a move, on the device and on the CPU.
TEST(EvictOnDevice, MovesAsTheCpu) {
  for (int mask = 0; mask < 16; mask += 1 + mask % 2) {
    for (const bool in_place : {false, true}) {
      SCOPED_TRACE(std::to_string(mask) + (in_place ? " in place" : ""));
      Options options = layout_options<Options>(mask);
      options.key_dtype = kDtypes[mask % 3];
      options.value_dtype = kDtypes[(mask + 1) % 3];
      if (mask == 5) options.lengths[2] = 1171;  // several steps, and runs of rows
      Problem problem(make_shape(2, 1, mask == 5 ? 256 : 16, 24), options, static_cast<uint32_t>(mask));
      Options other = options;
      other.pages = !options.pages;
      other.token_major = !options.token_major;
      if (mask % 4 == 3) other.key_dtype = kDtypes[(mask + 1) % 3];
      Problem target(problem.shape, other, 99);
      const int32_t count = problem.batch * problem.heads;
      const int64_t stride = 1200;
      std::mt19937 random(static_cast<uint32_t>(mask));
      std::vector<int32_t> kept(static_cast<size_t>(count * stride), -7), lengths(static_cast<size_t>(count));
      for (int32_t at = 0; at < count; ++at) {
        for (int32_t row = 0; row < problem.lengths[at]; ++row) {
          if (random() % 3) kept[at * stride + lengths[at]++] = row;
        }
      }
      std::vector<float> score(static_cast<size_t>(problem.slots * problem.heads * stride));
      for (float &x : score) x = static_cast<float>(random() % 1000);
      const std::vector<int32_t> none(problem.lengths.size(), 0);
      const bool to_front = in_place && mask % 3 == 0;

      begin(static_cast<uint64_t>(mask));
      OnDevice from(problem), to(target);
      const Constant<int32_t> device_kept("kept", kept.data(), static_cast<int64_t>(kept.size())), device_lengths("lengths", lengths.data(), count),
          device_first("first", none.data(), static_cast<int64_t>(none.size()));
      simt::Buffer<float> device_score("score", score);
      evict::Move move{problem.shape,       from.source, in_place ? from.source : to.source, from.batch, device_kept.device(), stride,
                       device_score.device(), stride};
      move.destination.lengths = device_lengths.device();
      if (to_front) move.destination.first = device_first.device();
      ASSERT_RUNS(evict::cuda::load());
      ASSERT_RUNS(evict::cuda::move_rows(move, *std::max_element(lengths.begin(), lengths.end()), longest_of(problem), nullptr));

      evict::Move on_host{problem.shape, problem.source, in_place ? problem.source : target.source, problem.sequences, kept.data(), stride,
                          score.data(),  stride};
      on_host.destination.lengths = lengths.data();
      if (to_front) on_host.destination.first = none.data();
      Threads pool{1};
      evict::move_rows(on_host, *std::max_element(lengths.begin(), lengths.end()), pool.parallel());
      EXPECT_TRUE((in_place ? from : to).key.download() == (in_place ? problem : target).key);
      EXPECT_TRUE((in_place ? from : to).value.download() == (in_place ? problem : target).value);
      EXPECT_EQ(score, device_score.download());
      if (HasFailure()) return;
    }
  }
}

// ---- bytes

TEST(EvictOnDevice, MovesTheBytesOfItsModel) {
  constexpr int64_t kTokens = 4100, kBudget = 1024, kHeads = 2, kRow = 128 * 2;
  Options options;
  options.lengths = {kTokens};
  options.value_dtype = THINK_F16;
  const Problem problem(make_shape(kHeads, 1, 128, 128), options, 10);
  begin(10);
  OnDevice device(problem);
  std::mt19937 random(3);
  std::vector<float> score;
  for (int64_t i = 0; i < kHeads * kTokens; ++i) score.push_back(std::exp(std::normal_distribution<float>()(random)));
  const Constant<float> device_score("score", score.data(), kHeads * kTokens);
  simt::Buffer<float> pooled("pooled", kHeads * kTokens);
  simt::Buffer<int32_t> kept("kept", kHeads * kBudget), lengths("lengths", kHeads);
  evict::Choices choices{};
  choices.shape = problem.shape;
  choices.source = device.source;
  choices.batch = device.batch;
  choices.sequences = 1;
  choices.budget = kBudget;
  choices.recent = 32;
  choices.kernel = 7;
  choices.score = const_cast<float *>(device_score.device());
  choices.score_stride = kTokens;
  choices.pooled = pooled.device();
  choices.kept = kept.device();
  choices.kept_stride = kBudget;
  choices.lengths = lengths.device();
  ASSERT_RUNS(evict::cuda::load());
  ASSERT_RUNS(evict::cuda::choose(choices, kTokens, nullptr));
  // Seven neighbours of each row (of the same line of L1), the length, a histogram for each of eight digits, a count and the list.
  const double rows = kTokens - 32, reads = kHeads * 4 * rows * (7 + 1 + 8 + 2), writes = kHeads * 4 * (rows + kBudget);
  simt::Counters counters = simt::machine().total();
  report_traffic("evict, choice of 1,024 of 4,100 rows, 2 heads", counters, reads, writes);
  EXPECT_LE(static_cast<double>(counters.global_read_bytes), 1.02 * reads);
  EXPECT_LE(static_cast<double>(counters.global_write_bytes), 1.02 * writes);
  EXPECT_EQ(0u, counters.bank_conflicts);

  evict::Move move{problem.shape, device.source, device.source, device.batch, kept.device(), kBudget, nullptr, 0};
  move.destination.lengths = lengths.device();
  move.destination.lengths_stride[0] = kHeads;
  move.destination.lengths_stride[1] = 1;
  const uint64_t read_before = counters.global_read_bytes, written_before = counters.global_write_bytes;
  ASSERT_RUNS(evict::cuda::move_rows(move, kBudget, kTokens, nullptr));
  counters = simt::machine().total();
  const double bytes = 2 * kHeads * kBudget * kRow, index = 2 * kHeads * kBudget * 4 * (kRow / 16);  // every 16 bytes look up their row, from L1
  const double read = static_cast<double>(counters.global_read_bytes - read_before);
  EXPECT_LE(read, 1.02 * (bytes + index));
  EXPECT_LE(static_cast<double>(counters.global_write_bytes - written_before), 1.02 * bytes);
}

}  // namespace
}  // namespace think
