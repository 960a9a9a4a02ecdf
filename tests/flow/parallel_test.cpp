// The same bits from one thread, from the library's own threads, from the host's, from slices and from many callers at once. The thread
// sanitizer build runs these tests too.
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "compare.h"

namespace flow {
namespace {

// Everything that a whole flow writes.
struct Snapshot {
  std::vector<float> score;
  std::vector<unsigned char> moments, key, value;
  std::vector<int32_t> index;
  std::vector<Output> outputs;
};

think_problem problem_of(think_dtype dtype) {
  think_problem problem = make_problem(64, 3, dtype, 3);
  problem.max_queries = 48;
  return problem;
}

Snapshot run(const Plan &plan, const Options &options) {
  Flow flow(plan, options);
  flow.prefill();
  flow.measure();
  const int32_t count = static_cast<int32_t>(options.tokens.size());
  std::vector<int32_t> key, value;
  for (int32_t i = 0; i < count * 3; ++i) {
    key.push_back(9 + 13 * (i % 4));
    value.push_back(16 + 8 * (i % 5));
  }
  flow.prune({key, value, true});
  std::vector<int64_t> total(options.tokens);
  for (int64_t &tokens : total) tokens += 40;
  flow.append(options.tokens, total);
  Snapshot snapshot{flow.score, flow.moments.copy(), flow.compact->key.copy(), flow.compact->value.copy(), {}, {}};
  const think_basis &basis = flow.compact->key_basis;
  snapshot.index.assign(basis.index, basis.index + static_cast<int64_t>(basis.slots) * 3 * 64);
  for (const int32_t fresh : {1, 4, 40}) snapshot.outputs.push_back(flow.attend(total, std::vector<int32_t>(count, fresh)));
  return snapshot;
}

void expect_same(const Snapshot &a, const Snapshot &b, const std::string &what) {
  EXPECT_EQ(0, std::memcmp(a.score.data(), b.score.data(), a.score.size() * sizeof(float))) << what << ": score";
  EXPECT_TRUE(a.moments == b.moments) << what << ": moments";
  EXPECT_TRUE(a.index == b.index) << what << ": channels";
  EXPECT_TRUE(a.key == b.key) << what << ": keys";
  EXPECT_TRUE(a.value == b.value) << what << ": values";
  for (size_t i = 0; i < a.outputs.size(); ++i) EXPECT_TRUE(same_bits(a.outputs[i], b.outputs[i])) << what << ": attention " << i;
}

Options options_of(const think_problem &problem) {
  Options options{problem, {400, 77, 163}};
  options.compact_page = 64;
  options.dense_page = 96;
  options.chunk = 150;
  return options;
}

TEST(Parallel, TwoRuns) {
  for (const Isa &isa : available_isas()) {
    for (const think_dtype dtype : {THINK_F32, THINK_F16, THINK_BF16}) {
      const Plan plan(problem_of(dtype), isa.name);
      expect_same(run(plan, options_of(problem_of(dtype))), run(plan, options_of(problem_of(dtype))), isa.name);
    }
  }
}

TEST(Parallel, SlicesOnThreads) {
  for (const Isa &isa : available_isas()) {
    const think_problem problem = problem_of(isa.id == THINK_ISA_AVX512BF16 ? THINK_BF16 : THINK_F16);
    const Plan plan(problem, isa.name);
    Options options = options_of(problem);
    const Snapshot one = run(plan, options);
    for (const int32_t slices : {2, 3, 8}) {
      options.slices = slices;
      expect_same(one, run(plan, options), std::to_string(slices) + " slices, " + isa.name);
    }
    options.reversed = true;
    expect_same(one, run(plan, options), std::string("slices in reverse order, ") + isa.name);
    // One workspace for all stages: none may leave anything where the counters of another lie.
    options.one_workspace = true;
    expect_same(one, run(plan, options), std::string("one workspace for all, ") + isa.name);
  }
}

// Long enough that every stage cuts the tokens of one sequence, and right besides: the other tests of this file compare bits with bits.
TEST(Parallel, LongSequences) {
  for (const Isa &isa : available_isas()) {
    if (quick() && isa.id != available_isas().back().id) continue;
    think_problem problem = make_problem(64, 2, THINK_F16, 1);
    problem.max_tokens = 8192;
    const Plan plan(problem, isa.name);
    Options options{problem, {quick() ? 2200 : 5300, 1030}};
    options.compact_page = 256;
    std::vector<int64_t> total(options.tokens);
    for (int64_t &tokens : total) tokens += 3;
    std::vector<Output> outputs;
    std::vector<float> score;
    for (const int32_t slices : {0, 4, 3}) {
      options.slices = slices;
      options.one_workspace = slices > 0;
      options.reversed = slices == 3;
      Flow flow(plan, options);
      flow.prefill();
      if (slices == 0) score = flow.score;
      EXPECT_EQ(score, flow.score) << slices << " slices, " << isa.name;
      flow.measure();
      flow.append(options.tokens, total);
      flow.prune({{33, 20}, {40, 64}, true});
      outputs.push_back(flow.attend(total, {3, 1}));
      if (slices == 0) {
        expect_close(flow.expected(total, {3, 1}), outputs.back(), tolerance_for(problem), std::string("long, ") + isa.name);
      } else {
        EXPECT_TRUE(same_bits(outputs.front(), outputs.back())) << slices << " slices, " << isa.name;
      }
    }
  }
}

TEST(Parallel, OwnThreads) {
  const think_problem problem = problem_of(THINK_F16);
  const Snapshot one = run(Plan(problem), options_of(problem));
  for (const int32_t threads : {2, 5, -1}) {
    think_context_options context = THINK_CONTEXT_OPTIONS_INIT;
    context.threads = threads;
    const Plan plan(problem, nullptr, &context);
    expect_same(one, run(plan, options_of(problem)), std::to_string(threads) + " threads");
  }
}

// The library's threads have room enough whatever the process gives threads by default.
TEST(Parallel, OwnThreadsWhereStacksAreSmall) {
  pthread_attr_t before, small;
  ASSERT_EQ(0, pthread_getattr_default_np(&before));
  ASSERT_EQ(0, pthread_attr_init(&small));
  const long least = sysconf(_SC_THREAD_STACK_MIN);  // twice as much on 64-bit ARM
  ASSERT_EQ(0, pthread_attr_setstacksize(&small, static_cast<size_t>(std::max(64L << 10, least))));
  ASSERT_EQ(0, pthread_setattr_default_np(&small));
  think_problem problem = problem_of(THINK_F16);
  problem.key_channels = problem.value_channels = 256;
  think_context_options context = THINK_CONTEXT_OPTIONS_INIT;
  context.threads = 3;
  {
    const Plan plan(problem, nullptr, &context);
    run(plan, options_of(problem));
  }
  pthread_setattr_default_np(&before);
  pthread_attr_destroy(&small);
  pthread_attr_destroy(&before);
}

// Tasks in reverse order, each on a thread of its own.
void reversed_threads(void *user, int64_t count, think_task task, void *arg) {
  static_cast<std::atomic<int64_t> *>(user)->fetch_add(count);
  std::vector<std::thread> threads;
  for (int64_t i = count; i-- > 0;) threads.emplace_back([=] { task(arg, i); });
  for (std::thread &thread : threads) thread.join();
}

void one_after_the_other(void *user, int64_t count, think_task task, void *arg) {
  static_cast<std::atomic<int64_t> *>(user)->fetch_add(count);
  for (int64_t i = 0; i < count; ++i) task(arg, i);
}

TEST(Parallel, HostThreads) {
  const think_problem problem = problem_of(THINK_F16);
  const Snapshot one = run(Plan(problem), options_of(problem));
  for (const think_parallel_for hook : {reversed_threads, one_after_the_other}) {
    std::atomic<int64_t> tasks{0};
    think_context_options context = THINK_CONTEXT_OPTIONS_INIT;
    context.threads = 4;
    context.parallel_for = hook;
    context.user = &tasks;
    const Plan plan(problem, nullptr, &context);
    expect_same(one, run(plan, options_of(problem)), "host threads");
    EXPECT_GT(tasks.load(), 0) << "the hook was never called";
  }
}

// Many callers on one plan, each with its own data and workspaces, all stages at the same time.
void many_callers(const think_context_options *context) {
  const think_problem problem = problem_of(THINK_F16);
  const Plan plan(problem, nullptr, context);
  constexpr int kCallers = 6;
  std::vector<Snapshot> alone(kCallers), together(kCallers);
  std::vector<std::string> failure(kCallers);
  const auto options = [&](int caller) {
    Options result = options_of(problem);
    result.seed = 100 + static_cast<uint32_t>(caller);
    if (caller % 3 == 2) result.slices = 2;
    return result;
  };
  for (int caller = 0; caller < kCallers; ++caller) alone[caller] = run(plan, options(caller));
  std::vector<std::thread> threads;
  for (int caller = 0; caller < kCallers; ++caller) {
    threads.emplace_back([&, caller] {
      try {
        together[caller] = run(plan, options(caller));
      } catch (const std::exception &error) {
        failure[caller] = error.what();
      }
    });
  }
  for (std::thread &thread : threads) thread.join();
  for (int caller = 0; caller < kCallers; ++caller) {
    ASSERT_EQ("", failure[caller]);
    expect_same(alone[caller], together[caller], "caller " + std::to_string(caller));
  }
}

TEST(Parallel, ManyCallersOnOnePlan) { many_callers(nullptr); }

TEST(Parallel, ManyCallersOnOnePlanWithOwnThreads) {
  think_context_options context = THINK_CONTEXT_OPTIONS_INIT;
  context.threads = 3;
  many_callers(&context);
}

// One workspace for call after call: its counters are zero again each time. A larger one than needed changes nothing; one byte less is
// refused.
TEST(Parallel, Workspace) {
  const think_problem problem = problem_of(THINK_F16);
  const Plan plan(problem);
  Flow flow(plan, Options{problem, {300}});
  flow.prefill();
  const std::vector<int32_t> length{300};
  const think_segment segment = flow.dense_segment(length);
  Tensor query(THINK_F32, 1, 9, 2, 64);
  for (int32_t head = 0; head < 9; ++head) {
    for (int32_t i = 0; i < 2; ++i) {
      for (int32_t c = 0; c < 64; ++c) query.set(0, head, i, c, flow.element(flow.sequences[0].query, 0, head, 200 + i, c, 64));
    }
  }
  const Launch exact(plan, THINK_STAGE_ATTEND, extent_of(1, 2, 300, 1));
  const Launch largest(plan, THINK_STAGE_ATTEND, extent_of(0, 0, 0, 0));
  EXPECT_LE(exact.workspace().bytes(), largest.workspace().bytes());
  std::vector<std::vector<unsigned char>> results;
  for (const Launch *launch : {&exact, &exact, &largest}) {
    for (const int32_t slices : {0, 3}) {
      const Tensor output(THINK_F32, 1, 9, 2, 64);
      for (int32_t i = std::max(slices, 1); i-- > 0;) {
        const think_launch part = launch->slice(i, slices);
        THINK_CALL(think_attend, plan, query.view(), nullptr, &segment, 1, nullptr, output.view(), nullptr, &part);
      }
      results.push_back(output.memory().copy());
      EXPECT_EQ(results.front(), results.back());
    }
  }
  if (exact.workspace().bytes() > 0) {
    think_launch little = exact.slice(0, 1);
    --little.workspace_bytes;
    const Tensor output(THINK_F32, 1, 9, 2, 64);
    think_error error = THINK_ERROR_INIT;
    EXPECT_EQ(THINK_E_WORKSPACE, think_attend(plan, query.view(), nullptr, &segment, 1, nullptr, output.view(), nullptr, &little, &error));
    EXPECT_NE(std::string::npos, std::string(error.message).find(std::to_string(exact.workspace().bytes()))) << error.message;
    EXPECT_EQ(Tensor(THINK_F32, 1, 9, 2, 64).memory().copy(), output.memory().copy());
  }
}

// Sizes grow with every field of the extent, so that one workspace for the largest call serves all.
TEST(Parallel, WorkspaceSizesGrow) {
  const think_problem problem = problem_of(THINK_BF16);
  const Plan plan(problem);
  const auto size = [&](int32_t stage, int32_t batch, int32_t queries, int64_t tokens, int32_t segments) {
    const think_extent extent = extent_of(batch, queries, tokens, segments);
    int64_t bytes = 0;
    THINK_CALL(think_workspace_size, plan, stage, &extent, &bytes, nullptr);
    return bytes;
  };
  for (int32_t stage = THINK_STAGE_SCORE; stage <= THINK_STAGE_EVICT; ++stage) {
    for (const int32_t batch : {1, 3}) {
      for (const int32_t queries : {1, 2, 7, 16, 47}) {
        for (const int64_t tokens : {1, 33, 500, 1023}) {
          for (const int32_t segments : {1, 3, 15}) {
            const int64_t bytes = size(stage, batch, queries, tokens, segments);
            EXPECT_LE(bytes, size(stage, batch + 1, queries, tokens, segments)) << "stage " << stage;
            EXPECT_LE(bytes, size(stage, batch, queries + 1, tokens, segments)) << "stage " << stage;
            EXPECT_LE(bytes, size(stage, batch, queries, tokens + 1, segments)) << "stage " << stage;
            EXPECT_LE(bytes, size(stage, batch, queries, tokens, segments + 1)) << "stage " << stage;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace flow
