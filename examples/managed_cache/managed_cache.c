/* The managed cache: the library keeps pages, tables and bytes, the engine says which sequences get how many tokens.
 *
 * Two layers, two sequences. The prompts are stored, and pruned: their old rows move into compact tiles. Then both are decoded; blocks of 32 new rows are
 * folded into tiles as they get old. On a CUDA device the cache lives in a slab of device memory, and append and attend of all layers are one graph: captured
 * when think_cache_graph_id() says something new, otherwise replayed, whatever has grown or folded since. The CPU checks it.
 *
 *   managed_cache [cpu | cuda | cuda:N]        default: a CUDA device if there is one; exit code 77: no such device, or no kernels for it */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "../device/device.h"

enum { LAYERS = 2, SEQUENCES = 2, QUERY_HEADS = 8, KV_HEADS = 2, CHANNELS = 64, PROMPT = 500, STEPS = 100, MOST = 640 };
enum { QUERY_ROWS = SEQUENCES * QUERY_HEADS, KEY_ROWS = SEQUENCES * KV_HEADS, MOST_GRAPHS = 8 };

/* What the model would make of so many tokens for one layer: rows [sequence][head][token][channel] that depend on each other and on the position. */
static void make_rows(uint16_t *rows, int heads, int first, int tokens, int layer) {
  int head, token, channel;
  for (head = 0; head < heads; ++head) {
    for (token = 0; token < tokens; ++token) {
      for (channel = 0; channel < CHANNELS; ++channel) {
        const uint32_t place = (uint32_t)(((layer * 16 + head % 4) * MOST + first + token) * 8 + channel % 8), bits = place * 2654435761u ^ place << 7;
        const float size = 1.0f / (float)(1 + channel % 5);
        float x = size * ((float)(bits * 2246822519u >> 8) / 8388608.0f - 1.0f);
        uint32_t number;
        union {
          float value;
          uint32_t bits;
        } word;
        if (x < 0.001f && x > -0.001f) x = 0.001f; /* no f16 subnormals */
        word.value = x;
        number = (word.bits >> 16 & 0x8000) | ((word.bits >> 23 & 255) - 112) << 10 | (word.bits >> 13 & 0x3ff);
        rows[((size_t)head * (size_t)tokens + (size_t)token) * CHANNELS + (size_t)channel] = (uint16_t)number;
      }
    }
  }
}

typedef struct engine {
  device where;
  think_context *context;
  think_plan *plan;
  think_cache *cache;
  think_launch launch;
  uint16_t *query[LAYERS], *key[LAYERS], *value[LAYERS]; /* of the new tokens, always in the same place */
  float *output[LAYERS];
  int tokens;
  int64_t graph_id[MOST_GRAPHS];
  void *graph[MOST_GRAPHS];
  int graphs, replays;
} engine;

static think_tensor tensor_of(void *data, think_dtype dtype, int heads, int tokens) {
  think_tensor tensor = THINK_TENSOR_INIT;
  tensor.data = data;
  tensor.dtype = dtype;
  tensor.extent[0] = SEQUENCES, tensor.extent[1] = heads, tensor.extent[2] = tokens, tensor.extent[3] = CHANNELS;
  tensor.stride[0] = (int64_t)heads * tokens * CHANNELS, tensor.stride[1] = (int64_t)tokens * CHANNELS, tensor.stride[2] = CHANNELS, tensor.stride[3] = 1;
  return tensor;
}

static void open_engine(engine *engine) {
  const device *where = &engine->where;
  think_error error = THINK_ERROR_INIT;
  think_context_options host = THINK_CONTEXT_OPTIONS_INIT;
  think_problem problem = THINK_PROBLEM_INIT;
  think_prune_options prune = THINK_PRUNE_OPTIONS_INIT;
  think_cache_options options = THINK_CACHE_OPTIONS_INIT;
  int layer;

  host.device_type = where->cuda ? THINK_DEVICE_CUDA : THINK_DEVICE_CPU;
  host.device_index = where->index;
  MUST(think_context_create(&host, &engine->context, &error));
  problem.query_dtype = problem.cache_dtype = THINK_F16;
  problem.output_dtype = THINK_F32;
  problem.query_heads = QUERY_HEADS;
  problem.kv_heads = KV_HEADS;
  problem.key_channels = CHANNELS;
  problem.max_batch = SEQUENCES;
  problem.max_tokens = MOST;
  MUST(think_plan_create(engine->context, &problem, &engine->plan, &error));

  prune.key_kept = prune.value_kept = CHANNELS / 2;
  options.layers = LAYERS;
  options.fold = THINK_FOLD_BLOCK;
  options.prune = &prune;
  if (where->cuda) {
    MUST(think_cache_slab_size(engine->plan, &options, SEQUENCES * MOST, SEQUENCES * MOST, &options.slab_bytes, &error));
    options.slab = device_allocate(where, (size_t)options.slab_bytes);
  }
  MUST(think_cache_create(engine->plan, &options, &engine->cache, &error));
  think_launch_init(&engine->launch, sizeof engine->launch);
  MUST(think_cache_workspace_size(engine->cache, &engine->launch.workspace_bytes, NULL, &error));
  engine->launch.workspace = device_allocate(where, (size_t)engine->launch.workspace_bytes);
  engine->launch.stream = where->stream;
  for (layer = 0; layer < LAYERS; ++layer) {
    engine->query[layer] = device_allocate(where, QUERY_ROWS * PROMPT * CHANNELS * sizeof(uint16_t));
    engine->key[layer] = device_allocate(where, KEY_ROWS * PROMPT * CHANNELS * sizeof(uint16_t));
    engine->value[layer] = device_allocate(where, KEY_ROWS * PROMPT * CHANNELS * sizeof(uint16_t));
    engine->output[layer] = device_allocate(where, QUERY_ROWS * CHANNELS * sizeof(float));
  }
}

/* Which sequences get how many tokens, and their rows. */
static void begin_step(engine *engine, int tokens) {
  static uint16_t rows[QUERY_ROWS * PROMPT * CHANNELS];
  static const int32_t sequences[SEQUENCES] = {0, 1};
  const int32_t counts[SEQUENCES] = {tokens, tokens};
  think_error error = THINK_ERROR_INIT;
  int layer;
  MUST(think_cache_step(engine->cache, sequences, counts, SEQUENCES, &engine->launch, &error));
  for (layer = 0; layer < LAYERS; ++layer) {
    make_rows(rows, QUERY_ROWS, engine->tokens, tokens, 3 * layer);
    device_put(&engine->where, engine->query[layer], rows, QUERY_ROWS * (size_t)tokens * CHANNELS * sizeof rows[0]);
    make_rows(rows, KEY_ROWS, engine->tokens, tokens, 3 * layer + 1);
    device_put(&engine->where, engine->key[layer], rows, KEY_ROWS * (size_t)tokens * CHANNELS * sizeof rows[0]);
    make_rows(rows, KEY_ROWS, engine->tokens, tokens, 3 * layer + 2);
    device_put(&engine->where, engine->value[layer], rows, KEY_ROWS * (size_t)tokens * CHANNELS * sizeof rows[0]);
  }
  engine->tokens += tokens;
}

static void run_layers(engine *engine, int tokens, int attend) {
  think_error error = THINK_ERROR_INIT;
  int layer;
  for (layer = 0; layer < LAYERS; ++layer) {
    const think_tensor query = tensor_of(engine->query[layer], THINK_F16, QUERY_HEADS, tokens), key = tensor_of(engine->key[layer], THINK_F16, KV_HEADS, tokens),
                       value = tensor_of(engine->value[layer], THINK_F16, KV_HEADS, tokens),
                       output = tensor_of(engine->output[layer], THINK_F32, QUERY_HEADS, tokens);
    MUST(think_cache_append(engine->cache, layer, &query, &key, &value, &engine->launch, &error));
    if (attend) MUST(think_cache_attend(engine->cache, layer, &query, NULL, &output, NULL, &engine->launch, &error));
  }
}

/* One token of each sequence: on a device through a graph. */
static void decode(engine *engine) {
  think_error error = THINK_ERROR_INIT;
  int64_t id = 0;
  int at = 0;
  begin_step(engine, 1);
  if (!engine->where.cuda) {
    run_layers(engine, 1, 1);
    return;
  }
  MUST(think_cache_graph_id(engine->cache, &id, &error));
  while (at < engine->graphs && engine->graph_id[at] != id) ++at;
  if (at < engine->graphs) {
    device_replay(&engine->where, engine->graph[at]);
    MUST(think_cache_replayed(engine->cache, id, &error));
    ++engine->replays;
    return;
  }
  if (at == MOST_GRAPHS) exit(1); /* an engine would forget the oldest */
  device_capture(&engine->where);
  run_layers(engine, 1, 1); /* nothing runs yet, but for the cache all layers are appended */
  engine->graph_id[at] = id;
  engine->graph[at] = device_end_capture(&engine->where);
  ++engine->graphs;
  device_replay(&engine->where, engine->graph[at]);
}

int main(int argc, char **argv) {
  static engine engines[2]; /* the device, and the CPU that checks it */
  static const int32_t both[SEQUENCES] = {0, 1};
  static float result[2][LAYERS][QUERY_ROWS * CHANNELS];
  const char *reason = device_open(&engines[0].where, argc > 1 ? argv[1] : "cuda");
  think_error error = THINK_ERROR_INIT;
  think_cache_info info = THINK_CACHE_INFO_INIT;
  double worst = 0;
  int count, step, layer, i;
  if (reason && argc < 2) {
    printf("no CUDA device (%s): on the CPU\n", reason);
    reason = device_open(&engines[0].where, "cpu");
  }
  if (reason) {
    printf("skipped: %s\n", reason);
    return EXIT_SKIPPED;
  }
  count = engines[0].where.cuda ? 2 : 1;
  if (count == 2) device_open(&engines[1].where, "cpu");
  for (i = 0; i < count; ++i) {
    open_engine(&engines[i]);
    begin_step(&engines[i], PROMPT);
    run_layers(&engines[i], PROMPT, 0); /* attention of a prompt stays with the engine */
    MUST(think_cache_prune(engines[i].cache, both, SEQUENCES, &engines[i].launch, &error));
  }
  for (step = 0; step < STEPS; ++step) {
    for (i = 0; i < count; ++i) decode(&engines[i]);
    for (i = 0; i < count; ++i) {
      for (layer = 0; layer < LAYERS; ++layer) device_get(&engines[i].where, result[i][layer], engines[i].output[layer], sizeof result[i][layer]);
    }
    for (layer = 0; layer < LAYERS && count == 2; ++layer) {
      for (i = 0; i < QUERY_ROWS * CHANNELS; ++i) {
        const double difference = fabs((double)result[0][layer][i] - (double)result[1][layer][i]);
        if (!(difference <= worst)) worst = difference; /* also when it is NaN */
      }
    }
  }
  MUST(think_cache_usage(engines[0].cache, 0, &info, &error));
  printf("%lld tokens, %lld of them compact: %lld bytes instead of %lld\n", (long long)info.tokens, (long long)info.compact_tokens,
         (long long)(info.page_bytes + info.basis_bytes), (long long)info.dense_bytes);
  if (count == 2) {
    printf("%d steps: %d captured, %d replayed; largest difference from the CPU: %.1e\n", STEPS, engines[0].graphs, engines[0].replays, worst);
  }
  for (i = 0; i < count; ++i) think_cache_destroy(engines[i].cache), think_plan_destroy(engines[i].plan), think_context_destroy(engines[i].context);
  return info.page_bytes + info.basis_bytes < info.dense_bytes && worst < 1e-2 ? 0 : 1;
}
