/* Which key channels do the last queries look at? Two stages on an engine's own buffers: score, then select. */
#include <stdio.h>
#include <stdlib.h>
#include <think.h>

enum { HQ = 4, HKV = 2, T = 64, D = 16, KEPT = 6 };
static float query[HQ][T][D], key[HKV][T][D], score[HKV][D];
static uint8_t mask[HKV][D];

#define TRY(call) \
  if ((call) != THINK_OK) return fprintf(stderr, "%s\n", error.message), 1

/* memory of the alignment that the library asks for, by hand: C99 has no aligned_alloc */
static void *aligned(int64_t bytes) {
  char *memory = calloc(1, (size_t)bytes + 64);
  return memory ? memory + 64 - (uintptr_t)memory % 64 : NULL;
}

int main(void) {
  think_error error = THINK_ERROR_INIT;
  think_problem problem = THINK_PROBLEM_INIT;
  think_launch launch = THINK_LAUNCH_INIT;
  think_select_options options = THINK_SELECT_OPTIONS_INIT;
  think_tensor q = THINK_TENSOR_INIT, k;
  think_basis basis = THINK_BASIS_INIT;
  think_context *context;
  think_plan *plan;
  int64_t state_bytes, basis_bytes, bytes;
  void *state;
  int i, head, channel;
  for (i = 0; i < HQ * T * D; ++i) query[0][0][i] = (float)rand() / (float)RAND_MAX - 0.5f;
  /* the first KV head's channels weaken towards the end, the second's towards the beginning */
  for (i = 0; i < HKV * T * D; ++i) key[0][0][i] = ((float)rand() / (float)RAND_MAX - 0.5f) * (float)(i < T * D ? D - i % D : 1 + i % D);

  problem.query_heads = HQ, problem.kv_heads = HKV, problem.key_channels = D, problem.max_tokens = T, problem.max_queries = T;
  TRY(think_context_create(NULL, &context, &error));
  TRY(think_plan_create(context, &problem, &plan, &error));
  TRY(think_score_state_size(plan, 1, &state_bytes, &error));
  TRY(think_basis_size(plan, THINK_KEYS, 1, &basis_bytes, NULL, &error));
  TRY(think_workspace_size(plan, THINK_STAGE_SCORE, NULL, &launch.workspace_bytes, NULL, &error));
  TRY(think_workspace_size(plan, THINK_STAGE_SELECT, NULL, &bytes, NULL, &error));
  if (bytes > launch.workspace_bytes) launch.workspace_bytes = bytes;
  launch.workspace = aligned(launch.workspace_bytes);
  state = aligned(state_bytes);
  TRY(think_basis_bind(plan, THINK_KEYS, 1, aligned(basis_bytes), basis_bytes, &basis, &error));

  q.data = query, q.dtype = THINK_F32;
  q.extent[0] = 1, q.extent[1] = HQ, q.extent[2] = T, q.extent[3] = D;
  q.stride[1] = T * D, q.stride[2] = D, q.stride[3] = 1;
  k = q, k.data = key, k.extent[1] = HKV;
  TRY(think_score_reset(plan, state, NULL, &launch, &error));
  TRY(think_score_update(plan, &q, &k, NULL, state, &launch, &error));
  TRY(think_score_finish(plan, state, NULL, NULL, &score[0][0], &launch, &error));
  options.kept = KEPT;
  TRY(think_select(plan, &score[0][0], NULL, &options, NULL, &basis, &mask[0][0], &launch, &error));
  for (head = 0; head < HKV; ++head) {
    printf("KV head %d keeps channels", head);
    for (channel = 0; channel < basis.kept[head]; ++channel) printf(" %d", basis.index[head * D + channel]);
    printf("\n");
  }
  think_plan_destroy(plan), think_context_destroy(context);
  return 0; /* the memory goes with the process */
}
