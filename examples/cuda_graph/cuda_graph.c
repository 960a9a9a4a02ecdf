/* Capture a decode step once, replay it while the sequence grows.
 *
 * One layer. The prompt is pruned by the paper's method (score, select, compact); then new tokens arrive. A graph holds pointers, strides and extents, not
 * what lies behind pointers: the lengths of the segments are device memory, so one graph serves every step. The engine writes the new row and the new length,
 * and replays. Every step is compared with the same calls on the CPU.
 *
 *   cuda_graph [cuda | cuda:N]        exit code 77: there is no such device, or no kernels for it */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "../device/device.h"

enum { QUERY_HEADS = 8, KV_HEADS = 2, CHANNELS = 64, KEPT = 40, PROMPT = 300, STEPS = 40, CAPACITY = 352, SINKS = 4, MOVED = 256 };
enum { ROW_BYTES = CHANNELS * 2, HEAD_BYTES = CAPACITY * ROW_BYTES };

/* One device with the layer on it. */
typedef struct layer {
  device where;
  think_context *context;
  think_plan *plan;
  think_launch launch;
  think_basis basis;
  think_segment segments[3]; /* compact prefix, sinks, recent */
  think_tensor query, output;
  uint16_t *keys, *values, *new_query; /* rows [head][token][channel] */
  float *result;
  int32_t *recent_length;
} layer;

static uint16_t noise(void) { /* bits of an f16 between 1/8 and 1/2, of either sign */
  static uint32_t state = 1;
  state = state * 1664525u + 1013904223u;
  return (uint16_t)((state >> 16 & 0x83ff) | 0x3000 | (state >> 10 & 0x400));
}

static think_tensor tensor_of(void *data, think_dtype dtype, int64_t heads, int64_t capacity, int64_t tokens) {
  think_tensor tensor = THINK_TENSOR_INIT;
  tensor.data = data;
  tensor.dtype = dtype;
  tensor.extent[0] = 1, tensor.extent[1] = heads, tensor.extent[2] = tokens, tensor.extent[3] = CHANNELS;
  tensor.stride[0] = heads * capacity * CHANNELS, tensor.stride[1] = capacity * CHANNELS, tensor.stride[2] = CHANNELS, tensor.stride[3] = 1;
  return tensor;
}

static int32_t *number(const device *where, int32_t value) {
  int32_t *memory = device_allocate(where, sizeof value);
  device_put(where, memory, &value, sizeof value);
  return memory;
}

static void make_layer(layer *layer) {
  const device *where = &layer->where;
  think_error error = THINK_ERROR_INIT;
  think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
  think_problem problem = THINK_PROBLEM_INIT;
  think_segment rows = THINK_SEGMENT_INIT, *tiles = &layer->segments[0];
  int64_t bytes = 0;
  int32_t stage;
  void *basis;

  options.device_type = where->cuda ? THINK_DEVICE_CUDA : THINK_DEVICE_CPU;
  options.device_index = where->index;
  MUST(think_context_create(&options, &layer->context, &error));
  problem.query_dtype = problem.cache_dtype = THINK_F16;
  problem.output_dtype = THINK_F32;
  problem.query_heads = QUERY_HEADS;
  problem.kv_heads = KV_HEADS;
  problem.key_channels = CHANNELS;
  problem.max_tokens = CAPACITY;
  MUST(think_plan_create(layer->context, &problem, &layer->plan, &error));

  /* One workspace for all stages: calls of one stream come one after the other. */
  think_launch_init(&layer->launch, sizeof layer->launch);
  for (stage = THINK_STAGE_SCORE; stage <= THINK_STAGE_ATTEND; ++stage) {
    if (stage == THINK_STAGE_MOMENTS || stage == THINK_STAGE_FIT) continue;
    MUST(think_workspace_size(layer->plan, stage, NULL, &bytes, NULL, &error));
    if (bytes > layer->launch.workspace_bytes) layer->launch.workspace_bytes = bytes;
  }
  layer->launch.workspace = device_allocate(where, (size_t)layer->launch.workspace_bytes);
  layer->launch.stream = where->stream;

  layer->keys = device_allocate(where, KV_HEADS * HEAD_BYTES);
  layer->values = device_allocate(where, KV_HEADS * HEAD_BYTES);
  layer->new_query = device_allocate(where, QUERY_HEADS * ROW_BYTES);
  layer->result = device_allocate(where, QUERY_HEADS * CHANNELS * sizeof(float));
  layer->query = tensor_of(layer->new_query, THINK_F16, QUERY_HEADS, 1, 1);
  layer->output = tensor_of(layer->result, THINK_F32, QUERY_HEADS, 1, 1);

  think_basis_init(&layer->basis, sizeof layer->basis);
  MUST(think_basis_size(layer->plan, THINK_KEYS, 1, &bytes, NULL, &error));
  basis = device_allocate(where, (size_t)bytes);
  MUST(think_basis_bind(layer->plan, THINK_KEYS, 1, basis, bytes, &layer->basis, &error));

  rows.key = layer->keys;
  rows.value = layer->values;
  rows.key_dtype = rows.value_dtype = THINK_F16;
  rows.key_stride[1] = rows.value_stride[1] = HEAD_BYTES;
  rows.page_tokens = CAPACITY;
  layer->segments[1] = layer->segments[2] = rows;
  layer->segments[1].lengths = number(where, SINKS);
  layer->segments[2].first = number(where, SINKS + MOVED);
  layer->segments[2].lengths = layer->recent_length = number(where, PROMPT - SINKS - MOVED);
  layer->segments[2].flags = THINK_SEGMENT_CAUSAL;

  think_segment_init(tiles, sizeof *tiles);
  tiles->key_layout = THINK_TILES;
  tiles->key_dtype = tiles->value_dtype = THINK_F16;
  tiles->key = device_allocate(where, KV_HEADS * MOVED * KEPT * 2);
  tiles->value = device_allocate(where, KV_HEADS * MOVED * ROW_BYTES);
  tiles->key_stride[1] = MOVED * KEPT * 2;
  tiles->value_stride[1] = MOVED * ROW_BYTES;
  tiles->page_tokens = MOVED;
  tiles->lengths = number(where, MOVED);
  tiles->key_basis = &layer->basis;
}

/* The prompt: queries and keys into the score, the best channels of each head, and the rows behind the sinks without the others. */
static void prune(layer *layer, const uint16_t *queries) {
  const device *where = &layer->where;
  think_error error = THINK_ERROR_INIT;
  think_select_options options = THINK_SELECT_OPTIONS_INIT;
  think_segment source = layer->segments[1];
  think_tensor query, key;
  int64_t bytes = 0;
  void *state, *all = device_allocate(where, QUERY_HEADS * PROMPT * ROW_BYTES);
  float *score = device_allocate(where, KV_HEADS * CHANNELS * sizeof(float));
  device_put(where, all, queries, QUERY_HEADS * PROMPT * ROW_BYTES);
  MUST(think_score_state_size(layer->plan, 1, &bytes, &error));
  state = device_allocate(where, (size_t)bytes);
  query = tensor_of(all, THINK_F16, QUERY_HEADS, PROMPT, PROMPT);
  key = tensor_of(layer->keys, THINK_F16, KV_HEADS, CAPACITY, PROMPT);
  MUST(think_score_reset(layer->plan, state, NULL, &layer->launch, &error));
  MUST(think_score_update(layer->plan, &query, &key, NULL, state, &layer->launch, &error));
  MUST(think_score_finish(layer->plan, state, NULL, NULL, score, &layer->launch, &error));
  options.kept = KEPT;
  MUST(think_select(layer->plan, score, NULL, &options, NULL, &layer->basis, NULL, &layer->launch, &error));
  source.key = (char *)source.key + SINKS * ROW_BYTES; /* row t of the source goes to row t of the tiles */
  source.value = (char *)source.value + SINKS * ROW_BYTES;
  MUST(think_compact(layer->plan, &source, &layer->segments[0], NULL, &layer->launch, &error));
}

static void attend(layer *layer) {
  think_error error = THINK_ERROR_INIT;
  MUST(think_attend(layer->plan, &layer->query, NULL, layer->segments, 3, NULL, &layer->output, NULL, &layer->launch, &error));
}

int main(int argc, char **argv) {
  static layer layers[2]; /* the device, and the CPU that checks it */
  static uint16_t queries[QUERY_HEADS * PROMPT * CHANNELS], row[QUERY_HEADS * CHANNELS];
  static float result[2][QUERY_HEADS * CHANNELS];
  const char *reason = device_open(&layers[0].where, argc > 1 ? argv[1] : "cuda");
  void *graph;
  double worst = 0;
  int i, head, step;
  if (!reason && !layers[0].where.cuda) reason = "a graph needs a CUDA device";
  if (reason) {
    printf("skipped: %s\n", reason);
    return EXIT_SKIPPED;
  }
  device_open(&layers[1].where, "cpu");
  for (i = 0; i < 2; ++i) make_layer(&layers[i]);
  for (i = 0; i < QUERY_HEADS * PROMPT * CHANNELS; ++i) queries[i] = noise();
  for (head = 0; head < KV_HEADS; ++head) { /* the prompt's rows */
    for (step = 0; step < PROMPT; ++step) {
      const size_t at = (size_t)(head * CAPACITY + step) * CHANNELS;
      for (i = 0; i < 2 * CHANNELS; ++i) row[i] = noise();
      for (i = 0; i < 2; ++i) {
        device_put(&layers[i].where, layers[i].keys + at, row, ROW_BYTES);
        device_put(&layers[i].where, layers[i].values + at, row + CHANNELS, ROW_BYTES);
      }
    }
  }
  for (i = 0; i < 2; ++i) prune(&layers[i], queries);

  device_capture(&layers[0].where);
  attend(&layers[0]);
  graph = device_end_capture(&layers[0].where);

  for (step = 0; step < STEPS; ++step) {
    const int32_t tokens = PROMPT + step + 1, recent = tokens - SINKS - MOVED;
    for (head = 0; head < KV_HEADS; ++head) {
      const size_t at = (size_t)(head * CAPACITY + tokens - 1) * CHANNELS;
      for (i = 0; i < 2 * CHANNELS; ++i) row[i] = noise();
      for (i = 0; i < 2; ++i) {
        device_put(&layers[i].where, layers[i].keys + at, row, ROW_BYTES);
        device_put(&layers[i].where, layers[i].values + at, row + CHANNELS, ROW_BYTES);
      }
    }
    for (i = 0; i < QUERY_HEADS * CHANNELS; ++i) row[i] = noise();
    for (i = 0; i < 2; ++i) {
      device_put(&layers[i].where, layers[i].new_query, row, sizeof row);
      device_put(&layers[i].where, layers[i].recent_length, &recent, sizeof recent);
    }
    device_replay(&layers[0].where, graph);
    attend(&layers[1]);
    for (i = 0; i < 2; ++i) device_get(&layers[i].where, result[i], layers[i].result, sizeof result[i]);
    for (i = 0; i < QUERY_HEADS * CHANNELS; ++i) {
      const double difference = fabs((double)result[0][i] - (double)result[1][i]);
      if (!(difference <= worst)) worst = difference; /* also when it is NaN */
    }
  }
  for (i = 0; i < 2; ++i) {
    think_plan_destroy(layers[i].plan);
    think_context_destroy(layers[i].context);
  }
  printf("one graph, %d steps from %d tokens on; largest difference from the CPU %.1e\n", STEPS, PROMPT, worst);
  return worst < 2e-3 ? 0 : 1;
}
