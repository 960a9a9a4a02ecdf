/* A caller whose streams are `void *`, as those of an engine that knows no CUDA header: every call that takes a launch compiles, with streams_test.sh, as strict
 * C99 without any toolkit, and refuses the missing plan before it looks at the stream. */
#include <think.h>

#include <stdio.h>

static int failures;

static void expect(think_status status, const think_error *error, const char *call) {
  if (status == THINK_E_ARGUMENT && error->argument == 1) return;
  printf("FAIL: %s: status %d, argument %d: %s\n", call, (int)status, (int)error->argument, error->message);
  ++failures;
}

#define REFUSES(call) expect((call), &error, #call)

int main(void) {
  int somewhere = 0;
  void *stream = &somewhere; /* a CUstream or cudaStream_t, as void * */
  float number = 0;
  const float *numbers[1];
  int32_t kept = 0;
  uint8_t mask = 0;
  think_error error = THINK_ERROR_INIT;
  think_launch launch = THINK_LAUNCH_INIT;
  think_tensor tensor = THINK_TENSOR_INIT;
  think_segment segment = THINK_SEGMENT_INIT;
  think_basis basis = THINK_BASIS_INIT;
  think_batch batch = THINK_BATCH_INIT;
  think_budget_options budgets = THINK_BUDGET_OPTIONS_INIT;
  think_select_options choice = THINK_SELECT_OPTIONS_INIT;
  think_evict_options eviction = THINK_EVICT_OPTIONS_INIT;
  numbers[0] = &number;
  launch.stream = stream;

  REFUSES(think_score_reset(NULL, &number, &batch, &launch, &error));
  REFUSES(think_score_update(NULL, &tensor, &tensor, &batch, &number, &launch, &error));
  REFUSES(think_score_finish(NULL, &number, &batch, NULL, &number, &launch, &error));
  REFUSES(think_value_score(NULL, &tensor, &batch, &number, &launch, &error));
  REFUSES(think_moments(NULL, &tensor, &segment, &batch, NULL, &number, &launch, &error));
  REFUSES(think_gains(NULL, &number, &batch, THINK_KEYS, &number, &number, NULL, &launch, &error));
  REFUSES(think_budgets(NULL, &number, &batch, THINK_KEYS, &budgets, &kept, &launch, &error));
  REFUSES(think_select(NULL, &number, &batch, &choice, &kept, &basis, &mask, &launch, &error));
  REFUSES(think_fit(NULL, &number, &batch, NULL, &basis, &launch, &error));
  REFUSES(think_segment_place(NULL, &segment, &batch, &launch, &error));
  REFUSES(think_compact(NULL, &segment, &segment, &batch, &launch, &error));
  REFUSES(think_prune(NULL, &number, &segment, &segment, &batch, NULL, &mask, &launch, &error));
  REFUSES(think_attend(NULL, &tensor, &batch, &segment, 1, NULL, &tensor, &number, &launch, &error));
  REFUSES(think_evict(NULL, &tensor, &segment, &batch, &eviction, NULL, NULL, &kept, &kept, &launch, &error));
  REFUSES(think_evict_move(NULL, &segment, &segment, &batch, &kept, 1, NULL, 0, &launch, &error));
  REFUSES(think_merge(NULL, &tensor, numbers, 1, &tensor, &number, &launch, &error));
  REFUSES(think_cache_step(NULL, &kept, &kept, 1, &launch, &error));
  REFUSES(think_cache_append(NULL, 0, &tensor, &tensor, &tensor, &launch, &error));
  REFUSES(think_cache_attend(NULL, 0, &tensor, NULL, &tensor, &number, &launch, &error));
  REFUSES(think_cache_prune(NULL, &kept, 1, &launch, &error));
  REFUSES(think_cache_evict(NULL, &kept, 1, &eviction, &tensor, NULL, &launch, &error));
  REFUSES(think_cache_export_dense(NULL, 0, 0, 0, 0, &tensor, &tensor, &launch, &error));
  return failures != 0;
}
