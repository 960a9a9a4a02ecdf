// Rows first, channels second: evict -> score -> select -> fit -> compact -> attend equals dense attention on the rows that were kept.
#include "compare.h"

namespace flow {
namespace {

constexpr int32_t kBudget = 104, kLater = 5;
constexpr int64_t kLong = 205, kShort = 61;  // the short sequence is left alone

struct Eviction {
  const char *name;
  think_evict_options options;
};

std::vector<Eviction> evictions() {
  const auto with = [](int32_t method, int32_t pooling) {
    think_evict_options options = THINK_EVICT_OPTIONS_INIT;
    options.method = method;
    options.budget = kBudget;
    options.pooling = pooling;
    options.score_stride = kLong + kLater;
    return options;
  };
  return {{"snapkv max", with(THINK_EVICT_SNAPKV, THINK_POOL_MAX)}, {"snapkv mean", with(THINK_EVICT_SNAPKV, THINK_POOL_MEAN)},
          {"h2o", with(THINK_EVICT_H2O, 0)},                        {"window", with(THINK_EVICT_WINDOW, 0)},
          {"tova", with(THINK_EVICT_TOVA, 0)},                      {"recent", with(THINK_EVICT_RECENT, 0)}};
}

struct Kept {
  std::vector<int32_t> rows, lengths;
};

// What the window's queries (or the options alone) keep of the dense cache.
Kept evict(Flow &flow, const Plan &plan, const think_evict_options &options, const int32_t *budget = nullptr) {
  const int32_t heads = flow.problem().kv_heads, count = flow.batch()->count;
  const bool recent = options.method == THINK_EVICT_RECENT;
  think_tensor window = THINK_TENSOR_INIT;
  THINK_CALL(think_score_window, plan, flow.state.data(), flow.options().slots, &window);
  std::vector<float> score(static_cast<size_t>(flow.options().slots * heads) * options.score_stride, 0.0f);
  Kept kept{std::vector<int32_t>(static_cast<size_t>(count) * heads * options.budget, -1), std::vector<int32_t>(count * heads, -1)};
  const std::vector<int32_t> lengths = flow.prefilled();
  const think_segment source = flow.dense_segment(lengths, nullptr, THINK_SEGMENT_CAUSAL);
  const Launch launch = flow.launch_for(THINK_STAGE_EVICT, extent_of(count, 1, kLong));
  THINK_CALL(think_evict, plan, recent ? nullptr : &window, &source, flow.batch(), &options, budget, recent ? nullptr : score.data(),
             kept.rows.data(), kept.lengths.data(), launch.get());
  return kept;
}

void move(Flow &from, const Flow &to, const Plan &plan, const Kept &kept) {
  const std::vector<int32_t> lengths = from.prefilled();
  const think_segment source = from.dense_segment(lengths);
  think_segment destination = to.dense_segment(kept.lengths);
  destination.lengths_stride[0] = from.problem().kv_heads;
  destination.lengths_stride[1] = 1;
  think_launch launch = THINK_LAUNCH_INIT;
  launch.flags = THINK_LAUNCH_CHECK;
  THINK_CALL(think_evict_move, plan, &source, &destination, from.batch(), kept.rows.data(), kBudget, nullptr, 0, &launch);
}

// The kept rows, the last queries and the tokens that come later, as a sequence of its own.
void take_kept(const Flow &from, Flow &to, const Kept &kept) {
  const think_problem &problem = from.problem();
  for (int32_t s = 0; s < from.batch()->count; ++s) {
    const int64_t before = from.options().tokens[s], after = to.options().tokens[s];
    const auto copy = [&](std::vector<double> Sequence::*rows, int32_t heads, int32_t channels, bool chosen) {
      for (int32_t head = 0; head < heads; ++head) {
        for (int64_t t = 0; t < after + kLater; ++t) {
          int64_t row = t - after + before;
          if (chosen && t < after) row = kept.rows[(s * heads + head) * kBudget + t];
          for (int32_t c = 0; c < channels; ++c) {
            (to.sequences[s].*rows)[(head * (after + kLater) + t) * channels + c] =
                from.element(from.sequences[s].*rows, s, head, row, c, channels);
          }
        }
      }
    };
    copy(&Sequence::query, problem.query_heads, problem.key_channels, false);
    copy(&Sequence::key, problem.kv_heads, problem.key_channels, true);
    copy(&Sequence::value, problem.kv_heads, problem.value_channels, true);
  }
}

TEST(Evict, EveryMethodWithEveryMode) {
  for (const Isa &isa : available_isas()) {
    for (const think_dtype dtype : {THINK_F16, THINK_BF16, THINK_F32}) {
      if (quick() && dtype != THINK_F16) continue;
      const think_problem problem = make_problem(64, 3, dtype);
      const Plan plan(problem, isa.name);
      for (const Eviction &eviction : evictions()) {
        Options options{problem, {kLong, kShort}, {2, 0}, 3};
        options.later_tokens = kLater;
        options.dense_page = dtype == THINK_BF16 ? 32 : 0;
        Flow full(plan, options);
        full.prefill();
        const Kept kept = evict(full, plan, eviction.options);
        EXPECT_EQ(kept.lengths, (std::vector<int32_t>{kBudget, kBudget, kShort, kShort}));

        Options less = options;
        less.tokens = {kBudget, kShort};
        less.dense_page = dtype == THINK_F32 ? 64 : 0;
        less.compact_page = 32;
        Flow flow(plan, less);
        take_kept(full, flow, kept);
        flow.prefill();
        // The rows in the cache are those that moved, not those that the test wrote.
        for (int32_t s = 0; s < 2; ++s) {
          for (int32_t head = 0; head < problem.kv_heads; ++head) {
            for (int64_t t = 0; t < less.tokens[s]; ++t) {
              for (int32_t c = 0; c < 64; ++c) {
                store(flow.source->key_row(s, flow.slot_of(s), head, t), dtype, c, 77);
                store(flow.source->value_row(s, flow.slot_of(s), head, t), dtype, c, 77);
              }
            }
          }
        }
        move(full, flow, plan, kept);
        const std::vector<int64_t> total{kBudget + kLater, kShort + kLater};
        flow.append(less.tokens, total);
        const auto compare = [&](const char *mode) {
          const std::string what = std::string(eviction.name) + ", " + mode + ", " + think_dtype_name(dtype) + " " + isa.name;
          expect_close(flow.expected(total, {1, 3}), flow.attend(total, {1, 3}), tolerance_for(problem), what);
        };
        compare("all channels");
        flow.prune({uniform(flow, 39), {}});
        compare("dropped channels zero");
        flow.measure();
        flow.prune({uniform(flow, 39), {}, true});
        compare("dropped channels predicted");
        flow.prune({uniform(flow, 32), uniform(flow, 40), true});
        compare("keys and values predicted");
        flow.prune({flow.adaptive_widths(THINK_KEYS, 28), flow.adaptive_widths(THINK_VALUES, 44), true});
        compare("adaptive widths");
      }
    }
  }
}

// Budgets that differ from head to head, moved in place: attention takes lengths per head.
TEST(Evict, LengthsPerHeadInPlace) {
  const think_problem problem = make_problem(64, 2, THINK_F16);
  const Plan plan(problem);
  Options options{problem, {kLong}, {}, 1};
  options.later_tokens = kLater;
  Flow flow(plan, options);
  flow.prefill();
  think_evict_options eviction = evictions()[0].options;
  const std::vector<int32_t> budget{50, 97};
  const Kept kept = evict(flow, plan, eviction, budget.data());
  ASSERT_EQ(kept.lengths, budget);
  move(flow, flow, plan, kept);
  think_segment rows = flow.dense_segment(kept.lengths);
  rows.lengths_stride[0] = problem.kv_heads;
  rows.lengths_stride[1] = 1;
  std::vector<float> query(problem.query_heads * 64), output(query.size(), NAN);
  for (int32_t head = 0; head < problem.query_heads; ++head) {
    for (int32_t c = 0; c < 64; ++c) query[head * 64 + c] = static_cast<float>(flow.element(flow.sequences[0].query, 0, head, kLong, c, 64));
  }
  think_tensor query_view = THINK_TENSOR_INIT;
  query_view.dtype = THINK_F32;
  query_view.data = query.data();
  const int64_t extent[4] = {1, problem.query_heads, 1, 64}, stride[4] = {problem.query_heads * 64, 64, 64, 1};
  std::copy(extent, extent + 4, query_view.extent);
  std::copy(stride, stride + 4, query_view.stride);
  think_tensor output_view = query_view;
  output_view.data = output.data();
  const Launch launch = flow.launch_for(THINK_STAGE_ATTEND, extent_of(1, 1, kLong, 1));
  THINK_CALL(think_attend, plan, &query_view, flow.batch(), &rows, 1, nullptr, &output_view, nullptr, launch.get());
  for (int32_t head = 0; head < problem.query_heads; ++head) {
    const int32_t kv_head = head / 2;
    dense::Rows left{64, 64, {}, {}};
    for (int32_t i = 0; i < budget[kv_head]; ++i) {
      const int32_t row = kept.rows[kv_head * kBudget + i];
      for (int32_t c = 0; c < 64; ++c) {
        left.key.push_back(flow.element(flow.sequences[0].key, 0, kv_head, row, c, 64));
        left.value.push_back(flow.element(flow.sequences[0].value, 0, kv_head, row, c, 64));
      }
    }
    const std::vector<double> q(query.begin() + head * 64, query.begin() + (head + 1) * 64);
    const dense::Attention want = dense::attend(q.data(), left, left.count(), {problem.scale, 0, nullptr});
    for (int32_t c = 0; c < 64; ++c) EXPECT_NEAR(want.output[c], output[head * 64 + c], 2e-5) << "head " << head;
  }
}

// H2O over two steps: sums of rows that went are gone, those of the rest move with them, and new rows start from nothing. Then the caller's own.
TEST(Evict, SumsMoveWithTheirRows) {
  const think_problem problem = make_problem(64, 2, THINK_F16, 1);
  const Plan plan(problem);
  Options options{problem, {kLong}, {}, 1};
  Flow flow(plan, options);
  flow.prefill();
  think_tensor window = THINK_TENSOR_INIT;
  THINK_CALL(think_score_window, plan, flow.state.data(), 1, &window);
  think_evict_options eviction = THINK_EVICT_OPTIONS_INIT;
  eviction.method = THINK_EVICT_H2O;
  eviction.budget = 80;
  eviction.score_stride = kLong;
  std::vector<float> score(kLong, 0.0f);
  std::vector<int32_t> kept(80), length(1), full{static_cast<int32_t>(kLong)};
  const Launch launch = flow.launch_for(THINK_STAGE_EVICT, extent_of(1, 1, kLong));
  think_segment rows = flow.dense_segment(full, nullptr, THINK_SEGMENT_CAUSAL);
  THINK_CALL(think_evict, plan, &window, &rows, flow.batch(), &eviction, nullptr, score.data(), kept.data(), length.data(), launch.get());
  double sum = 0;
  for (const float value : score) sum += value;
  EXPECT_NEAR(sum, 64, 1e-3) << "each of 2 x 32 queries gives away one";
  const std::vector<float> before = score;
  think_segment shorter = flow.dense_segment(length);
  THINK_CALL(think_evict_move, plan, &rows, &shorter, flow.batch(), kept.data(), 80, score.data(), kLong, nullptr);
  for (int32_t i = 0; i < kLong; ++i) EXPECT_EQ(score[i], i < 80 ? before[kept[i]] : 0) << i;
  const std::vector<float> moved = score;
  THINK_CALL(think_evict, plan, &window, &shorter, flow.batch(), &eviction, nullptr, score.data(), kept.data(), length.data(), launch.get());
  for (int32_t i = 0; i < 80; ++i) EXPECT_GT(score[i], moved[i]);
  // Scores of the caller's own: the highest 40 but for the recent ones.
  for (int32_t i = 0; i < 80; ++i) score[i] = static_cast<float>((i * 37) % 80);
  const std::vector<float> own = score;
  eviction.budget = 40;
  eviction.recent = -1;
  THINK_CALL(think_evict, plan, nullptr, &shorter, flow.batch(), &eviction, nullptr, score.data(), kept.data(), length.data(), launch.get());
  EXPECT_EQ(score, own);
  EXPECT_EQ(length[0], 40);
  for (int32_t i = 0; i < 40; ++i) EXPECT_GE(score[kept[i]], 40);
}

}  // namespace
}  // namespace flow
