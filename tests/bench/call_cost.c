/* What a call from C costs, for comparison with the other languages (bindings/tools/cost.sh): one that does next to nothing, and attention. */
#define _POSIX_C_SOURCE 200809L
#include <think.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { QUERY_HEADS = 8, KV_HEADS = 2, CHANNELS = 128, TOKENS = 1024, RUNS = 100 };

static float rows[KV_HEADS * TOKENS * CHANNELS], query_rows[QUERY_HEADS * CHANNELS], output_rows[QUERY_HEADS * CHANNELS];

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return 1e9 * (double)time.tv_sec + (double)time.tv_nsec;
}

static void must(think_status status, const think_error *error) {
  if (status == THINK_OK) return;
  fprintf(stderr, "call_cost: %s\n", error->message);
  exit(1);
}

/* The best of many short runs, in ns per call: on a busy machine some of them are left alone. */
static double trivial_call(void) {
  enum { CALLS = 100000 };
  double best = 1e30;
  for (int run = 0; run < RUNS; ++run) {
    const double begin = now();
    for (int call = 0; call < CALLS; ++call)
      if (think_version() == 0) exit(1);
    const double took = (now() - begin) / CALLS;
    if (took < best) best = took;
  }
  return best;
}

static double attend(const think_plan *plan, int32_t tokens, int calls) {
  think_error error = THINK_ERROR_INIT;
  think_tensor query, output;
  think_segment segment;
  think_launch launch;
  double best = 1e30;
  think_tensor_init(&query, (uint32_t)sizeof query);
  query.data = query_rows;
  query.dtype = THINK_F32;
  query.extent[0] = query.extent[2] = query.stride[3] = 1;
  query.extent[1] = QUERY_HEADS;
  query.extent[3] = query.stride[1] = query.stride[2] = CHANNELS;
  query.stride[0] = QUERY_HEADS * CHANNELS;
  output = query;
  output.data = output_rows;
  think_segment_init(&segment, (uint32_t)sizeof segment);
  segment.key_layout = segment.value_layout = THINK_ROWS;
  segment.key_dtype = segment.value_dtype = THINK_F32;
  segment.key = segment.value = rows;
  segment.key_stride[1] = segment.value_stride[1] = (int64_t)sizeof(float) * tokens * CHANNELS;
  segment.key_stride[2] = segment.value_stride[2] = (int64_t)sizeof(float) * CHANNELS;
  segment.lengths = &tokens;
  think_launch_init(&launch, (uint32_t)sizeof launch);
  must(think_workspace_size(plan, THINK_STAGE_ATTEND, NULL, &launch.workspace_bytes, NULL, &error), &error);
  void *memory = aligned_alloc(64, ((size_t)launch.workspace_bytes + 127) / 64 * 64);
  launch.workspace = memory;
  for (int run = 0; run < RUNS; ++run) {
    const double begin = now();
    for (int call = 0; call < calls; ++call) must(think_attend(plan, &query, NULL, &segment, 1, NULL, &output, NULL, &launch, &error), &error);
    const double took = (now() - begin) / calls;
    if (took < best) best = took;
  }
  free(memory);
  return best;
}

int main(void) {
  think_error error = THINK_ERROR_INIT;
  think_context *context;
  think_plan *plan;
  think_problem problem;
  for (int i = 0; i < KV_HEADS * TOKENS * CHANNELS; ++i) rows[i] = (float)(i * 7919LL % 2003) / 1001 - 1;
  for (int i = 0; i < QUERY_HEADS * CHANNELS; ++i) query_rows[i] = (float)(i * 104729LL % 2003) / 1001 - 1;
  think_problem_init(&problem, (uint32_t)sizeof problem);
  problem.query_heads = QUERY_HEADS;
  problem.kv_heads = KV_HEADS;
  problem.key_channels = CHANNELS;
  problem.max_tokens = TOKENS;
  problem.cache_dtype = THINK_F32;
  must(think_context_create(NULL, &context, &error), &error);
  must(think_plan_create(context, &problem, &plan, &error), &error);
  const double trivial = trivial_call(), one = attend(plan, 1, 500), many = attend(plan, TOKENS, 20);
  printf("C: a trivial call takes %.1f ns, attention over 1 token %.1f us, over 1024 tokens %.1f us, of which a trivial call is %.3f %%\n", trivial, one / 1e3,
         many / 1e3, 100 * trivial / many);
  think_plan_destroy(plan);
  think_context_destroy(context);
  return 0;
}
