// Second moments: products of tiles of channels, for the queries and, centred and weighted, for the rows.
#pragma once

#include "cuda_rows.cuh"

namespace think::moments::cuda {
namespace {

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
          device::load_eight(x, query_address(call, head, slot, row + line, channel + chunk * 8), call.query.dtype);
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
        device::load_eight(x, device::row_address(view, head.first + head.moved_first + begin + row + line) + (channel + chunk * 8) * side.element_bytes, side.dtype);
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

}  // namespace
}  // namespace think::moments::cuda
