// The promise of the library: attention over a compact cache is dense attention over the rows that the basis stands for.
#include "compare.h"

namespace flow {
namespace {

const std::vector<int32_t> kChannels{64, 80, 128, 256}, kGroups{1, 3, 4, 8};
const std::vector<think_dtype> kDtypes{THINK_F32, THINK_F16, THINK_BF16};

std::string name_of(const think_problem &problem, const char *isa, const char *what) {
  return std::string(what) + " D=" + std::to_string(problem.key_channels) + " G=" + std::to_string(problem.query_heads / problem.kv_heads) +
         " " + think_dtype_name(problem.cache_dtype) + " " + isa;
}

// Every instruction set, dtype, head size and group: dense, all channels kept, the paper's pruning, and the regression, one query and five.
TEST(Attention, EqualsDenseOnWhatTheBasisStandsFor) {
  for (const Isa &isa : available_isas()) {
    for (const think_dtype dtype : kDtypes) {
      for (const int32_t channels : kChannels) {
        for (const int32_t group : kGroups) {
          if (quick() && (channels != 80 || group % 3 != 0) && (channels != 64 || group != 4)) continue;
          const think_problem problem = make_problem(channels, group, dtype);
          const Plan plan(problem, isa.name);
          ASSERT_EQ(isa.id, plan.isa());
          Options options{problem, {133}};
          options.later_tokens = 5;
          Flow flow(plan, options);
          flow.prefill();
          flow.append({133}, {138});
          const Tolerance tolerance = tolerance_for(problem);
          const auto compare = [&](const char *what) {
            for (const int32_t fresh : {1, 5}) {
              expect_close(flow.expected({138}, {fresh}), flow.attend({138}, {fresh}), tolerance, name_of(problem, isa.name, what));
            }
          };
          compare("dense");
          const Output dense = flow.expected({138}, {1});
          flow.prune({uniform(flow, channels), {}});
          expect_close(dense, flow.attend({138}, {1}), tolerance, name_of(problem, isa.name, "ratio 0 against dense"));
          const int32_t kept = think_kept_channels(channels, 0.4);
          flow.prune({uniform(flow, kept), {}});
          compare("dropped channels zero");
          flow.measure();
          flow.prune({uniform(flow, kept), {}, true});
          compare("dropped channels predicted");
          flow.prune({uniform(flow, kept), uniform(flow, channels / 16 * 8), true});
          compare("keys and values predicted");
        }
      }
    }
  }
}

// The mathematics behind the oracle, spelled out once without it: zeroed channels, full-width scale.
TEST(Attention, ZeroedChannelsByHand) {
  const think_problem problem = make_problem(64, 2, THINK_F32);
  const Plan plan(problem);
  Flow flow(plan, Options{problem, {164}});
  flow.prefill();
  flow.append({164}, {165});
  flow.prune({uniform(flow, 39), {}});
  const Output actual = flow.attend({165}, {1});
  for (int32_t head = 0; head < problem.query_heads; ++head) {
    const int32_t kv_head = head / 2;
    dense::Rows rows = flow.full_rows(0, kv_head, 165);
    // Rows 4 .. 132 were moved; read the mask and not the basis.
    for (int64_t t = 0; t < 165; ++t) {
      for (int32_t c = 0; c < 64; ++c) {
        const bool gone = t >= 4 && t < 132 && !flow.mask[kv_head * 64 + c];
        rows.key[t * 64 + c] = gone ? 0 : flow.element(flow.sequences[0].key, 0, kv_head, t, c, 64);
      }
    }
    ASSERT_EQ(39, std::count(flow.mask.begin() + kv_head * 64, flow.mask.begin() + kv_head * 64 + 64, 1));
    const double *query = flow.sequences[0].query.data() + (head * flow.sequences[0].tokens + 164) * 64;
    const dense::Attention expected = dense::attend(query, rows, 165, {1 / std::sqrt(64.0), 0, nullptr});
    for (int32_t c = 0; c < 64; ++c) EXPECT_NEAR(expected.output[c], actual.rows[head][c], 2e-5);
    EXPECT_NEAR(expected.lse, actual.lse[head], 2e-5);
  }
}

// Widths that are no multiple of anything, different in every head, down to one channel; value widths in steps of 8.
TEST(Attention, WidthsPerHead) {
  const std::vector<int32_t> widths{1, 7, 8, 9, 16, 39, 40, 52, 63, 64, 65, 77, 80, 127, 128}, value_widths{8, 128, 40, 16, 120};
  for (const Isa &isa : available_isas()) {
    for (const think_dtype dtype : kDtypes) {
      for (size_t first = 0; first < widths.size(); first += 5) {
        if (quick() && first != static_cast<size_t>(dtype == THINK_F16 ? 5 : 0)) continue;
        const think_problem problem = make_problem(128, 2, dtype, 5);
        const Plan plan(problem, isa.name);
        Options options{problem, {170}};
        options.seed = 11 + static_cast<uint32_t>(first);
        Flow flow(plan, options);
        flow.prefill();
        flow.measure();
        flow.append({170}, {172});
        const std::vector<int32_t> key(widths.begin() + first, widths.begin() + first + 5);
        for (const bool regress : {false, true}) {
          flow.prune({key, value_widths, regress});
          expect_close(flow.expected({172}, {2}), flow.attend({172}, {2}), tolerance_for(problem),
                       name_of(problem, isa.name, "widths per head"));
        }
      }
    }
  }
}

// Adaptive widths come from the gains; the totals are exact and the flow goes on with them.
TEST(Attention, AdaptiveWidths) {
  const think_problem problem = make_problem(64, 3, THINK_F16, 4);
  const Plan plan(problem);
  Options options{problem, {300, 200}};
  options.problem.max_batch = 2;
  Flow flow(plan, options);
  flow.prefill();
  flow.measure();
  flow.append({300, 200}, {301, 201});
  const std::vector<int32_t> key = flow.adaptive_widths(THINK_KEYS, 28), value = flow.adaptive_widths(THINK_VALUES, 44);
  for (int32_t s = 0; s < 2; ++s) {
    int32_t key_total = 0, value_total = 0;
    for (int32_t head = 0; head < 4; ++head) {
      EXPECT_GE(key[s * 4 + head], 8);
      EXPECT_EQ(0, key[s * 4 + head] % 8);
      EXPECT_EQ(0, value[s * 4 + head] % 8);
      key_total += key[s * 4 + head];
      value_total += value[s * 4 + head];
    }
    EXPECT_EQ(28 * 4 / 8 * 8, key_total);
    EXPECT_EQ(44 * 4, value_total);
  }
  flow.prune({key, value, true});
  expect_close(flow.expected({301, 201}, {1, 1}), flow.attend({301, 201}, {1, 1}), tolerance_for(problem), "adaptive");
}

// The regression is worth its bytes on rows whose channels depend on each other: closer to the dense result than zeros are.
TEST(Attention, PredictionBeatsZeros) {
  const think_problem problem = make_problem(64, 4, THINK_F16);
  const Plan plan(problem);
  Flow flow(plan, Options{problem, {420}});
  flow.prefill();
  flow.measure();
  flow.append({420}, {440});
  const Output dense = flow.expected({440}, {20});
  const auto distance = [&](const Choice &choice) {
    flow.prune(choice);
    const Output pruned = flow.attend({440}, {20});
    double sum = 0;
    for (size_t row = 0; row < dense.rows.size(); ++row) {
      for (size_t c = 0; c < dense.rows[row].size(); ++c) sum += std::pow(dense.rows[row][c] - pruned.rows[row][c], 2);
    }
    return std::sqrt(sum);
  };
  EXPECT_LT(distance({uniform(flow, 32), {}, true}), 0.7 * distance({uniform(flow, 32), {}, false}));
  EXPECT_LT(distance({{}, uniform(flow, 32), true}), 0.7 * distance({{}, uniform(flow, 32), false}));
}

// Queries and outputs of other dtypes, keys and values of different head sizes, compact rows instead of tiles and of another dtype than the
// dense ones.
TEST(Attention, OtherDtypesSizesAndFormats) {
  for (const Isa &isa : available_isas()) {
    for (const think_dtype fresh : {THINK_F16, THINK_BF16}) {
      for (const think_dtype cache : kDtypes) {
        think_problem problem = make_problem(96, 3, cache);
        problem.value_channels = cache == THINK_F16 ? 64 : 128;
        problem.query_dtype = problem.output_dtype = fresh;
        const Plan plan(problem, isa.name);
        Options options{problem, {170}};
        options.order = Order::tokens_first;
        Flow flow(plan, options);
        flow.prefill();
        flow.measure();
        flow.append({170}, {173});
        for (const int32_t layout : {THINK_ROWS, THINK_TILES}) {
          think_format format = THINK_FORMAT_INIT;
          format.key_layout = layout;
          format.key_dtype = layout == THINK_ROWS ? THINK_BF16 : THINK_F16;
          format.value_dtype = layout == THINK_ROWS ? THINK_F32 : THINK_BF16;
          flow.prune({uniform(flow, 52), uniform(flow, 40), true}, &format);
          expect_close(flow.expected({173}, {3}), flow.attend({173}, {3}), tolerance_for(problem),
                       name_of(problem, isa.name, layout == THINK_ROWS ? "rows" : "tiles"));
        }
      }
    }
  }
}

}  // namespace
}  // namespace flow
