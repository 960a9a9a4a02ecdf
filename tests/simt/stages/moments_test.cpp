// The moments stage's CUDA kernels against the double-precision reference, with every access checked.
#include "kernels/moments/cuda.h"

#include "device.h"
#include "moments_case.h"

namespace think {
namespace {

using namespace test;
using namespace test::moments_case;

// A problem on the device. What the host left as NaN stays uninitialised: gaps, other slots and unused pages must not be read.
class OnDevice {
 public:
  explicit OnDevice(const Problem &problem)
      : query_("query", problem.query.size()), key_("key", problem.key.size()), value_("value", problem.value.size()),
        moments("moments", problem.moments.size()), lengths_("lengths", problem.lengths.data(), problem.lengths.size()),
        first_("first", problem.first.data(), problem.first.size()), pages_("pages", problem.pages.data(), problem.pages.size()),
        batch_(problem.arguments.batch), arguments(problem.arguments) {
    const auto upload = [](simt::Buffer<char> &buffer, const std::vector<char> &memory, think_dtype dtype) {
      upload_numbers(buffer.device(), memory.data(), static_cast<int64_t>(memory.size()), dtype_bytes(dtype));
      buffer.freeze();
    };
    upload(query_, problem.query, problem.options.query_dtype);
    upload(key_, problem.key, problem.options.key_dtype);
    if (problem.options.values) upload(value_, problem.value, problem.options.value_dtype);
    const auto begin_of = [&](simt::Buffer<char> &buffer, think_dtype dtype) { return buffer.device() + problem.options.shift * dtype_bytes(dtype); };
    arguments.window_query.data = begin_of(query_, problem.options.query_dtype);
    think_segment &source = arguments.source;
    source.key = begin_of(key_, problem.options.key_dtype);
    source.value = problem.options.values ? begin_of(value_, problem.options.value_dtype) : nullptr;
    source.lengths = lengths_.device();
    if (source.first) source.first = first_.device();
    if (source.pages) source.pages = pages_.device();
    arguments.batch = batch_.batch;
    arguments.moments = moments.device();
  }

  // The workspace is exactly as large as asked for, and nobody has written it.
  void measure(int64_t longest) {
    simt::Buffer<char> workspace("workspace", static_cast<size_t>(moments::cuda::workspace(arguments.shape, arguments.batch.count, longest)));
    ASSERT_RUNS(moments::cuda::load());
    ASSERT_RUNS(moments::cuda::measure(arguments, arguments.batch.slot, longest, workspace.device(), nullptr));
  }

 private:
  simt::Buffer<char> query_, key_, value_;

 public:
  simt::Buffer<char> moments;
  uint64_t key_bytes() const { return key_.read_bytes(); }
  uint64_t value_bytes() const { return value_.read_bytes(); }
  uint64_t query_bytes() const { return query_.read_bytes(); }

 private:
  Constant<int32_t> lengths_, first_, pages_;
  DeviceBatch batch_;

 public:
  moments::Arguments arguments;
};

int64_t longest_of(const Problem &problem) { return *std::max_element(problem.options.lengths.begin(), problem.options.lengths.end()); }

void check(const Shape &shape, const Options &options, uint32_t seed, double tolerance = 3e-5) {
  Problem problem(shape, options, seed);
  begin(seed);
  OnDevice device(problem);
  device.measure(longest_of(problem));
  if (testing::Test::HasFatalFailure()) return;
  problem.moments = device.moments.download();
  compare_all(problem, expected_of_all(problem), tolerance);
  EXPECT_EQ(0u, simt::machine().total().bank_conflicts);
  EXPECT_EQ(0u, simt::machine().total().atomics);
}

// Queries, keys and values of one 16-bit type, whose logits are products of matrices; or of types that are not all the same.
void set_types(Options &options, bool same, int i) {
  options.query_dtype = kDtypes[same ? 1 + i % 2 : i % 3];
  options.key_dtype = same ? options.query_dtype : kDtypes[(i + 1 + i / 3) % 3];
  options.value_dtype = same ? options.query_dtype : kDtypes[(i / 3) % 3];
}

TEST(MomentsOnDevice, LengthsOfASequence) {
  for (const int32_t tokens : {1, 31, 33, 67, 68, 69, 100, 133, 257}) {
    for (const bool same : {false, true}) {
      SCOPED_TRACE(std::to_string(tokens) + (same ? ", one type" : ", types"));
      Options options;
      options.lengths = {tokens};
      set_types(options, same, same ? tokens : 6);
      check(make_shape(2, 3, 64, 64), options, tokens);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(MomentsOnDevice, ShapesAndTypes) {
  const int32_t groups[] = {1, 2, 3, 4, 5, 7, 8, 16};
  int i = 0;
  for (const int32_t channels : {8, 16, 24, 40, 64, 72, 80, 96, 128, 256}) {
    for (const bool same : {false, true}) {
      SCOPED_TRACE(std::to_string(channels) + " channels, group " + std::to_string(groups[i % 8]) + (same ? ", one type" : ", types"));
      Options options;
      options.lengths = {100 + 37 * (i % 4)};
      set_types(options, same, i);
      options.rows = i % 4 ? 32 : 17;
      check(make_shape(1 + i % 2, groups[i % 8], channels, i % 3 ? channels : 72), options, 100 + i);
      if (HasFatalFailure()) return;
    }
    ++i;
  }
}

// As many columns as a block takes at a time and one more, or fewer; as many channels of keys as it takes at a time and some more; values that are wider
// than keys by so much that a block has one tile of rows.
TEST(MomentsOnDevice, SizesOfMatrices) {
  struct Size {
    int32_t group, rows, key_channels, value_channels;
  };
  const Size sizes[] = {{1, 1, 64, 64}, {4, 32, 64, 8}, {3, 43, 64, 128}, {1, 31, 136, 16}, {3, 64, 128, 256}, {1, 33, 8, 256}, {9, 32, 248, 248}};
  int i = 0;
  for (const Size &size : sizes) {
    SCOPED_TRACE(i);
    Options options;
    options.lengths = {200 + 11 * i};
    options.rows = size.rows;
    set_types(options, true, i);
    check(make_shape(1, size.group, size.key_channels, size.value_channels, size.rows), options, 200 + i);
    if (HasFatalFailure()) return;
    ++i;
  }
}

TEST(MomentsOnDevice, RowsOffTheSixteenBytes) {
  for (int i = 0; i < 4; ++i) {
    SCOPED_TRACE(i);
    Options options;
    options.lengths = {104};  // whole eights of rows: others store in two instructions, whose quarters of a warp are none
    options.shift = i % 2 ? 1 : 4;
    options.pages = i >= 2;
    set_types(options, i != 3, i);
    check(make_shape(2, 2, 40, 24), options, 300 + i);
    if (HasFatalFailure()) return;
  }
}

TEST(MomentsOnDevice, PagesSlotsRaggedHeadsAndStrides) {
  for (int mask = 0; mask < 16; ++mask) {
    for (const bool same : {false, true}) {
      SCOPED_TRACE(std::to_string(mask) + (same ? ", one type" : ", types"));
      Options options = test::layout_options<Options>(mask);
      set_types(options, same, mask);
      check(make_shape(3, 2, 16, 24), options, 20 + mask);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(MomentsOnDevice, SharesCapsSinksAndQueriesThatSeeEverything) {
  Shape capped = make_shape(1, 2, 32, 32);
  capped.softcap = 2.5f;
  capped.scale = 0.7f;
  for (int i = 0; i < 12; ++i) {
    SCOPED_TRACE(i);
    Options options;
    options.lengths = {150, 90};
    if (i >= 6) set_types(options, true, i);
    options.causal = i % 2;
    options.share = i % 6 < 2 ? 0.9f : i % 6 < 4 ? 0.0f : 1.0f;
    options.sinks = i % 6 * 5;
    options.recent = i % 6 == 5 ? 0 : 32;
    options.values = i % 6 != 3;
    check(i % 3 ? capped : make_shape(2, 1, 32, 40), options, 60 + i);
    if (HasFatalFailure()) return;
  }
}

// Raw sums of squares would lose everything here.
TEST(MomentsOnDevice, BiasedKeysAndConstantChannels) {
  Options options;
  options.lengths = {203};
  options.bias = 50;
  options.constant = {0, 9, 31};
  Problem problem(make_shape(1, 2, 32, 32), options, 3);
  begin(3);
  OnDevice device(problem);
  device.measure(203);
  problem.moments = device.moments.download();
  compare_all(problem, expected_of_all(problem), 1e-4);
  const moments::View view = moments::view(problem.shape, problem.moments.data(), 0, 0);
  for (const int32_t channel : {0, 9, 31}) {
    for (int32_t j = 0; j < 32; ++j) {
      EXPECT_EQ(0, view.key_covariance[channel * 32 + j]);
      EXPECT_EQ(0, view.value_covariance[j * 32 + channel]);
    }
  }
}

TEST(MomentsOnDevice, SlotsThatAreNotInTheBatchStayAsTheyAre) {
  Options options;
  options.lengths = {100, 80};
  options.slots = true;
  Problem problem(make_shape(2, 1, 16, 16), options, 5);
  begin(5);
  OnDevice device(problem);
  device.measure(100);
  const std::vector<char> after = device.moments.download();
  const int64_t bytes = moments::state_bytes(problem.shape);
  for (const int32_t slot : {0, 2, 4}) {
    for (int64_t i = 0; i < bytes; ++i) ASSERT_EQ('\xff', after[slot * bytes + i]) << "slot " << slot;
  }
}

// More heads than are worked on together, several splits, and the same sequence alone: the same bits.
TEST(MomentsOnDevice, EverySeedAndBatchGivesTheSameBits) {
  for (const think_dtype query_dtype : {THINK_F32, THINK_F16}) {
    Options options;
    options.lengths = {700, 100, 33};
    options.query_dtype = query_dtype;
    options.key_dtype = options.value_dtype = THINK_F16;
    const Shape shape = make_shape(2, 2, 24, 16);
    Problem problem(shape, options, 6);
    std::vector<char> first;
    const int64_t bytes = moments::state_bytes(shape);
    for (uint64_t seed = 0; seed < 4; ++seed) {
      begin(seed);
      OnDevice device(problem);
      device.measure(seed == 3 ? 5000 : 700);
      if (HasFatalFailure()) return;
      const std::vector<char> now = device.moments.download();
      if (first.empty()) first = now;
      ASSERT_TRUE(first == now) << "seed " << seed;
    }
    begin(9);
    OnDevice alone(problem);
    alone.arguments.batch.count = 1;
    alone.measure(700);
    EXPECT_EQ(0, std::memcmp(alone.moments.download().data(), first.data(), static_cast<size_t>(bytes)));
  }
}

TEST(MomentsOnDevice, MoreHeadsThanAWave) {
  Options options;
  options.lengths = {68, 100, 40, 69, 70};
  check(make_shape(30, 1, 8, 8, 4), [&] { options.rows = 4; return options; }(), 7);
}

// What the arrays of the device say cannot be checked, so it must not lead out of memory.
TEST(MomentsOnDevice, WrongLengthsStayInside) {
  for (const bool same : {false, true}) {
    SCOPED_TRACE(same ? "one type" : "types");
    Options options;
    options.lengths = {100, 100};
    set_types(options, same, 6);
    Problem problem(make_shape(1, 1, 16, 16), options, 8);
    problem.lengths = {1 << 30, -3};
    begin(8);
    OnDevice device(problem);
    device.measure(100);
    problem.lengths = {100, 0};
    problem.moments = device.moments.download();
    compare_all(problem, expected_of_all(problem), 3e-5);
  }
}

// Rows of keys three times, of values twice, queries once for each block of one or two tiles of rows, and what passes between the launches.
void check_bytes(think_dtype query_dtype) {
  constexpr int64_t kTokens = 1060, kMoved = 1024, kChannels = 128, kHeads = 1, kColumns = 2 * 32, kBytes = 2;
  Options options;
  options.lengths = {kTokens};
  options.query_dtype = query_dtype;
  options.key_dtype = options.value_dtype = THINK_F16;
  Problem problem(make_shape(kHeads, 2, kChannels, kChannels), options, 10);
  begin(10);
  OnDevice device(problem);
  device.measure(kTokens);
  const uint64_t row = kChannels * kBytes, query_row = kChannels * dtype_bytes(query_dtype), block_rows = query_dtype == THINK_F16 ? 128 : 64;
  const uint64_t tiles = (kTokens + 63) / 64, moved_tiles = kMoved / 64, splits = kMoved / 512, square = kChannels * kChannels * 4;
  const uint64_t blocks = (kTokens + block_rows - 1) / block_rows, moved_blocks = kMoved / block_rows;
  // A covariance has three tiles of 64 times 64 channels: two on the diagonal, which read one half of each row, and one that reads both.
  EXPECT_EQ(device.key_bytes(), row * (kTokens + kMoved + 2 * kMoved));
  EXPECT_EQ(device.value_bytes(), row * (kMoved + 2 * kMoved));
  EXPECT_EQ(device.query_bytes(), query_row * kColumns * (blocks + moved_blocks + 2));
  const uint64_t inputs = device.key_bytes() + device.value_bytes() + device.query_bytes();
  const uint64_t columns = kColumns * 8 * (tiles + 1), sums = moved_tiles * 2 * 2 * kChannels * 4, partial = 2 * splits * square * 3 / 4;
  const uint64_t writes = columns + sums + kMoved * 4 + moved_tiles * 8 + partial + 3 * square + 2 * kChannels * 4;
  const uint64_t reads = inputs + columns - kColumns * 8 + moved_blocks * kColumns * 8 + sums + 6 * kMoved * 4 + moved_tiles * 8 * 2 + partial +
                         2 * (kChannels / 8) * splits * kChannels * 32;
  const simt::Counters counters = simt::machine().total();
  report_traffic("moments, 1060 tokens of 128 channels, groups of 2, f16" + std::string(query_dtype == THINK_F16 ? "" : ", queries f32"), counters,
                 static_cast<double>(reads), static_cast<double>(writes));
  EXPECT_LE(counters.global_read_bytes, static_cast<uint64_t>(1.05 * static_cast<double>(reads)));
  EXPECT_LE(counters.global_write_bytes, static_cast<uint64_t>(1.05 * static_cast<double>(writes)));
  EXPECT_EQ(0u, counters.bank_conflicts);
}

TEST(MomentsOnDevice, MovesTheBytesOfItsModel) {
  for (const think_dtype query_dtype : {THINK_F16, THINK_F32}) check_bytes(query_dtype);
}

// ---- gains

struct Gains {
  std::vector<float> gains;
  std::vector<int32_t> order;
};

Gains gains_on_device(const GainsProblem &problem, int32_t side) {
  const size_t count = static_cast<size_t>(problem.shape.kv_heads) * problem.channels(side);
  const Constant<char> moments("moments", problem.moments.data(), static_cast<int64_t>(problem.moments.size()));
  const Constant<float> score("score", problem.score.data(), static_cast<int64_t>(problem.score.size()));
  simt::Buffer<float> gains("gains", count);
  simt::Buffer<int32_t> order("order", count);
  simt::Buffer<char> workspace("workspace", static_cast<size_t>(moments::cuda::gains_workspace(problem.shape, 1)));
  EXPECT_EQ(0, moments::cuda::gains(problem.shape, moments.device(), problem.batch, side, side == THINK_KEYS ? score.device() : nullptr, gains.device(),
                                    order.device(), workspace.device(), nullptr))
      << simt::machine().fault().text();
  return {gains.download(), order.download()};
}

void check_gains(GainsProblem &problem, double tolerance = 1e-6) {
  for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
    SCOPED_TRACE(side == THINK_KEYS ? "keys" : "values");
    begin(static_cast<uint64_t>(problem.shape.key_channels + side));
    const Gains got = gains_on_device(problem, side);
    compare_gains(problem, side, expected_gains(problem, side), got.gains, got.order, tolerance);
    // None in the loops: ranks are written in the order of the scores once. Shares of rows that are no whole warps meet now and then.
    if (problem.channels(side) % 32 == 0) {
      EXPECT_LE(simt::machine().total().bank_conflicts * 100, simt::machine().total().shared_wavefronts);
    }
  }
}

TEST(GainsOnDevice, MatchTheReference) {
  for (const int32_t channels : {8, 16, 40, 64, 80}) {
    SCOPED_TRACE(channels);
    GainsProblem problem(make_shape(2, 1, channels, channels == 40 ? 72 : channels), 3 * channels, channels);
    check_gains(problem, 1e-5);
  }
  // In registers to 128; of more keys in portions of 64 (values would take the reference too long), of more values in memory.
  for (const auto &[channels, value_channels] : {std::pair(128, 96), std::pair(136, 136), std::pair(256, 8)}) {
    SCOPED_TRACE(channels);
    GainsProblem problem(make_shape(1, 1, channels, value_channels), 2 * channels + 44, 1);
    check_gains(problem, 1e-5);
  }
}

// What is left of channel 20, when channel 3 is taken, is less than counts as variance, yet its column is part of what channel 11 explains.
TEST(GainsOnDevice, ChannelsThatAreNotEliminatedStayInTheRest) {
  constexpr int32_t kChannels = 24, kFollower = 20, kLeader = 3, kOther = 11;
  GainsProblem problem(make_shape(1, 1, kChannels, kChannels), 100, 4);
  const moments::View view = moments::view(problem.shape, problem.moments.data(), 0, 0);
  for (float *covariance : {view.key_covariance, view.value_covariance}) {
    std::vector<double> exact(covariance, covariance + kChannels * kChannels);
    const double part = 4e-4;
    for (int32_t j = 0; j < kChannels; ++j) {
      exact[kFollower * kChannels + j] = exact[kLeader * kChannels + j] + part * exact[kOther * kChannels + j];
    }
    for (int32_t j = 0; j < kChannels; ++j) {
      exact[j * kChannels + kFollower] = exact[j * kChannels + kLeader] + part * exact[j * kChannels + kOther];
    }
    std::copy(exact.begin(), exact.end(), covariance);
  }
  for (int32_t j = 0; j < kChannels; ++j) view.query_moment[kFollower * (kChannels + 1)] += 9 * view.query_moment[j * (kChannels + 1)];
  problem.score[kLeader] = 20, problem.score[kFollower] = 19, problem.score[kOther] = 0;
  check_gains(problem, 1e-5);
  EXPECT_EQ(0, gains_on_device(problem, THINK_KEYS).gains[1]);
}

TEST(GainsOnDevice, ChannelsWithoutVarianceGainNothingAndComeLast) {
  GainsProblem problem(make_shape(3, 1, 16, 16), 50, 2, {0, 5, 15});
  check_gains(problem);
  const Gains got = gains_on_device(problem, THINK_VALUES);
  EXPECT_EQ(std::vector<int32_t>(got.order.begin() + 13, got.order.begin() + 16), (std::vector<int32_t>{0, 5, 15}));
  EXPECT_EQ(0, got.gains[13]);
}

TEST(GainsOnDevice, EqualAndUndefinedScores) {
  GainsProblem problem(make_shape(2, 1, 16, 16), 40, 5);
  std::fill(problem.score.begin(), problem.score.end(), 1.5f);
  problem.score[16 + 9] = std::numeric_limits<float>::quiet_NaN();
  problem.score[16 + 4] = INFINITY;
  problem.score[16 + 12] = -1;
  check_gains(problem);
}

TEST(GainsOnDevice, DamagedAndEmptyCovariancesGiveAPermutationAndNoNaN) {
  for (const bool damaged : {false, true}) {
    GainsProblem problem(make_shape(1, 1, 16, 16), 40, 6);
    if (damaged) {
      const moments::View view = moments::view(problem.shape, problem.moments.data(), 0, 0);
      for (int32_t i = 0; i < 256; i += 3) view.key_covariance[i] = view.value_covariance[i] = std::numeric_limits<float>::quiet_NaN();
      view.value_covariance[17] = INFINITY;
    } else {
      std::fill(problem.moments.begin(), problem.moments.end(), 0);
    }
    for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
      begin(6);
      Gains got = gains_on_device(problem, side);
      for (const float gain : got.gains) EXPECT_TRUE(damaged ? gain >= 0 : gain == 0);
      std::sort(got.order.begin(), got.order.end());
      for (int32_t t = 0; t < 16; ++t) EXPECT_EQ(got.order[t], t);
    }
  }
}

void check_same_bits(GainsProblem &problem) {
  for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
    Gains once;
    for (uint64_t seed = 0; seed < 4; ++seed) {
      begin(seed);
      const Gains got = gains_on_device(problem, side);
      if (seed == 0) once = got;
      EXPECT_EQ(0, std::memcmp(once.gains.data(), got.gains.data(), got.gains.size() * sizeof(float))) << seed;
      EXPECT_EQ(once.order, got.order);
    }
    // Two sequences, of which only the second has moments: in slot 0.
    const size_t count = once.gains.size();
    const std::vector<char> zeros(problem.moments.size(), 0);
    std::vector<char> slots = problem.moments;
    slots.insert(slots.end(), zeros.begin(), zeros.end());
    std::vector<float> score(problem.score.size(), 1.0f);
    score.insert(score.end(), problem.score.begin(), problem.score.end());
    begin(5);
    const int32_t slot[2] = {1, 0};
    const DeviceBatch batch({2, nullptr, nullptr, slot});
    const Constant<char> moments("moments", slots.data(), static_cast<int64_t>(slots.size()));
    const Constant<float> scores("score", score.data(), static_cast<int64_t>(score.size()));
    simt::Buffer<float> gains("gains", 2 * count);
    simt::Buffer<char> workspace("workspace", static_cast<size_t>(moments::cuda::gains_workspace(problem.shape, 2)));
    const float *by = side == THINK_KEYS ? scores.device() : nullptr;
    ASSERT_RUNS(moments::cuda::gains(problem.shape, moments.device(), batch.batch, side, by, gains.device(), nullptr, workspace.device(), nullptr));
    const std::vector<float> got = gains.download();
    for (size_t i = 0; i < count; ++i) ASSERT_EQ(0, got[i]);
    EXPECT_EQ(0, std::memcmp(once.gains.data(), got.data() + count, count * sizeof(float)));
  }
}

TEST(GainsOnDevice, EverySeedAndSlotGivesTheSameBits) {
  GainsProblem small(make_shape(3, 1, 40, 24), 90, 7), large(make_shape(1, 1, 152, 24), 200, 7);
  check_same_bits(small);
  check_same_bits(large);
}

struct GainsBytes {
  int64_t reads, writes;
};

// In registers: the covariance once; for keys each warp's rows meet the lines of the queries' moment whose channels were not taken before them. Of more
// than 128 channels 64 rows at a time, which the columns of earlier ones meet once, from memory; lanes without a channel ask for lines too.
GainsBytes bytes_in_registers(int64_t channels, bool keys) {
  GainsBytes bytes = {4 * channels * channels, 8 * channels};
  if (!keys) {
    bytes.reads += 4 * channels * 4;  // variances, by the lanes that share a row
    return bytes;
  }
  bytes.reads += 4 * channels + 4 * channels * (channels + 1);  // variances; each channel ranks itself among all scores
  const int64_t rows = channels > 128 ? 4 : 8, width = channels > 128 ? 256 : 128;
  for (int64_t left = channels; left > 0; left -= rows) bytes.reads += 4 * left * width;
  for (int64_t begin = 64; channels > 128 && begin < channels; begin += 64) {
    bytes.reads += 8 * begin * channels;
    bytes.writes += 8 * 64 * channels;
  }
  return bytes;
}

// In memory: the covariance once, then in each step a walk over what is left.
GainsBytes bytes_in_memory(int64_t channels) {
  GainsBytes bytes = {4 * channels * channels, 8 * channels * channels};
  for (int64_t left = channels; left > 0; --left) {
    bytes.reads += 8 * channels + 8 * channels + 8 * (left - 1) * (channels - 1);  // the channel's column, variances, the rest
    bytes.writes += 8 * (left - 1) * channels + 8;                                 // and a gain with its channel
  }
  return bytes;
}

TEST(GainsOnDevice, MoveTheBytesOfTheirModel) {
  for (const int32_t channels : {128, 160}) {
    GainsProblem problem(make_shape(2, 1, channels, channels), 3 * channels + 16, 11);
    EXPECT_EQ(moments::cuda::gains_workspace(problem.shape, 1), channels == 128 ? 0 : 2 * 8 * channels * channels);
    for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
      const bool keys = side == THINK_KEYS;
      SCOPED_TRACE(std::to_string(channels) + (keys ? ", keys" : ", values"));
      begin(11);
      const Gains got = gains_on_device(problem, side);
      ASSERT_GT(*std::min_element(got.gains.begin(), got.gains.end()), 0) << "a channel without variance ends its step early";
      const GainsBytes bytes = channels == 128 || keys ? bytes_in_registers(channels, keys) : bytes_in_memory(channels);
      const simt::Counters counters = simt::machine().total();
      const double heads = problem.shape.kv_heads, read = heads * static_cast<double>(bytes.reads), written = heads * static_cast<double>(bytes.writes);
      report_traffic("gains, " + std::to_string(channels) + " channels, " + (keys ? "keys" : "values"), counters, read, written);
      EXPECT_LE(static_cast<double>(counters.global_read_bytes), 1.02 * read);
      EXPECT_GE(static_cast<double>(counters.global_read_bytes), 0.98 * read) << "the model is wrong";
      EXPECT_LE(static_cast<double>(counters.global_write_bytes), 1.02 * written);
      EXPECT_GE(static_cast<double>(counters.global_write_bytes), 0.98 * written);
    }
  }
}

// ---- recorded

TEST(MomentsOnDevice, RecordedVectors) {
  for (const auto &problem : recorded_problems()) {
    SCOPED_TRACE(problem.json["name"].get<std::string>());
    moments::Arguments arguments = recorded_arguments(problem);
    const Shape &shape = arguments.shape;
    begin(1);
    const Constant<uint16_t> query("query", problem.query.data(), problem.query.size()), key("key", problem.key.data(), problem.key.size()),
        value("value", problem.value.data(), problem.value.size());
    const Constant<int32_t> lengths("lengths", &problem.tokens, 1);
    simt::Buffer<char> state("moments", static_cast<size_t>(moments::state_bytes(shape)));
    simt::Buffer<char> workspace("workspace", static_cast<size_t>(moments::cuda::workspace(shape, 1, problem.tokens)));
    arguments.window_query.data = const_cast<uint16_t *>(query.device());
    arguments.source.key = const_cast<uint16_t *>(key.device());
    arguments.source.value = const_cast<uint16_t *>(value.device());
    arguments.source.lengths = lengths.device();
    arguments.moments = state.device();
    ASSERT_RUNS(moments::cuda::load());
    ASSERT_RUNS(moments::cuda::measure(arguments, nullptr, problem.tokens, workspace.device(), nullptr));
    std::vector<char> moments = state.download();
    const std::vector<float> score = recorded_score(problem);
    GainsProblem as_input(make_shape(1, 1, 8, 8), 8, 1);
    as_input.shape = shape;
    as_input.moments = moments;
    as_input.score = score;
    for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
      const Gains got = gains_on_device(as_input, side);
      compare_recorded(problem, shape, moments, side, got.gains, got.order);
    }
  }
}

}  // namespace
}  // namespace think
