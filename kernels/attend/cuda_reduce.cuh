// The end of a unit: its partial results become outputs, in the order of their places whoever comes last. Sums of each value basis first, then
// out_I += sums, out_P += W sums + mass * offset_P, and one division by the mass and the sink logit.
#pragma once

#include "cuda_codes.cuh"

namespace think::attend::cuda {

// A reduction's shared memory.
struct Reduction {
  Shared<float> sums;     // [mass, channel][column]
  Shared<float> outputs;  // [channel][column]
  Shared<float> weights;  // [part][column]
  Shared<int64_t> places;  // of partial results
  Shared<int32_t> count;   // of those
  Shared<float> maxima;    // [warp][column]
  Shared<float> largest, mass;  // [column]
};

THINK_DEVICE Reduction take_reduction(SharedCarver carver, int32_t value_channels) {
  Reduction r;
  r.places = carver.take<int64_t>(kMostParts);
  r.sums = carver.take<float>(static_cast<uint32_t>((1 + value_channels) * kColumns));
  r.outputs = carver.take<float>(static_cast<uint32_t>(value_channels * kColumns));
  r.weights = carver.take<float>(kMostParts * kColumns);
  r.maxima = carver.take<float>(static_cast<uint32_t>(block_threads() / 32 * kColumns));
  r.largest = carver.take<float>(kColumns);
  r.mass = carver.take<float>(kColumns);
  r.count = carver.take<int32_t>(1);
  return r;
}

// What is reduced: `count` parts, each of what `step` blocks (from block `first` on) have of the unit, or, of an invariant one, an item.
struct Parts {
  int32_t first, count, step;
};

// Tiles of a part, of whatever run.
struct Range {
  int32_t first, end;
};

THINK_DEVICE Range range_of(const Geometry &g, const Block &block, const Cuts &cuts, const Parts &parts, int32_t i) {
  if (cuts.chunk) {
    const int32_t first = i * cuts.chunk, end = first + cuts.chunk;
    return {first, end < cuts.tiles ? end : cuts.tiles};
  }
  const int32_t begin = parts.first + i * parts.step, end = begin + parts.step;
  return {first_tile(g, block, cuts, begin), first_tile(g, block, cuts, end <= cuts.last_block ? end : cuts.last_block + 1)};
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

// places[i]: where partial results of the run are, in floats, in the order of the parts; how many. Every thread of the block must call it.
THINK_DEVICE int32_t find_places(const Reduction &r, const Decode &d, const Block &block, const Cuts &cuts, int32_t unit, int32_t run, const Parts &parts) {
  sync_block();
  if (warp_index() == 0) {
    const Range tiles = run_range(d, block, run);
    const int32_t lane = lane_index();
    int32_t found = 0;
#pragma unroll 1
    for (int32_t begin = 0; begin < parts.count; begin += 32) {
      bool has = false;
      if (begin + lane < parts.count) {
        const Range own = range_of(d.geometry, block, cuts, parts, begin + lane);
        has = (own.first > tiles.first ? own.first : tiles.first) < (own.end < tiles.end ? own.end : tiles.end);
      }
      const uint32_t those = ballot(has);
      const int32_t before = count_bits(those & ((1u << lane) - 1));
      if (has) store_shared(r.places + found + before, partial_at(d, cuts, unit, parts.first + (begin + lane) * parts.step, run) - d.partial);
      found += count_bits(those);
    }
    if (lane == 0) store_shared(r.count, found);
  }
  sync_block();
  return load_shared(r.count);
}

// The largest maxima of the parts in `places`, of this thread's column: those of every kColumns-th thread together are all.
THINK_DEVICE float largest_of(const Reduction &r, const Decode &d, int32_t count, float largest) {
  const int32_t rows = block_threads() / kColumns, column = thread_index() % kColumns;
#pragma unroll 1
  for (int32_t i = thread_index() / kColumns; i < count; i += rows * 4) {
    int64_t place[4];
    float maximum[4] = {kLowest, kLowest, kLowest, kLowest};
#pragma unroll
    for (int32_t x = 0; x < 4; ++x) place[x] = load_shared(r.places + (i + x * rows < count ? i + x * rows : i));
#pragma unroll
    for (int32_t x = 0; x < 4; ++x) {
      if (i + x * rows < count) maximum[x] = load_l2(d.partial + place[x] + column);
    }
#pragma unroll
    for (int32_t x = 0; x < 4; ++x) largest = fmaxf(largest, maximum[x]);
  }
  return largest;
}

// Every thread's to the block's.
THINK_DEVICE void share_largest(const Reduction &r, float largest) {
#pragma unroll
  for (int32_t distance = kColumns; distance < 32; distance *= 2) largest = fmaxf(largest, shuffle_xor(largest, distance));
  if (lane_index() < kColumns) store_shared(r.maxima + warp_index() * kColumns + lane_index(), largest);
  sync_block();
  if (thread_index() < kColumns) {
    for (int32_t warp = 0; warp < block_threads() / 32; ++warp) largest = fmaxf(largest, load_shared(r.maxima + warp * kColumns + thread_index()));
    store_shared(r.largest + thread_index(), largest);
  }
  sync_block();
}

// body(i, sum): sums over the parts in `places`, i counts halves of mass and channels. The same thread has the same i everywhere.
template <class Body>
THINK_DEVICE void sum_parts(const Reduction &r, const Decode &d, int32_t count, int32_t kept, const Body &body) {
  const int32_t padded = (count + kPartsAhead - 1) / kPartsAhead * kPartsAhead;
  for (int32_t i = thread_index(); i < padded * kColumns; i += block_threads()) {
    const int32_t part = i / kColumns, column = i % kColumns;
    float weight = 0.0f;
    if (part < count) weight = exp2_fast(load_l2(d.partial + load_shared(r.places + part) + column) - load_shared(r.largest + column));
    store_shared(r.weights + i, weight);
  }
  sync_block();
#pragma unroll 1
  for (int32_t i = thread_index(); i < 2 * (1 + kept); i += block_threads()) {
    Float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 1
    for (int32_t begin = 0; begin < count; begin += kPartsAhead) {
      int64_t place[kPartsAhead];
      Float4 x[kPartsAhead] = {};
#pragma unroll
      for (int32_t j = 0; j < kPartsAhead; ++j) place[j] = load_shared(r.places + (begin + j < count ? begin + j : begin));
#pragma unroll
      for (int32_t j = 0; j < kPartsAhead; ++j) {
        if (begin + j < count) x[j] = load_l2(reinterpret_cast<const Float4 *>(d.partial + place[j] + kColumns) + i);
      }
#pragma unroll
      for (int32_t j = 0; j < kPartsAhead; ++j) {
        const Float4 w = load_shared((r.weights + (begin + j) * kColumns + i % 2 * 4).as<Float4>());
        sum = {fmaf(w.x, x[j].x, sum.x), fmaf(w.y, x[j].y, sum.y), fmaf(w.z, x[j].z, sum.z), fmaf(w.w, x[j].w, sum.w)};
      }
    }
    body(i, sum);
  }
}

THINK_DEVICE int32_t value_width(const Decode &d, const Unit &unit, int32_t segment) {
  return device::width_of(d.segment[segment].value, int64_t{device::slot_of(d.segment[segment].run.slot, unit.sequence)} * d.geometry.kv_heads + unit.head);
}

THINK_DEVICE int32_t first_segment(const Decode &d, int32_t run) {
  int32_t segment = 0;
  while (d.segment[segment].value_run != run) ++segment;
  return segment;
}

// Parts of a unit to one, in the place of the first.
THINK_DEVICE void reduce_group(const Decode &d, const Output &o, const Block &block, const Cuts &cuts, int32_t index, const Parts &parts) {
  const Geometry &g = d.geometry;
  const Unit unit = unit_at(g, o.batch, index);
  const Reduction r = take_reduction(block.behind, g.value_channels);
#pragma unroll 1
  for (int32_t run = 0; run < g.runs; ++run) {
    const int32_t count = find_places(r, d, block, cuts, index, run, parts);
    if (count == 0) continue;
    share_largest(r, largest_of(r, d, count, kLowest));
    Float4 *to = reinterpret_cast<Float4 *>(partial_at(d, cuts, index, parts.first, run));
    sum_parts(r, d, count, value_width(d, unit, first_segment(d, run)), [&](int32_t i, const Float4 &sum) { store_global(to + 2 + i, sum); });
    if (thread_index() < 2) store_global(to + thread_index(), load_shared((r.largest + thread_index() * 4).as<Float4>()));
  }
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
  constexpr int32_t kAhead = 4;  // chunks of W that a thread asks for at once
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
    const Words4 *row = reinterpret_cast<const Words4 *>(weight + int64_t{p} * width * 2);
#pragma unroll 1
    for (int32_t begin = 0; begin < width / 8; begin += kAhead) {
      Words4 words[kAhead] = {};
#pragma unroll
      for (int32_t j = 0; j < kAhead; ++j) {
        if (begin + j < width / 8) words[j] = load_constant(row + begin + j);
      }
#pragma unroll
      for (int32_t j = 0; j < kAhead; ++j) {
        const uint32_t pairs[4] = {words[j].x, words[j].y, words[j].z, words[j].w};
#pragma unroll
        for (int32_t x = 0; x < 8; ++x) {
          const int32_t i = (begin + j) * 8 + x;
          if (i < kept) {
            const Float2 two = unpack<F16>(pairs[x / 2]);
            const float w = x % 2 ? two.y : two.x;
            const Float4 low = load_shared((sums + i * kColumns).as<Float4>()), high = load_shared((sums + i * kColumns + 4).as<Float4>());
            sum[0] = fmaf(w, low.x, sum[0]), sum[1] = fmaf(w, low.y, sum[1]), sum[2] = fmaf(w, low.z, sum[2]), sum[3] = fmaf(w, low.w, sum[3]);
            sum[4] = fmaf(w, high.x, sum[4]), sum[5] = fmaf(w, high.y, sum[5]), sum[6] = fmaf(w, high.z, sum[6]), sum[7] = fmaf(w, high.w, sum[7]);
          }
        }
      }
    }
#pragma unroll
    for (int32_t c = 0; c < kColumns; ++c) store_shared(to + c, load_shared(to + c) + sum[c]);
  }
}

THINK_DEVICE void reduce_unit(const Decode &d, const Output &o, const Block &block, const Cuts &cuts, int32_t index, const Parts &parts) {
  const Geometry &g = d.geometry;
  const Unit unit = unit_at(g, o.batch, index);
  const int32_t thread = thread_index(), threads = block_threads(), channels = g.value_channels;
  const Reduction r = take_reduction(block.behind, channels);
  sync_block();

  float largest = kLowest;
  int32_t count = 0;
#pragma unroll 1
  for (int32_t run = 0; run < g.runs; ++run) {
    count = find_places(r, d, block, cuts, index, run, parts);
    largest = largest_of(r, d, count, largest);
  }
  for (int32_t i = thread; i < channels * kColumns; i += threads) store_shared(r.outputs + i, 0.0f);
  if (thread < kColumns) store_shared(r.mass + thread, 0.0f);
  share_largest(r, largest);

#pragma unroll 1
  for (int32_t run = 0; run < g.runs; ++run) {
    if (g.runs > 1) count = find_places(r, d, block, cuts, index, run, parts);
    if (count == 0) continue;
    const int32_t segment = first_segment(d, run), kept = value_width(d, unit, segment);
    sum_parts(r, d, count, kept, [&](int32_t i, const Float4 &sum) { store_shared((r.sums + i * 4).as<Float4>(), sum); });
    sync_block();
    expand(r, d, o, unit, run, segment, kept);
    if (thread < kColumns) store_shared(r.mass + thread, load_shared(r.mass + thread) + load_shared(r.sums + thread));
    sync_block();
  }

  const RowRange rows = device::rows_of(o.tensor, o.batch, unit.sequence, g.most_queries);
  const int32_t columns = columns_of(g, unit, rows.count);
#pragma unroll 1
  for (int32_t i = thread; i < columns * channels; i += threads) {
    const int32_t column = i / channels, channel = i - column * channels, c = unit.column_group * kColumns + column;
    const int32_t head = unit.head * g.group + c % g.group;
    const int64_t token = rows.first + c / g.group;
    const float mass = load_shared(r.mass + column), maximum = load_shared(r.largest + column);
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
template <class T, int32_t kSteps, bool kCodes>
THINK_DEVICE void visit(const Decode &d, const Output &o, const Block &block, Cuts &cuts, int32_t index) {
  const Geometry &g = d.geometry;
  const Unit unit = unit_at(g, o.batch, index);
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
  const int32_t queries = static_cast<int32_t>(device::rows_of(o.tensor, o.batch, unit.sequence, g.most_queries).count);
  const int32_t first = first_tile(g, block, cuts, block_x()), end = first_tile(g, block, cuts, block_x() + 1);
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
    for (int32_t at = tiles.first > first ? tiles.first : first, next; at < last; at = next) {
      next = last;
      if (cuts.chunk && (at / cuts.chunk + 1) * cuts.chunk < last) next = (at / cuts.chunk + 1) * cuts.chunk;
      float *to = partial_at(d, cuts, index, cuts.chunk ? at / cuts.chunk : block_x(), run);
      if (kCodes && has_codes(d.segment[cursor.segment])) {
        if constexpr (kCodes) sum_code_piece<T, kSteps>(d, o.scale, o.softcap, block, unit, queries, cursor, at, next, to);
      } else {
        sum_piece<T, stage_rows(kSteps * kStep), kSteps, kSteps>(d, o.scale, o.softcap, block, unit, queries, cursor, at, next, to);
      }
    }
  }
  const int32_t arrivals = cuts.last_block - cuts.first_block + 1;
  Parts parts = {cuts.first_block, arrivals, 1};
  if (g.invariant) {
    parts = {0, (cuts.tiles + cuts.chunk - 1) / cuts.chunk, 1};
    if (arrivals > 1 && !last_block(d.counters + index, static_cast<uint32_t>(arrivals))) return;
  } else {
    if (arrivals > kGroupParts) {
      // The block that is last in its group reduces the group, the one whose group is last the unit.
      const int32_t leader = cuts.first_block + (block_x() - cuts.first_block) / kGroupParts * kGroupParts, left = cuts.last_block + 1 - leader;
      const Parts group = {leader, left < kGroupParts ? left : kGroupParts, 1};
      // A block leads two groups at most: of the unit that begins in it, and of one that began before.
      uint32_t *counter = d.counters + grid_x() + leader * 2 + (leader > cuts.first_block);
      if (group.count > 1) {
        if (!last_block(counter, static_cast<uint32_t>(group.count))) return;
        reduce_group(d, o, block, cuts, index, group);
      }
      parts = {cuts.first_block, (arrivals + kGroupParts - 1) / kGroupParts, kGroupParts};
    }
    if (parts.count > 1 && !last_block(d.counters + cuts.first_block, static_cast<uint32_t>(parts.count))) return;
  }
  reduce_unit(d, o, block, cuts, index, parts);
}

// kCodes: segments may be tiles of codes.
template <class T, int32_t kChannels, bool kCodes>
__global__ void __launch_bounds__(warps_of(kChannels) * 32, blocks_of(kChannels)) attend_decode(const __grid_constant__ Decode d,
                                                                                                  const __grid_constant__ Output o) {
  constexpr int32_t kSteps = kChannels / kStep;
  const Geometry &g = d.geometry;
  SharedCarver carver = shared_memory();
  const Block block = take_block(carver, g.key_channels, g.value_channels, d.warps, kCodes ? d.code_words : 0);
  wait_for_previous_launch();
  Cuts cuts = {};
  cuts.total = load_global(d.start + g.units);
  if (cuts.total == 0) return;
  const int64_t wanted = cuts.total / d.least;
  cuts.blocks = wanted < 1 ? 1 : wanted < grid_x() ? static_cast<int32_t>(wanted) : grid_x();
  if (block_x() >= cuts.blocks) return;
  cuts.each = cuts.total / cuts.blocks;
  cuts.rest = static_cast<int32_t>(cuts.total - cuts.each * cuts.blocks);
  const int64_t begin = stretch_of(cuts, block_x());
  // The last unit that begins at `begin` or in front of it; a lane for each of 32 candidates.
  int32_t low = 0, high = g.units;
#pragma unroll 1
  while (high - low > 1) {
    const int32_t apart = (high - low + 31) / 32, candidate = low + lane_index() * apart;
    const int64_t start = load_global(d.start + (candidate < high ? candidate : low));
    const int32_t reached = count_bits(ballot(candidate < high && start <= begin));
    low += (reached - 1) * apart;
    if (low + apart < high) high = low + apart;
  }
  // Little is kept while a unit is summed, which needs the registers.
#pragma unroll 1
  for (int32_t index = low; index < g.units; ++index) {
    cuts.start = load_global(d.start + index);
    if (cuts.start >= stretch_of(cuts, block_x() + 1)) return;
    if (load_global(d.start + index + 1) > cuts.start) visit<T, kSteps, kCodes>(d, o, block, cuts, index);
  }
}

// The kernels for calls with tiles of codes, in a unit of their own.
using DecodeKernel = void (*)(Decode, Output);
DecodeKernel codes_kernel(think_dtype dtype, int32_t channels);

}  // namespace think::attend::cuda
