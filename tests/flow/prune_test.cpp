// think_prune() is the sequence of the stages, bit for bit, and think_prune_preview() says beforehand what it will do.
#include "compare.h"

namespace flow {
namespace {

think_prune_options prune_options(int32_t mode, int32_t budget, int32_t key_kept, int32_t value_kept, float dense_limit = -1.0f) {
  think_prune_options options = THINK_PRUNE_OPTIONS_INIT;
  options.mode = mode;
  options.budget = budget;
  options.key_kept = key_kept;
  options.value_kept = value_kept;
  options.dense_limit = dense_limit;
  return options;
}

think_prune_result preview(const Plan &plan, int64_t tokens, const think_prune_options &options) {
  think_prune_result result = THINK_PRUNE_RESULT_INIT;
  THINK_CALL(think_prune_preview, plan, nullptr, tokens, &options, &result);
  return result;
}

// think_prune() of a prefilled flow into a compact cache that is sized by the previews; the flow goes on with it.
void prune_in_one_call(const Plan &plan, Flow &flow, const think_prune_options &options) {
  const int32_t count = static_cast<int32_t>(flow.options().tokens.size());
  int64_t key_total = 8, value_total = 8;
  flow.compacted.clear();
  for (const int64_t tokens : flow.options().tokens) {
    const think_prune_result result = preview(plan, tokens, options);
    if (result.rows > 0) {
      key_total = std::max(key_total, result.key_total);
      value_total = std::max(value_total, result.value_total);
    }
    flow.compacted.push_back(static_cast<int32_t>(result.rows));
  }
  const bool key_basis = options.key_kept != -1, value_basis = options.value_kept > 0;
  flow.compact = std::make_unique<CompactCache>(plan, flow.problem(), flow.placement(flow.options().compact_page), key_total, value_total,
                                                key_basis, value_basis, flow.options().seed + 7);
  flow.mask.assign(flow.score.size(), 2);
  const std::vector<int32_t> lengths = flow.prefilled();
  const think_segment source = flow.dense_segment(lengths);
  const Launch launch = flow.launch_for(THINK_STAGE_PRUNE, extent_of(count, 1, flow.longest()));
  THINK_CALL(think_prune, plan, flow.state.data(), &source, &flow.compact->segment, flow.batch(), &options, flow.mask.data(), launch.get());
}

void expect_same_basis(const Flow &flow, const think_basis &a, const think_basis &b) {
  for (size_t s = 0; s < flow.options().tokens.size(); ++s) {
    if (flow.compacted[s] == 0) continue;
    for (int32_t head = 0; head < flow.problem().kv_heads; ++head) {
      const int32_t slot = flow.slot_of(static_cast<int32_t>(s));
      const dense::Basis x = dense::read_basis(a, flow.problem().kv_heads, slot, head),
                         y = dense::read_basis(b, flow.problem().kv_heads, slot, head);
      EXPECT_EQ(x.kept, y.kept) << "sequence " << s << ", head " << head;
      EXPECT_EQ(x.index, y.index) << "sequence " << s << ", head " << head;
      EXPECT_EQ(x.predicts, y.predicts) << "sequence " << s << ", head " << head;
      EXPECT_EQ(x.weight, y.weight) << "sequence " << s << ", head " << head;
      EXPECT_EQ(x.offset, y.offset) << "sequence " << s << ", head " << head;
    }
  }
}

TEST(Prune, EqualsTheStagesOneByOne) {
  for (const Isa &isa : available_isas()) {
    for (const think_dtype dtype : {THINK_F32, THINK_F16, THINK_BF16}) {
      const think_problem problem = make_problem(64, 3, dtype, 4);
      const Plan plan(problem, isa.name);
      for (int variant = 0; variant < 5; ++variant) {
        if (quick() && variant != 1 && variant != 3) continue;
        Options options{problem, {293, 120}};
        options.slot = {2, 1};
        options.slots = 3;
        options.compact_page = variant % 2 ? 64 : 0;
        Flow stages(plan, options), call(plan, options);
        const std::vector<int64_t> total{296, 122};
        for (Flow *flow : {&stages, &call}) {
          flow->prefill();
          flow->append({293, 120}, total);
        }
        stages.measure();
        Choice choice;
        think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
        if (variant == 0) {
          choice = {uniform(stages, 39), {}, false};
          prune = prune_options(THINK_MODE_CHANNELS, THINK_BUDGET_UNIFORM, 39, 0);
        } else if (variant == 1) {
          choice = {stages.adaptive_widths(THINK_KEYS, 32), stages.adaptive_widths(THINK_VALUES, 44), true};
          prune = prune_options(THINK_MODE_REGRESSED, THINK_BUDGET_ADAPTIVE, 0, 44);
        } else if (variant == 2) {
          choice = {uniform(stages, 25), uniform(stages, 48), true};
          prune = prune_options(THINK_MODE_REGRESSED, THINK_BUDGET_UNIFORM, 25, 41);
        } else if (variant == 3) {
          choice = {{}, stages.adaptive_widths(THINK_VALUES, 32), true};
          prune = prune_options(THINK_MODE_REGRESSED, THINK_BUDGET_ADAPTIVE, -1, 32);
        } else {
          choice = {uniform(stages, 16), {}, false};
          prune = prune_options(THINK_MODE_CHANNELS, THINK_BUDGET_ADAPTIVE, 16, -1);  // uniform, as the header says
        }
        SCOPED_TRACE(std::string(isa.name) + " " + think_dtype_name(dtype) + " variant " + std::to_string(variant));
        stages.prune(choice);
        prune_in_one_call(plan, call, prune);
        EXPECT_EQ(stages.compacted, call.compacted);
        if (!choice.key.empty()) {
          EXPECT_EQ(stages.mask, call.mask);
          expect_same_basis(stages, stages.compact->key_basis, call.compact->key_basis);
        }
        if (!choice.value.empty()) expect_same_basis(stages, stages.compact->value_basis, call.compact->value_basis);
        EXPECT_EQ(stages.compact->key_head_offset, call.compact->key_head_offset);
        EXPECT_EQ(stages.compact->value_head_offset, call.compact->value_head_offset);
        EXPECT_EQ(stages.compact->key.copy(), call.compact->key.copy());
        EXPECT_EQ(stages.compact->value.copy(), call.compact->value.copy());
        EXPECT_TRUE(same_bits(stages.attend(total, {2, 1}), call.attend(total, {2, 1})));
        expect_close(call.expected(total, {2, 1}), call.attend(total, {2, 1}), tolerance_for(problem), "after think_prune");
      }
    }
  }
}

// All numbers of the preview against what they are defined as, for every length around the edges.
TEST(Prune, PreviewCountsWhatIsStored) {
  think_problem problem = make_problem(64, 3, THINK_F16, 3);
  problem.value_channels = 96;
  const Plan plan(problem);
  for (const int64_t tokens : {0, 1, 35, 36, 67, 68, 69, 99, 100, 131, 132, 300, 1024}) {
    for (const int32_t key_kept : {-1, 0, 8, 33, 64}) {
      for (const int32_t value_kept : {-1, 0, 40, 41, 44, 96}) {
        for (const int32_t budget : {THINK_BUDGET_ADAPTIVE, THINK_BUDGET_UNIFORM}) {
          for (const float limit : {0.0f, -1.0f, 0.5f}) {
            const think_prune_options options = prune_options(THINK_MODE_REGRESSED, budget, key_kept, value_kept, limit);
            const think_prune_result result = preview(plan, tokens, options);
            const int64_t rows = std::max<int64_t>(0, tokens - 36) / 32 * 32;
            SCOPED_TRACE("tokens " + std::to_string(tokens) + " keys " + std::to_string(key_kept) + " values " +
                         std::to_string(value_kept));
            EXPECT_EQ(rows, result.rows);
            if (rows == 0) continue;
            EXPECT_EQ(4, result.first);
            EXPECT_EQ(rows * 3 * (64 + 96) * 2, result.dense_bytes);
            const auto side = [&](int32_t which, int32_t channels, int32_t kept, int64_t total, int64_t bytes, int64_t basis_bytes) {
              int64_t slot_bytes = 0;
              THINK_CALL(think_basis_size, plan, which, 1, &slot_bytes, nullptr);
              const bool all = which == THINK_KEYS ? kept == -1 : kept <= 0;
              const int32_t width = kept == 0 ? channels / 2 : kept;
              int64_t wanted = 3 * static_cast<int64_t>(width);
              if (budget == THINK_BUDGET_ADAPTIVE) wanted = wanted / 8 * 8;
              if (budget == THINK_BUDGET_UNIFORM && which == THINK_VALUES) wanted = 3 * ((width + 7) / 8 * 8);
              const double share = limit < 0 ? 1e9 : limit == 0 ? 0.9f : limit;
              const bool dense = all || wanted >= 3 * channels || !(slot_bytes + rows * wanted * 2 < share * (rows * 3 * channels * 2));
              EXPECT_EQ(dense ? 3 * channels : wanted, total);
              EXPECT_EQ(rows * total * 2, bytes);
              EXPECT_EQ(dense ? 0 : slot_bytes, basis_bytes);
            };
            side(THINK_KEYS, 64, key_kept, result.key_total, result.key_bytes, result.key_basis_bytes);
            side(THINK_VALUES, 96, value_kept, result.value_total, result.value_bytes, result.value_basis_bytes);
          }
        }
      }
    }
  }
}

// Short sequences in a batch: nothing moves, or a side stays dense because its basis costs more than it saves. The attention goes on in
// every case.
TEST(Prune, ShortSequencesStayDense) {
  const think_problem problem = make_problem(64, 4, THINK_F16);
  const Plan plan(problem);
  Options options{problem, {500, 20, 70, 0}};
  options.compact_page = 32;
  options.slot = {3, 1, 0, 2};
  const std::vector<int64_t> total{502, 21, 73, 1};
  const think_prune_options limit = prune_options(THINK_MODE_REGRESSED, THINK_BUDGET_ADAPTIVE, 0, 40, 0.0f);
  ASSERT_EQ(2 * 32, preview(plan, 500, limit).key_total);
  ASSERT_EQ(2 * 40, preview(plan, 500, limit).value_total);
  ASSERT_EQ(2 * 64, preview(plan, 70, limit).key_total) << "the basis should cost more than it saves on 32 rows";
  for (const float dense_limit : {0.0f, -1.0f}) {
    Flow flow(plan, options);
    flow.prefill();
    flow.append({500, 20, 70, 0}, total);
    think_prune_options prune = limit;
    prune.dense_limit = dense_limit;
    prune_in_one_call(plan, flow, prune);
    EXPECT_EQ((std::vector<int32_t>{448, 0, 32, 0}), flow.compacted);
    for (const size_t s : {0, 2}) {
      const think_prune_result result = preview(plan, options.tokens[s], prune);
      int64_t key_total = 0, value_total = 0;
      for (int32_t head = 0; head < 2; ++head) {
        key_total += flow.compact->key_basis.kept[options.slot[s] * 2 + head];
        value_total += flow.compact->value_basis.kept[options.slot[s] * 2 + head];
        EXPECT_EQ(flow.compact->key_basis.kept[options.slot[s] * 2 + head],
                  std::count(flow.mask.begin() + (s * 2 + head) * 64, flow.mask.begin() + (s * 2 + head + 1) * 64, 1));
      }
      EXPECT_EQ(result.key_total, key_total) << "sequence " << s;
      EXPECT_EQ(result.value_total, value_total) << "sequence " << s;
    }
    expect_close(flow.expected(total, {2, 1, 3, 1}), flow.attend(total, {2, 1, 3, 1}), tolerance_for(problem), "ragged prune");
    // What was pruned folds on, also where a side stayed dense.
    if (dense_limit == 0.0f) {
      flow.append(total, {540, 21, 110, 1});
      flow.fold({32, 0, 32, 0});
      expect_close(flow.expected({540, 21, 110, 1}, {1, 1, 1, 1}), flow.attend({540, 21, 110, 1}, {1, 1, 1, 1}), tolerance_for(problem),
                   "fold");
    }
  }
}

TEST(Prune, SinksAndRecentRowsAreOptions) {
  const think_problem problem = make_problem(64, 2, THINK_F32);
  const Plan plan(problem);
  for (const auto &[sinks, recent] : {std::pair{0, 0}, std::pair{7, 64}, std::pair{0, 10}}) {
    Options options{problem, {200}};
    options.sinks = sinks;
    options.recent = recent;
    Flow flow(plan, options);
    flow.prefill();
    flow.append({200}, {202});
    think_prune_options prune = prune_options(THINK_MODE_REGRESSED, THINK_BUDGET_UNIFORM, 20, 0);
    prune.sinks = sinks ? sinks : -1;
    prune.recent = recent ? recent : -1;
    EXPECT_EQ(sinks, preview(plan, 200, prune).first);
    EXPECT_EQ((200 - sinks - recent) / 32 * 32, preview(plan, 200, prune).rows);
    prune_in_one_call(plan, flow, prune);
    expect_close(flow.expected({202}, {2}), flow.attend({202}, {2}), tolerance_for(problem), "sinks " + std::to_string(sinks));
  }
}

}  // namespace
}  // namespace flow
