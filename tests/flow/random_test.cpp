// Whole flows of random shape: head sizes, groups, widths, dtypes, lengths, storage, turns and folds together. Each is named by its seed,
// so a failure can be run again alone: THINK_TEST_SEED=<seed> THINK_TEST_COUNT=1.
#include "compare.h"

namespace flow {
namespace {

void run_random_flow(uint32_t seed) {
  std::mt19937 random(seed);
  const auto pick = [&](int32_t low, int32_t high) { return low + static_cast<int32_t>(random() % static_cast<uint32_t>(high - low + 1)); };
  const auto one_of = [&](const std::vector<int32_t> &values) { return values[random() % values.size()]; };
  const std::vector<int32_t> dtypes{THINK_F32, THINK_F16, THINK_BF16};

  think_problem problem = make_problem(8 * pick(1, 32), pick(1, 9), one_of(dtypes), pick(1, 4));
  problem.value_channels = 8 * pick(1, 32);
  problem.query_dtype = one_of(dtypes);
  problem.output_dtype = one_of(dtypes);
  problem.window = one_of({1, 5, 32, 33, 64});
  problem.softcap = pick(0, 3) ? 0.0f : 20.0f;
  const std::vector<Isa> isas = available_isas();
  const Plan plan(problem, isas[random() % isas.size()].name);

  Options options{problem, {}};
  const int32_t count = pick(1, 4);
  for (int32_t s = 0; s < count; ++s) options.tokens.push_back(pick(0, 3) ? pick(40, 300) : pick(0, 70));
  options.slots = count + pick(0, 2);
  for (int32_t s = 0; s < options.slots; ++s) options.slot.push_back(s);
  std::shuffle(options.slot.begin(), options.slot.end(), random);
  options.slot.resize(count);
  options.later_tokens = 120;
  options.dense_page = one_of({0, 32, 64, 160});
  options.compact_page = one_of({0, 32, 64, 96});
  options.sinks = pick(0, 5);
  options.recent = one_of({0, 1, 32, 50});
  options.chunk = pick(0, 1) ? 0 : pick(1, 100);
  options.packed = pick(0, 1);
  options.order = pick(0, 1) ? Order::heads_first : Order::tokens_first;
  options.slices = one_of({0, 0, 2, 5});
  options.reversed = pick(0, 1);
  options.one_workspace = pick(0, 1);
  options.launch_flags = pick(0, 1) ? THINK_LAUNCH_CHECK : 0;
  options.seed = seed;

  Flow flow(plan, options);
  flow.prefill();
  flow.measure();
  Choice choice;
  choice.regress = pick(0, 2) > 0;
  for (int32_t i = 0; i < count * problem.kv_heads; ++i) {
    choice.key.push_back(pick(1, problem.key_channels));
    choice.value.push_back(8 * pick(1, problem.value_channels / 8));
  }
  if (pick(0, 3) == 0) choice.value.clear();
  if (pick(0, 5) == 0) choice.key.clear();
  think_format format = THINK_FORMAT_INIT;
  format.key_layout = one_of({THINK_TILES, THINK_TILES, THINK_ROWS});
  format.key_dtype = one_of({0, 0, THINK_F32, THINK_F16, THINK_BF16});
  format.value_dtype = one_of({0, 0, THINK_F32, THINK_F16, THINK_BF16});
  flow.prune(choice, &format);

  const Tolerance tolerance = tolerance_for(problem);
  std::vector<float> sinks;
  for (int32_t head = 0; head < problem.query_heads; ++head) sinks.push_back(static_cast<float>(pick(-4, 4)));
  std::vector<int64_t> total(options.tokens);
  for (int turn = 0; turn < 3; ++turn) {
    std::vector<int32_t> fresh;
    const std::vector<int64_t> before = total;
    for (int32_t s = 0; s < count; ++s) {
      // A sequence without any token yet must get one before it can be attended to.
      const int32_t longest = turn == 1 ? 40 : 4;
      fresh.push_back(pick(before[s] == 0 ? 1 : 0, longest));
      total[s] += fresh[s];
    }
    if (*std::max_element(fresh.begin(), fresh.end()) == 0) continue;
    flow.append(before, total);
    if (turn == 2) {
      std::vector<int32_t> rows;
      for (int32_t s = 0; s < count; ++s) {
        // Only what was pruned has a basis to be folded with; rows of new queries are never folded.
        const int64_t dense_rows = total[s] - fresh[s] - options.sinks - flow.compacted[s];
        rows.push_back(flow.compacted[s] > 0 ? static_cast<int32_t>(std::max<int64_t>(0, dense_rows) / 32 * 32) : 0);
      }
      flow.fold(rows);
    }
    const float *sink = pick(0, 2) ? nullptr : sinks.data();
    const std::string what = "seed " + std::to_string(seed) + " turn " + std::to_string(turn) +
                             " D=" + std::to_string(problem.key_channels) + "/" + std::to_string(problem.value_channels) +
                             " G=" + std::to_string(problem.query_heads / problem.kv_heads) + " isa " + std::to_string(plan.isa());
    expect_close(flow.expected(total, fresh, sink), flow.attend(total, fresh, sink), tolerance, what);
  }
}

TEST(Random, Flows) {
  const char *first = std::getenv("THINK_TEST_SEED"), *count = std::getenv("THINK_TEST_COUNT");
  const uint32_t begin = first ? static_cast<uint32_t>(std::stoul(first)) : 1;
  const uint32_t end = begin + (count ? static_cast<uint32_t>(std::stoul(count)) : quick() ? 6 : 60);
  for (uint32_t seed = begin; seed < end; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    try {
      run_random_flow(seed);
    } catch (const std::exception &error) {
      ADD_FAILURE() << error.what();
    }
  }
}

}  // namespace
}  // namespace flow
