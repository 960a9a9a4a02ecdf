// What comes after the prefill: several queries at once, folds of the window, the next turn of a chat, soft caps, sink logits, and merged
// results.
#include "compare.h"

namespace flow {
namespace {

class Turns : public ::testing::TestWithParam<Isa> {};

TEST_P(Turns, SpeculativeDecodingAndNextTurn) {
  for (const think_dtype dtype : {THINK_F32, THINK_F16, THINK_BF16}) {
    const think_problem problem = make_problem(64, 3, dtype);
    const Plan plan(problem, GetParam().name);
    Options options{problem, {205, 90}};
    options.later_tokens = 130;
    options.compact_page = 64;
    Flow flow(plan, options);
    flow.prefill();
    flow.measure();
    flow.prune({{33, 20, 40, 50}, {32, 16, 64, 40}, true});
    std::vector<int64_t> total{205, 90};
    // Ragged numbers of new tokens; the fourth turn is longer than a window and than any block of queries.
    for (const std::vector<int32_t> &fresh :
         {std::vector<int32_t>{1, 1}, std::vector<int32_t>{8, 3}, std::vector<int32_t>{0, 5}, std::vector<int32_t>{63, 37}}) {
      const std::vector<int64_t> before = total;
      for (size_t s = 0; s < total.size(); ++s) total[s] += fresh[s];
      flow.append(before, total);
      expect_close(flow.expected(total, fresh), flow.attend(total, fresh), tolerance_for(problem), "turn of " + std::to_string(fresh[0]));
    }
    expect_close(flow.expected(total, {2, 2}, nullptr, false), flow.attend(total, {2, 2}, nullptr, false), tolerance_for(problem),
                 "no causal segment");
  }
}

TEST_P(Turns, FoldedBlocksJoinTheTiles) {
  const think_problem problem = make_problem(80, 4, THINK_F16);
  const Plan plan(problem, GetParam().name);
  Options options{problem, {133, 210}};
  options.later_tokens = 160;
  options.compact_page = 32;
  options.slot = {1, 0};
  Flow flow(plan, options);
  flow.prefill();
  flow.measure();
  flow.prune({{40, 25, 56, 31}, {48, 40, 8, 80}, true});
  ASSERT_EQ((std::vector<int32_t>{96, 160}), flow.compacted);
  std::vector<int64_t> total{133, 210};
  // One block each, then two of one sequence and none of the other, then both.
  for (const std::vector<int32_t> &rows : {std::vector<int32_t>{32, 32}, std::vector<int32_t>{64, 0}, std::vector<int32_t>{32, 64}}) {
    const std::vector<int64_t> before = total;
    for (size_t s = 0; s < total.size(); ++s) total[s] += rows[s] + 1;
    flow.append(before, total);
    const std::vector<unsigned char> basis(reinterpret_cast<unsigned char *>(flow.compact->key_basis.index),
                                           reinterpret_cast<unsigned char *>(flow.compact->key_basis.index + 2 * 2 * 80));
    flow.fold(rows);
    EXPECT_EQ(0, std::memcmp(basis.data(), flow.compact->key_basis.index, basis.size())) << "a fold changed the basis";
    expect_close(flow.expected(total, {3, 1}), flow.attend(total, {3, 1}), tolerance_for(problem), "after a fold");
  }
}

TEST_P(Turns, SoftCapAndSinkLogits) {
  for (const float softcap : {0.0f, 1.5f, 30.0f}) {
    think_problem problem = make_problem(64, 2, THINK_F16);
    problem.softcap = softcap;
    problem.scale = 0.2f;
    const Plan plan(problem, GetParam().name);
    Flow flow(plan, Options{problem, {140}});
    flow.prefill();
    flow.measure();
    flow.append({140}, {144});
    flow.prune({uniform(flow, 30), uniform(flow, 40), true});
    const float sink[4] = {-3.0f, 0.0f, 5.0f, 40.0f};
    const Tolerance tolerance = tolerance_for(problem);
    expect_close(flow.expected({144}, {3}), flow.attend({144}, {3}), tolerance, "soft cap " + std::to_string(softcap));
    const Output with = flow.attend({144}, {3}, sink);
    expect_close(flow.expected({144}, {3}, sink), with, tolerance, "sink logits, soft cap " + std::to_string(softcap));
    EXPECT_EQ(flow.attend({144}, {3}).lse, with.lse) << "the LSE counts no sink logit";
  }
}

// Constants of bases and logits of hundreds: the sums must neither overflow nor lose the small rows.
TEST_P(Turns, LargeLogits) {
  think_problem problem = make_problem(64, 2, THINK_F32);
  problem.scale = 30.0f;
  const Plan plan(problem, GetParam().name);
  Flow flow(plan, Options{problem, {140}});
  flow.prefill();
  flow.measure();
  flow.append({140}, {144});
  flow.prune({uniform(flow, 30), uniform(flow, 40), true});
  const Output expected = flow.expected({144}, {3});
  const double largest = *std::max_element(expected.lse.begin(), expected.lse.end());
  ASSERT_GT(largest, 200.0);
  // An error of a logit is an error of the output: 2^-24 of the largest product, a few times.
  expect_close(expected, flow.attend({144}, {3}), {largest * 5e-7, 5e-7}, "large logits");
}

TEST_P(Turns, MergeEqualsOneAttendOverBoth) {
  for (const think_dtype dtype : {THINK_F32, THINK_F16}) {
    const think_problem problem = make_problem(64, 3, dtype);
    const Plan plan(problem, GetParam().name);
    Options options{problem, {170, 68}};
    Flow flow(plan, options);
    flow.prefill();
    flow.measure();
    const std::vector<int64_t> total{175, 70};
    flow.append({170, 68}, total);
    flow.prune({uniform(flow, 33), uniform(flow, 24), true});
    const Output both = flow.attend(total, {2, 2});

    // The same rows in three calls: sinks, compact, window.
    const std::vector<int32_t> sinks{4, 4}, first{4 + flow.compacted[0], 4 + flow.compacted[1]};
    const std::vector<int32_t> window{175 - first[0], 70 - first[1]};
    std::vector<think_segment> parts{flow.dense_segment(sinks), flow.compact->segment,
                                     flow.dense_segment(window, &first, THINK_SEGMENT_CAUSAL)};
    parts[1].lengths = flow.compacted.data();
    parts[1].lengths_stride[0] = 1;
    Tensor query(THINK_F32, 2, problem.query_heads, 2, 64);
    for (int32_t s = 0; s < 2; ++s) {
      for (int32_t head = 0; head < problem.query_heads; ++head) {
        for (int32_t i = 0; i < 2; ++i) {
          for (int32_t c = 0; c < 64; ++c)
            query.set(s, head, i, c, flow.element(flow.sequences[s].query, s, head, total[s] - 2 + i, c, 64));
        }
      }
    }
    std::vector<Tensor> partial;
    std::vector<think_tensor> views;
    std::vector<std::vector<float>> lses(3, std::vector<float>(2 * problem.query_heads * 2));
    std::vector<const float *> lse_pointers;
    for (int32_t part = 0; part < 3; ++part) {
      partial.emplace_back(THINK_F32, 2, problem.query_heads, 2, 64);
      const Launch launch(plan, THINK_STAGE_ATTEND, extent_of(2, 2, 175, 1), THINK_LAUNCH_CHECK);
      THINK_CALL(think_attend, plan, query.view(), nullptr, &parts[part], 1, nullptr, partial[part].view(), lses[part].data(),
                 launch.get());
      views.push_back(*partial[part].view());
      lse_pointers.push_back(lses[part].data());
    }
    Tensor merged(THINK_F32, 2, problem.query_heads, 2, 64);
    std::vector<float> lse(lses[0].size());
    const Launch launch(plan, THINK_STAGE_ATTEND, extent_of(2, 2, 175, 3));
    THINK_CALL(think_merge, plan, views.data(), lse_pointers.data(), 3, merged.view(), lse.data(), launch.get());
    Output result;
    for (int32_t s = 0; s < 2; ++s) {
      for (int32_t head = 0; head < problem.query_heads; ++head) {
        for (int32_t i = 0; i < 2; ++i) {
          std::vector<double> row;
          for (int32_t c = 0; c < 64; ++c) row.push_back(merged.get(s, head, i, c));
          result.rows.push_back(row);
          result.lse.push_back(lse[static_cast<size_t>((s * problem.query_heads + head) * 2 + i)]);
        }
      }
    }
    expect_close(both, result, {2e-5, 1e-5}, "merged");
    // In place, and with a part that saw nothing.
    std::fill(lses[0].begin(), lses[0].end(), -std::numeric_limits<float>::infinity());
    for (int64_t i = 0; i < partial[0].memory().bytes() / 4; ++i) partial[0].memory().data<float>()[i] = 0;
    const std::vector<float> only(partial[1].memory().data<float>(), partial[1].memory().data<float>() + partial[1].memory().bytes() / 4);
    const std::vector<float> only_lse = lses[1];
    THINK_CALL(think_merge, plan, views.data(), lse_pointers.data(), 2, &views[1], lses[1].data(), launch.get());
    for (size_t i = 0; i < only.size(); ++i) ASSERT_NEAR(only[i], partial[1].memory().data<float>()[i], 1e-6 * std::fabs(only[i]) + 1e-9);
    for (size_t i = 0; i < only_lse.size(); ++i) ASSERT_NEAR(only_lse[i], lses[1][i], 1e-6 * std::fabs(only_lse[i]));
  }
}

// A query that sees no row at all.
TEST_P(Turns, NothingToSee) {
  const think_problem problem = make_problem(64, 2, THINK_F16);
  const Plan plan(problem, GetParam().name);
  Flow flow(plan, Options{problem, {64}});
  flow.prefill();
  Tensor query(THINK_F32, 1, 4, 1, 64), output(THINK_F32, 1, 4, 1, 64);
  for (int32_t head = 0; head < 4; ++head) {
    for (int32_t c = 0; c < 64; ++c) query.set(0, head, 0, c, 1);
  }
  const std::vector<int32_t> none{0};
  const think_segment segment = flow.dense_segment(none);
  const Launch launch(plan, THINK_STAGE_ATTEND, extent_of(1, 1, 1, 1), THINK_LAUNCH_CHECK);
  for (const bool sink : {false, true}) {
    const float logits[4] = {1, 2, 3, 4};
    float lse[4] = {7, 7, 7, 7};
    THINK_CALL(think_attend, plan, query.view(), nullptr, &segment, 1, sink ? logits : nullptr, output.view(), lse, launch.get());
    for (int32_t head = 0; head < 4; ++head) {
      EXPECT_EQ(-std::numeric_limits<float>::infinity(), lse[head]);
      for (int32_t c = 0; c < 64; ++c) EXPECT_EQ(0.0, output.get(0, head, 0, c));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Turns, ::testing::ValuesIn(available_isas()), [](const auto &test) { return std::string(test.param.name); });

}  // namespace
}  // namespace flow
