// The end of a unit: its partial results become outputs, in the order of their places whoever comes last; of many parts, groups of them first. Sums of each
// value basis, then out_I += sums, out_P += W sums + mass * offset_P, and one division by the mass and the sink logit.
#pragma once

#include "cuda_codes.cuh"

namespace think::attend::cuda {

// What is reduced: `count` parts, each of what `step` blocks (from block `first` on) have of the unit, or, of an invariant one, an item.
struct Parts {
  int32_t first, count, step;
};

// Tiles of a unit.
struct Range {
  int32_t first, end;
};

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

// The parts of `parts` that have a place for the run. Of an invariant unit those whose items meet its tiles; else all of them, unless it has no tiles.
THINK_DEVICE Parts parts_of_run(const Decode &d, const Block &block, const Cuts &cuts, int32_t run, const Parts &parts) {
  const Range tiles = run_range(d, block, run);
  if (tiles.first == tiles.end) return {0, 0, 1};
  if (!cuts.chunk) return parts;
  const int32_t first = tiles.first / cuts.chunk;
  return {first, (tiles.end + cuts.chunk - 1) / cuts.chunk - first, 1};
}

// Maxima and masses of the parts, and their places. Returns the largest of this thread's column: those of every kColumns-th thread together are all.
THINK_DEVICE float read_maxima(const Reduction &r, const Decode &d, const Cuts &cuts, int32_t unit, int32_t run, const Parts &parts, int32_t halves) {
  float largest = kLowest;
  const int32_t column = thread_index() % kColumns;
  for (int32_t part = thread_index() / kColumns; part < parts.count && column < halves * 4; part += block_threads() / kColumns) {
    const float *from = partial_at(d, cuts, unit, parts.first + part * parts.step, run), *of_column = from + place_of_column(column, d.geometry.value_channels);
    const float maximum = load_l2(of_column), mass = load_l2(of_column + 4);
    store_shared(r.weights + part * kColumns + column, maximum);
    store_shared(r.masses + part * kColumns + column, mass);
    if (column == 0) store_shared(r.places + part, from - d.partial);
    largest = fmaxf(largest, maximum);
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

// body(half, i, sum): sums over the parts of read_maxima(), of channel i and the four columns whose half begins there; and those of the masses to `sums`. A thread has one half of all
// columns, and the same channels everywhere. A part that saw nothing in four columns has no sums of them, or only zeros; any other is read, as it may hold a
// NaN whatever its weight.
template <class Body>
THINK_DEVICE void sum_parts(const Reduction &r, const Decode &d, int32_t count, int32_t kept, int32_t halves, const Body &body) {
  const int32_t column = thread_index() % kColumns, half = halves == 2 ? thread_index() % 2 : 0, of_half = half * half_floats(d.geometry.value_channels);
  for (int32_t part = thread_index() / kColumns; part < count && column < halves * 4; part += block_threads() / kColumns) {
    const Shared<float> at = r.weights + part * kColumns + column;
    const float maximum = load_shared(at);
    store_shared(at, maximum > kLowest ? fmaxf(exp2_fast(maximum - load_shared(r.largest + column)), kLeastWeight) : 0.0f);
  }
  sync_block();
  if (thread_index() < halves * 4) {
    float mass = 0.0f;
#pragma unroll 4
    for (int32_t part = 0; part < count; ++part) {
      mass = fmaf(load_shared(r.weights + part * kColumns + column), load_shared(r.masses + part * kColumns + column), mass);
    }
    store_shared(r.sums + place_of_column(column, d.geometry.value_channels), mass);
  }
#pragma unroll 1
  for (int32_t i = thread_index() / halves; i < kept; i += block_threads() / halves) {
    Float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 1
    for (int32_t begin = 0; begin < count; begin += kPartsAhead) {
      Float4 w[kPartsAhead], x[kPartsAhead] = {};
      int64_t place[kPartsAhead];
#pragma unroll
      for (int32_t j = 0; j < kPartsAhead; ++j) {
        const int32_t part = begin + j < count ? begin + j : begin;
        place[j] = load_shared(r.places + part);
        w[j] = load_shared((r.weights + part * kColumns + half * 4).as<Float4>());
      }
#pragma unroll
      for (int32_t j = 0; j < kPartsAhead; ++j) {
        const bool seen = w[j].x + w[j].y + w[j].z + w[j].w > 0.0f;
        if (begin + j < count && seen) x[j] = load_l2(reinterpret_cast<const Float4 *>(d.partial + place[j] + of_half) + 2 + i);
      }
#pragma unroll
      for (int32_t j = 0; j < kPartsAhead; ++j) sum = multiply_add(w[j], x[j], sum);
    }
    body(of_half, i, sum);
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
THINK_DEVICE void reduce_group(const Decode &d, const Output &o, const Block &block, const Cuts &cuts, int32_t index, const Parts &parts, int32_t halves) {
  const Geometry &g = d.geometry;
  const Unit unit = unit_at(g, o.batch, index);
  SharedCarver carver = block.behind;
  const Reduction r = take_reduction(carver, g.value_channels, block_threads() / 32);
#pragma unroll 1
  for (int32_t run = 0; run < g.runs; ++run) {
    if (parts_of_run(d, block, cuts, run, parts).count == 0) continue;
    sync_block();
    share_largest(r, read_maxima(r, d, cuts, index, run, parts, halves));
    float *to = partial_at(d, cuts, index, parts.first, run);
    sum_parts(r, d, parts.count, value_width(d, unit, first_segment(d, run)), halves,
              [&](int32_t half, int32_t i, const Float4 &sum) { store_global(reinterpret_cast<Float4 *>(to + half) + 2 + i, sum); });
    sync_block();
    if (thread_index() < halves * 4) {
      const int32_t place = place_of_column(thread_index(), g.value_channels);
      store_global(to + place, load_shared(r.largest + thread_index()));
      store_global(to + place + 4, load_shared(r.sums + place));
    }
  }
}

// to += factor * from, of four columns of a channel.
THINK_DEVICE void add_channel(Shared<float> to, float factor, Shared<float> from) {
  const Float4 x = load_shared(from.as<Float4>());
  store_shared(to.as<Float4>(), multiply_add({factor, factor, factor, factor}, x, load_shared(to.as<Float4>())));
}

// Adds the sums of a run to the outputs.
THINK_DEVICE void expand(const Reduction &r, const Decode &d, const Output &o, const Unit &unit, int32_t run, int32_t segment, int32_t kept, int32_t halves) {
  constexpr int32_t kAhead = 4;  // chunks of W that a thread asks for at once
  const Geometry &g = d.geometry;
  const device::Side &side = d.segment[segment].value;
  const int64_t head_of_slot = int64_t{device::slot_of(d.segment[segment].run.slot, unit.sequence)} * g.kv_heads + unit.head;
  const int32_t channels = g.value_channels, width = (kept + 7) / 8 * 8;
  const int32_t *index = side.index ? side.index + head_of_slot * channels : nullptr;
  const int32_t first = thread_index() / halves, step = block_threads() / halves, half = halves == 2 ? thread_index() % 2 * half_floats(channels) : 0;
  const Shared<float> masses = r.sums + half, sums = masses + 4, outputs = r.outputs + half;
  for (int32_t i = first; i < kept; i += step) {
    add_channel(outputs + (index ? load_constant(index + i) : i) * 4, 1.0f, sums + i * 4);
  }
  const ValueBasis &basis = o.basis[run];
  if (!index || kept == channels) return;
  const int64_t block = load_constant(basis.weight_offset + head_of_slot);
  if (block < 0) return;
  const char *weight = static_cast<const char *>(basis.weight) + block;
#pragma unroll 1
  for (int32_t p = first; p < channels - kept; p += step) {
    const Shared<float> to = outputs + load_constant(index + kept + p) * 4;
    add_channel(to, load_constant(basis.offset + head_of_slot * channels + kept + p), masses);
    Float4 sum = load_shared(to.as<Float4>());
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
            sum = multiply_add({w, w, w, w}, load_shared((sums + i * 4).as<Float4>()), sum);
          }
        }
      }
    }
    store_shared(to.as<Float4>(), sum);
  }
}

THINK_DEVICE void reduce_unit(const Decode &d, const Output &o, const Block &block, const Cuts &cuts, int32_t index, const Parts &parts, int32_t halves) {
  const Geometry &g = d.geometry;
  const Unit unit = unit_at(g, o.batch, index);
  const int32_t thread = thread_index(), threads = block_threads(), channels = g.value_channels;
  SharedCarver carver = block.behind;
  const Reduction r = take_reduction(carver, channels, threads / 32);
  sync_block();

  float largest = kLowest;
#pragma unroll 1
  for (int32_t run = 0; run < g.runs; ++run) {
    if (run > 0) sync_block();
    largest = fmaxf(largest, read_maxima(r, d, cuts, index, run, parts_of_run(d, block, cuts, run, parts), halves));
  }
  for (int32_t i = thread; i < partial_floats(channels); i += threads) store_shared(r.outputs + i, 0.0f);
  if (thread < kColumns) store_shared(r.mass + thread, 0.0f);
  share_largest(r, largest);

#pragma unroll 1
  for (int32_t run = 0; run < g.runs; ++run) {
    const Parts own = parts_of_run(d, block, cuts, run, parts);
    if (own.count == 0) continue;
    if (g.runs > 1) {
      read_maxima(r, d, cuts, index, run, own, halves);
      sync_block();
    }
    const int32_t segment = first_segment(d, run), kept = value_width(d, unit, segment);
    sum_parts(r, d, own.count, kept, halves,
              [&](int32_t half, int32_t i, const Float4 &sum) { store_shared((r.sums + half + (1 + i) * 4).as<Float4>(), sum); });
    sync_block();
    expand(r, d, o, unit, run, segment, kept, halves);
    if (thread < halves * 4) store_shared(r.mass + thread, load_shared(r.mass + thread) + load_shared(r.sums + place_of_column(thread, channels)));
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
    const float value = load_shared(r.outputs + place_of_column(column, channels) + channel * 4);
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
  const int32_t queries = static_cast<int32_t>(device::rows_of(o.tensor, o.batch, unit.sequence, g.most_queries).count), halves = halves_of(g, unit, queries);
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
    const int32_t begin = tiles.first > first ? tiles.first : first;
    if (begin >= last && tiles.first < tiles.end && cuts.chunk == 0 && thread_index() < halves * 4) {  // a part that saw nothing of the run
      float *to = partial_at(d, cuts, index, block_x(), run) + place_of_column(thread_index(), g.value_channels);
      store_global(to, kLowest);
      store_global(to + 4, 0.0f);
    }
#pragma unroll 1
    for (int32_t at = begin, next; at < last; at = next) {
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
        reduce_group(d, o, block, cuts, index, group, halves);
      }
      parts = {cuts.first_block, (arrivals + kGroupParts - 1) / kGroupParts, kGroupParts};
    }
    if (parts.count > 1 && !last_block(d.counters + cuts.first_block, static_cast<uint32_t>(parts.count))) return;
  }
  reduce_unit(d, o, block, cuts, index, parts, halves);
}

// kCodes: segments may be tiles of codes.
template <class T, int32_t kChannels, bool kCodes>
__global__ void __launch_bounds__(warps_of(kChannels) * 32, blocks_of(kChannels)) attend_decode(const __grid_constant__ Decode d,
                                                                                                  const __grid_constant__ Output o) {
  constexpr int32_t kSteps = kChannels / kStep;
  const Geometry &g = d.geometry;
  SharedCarver carver = shared_memory();
  const Block block = take_block(carver, g.key_channels, g.value_channels, kCodes ? code_ring(d) : 0);
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
