// The moments stage on a CUDA device. Everything is a product of two tiles of 64 lines in shared memory, summed in f32 by FMA (no TF32): rows times
// queries for the logits, channels times channels for the second moments. Rows of keys are read three times (largest logits, masses, covariance), rows
// of values twice; each time once for all columns. What passes between launches is added in the order of tiles and splits, so the bits depend
// neither on the order in which blocks run nor on the rest of the batch.
#include "cuda.h"

#include "../common/device.cuh"

namespace think::moments::cuda {
namespace {

using namespace ptx;

constexpr int32_t kThreads = 256;
constexpr int32_t kBlocks = 2;        // of a multiprocessor, at least
constexpr int32_t kTile = 64;         // rows and queries of a tile of logits; channels of a tile of a covariance
constexpr int32_t kDepth = 64;        // channels of the queries that are in shared memory at a time
constexpr int32_t kPitch = 64 + 4;    // floats of a line: 4 mod 32 lets eight lanes store to eight lines without meeting in a bank
constexpr int32_t kStepRows = 32;     // rows that a covariance takes at a time
constexpr int32_t kSplits = 16;       // parts of a covariance, at most
constexpr int32_t kSplitRows = 512;   // rows of such a part, at least
constexpr float kLowest = -1e30f;     // below any logit, and finite, so that differences of it are numbers
constexpr float kLog2E = 1.4426950408889634f;

THINK_HOST_DEVICE constexpr int32_t up(int32_t value, int32_t multiple) { return (value + multiple - 1) / multiple * multiple; }
THINK_HOST_DEVICE constexpr int32_t tiles_of(int32_t count) { return (count + kTile - 1) / kTile; }
// By the rows alone: the same for a sequence in whatever batch.
THINK_HOST_DEVICE constexpr int32_t split_rows(int32_t rows) {
  const int32_t share = up((rows + kSplits - 1) / kSplits, kStepRows);
  return share > kSplitRows ? share : kSplitRows;
}
THINK_HOST_DEVICE constexpr int32_t pairs_of(int32_t channels) { return tiles_of(channels) * (tiles_of(channels) + 1) / 2; }
THINK_HOST_DEVICE constexpr int32_t key_pitch(int32_t channels) { return up(channels, 32) + 4; }

// The state of a head, as view() lays it out.
struct StateLayout {
  char *base;
  int64_t slot_bytes, head_floats;
  int32_t key_covariance, query_moment, value_mean, value_covariance, rows;  // floats from the head's first, the mean of the keys
};

struct MomentsCall {
  device::Side key, value;
  device::Run run;
  think_tensor query;
  const int32_t *query_slot, *slot;
  StateLayout state;
  int32_t first_sequence;  // of this wave
  int32_t query_bytes;     // of an element
  int32_t kv_heads, group, key_channels, value_channels;
  float scale, softcap, share;
  int32_t sinks, recent;
  bool causal, values;

  // Workspace of a wave, [sequence][head] of:
  Float2 *partial_columns;  // [tile of all rows][columns]: largest logit, sum of exponentials
  Float2 *all_columns;      // [columns]: largest logit, inverse of the sum
  float *mass;              // [moved rows]
  double *tile_mass;        // [tile of moved rows]
  float *sums;              // [tile of moved rows][2][key channels + value channels]: sum of x, sum of mass * x
  double *weights;          // [2]: the weight of a row is the first + its mass times the second
  float *partial;           // [split][key channels ^ 2 + value channels ^ 2]
  int32_t tiles, moved_tiles, columns, splits;  // at most: what the arrays were made for
};

// One sequence and KV head.
struct Head {
  int32_t sequence, head;
  int64_t scratch;  // of the wave's arrays
  int32_t first, tokens;
  int32_t moved, moved_first;  // rows that a prune would move, from `first`
  int32_t query_rows, columns;
};

THINK_DEVICE Head head_of(const MomentsCall &call) {
  Head head;
  head.sequence = call.first_sequence + block_z();
  head.head = block_y();
  head.scratch = static_cast<int64_t>(block_z()) * call.kv_heads + head.head;
  head.first = device::first_of(call.run, head.sequence, head.head);
  head.tokens = device::length_of(call.run, head.sequence, head.head);
  const PruneRange range = device::prune_range(head.tokens, call.sinks, call.recent);
  head.moved_first = static_cast<int32_t>(range.first);
  head.moved = static_cast<int32_t>(range.count);
  const int32_t rows = static_cast<int32_t>(call.query.extent[2]);
  head.query_rows = rows < head.tokens ? rows : head.tokens;
  head.columns = head.query_rows * call.group;
  return head;
}

THINK_DEVICE float *state_of(const MomentsCall &call, const Head &head) {
  char *slot = call.state.base + device::slot_of(call.slot, head.sequence) * call.state.slot_bytes;
  return reinterpret_cast<float *>(slot) + head.head * call.state.head_floats;
}

// ---- eight numbers of a row, and rows in shared memory

template <class T>
THINK_DEVICE void load_eight(float (&x)[8], const char *at) {
  constexpr int32_t kWords = 8 * static_cast<int32_t>(sizeof(T)) / 16;
  if (reinterpret_cast<uintptr_t>(at) % 16 == 0) {
#pragma unroll
    for (int32_t i = 0; i < kWords; ++i) {
      const Words4 chunk = load_constant(reinterpret_cast<const Words4 *>(at) + i);
      const uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
      for (int32_t j = 0; j < 4; ++j) {
        if constexpr (sizeof(T) == 4) {
          x[4 * i + j] = as_float(words[j]);
        } else {
          const Float2 two = unpack<T>(words[j]);
          x[2 * j] = two.x, x[2 * j + 1] = two.y;
        }
      }
    }
  } else {
#pragma unroll
    for (int32_t i = 0; i < 8; ++i) x[i] = to_float(load_constant(reinterpret_cast<const T *>(at) + i));
  }
}

// The type is the same for a whole launch, so nothing diverges; a kernel for each pair of types would be nine of each.
THINK_DEVICE void load_eight(float (&x)[8], const char *at, think_dtype dtype) {
  if (dtype == THINK_F32) {
    load_eight<float>(x, at);
  } else if (dtype == THINK_F16) {
    load_eight<F16>(x, at);
  } else {
    load_eight<BF16>(x, at);
  }
}

// `rows` lines (a multiple of 8) of `chunks` times eight numbers. A quarter of a warp stores the same chunk of eight lines, and the whole warp reads
// four chunks of each: whole sectors, and no bank twice.
template <class Fetch>
THINK_DEVICE void stage(Shared<float> lines, int32_t pitch, int32_t rows, int32_t chunks, const Fetch &fetch) {
  for (int32_t unit = thread_index(); unit < rows * chunks; unit += kThreads) {
    const int32_t group = unit / 8, row = group / chunks * 8 + unit % 8, chunk = group % chunks;
    float x[8] = {};
    fetch(x, row, chunk);
    const Shared<float> to = lines + (row * pitch + chunk * 8);
    store_shared(to.as<Float4>(), Float4{x[0], x[1], x[2], x[3]});
    store_shared((to + 4).as<Float4>(), Float4{x[4], x[5], x[6], x[7]});
  }
}

// Rows [row, row + count) of the head, zeros behind them.
THINK_DEVICE void stage_rows(Shared<float> lines, int32_t pitch, const device::Side &side, const device::View &view, int32_t channels, int32_t row,
                             int32_t count) {
  stage(lines, pitch, kTile, channels / 8, [&](float(&x)[8], int32_t line, int32_t chunk) {
    if (line < count) load_eight(x, device::row_address(view, row + line) + chunk * 8 * side.element_bytes, side.dtype);
  });
}

// Where the eight channels from 8 * chunk on of a column's query lie. Columns are in the order of the query rows: member = column mod group.
THINK_DEVICE const char *query_address(const MomentsCall &call, const Head &head, int32_t slot, int32_t column, int32_t channel) {
  const int32_t bytes = call.query_bytes, row = column / call.group, member = column - row * call.group;
  const int64_t token = call.query.extent[2] - head.query_rows + row;
  return device::element(call.query, slot, static_cast<int64_t>(head.head) * call.group + member, token, bytes) + channel * bytes;
}

// ---- logits: a tile of 64 rows times 64 columns, 4 times 4 of each thread

struct Cell {
  int32_t row, column;  // of the thread's first logit in the tile; the next are 8 rows and 4 columns further on

  THINK_DEVICE Cell() : row(warp_index() / 4 * 32 + lane_index() % 8), column(warp_index() % 4 * 16 + lane_index() / 8) {}
};

struct LogitTiles {
  Shared<float> keys;     // [64][key_pitch], room for values too
  Shared<float> queries;  // [64][kPitch]
  Shared<Float2> columns; // [2][64]
  Shared<float> sums;     // [4][64]
  Shared<float> mass;     // [64]
};

THINK_HOST_DEVICE LogitTiles take_tiles(SharedCarver &carver, int32_t channels) {
  LogitTiles tiles;
  tiles.keys = carver.take<float>(static_cast<uint32_t>(kTile * key_pitch(channels)));
  tiles.queries = carver.take<float>(kTile * kPitch);
  tiles.columns = carver.take<Float2>(2 * kTile);
  tiles.sums = carver.take<float>(4 * kTile);
  tiles.mass = carver.take<float>(kTile);
  return tiles;
}

uint32_t tiles_bytes(int32_t channels) {
  SharedCarver carver;
  take_tiles(carver, channels);
  return carver.bytes();
}

THINK_DEVICE float exponential(float difference) { return exp2_fast(difference * kLog2E); }

// tanh as 1 - 2 / (exp(2x) + 1): the error is absolute, a unit in the last place of the cap.
THINK_DEVICE float cap(float logit, float softcap) {
  const float x = fminf(fmaxf(2.0f * logit / softcap, -80.0f), 80.0f);
  return softcap * (1.0f - 2.0f / (exponential(x) + 1.0f));
}

// The logits of the rows in tiles.keys, `row` the first of them from the head's first row, with the queries of one tile of columns. -inf where a query
// does not see a row, and where there is none.
THINK_DEVICE void logits(const MomentsCall &call, const Head &head, const LogitTiles &tiles, int32_t slot, int32_t row, int32_t count, int32_t tile,
                         float (&z)[4][4]) {
  const Cell cell;
  const int32_t pitch = key_pitch(call.key_channels > call.value_channels ? call.key_channels : call.value_channels);
#pragma unroll
  for (int32_t i = 0; i < 4; ++i) {
#pragma unroll
    for (int32_t j = 0; j < 4; ++j) z[i][j] = 0;
  }
  for (int32_t channel = 0; channel < call.key_channels; channel += kDepth) {
    const int32_t left = call.key_channels - channel, chunks = (left < kDepth ? left : kDepth) / 8;
    sync_block();
    stage(tiles.queries, kPitch, kTile, chunks, [&](float(&x)[8], int32_t line, int32_t chunk) {
      const int32_t column = tile * kTile + line;
      if (column < head.columns) load_eight(x, query_address(call, head, slot, column, channel + chunk * 8), call.query.dtype);
    });
    sync_block();
    for (int32_t four = 0; four < 2 * chunks; ++four) {
      Float4 key[4], query[4];
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        key[i] = load_shared((tiles.keys + ((cell.row + 8 * i) * pitch + channel + four * 4)).as<Float4>());
        query[i] = load_shared((tiles.queries + ((cell.column + 4 * i) * kPitch + four * 4)).as<Float4>());
      }
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
#pragma unroll
        for (int32_t j = 0; j < 4; ++j) {
          z[i][j] = fmaf(key[i].x, query[j].x, z[i][j]);
          z[i][j] = fmaf(key[i].y, query[j].y, z[i][j]);
          z[i][j] = fmaf(key[i].z, query[j].z, z[i][j]);
          z[i][j] = fmaf(key[i].w, query[j].w, z[i][j]);
        }
      }
    }
  }
#pragma unroll
  for (int32_t j = 0; j < 4; ++j) {
    const int32_t column = tile * kTile + cell.column + 4 * j;
    // The last row that this column sees.
    const int32_t last = call.causal ? head.tokens - head.query_rows + column / call.group : head.tokens;
#pragma unroll
    for (int32_t i = 0; i < 4; ++i) {
      const int32_t at = cell.row + 8 * i;
      float x = z[i][j] * call.scale;
      if (call.softcap > 0) x = cap(x, call.softcap);
      z[i][j] = at < count && row + at <= last && column < head.columns ? x : as_float(0xff800000u);
    }
  }
}

// ---- scan, grid (tiles of rows, KV heads, sequences): largest logit and sum of exponentials of each column

struct Softmax {
  float largest, sum;
};

THINK_DEVICE Softmax join(const Softmax &a, const Softmax &b) {
  const float largest = fmaxf(a.largest, b.largest);
  return {largest, a.sum * exponential(a.largest - largest) + b.sum * exponential(b.largest - largest)};
}

__global__ void __launch_bounds__(kThreads, kBlocks) moments_scan(const __grid_constant__ MomentsCall call) {
  const Head head = head_of(call);
  const int32_t row = block_x() * kTile, left = head.tokens - row, count = left < kTile ? left : kTile;
  if (head.moved == 0 || count <= 0) return;
  SharedCarver carver = shared_memory();
  const int32_t widest = call.key_channels > call.value_channels ? call.key_channels : call.value_channels;
  const LogitTiles tiles = take_tiles(carver, widest);
  const device::View keys = device::view_of(call.key, call.run, call.kv_heads, head.sequence, head.head);
  const int32_t slot = device::slot_of(call.query_slot, head.sequence);
  stage_rows(tiles.keys, key_pitch(widest), call.key, keys, call.key_channels, head.first + row, count);
  Float2 *to = call.partial_columns + (head.scratch * call.tiles + block_x()) * call.columns;
  const Cell cell;
  for (int32_t tile = 0; tile < tiles_of(head.columns); ++tile) {
    float z[4][4];
    logits(call, head, tiles, slot, row, count, tile, z);
    // Of the 32 rows of the warp; the two warps that share a column meet in shared memory.
#pragma unroll
    for (int32_t j = 0; j < 4; ++j) {
      float largest = kLowest;
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) largest = fmaxf(largest, z[i][j]);
      largest = warp_max(largest, 8);
      float sum = 0;
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) sum += exponential(z[i][j] - largest);
      sum = warp_sum(sum, 8);
      if (lane_index() % 8 == 0) store_shared(tiles.columns + (warp_index() / 4 * kTile + cell.column + 4 * j), Float2{largest, sum});
    }
    sync_block();
    const int32_t column = tile * kTile + thread_index();
    if (thread_index() < kTile && column < head.columns) {
      const Float2 upper = load_shared(tiles.columns + thread_index()), lower = load_shared(tiles.columns + (kTile + thread_index()));
      const Softmax both = join({upper.x, upper.y}, {lower.x, lower.y});
      store_global(to + column, Float2{both.largest, both.sum});
    }
  }
}

// ---- join, grid (32 columns each, KV heads, sequences): the tiles together. A warp has every eighth tile.

__global__ void __launch_bounds__(kThreads, kBlocks) moments_join(const __grid_constant__ MomentsCall call) {
  const Head head = head_of(call);
  if (head.moved == 0) return;
  SharedCarver carver = shared_memory();
  const Shared<Float2> parts = carver.take<Float2>(kThreads);
  const int32_t column = block_x() * 32 + lane_index();
  Softmax sum = {kLowest, 0};
  if (column < head.columns) {
    const Float2 *from = call.partial_columns + head.scratch * call.tiles * call.columns + column;
#pragma unroll 4
    for (int32_t tile = warp_index(); tile < tiles_of(head.tokens); tile += kThreads / 32) {
      const Float2 part = load_stream(from + static_cast<int64_t>(tile) * call.columns);
      sum = join(sum, {part.x, part.y});
    }
  }
  store_shared(parts + thread_index(), Float2{sum.largest, sum.sum});
  sync_block();
  if (warp_index() > 0 || column >= head.columns) return;
  for (int32_t warp = 1; warp < kThreads / 32; ++warp) {
    const Float2 part = load_shared(parts + (warp * 32 + lane_index()));
    sum = join(sum, {part.x, part.y});
  }
  store_global(call.all_columns + head.scratch * call.columns + column, Float2{sum.largest, 1.0f / sum.sum});
}

// ---- mass, grid (tiles of moved rows, KV heads, sequences): attention mass of each row, and the sums of which the means are made

THINK_DEVICE void add_up_rows(Shared<float> lines, int32_t pitch, Shared<float> mass, int32_t channels, float *plain_to, float *weighted_to) {
  const int32_t channel = thread_index();
  if (channel >= channels) return;
  float plain = 0, weighted = 0;
#pragma unroll 8
  for (int32_t row = 0; row < kTile; ++row) {
    const float x = load_shared(lines + (row * pitch + channel));
    plain += x;
    weighted = fmaf(load_shared(mass + row), x, weighted);
  }
  store_global(plain_to + channel, plain);
  store_global(weighted_to + channel, weighted);
}

__global__ void __launch_bounds__(kThreads, kBlocks) moments_mass(const __grid_constant__ MomentsCall call) {
  const Head head = head_of(call);
  const int32_t moved = block_x() * kTile, left = head.moved - moved, count = left < kTile ? left : kTile, row = head.moved_first + moved;
  if (count <= 0) return;
  SharedCarver carver = shared_memory();
  const int32_t widest = call.key_channels > call.value_channels ? call.key_channels : call.value_channels, pitch = key_pitch(widest);
  const LogitTiles tiles = take_tiles(carver, widest);
  const device::View keys = device::view_of(call.key, call.run, call.kv_heads, head.sequence, head.head);
  stage_rows(tiles.keys, pitch, call.key, keys, call.key_channels, head.first + row, count);
  const Cell cell;
  float sum[4] = {};
  if (call.share > 0) {
    const int32_t slot = device::slot_of(call.query_slot, head.sequence);
    const Float2 *columns = call.all_columns + head.scratch * call.columns;
    for (int32_t tile = 0; tile < tiles_of(head.columns); ++tile) {
      // Two buffers: between the use of one and its next filling lie the barriers of the other's tile.
      const Shared<Float2> of_tile = tiles.columns + tile % 2 * kTile;
      if (thread_index() < kTile) {
        const int32_t column = tile * kTile + thread_index();
        store_shared(of_tile + thread_index(), column < head.columns ? load_constant(columns + column) : Float2{0, 0});
      }
      float z[4][4];
      logits(call, head, tiles, slot, row, count, tile, z);
#pragma unroll
      for (int32_t j = 0; j < 4; ++j) {
        const Float2 column = load_shared(of_tile + (cell.column + 4 * j));
#pragma unroll
        for (int32_t i = 0; i < 4; ++i) sum[i] = fmaf(exponential(z[i][j] - column.x), column.y, sum[i]);
      }
    }
  }
#pragma unroll
  for (int32_t i = 0; i < 4; ++i) {
    sum[i] += shuffle_xor(sum[i], 8);
    sum[i] += shuffle_xor(sum[i], 16);
    if (lane_index() < 8) store_shared(tiles.sums + (warp_index() % 4 * kTile + cell.row + 8 * i), sum[i]);
  }
  sync_block();
  if (thread_index() < kTile) {
    float mass = 0;
    for (int32_t part = 0; part < 4; ++part) mass += load_shared(tiles.sums + (part * kTile + thread_index()));
    store_shared(tiles.mass + thread_index(), mass);
    if (thread_index() < count) store_global(call.mass + head.scratch * call.moved_tiles * kTile + moved + thread_index(), mass);
  }
  sync_block();
  if (thread_index() == 0) {
    double total = 0;
    for (int32_t i = 0; i < kTile; ++i) total += load_shared(tiles.mass + i);
    store_global(call.tile_mass + head.scratch * call.moved_tiles + block_x(), total);
  }
  const int32_t both = call.key_channels + call.value_channels;
  float *sums = call.sums + (head.scratch * call.moved_tiles + block_x()) * 2 * both;
  add_up_rows(tiles.keys, pitch, tiles.mass, call.key_channels, sums, sums + both);
  if (!call.values) return;
  sync_block();
  const device::View values = device::view_of(call.value, call.run, call.kv_heads, head.sequence, head.head);
  stage_rows(tiles.keys, pitch, call.value, values, call.value_channels, head.first + row, count);
  sync_block();
  add_up_rows(tiles.keys, pitch, tiles.mass, call.value_channels, sums + call.key_channels, sums + both + call.key_channels);
}

// ---- mean, grid (sides, KV heads, sequences)

struct MeanParts {
  Shared<double> plain, weighted;  // [threads]
};

THINK_HOST_DEVICE MeanParts take_parts(SharedCarver &carver) { return {carver.take<double>(kThreads), carver.take<double>(kThreads)}; }

__global__ void __launch_bounds__(kThreads, kBlocks) moments_mean(const __grid_constant__ MomentsCall call) {
  const Head head = head_of(call);
  const bool keys = block_x() == THINK_KEYS;
  const int32_t channels = keys ? call.key_channels : call.value_channels, thread = thread_index();
  float *state = state_of(call, head), *mean = state + (keys ? 0 : call.state.value_mean);
  if (keys && thread == 0) store_global(state + call.state.rows, static_cast<float>(head.moved));
  if (head.moved == 0 || (!keys && !call.values)) {
    if (thread < channels) store_global(mean + thread, 0.0f);
    return;
  }
  SharedCarver carver = shared_memory();
  const MeanParts parts = take_parts(carver);
  const int32_t tiles = tiles_of(head.moved);
  const double *tile_mass = call.tile_mass + head.scratch * call.moved_tiles;
  double total = 0;
  for (int32_t tile = thread; tile < tiles; tile += kThreads) total += load_stream(tile_mass + tile);
  store_shared(parts.plain + thread, total);
  sync_block();
  total = 0;
  for (int32_t i = 0; i < kThreads && i < tiles; ++i) total += load_shared(parts.plain + i);
  sync_block();
  // No attention at all on these rows: they weigh the same.
  const double rows = head.moved, share = static_cast<double>(call.share);
  const bool even_only = call.share <= 0 || total == 0;
  const double even = even_only ? 1 / rows : (1 - share) / rows, by_mass = even_only ? 0 : share / total;
  if (keys && thread == 0) {
    store_global(call.weights + head.scratch * 2, even);
    store_global(call.weights + head.scratch * 2 + 1, by_mass);
  }
  const int32_t count = kThreads / channels, part = thread / channels, channel = thread - part * channels;
  const int32_t both = call.key_channels + call.value_channels;
  const float *sums = call.sums + head.scratch * call.moved_tiles * 2 * both + (keys ? 0 : call.key_channels) + channel;
  double plain = 0, weighted = 0;
  if (part < count) {
#pragma unroll 4
    for (int32_t tile = part; tile < tiles; tile += count) {
      plain += load_stream(sums + static_cast<int64_t>(tile) * 2 * both);
      weighted += load_stream(sums + static_cast<int64_t>(tile) * 2 * both + both);
    }
  }
  store_shared(parts.plain + thread, plain);
  store_shared(parts.weighted + thread, weighted);
  sync_block();
  if (thread >= channels) return;
  for (int32_t i = 1; i < count; ++i) {
    plain += load_shared(parts.plain + (i * channels + thread));
    weighted += load_shared(parts.weighted + (i * channels + thread));
  }
  store_global(mean + thread, static_cast<float>(even * plain + by_mass * weighted));
}

// ---- second moments: a tile of 64 times 64 channels, 4 times 4 of each thread

struct Pair {
  int32_t i, j;            // first channels of the tile, i <= j
  int32_t width_i, width_j;

  THINK_DEVICE Pair(int32_t number, int32_t channels) {
    int32_t line = 0;
    for (int32_t length = tiles_of(channels); number >= length; --length) number -= length, ++line;
    i = line * kTile;
    j = (line + number) * kTile;
    width_i = channels - i < kTile ? channels - i : kTile;
    width_j = channels - j < kTile ? channels - j : kTile;
  }
};

struct ProductTiles {
  Shared<float> left, right;  // [32][kPitch]
  Shared<float> mean;         // [2][64]
  Shared<float> root;         // [2][32]
};

THINK_HOST_DEVICE ProductTiles take_product(SharedCarver &carver) {
  ProductTiles tiles;
  tiles.left = carver.take<float>(kStepRows * kPitch);
  tiles.right = carver.take<float>(kStepRows * kPitch);
  tiles.mean = carver.take<float>(2 * kTile);
  tiles.root = carver.take<float>(2 * kStepRows);
  return tiles;
}

uint32_t product_bytes() {
  SharedCarver carver;
  take_product(carver);
  return carver.bytes();
}

// First channels of the thread's sixteen products inside the tile.
struct Corner {
  int32_t i, j;

  THINK_DEVICE Corner() : i((warp_index() / 2 * 4 + lane_index() / 8) * 4), j((warp_index() % 2 * 8 + lane_index() % 8) * 4) {}
};

// sum[a][b] += over the rows of x_(i + a) x_(j + b). `prepare` is called one step ahead, `fetch` gives eight numbers of a line.
template <class Prepare, class Fetch>
THINK_DEVICE void add_products(float (&sum)[4][4], const Pair &pair, const ProductTiles &tiles, int32_t rows, const Prepare &prepare, const Fetch &fetch) {
  const Corner corner;
  const bool works = corner.i < pair.width_i && corner.j < pair.width_j, diagonal = pair.i == pair.j;
  const Shared<float> right = diagonal ? tiles.left : tiles.right;
  prepare(0);
  for (int32_t row = 0; row < rows; row += kStepRows) {
    sync_block();
    stage(tiles.left, kPitch, kStepRows, pair.width_i / 8, [&](float(&x)[8], int32_t line, int32_t chunk) { fetch(x, row, line, pair.i, chunk, 0); });
    if (!diagonal) {
      stage(tiles.right, kPitch, kStepRows, pair.width_j / 8, [&](float(&x)[8], int32_t line, int32_t chunk) { fetch(x, row, line, pair.j, chunk, 1); });
    }
    sync_block();
    prepare(row + kStepRows);
    if (!works) continue;
#pragma unroll 4
    for (int32_t line = 0; line < kStepRows; ++line) {
      const Float4 a = load_shared((tiles.left + (line * kPitch + corner.i)).as<Float4>());
      const Float4 b = load_shared((right + (line * kPitch + corner.j)).as<Float4>());
      const float x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int32_t p = 0; p < 4; ++p) {
#pragma unroll
        for (int32_t q = 0; q < 4; ++q) sum[p][q] = fmaf(x[p], y[q], sum[p][q]);
      }
    }
  }
}

// ---- queries, grid (tiles of the moment, KV heads, sequences)

__global__ void __launch_bounds__(kThreads, kBlocks) moments_queries(const __grid_constant__ MomentsCall call) {
  const Head head = head_of(call);
  SharedCarver carver = shared_memory();
  const ProductTiles tiles = take_product(carver);
  const Pair pair(block_x(), call.key_channels);
  const Corner corner;
  float sum[4][4] = {};
  if (head.moved > 0) {
    const int32_t slot = device::slot_of(call.query_slot, head.sequence);
    const float root = sqrtf(1.0f / static_cast<float>(head.columns));
    add_products(
        sum, pair, tiles, head.columns, [](int32_t) {},
        [&](float(&x)[8], int32_t row, int32_t line, int32_t channel, int32_t chunk, int32_t) {
          if (row + line >= head.columns) return;
          load_eight(x, query_address(call, head, slot, row + line, channel + chunk * 8), call.query.dtype);
#pragma unroll
          for (int32_t i = 0; i < 8; ++i) x[i] *= root;
        });
  }
  if (corner.i >= pair.width_i || corner.j >= pair.width_j) return;
  float *moment = state_of(call, head) + call.state.query_moment;
#pragma unroll
  for (int32_t p = 0; p < 4; ++p) {
#pragma unroll
    for (int32_t q = 0; q < 4; ++q) {
      const int32_t i = pair.i + corner.i + p, j = pair.j + corner.j + q;
      store_global(moment + i * call.key_channels + j, sum[p][q]);
      if (pair.i != pair.j) store_global(moment + j * call.key_channels + i, sum[p][q]);
    }
  }
}

// ---- covariance, grid (splits times tiles of both sides, KV heads, sequences): centred, weighted, summed over the rows of a split

__global__ void __launch_bounds__(kThreads, kBlocks) moments_covariance(const __grid_constant__ MomentsCall call) {
  const Head head = head_of(call);
  const int32_t split = block_x() % call.splits, number = block_x() / call.splits, key_pairs = pairs_of(call.key_channels);
  const bool keys = number < key_pairs;
  const int32_t length = split_rows(head.moved), begin = split * length, left = head.moved - begin, rows = left < length ? left : length;
  if (rows <= 0) return;
  const int32_t channels = keys ? call.key_channels : call.value_channels;
  const Pair pair(keys ? number : number - key_pairs, channels);
  SharedCarver carver = shared_memory();
  const ProductTiles tiles = take_product(carver);
  const device::Side &side = keys ? call.key : call.value;
  const device::View view = device::view_of(side, call.run, call.kv_heads, head.sequence, head.head);
  const float *mean = state_of(call, head) + (keys ? 0 : call.state.value_mean), *mass = call.mass + head.scratch * call.moved_tiles * kTile + begin;
  const double even = load_constant(call.weights + head.scratch * 2), by_mass = load_constant(call.weights + head.scratch * 2 + 1);
  if (thread_index() < pair.width_i) store_shared(tiles.mean + thread_index(), load_constant(mean + pair.i + thread_index()));
  if (thread_index() < pair.width_j) store_shared(tiles.mean + (kTile + thread_index()), load_constant(mean + pair.j + thread_index()));
  float sum[4][4] = {};
  add_products(
      sum, pair, tiles, rows,
      [&](int32_t row) {  // the square roots of the weights, in two buffers
        const int32_t own = row + thread_index();
        if (thread_index() >= kStepRows || own >= rows) return;
        const double weight = even + by_mass * static_cast<double>(load_constant(mass + own));
        store_shared(tiles.root + (row / kStepRows % 2 * kStepRows + thread_index()), sqrtf(static_cast<float>(weight)));
      },
      [&](float(&x)[8], int32_t row, int32_t line, int32_t channel, int32_t chunk, int32_t place) {
        if (row + line >= rows) return;
        load_eight(x, device::row_address(view, head.first + head.moved_first + begin + row + line) + (channel + chunk * 8) * side.element_bytes, side.dtype);
        const float root = load_shared(tiles.root + (row / kStepRows % 2 * kStepRows + line));
        const Shared<float> centre = tiles.mean + (place * kTile + chunk * 8);
        const Float4 low = load_shared(centre.as<Float4>()), high = load_shared((centre + 4).as<Float4>());
        const float mu[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
        for (int32_t i = 0; i < 8; ++i) x[i] = (x[i] - mu[i]) * root;
      });
  const Corner corner;
  if (corner.i >= pair.width_i || corner.j >= pair.width_j) return;
  const int64_t key_square = call.key_channels * call.key_channels, both = key_square + call.value_channels * call.value_channels;
  float *to = call.partial + (head.scratch * call.splits + split) * both + (keys ? 0 : key_square);
#pragma unroll
  for (int32_t p = 0; p < 4; ++p) {
    store_global(reinterpret_cast<Float4 *>(to + (pair.i + corner.i + p) * channels + pair.j + corner.j), Float4{sum[p][0], sum[p][1], sum[p][2], sum[p][3]});
  }
}

// ---- finish, grid (eight rows each of both sides, KV heads, sequences): the splits together, both halves

constexpr int32_t kFinishRows = kThreads / 32;  // a warp for each

__global__ void __launch_bounds__(kThreads, kBlocks) moments_finish(const __grid_constant__ MomentsCall call) {
  const Head head = head_of(call);
  const int32_t key_blocks = call.key_channels / kFinishRows;
  const bool keys = block_x() < key_blocks;
  const int32_t channels = keys ? call.key_channels : call.value_channels, start = (keys ? block_x() : block_x() - key_blocks) * kFinishRows;
  const bool measured = head.moved > 0 && (keys || call.values);
  float *state = state_of(call, head), *to = state + (keys ? call.state.key_covariance : call.state.value_covariance);
  const int64_t key_square = call.key_channels * call.key_channels, both = key_square + call.value_channels * call.value_channels;
  const float *partial = call.partial + head.scratch * call.splits * both + (keys ? 0 : key_square);
  const int32_t length = split_rows(head.moved), splits = (head.moved + length - 1) / length;
  const auto add_up = [&](int32_t i, int32_t j) {
    double sum = 0;
    for (int32_t split = 0; split < splits; ++split) sum += load_stream(partial + split * both + i * channels + j);
    return static_cast<float>(sum);
  };
  // A constant channel, here smaller than the rounding of its mean, has no variance: it must not look like a tiny one.
  SharedCarver carver = shared_memory();
  const Shared<int32_t> dead = carver.take<int32_t>(kMaxChannels);
  const int32_t own = thread_index();
  if (measured && own < channels) {
    const float noise = 4e-7f * load_constant(state + (keys ? 0 : call.state.value_mean) + own);
    store_shared(dead + own, add_up(own, own) <= noise * noise ? 1 : 0);
  }
  sync_block();
  const int32_t i = start + warp_index();
  for (int32_t j = lane_index(); j < channels; j += 32) {
    if (j < i) continue;
    const bool none = !measured || load_shared(dead + i) || load_shared(dead + j);
    const float value = none ? 0.0f : add_up(i, j);
    store_global(to + i * channels + j, value);
    if (i != j) store_global(to + j * channels + i, value);
  }
}

// ---- host

StateLayout layout_of(const Shape &shape, void *moments) {
  const View view = moments::view(shape, moments, 0, 0), next = moments::view(shape, moments, 0, 1);
  const auto at = [&](const float *part) { return static_cast<int32_t>(part - view.key_mean); };
  return {static_cast<char *>(moments), state_bytes(shape),          next.key_mean - view.key_mean, at(view.key_covariance),
          at(view.query_moment),        at(view.value_mean), at(view.value_covariance),     at(view.rows)};
}

// The arrays of a wave, and the most that the lengths can be.
int64_t carve(Carver &carver, const Shape &shape, int32_t batch, int64_t longest, MomentsCall &call) {
  const int64_t heads = static_cast<int64_t>(device_wave(shape, batch)) * shape.kv_heads, both = shape.key_channels + shape.value_channels;
  const int64_t rows = shape.window < longest ? shape.window : longest;
  call.tiles = call.moved_tiles = static_cast<int32_t>((longest + kTile - 1) / kTile);
  call.columns = static_cast<int32_t>(rows * shape.group);
  call.splits = static_cast<int32_t>((longest + kSplitRows - 1) / kSplitRows);
  call.splits = call.splits < kSplits ? call.splits : kSplits;
  call.partial_columns = take<Float2>(carver, heads * call.tiles * call.columns);
  call.all_columns = take<Float2>(carver, heads * call.columns);
  call.mass = take<float>(carver, heads * call.moved_tiles * kTile);
  call.tile_mass = take<double>(carver, heads * call.moved_tiles);
  call.sums = take<float>(carver, heads * call.moved_tiles * 2 * both);
  call.weights = take<double>(carver, heads * 2);
  call.partial = take<float>(
      carver, heads * call.splits * (int64_t{shape.key_channels} * shape.key_channels + int64_t{shape.value_channels} * shape.value_channels));
  return carver.offset;
}

}  // namespace

int32_t load() {
  const uint32_t tiles = tiles_bytes(kMaxChannels);
  if (const int32_t error = prepare(moments_scan, tiles)) return error;
  if (const int32_t error = prepare(moments_mass, tiles)) return error;
  if (const int32_t error = prepare(moments_join, kThreads * sizeof(Float2))) return error;
  if (const int32_t error = prepare(moments_mean, 2 * kThreads * sizeof(double))) return error;
  if (const int32_t error = prepare(moments_queries, product_bytes())) return error;
  if (const int32_t error = prepare(moments_covariance, product_bytes())) return error;
  if (const int32_t error = prepare(moments_finish, kMaxChannels * sizeof(int32_t))) return error;
  return load_gains();
}

int64_t workspace(const Shape &shape, int32_t batch, int64_t longest) {
  Carver carver{nullptr, 0};
  MomentsCall call;
  return carve(carver, shape, batch, longest, call);
}

int32_t measure(const Arguments &arguments, const int32_t *query_slot, int64_t longest, void *workspace, void *stream) {
  const Shape &shape = arguments.shape;
  MomentsCall call;
  call.key = device::side_of(arguments.source, shape, think::Side::keys);
  call.value = device::side_of(arguments.source, shape, think::Side::values);
  call.run = device::run_of(arguments.source, arguments.batch, longest);
  call.query = arguments.window_query;
  call.query_bytes = dtype_bytes(arguments.window_query.dtype);
  call.query_slot = query_slot;
  call.slot = arguments.batch.slot;
  call.state = layout_of(shape, arguments.moments);
  call.kv_heads = shape.kv_heads;
  call.group = shape.group;
  call.key_channels = shape.key_channels;
  call.value_channels = shape.value_channels;
  call.scale = shape.scale;
  call.softcap = shape.softcap;
  call.share = arguments.attention_share;
  call.sinks = arguments.sinks;
  call.recent = arguments.recent;
  call.causal = (arguments.source.flags & THINK_SEGMENT_CAUSAL) != 0;
  call.values = arguments.source.value != nullptr;
  Carver carver{static_cast<char *>(workspace), 0};
  carve(carver, shape, arguments.batch.count, longest, call);

  const int32_t wave = device_wave(shape, arguments.batch.count), heads = shape.kv_heads;
  const uint32_t tiles = tiles_bytes(shape.key_channels > shape.value_channels ? shape.key_channels : shape.value_channels);
  const int32_t pairs = pairs_of(shape.key_channels) + (call.values ? pairs_of(shape.value_channels) : 0);
  const int32_t rows = (shape.key_channels + shape.value_channels) / kFinishRows;
  struct Step {
    const char *name;
    void (*kernel)(MomentsCall);
    int32_t blocks;
    uint32_t shared_bytes;
  };
  const bool attends = call.share > 0;
  const Step steps[] = {{"moments_queries", moments_queries, pairs_of(shape.key_channels), product_bytes()},
                        {"moments_scan", moments_scan, attends ? call.tiles : 0, tiles},
                        {"moments_join", moments_join, attends ? (call.columns + 31) / 32 : 0, kThreads * sizeof(Float2)},
                        {"moments_mass", moments_mass, call.moved_tiles, tiles},
                        {"moments_mean", moments_mean, 2, 2 * kThreads * sizeof(double)},
                        {"moments_covariance", moments_covariance, pairs * call.splits, product_bytes()},
                        {"moments_finish", moments_finish, rows, kMaxChannels * sizeof(int32_t)}};
  for (call.first_sequence = 0; call.first_sequence < arguments.batch.count; call.first_sequence += wave) {
    const int32_t left = arguments.batch.count - call.first_sequence, sequences = left < wave ? left : wave;
    for (const Step &step : steps) {
      const Launch how{
          .name = step.name, .grid = {step.blocks, heads, sequences}, .threads = kThreads, .shared_bytes = step.shared_bytes, .stream = stream};
      if (const int32_t error = launch(how, step.kernel, call)) return error;
    }
  }
  return 0;
}

}  // namespace think::moments::cuda
