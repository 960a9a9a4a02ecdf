// The evict stage against its reference: which rows are chosen, the scores behind the choice, and where the rows go.
#include "kernels/evict/evict.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <random>

#include "evict_case.h"
#include "instruction_sets.h"

namespace think {
namespace {

using namespace test::evict_case;
using test::Guarded;
using test::Threads;

// ---- the choice, scores given

std::vector<int32_t> chosen(std::vector<float> score, int64_t budget, int64_t sinks, int64_t recent, int32_t pooling, int32_t kernel,
                            bool reference) {
  const int64_t tokens = static_cast<int64_t>(score.size());
  std::vector<float> pooled(score.size(), kNan);
  std::vector<int32_t> kept(std::min(tokens, budget) + 1, -7);
  const evict::Choice choice{tokens, budget, sinks, recent, pooling, kernel, score.data(), pooled.data()};
  const int32_t count = reference ? evict::reference::choose(choice, kept.data()) : evict::choose(choice, kept.data());
  EXPECT_EQ(count, std::min(tokens, budget));
  EXPECT_EQ(kept.back(), -7) << "behind the list";
  kept.pop_back();
  for (size_t i = 1; i < kept.size(); ++i) EXPECT_LT(kept[i - 1], kept[i]);
  return kept;
}

TEST(EvictChoice, EqualsTheReference) {
  std::mt19937 random(1);
  int calls = 0;
  for (const int tokens : {1, 2, 31, 32, 33, 97, 300, 1021}) {
    for (int kind = 0; kind < kKinds; ++kind) {
      const std::vector<float> score = scores_of_kind(kind, tokens, random);
      for (const int64_t budget : {0, 1, 5, 32, 40, 96, 97, 299, 300, 5000}) {
        for (const int64_t sinks : {0, 4}) {
          for (const int64_t recent : {0, 1, 32}) {
            for (const int32_t kernel : {1, 3, 7, 63}) {
              for (const int32_t pooling : {THINK_POOL_MAX, THINK_POOL_MEAN}) {
                ++calls;
                ASSERT_EQ(chosen(score, budget, sinks, recent, pooling, kernel, true), chosen(score, budget, sinks, recent, pooling, kernel, false))
                    << tokens << " tokens, kind " << kind << ", budget " << budget << ", sinks " << sinks << ", recent " << recent << ", kernel "
                    << kernel << ", pooling " << pooling;
              }
            }
          }
        }
      }
    }
  }
  EXPECT_EQ(calls, 8 * 6 * 10 * 2 * 3 * 4 * 2);
}

TEST(EvictChoice, TiesUndefinedAndAlwaysKeptRowsByHand) {
  using Rows = std::vector<int32_t>;
  const std::vector<float> flat(10, 1.0f);
  EXPECT_EQ(chosen(flat, 4, 0, 0, 0, 1, false), (Rows{0, 1, 2, 3}));
  EXPECT_EQ(chosen(flat, 4, 0, 2, 0, 1, false), (Rows{0, 1, 8, 9}));
  EXPECT_EQ(chosen(flat, 3, 2, 4, 0, 1, false), (Rows{0, 1, 9}));
  EXPECT_EQ(chosen(flat, 1, 2, 4, 0, 1, false), (Rows{0}));
  EXPECT_EQ(chosen(flat, 0, 2, 4, 0, 1, false), (Rows{}));
  EXPECT_EQ(chosen({5, 1, kNan, 9, INFINITY, 9, 2}, 2, 0, 0, 0, 1, false), (Rows{2, 4}));
  EXPECT_EQ(chosen({5, 1, kNan, 9, 8, 9, 2}, 3, 0, 0, 0, 1, false), (Rows{2, 3, 5}));
  // A peak brings its neighbours; a mean at the border divides by the whole kernel.
  EXPECT_EQ(chosen({0, 0, 0, 9, 0, 0, 0, 5}, 3, 0, 0, THINK_POOL_MAX, 3, false), (Rows{2, 3, 4}));
  EXPECT_EQ(chosen({3, 3, 0, 2, 3, 3, 0, 0}, 1, 0, 0, THINK_POOL_MEAN, 3, false), (Rows{4}));
  // The recent rows are no neighbours.
  EXPECT_EQ(chosen({1, 0, 0, 0, 2, 0, 9}, 2, 0, 1, THINK_POOL_MAX, 3, false), (Rows{3, 6}));
}

// ---- the whole stage

Result run(const Problem &problem, EvictCall call, int32_t threads, float before) {
  const int64_t longest = *std::max_element(problem.lengths.begin(), problem.lengths.end());
  Result result(problem, call, before);
  call.score = result.score.data();
  call.score_stride = result.score_stride;
  call.kept = result.kept.data();
  call.kept_stride = result.kept_stride;
  call.lengths = result.lengths.data();
  Threads pool{threads};
  call.parallel = pool.parallel();
  Guarded workspace(evict_workspace(problem.shape, problem.batch, longest));
  evict_rows(call, longest, workspace.data());
  EXPECT_TRUE(workspace.intact());
  return result;
}

void check_all(const Problem &problem, EvictCall call, float before = 0.5f) {
  for (const int32_t isa : test::instruction_sets()) {
    SCOPED_TRACE(test::isa_name(isa));
    call.isa = isa;
    const Result once = run(problem, call, 1, before);
    check(problem, call, once, before);
    for (const int32_t threads : {1, 2, 5}) {
      const Result again = run(problem, call, threads, before);
      EXPECT_EQ(std::memcmp(once.score.data(), again.score.data(), once.score.size() * sizeof(float)), 0) << threads << " threads";
      EXPECT_EQ(once.kept, again.kept);
      EXPECT_EQ(once.lengths, again.lengths);
    }
  }
}

TEST(Evict, LengthsOfASequence) {
  for (const int32_t tokens : {0, 1, 31, 32, 33, 39, 40, 41, 67, 257, 8209}) {
    SCOPED_TRACE(tokens);
    Options options;
    options.lengths = {tokens};
    const Problem problem(test::make_shape(1, 2, 16, 8), options, tokens);
    EvictCall call = problem.call(0);
    for (const int32_t budget : {0, 7, 40, 9000}) {
      call.budget = budget;
      check_all(problem, call);
    }
  }
}

TEST(Evict, ShapesAndTypes) {
  const int32_t groups[] = {1, 2, 3, 4, 5, 7, 8, 16};
  int i = 0;
  for (const int32_t channels : {8, 40, 64, 80, 96, 128, 256}) {
    for (int k = 0; k < 2; ++k, ++i) {
      SCOPED_TRACE(std::to_string(channels) + " channels, group " + std::to_string(groups[i % 8]));
      Options options;
      options.lengths = {100 + 37 * (i % 4)};
      options.query_dtype = kDtypes[i % 3];
      options.key_dtype = kDtypes[(i + 1) % 3];
      options.rows = i % 5 == 4 ? 9 : 32;
      const Problem problem(test::make_shape(1 + i % 2, groups[i % 8], channels, 16), options, 50 + i);
      EvictCall call = problem.call(0);
      call.accumulate = i % 2;
      call.pooling = i % 3 == 0 ? THINK_POOL_MEAN : THINK_POOL_MAX;
      check_all(problem, call);
    }
  }
}

TEST(Evict, PagesSlotsRaggedHeadsStridesAndBudgetsPerHead) {
  for (int mask = 0; mask < 16; ++mask) {
    SCOPED_TRACE(mask);
    Options options = test::layout_options<Options>(mask);
    options.causal = mask % 3;
    Shape shape = test::make_shape(3, 2, 16, 24);
    shape.softcap = mask % 2 ? 3.0f : 0.0f;
    const Problem problem(shape, options, 20 + mask);
    EvictCall call = problem.call(0);
    call.budget = 60;
    call.sinks = mask % 5;
    std::vector<int32_t> budgets;
    for (int32_t at = 0; at < 15; ++at) budgets.push_back(at * 4);
    if (mask % 2) call.budgets = budgets.data();
    check_all(problem, call);
  }
}

TEST(Evict, DamagedKeysGiveAListAndTheSameBits) {
  Options options;
  options.lengths = {150};
  const Problem problem(test::make_shape(1, 2, 16, 16), options, 3);
  store_element(row_address(side_view(problem.source, Side::keys, problem.shape, problem.sequences, 0, 0), 60), problem.source.key_dtype, 2, kNan);
  for (const int32_t isa : test::instruction_sets()) {
    const EvictCall call = problem.call(isa);
    const Result once = run(problem, call, 1, 0), again = run(problem, call, 3, 0);
    EXPECT_EQ(once.kept, again.kept);
    ASSERT_EQ(once.lengths[0], 40);
    for (int32_t i = 0; i < 40; ++i) EXPECT_TRUE(once.kept[i] > (i ? once.kept[i - 1] : -1) && once.kept[i] < 150);
  }
}

// ---- the move

std::vector<char> row_bytes(const think_segment &segment, const Problem &problem, Side side, int32_t at, int64_t row) {
  const SideView view = side_view(segment, side, problem.shape, problem.sequences, at / problem.heads, at % problem.heads);
  const char *start = row_address(view, row);
  return {start, start + view.channels * dtype_bytes(view.dtype)};
}

TEST(EvictMove, ToOtherMemoryAndInPlace) {
  for (int mask = 0; mask < 16; ++mask) {
    for (const bool in_place : {false, true}) {
      SCOPED_TRACE(std::to_string(mask) + (in_place ? " in place" : ""));
      Options options = test::layout_options<Options>(mask);
      options.lengths[2] = 1171;
      Problem problem(test::make_shape(2, 1, 16, 24), options, mask);
      Options other = options;
      other.pages = !options.pages;
      other.token_major = !options.token_major;
      if (mask % 4 == 3) other.key_dtype = THINK_F32;
      Problem target(problem.shape, other, 99);
      EvictCall call = problem.call(THINK_ISA_PORTABLE);
      call.budget = mask % 2 ? 600 : 45;
      Result chosen = run(problem, call, 2, 0);
      std::vector<std::vector<char>> want[2];
      std::vector<float> want_score = chosen.score;
      for (int32_t at = 0; at < problem.batch * problem.heads; ++at) {
        const int64_t row = int64_t{slot_of(problem.sequences, at / problem.heads)} * problem.heads + at % problem.heads;
        for (int32_t i = 0; i < problem.lengths[at]; ++i) {
          const bool kept = i < chosen.lengths[at];
          const int32_t from = kept ? chosen.kept[at * chosen.kept_stride + i] : 0;
          want_score[row * chosen.score_stride + i] = kept ? chosen.score[row * chosen.score_stride + from] : 0;
          for (const Side side : {Side::keys, Side::values}) {
            if (kept) want[static_cast<int>(side)].push_back(row_bytes(problem.source, problem, side, at, options.first + from));
          }
        }
      }
      evict::Move move{problem.shape, problem.source,     in_place ? problem.source : target.source, problem.sequences, chosen.kept.data(),
                       chosen.kept_stride, chosen.score.data(), chosen.score_stride};
      const std::vector<char> key_before = target.key;
      const std::vector<int32_t> none(problem.lengths.size(), 0);
      if (in_place && mask % 3 == 0) move.destination.first = none.data();
      move.destination.lengths = chosen.lengths.data();
      Threads pool{3};
      evict::move_rows(move, *std::max_element(chosen.lengths.begin(), chosen.lengths.end()), pool.parallel());
      EXPECT_EQ(chosen.score, want_score);
      size_t next = 0;
      for (int32_t at = 0; at < problem.batch * problem.heads; ++at) {
        const int64_t first = run_first(move.destination, at / problem.heads, at % problem.heads);
        for (int32_t i = 0; i < chosen.lengths[at]; ++i, ++next) {
          for (const Side side : {Side::keys, Side::values}) {
            std::vector<char> bytes = want[static_cast<int>(side)][next];
            if (side == Side::keys && !in_place && other.key_dtype != options.key_dtype) {
              std::vector<char> wide(problem.shape.key_channels * 4);
              for (int32_t j = 0; j < problem.shape.key_channels; ++j) store_element(wide.data(), THINK_F32, j, load_element(bytes.data(), THINK_F16, j));
              bytes = wide;
            }
            ASSERT_EQ(row_bytes(move.destination, problem, side, at, first + i), bytes) << "head " << at << " row " << i;
          }
        }
        for (int32_t i = chosen.lengths[at]; !in_place && i < problem.lengths[at]; ++i) {
          const SideView view = side_view(target.source, Side::keys, problem.shape, problem.sequences, at / problem.heads, at % problem.heads);
          const char *start = row_address(view, first + i);
          ASSERT_EQ(std::memcmp(start, key_before.data() + (start - target.key.data()), view.channels * dtype_bytes(view.dtype)), 0);
        }
      }
    }
  }
}

}  // namespace
}  // namespace think
