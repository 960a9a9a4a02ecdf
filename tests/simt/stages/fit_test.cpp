// The fit stage's CUDA kernel against plain elimination, and the way from rows to weights against the recorded vectors.
#include "kernels/fit/cuda.h"

#include "device.h"
#include "fit_case.h"
#include "kernels/moments/cuda.h"
#include "kernels/prune/cuda.h"
#include "kernels/select/cuda.h"
#include "moments_case.h"

namespace think {
namespace {

using namespace test;
using namespace test::fit_case;

// Fits on the device and writes what came out into the problem. Slots that are not in the batch have no moments there: nothing of them may be read.
void fit_on_device(Problem &problem, uint64_t seed) {
  begin(seed);
  const int64_t count = static_cast<int64_t>(problem.kept.size());
  const Constant<int32_t> kept("kept", problem.kept.data(), count), index("index", problem.index.data(), static_cast<int64_t>(problem.index.size()));
  simt::Buffer<char> moments("moments", problem.moments.size()), weight("weight", problem.weight);
  simt::Buffer<int64_t> weight_offset("weight_offset", problem.weight_offset);
  simt::Buffer<float> offset("offset", problem.offset);
  const int64_t slot_bytes = moments::state_bytes(problem.shape);
  for (int32_t b = 0; b < problem.arguments.batch.count; ++b) {
    const int64_t at = slot_of(problem.arguments.batch, b) * slot_bytes;
    simt::machine().memory.write(moments.device() + at, problem.moments.data() + at, static_cast<size_t>(slot_bytes));
  }
  moments.freeze();
  const DeviceBatch batch(problem.arguments.batch);
  fit::Arguments arguments = problem.arguments;
  arguments.moments = moments.device();
  arguments.batch = batch.batch;
  arguments.basis.kept = const_cast<int32_t *>(kept.device());
  arguments.basis.index = const_cast<int32_t *>(index.device());
  arguments.basis.weight = weight.device();
  arguments.basis.weight_offset = weight_offset.device();
  arguments.basis.offset = offset.device();
  simt::Buffer<char> workspace("workspace", static_cast<size_t>(fit::cuda::workspace(problem.shape, batch.batch.count)));
  ASSERT_RUNS(fit::cuda::load());
  ASSERT_RUNS(fit::cuda::fit(arguments, batch.batch.slot, workspace.device(), nullptr));
  problem.weight = weight.download();
  problem.weight_offset = weight_offset.download();
  problem.offset = offset.download();
  problem.basis.weight = problem.weight.data();
  // None in the loops over rows but where two lines of the matrix meet inside of a warp, whose two shares of the rows then read two numbers. The index is read
  // in the order of the choice once; in small heads, whose loops are short, that is all there is.
  if (problem.channels() >= 64) {
    EXPECT_LE(simt::machine().total().bank_conflicts * 16, simt::machine().total().shared_wavefronts);
  }
  EXPECT_EQ(0u, simt::machine().total().atomics);
}

auto fit_with_seed(uint64_t seed) {
  return [=](Problem &problem) { fit_on_device(problem, seed); };
}

TEST(FitOnDevice, MatchesPlainElimination) {
  std::mt19937 random(1);
  uint64_t seed = 0;
  for (const int32_t channels : {8, 16, 40, 64, 80, 128}) {
    for (const int32_t wanted : {1, 7, 8, 9, 39, 52, 63, 64, 77, 127, 128}) {
      const int32_t width = std::min(wanted, channels);
      if (channels == 128 && wanted < 52) continue;
      for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
        if (side == THINK_VALUES && width % 16) continue;
        Problem problem(side == THINK_KEYS ? make_shape(2, 1, channels, 16) : make_shape(2, 1, 24, channels), side, 1);
        for (int32_t h = 0; h < 2; ++h) {
          problem.fill(0, h, random, h ? 50.0f : 0.0f);
          problem.choose(0, h, std::max(1, width - h * (side == THINK_VALUES ? 8 : 1)), random);
        }
        fit_on_device(problem, ++seed);
        if (HasFatalFailure()) return;
        for (int32_t h = 0; h < 2; ++h) compare(problem, 0, h);
      }
      if (wanted > channels) break;
    }
  }
}

TEST(FitOnDevice, TheWidestHead) {
  std::mt19937 random(8);
  Problem problem(make_shape(1, 1, 256, 8), THINK_KEYS, 1);
  problem.fill(0, 0, random, 1);
  problem.choose(0, 0, 120, random);
  fit_on_device(problem, 1);
  compare(problem, 0, 0);
}

TEST(FitOnDevice, SlotsOfTheBatchOnly) { slots_of_the_batch_only(fit_with_seed(2)); }

TEST(FitOnDevice, MoreHeadsThanAWave) {
  std::mt19937 random(9);
  Problem problem(make_shape(33, 1, 8, 8), THINK_VALUES, 3);
  for (int32_t s = 0; s < 3; ++s) {
    for (int32_t h = 0; h < 33; ++h) {
      problem.fill(s, h, random, 0);
      problem.choose(s, h, 1 + (h + s) % 8, random);
    }
  }
  fit_on_device(problem, 9);
  for (int32_t s = 0; s < 3; ++s) {
    for (int32_t h = 0; h < 33; ++h) compare(problem, s, h);
  }
  EXPECT_EQ(3u, simt::machine().launches().size());
}

TEST(FitOnDevice, EverySeedGivesTheSameBits) {
  std::mt19937 random(3);
  Problem problem(make_shape(3, 1, 64, 64), THINK_VALUES, 1);
  for (int32_t h = 0; h < 3; ++h) {
    problem.fill(0, h, random, 0);
    problem.choose(0, h, 8 + 24 * h, random);
  }
  fit_on_device(problem, 0);
  const std::vector<char> weight = problem.weight;
  const std::vector<float> offset = problem.offset;
  for (uint64_t seed = 1; seed < 4; ++seed) {
    std::fill(problem.offset.begin(), problem.offset.end(), 1e30f);
    fit_on_device(problem, seed);
    EXPECT_TRUE(problem.weight == weight);
    EXPECT_EQ(problem.offset, offset);
  }
}

TEST(FitOnDevice, ChannelsWithoutVarianceHaveNoWeights) { channels_without_variance_have_no_weights(fit_with_seed(4)); }

TEST(FitOnDevice, SingularCovariances) { singular_covariances(fit_with_seed(5)); }
TEST(FitOnDevice, DamagedMomentsFallBackToThePaper) { damaged_moments_fall_back_to_the_paper(fit_with_seed(7)); }
TEST(FitOnDevice, NoRowsMeasured) { no_rows_measured(fit_with_seed(8)); }

TEST(FitOnDevice, LargeWeightsSaturate) { large_weights_saturate(fit_with_seed(9)); }

// The covariance twice (is it finite, and into the matrix), the triangle of each step of the elimination, the dropped columns of each step back, weights
// out, and offsets from the weights as stored.
TEST(FitOnDevice, MovesTheBytesOfItsModel) {
  constexpr int64_t kChannels = 128, kThreads = 512;
  for (const int64_t kept : {64, 77, 104}) {
    std::mt19937 random(12);
    Problem problem(make_shape(2, 1, kChannels, 16), THINK_KEYS, 1);
    for (int32_t h = 0; h < 2; ++h) {
      problem.fill(0, h, random, 1);
      problem.choose(0, h, static_cast<int32_t>(kept), random);
    }
    fit_on_device(problem, 12);
    if (HasFatalFailure()) return;
    const int64_t dropped = kChannels - kept, stride = (kept + 7) / 8 * 8, square = kChannels * kChannels;
    // Statistics and choice: mean, covariance, diagonal in two orders, index, and the width that each thread looks up.
    int64_t reads = 4 * kChannels + 4 * square + 3 * 4 * kChannels + 4 * kThreads, writes = 8;
    reads += 4 * kept * kChannels, writes += 8 * kept * kChannels;  // the matrix [kept | dropped]
    for (int64_t row = 0; row < kept; ++row) {
      const int64_t triangle = row * (kChannels - row);  // what the rows before it took from this one: `row` times from its diagonal on
      reads += 8 * (kChannels - row + triangle), writes += 8 * triangle;
      // Back: the entries above the pivot, its solutions by every share, and what they take from the rows above.
      reads += 8 * (row + kThreads / dropped * dropped + row * dropped), writes += 8 * (dropped + row * dropped);
    }
    reads += 8 * kept * dropped, writes += 2 * dropped * stride;
    reads += dropped * (4 + kept * (2 + 4)), writes += 4 * dropped;
    const simt::Counters counters = simt::machine().total();
    const double read = 2.0 * static_cast<double>(reads), written = 2.0 * static_cast<double>(writes);
    report_traffic("fit, " + std::to_string(kept) + " of 128 channels", counters, read, written);
    EXPECT_LE(static_cast<double>(counters.global_read_bytes), 1.02 * read) << kept;
    EXPECT_GE(static_cast<double>(counters.global_read_bytes), 0.98 * read) << "the model is wrong";
    EXPECT_LE(static_cast<double>(counters.global_write_bytes), 1.02 * written) << kept;
    EXPECT_GE(static_cast<double>(counters.global_write_bytes), 0.98 * written);
  }
}

// From f16 rows to W, all of it on the device: the same keys as recorded, values that predict as well.
TEST(FitOnDevice, RecordedVectors) {
  for (const auto &recorded : recorded_problems()) {
    moments::Arguments measured = moments_case::recorded_arguments(recorded);
    const Shape &shape = measured.shape;
    const int32_t n = recorded.channels, heads = shape.kv_heads;
    const int64_t count = static_cast<int64_t>(heads) * n;
    const std::vector<float> recorded_score = moments_case::recorded_score(recorded);
    begin(2);
    ASSERT_RUNS(moments::cuda::load());
    const Constant<uint16_t> query("query", recorded.query.data(), static_cast<int64_t>(recorded.query.size())),
        key("key", recorded.key.data(), static_cast<int64_t>(recorded.key.size())),
        value("value", recorded.value.data(), static_cast<int64_t>(recorded.value.size()));
    const Constant<int32_t> lengths("lengths", &recorded.tokens, 1);
    simt::Buffer<char> moments("moments", static_cast<size_t>(moments::state_bytes(shape)));
    simt::Buffer<char> workspace("workspace", static_cast<size_t>(moments::cuda::workspace(shape, 1, recorded.tokens)));
    measured.window_query.data = const_cast<uint16_t *>(query.device());
    measured.source.key = const_cast<uint16_t *>(key.device());
    measured.source.value = const_cast<uint16_t *>(value.device());
    measured.source.lengths = lengths.device();
    measured.moments = moments.device();
    ASSERT_RUNS(moments::cuda::measure(measured, nullptr, recorded.tokens, workspace.device(), nullptr));
    simt::Buffer<float> score("score", recorded_score), gains("gains", static_cast<size_t>(count));
    simt::Buffer<int32_t> order("order", static_cast<size_t>(count)), width("width", static_cast<size_t>(heads));
    for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
      const bool keys = side == THINK_KEYS;
      SCOPED_TRACE(recorded.json["name"].get<std::string>() + (keys ? ", keys" : ", values"));
      Problem problem(shape, side, 1);
      simt::Buffer<char> more("workspace", static_cast<size_t>(moments::cuda::gains_workspace(shape, 1)));
      ASSERT_RUNS(moments::cuda::gains(shape, moments.device(), measured.batch, side, keys ? score.device() : nullptr, gains.device(), order.device(),
                                       more.device(), nullptr));
      const select::Budgets budgets{1, 1, heads, n, 8, 8, recorded.json[keys ? "key_total" : "value_total"], false};
      simt::Buffer<char> blocks("workspace", static_cast<size_t>(select::cuda::budgets_workspace(budgets)));
      ASSERT_RUNS(select::cuda::budgets(budgets, gains.device(), width.device(), blocks.device(), nullptr));
      if (!keys) ASSERT_RUNS(pruning::cuda::rank(heads, n, order.device(), score.device(), nullptr));
      simt::Buffer<int32_t> kept("kept", problem.kept.size()), index("index", problem.index.size());
      think_basis basis = problem.basis;
      basis.kept = kept.device(), basis.index = index.device(), basis.weight_offset = nullptr;
      const select::Select choice{heads, n, keys ? 1 : 8, 0, width.device(), select::Pairs::none};
      ASSERT_RUNS(select::cuda::select(choice, score.device(), measured.batch, basis, nullptr, nullptr));
      problem.moments = moments.download();
      problem.kept = kept.download();
      problem.index = index.download();
      problem.basis.kept = problem.kept.data();
      problem.basis.index = problem.index.data();
      fit_on_device(problem, 3);
      compare_recorded(recorded, problem);
    }
  }
}

}  // namespace
}  // namespace think
