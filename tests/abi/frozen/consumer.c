/* A program as somebody wrote it against the headers of one release: it prunes a cache in the paper's way and attends to what is left, and
 * compares with the same in plain loops. Compiled by frozen/test.sh against frozen headers, linked to the library or, with BY_TABLE,
 * through dlopen() and the table. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "think.h"

#ifdef BY_TABLE
#include <dlfcn.h>

#include "think/api.h"
static const think_api *table;
#define THINK(name) (table->name)
#else
#define THINK(name) think_##name
#endif

enum { QUERY_HEADS = 2, CHANNELS = 16, KEPT = 8, WINDOW = 8, TOKENS = 100, SINKS = 4, MOVED = 64, RECENT = 32 };

static think_error error;

static void must(think_status status, const char *what, int line) {
  if (status == THINK_OK) return;
  fprintf(stderr, "consumer.c:%d: %s: status %d, argument %d: %s\n", line, what, (int)status, (int)error.argument, error.message);
  exit(1);
}
#define MUST(call) must(call, #call, __LINE__)

static void expect(int right, const char *what, int line) {
  if (right) return;
  fprintf(stderr, "consumer.c:%d: %s\n", line, what);
  exit(1);
}
#define EXPECT(condition) expect((condition) != 0, #condition, __LINE__)

static float noise(void) {
  static uint32_t state = 7;
  state = state * 1664525u + 1013904223u;
  return (float)(state >> 8) / 8388608.0f - 1.0f;
}

static void *memory_of(int64_t bytes) {
  void *memory = aligned_alloc(64, (size_t)(bytes + 64) / 64 * 64);
  EXPECT(memory != NULL);
  memset(memory, 0, (size_t)bytes);
  return memory;
}

static void set_tensor(think_tensor *tensor, float *data, int64_t heads, int64_t tokens, int64_t channels) {
  THINK(tensor_init)(tensor, (uint32_t)sizeof *tensor);
  tensor->data = data;
  tensor->dtype = THINK_F32;
  tensor->extent[0] = 1;
  tensor->extent[1] = heads;
  tensor->extent[2] = tokens;
  tensor->extent[3] = channels;
  tensor->stride[0] = heads * tokens * channels;
  tensor->stride[1] = tokens * channels;
  tensor->stride[2] = channels;
  tensor->stride[3] = 1;
}

/* Attention of one head in plain loops, over keys whose dropped channels are zero in the rows that were moved. */
static void attend_plainly(const float *query, const float *keys, const float *values, const uint8_t *mask, double *output, double *lse) {
  double weight[TOKENS], largest = -1e30, sum = 0;
  int token, channel;
  for (token = 0; token < TOKENS; ++token) {
    double logit = 0;
    const int moved = token >= SINKS && token < SINKS + MOVED;
    for (channel = 0; channel < CHANNELS; ++channel) {
      if (!moved || mask[channel]) logit += (double)query[channel] * keys[token * CHANNELS + channel];
    }
    weight[token] = logit / sqrt((double)CHANNELS);
    if (weight[token] > largest) largest = weight[token];
  }
  for (token = 0; token < TOKENS; ++token) sum += weight[token] = exp(weight[token] - largest);
  *lse = largest + log(sum);
  for (channel = 0; channel < CHANNELS; ++channel) {
    output[channel] = 0;
    for (token = 0; token < TOKENS; ++token) output[channel] += weight[token] / sum * values[token * CHANNELS + channel];
  }
}

int main(int argc, char **argv) {
  static float queries[QUERY_HEADS * TOKENS * CHANNELS], keys[TOKENS * CHANNELS], values[TOKENS * CHANNELS], now[QUERY_HEADS * CHANNELS],
      output[QUERY_HEADS * CHANNELS], lse[QUERY_HEADS];
  static uint8_t mask[CHANNELS];
  const int32_t all = TOKENS, sinks = SINKS, moved = MOVED, recent = RECENT, recent_first = SINKS + MOVED;
  think_context *context = NULL;
  think_plan *plan = NULL;
  think_problem problem = THINK_PROBLEM_INIT;
  think_launch launch = THINK_LAUNCH_INIT;
  think_prune_options options = THINK_PRUNE_OPTIONS_INIT;
  think_prune_result result = THINK_PRUNE_RESULT_INIT;
  think_basis basis = THINK_BASIS_INIT;
  think_segment segments[3], source, target;
  think_tensor query, key, output_tensor;
  int64_t bytes = 0, largest = 0;
  int32_t stage;
  int at, head, kept = 0;
  void *state, *basis_memory;
#ifdef BY_TABLE
  void *library, *symbol;
  think_get_api_function get_api;
  EXPECT(argc == 2);
  library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  EXPECT(library != NULL);
  symbol = dlsym(library, "think_get_api");
  EXPECT(symbol != NULL);
  memcpy(&get_api, &symbol, sizeof get_api);
  table = get_api(THINK_ABI_MAJOR, (uint32_t)sizeof(think_api));
  EXPECT(table != NULL);
  EXPECT(THINK_API_HAS(table, prune));
#else
  (void)argc;
  (void)argv;
#endif
  EXPECT(THINK(abi_version)() == THINK_ABI_MAJOR);
  EXPECT(THINK(version)() / 10000 >= THINK_VERSION_MAJOR);
  THINK(error_init)(&error, (uint32_t)sizeof error);

  MUST(THINK(context_create)(NULL, &context, &error));
  problem.cache_dtype = THINK_F32;
  problem.query_heads = QUERY_HEADS;
  problem.kv_heads = 1;
  problem.key_channels = CHANNELS;
  problem.window = WINDOW;
  problem.max_tokens = TOKENS;
  MUST(THINK(supports)(context, &problem, &error));
  MUST(THINK(plan_create)(context, &problem, &plan, &error));
  for (stage = THINK_STAGE_SCORE; stage <= THINK_STAGE_PRUNE; ++stage) {
    MUST(THINK(workspace_size)(plan, stage, NULL, &bytes, NULL, &error));
    if (bytes > largest) largest = bytes;
  }
  launch.workspace = memory_of(largest);
  launch.workspace_bytes = largest;

  for (at = 0; at < QUERY_HEADS * TOKENS * CHANNELS; ++at) queries[at] = noise();
  for (at = 0; at < TOKENS * CHANNELS; ++at) keys[at] = noise() * (float)(1 + at % CHANNELS);
  for (at = 0; at < TOKENS * CHANNELS; ++at) values[at] = noise();
  for (at = 0; at < QUERY_HEADS * CHANNELS; ++at) now[at] = noise();
  set_tensor(&query, queries, QUERY_HEADS, TOKENS, CHANNELS);
  set_tensor(&key, keys, 1, TOKENS, CHANNELS);
  MUST(THINK(score_state_size)(plan, 1, &bytes, &error));
  state = memory_of(bytes);
  MUST(THINK(score_reset)(plan, state, NULL, &launch, &error));
  MUST(THINK(score_update)(plan, &query, &key, NULL, state, &launch, &error));

  options.mode = THINK_MODE_CHANNELS;
  options.budget = THINK_BUDGET_UNIFORM;
  options.key_kept = KEPT;
  options.value_kept = -1;
  options.dense_limit = -1;
  MUST(THINK(prune_preview)(plan, NULL, TOKENS, &options, &result, &error));
  EXPECT(result.first == SINKS && result.rows == MOVED && result.key_total == KEPT && result.value_total == CHANNELS);
  EXPECT(result.key_bytes == MOVED * KEPT * 4 && result.dense_bytes == MOVED * CHANNELS * 8);
  MUST(THINK(basis_size)(plan, THINK_KEYS, 1, &bytes, NULL, &error));
  basis_memory = memory_of(bytes);
  MUST(THINK(basis_bind)(plan, THINK_KEYS, 1, basis_memory, bytes, &basis, &error));

  THINK(segment_init)(&source, (uint32_t)sizeof source);
  source.key_dtype = source.value_dtype = THINK_F32;
  source.key = keys;
  source.value = values;
  source.lengths = &all;
  target = source;
  target.key_layout = THINK_TILES;
  target.key = memory_of(result.key_bytes);
  target.value = memory_of(result.value_bytes);
  target.page_tokens = MOVED;
  target.lengths = NULL;
  target.key_basis = &basis;
  MUST(THINK(prune)(plan, state, &source, &target, NULL, &options, mask, &launch, &error));
  for (at = 0; at < CHANNELS; ++at) kept += mask[at];
  EXPECT(kept == KEPT && basis.kept[0] == KEPT);

  segments[0] = segments[2] = source;
  segments[1] = target;
  segments[0].lengths = &sinks;
  segments[1].lengths = &moved;
  segments[2].first = &recent_first;
  segments[2].lengths = &recent;
  set_tensor(&query, now, QUERY_HEADS, 1, CHANNELS);
  set_tensor(&output_tensor, output, QUERY_HEADS, 1, CHANNELS);
  MUST(THINK(attend)(plan, &query, NULL, segments, 3, NULL, &output_tensor, lse, &launch, &error));
  for (head = 0; head < QUERY_HEADS; ++head) {
    double expected[CHANNELS], expected_lse;
    attend_plainly(now + head * CHANNELS, keys, values, mask, expected, &expected_lse);
    EXPECT(fabs(lse[head] - expected_lse) < 1e-4);
    for (at = 0; at < CHANNELS; ++at) EXPECT(fabs(output[head * CHANNELS + at] - expected[at]) < 1e-4);
  }

  /* errors keep their numbers and positions */
  EXPECT(THINK(attend)(plan, &query, NULL, segments, 0, NULL, &output_tensor, lse, &launch, &error) == THINK_E_ARGUMENT);
  EXPECT(error.argument == 5 && strstr(error.message, "segment_count") != NULL);

  free(segments[1].key);
  free(segments[1].value);
  free(basis_memory);
  free(state);
  free(launch.workspace);
  THINK(plan_destroy)(plan);
  THINK(context_destroy)(context);
  puts("the consumer works");
  return 0;
}
