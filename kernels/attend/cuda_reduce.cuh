// The end of a unit: its partial results become outputs, in the order of their places whoever comes last. Sums of each value basis first, then
// out_I += sums, out_P += W sums + mass * offset_P, and one division by the mass and the sink logit.
#pragma once

#include "cuda_decode.cuh"

namespace think::attend::cuda {

// The places of up to kBatchParts parts that have a piece of a run, and the weights of their columns.
struct Reduction {
  Shared<float> sums;     // [mass, channel][column]
  Shared<float> outputs;  // [channel][column]
  Shared<float> weights;  // [part of the batch][column]
  Shared<int64_t> places;
  Shared<float> maxima;   // [thread / 8][column], then those of all
  Shared<float> mass;     // [column]
};

THINK_DEVICE Reduction take_reduction(SharedCarver carver, int32_t value_channels) {
  Reduction r;
  r.places = carver.take<int64_t>(kBatchParts);
  r.sums = carver.take<float>(static_cast<uint32_t>((1 + value_channels) * kColumns));
  r.outputs = carver.take<float>(static_cast<uint32_t>(value_channels * kColumns));
  r.weights = carver.take<float>(kBatchParts * kColumns);
  r.maxima = carver.take<float>(static_cast<uint32_t>(block_threads() / kColumns * kColumns));
  r.mass = carver.take<float>(2 * kColumns);
  return r;
}

struct Parts {
  int32_t first, count;
};

THINK_DEVICE Parts parts_of(const Cuts &cuts) {
  if (cuts.chunk) return {0, (cuts.tiles + cuts.chunk - 1) / cuts.chunk};
  return {cuts.first_block, cuts.last_block - cuts.first_block + 1};
}

// Tiles of a part, of whatever run.
struct Range {
  int32_t first, end;
};

THINK_DEVICE Range range_of(const Geometry &g, const Block &block, const Cuts &cuts, int32_t part) {
  if (cuts.chunk) {
    const int32_t first = part * cuts.chunk, end = first + cuts.chunk;
    return {first, end < cuts.tiles ? end : cuts.tiles};
  }
  return {first_tile(g, block, cuts, part), first_tile(g, block, cuts, part + 1)};
}

// The tiles of a run.
THINK_DEVICE Range run_range(const Decode &d, const Block &block, int32_t run) {
  Range range = {0, 0};
#pragma unroll 1
  for (int32_t s = 0; s < d.geometry.segments; ++s) {
    const int32_t tiles = static_cast<int32_t>(load_shared(block.tiles + s));
    if (d.segment[s].value_run < run) range.first += tiles;
    if (d.segment[s].value_run <= run) range.end += tiles;
  }
  return range;
}

constexpr int64_t kNowhere = -1;

// places[i] of the parts `begin` and on: where a partial result is, in floats, or kNowhere. Every thread of the block must call it.
THINK_DEVICE int32_t find_places(const Reduction &r, const Decode &d, const Block &block, const Cuts &cuts, int32_t unit, int32_t run, Range tiles, Parts parts,
                                 int32_t begin) {
  const int32_t left = parts.count - begin, count = left < kBatchParts ? left : kBatchParts;
  sync_block();
  for (int32_t i = thread_index(); i < count; i += block_threads()) {
    const int32_t part = parts.first + begin + i;
    const Range own = range_of(d.geometry, block, cuts, part);
    const int32_t first = own.first > tiles.first ? own.first : tiles.first, end = own.end < tiles.end ? own.end : tiles.end;
    store_shared(r.places + i, first < end ? partial_at(d, cuts, unit, part, run) - d.partial : kNowhere);
  }
  sync_block();
  return count;
}

template <class Body>
THINK_DEVICE void for_each_batch(const Reduction &r, const Decode &d, const Block &block, const Cuts &cuts, int32_t unit, int32_t run, const Body &body) {
  const Parts parts = parts_of(cuts);
  const Range tiles = run_range(d, block, run);
  if (tiles.first == tiles.end) return;
#pragma unroll 1
  for (int32_t begin = 0; begin < parts.count; begin += kBatchParts) body(find_places(r, d, block, cuts, unit, run, tiles, parts, begin));
}

// [channel][column] floats of one channel.
THINK_DEVICE void add_channel(Shared<float> to, float factor, Shared<float> from) {
#pragma unroll
  for (int32_t half = 0; half < 2; ++half) {
    const Float4 x = load_shared((from + half * 4).as<Float4>()), y = load_shared((to + half * 4).as<Float4>());
    store_shared((to + half * 4).as<Float4>(), Float4{fmaf(factor, x.x, y.x), fmaf(factor, x.y, y.y), fmaf(factor, x.z, y.z), fmaf(factor, x.w, y.w)});
  }
}

// Adds the sums of a run to the outputs.
THINK_DEVICE void expand(const Reduction &r, const Decode &d, const Output &o, const Unit &unit, int32_t run, int32_t segment, int32_t kept) {
  const Geometry &g = d.geometry;
  const device::Side &side = d.segment[segment].value;
  const int64_t head_of_slot = int64_t{device::slot_of(d.segment[segment].run.slot, unit.sequence)} * g.kv_heads + unit.head;
  const int32_t channels = g.value_channels, width = (kept + 7) / 8 * 8;
  const int32_t *index = side.index ? side.index + head_of_slot * channels : nullptr;
  const Shared<float> sums = r.sums + kColumns;
  for (int32_t i = thread_index(); i < kept; i += block_threads()) {
    add_channel(r.outputs + (index ? load_constant(index + i) : i) * kColumns, 1.0f, sums + i * kColumns);
  }
  const ValueBasis &basis = o.basis[run];
  if (!index || kept == channels) return;
  const int64_t block = load_constant(basis.weight_offset + head_of_slot);
  if (block < 0) return;
  const char *weight = static_cast<const char *>(basis.weight) + block;
#pragma unroll 1
  for (int32_t p = thread_index(); p < channels - kept; p += block_threads()) {
    const Shared<float> to = r.outputs + load_constant(index + kept + p) * kColumns;
    add_channel(to, load_constant(basis.offset + head_of_slot * channels + kept + p), r.sums);
    float sum[kColumns] = {};
#pragma unroll 1
    for (int32_t i = 0; i < width; i += 8) {
      const Words4 words = load_constant(reinterpret_cast<const Words4 *>(weight + (int64_t{p} * width + i) * 2));
      const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (int32_t x = 0; x < 8; ++x) {
        if (i + x < kept) {
          const Float2 two = unpack<F16>(pairs[x / 2]);
          const float w = x % 2 ? two.y : two.x;
          const Float4 low = load_shared((sums + (i + x) * kColumns).as<Float4>()), high = load_shared((sums + (i + x) * kColumns + 4).as<Float4>());
          sum[0] = fmaf(w, low.x, sum[0]), sum[1] = fmaf(w, low.y, sum[1]), sum[2] = fmaf(w, low.z, sum[2]), sum[3] = fmaf(w, low.w, sum[3]);
          sum[4] = fmaf(w, high.x, sum[4]), sum[5] = fmaf(w, high.y, sum[5]), sum[6] = fmaf(w, high.z, sum[6]), sum[7] = fmaf(w, high.w, sum[7]);
        }
      }
    }
#pragma unroll
    for (int32_t c = 0; c < kColumns; ++c) store_shared(to + c, load_shared(to + c) + sum[c]);
  }
}

THINK_DEVICE void reduce_unit(const Decode &d, const Output &o, const Block &block, const Cuts &cuts, int32_t index) {
  const Geometry &g = d.geometry;
  const Unit unit = unit_at(g, o.batch, index);
  const int32_t thread = thread_index(), threads = block_threads(), rows_of_maxima = threads / kColumns, channels = g.value_channels;
  const Reduction r = take_reduction(block.behind, channels);
  const Shared<float> all_maxima = r.mass + kColumns;
  sync_block();

  float largest = kLowest;
#pragma unroll 1
  for (int32_t run = 0; run < g.runs; ++run) {
    for_each_batch(r, d, block, cuts, index, run, [&](int32_t count) {
#pragma unroll 1
      for (int32_t i = thread / kColumns; i < count; i += rows_of_maxima) {
        const int64_t place = load_shared(r.places + i);
        if (place != kNowhere) largest = fmaxf(largest, load_l2(d.partial + place + thread % kColumns));
      }
    });
  }
  store_shared(r.maxima + thread, largest);
  for (int32_t i = thread; i < channels * kColumns; i += threads) store_shared(r.outputs + i, 0.0f);
  sync_block();
  if (thread < kColumns) {
    for (int32_t i = 0; i < rows_of_maxima; ++i) largest = fmaxf(largest, load_shared(r.maxima + i * kColumns + thread));
    store_shared(all_maxima + thread, largest);
    store_shared(r.mass + thread, 0.0f);
  }

#pragma unroll 1
  for (int32_t run = 0, segment = 0; run < g.runs; ++run) {
    while (d.segment[segment].value_run != run) ++segment;
    const int64_t head_of_slot = int64_t{device::slot_of(d.segment[segment].run.slot, unit.sequence)} * g.kv_heads + unit.head;
    const int32_t kept = device::width_of(d.segment[segment].value, head_of_slot), halves = 2 * (1 + kept);
    bool begun = false;
    for_each_batch(r, d, block, cuts, index, run, [&](int32_t count) {
      for (int32_t i = thread; i < count * kColumns; i += threads) {
        const int64_t place = load_shared(r.places + i / kColumns);
        if (place != kNowhere) store_shared(r.weights + i, exp2_fast(load_l2(d.partial + place + i % kColumns) - load_shared(all_maxima + i % kColumns)));
      }
      sync_block();
#pragma unroll 1
      for (int32_t i = thread; i < halves; i += threads) {
        Float4 sum = begun ? load_shared((r.sums + i * 4).as<Float4>()) : Float4{0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
        for (int32_t part = 0; part < count; ++part) {
          const int64_t place = load_shared(r.places + part);
          if (place != kNowhere) {
            const Float4 x = load_l2(reinterpret_cast<const Float4 *>(d.partial + place + kColumns) + i);
            const Float4 w = load_shared((r.weights + part * kColumns + i % 2 * 4).as<Float4>());
            sum = {fmaf(w.x, x.x, sum.x), fmaf(w.y, x.y, sum.y), fmaf(w.z, x.z, sum.z), fmaf(w.w, x.w, sum.w)};
          }
        }
        store_shared((r.sums + i * 4).as<Float4>(), sum);
      }
      begun = true;
    });
    if (!begun) continue;
    sync_block();
    expand(r, d, o, unit, run, segment, kept);
    if (thread < kColumns) store_shared(r.mass + thread, load_shared(r.mass + thread) + load_shared(r.sums + thread));
    sync_block();
  }
  sync_block();

  const RowRange rows = device::rows_of(o.tensor, o.batch, unit.sequence, g.most_queries);
  const int32_t columns = columns_of(g, unit, rows.count);
#pragma unroll 1
  for (int32_t i = thread; i < columns * channels; i += threads) {
    const int32_t column = i / channels, channel = i - column * channels, c = unit.column_group * kColumns + column;
    const int32_t head = unit.head * g.group + c % g.group;
    const int64_t token = rows.first + c / g.group;
    const float mass = load_shared(r.mass + column), maximum = load_shared(all_maxima + column);
    const float whole = mass + (o.sink_logit ? exp2_fast(load_constant(o.sink_logit + head) * kLog2E - maximum) : 0.0f);
    const float value = load_shared(r.outputs + channel * kColumns + column);
    char *row = const_cast<char *>(device::element(o.tensor, rows.row, head, token, bytes_of(o.tensor.dtype)));
    device::store_number(row, o.tensor.dtype, channel, mass == 0.0f ? 0.0f : value / whole);
    if (channel == 0 && o.lse) {
      const int64_t at = (rows.row * o.tensor.extent[1] + head) * o.tensor.extent[2] + token;
      store_global(o.lse + at, mass == 0.0f ? -INFINITY : (maximum + log2_fast(mass)) * kLn2);
    }
  }
}

// Every tile of a unit that begins on the block's stretch of the line, and the reduction where this block is the last.
template <class T, bool kCodes, int32_t kSteps, int32_t kMatrices>
THINK_DEVICE void visit(const Decode &d, const Output &o, const Block &block, Cuts &cuts, int32_t index) {
  const Geometry &g = d.geometry;
  Unit unit = unit_at(g, o.batch, index);
  sync_block();  // the unit before has been read
  if (thread_index() < g.segments) {
    const DecodeSegment &segment = d.segment[thread_index()];
    const int64_t head_of_slot = int64_t{device::slot_of(segment.run.slot, unit.sequence)} * g.kv_heads + unit.head;
    store_shared(block.tiles + thread_index(), static_cast<uint32_t>(tiles_of(device::length_of(segment.run, unit.sequence, unit.head))));
    store_shared(block.weight + thread_index(),
                 static_cast<uint32_t>(tile_weight(device::width_of(segment.key, head_of_slot), device::bits_of(segment.key.dtype),
                                                   device::width_of(segment.value, head_of_slot), device::bits_of(segment.value.dtype))));
  }
  sync_block();
  int64_t weight = 0;
  cuts.tiles = 0;
#pragma unroll 1
  for (int32_t s = 0; s < g.segments; ++s) {
    const int32_t tiles = static_cast<int32_t>(load_shared(block.tiles + s));
    cuts.tiles += tiles;
    weight += static_cast<int64_t>(load_shared(block.weight + s)) * tiles;
  }
  if (weight == 0) weight = 1;
  if (cuts.start + weight <= stretch_of(cuts, block_x())) return;
  cuts.first_block = block_at(cuts, cuts.start);
  cuts.last_block = block_at(cuts, cuts.start + weight - 1);
  if (g.invariant) {
    cuts.chunk = (cuts.tiles + kMaxItems - 1) / kMaxItems;
    if (cuts.chunk < kLeastTiles) cuts.chunk = kLeastTiles;
  }
  int32_t queries = static_cast<int32_t>(device::rows_of(o.tensor, o.batch, unit.sequence, g.most_queries).count);
  int32_t at = first_tile(g, block, cuts, block_x()), end = first_tile(g, block, cuts, block_x() + 1);
  const Shared<Words2> own = block.visit + warp_index() * kVisitWords;
  if constexpr (kCodes) put(own, Visit{cuts, unit, queries, end});
  Cursor cursor = {0, 0};
#pragma unroll 1
  for (int32_t run = 0; run < g.runs; ++run) {
    while (d.segment[cursor.segment].value_run != run) {
      cursor.begin += static_cast<int32_t>(load_shared(block.tiles + cursor.segment));
      ++cursor.segment;
    }
    const Range tiles = run_range(d, block, run);
    const int32_t last = tiles.end < end ? tiles.end : end;
#pragma unroll 1
    while (at < last) {
      int32_t next = last;
      if (cuts.chunk && (at / cuts.chunk + 1) * cuts.chunk < last) next = (at / cuts.chunk + 1) * cuts.chunk;
      float *to = partial_at(d, cuts, index, cuts.chunk ? at / cuts.chunk : block_x(), run);
      sum_piece<T, kCodes, kSteps, kMatrices>(d, o.scale, o.softcap, block, unit, queries, cursor, at, next, to);
      at = next;
      if constexpr (kCodes) {
        const Visit same = get<Visit>(own);
        cuts = same.cuts, unit = same.unit, queries = same.queries, end = same.end;
      }
    }
  }
  const int32_t arrivals = cuts.last_block - cuts.first_block + 1;
  if (arrivals > 1 && !last_block(d.counters + (g.invariant ? index : cuts.first_block), static_cast<uint32_t>(arrivals))) return;
  reduce_unit(d, o, block, cuts, index);
}

template <class T, int32_t kChannels, bool kCodes>
__global__ void __launch_bounds__(kChannels > 128 ? 32 : kChannels > 64 ? 64 : 128, kCodes || kChannels > 64 ? 3 : 2) attend_decode(const __grid_constant__ Decode d,
                                                                                                  const __grid_constant__ Output o) {
  constexpr int32_t kSteps = kChannels / kStep;
  const Geometry &g = d.geometry;
  SharedCarver carver = shared_memory();
  const Block block = take_block(carver, g.key_channels, g.value_channels, d.warps);
  Cuts cuts = {};
  cuts.total = load_global(d.start + g.units);
  if (cuts.total == 0) return;
  const int64_t wanted = cuts.total / d.least;
  cuts.blocks = wanted < 1 ? 1 : wanted < grid_x() ? static_cast<int32_t>(wanted) : grid_x();
  if (block_x() >= cuts.blocks) return;
  const int64_t begin = stretch_of(cuts, block_x());
  // The last unit that begins at `begin` or in front of it.
  int32_t low = 0, high = g.units;
  while (high - low > 1) {
    const int32_t middle = (low + high) / 2;
    if (load_global(d.start + middle) <= begin) {
      low = middle;
    } else {
      high = middle;
    }
  }
  // Little is kept while a unit is summed, which needs the registers.
#pragma unroll 1
  for (int32_t index = low; index < g.units; ++index) {
    cuts.start = load_global(d.start + index);
    if (cuts.start >= stretch_of(cuts, block_x() + 1)) return;
    if (load_global(d.start + index + 1) > cuts.start) visit<T, kCodes, kSteps, kSteps>(d, o, block, cuts, index);
  }
}

// The kernels for calls with tiles of codes, in a unit of their own.
using DecodeKernel = void (*)(Decode, Output);
DecodeKernel codes_kernel(think_dtype dtype, int32_t channels);

}  // namespace think::attend::cuda
