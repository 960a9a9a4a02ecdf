// Attention mass and means: logits of tiles of rows and queries, the softmax over all rows, and the sums that its masses weight.
#pragma once

#include "cuda_rows.cuh"

namespace think::moments::cuda {
namespace {

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
      if (column < head.columns) device::load_eight(x, query_address(call, head, slot, column, channel + chunk * 8), call.query.dtype);
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
  if (call.mass_only) return;
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

}  // namespace
}  // namespace think::moments::cuda
