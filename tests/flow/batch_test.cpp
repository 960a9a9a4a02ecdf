// Batches: ragged lengths, packed and rectangular tensors, slots in any order, shuffled pages, sequences that are too short to prune.
// Everything that belongs to nobody is NaN, so a result that is right has read nothing else.
#include "compare.h"

namespace flow {
namespace {

Options ragged(const think_problem &problem) {
  Options options{problem, {261, 37, 0, 131}};
  options.slot = {4, 0, 2, 5};
  options.slots = 6;
  return options;
}

TEST(Batch, RaggedSlotsAndPages) {
  for (const Isa &isa : available_isas()) {
    for (const bool packed : {false, true}) {
      for (const int32_t page : {0, 32, 96}) {
        const think_problem problem = make_problem(80, 3, page == 32 ? THINK_F32 : THINK_F16);
        const Plan plan(problem, isa.name);
        Options options = ragged(problem);
        options.packed = packed;
        options.order = packed ? Order::tokens_first : Order::heads_first;
        options.chunk = packed ? 45 : 0;
        options.dense_page = page == 96 ? 64 : page;
        options.compact_page = page;
        Flow flow(plan, options);
        flow.prefill();
        flow.measure();
        const std::vector<int64_t> total{264, 38, 5, 133};
        flow.append({261, 37, 0, 131}, total);
        const std::vector<int32_t> key{33, 52, 80, 80, 80, 80, 9, 40}, value{40, 16, 80, 80, 80, 80, 8, 72};
        for (const bool regress : {false, true}) {
          flow.prune({key, value, regress});
          EXPECT_EQ((std::vector<int32_t>{224, 0, 0, 64}), flow.compacted);
          for (const std::vector<int32_t> &fresh :
               {std::vector<int32_t>{1, 1, 1, 1}, std::vector<int32_t>{3, 1, 5, 2}, std::vector<int32_t>{0, 1, 0, 2}}) {
            expect_close(flow.expected(total, fresh), flow.attend(total, fresh), tolerance_for(problem),
                         std::string(isa.name) + (packed ? " packed" : " rectangular") + " page " + std::to_string(page));
          }
        }
      }
    }
  }
}

// A sequence gets the same result alone as in any batch, slot and storage. Not the same bits: how a call is cut, and so the order of its
// sums, may depend on the size of the batch.
TEST(Batch, ASequenceDoesNotSeeItsNeighbours) {
  const think_problem problem = make_problem(64, 4, THINK_F16);
  const Plan plan(problem);
  Options options = ragged(problem);
  options.later_tokens = 8;
  Flow together(plan, options);
  together.prefill();
  together.append({261, 37, 0, 131}, {264, 38, 5, 133});
  together.prune({{24, 40, 64, 64, 64, 64, 33, 17}, {}});
  const Output all = together.attend({264, 38, 5, 133}, {2, 1, 1, 1});

  Options one{problem, {131}};
  one.later_tokens = 8;
  one.dense_page = one.compact_page = 32;
  Flow alone(plan, one);
  alone.sequences[0] = together.sequences[3];
  alone.prefill();
  alone.append({131}, {133});
  alone.prune({{33, 17}, {}});
  EXPECT_TRUE(std::equal(alone.mask.begin(), alone.mask.end(), together.mask.begin() + 3 * 2 * 64));
  const Output single = alone.attend({133}, {1});
  const Output last{{all.rows.end() - single.rows.size(), all.rows.end()}, {all.lse.end() - single.lse.size(), all.lse.end()}};
  expect_close(single, last, {1e-5, 1e-5}, "alone and in a batch");
}

// Chunks of the prefill: the same window and, up to the order of sums, the same scores; the same masks after it.
TEST(Batch, ChunkedPrefill) {
  const think_problem problem = make_problem(64, 3, THINK_F16);
  const Plan plan(problem);
  Options options{problem, {200, 37, 1}};
  Flow whole(plan, options);
  whole.prefill();
  for (const int64_t chunk : {1, 7, 32, 150}) {
    options.chunk = chunk;
    Flow chunked(plan, options);
    chunked.prefill();
    for (size_t i = 0; i < whole.score.size(); ++i)
      ASSERT_NEAR(whole.score[i], chunked.score[i], 1e-5 * whole.score[i]) << "chunk " << chunk;
    think_tensor a = THINK_TENSOR_INIT, b = THINK_TENSOR_INIT;
    THINK_CALL(think_score_window, plan, whole.state.data(), 3, &a);
    THINK_CALL(think_score_window, plan, chunked.state.data(), 3, &b);
    for (int64_t s = 0; s < 3; ++s) {
      for (int64_t head = 0; head < problem.query_heads; ++head) {
        for (int64_t row = 0; row < 32; ++row) {
          // Right-aligned, the missing rows zero.
          const int64_t token = options.tokens[s] - 32 + row;
          for (int64_t c = 0; c < 64; ++c) {
            const double expected = token < 0 ? 0 : whole.element(whole.sequences[s].query, static_cast<int32_t>(s), head, token, c, 64);
            ASSERT_EQ(expected, load(a.data, a.dtype, s * a.stride[0] + head * a.stride[1] + row * a.stride[2] + c));
            ASSERT_EQ(expected, load(b.data, b.dtype, s * b.stride[0] + head * b.stride[1] + row * b.stride[2] + c));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace flow
