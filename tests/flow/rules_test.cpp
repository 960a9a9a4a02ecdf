// The rules of the paper and of its reference code, one by one: what is counted, what is dropped, what is not. (Keys and queries are scored
// as they come, after RoPE; the recorded vectors of kvpress_test.cpp come from a model that rotates.)
#include "compare.h"

namespace flow {
namespace {

// One sequence, its queries and keys scored in one update; rows as in Sequence.
std::vector<float> score_of(const Plan &plan, const think_problem &problem, const Sequence &sequence, uint32_t flags = 0) {
  int64_t bytes = 0;
  THINK_CALL(think_score_state_size, plan, 1, &bytes);
  const Memory state(bytes);
  const Launch launch(plan, THINK_STAGE_SCORE, extent_of(1, 1, sequence.tokens), THINK_LAUNCH_CHECK);
  THINK_CALL(think_score_reset, plan, state.data(), nullptr, launch.get());
  Tensor query(problem.query_dtype, 1, problem.query_heads, sequence.tokens, problem.key_channels);
  Tensor key(problem.cache_dtype, 1, problem.kv_heads, sequence.tokens, problem.key_channels);
  size_t at = 0;
  for (int32_t head = 0; head < problem.query_heads; ++head) {
    for (int64_t t = 0; t < sequence.tokens; ++t) {
      for (int32_t c = 0; c < problem.key_channels; ++c) query.set(0, head, t, c, sequence.query[at++]);
    }
  }
  at = 0;
  for (int32_t head = 0; head < problem.kv_heads; ++head) {
    for (int64_t t = 0; t < sequence.tokens; ++t) {
      for (int32_t c = 0; c < problem.key_channels; ++c) key.set(0, head, t, c, sequence.key[at++]);
    }
  }
  THINK_CALL(think_score_update, plan, query.view(), key.view(), nullptr, state.data(), launch.get());
  think_score_options options = THINK_SCORE_OPTIONS_INIT;
  options.flags = flags;
  std::vector<float> score(static_cast<size_t>(flags & THINK_SCORE_QUERY_HEADS ? problem.query_heads : problem.kv_heads) *
                           problem.key_channels);
  THINK_CALL(think_score_finish, plan, state.data(), nullptr, &options, score.data(), launch.get());
  return score;
}

// Per query head: sum of q^2 over the window times sum of k^2 over all tokens.
std::vector<double> expected_per_query_head(const think_problem &problem, const Sequence &sequence) {
  const int32_t group = problem.query_heads / problem.kv_heads, channels = problem.key_channels;
  std::vector<double> score;
  for (int32_t head = 0; head < problem.query_heads; ++head) {
    for (int32_t c = 0; c < channels; ++c) {
      double query = 0, key = 0;
      for (int64_t t = 0; t < sequence.tokens; ++t) {
        if (t >= sequence.tokens - problem.window) query += std::pow(sequence.query[(head * sequence.tokens + t) * channels + c], 2);
        key += std::pow(sequence.key[(head / group * sequence.tokens + t) * channels + c], 2);
      }
      score.push_back(query * key);
    }
  }
  return score;
}

// think_select() for the one slot of a plan; returns index, the mask goes to `mask`.
std::vector<int32_t> select(const Plan &plan, const think_problem &problem, const std::vector<float> &score, int32_t kept,
                            std::vector<uint8_t> *mask = nullptr, int32_t round_to = 0) {
  int64_t bytes = 0;
  THINK_CALL(think_basis_size, plan, THINK_KEYS, 1, &bytes, nullptr);
  const Memory memory(bytes);
  think_basis basis = THINK_BASIS_INIT;
  THINK_CALL(think_basis_bind, plan, THINK_KEYS, 1, memory.data(), bytes, &basis);
  think_select_options options = THINK_SELECT_OPTIONS_INIT;
  options.side = THINK_KEYS;
  options.kept = kept;
  options.round_to = round_to;
  std::vector<uint8_t> chosen(score.size(), 2);
  const Launch launch(plan, THINK_STAGE_SELECT, extent_of(1, 1, 1));
  THINK_CALL(think_select, plan, score.data(), nullptr, &options, nullptr, &basis, chosen.data(), launch.get());
  const int32_t width = round_to ? std::min((kept + round_to - 1) / round_to * round_to, problem.key_channels) : kept;
  for (int32_t head = 0; head < problem.kv_heads; ++head) {
    EXPECT_EQ(width, basis.kept[head]);
    EXPECT_EQ(-1, basis.weight_offset[head]) << "no prediction before think_fit()";
    const int32_t *index = basis.index + head * problem.key_channels;
    EXPECT_TRUE(std::is_sorted(index, index + width)) << "kept channels ascend";
    EXPECT_TRUE(std::is_sorted(index + width, index + problem.key_channels)) << "dropped channels ascend";
    std::vector<int32_t> all(index, index + problem.key_channels);
    std::sort(all.begin(), all.end());
    for (int32_t c = 0; c < problem.key_channels; ++c) EXPECT_EQ(c, all[c]);
    for (int32_t i = 0; i < problem.key_channels; ++i) EXPECT_EQ(i < width ? 1 : 0, chosen[head * problem.key_channels + index[i]]);
  }
  if (mask) *mask = chosen;
  return {basis.index, basis.index + problem.kv_heads * problem.key_channels};
}

// The number that goes is int(D * ratio), in double.
TEST(Rules, TruncatedWidths) {
  const std::pair<double, int32_t> table[] = {{0.0, 128}, {0.2, 103}, {0.3, 90}, {0.4, 77}, {0.5, 64}, {0.6, 52}, {0.7, 39}, {0.8, 26}};
  for (const auto &[ratio, kept] : table) EXPECT_EQ(kept, think_kept_channels(128, ratio)) << ratio;
  EXPECT_EQ(39, think_kept_channels(64, 0.4));
  EXPECT_EQ(48, think_kept_channels(80, 0.4));
  // 100 * 0.29 is 28.999999999999996 in double: the reference code keeps 72. In float it would keep 71.
  EXPECT_EQ(72, think_kept_channels(100, 0.29));
  EXPECT_EQ(1, think_kept_channels(128, 0.9999));
  EXPECT_EQ(-1, think_kept_channels(128, 1.0));
  EXPECT_EQ(-1, think_kept_channels(128, -0.1));
  EXPECT_EQ(-1, think_kept_channels(128, std::nan("")));
  EXPECT_EQ(-1, think_kept_channels(0, 0.5));
}

// The sum over the group's query heads ranks channels like their mean; per query head is there for parity with the reference code.
TEST(Rules, ScoreAndGroups) {
  for (const Isa &isa : available_isas()) {
    for (const think_dtype dtype : {THINK_F32, THINK_F16, THINK_BF16}) {
      for (const int64_t tokens : {1, 31, 32, 33, 150}) {
        think_problem problem = make_problem(80, 3, dtype);
        problem.query_dtype = dtype;
        const Plan plan(problem, isa.name);
        const Sequence sequence = make_sequence(problem, tokens, 5);
        const std::vector<double> expected = expected_per_query_head(problem, sequence);
        const std::vector<float> per_head = score_of(plan, problem, sequence, THINK_SCORE_QUERY_HEADS),
                                 grouped = score_of(plan, problem, sequence);
        for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(expected[i], per_head[i], 2e-5 * expected[i]) << isa.name << " " << tokens;
        std::vector<float> mean;
        for (int32_t head = 0; head < problem.kv_heads; ++head) {
          for (int32_t c = 0; c < 80; ++c) {
            double sum = 0;
            for (int32_t member = 0; member < 3; ++member) sum += expected[(head * 3 + member) * 80 + c];
            ASSERT_NEAR(sum, grouped[head * 80 + c], 2e-5 * sum) << isa.name << " " << tokens;
            mean.push_back(static_cast<float>(sum / 3));
          }
        }
        EXPECT_EQ(select(plan, problem, mean, 32), select(plan, problem, grouped, 32));
      }
    }
  }
}

// Only the last 32 queries count, and all keys count: those of the recent window, which is not pruned, and the sinks as well.
TEST(Rules, WindowOfQueriesAllKeys) {
  const think_problem problem = make_problem(64, 2, THINK_F32);
  const Plan plan(problem);
  Sequence sequence = make_sequence(problem, 100, 6);
  const std::vector<float> before = score_of(plan, problem, sequence);
  Sequence other = sequence;
  for (int32_t head = 0; head < problem.query_heads; ++head) {
    for (int64_t i = 0; i < 68 * 64; ++i) other.query[head * 100 * 64 + i] = 1e3;
  }
  EXPECT_EQ(before, score_of(plan, problem, other)) << "queries before the window have no part";
  other.query[68 * 64] = 1e3;
  EXPECT_NE(before, score_of(plan, problem, other)) << "the oldest query of the window has";
  for (const int64_t token : {0, 50, 99}) {
    other = sequence;
    double &changed = other.key[(1 * 100 + token) * 64 + 17];
    double sum = 0;
    for (int64_t t = 0; t < 100; ++t) sum += std::pow(sequence.key[(100 + t) * 64 + 17], 2);
    const double factor = (sum - changed * changed + 49) / sum;
    changed = 7;
    const std::vector<float> after = score_of(plan, problem, other);
    for (size_t i = 0; i < before.size(); ++i) {
      ASSERT_NEAR(before[i] * (i == 64 + 17 ? factor : 1), after[i], 1e-5 * after[i]) << "token " << token << ", channel " << i;
    }
  }
}

// The reference code scores in the dtype of the model, where squares of f16 overflow at 256; here they do not, and what is not finite ranks
// first.
TEST(Rules, OverflowAndNaN) {
  for (const Isa &isa : available_isas()) {
    think_problem problem = make_problem(64, 1, THINK_F16, 1);
    problem.query_dtype = THINK_F16;
    const Plan plan(problem, isa.name);
    Sequence sequence = make_sequence(problem, 70, 7);
    for (int64_t t = 0; t < 70; ++t) sequence.key[t * 64 + 5] = t % 2 ? 300 : -4000, sequence.query[t * 64 + 5] = 300;
    std::vector<float> score = score_of(plan, problem, sequence);
    const double expected = 32 * 300.0 * 300.0 * 35 * (300.0 * 300.0 + 4000.0 * 4000.0);
    ASSERT_NEAR(expected, score[5], 1e-5 * expected) << isa.name;
    for (const float value : score) ASSERT_TRUE(std::isfinite(value));

    sequence.key[33 * 64 + 20] = std::nan("");
    sequence.query[69 * 64 + 9] = std::nan("");
    sequence.key[12 * 64 + 40] = std::numeric_limits<double>::infinity();
    score = score_of(plan, problem, sequence);
    EXPECT_EQ((std::vector<int32_t>{9, 20, 40}), [&] {
      std::vector<int32_t> index = select(plan, problem, score, 3);
      index.resize(3);
      return index;
    }()) << isa.name;
    // Equal among themselves: the lower channel first.
    EXPECT_EQ(9, select(plan, problem, score, 1)[0]);
    std::vector<int32_t> two = select(plan, problem, score, 2);
    EXPECT_EQ(20, two[1]);
  }
}

TEST(Rules, EqualScoresKeepTheLowerChannel) {
  const think_problem problem = make_problem(128, 1, THINK_F16);
  const Plan plan(problem);
  std::vector<float> score(256, 3.5f);
  score[100] = score[101] = 4;  // head 0
  score[128 + 3] = 1;           // head 1
  for (const int32_t kept : {1, 2, 3, 77, 127, 128}) {
    std::vector<int32_t> expected(256);
    for (int32_t head = 0; head < 2; ++head) {
      std::vector<int32_t> order(128);
      for (int32_t c = 0; c < 128; ++c) order[c] = c;
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return score[head * 128 + a] > score[head * 128 + b]; });
      std::sort(order.begin(), order.begin() + kept);
      std::sort(order.begin() + kept, order.end());
      std::copy(order.begin(), order.end(), expected.begin() + head * 128);
    }
    EXPECT_EQ(expected, select(plan, problem, score, kept)) << kept;
  }
}

// Rounding widths up is an option; the places won go to the next best channels.
TEST(Rules, RoundedWidthsAreNested) {
  const think_problem problem = make_problem(128, 2, THINK_F16);
  const Plan plan(problem);
  const std::vector<float> score = score_of(plan, problem, make_sequence(problem, 90, 8));
  std::vector<uint8_t> exact, rounded_up, wider;
  select(plan, problem, score, 77, &exact);
  select(plan, problem, score, 77, &rounded_up, 8);
  select(plan, problem, score, 80, &wider);
  EXPECT_EQ(wider, rounded_up);
  for (size_t i = 0; i < exact.size(); ++i) EXPECT_LE(exact[i], rounded_up[i]);
}

// Padding has no part in a statistic: rows behind the end of a sequence are NaN, and each sequence scores as it does alone.
TEST(Rules, PaddingIsNotScored) {
  const think_problem problem = make_problem(64, 2, THINK_F16);
  const Plan plan(problem);
  Options options{problem, {90, 33, 5}};
  Flow padded(plan, options);
  padded.prefill();
  options.packed = true;
  Flow packed(plan, options);
  packed.prefill();
  for (size_t i = 0; i < padded.score.size(); ++i) {
    ASSERT_TRUE(std::isfinite(padded.score[i]));
    ASSERT_EQ(padded.score[i], packed.score[i]);
  }
  for (int32_t s = 0; s < 3; ++s) {
    Sequence alone = padded.sequences[s];
    Sequence cut{options.tokens[s], {}, {}, {}};
    for (int32_t head = 0; head < problem.query_heads; ++head) {
      const auto begin = alone.query.begin() + head * alone.tokens * 64;
      cut.query.insert(cut.query.end(), begin, begin + cut.tokens * 64);
    }
    for (int32_t head = 0; head < problem.kv_heads; ++head) {
      const auto begin = alone.key.begin() + head * alone.tokens * 64;
      cut.key.insert(cut.key.end(), begin, begin + cut.tokens * 64);
    }
    const std::vector<float> expected = score_of(plan, problem, cut);
    for (int32_t i = 0; i < 128; ++i) ASSERT_NEAR(expected[i], padded.score[s * 128 + i], 1e-5 * expected[i]);
  }
}

// Logits are divided by the square root of the whole head size, however few channels are left.
TEST(Rules, ScaleOfTheFullHead) {
  think_problem problem = make_problem(64, 2, THINK_F16);
  const auto run = [&](float scale) {
    problem.scale = scale;
    const Plan plan(problem);
    Flow flow(plan, Options{problem, {140}});
    flow.prefill();
    flow.append({140}, {141});
    flow.prune({uniform(flow, 16), {}});
    return flow.attend({141}, {1});
  };
  const Output by_default = run(0);
  EXPECT_TRUE(same_bits(by_default, run(0.125f)));  // 1 / sqrt(64)
  EXPECT_FALSE(same_bits(by_default, run(0.25f)));  // 1 / sqrt(16)
}

// The score of value channels in the paper's appendix: the energy of the attention output over window and group.
TEST(Rules, ValueScore) {
  const think_problem problem = make_problem(64, 3, THINK_F16);
  const Plan plan(problem);
  const Sequence sequence = make_sequence(problem, 32, 9);
  Tensor attention(THINK_F32, 1, problem.query_heads, 32, 64, Order::tokens_first, 8);
  std::vector<double> expected(128, 0.0);
  for (int32_t head = 0; head < problem.query_heads; ++head) {
    for (int32_t t = 0; t < 32; ++t) {
      for (int32_t c = 0; c < 64; ++c) {
        const double value = sequence.query[(head * 32 + t) * 64 + c];
        attention.set(0, head, t, c, value);
        expected[head / 3 * 64 + c] += value * value;
      }
    }
  }
  std::vector<float> score(128);
  const Launch launch(plan, THINK_STAGE_SCORE, extent_of(1, 1, 32));
  THINK_CALL(think_value_score, plan, attention.view(), nullptr, score.data(), launch.get());
  for (int32_t i = 0; i < 128; ++i) EXPECT_NEAR(expected[i], score[i], 1e-5 * expected[i]);
}

}  // namespace
}  // namespace flow
