// Attention mass and means: the softmax of the window's queries over all rows, and the sums that its masses weight. Two kernels exist twice: for rows and
// queries of one 16-bit type, whose logits come from tensor cores, and for all others.
#pragma once

#include "cuda_logits.cuh"

namespace think::moments::cuda {
namespace {

// ---- scan, grid (blocks of rows, KV heads, sequences): largest logit and sum of exponentials of each column in each tile of rows

struct Softmax {
  float largest, sum;
};

THINK_DEVICE Softmax join(const Softmax &a, const Softmax &b) {
  const float largest = fmaxf(a.largest, b.largest);
  return {largest, a.sum * exp2_fast(a.largest - largest) + b.sum * exp2_fast(b.largest - largest)};
}

THINK_DEVICE Float2 *partial_columns(const MomentsCall &call, const Head &head, int32_t tile) {
  return call.partial_columns + (head.scratch * call.tiles + tile) * call.columns;
}

__global__ void __launch_bounds__(kThreads, kBlocks) moments_scan(const __grid_constant__ MomentsCall call) {
  const Head head = head_of(call);
  const int32_t row = block_x() * kTile, left = head.tokens - row, count = left < kTile ? left : kTile;
  if (head.moved == 0 || count <= 0) return;
  SharedCarver carver = shared_memory();
  const LogitTiles tiles = take_tiles(carver, widest_of(call));
  const device::View keys = device::view_of(call.key, call.run, call.kv_heads, head.sequence, head.head);
  const int32_t slot = device::slot_of(call.query_slot, head.sequence);
  stage_rows(tiles.keys, key_pitch(widest_of(call)), call.key, keys, call.key_channels, head.first + row, count);
  Float2 *to = partial_columns(call, head, block_x());
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
      for (int32_t i = 0; i < 4; ++i) sum += exp2_fast(z[i][j] - largest);
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

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks) moments_scan_mma(const __grid_constant__ MomentsCall call) {
  const Head head = head_of(call);
  const int32_t lines = block_threads() / kTileThreads * kTile, row = block_x() * lines;
  if (head.moved == 0 || row >= head.tokens) return;
  SharedCarver carver = shared_memory();
  const MatrixTiles matrices = take_matrices(carver, call.key_channels, widest_of(call));
  const device::View keys = device::view_of(call.key, call.run, call.kv_heads, head.sequence, head.head);
  copy_rows(matrices.keys, keys, call.key_channels, lines, head.first + row, head.tokens - row);
  const TilePart part(row, head.tokens);
  Float2 *to = partial_columns(call, head, part.row / kTile);
  for_logits<T>(call, head, matrices, part, nullptr, [&](Logits &z, int32_t first, int32_t) {
    Float2 own = {0, 0};
#pragma unroll
    for (int32_t c = 0; c < 4; ++c) {
      float largest = kLowest, sum = 0;
#pragma unroll
      for (int32_t i = 0; i < 16; ++i) largest = fmaxf(largest, z.at(c, i));
      largest = warp_max(largest, 4);
#pragma unroll
      for (int32_t i = 0; i < 16; ++i) sum += exp2_fast(z.at(c, i) - largest);
      sum = warp_sum(sum, 4);
      if (lane_index() % 4 == c) own = {largest, sum};
    }
    const int32_t column = first + column_of(lane_index() % 4);
    if (column < head.columns) store_global(to + column, own);
  });
}

// ---- join, grid (32 columns each, KV heads, sequences): the tiles together. A warp has every sixteenth tile.

constexpr int32_t kJoinThreads = 512;
constexpr uint32_t kJoinBytes = kJoinThreads * sizeof(Float2);

__global__ void __launch_bounds__(kJoinThreads) moments_join(const __grid_constant__ MomentsCall call) {
  const Head head = head_of(call);
  if (head.moved == 0) return;
  SharedCarver carver = shared_memory();
  const Shared<Float2> parts = carver.take<Float2>(kJoinThreads);
  const int32_t column = block_x() * 32 + lane_index();
  Softmax sum = {kLowest, 0};
  if (column < head.columns) {
    const Float2 *from = call.partial_columns + head.scratch * call.tiles * call.columns + column;
#pragma unroll 8
    for (int32_t tile = warp_index(); tile < tiles_of(head.tokens); tile += kJoinThreads / 32) {
      const Float2 part = load_stream(from + static_cast<int64_t>(tile) * call.columns);
      sum = join(sum, {part.x, part.y});
    }
  }
  store_shared(parts + thread_index(), Float2{sum.largest, sum.sum});
  sync_block();
  if (warp_index() > 0 || column >= head.columns) return;
  for (int32_t warp = 1; warp < kJoinThreads / 32; ++warp) {
    const Float2 part = load_shared(parts + (warp * 32 + lane_index()));
    sum = join(sum, {part.x, part.y});
  }
  store_global(call.all_columns + head.scratch * call.columns + column, Float2{sum.largest, 1.0f / sum.sum});
}

// ---- mass, grid (blocks of moved rows, KV heads, sequences): attention mass of each row, and the sums of which the means are made

// Of 2 kHalf numbers of each of kHalf lanes, which differ in the bits from kLane downwards, the sums over those lanes: 2 r and 2 r + 1, as x[0] and x[1],
// in the lane whose bits say r. Each step sends half of what is left.
template <int32_t kLane, int32_t kHalf>
THINK_DEVICE void add_lanes(float (&x)[16]) {
  const bool upper = (lane_index() & kLane) != 0;
#pragma unroll
  for (int32_t i = 0; i < kHalf; ++i) {
    const float low = x[i], high = x[kHalf + i];
    x[i] = (upper ? high : low) + shuffle_xor(upper ? low : high, kLane);
  }
  if constexpr (kHalf > 2) add_lanes<kLane / 2, kHalf / 2>(x);
}

// Over the lanes of a warp, in all of them.
THINK_DEVICE double add_warp(double x) {
#pragma unroll
  for (int32_t distance = 16; distance > 0; distance /= 2) x += device::shuffle_wide(x, [&](uint32_t bits) { return shuffle_xor(bits, distance); });
  return x;
}

// By one warp: the tile's masses from what its parts have of them. tile: of the moved rows.
THINK_DEVICE void store_masses(const MomentsCall &call, const Head &head, Shared<float> parts, Shared<float> mass, int32_t tile, int32_t count) {
  Float2 sum = {0, 0};
  const int32_t row = lane_index() * 2;
  for (int32_t part = 0; part < kMassParts; ++part) {
    const Float2 more = load_shared((parts + (part * kTile + row)).as<Float2>());
    sum.x += more.x, sum.y += more.y;
  }
  store_shared((mass + row).as<Float2>(), sum);
  float *to = call.mass + (head.scratch * call.moved_tiles + tile) * kTile + row;
  if (row < count) store_global(to, sum.x);
  if (row + 1 < count) store_global(to + 1, sum.y);
  if (call.mass_only) return;
  const double total = add_warp(static_cast<double>(sum.x) + static_cast<double>(sum.y));
  if (lane_index() == 0) store_global(call.tile_mass + head.scratch * call.moved_tiles + tile, total);
}

// Sums over a tile's rows of each channel, plain and weighted with the masses, by `warps` warps: a warp has four chunks of eight channels at a time, a lane
// every eighth row of one. fetch(x, row, chunk).
template <class Fetch>
THINK_DEVICE void add_up_rows(int32_t warp, int32_t warps, int32_t chunks, Shared<float> mass, float *plain, float *weighted, const Fetch &fetch) {
  for (int32_t four = warp * 4; four < chunks; four += warps * 4) {
    const int32_t chunk = four + lane_index() / 8;
    float sum[16] = {};  // of each channel both
    if (chunk < chunks) {
#pragma unroll 2
      for (int32_t eight = 0; eight < kTile; eight += 8) {
        const int32_t row = eight + lane_index() % 8;
        float x[8];
        fetch(x, row, chunk);
        const float weight = load_shared(mass + row);
#pragma unroll
        for (int32_t i = 0; i < 8; ++i) sum[2 * i] += x[i], sum[2 * i + 1] = fmaf(weight, x[i], sum[2 * i + 1]);
      }
    }
    add_lanes<4, 8>(sum);
    if (chunk < chunks) {
      const int32_t channel = chunk * 8 + lane_index() % 8;
      store_global(plain + channel, sum[0]);
      store_global(weighted + channel, sum[1]);
    }
  }
}

// Where a tile's sums begin: of keys, then of values; the weighted ones lie key_channels + value_channels behind.
THINK_DEVICE float *sums_of(const MomentsCall &call, const Head &head, int32_t tile) {
  return call.sums + (head.scratch * call.moved_tiles + tile) * 2 * (call.key_channels + call.value_channels);
}

__global__ void __launch_bounds__(kThreads, kBlocks) moments_mass(const __grid_constant__ MomentsCall call) {
  const Head head = head_of(call);
  const int32_t moved = block_x() * kTile, left = head.moved - moved, count = left < kTile ? left : kTile, row = head.moved_first + moved;
  if (count <= 0) return;
  SharedCarver carver = shared_memory();
  const int32_t pitch = key_pitch(widest_of(call));
  const LogitTiles tiles = take_tiles(carver, widest_of(call));
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
        for (int32_t i = 0; i < 4; ++i) sum[i] = fmaf(exp2_fast(z[i][j] - column.x), column.y, sum[i]);
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
  if (warp_index() == 0) store_masses(call, head, tiles.sums, tiles.mass, block_x(), count);
  if (call.mass_only) return;
  sync_block();
  const int32_t both = call.key_channels + call.value_channels;
  float *sums = sums_of(call, head, block_x());
  const auto fetch = [&](float(&x)[8], int32_t line, int32_t chunk) {
    const Shared<Float4> at = (tiles.keys + (line * pitch + chunk * 8)).as<Float4>();
    device::unpack_eight(x, load_shared(at), load_shared(at + 1));
  };
  add_up_rows(warp_index(), kThreads / 32, call.key_channels / 8, tiles.mass, sums, sums + both, fetch);
  if (!call.values) return;
  sync_block();
  const device::View values = device::view_of(call.value, call.run, call.kv_heads, head.sequence, head.head);
  stage_rows(tiles.keys, pitch, call.value, values, call.value_channels, head.first + row, count);
  sync_block();
  add_up_rows(warp_index(), kThreads / 32, call.value_channels / 8, tiles.mass, sums + call.key_channels, sums + both + call.key_channels, fetch);
}

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks) moments_mass_mma(const __grid_constant__ MomentsCall call) {
  const Head head = head_of(call);
  const int32_t lines = block_threads() / kTileThreads * kTile, moved = block_x() * lines, row = head.moved_first + moved;
  if (moved >= head.moved) return;
  SharedCarver carver = shared_memory();
  const MatrixTiles matrices = take_matrices(carver, call.key_channels, widest_of(call));
  const device::View keys = device::view_of(call.key, call.run, call.kv_heads, head.sequence, head.head);
  copy_rows(matrices.keys, keys, call.key_channels, lines, head.first + row, head.moved - moved);
  const TilePart part(row, head.moved_first + head.moved);
  const Shared<float> parts = matrices.sums + part.tile * kMassParts * kTile, mass = matrices.mass + part.tile * kTile;
  float sum[16] = {};
  if (call.share > 0) {
    for_logits<T>(call, head, matrices, part, call.all_columns + head.scratch * call.columns, [&](Logits &z, int32_t, int32_t place) {
#pragma unroll
      for (int32_t c = 0; c < 4; ++c) {
        const Float2 column = load_shared(matrices.columns + (place + column_of(c)));
#pragma unroll
        for (int32_t i = 0; i < 16; ++i) sum[i] = fmaf(exp2_fast(z.at(c, i) - column.x), column.y, sum[i]);
      }
    });
  }
  add_lanes<16, 8>(sum);
  store_shared((parts + (part.warp * kTile + lane_index() * 2)).as<Float2>(), Float2{sum[0], sum[1]});
  cp_async_commit();
  cp_async_wait<0>();  // for the keys, where there was no logit
  sync_block();
  if (call.values && !call.mass_only) {  // where the queries were, while the keys are summed
    const device::View values = device::view_of(call.value, call.run, call.kv_heads, head.sequence, head.head);
    copy_rows(matrices.ring, values, call.value_channels, lines, head.first + row, head.moved - moved);
    cp_async_commit();
  }
  const int32_t tile = moved / kTile + part.tile;
  if (part.warp == 0 && part.count > 0) store_masses(call, head, parts, mass, tile, part.count);
  if (call.mass_only) return;
  sync_block();
  const int32_t both = call.key_channels + call.value_channels;
  float *sums = sums_of(call, head, tile);
  const auto add_up = [&](Shared<Words4> rows, int32_t channels, float *to) {
    if (part.count <= 0) return;
    const Shared<Words4> own = rows + part.tile * kTile * row_pitch(channels);
    add_up_rows(part.warp, kTileThreads / 32, channels / 8, mass, to, to + both, [&](float(&x)[8], int32_t line, int32_t chunk) {
      device::unpack_eight<T>(x, load_shared(own + (line * row_pitch(channels) + chunk)));
    });
  };
  add_up(matrices.keys, call.key_channels, sums);
  if (!call.values) return;
  cp_async_wait<0>();
  sync_block();
  add_up(matrices.ring, call.value_channels, sums + call.key_channels);
}

// ---- mean, grid (sides, KV heads, sequences): few blocks, so threads are what hides how long the sums take to come

constexpr int32_t kMeanThreads = 1024;
constexpr uint32_t kMeanBytes = 2 * kMeanThreads * sizeof(double);

struct MeanParts {
  Shared<double> plain, weighted;  // [threads]
};

THINK_HOST_DEVICE MeanParts take_parts(SharedCarver &carver) { return {carver.take<double>(kMeanThreads), carver.take<double>(kMeanThreads)}; }

__global__ void __launch_bounds__(kMeanThreads) moments_mean(const __grid_constant__ MomentsCall call) {
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
  for (int32_t tile = thread; tile < tiles; tile += kMeanThreads) total += load_stream(tile_mass + tile);
  total = add_warp(total);
  static_assert(kMeanThreads == 32 * 32, "a warp's lanes have the warps' sums");
  if (lane_index() == 0) store_shared(parts.plain + warp_index(), total);
  sync_block();
  total = add_warp(load_shared(parts.plain + lane_index()));
  sync_block();
  // No attention at all on these rows: they weigh the same.
  const double rows = head.moved, share = static_cast<double>(call.share);
  const bool even_only = call.share <= 0 || total == 0;
  const double even = even_only ? 1 / rows : (1 - share) / rows, by_mass = even_only ? 0 : share / total;
  if (keys && thread == 0) {
    store_global(call.weights + head.scratch * 2, even);
    store_global(call.weights + head.scratch * 2 + 1, by_mass);
  }
  const int32_t count = kMeanThreads / channels, part = thread / channels, channel = thread - part * channels;
  const int32_t both = call.key_channels + call.value_channels;
  const float *sums = call.sums + head.scratch * call.moved_tiles * 2 * both + (keys ? 0 : call.key_channels) + channel;
  double plain = 0, weighted = 0;
  if (part < count) {
#pragma unroll 8
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
