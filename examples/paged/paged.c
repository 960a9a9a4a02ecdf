/* A page pool that belongs to the engine: libthink is told where pages lie, through think_segment, and never owns one.
 *
 * One layer, two sequences of different length. Dense rows lie in pages of 64 tokens from one pool, compact rows in (smaller) pages from another. After the
 * prompt a prune moves the middle of each sequence to compact pages, and the dense pages that it emptied go back to the pool. Then both sequences are decoded,
 * taking a fresh page whenever the last one is full. All of it runs twice, with the pages handed out in another order: the same bits must come out.
 *
 *   paged [cpu | cuda | cuda:N]        default: a CUDA device if there is one; exit code 77: no such device, or no kernels for it */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../device/device.h"

enum { QUERY_HEADS = 8, KV_HEADS = 2, CHANNELS = 64, SEQUENCES = 2, STEPS = 80, PAGE = 64, CAPACITY = 640, TABLE = CAPACITY / PAGE, POOL = 2 * TABLE };
enum { ROW = CHANNELS * 2, HEAD = PAGE * ROW, DENSE_PAGE = KV_HEADS * HEAD, LATENT = 8, RESULT = SEQUENCES * QUERY_HEADS * CHANNELS };
static const int32_t prompt[SEQUENCES] = {500, 330};

/* ---- what the model would make: rows whose channels depend on each other, so that half of them predict the others */

static uint16_t query_rows[SEQUENCES][QUERY_HEADS][CAPACITY][CHANNELS], key_rows[SEQUENCES][KV_HEADS][CAPACITY][CHANNELS],
    value_rows[SEQUENCES][KV_HEADS][CAPACITY][CHANNELS];

static float uniform(void) {
  static uint32_t state = 3;
  state = state * 1664525u + 1013904223u;
  return (float)(state >> 8) / 8388608.0f - 1.0f;
}

static uint16_t half_of(float x) { /* cut, not rounded; what is too small becomes zero */
  uint32_t bits;
  int32_t exponent;
  memcpy(&bits, &x, sizeof bits);
  exponent = (int32_t)(bits >> 23 & 255) - 112;
  return (uint16_t)(exponent <= 0 ? 0 : (bits >> 16 & 0x8000) | (uint32_t)exponent << 10 | (bits >> 13 & 0x3ff));
}

static double number_of(uint16_t bits) {
  return ldexp((bits & 0x3ff) + (bits & 0x7c00 ? 1024 : 0), (bits >> 10 & 31) - 25) * (bits & 0x8000 ? -1 : 1);
}

static void make_rows(uint16_t *rows, int count) {
  float mixing[LATENT][CHANNELS], latent[LATENT];
  int i, c, row;
  for (i = 0; i < LATENT; ++i) {
    for (c = 0; c < CHANNELS; ++c) mixing[i][c] = uniform() / 2;
  }
  for (row = 0; row < count; ++row) {
    for (i = 0; i < LATENT; ++i) latent[i] = uniform();
    for (c = 0; c < CHANNELS; ++c) {
      float x = 0.05f * uniform();
      for (i = 0; i < LATENT; ++i) x += latent[i] * mixing[i][c];
      rows[row * CHANNELS + c] = half_of(x);
    }
  }
}

/* ---- the engine's pages */

typedef struct pool {
  char *keys, *values;
  size_t key_bytes, value_bytes; /* of a page */
  int32_t unused[POOL], count;
} pool;

static void make_pool(pool *pool, const device *where, int64_t key_bytes, int64_t value_bytes, int turned) {
  int i;
  pool->key_bytes = (size_t)key_bytes, pool->value_bytes = (size_t)value_bytes;
  pool->keys = device_allocate(where, POOL * pool->key_bytes);
  pool->values = device_allocate(where, POOL * pool->value_bytes);
  pool->count = POOL;
  for (i = 0; i < POOL; ++i) pool->unused[i] = turned ? (i * 7 + 3) % POOL : i;
}

static int32_t take(pool *pool) {
  if (pool->count == 0) {
    fprintf(stderr, "no page left\n");
    exit(1);
  }
  return pool->unused[--pool->count];
}

/* ---- the engine */

typedef struct engine {
  device where;
  think_context *context;
  think_plan *plan;
  think_launch launch;
  pool dense, compact;
  int32_t dense_table[SEQUENCES][TABLE], compact_table[SEQUENCES][TABLE], tokens[SEQUENCES], first[SEQUENCES], moved[SEQUENCES]; /* the host's */
  int32_t *dense_pages, *compact_pages, *lengths, *sinks, *compact_lengths, *recent_first, *recent; /* the same on the device, and what follows */
  think_basis basis;
  think_segment rows, tiles;
} engine;

/* One new row of each KV head; takes a page where the last one is full. */
static void append(engine *engine, int sequence, const uint16_t *keys, const uint16_t *values) { /* [KV_HEADS][CAPACITY][CHANNELS] */
  const int32_t token = engine->tokens[sequence]++;
  int32_t *page = &engine->dense_table[sequence][token / PAGE];
  int head;
  if (*page < 0) *page = take(&engine->dense);
  for (head = 0; head < KV_HEADS; ++head) {
    const size_t from = ((size_t)head * CAPACITY + (size_t)token) * CHANNELS, to = (size_t)head * HEAD + (size_t)(token % PAGE) * ROW;
    device_put(&engine->where, engine->dense.keys + (size_t)*page * engine->dense.key_bytes + to, keys + from, ROW);
    device_put(&engine->where, engine->dense.values + (size_t)*page * engine->dense.value_bytes + to, values + from, ROW);
  }
}

/* Lengths and page tables to the device. Captured into a graph, the calls would go on working: pointers stay, contents change. */
static void publish(engine *engine) {
  int32_t recent_first[SEQUENCES], recent[SEQUENCES];
  const device *where = &engine->where;
  int i;
  for (i = 0; i < SEQUENCES; ++i) {
    recent_first[i] = engine->first[i] + engine->moved[i];
    recent[i] = engine->tokens[i] - recent_first[i];
  }
  device_put(where, engine->dense_pages, engine->dense_table, sizeof engine->dense_table);
  device_put(where, engine->compact_pages, engine->compact_table, sizeof engine->compact_table);
  device_put(where, engine->lengths, engine->tokens, sizeof engine->tokens);
  device_put(where, engine->sinks, engine->first, sizeof engine->first);
  device_put(where, engine->compact_lengths, engine->moved, sizeof engine->moved);
  device_put(where, engine->recent_first, recent_first, sizeof recent_first);
  device_put(where, engine->recent, recent, sizeof recent);
}

static void start(engine *engine, int turned) {
  const device *where = &engine->where;
  think_error error = THINK_ERROR_INIT;
  think_context_options options = THINK_CONTEXT_OPTIONS_INIT;
  think_problem problem = THINK_PROBLEM_INIT;
  int64_t bytes = 0;
  int32_t stage;
  options.device_type = where->cuda ? THINK_DEVICE_CUDA : THINK_DEVICE_CPU;
  options.device_index = where->index;
  MUST(think_context_create(&options, &engine->context, &error));
  problem.query_dtype = problem.cache_dtype = THINK_F16;
  problem.output_dtype = THINK_F32;
  problem.query_heads = QUERY_HEADS;
  problem.kv_heads = KV_HEADS;
  problem.key_channels = CHANNELS;
  problem.max_batch = SEQUENCES;
  problem.max_tokens = CAPACITY;
  MUST(think_plan_create(engine->context, &problem, &engine->plan, &error));
  think_launch_init(&engine->launch, sizeof engine->launch);
  for (stage = THINK_STAGE_SCORE; stage <= THINK_STAGE_PRUNE; ++stage) {
    MUST(think_workspace_size(engine->plan, stage, NULL, &bytes, NULL, &error));
    if (bytes > engine->launch.workspace_bytes) engine->launch.workspace_bytes = bytes;
  }
  engine->launch.workspace = device_allocate(where, (size_t)engine->launch.workspace_bytes);
  engine->launch.stream = where->stream;

  make_pool(&engine->dense, where, DENSE_PAGE, DENSE_PAGE, turned);
  memset(engine->dense_table, 0xff, sizeof engine->dense_table); /* -1: no page */
  memset(engine->compact_table, 0xff, sizeof engine->compact_table);
  engine->dense_pages = device_allocate(where, sizeof engine->dense_table);
  engine->compact_pages = device_allocate(where, sizeof engine->compact_table);
  engine->lengths = device_allocate(where, sizeof engine->tokens);
  engine->sinks = device_allocate(where, sizeof engine->tokens);
  engine->compact_lengths = device_allocate(where, sizeof engine->tokens);
  engine->recent_first = device_allocate(where, sizeof engine->tokens);
  engine->recent = device_allocate(where, sizeof engine->tokens);

  think_segment_init(&engine->rows, sizeof engine->rows);
  engine->rows.key = engine->dense.keys;
  engine->rows.value = engine->dense.values;
  engine->rows.key_dtype = engine->rows.value_dtype = THINK_F16;
  engine->rows.key_stride[0] = engine->rows.value_stride[0] = DENSE_PAGE;
  engine->rows.key_stride[1] = engine->rows.value_stride[1] = HEAD;
  engine->rows.page_tokens = PAGE;
  engine->rows.pages = engine->dense_pages;
  engine->rows.pages_stride = TABLE;
}

/* Scores, compact pages for what will be moved, the prune, and the emptied pages back to the pool. */
static void prune(engine *engine, int turned) {
  const device *where = &engine->where;
  think_error error = THINK_ERROR_INIT;
  think_prune_options options = THINK_PRUNE_OPTIONS_INIT;
  think_prune_result result = THINK_PRUNE_RESULT_INIT;
  think_layout_info layout = THINK_LAYOUT_INFO_INIT;
  think_batch batch = THINK_BATCH_INIT, slots = THINK_BATCH_INIT;
  think_tensor tensors[2] = {THINK_TENSOR_INIT, THINK_TENSOR_INIT}; /* queries, keys: as the model makes them, before they are cached */
  think_segment source = engine->rows, *tiles = &engine->tiles;
  int64_t bytes = 0;
  int32_t page;
  void *state, *basis;
  int i;
  batch.count = slots.count = SEQUENCES;
  batch.lengths = engine->lengths;
  for (i = 0; i < 2; ++i) {
    const int64_t heads = i ? KV_HEADS : QUERY_HEADS;
    const size_t size = i ? sizeof key_rows : sizeof query_rows;
    tensors[i].data = device_allocate(where, size);
    device_put(where, tensors[i].data, i ? (void *)key_rows : (void *)query_rows, size);
    tensors[i].dtype = THINK_F16;
    tensors[i].extent[0] = SEQUENCES, tensors[i].extent[1] = heads, tensors[i].extent[2] = CAPACITY, tensors[i].extent[3] = CHANNELS;
    tensors[i].stride[0] = heads * CAPACITY * CHANNELS, tensors[i].stride[1] = CAPACITY * CHANNELS, tensors[i].stride[2] = CHANNELS, tensors[i].stride[3] = 1;
  }
  MUST(think_score_state_size(engine->plan, SEQUENCES, &bytes, &error));
  state = device_allocate(where, (size_t)bytes);
  MUST(think_score_reset(engine->plan, state, &slots, &engine->launch, &error));
  MUST(think_score_update(engine->plan, &tensors[0], &tensors[1], &batch, state, &engine->launch, &error));

  think_basis_init(&engine->basis, sizeof engine->basis);
  MUST(think_basis_size(engine->plan, THINK_KEYS, SEQUENCES, &bytes, NULL, &error));
  basis = device_allocate(where, (size_t)bytes);
  MUST(think_basis_bind(engine->plan, THINK_KEYS, SEQUENCES, basis, bytes, &engine->basis, &error));
  options.dense_limit = -1; /* the bases of so short sequences cost more than they save; this is about pages */
  for (i = 0; i < SEQUENCES; ++i) {
    MUST(think_prune_preview(engine->plan, NULL, engine->tokens[i], &options, &result, &error));
    engine->first[i] = (int32_t)result.first;
    engine->moved[i] = (int32_t)result.rows;
  }
  MUST(think_layout(engine->plan, NULL, PAGE, result.key_total, result.value_total, &layout, &error));
  make_pool(&engine->compact, where, layout.key_page_bytes, layout.value_page_bytes, turned);
  for (i = 0; i < SEQUENCES; ++i) {
    for (page = 0; page * PAGE < engine->moved[i]; ++page) engine->compact_table[i][page] = take(&engine->compact);
  }
  publish(engine);

  think_segment_init(tiles, sizeof *tiles);
  tiles->key_layout = THINK_TILES;
  tiles->key_dtype = tiles->value_dtype = THINK_F16;
  tiles->key = engine->compact.keys;
  tiles->value = engine->compact.values;
  tiles->key_stride[0] = layout.key_page_bytes;
  tiles->value_stride[0] = layout.value_page_bytes;
  tiles->page_tokens = PAGE;
  tiles->pages = engine->compact_pages;
  tiles->pages_stride = TABLE;
  tiles->key_head_offset = device_allocate(where, SEQUENCES * KV_HEADS * sizeof(int64_t)); /* heads have different widths */
  tiles->value_head_offset = device_allocate(where, SEQUENCES * KV_HEADS * sizeof(int64_t));
  tiles->key_basis = &engine->basis;
  source.lengths = engine->lengths;
  MUST(think_prune(engine->plan, state, &source, tiles, &slots, &options, NULL, &engine->launch, &error));
  tiles->lengths = engine->compact_lengths;

  for (i = 0; i < SEQUENCES; ++i) { /* a page that also holds a sink or a recent row stays */
    for (page = 0; page < TABLE; ++page) {
      if (page * PAGE < engine->first[i] || (page + 1) * PAGE > engine->first[i] + engine->moved[i]) continue;
      engine->dense.unused[engine->dense.count++] = engine->dense_table[i][page];
      engine->dense_table[i][page] = -1;
    }
  }
}

static void decode(engine *engine, float *result) { /* [SEQUENCES][QUERY_HEADS][CHANNELS] of the last step */
  const device *where = &engine->where;
  static uint16_t row[SEQUENCES][QUERY_HEADS][CHANNELS];
  think_error error = THINK_ERROR_INIT;
  think_segment segments[3] = {engine->tiles, engine->rows, engine->rows};
  think_tensor query = THINK_TENSOR_INIT, output;
  int step, i, head;
  segments[1].lengths = engine->sinks;
  segments[2].first = engine->recent_first;
  segments[2].lengths = engine->recent;
  segments[2].flags = THINK_SEGMENT_CAUSAL;
  query.data = device_allocate(where, sizeof row);
  query.dtype = THINK_F16;
  query.extent[0] = SEQUENCES, query.extent[1] = QUERY_HEADS, query.extent[2] = 1, query.extent[3] = CHANNELS;
  query.stride[0] = QUERY_HEADS * CHANNELS, query.stride[1] = query.stride[2] = CHANNELS, query.stride[3] = 1;
  output = query;
  output.data = device_allocate(where, RESULT * sizeof(float));
  output.dtype = THINK_F32;
  for (step = 0; step < STEPS; ++step) {
    for (i = 0; i < SEQUENCES; ++i) {
      for (head = 0; head < QUERY_HEADS; ++head) memcpy(row[i][head], query_rows[i][head][engine->tokens[i]], ROW);
      append(engine, i, key_rows[i][0][0], value_rows[i][0][0]);
    }
    publish(engine);
    device_put(where, query.data, row, sizeof row);
    MUST(think_attend(engine->plan, &query, NULL, segments, 3, NULL, &output, NULL, &engine->launch, &error));
  }
  device_get(where, result, output.data, RESULT * sizeof(float));
}

/* The same step over all rows, in plain loops; the largest difference relative to the largest output. */
static double distance_from_dense(const engine *engine, const float *result) {
  double worst = 0, largest = 0;
  int i, head, c;
  int32_t t;
  for (i = 0; i < SEQUENCES; ++i) {
    for (head = 0; head < QUERY_HEADS; ++head) {
      double sum = 0, out[CHANNELS] = {0};
      const int kv = head / (QUERY_HEADS / KV_HEADS);
      for (t = 0; t < engine->tokens[i]; ++t) {
        double dot = 0, weight;
        for (c = 0; c < CHANNELS; ++c) dot += number_of(query_rows[i][head][engine->tokens[i] - 1][c]) * number_of(key_rows[i][kv][t][c]);
        weight = exp(dot / sqrt(CHANNELS));
        sum += weight;
        for (c = 0; c < CHANNELS; ++c) out[c] += weight * number_of(value_rows[i][kv][t][c]);
      }
      for (c = 0; c < CHANNELS; ++c) {
        const double difference = fabs(out[c] / sum - (double)result[(i * QUERY_HEADS + head) * CHANNELS + c]);
        if (!(difference <= worst)) worst = difference;
        if (fabs(out[c] / sum) > largest) largest = fabs(out[c] / sum);
      }
    }
  }
  return worst / largest;
}

int main(int argc, char **argv) {
  static engine engines[2];
  static float results[2][RESULT];
  const char *reason;
  double distance;
  int run, i, t, before = 0, after = 0;
  for (i = 0; i < SEQUENCES; ++i) {
    for (t = 0; t < QUERY_HEADS; ++t) make_rows(query_rows[i][t][0], CAPACITY);
    for (t = 0; t < KV_HEADS; ++t) make_rows(key_rows[i][t][0], CAPACITY), make_rows(value_rows[i][t][0], CAPACITY);
  }
  for (run = 0; run < 2; ++run) {
    engine *engine = &engines[run];
    reason = device_open(&engine->where, argc > 1 ? argv[1] : "cuda");
    if (reason && argc <= 1) reason = device_open(&engine->where, "cpu");
    if (reason) {
      printf("skipped: %s\n", reason);
      return EXIT_SKIPPED;
    }
    start(engine, run);
    for (i = 0; i < SEQUENCES; ++i) {
      for (t = 0; t < prompt[i]; ++t) append(engine, i, key_rows[i][0][0], value_rows[i][0][0]);
    }
    publish(engine);
    before = POOL - engine->dense.count;
    prune(engine, run);
    after = POOL - engine->dense.count;
    decode(engine, results[run]);
    think_plan_destroy(engine->plan);
    think_context_destroy(engine->context);
  }
  distance = distance_from_dense(&engines[0], results[0]);
  printf("%s: prompts of %d and %d tokens in %d dense pages; after the prune %d dense and %d compact ones, keys of %d bytes a page instead of %d\n",
         engines[0].where.cuda ? "cuda" : "cpu", (int)prompt[0], (int)prompt[1], before, after, (int)(POOL - engines[0].compact.count),
         (int)engines[0].compact.key_bytes, DENSE_PAGE);
  printf("%d tokens later: %d dense pages, attention off by %.4f of its largest number, other page numbers: %s\n", STEPS, (int)(POOL - engines[0].dense.count),
         distance, memcmp(results[0], results[1], sizeof results[0]) == 0 ? "the same bits" : "OTHER RESULTS");
  return distance < 0.1 && memcmp(results[0], results[1], sizeof results[0]) == 0 ? 0 : 1;
}
