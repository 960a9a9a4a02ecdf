/* Writes a sequence of a managed cache to a file, and prints what the cache says it holds. What think inspect is tested with.
 *   save_sequence OUT LAYERS QUERY_HEADS KV_HEADS KEY_CHANNELS VALUE_CHANNELS TOKENS MODE BUDGET KEY_KEPT VALUE_KEPT KEY_FORMAT VALUE_FORMAT LATER FLAGS KEPT_LAYERS
 * MODE, BUDGET, FLAGS: the numbers of think/prune.h and think/cache.h. FORMAT: 16, 8, 4, 2, f8. LATER: tokens after the prune, folded in blocks. So many
 * first layers keep 16 bits. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "think.h"

#define TRY(call)                                                   \
  do {                                                              \
    if ((call) != THINK_OK) {                                       \
      fprintf(stderr, "%s: %s\n", #call, error.message);            \
      return 1;                                                     \
    }                                                               \
  } while (0)

static int32_t put(void *file, const void *data, int64_t bytes) { return fwrite(data, 1, (size_t)bytes, file) != (size_t)bytes; }

static think_dtype dtype_of(const char *bits) {
  return strcmp(bits, "8") == 0 ? THINK_U8 : strcmp(bits, "4") == 0 ? THINK_U4 : strcmp(bits, "2") == 0 ? THINK_U2 : strcmp(bits, "f8") == 0 ? THINK_F8_E4M3 : THINK_F16;
}

static think_format format_of(think_dtype key, think_dtype value) {
  think_format format = THINK_FORMAT_INIT;
  format.key_layout = THINK_TILES, format.key_dtype = key, format.value_dtype = value;
  format.value_layout = value == THINK_F16 ? THINK_ROWS : THINK_TILES;
  return format;
}

static think_tensor rows(float *data, int64_t heads, int64_t tokens, int64_t channels) {
  think_tensor tensor = {sizeof tensor, 0, data, THINK_F32, 0, {1, heads, tokens, channels}, {0, tokens * channels, channels, 1}};
  return tensor;
}

/* Channels follow a few hidden ones, so that a prediction can be made; every other one is weak. */
static void fill(float *data, int64_t heads, int64_t tokens, int64_t channels, uint64_t seed) {
  for (int64_t row = 0; row < heads * tokens; ++row) {
    float hidden[4];
    for (int i = 0; i < 4; ++i) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      hidden[i] = (float)(seed >> 40) / (float)(1 << 23) - 1;
    }
    for (int64_t channel = 0; channel < channels; ++channel) {
      data[row * channels + channel] = (hidden[channel % 4] + 0.3f * hidden[(channel / 4) % 4]) * (channel % 2 ? 1.0f : 0.2f);
    }
  }
}

int main(int argc, char **argv) {
  if (argc != 17) return 2;
  int64_t number[17];
  for (int i = 2; i < 17; ++i) number[i] = strtoll(argv[i], NULL, 10);
  const int32_t layers = (int32_t)number[2], sequence = 0;
  const int64_t query_heads = number[3], kv_heads = number[4], channels = number[5], value_channels = number[6], tokens = number[7], later = number[14];
  think_error error = THINK_ERROR_INIT;
  think_context *context;
  think_plan *plan;
  think_cache *cache;
  think_problem problem = THINK_PROBLEM_INIT;
  problem.query_heads = (int32_t)query_heads, problem.kv_heads = (int32_t)kv_heads;
  problem.key_channels = (int32_t)channels, problem.value_channels = (int32_t)value_channels;
  problem.max_tokens = tokens + later, problem.window = 8;
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  prune.mode = (int32_t)number[8], prune.budget = (int32_t)number[9];
  prune.key_kept = (int32_t)number[10], prune.value_kept = (int32_t)number[11];
  prune.recent = 16, prune.dense_limit = -1;
  think_format *formats = malloc((size_t)layers * sizeof *formats);
  for (int32_t layer = 0; layer < layers; ++layer) {
    formats[layer] = layer < number[16] ? format_of(THINK_F16, THINK_F16) : format_of(dtype_of(argv[12]), dtype_of(argv[13]));
  }
  think_cache_options options = THINK_CACHE_OPTIONS_INIT;
  options.layers = layers, options.sequences = 1, options.fold = THINK_FOLD_BLOCK, options.flags = (uint32_t)number[15], options.rollback = -1;
  options.prune = &prune, options.layer_formats = formats;
  TRY(think_context_create(NULL, &context, &error));
  TRY(think_plan_create(context, &problem, &plan, &error));
  TRY(think_cache_create(plan, &options, &cache, &error));
  int64_t workspace = 0;
  TRY(think_cache_workspace_size(cache, &workspace, NULL, &error));
  think_launch launch = THINK_LAUNCH_INIT;
  launch.workspace = aligned_alloc(64, (size_t)(workspace + 63) / 64 * 64), launch.workspace_bytes = workspace;

  const int64_t most = tokens > later ? tokens : later, size = query_heads * most * (channels > value_channels ? channels : value_channels);
  float *query = malloc((size_t)size * sizeof *query), *key = malloc((size_t)size * sizeof *key), *value = malloc((size_t)size * sizeof *value);
  for (int chunk = 0; chunk < 2; ++chunk) {
    const int32_t count = (int32_t)(chunk ? later : tokens);
    if (count == 0) continue;
    TRY(think_cache_step(cache, &sequence, &count, 1, &launch, &error));
    for (int32_t layer = 0; layer < layers; ++layer) {
      fill(query, query_heads, count, channels, (uint64_t)(3 * layer + 1));
      fill(key, kv_heads, count, channels, (uint64_t)(3 * layer + 2));
      fill(value, kv_heads, count, value_channels, (uint64_t)(3 * layer + 3));
      const think_tensor queries = rows(query, query_heads, count, channels), keys = rows(key, kv_heads, count, channels),
                         values = rows(value, kv_heads, count, value_channels);
      TRY(think_cache_append(cache, layer, options.flags & THINK_CACHE_NO_SCORES ? NULL : &queries, &keys, &values, &launch, &error));
    }
    if (chunk == 0 && !(options.flags & THINK_CACHE_NO_SCORES)) TRY(think_cache_prune(cache, &sequence, 1, &launch, &error));
  }
  /* A last step folds what has become old. */
  const int32_t none = 0;
  TRY(think_cache_step(cache, &sequence, &none, 1, &launch, &error));
  for (int32_t layer = 0; layer < layers; ++layer) {
    const think_tensor queries = rows(query, query_heads, 0, channels), keys = rows(key, kv_heads, 0, channels), values = rows(value, kv_heads, 0, value_channels);
    TRY(think_cache_append(cache, layer, options.flags & THINK_CACHE_NO_SCORES ? NULL : &queries, &keys, &values, &launch, &error));
  }
  FILE *file = fopen(argv[1], "wb");
  if (!file) return 1;
  TRY(think_cache_save(cache, 0, put, file, &error));
  if (fclose(file) != 0) return 1;
  think_cache_info info = THINK_CACHE_INFO_INIT;
  TRY(think_cache_usage(cache, 0, &info, &error));
  printf("{\"tokens\": %" PRId64 ", \"compact\": %" PRId64 ", \"dense_bytes\": %" PRId64 ", \"pages\": %" PRId64 ", \"basis\": %" PRId64 ", \"scores\": %" PRId64
         ", \"key_channels\": %d, \"value_channels\": %d, \"runs\": %d}\n",
         info.tokens, info.compact_tokens, info.dense_bytes, info.page_bytes, info.basis_bytes, info.score_bytes, info.key_channels, info.value_channels, info.runs);
  free(query), free(key), free(value), free(launch.workspace), free(formats);
  think_cache_destroy(cache), think_plan_destroy(plan), think_context_destroy(context);
  return 0;
}
