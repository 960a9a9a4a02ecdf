// The end of a unit: its partial results become outputs, in the order of their places whoever comes last; of many parts, groups of them first. Sums of each
// value basis, then out_I += sums, out_P += W sums + mass * offset_P, and one division by the mass and the sink logit.
#pragma once

#include "cuda_codes.cuh"

namespace think::attend::cuda {

// What is reduced: `count` parts, each of what `step` blocks (from block `first` on) have of the unit, or, of an invariant one, an item.
struct Parts {
  int32_t first, count, step;
  bool begins, ends;  // the unit, in the first of the blocks
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
  if (d.geometry.runs == 1 && cuts.tiles > 0) return parts;
  const Range tiles = run_range(d, block, run);
  if (tiles.first == tiles.end) return {0, 0, 1, false, false};
  if (!cuts.chunk) return parts;
  const int32_t first = tiles.first / cuts.chunk;
  return {first, (tiles.end + cuts.chunk - 1) / cuts.chunk - first, 1, false, false};
}

// Their partial results, which lie at even distances but for the first.
struct Places {
  const float *base;
  int64_t step;
  int32_t first;
  THINK_DEVICE const float *operator()(int32_t part) const { return base + part * step + (part == 0 ? first : 0); }
};

THINK_DEVICE Places places_of(const Decode &d, const Cuts &cuts, int32_t unit, int32_t run, const Parts &parts) {
  const int32_t floats = partial_floats(d.geometry.value_channels), of_block = d.geometry.runs * floats;
  const int64_t apart = cuts.chunk ? floats : 3 * of_block;
  return {partial_at(d, cuts, unit, parts.first, run, false, false), parts.step * apart, parts.begins ? of_block + of_block * parts.ends : 0};
}

// Maxima and masses of the parts. Returns the largest of this thread's column: those of every kColumns-th thread together are all.
THINK_DEVICE float read_maxima(const Reduction &r, const Decode &d, const Places &places, int32_t count, int32_t halves) {
  float largest = kLowest;
  const int32_t column = thread_index() % kColumns;
#pragma unroll 1
  for (int32_t part = thread_index() / kColumns; part < count && column < halves * 4; part += block_threads() / kColumns) {
    const float *of_column = places(part) + place_of_column(column, d.geometry.value_channels);
    const float maximum = load_l2(of_column), mass = load_l2(of_column + 4);
    store_shared(r.weights + part * kColumns + column, maximum);
    store_shared(r.masses + part * kColumns + column, mass);
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
#pragma unroll 1
    for (int32_t warp = 0; warp < block_threads() / 32; ++warp) largest = fmaxf(largest, load_shared(r.maxima + warp * kColumns + thread_index()));
    store_shared(r.largest + thread_index(), largest);
  }
  sync_block();
}

// What read_maxima() has left becomes the weights of the parts, and the sums of the masses are put with those of the channels.
THINK_DEVICE void weigh_parts(const Reduction &r, const Decode &d, int32_t count, int32_t halves) {
  const int32_t column = thread_index() % kColumns;
#pragma unroll 1
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
}

// body(half, i, sum): sums over the parts of channel i and the four columns whose half begins there. A thread has one half of all columns, and the same
// channels everywhere. weigh() does weigh_parts(), and what that needs, once: while the first sums are on their way. A part that saw nothing in four columns
// does not count, as there may be a NaN behind the end of a segment; any other does, as it may hold a NaN whatever its weight.
template <class Weigh, class Body>
THINK_DEVICE void sum_parts(const Reduction &r, const Decode &d, const Places &places, int32_t count, int32_t kept, int32_t halves, const Weigh &weigh,
                            const Body &body) {
  const int32_t half = halves == 2 ? thread_index() % 2 : 0, of_half = half * half_floats(d.geometry.value_channels), step = block_threads() / halves;
  bool weighed = false;
#pragma unroll 1
  for (int32_t base = 0; base < kept || !weighed; base += step) {
    const int32_t i = base + thread_index() / halves;
    Float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 1
    for (int32_t begin = 0; begin < count; begin += kPartsAhead) {
      Float4 x[kPartsAhead] = {};
      const float *at = places(begin) + of_half + (2 + i) * 4;
#pragma unroll
      for (int32_t j = 0; j < kPartsAhead; ++j) {
        if (begin + j < count && i < kept) x[j] = load_l2(reinterpret_cast<const Float4 *>(at));
        at += j == 0 && begin == 0 ? places.step - places.first : places.step;
      }
      if (!weighed) {
        weigh();
        weighed = true;
      }
#pragma unroll
      for (int32_t j = 0; j < kPartsAhead; ++j) {
        const int32_t part = begin + j < count ? begin + j : begin;
        const Float4 w = load_shared((r.weights + part * kColumns + half * 4).as<Float4>());
        const bool seen = begin + j < count && w.x + w.y + w.z + w.w > 0.0f;
        if (seen) sum = multiply_add(w, x[j], sum);
      }
    }
    if (i < kept) body(of_half, i, sum);
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
THINK_DEVICE void reduce_group(const Decode &d, const Block &block, const Cuts &cuts, const Unit &unit, const Parts &parts, int32_t halves) {
  const Geometry &g = d.geometry;
  SharedCarver carver = block.behind;
  const Reduction r = take_reduction(carver, g.value_channels, block_threads() / 32);
#pragma unroll 1
  for (int32_t run = 0; run < g.runs; ++run) {
    if (parts_of_run(d, block, cuts, run, parts).count == 0) continue;
    sync_block();
    const Places places = places_of(d, cuts, unit.index, run, parts);
    float *to = d.partial + (places(0) - d.partial);
    const auto weigh = [&] {
      share_largest(r, read_maxima(r, d, places, parts.count, halves));
      weigh_parts(r, d, parts.count, halves);
    };
    sum_parts(r, d, places, parts.count, value_width(d, unit, first_segment(d, run)), halves, weigh,
              [&](int32_t half, int32_t i, const Float4 &sum) { store_global(reinterpret_cast<Float4 *>(to + half) + 2 + i, sum); });
    sync_block();
    if (thread_index() < halves * 4) {
      const int32_t place = place_of_column(thread_index(), g.value_channels);
      store_global(to + place, load_shared(r.largest + thread_index()));
      store_global(to + place + 4, load_shared(r.sums + place));
    }
  }
}

// How the sums of a run become outputs: those of kept channels as they are, those of dropped ones from W and offset.
struct Expansion {
  const int32_t *index;  // NULL: every channel is kept, in order
  const char *weight;
  const float *offset;
  int32_t kept, dropped, chunks;  // dropped: channels that are predicted; chunks of a row of W
};

THINK_DEVICE Expansion expansion_of(const Decode &d, const Output &o, const Unit &unit, int32_t run, int32_t segment) {
  const Geometry &g = d.geometry;
  const device::Side &side = d.segment[segment].value;
  const int64_t head_of_slot = int64_t{device::slot_of(d.segment[segment].run.slot, unit.sequence)} * g.kv_heads + unit.head;
  const ValueBasis &basis = o.basis[run];
  Expansion e = {};
  e.kept = device::width_of(side, head_of_slot);
  if (!side.index) return e;
  e.index = side.index + head_of_slot * g.value_channels;
  if (e.kept == g.value_channels) return e;
  const int64_t block = load_constant(basis.weight_offset + head_of_slot);
  if (block < 0) return e;
  e.weight = static_cast<const char *>(basis.weight) + block;
  e.offset = basis.offset + head_of_slot * g.value_channels;
  e.dropped = g.value_channels - e.kept;
  e.chunks = (e.kept + 7) / 8;
  return e;
}

// Rows of W lie an odd number of chunks apart, so that those of neighbours are in different banks.
THINK_HOST_DEVICE int32_t weight_pitch(int32_t chunks) { return chunks | 1; }

// Asks for what expand() needs.
THINK_DEVICE void fetch_expansion(const Reduction &r, const Expansion &e, int32_t channels) {
  const int32_t threads = block_threads();
#pragma unroll 1
  for (int32_t i = thread_index(); i < channels; i += threads) {
    cp_async<4>(r.index + i, e.index + i);
    if (e.dropped && i >= e.kept) cp_async<4>(r.offsets + i, e.offset + i);
  }
  int32_t row = 0, chunk = thread_index();
#pragma unroll 1
  for (int32_t i = thread_index(); i < e.dropped * e.chunks; i += threads, chunk += threads) {
    while (chunk >= e.chunks) chunk -= e.chunks, ++row;
    cp_async<16>(r.weight + (row * weight_pitch(e.chunks) + chunk), e.weight + int64_t{i} * 16);
  }
  cp_async_commit();
}

// Adds the sums of a run to the outputs. Several threads share a dropped channel where there are enough.
THINK_DEVICE void expand(const Reduction &r, const Expansion &e, int32_t channels, int32_t halves) {
  const int32_t thread = thread_index(), threads = block_threads(), of_half = half_floats(channels);
  const auto add = [](Shared<float> to, const Float4 &x) {
    const Float4 old = load_shared(to.as<Float4>());
    store_shared(to.as<Float4>(), Float4{old.x + x.x, old.y + x.y, old.z + x.z, old.w + x.w});
  };
#pragma unroll 1
  for (int32_t i = thread; i < e.kept * halves; i += threads) {
    const int32_t channel = i / halves, half = i % halves * of_half;
    const int32_t to = e.index ? load_shared(r.index + channel) : channel;
    add(r.outputs + half + to * 4, load_shared((r.sums + half + (1 + channel) * 4).as<Float4>()));
  }
  if (!e.dropped) return;
  const int32_t items = e.dropped * halves, shares = items < threads ? threads / items : 1;
  int32_t first = thread, share = 0;
  while (first >= items && share < shares) first -= items, ++share;
#pragma unroll 1
  for (int32_t item = first; item < items && share < shares; item += threads) {
    const int32_t row = item / halves, half = item % halves * of_half;
    Float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 1
    for (int32_t c = share; c < e.chunks; c += shares) {
      const Words4 words = load_shared(r.weight + (row * weight_pitch(e.chunks) + c));
      const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (int32_t x = 0; x < 8; ++x) {
        if (c * 8 + x < e.kept) {
          const Float2 two = unpack<F16>(pairs[x / 2]);
          const float w = x % 2 ? two.y : two.x;
          sum = multiply_add({w, w, w, w}, load_shared((r.sums + half + (1 + c * 8 + x) * 4).as<Float4>()), sum);
        }
      }
    }
    if (share > 0) {
      store_shared(r.expanded + ((share - 1) * items + item), sum);
      continue;
    }
    const int32_t channel = e.kept + row;
    const float offset = load_shared(r.offsets + channel);
    sum = multiply_add({offset, offset, offset, offset}, load_shared((r.sums + half).as<Float4>()), sum);
    add(r.outputs + half + load_shared(r.index + channel) * 4, sum);
  }
  if (shares == 1) return;
  sync_block();
#pragma unroll 1
  for (int32_t item = thread; item < items; item += threads) {
    const Shared<float> to = r.outputs + (item % halves * of_half + load_shared(r.index + e.kept + item / halves) * 4);
#pragma unroll 1
    for (int32_t of = 0; of < shares - 1; ++of) add(to, load_shared(r.expanded + (of * items + item)));
  }
}

THINK_DEVICE void reduce_unit(const Decode &d, const Output &o, const Block &block, const Cuts &cuts, const Unit &unit, const Parts &parts, int32_t halves) {
  const Geometry &g = d.geometry;
  const int32_t thread = thread_index(), threads = block_threads(), channels = g.value_channels;
  SharedCarver carver = block.behind;
  const Reduction r = take_reduction(carver, channels, threads / 32);
  // Of one run without a basis the sums are the outputs.
  const bool plain = g.runs == 1 && !d.segment[0].value.index;
  sync_block();

  if (!plain) {
#pragma unroll 1
    for (int32_t i = thread; i < partial_floats(channels); i += threads) store_shared(r.outputs + i, 0.0f);
  }
  if (thread < kColumns) store_shared(r.mass + thread, 0.0f), store_shared(r.largest + thread, kLowest);
  sync_block();
  if (g.runs > 1) {
    float largest = kLowest;
#pragma unroll 1
    for (int32_t run = 0; run < g.runs; ++run) {
      const Parts own = parts_of_run(d, block, cuts, run, parts);
      if (run > 0) sync_block();
      largest = fmaxf(largest, read_maxima(r, d, places_of(d, cuts, unit.index, run, own), own.count, halves));
    }
    share_largest(r, largest);
  }

#pragma unroll 1
  for (int32_t run = 0; run < g.runs; ++run) {
    const Parts own = parts_of_run(d, block, cuts, run, parts);
    if (own.count == 0) continue;
    const Expansion expansion = expansion_of(d, o, unit, run, first_segment(d, run));
    const Places places = places_of(d, cuts, unit.index, run, own);
    const auto weigh = [&] {
      const float largest = read_maxima(r, d, places, own.count, halves);
      if (expansion.index) fetch_expansion(r, expansion, channels);
      if (g.runs > 1) {
        sync_block();
      } else {
        share_largest(r, largest);
      }
      weigh_parts(r, d, own.count, halves);
    };
    sum_parts(r, d, places, own.count, expansion.kept, halves, weigh,
              [&](int32_t half, int32_t i, const Float4 &sum) { store_shared((r.sums + half + (1 + i) * 4).as<Float4>(), sum); });
    if (expansion.index) cp_async_wait<0>();
    sync_block();
    if (!plain) expand(r, expansion, channels, halves);
    if (thread < halves * 4) store_shared(r.mass + thread, load_shared(r.mass + thread) + load_shared(r.sums + place_of_column(thread, channels)));
    sync_block();
  }

  // What holds for a whole column is found by one thread; and then a thread has the same channels of all columns.
  const RowRange rows = device::rows_of(o.tensor, o.batch, unit.sequence, g.most_queries);
  const int32_t columns = columns_of(g, unit, rows.count);
  if (thread < columns) {
    const int32_t c = unit.column_group * kColumns + thread, head = unit.head * g.group + c % g.group;
    const int64_t token = rows.first + c / g.group;
    const float mass = load_shared(r.mass + thread), maximum = load_shared(r.largest + thread);
    const float whole = mass + (o.sink_logit ? exp2_fast(load_constant(o.sink_logit + head) * kLog2E - maximum) : 0.0f);
    store_shared(r.factors + thread, mass == 0.0f ? -1.0f : 1.0f / whole);  // below 0: saw nothing
    store_shared(r.rows + thread, device::element(o.tensor, rows.row, head, token, bytes_of(o.tensor.dtype)) - static_cast<const char *>(o.tensor.data));
    if (o.lse) {
      store_global(o.lse + (rows.row * o.tensor.extent[1] + head) * o.tensor.extent[2] + token, mass == 0.0f ? -INFINITY : (maximum + log2_fast(mass)) * kLn2);
    }
  }
  sync_block();
  const Shared<float> results = plain ? r.sums + 4 : r.outputs;
  char *outputs = static_cast<char *>(o.tensor.data);
#pragma unroll 1
  for (int32_t channel = thread; channel < channels; channel += threads) {
#pragma unroll 1
    for (int32_t column = 0; column < columns; ++column) {
      const float factor = load_shared(r.factors + column);
      const float value = factor < 0.0f ? 0.0f : load_shared(results + place_of_column(column, channels) + channel * 4) * factor;
      device::store_number(outputs + load_shared(r.rows + column), o.tensor.dtype, channel, value);
    }
  }
}

THINK_DEVICE int64_t weight_of_unit(const Geometry &g, const Block &block) {
  int64_t weight = 0;
#pragma unroll 1
  for (int32_t s = 0; s < g.segments; ++s) weight += static_cast<int64_t>(load_shared(block.weight + s)) * load_shared(block.tiles + s);
  return weight > 0 ? weight : 1;
}

// Every tile of a unit that begins on the block's stretch of the line, and the reduction where this block is the last.
template <class T, int32_t kSteps, bool kCodes>
THINK_DEVICE void visit(const Decode &d, const Output &o, const Block &block, Cuts &cuts, int32_t index) {
  const Geometry &g = d.geometry;
  const Unit unit = unit_at(g, o.batch, index);
  sync_block();  // the unit before has been read
  if (thread_index() < g.segments) {
    const SegmentTiles tiles = tiles_of_segment(g, weighed(d.segment[thread_index()]), unit);
    store_shared(block.tiles + thread_index(), static_cast<uint32_t>(tiles.count));
    store_shared(block.weight + thread_index(), static_cast<uint32_t>(tiles.weight));
  }
  sync_block();
  cuts.tiles = run_range(d, block, g.runs).first;
  const int64_t weight = weight_of_unit(g, block);
  const int64_t from = stretch_of(cuts, block_x()), to = stretch_of(cuts, block_x() + 1);
  if (cuts.start + weight <= from) return;
  cuts.begins = cuts.start >= from, cuts.ends = cuts.start + weight <= to;
  if (g.invariant) {
    cuts.chunk = (cuts.tiles + kMaxItems - 1) / kMaxItems;
    if (cuts.chunk < kLeastTiles) cuts.chunk = kLeastTiles;
  }
  const int32_t queries = static_cast<int32_t>(device::rows_of(o.tensor, o.batch, unit.sequence, g.most_queries).count), halves = halves_of(g, unit, queries);
  const int32_t first = cuts.begins ? 0 : first_tile(g, block, cuts, from), end = cuts.ends ? cuts.tiles : first_tile(g, block, cuts, to);
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
    if (begin >= last && tiles.first < tiles.end && cuts.chunk == 0) {  // a part that saw nothing of the run
      float *nothing = partial_at(d, cuts, index, block_x(), run, cuts.begins, cuts.ends);
#pragma unroll 1
      for (int32_t i = thread_index(); i < halves * half_floats(g.value_channels); i += block_threads()) {
        store_global(nothing + i, i % half_floats(g.value_channels) < 4 ? kLowest : 0.0f);
      }
    }
#pragma unroll 1
    for (int32_t at = begin, next; at < last; at = next) {
      next = last;
      if (cuts.chunk && (at / cuts.chunk + 1) * cuts.chunk < last) next = (at / cuts.chunk + 1) * cuts.chunk;
      const auto place = [&] { return partial_at(d, cuts, index, cuts.chunk ? at / cuts.chunk : block_x(), run, cuts.begins, cuts.ends); };
      if (kCodes && has_codes(d.segment[cursor.segment])) {
        if constexpr (kCodes) sum_code_piece<T, kSteps>(d, o.scale, o.softcap, block, unit, queries, cursor, at, next, place);
      } else {
        sum_piece<T, stage_rows(kSteps * kStep), kSteps, kSteps>(d, o.scale, o.softcap, block, unit, queries, cursor, at, next, place);
      }
    }
  }
  wait_for_previous_launch();  // which cleared the counters
  const int32_t first_block = cuts.begins ? block_x() : block_at(cuts, cuts.start);
  const int32_t last = cuts.ends ? block_x() : block_at(cuts, cuts.start + weight_of_unit(g, block) - 1);  // weighed again: little is kept meanwhile
  const int32_t arrivals = last - first_block + 1;
  Parts parts = {first_block, arrivals, 1, true, arrivals == 1};
  if (g.invariant) {
    parts = {0, (cuts.tiles + cuts.chunk - 1) / cuts.chunk, 1, false, false};
    if (arrivals > 1 && !last_block(d.counters + index, static_cast<uint32_t>(arrivals))) return;
  } else {
    if (arrivals > kGroupParts) {
      // The block that is last in its group reduces the group, the one whose group is last the unit.
      const int32_t leader = first_block + (block_x() - first_block) / kGroupParts * kGroupParts, left = last + 1 - leader;
      const Parts group = {leader, left < kGroupParts ? left : kGroupParts, 1, leader == first_block, false};
      // A block leads two groups at most: of the unit that begins in it, and of one that began before.
      uint32_t *counter = d.counters + grid_x() + leader * 2 + (leader > first_block);
      if (group.count > 1) {
        if (!last_block(counter, static_cast<uint32_t>(group.count))) return;
        reduce_group(d, block, cuts, unit, group, halves);
      }
      parts = {first_block, (arrivals + kGroupParts - 1) / kGroupParts, kGroupParts, true, false};
    }
    if (parts.count > 1 && !last_block(d.counters + first_block, static_cast<uint32_t>(parts.count))) return;
  }
  reduce_unit(d, o, block, cuts, unit, parts, halves);
}

// kCodes: segments may be tiles of codes.
template <class T, int32_t kChannels, bool kCodes>
__global__ void __launch_bounds__(warps_of(kChannels) * 32, blocks_of(kChannels)) attend_decode(const __grid_constant__ Decode d,
                                                                                                  const __grid_constant__ Output o) {
  constexpr int32_t kSteps = kChannels / kStep;
  const Geometry &g = d.geometry;
  SharedCarver carver = shared_memory();
  const Block block = take_block(carver, g.key_channels, g.value_channels, kCodes ? code_ring(d) : 0);
  // A plan of its own, and the rows that it fetches first, need nothing of the launch before: that starts when everything in front of the call has ended.
  if (g.own_plan) {
    place_units<warps_of(kChannels) * 32>(
        g, o.batch, o.tensor, block.ring.as<int64_t>(),
        [&](int32_t s) { return weighed(d.segment[s]); },
        [&](int32_t index, int64_t place) { store_shared(block.start + index, place); });
    sync_block();
  } else {
    wait_for_previous_launch();
  }
  const auto start_of = [&](int32_t unit) { return g.own_plan ? load_shared(block.start + unit) : load_global(d.start + unit); };
  Cuts cuts = {};
  cuts.total = start_of(g.units);
  if (cuts.total == 0) return wait_for_previous_launch();  // else some block does: one has to, or what comes behind this launch would overtake prepare
  const int64_t wanted = cuts.total / d.least;
  cuts.blocks = wanted < 1 ? 1 : wanted < grid_x() ? static_cast<int32_t>(wanted) : grid_x();
  if (block_x() >= cuts.blocks) return;
  cuts.each = cuts.total / cuts.blocks;
  cuts.rest = static_cast<int32_t>(cuts.total - cuts.each * cuts.blocks);
  const int64_t from = stretch_of(cuts, block_x());
  // The last unit that begins at `from` or in front of it; a lane for each of 32 candidates.
  int32_t low = 0, high = g.units;
#pragma unroll 1
  while (high - low > 1) {
    const int32_t apart = (high - low + 31) / 32, candidate = low + lane_index() * apart;
    const int64_t start = start_of(candidate < high ? candidate : low);
    const int32_t reached = count_bits(ballot(candidate < high && start <= from));
    low += (reached - 1) * apart;
    if (low + apart < high) high = low + apart;
  }
  // Little is kept while a unit is summed, which needs the registers.
#pragma unroll 1
  for (int32_t index = low; index < g.units; ++index) {
    cuts.start = start_of(index);
    if (cuts.start >= stretch_of(cuts, block_x() + 1)) return;
    if (start_of(index + 1) > cuts.start) visit<T, kSteps, kCodes>(d, o, block, cuts, index);
  }
}

// The kernels for calls with tiles of codes, in a unit of their own.
using DecodeKernel = void (*)(Decode, Output);
DecodeKernel codes_kernel(think_dtype dtype, int32_t channels);

}  // namespace think::attend::cuda
