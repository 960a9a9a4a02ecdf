/* Linked against libthink: what pruning would save for a model's shape, before a byte of cache is allocated.
 *
 *   c_link [KV_HEADS CHANNELS TOKENS]        default: 8 128 8192 */
#include <stdio.h>
#include <stdlib.h>
#include <think.h>

#define TRY(call) \
  if ((call) != THINK_OK) return fprintf(stderr, "%s\n", error.message), 1

int main(int argc, char **argv) {
  think_error error = THINK_ERROR_INIT;
  think_problem problem = THINK_PROBLEM_INIT;
  think_prune_options options = THINK_PRUNE_OPTIONS_INIT;
  think_prune_result result = THINK_PRUNE_RESULT_INIT;
  think_context *context;
  think_plan *plan;
  int tenths;
  problem.kv_heads = problem.query_heads = argc > 3 ? atoi(argv[1]) : 8;
  problem.key_channels = argc > 3 ? atoi(argv[2]) : 128;
  problem.max_tokens = argc > 3 ? atoi(argv[3]) : 8192;
  TRY(think_context_create(NULL, &context, &error));
  TRY(think_plan_create(context, &problem, &plan, &error));
  printf("libthink %s, one layer, %d KV heads of %d channels, %lld tokens of 16 bits:\n", think_version_string(), problem.kv_heads, problem.key_channels,
         (long long)problem.max_tokens);
  options.dense_limit = -1;
  for (tenths = 4; tenths <= 8; tenths += 2) {
    options.key_kept = think_kept_channels(problem.key_channels, tenths / 10.0);
    TRY(think_prune_preview(plan, NULL, problem.max_tokens, &options, &result, &error));
    printf("  %3d key channels kept: %.2f MB become %.2f, and %.2f per sequence\n", options.key_kept, 1e-6 * (double)result.dense_bytes,
           1e-6 * (double)(result.key_bytes + result.value_bytes), 1e-6 * (double)result.key_basis_bytes);
  }
  think_plan_destroy(plan);
  think_context_destroy(context);
  return 0;
}
