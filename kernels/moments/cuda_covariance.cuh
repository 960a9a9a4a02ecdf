// Second moments: products of tiles of channels, for the queries and, centred and weighted, for the rows.
#pragma once

#include "cuda_rows.cuh"

namespace think::moments::cuda {
namespace {

// ---- second moments: a tile of 64 times 64 channels, 8 times 8 of each thread, which has a part of the rows

constexpr int32_t kPartThreads = 64;
constexpr int32_t kParts = kThreads / kPartThreads, kPartRows = kStepRows / kParts;

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
  Shared<float> left, right;  // [32][kPitch], one behind the other
  Shared<float> mean;         // [2][64]
  Shared<float> root;         // [2][32]
  Shared<Words4> next;        // [2][2][threads]: what a thread brings of the next rows to each side, as it is stored
};

THINK_HOST_DEVICE ProductTiles take_product(SharedCarver &carver) {
  ProductTiles tiles;
  tiles.left = carver.take<float>(2 * kStepRows * kPitch);
  tiles.right = tiles.left + kStepRows * kPitch;
  static_assert(2 * kStepRows * kPitch >= kTile * kTile);
  tiles.mean = carver.take<float>(2 * kTile);
  tiles.root = carver.take<float>(2 * kStepRows);
  tiles.next = carver.take<Words4>(4 * kThreads);
  return tiles;
}

uint32_t product_bytes() {
  SharedCarver carver;
  take_product(carver);
  return carver.bytes();
}

// Where a thread's products are inside the tile: channels i to i + 7 with j to j + 3 and j + 32 to j + 35, so that a quarter of a warp reads all banks.
struct Corner {
  int32_t i, j, part;
  bool halves[2];  // which of the two are there

  THINK_DEVICE explicit Corner(const Pair &pair)
      : i((warp_index() % 2 * 4 + lane_index() / 8) * 8), j(lane_index() % 8 * 4), part(thread_index() / kPartThreads) {
    for (int32_t half = 0; half < 2; ++half) halves[half] = i < pair.width_i && j + 32 * half < pair.width_j;
  }
};

struct Products {
  float sum[8][2][4] = {};  // [channel of the left side][half][channel of the right side]

  // body(channel of the left side, first of four of the right side, their products), inside the tile.
  template <class Body>
  THINK_DEVICE void for_fours(const Corner &corner, const Body &body) {
#pragma unroll
    for (int32_t p = 0; p < 8; ++p) {
#pragma unroll
      for (int32_t half = 0; half < 2; ++half) {
        if (corner.halves[half]) body(corner.i + p, corner.j + 32 * half, sum[p][half]);
      }
    }
  }
};

// Eight numbers on their way to a thread's own place, which it alone may read after its cp_async_wait: `to`, and of f32 kThreads further on. Off the 16 bytes
// they go through registers.
THINK_DEVICE void copy_unit(Shared<Words4> to, const char *from, think_dtype dtype) {
  if (dtype != THINK_F32) return device::copy_eight(to, from, 8);
  if ((reinterpret_cast<uint64_t>(from) & 15) == 0) {
    cp_async<16>(to, from);
    cp_async<16>(to + kThreads, from + 16);
    return;
  }
  float x[8];
  device::load_eight<float>(x, from);
  store_shared(to.as<Float4>(), Float4{x[0], x[1], x[2], x[3]});
  store_shared((to + kThreads).as<Float4>(), Float4{x[4], x[5], x[6], x[7]});
}

THINK_DEVICE void load_unit(float (&x)[8], Shared<Words4> from, think_dtype dtype) {
  if (dtype == THINK_F32) {
    return device::unpack_eight(x, load_shared(from.as<Float4>()), load_shared((from + kThreads).as<Float4>()));
  }
  const Words4 eight = load_shared(from);
  const uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
  for (int32_t i = 0; i < 4; ++i) {
    const Float2 two = dtype == THINK_F16 ? unpack<F16>(words[i]) : unpack<BF16>(words[i]);
    x[2 * i] = two.x, x[2 * i + 1] = two.y;
  }
}

// Sums over the rows of x_i x_j, in the threads of the first part. `prepare` is called one step ahead, when rows are asked for; address(row, channel) is
// where eight numbers lie, change(x, first row of the step, line, chunk, side) what becomes of them.
template <class Prepare, class Address, class Change>
THINK_DEVICE void add_products(Products &products, const Corner &corner, const Pair &pair, const ProductTiles &tiles, int32_t rows, think_dtype dtype,
                               const Prepare &prepare, const Address &address, const Change &change) {
  static_assert(kStepRows * kTile / 8 == kThreads, "each thread brings eight numbers to a side");
  const bool diagonal = pair.i == pair.j;
  const Shared<float> right = diagonal ? tiles.left : tiles.right;
  const auto ask = [&](int32_t row, int32_t side) {
    const Unit unit(thread_index(), (side ? pair.width_j : pair.width_i) / 8);
    if (unit.row >= kStepRows || row + unit.row >= rows) return;
    copy_unit(tiles.next + (side * 2 * kThreads + thread_index()), address(row + unit.row, (side ? pair.j : pair.i) + unit.chunk * 8), dtype);
  };
  const auto take = [&](Shared<float> lines, int32_t row, int32_t side) {
    const Unit unit(thread_index(), (side ? pair.width_j : pair.width_i) / 8);
    if (unit.row >= kStepRows) return;
    float x[8] = {};
    if (row + unit.row < rows) {
      load_unit(x, tiles.next + (side * 2 * kThreads + thread_index()), dtype);
      change(x, row, unit.row, unit.chunk, side);
    }
    store_unit(lines, kPitch, unit, x);
  };
  const auto ahead = [&](int32_t row) {
    ask(row, 0);
    if (!diagonal) ask(row, 1);
    cp_async_commit();
    prepare(row);
  };
  ahead(0);
  for (int32_t row = 0; row < rows; row += kStepRows) {
    cp_async_wait<0>();
    sync_block();
    take(tiles.left, row, 0);
    if (!diagonal) take(right, row, 1);
    sync_block();
    ahead(row + kStepRows);
    if (!corner.halves[0]) continue;
#pragma unroll 1  // what two lines need at once would spill
    for (int32_t line = corner.part * kPartRows; line < (corner.part + 1) * kPartRows; ++line) {
      const Shared<float> at = tiles.left + (line * kPitch + corner.i), beside = right + (line * kPitch + corner.j);
      const Float4 a = load_shared(at.as<Float4>()), b = load_shared((at + 4).as<Float4>()), c = load_shared(beside.as<Float4>());
      const Float4 d = corner.halves[1] ? load_shared((beside + 32).as<Float4>()) : Float4{};
      const float x[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}, y[2][4] = {{c.x, c.y, c.z, c.w}, {d.x, d.y, d.z, d.w}};
#pragma unroll
      for (int32_t p = 0; p < 8; ++p) {
#pragma unroll
        for (int32_t q = 0; q < 8; ++q) products.sum[p][q / 4][q % 4] = fmaf(x[p], y[q / 4][q % 4], products.sum[p][q / 4][q % 4]);
      }
    }
  }
  // The parts together, in their order.
  const auto place = [&](int32_t i, int32_t j) { return (tiles.left + (i * kTile + j)).as<Float4>(); };
#pragma unroll 1
  for (int32_t part = 1; part < kParts; ++part) {
    sync_block();
    if (corner.part == part) {
      products.for_fours(corner, [&](int32_t i, int32_t j, const float(&sum)[4]) { store_shared(place(i, j), Float4{sum[0], sum[1], sum[2], sum[3]}); });
    }
    sync_block();
    if (corner.part == 0) {
      products.for_fours(corner, [&](int32_t i, int32_t j, float(&sum)[4]) {
        const Float4 more = load_shared(place(i, j));
        sum[0] += more.x, sum[1] += more.y, sum[2] += more.z, sum[3] += more.w;
      });
    }
  }
}

// ---- queries, grid (tiles of the moment, KV heads, sequences)

__global__ void __launch_bounds__(kThreads, kBlocks) moments_queries(const __grid_constant__ MomentsCall call) {
  const Head head = head_of(call);
  SharedCarver carver = shared_memory();
  const ProductTiles tiles = take_product(carver);
  const Pair pair(block_x(), call.key_channels);
  const Corner corner(pair);
  Products products;
  if (head.moved > 0) {
    const int32_t slot = device::slot_of(call.query_slot, head.sequence);
    const float root = sqrtf(1.0f / static_cast<float>(head.columns));
    add_products(
        products, corner, pair, tiles, head.columns, call.query.dtype, [](int32_t) {},
        [&](int32_t column, int32_t channel) { return query_address(call, head, slot, column, channel); },
        [&](float(&x)[8], int32_t, int32_t, int32_t, int32_t) {
#pragma unroll
          for (int32_t i = 0; i < 8; ++i) x[i] *= root;
        });
  }
  if (corner.part > 0) return;
  float *moment = state_of(call, head) + call.state.query_moment;
  products.for_fours(corner, [&](int32_t i, int32_t j, const float(&sum)[4]) {
#pragma unroll
    for (int32_t q = 0; q < 4; ++q) {
      store_global(moment + (pair.i + i) * call.key_channels + pair.j + j + q, sum[q]);
      if (pair.i != pair.j) store_global(moment + (pair.j + j + q) * call.key_channels + pair.i + i, sum[q]);
    }
  });
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
  const double *weights = call.weights + head.scratch * 2;  // loaded anew for each step: registers are what the products need most
  if (thread_index() < pair.width_i) store_shared(tiles.mean + thread_index(), load_constant(mean + pair.i + thread_index()));
  if (thread_index() < pair.width_j) store_shared(tiles.mean + (kTile + thread_index()), load_constant(mean + pair.j + thread_index()));
  const Corner corner(pair);
  Products products;
  add_products(
      products, corner, pair, tiles, rows, side.dtype,
      [&](int32_t row) {  // the square roots of the weights, in two buffers
        const int32_t own = row + thread_index();
        if (thread_index() >= kStepRows || own >= rows) return;
        const double weight = load_constant(weights) + load_constant(weights + 1) * static_cast<double>(load_constant(mass + own));
        store_shared(tiles.root + (row / kStepRows % 2 * kStepRows + thread_index()), sqrtf(static_cast<float>(weight)));
      },
      [&](int32_t row, int32_t channel) {
        return device::row_address(view, head.first + head.moved_first + begin + row) + channel * side.element_bytes;
      },
      [&](float(&x)[8], int32_t row, int32_t line, int32_t chunk, int32_t place) {
        const float root = load_shared(tiles.root + (row / kStepRows % 2 * kStepRows + line));
        const Shared<float> centre = tiles.mean + (place * kTile + chunk * 8);
#pragma unroll
        for (int32_t half = 0; half < 2; ++half) {
          const Float4 four = load_shared((centre + 4 * half).as<Float4>());
          const float mu[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
          for (int32_t i = 0; i < 4; ++i) x[4 * half + i] = (x[4 * half + i] - mu[i]) * root;
        }
      });
  if (corner.part > 0) return;
  const int64_t key_square = call.key_channels * call.key_channels, both = key_square + call.value_channels * call.value_channels;
  float *to = call.partial + (head.scratch * call.splits + split) * both + (keys ? 0 : key_square);
  products.for_fours(corner, [&](int32_t i, int32_t j, const float(&sum)[4]) {
    store_global(reinterpret_cast<Float4 *>(to + (pair.i + i) * channels + pair.j + j), Float4{sum[0], sum[1], sum[2], sum[3]});
  });
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
#pragma unroll 8
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
