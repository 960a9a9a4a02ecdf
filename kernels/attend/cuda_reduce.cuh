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
    const int32_t tiles = located(block, s).rows.tiles;
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
  const int32_t first = divide(tiles.first, cuts.chunk);
  return {first, divide_up(tiles.end, cuts.chunk) - first, 1, false, false};
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

// The largest maximum of this thread's column: those of every kColumns-th thread together are all. Among what parts have of several runs.
THINK_DEVICE float find_largest(const Decode &d, const Block &block, const Parts &parts) {
  const Visit visit = read_shared<Visit>(block.visit);
  float largest = kLowest;
  const int32_t column = late_thread() % kColumns;
#pragma unroll 1
  for (int32_t run = 0; run < d.geometry.runs; ++run) {
    const Parts own = parts_of_run(d, block, visit.cuts, run, parts);
    const Places places = places_of(d, visit.cuts, visit.unit.index, run, own);
#pragma unroll 1
    for (int32_t part = late_thread() / kColumns; part < own.count && column < visit.halves * 4; part += block_threads() / kColumns) {
      largest = fmaxf(largest, load_l2(places(part) + place_of_column(column, d.geometry.value_channels)));
    }
  }
  return largest;
}

// What every warp has of a column to where each thread finds all of it: combine(sum, next), in the order of the warps.
template <int32_t kWarps, class Combine>
THINK_DEVICE float across_warps(const Reduction &r, float x, const Combine &combine) {
#pragma unroll
  for (int32_t distance = kColumns; distance < 32; distance *= 2) x = combine(x, shuffle_xor(x, distance));
  if (lane_index() < kColumns) store_shared(r.of_warp + warp_index() * kColumns + lane_index(), x);
  sync_block();
  float of_warp[kWarps];
#pragma unroll
  for (int32_t warp = 0; warp < kWarps; ++warp) of_warp[warp] = load_shared(r.of_warp + warp * kColumns + late_thread() % kColumns);
#pragma unroll
  for (int32_t warp = 1; warp < kWarps; ++warp) of_warp[0] = combine(of_warp[0], of_warp[warp]);
  return of_warp[0];
}

// Maxima and masses of all parts.
THINK_DEVICE void fetch_maxima(const Reduction &r, const Places &places, int32_t count, int32_t halves, int32_t value_channels) {
#pragma unroll 1
  for (int32_t masses = 0; masses < 2; ++masses) {
#pragma unroll 1
    for (int32_t i = late_thread(); i < count * halves; i += block_threads()) {
      const int32_t part = i >> (halves - 1), half = i & (halves - 1);
      cp_async<16>((masses ? r.masses : r.weights) + part_place(part, half * 4), places(part) + half * half_floats(value_channels) + masses * 4);
    }
  }
}

// Among what fetch_maxima() has brought, of one run.
THINK_DEVICE float find_largest(const Reduction &r, int32_t count, int32_t halves) {
  float largest = kLowest;
  const int32_t column = late_thread() % kColumns;
#pragma unroll 1
  for (int32_t part = late_thread() / kColumns; part < count && column < halves * 4; part += block_threads() / kColumns) {
    largest = fmaxf(largest, load_shared(r.weights + part_place(part, column)));
  }
  return largest;
}

// What fetch_maxima() has brought becomes the weights of the parts. Returns this thread's share of the mass of its column.
THINK_DEVICE float weigh_parts(const Reduction &r, int32_t count, int32_t halves, float largest) {
  const int32_t column = late_thread() % kColumns;
  float mass = 0.0f;
#pragma unroll 1
  for (int32_t part = late_thread() / kColumns; part < count && column < halves * 4; part += block_threads() / kColumns) {
    const Shared<float> at = r.weights + part_place(part, column);
    const float weight = exp2_fast(load_shared(at) - largest);  // of one that saw nothing it does not matter: its mass and sums are 0
    store_shared(at, weight);
    mass = fmaf(weight, load_shared(r.masses + part_place(part, column)), mass);
  }
  return mass;
}

// Parts [first, first + count) of each channel, to the thread that sums it.
THINK_DEVICE void fetch_parts(Shared<Words4> to, const Places &places, int32_t first, int32_t count, int32_t kept, int32_t halves, int32_t value_channels) {
  const int32_t chunks = kept * halves;
#pragma unroll 1
  for (int32_t i = late_thread(); i < chunks; i += block_threads()) {
    const int32_t own = (i & (halves - 1)) * half_floats(value_channels) + (2 + (i >> (halves - 1))) * 4;
    Shared<Words4> at = to + i;
    cp_async<16>(at, places(first) + own);
    const float *from = places(first + 1) + own;
#pragma unroll 4
    for (int32_t part = 1; part < count; ++part, from += places.step) {
      at = at + chunks;
      cp_async<16>(at, from);
    }
  }
}

// Their sums to those of the parts in front.
THINK_DEVICE void sum_parts(const Reduction &r, Shared<Words4> from, int32_t first, int32_t count, int32_t kept, int32_t halves, int32_t value_channels) {
  const int32_t chunks = kept * halves;
#pragma unroll 1
  for (int32_t i = late_thread(); i < chunks; i += block_threads()) {
    const int32_t half = i & (halves - 1);
    const Shared<float> to = r.sums + half * half_floats(value_channels) + (1 + (i >> (halves - 1))) * 4;
    Float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
    if (first > 0) sum = load_shared(to.as<Float4>());
    Shared<Float4> weights = (r.weights + part_place(first, half * 4)).as<Float4>(), at = (from + i).as<Float4>();
#pragma unroll 4
    for (int32_t part = 0; part < count; ++part) {
      sum = multiply_add(load_shared(weights), load_shared(at), sum);
      weights = weights + 1, at = at + chunks;
    }
    store_shared(to.as<Float4>(), sum);
  }
}

THINK_DEVICE int32_t first_segment(const Decode &d, int32_t run) {
  int32_t segment = 0;
  while (d.segment[segment].value_run != run) ++segment;
  return segment;
}

// How the sums of a run become outputs: those of kept channels as they are, those of dropped ones from W and offset.
struct Expansion {
  const int32_t *index;  // NULL: every channel is kept, in order
  const char *weight;
  const float *offset;
  int32_t kept, dropped, chunks;  // dropped: channels that are predicted; chunks of a row of W
};

THINK_DEVICE Expansion expansion_of(const Decode &d, const Output &o, const Block &block, int32_t run, int32_t segment) {
  const Geometry &g = d.geometry;
  const device::Side &side = d.segment[segment].value;
  const device::View view = located(block, segment).value;
  const ValueBasis &basis = o.basis[run];
  Expansion e = {};
  e.kept = view.channels;
  if (!side.index) return e;
  const int64_t place = int64_t{view.slot} * g.kv_heads + read_shared<Visit>(block.visit).unit.head;
  e.index = side.index + place * g.value_channels;
  if (e.kept == g.value_channels) return e;
  const int64_t weight = load_constant(basis.weight_offset + place);
  if (weight < 0) return e;
  e.weight = static_cast<const char *>(basis.weight) + weight;
  e.offset = basis.offset + place * g.value_channels;
  e.dropped = g.value_channels - e.kept;
  e.chunks = divide_up(e.kept, 8);
  return e;
}

// Rows of W lie an odd number of chunks apart, so that those of neighbours are in different banks.
THINK_HOST_DEVICE int32_t weight_pitch(int32_t chunks) { return chunks | 1; }

// Asks for what expand() needs.
THINK_DEVICE void fetch_expansion(const Reduction &r, const Expansion &e, int32_t channels) {
  const int32_t threads = block_threads();
#pragma unroll 1
  for (int32_t i = late_thread(); i < channels; i += threads) {
    cp_async<4>(r.index + i, e.index + i);
    if (e.dropped && i >= e.kept) cp_async<4>(r.offsets + i, e.offset + i);
  }
  int32_t row = 0, chunk = late_thread();
#pragma unroll 1
  for (int32_t i = late_thread(); i < e.dropped * e.chunks; i += threads, chunk += threads) {
    while (chunk >= e.chunks) chunk -= e.chunks, ++row;
    cp_async<16>(r.weight + (row * weight_pitch(e.chunks) + chunk), e.weight + int64_t{i} * 16);
  }
}

// Adds the sums of a run to the outputs. Several threads share a dropped channel where there are enough.
THINK_DEVICE void expand(const Reduction &r, const Expansion &e, int32_t channels, int32_t halves) {
  const int32_t thread = late_thread(), threads = block_threads(), of_half = half_floats(channels);
  const auto add = [](Shared<float> to, const Float4 &x) {
    const Float4 old = load_shared(to.as<Float4>());
    store_shared(to.as<Float4>(), Float4{old.x + x.x, old.y + x.y, old.z + x.z, old.w + x.w});
  };
#pragma unroll 1
  for (int32_t i = thread; i < e.kept * halves; i += threads) {
    const int32_t channel = i >> (halves - 1), half = (i & (halves - 1)) * of_half;
    const int32_t to = e.index ? load_shared(r.index + channel) : channel;
    add(r.outputs + half + to * 4, load_shared((r.sums + half + (1 + channel) * 4).as<Float4>()));
  }
  if (!e.dropped) return;
  const int32_t items = e.dropped * halves, shares = items < threads ? divide(threads, items) : 1;
  int32_t first = thread, share = 0;
  while (first >= items && share < shares) first -= items, ++share;
#pragma unroll 1
  for (int32_t item = first; item < items && share < shares; item += threads) {
    const int32_t row = item >> (halves - 1), half = (item & (halves - 1)) * of_half;
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
    const Shared<float> to = r.outputs + ((item & (halves - 1)) * of_half + load_shared(r.index + e.kept + (item >> (halves - 1))) * 4);
#pragma unroll 1
    for (int32_t of = 0; of < shares - 1; ++of) add(to, load_shared(r.expanded + (of * items + item)));
  }
}

// Where the outputs of a unit begin: what holds for a whole column is found by one thread.
THINK_DEVICE void find_outputs(const Decode &d, const Output &o, const Unit &unit, const Reduction &r) {
  const Geometry &g = d.geometry;
  const RowRange rows = device::rows_of(o.tensor, o.batch, unit.sequence, g.most_queries);
  const int32_t column = late_thread();
  if (column >= columns_of(g, unit, rows.count)) return;
  const int32_t c = unit.column_group * kColumns + column, query = divide(c, g.group), head = unit.head * g.group + c - query * g.group;
  const int64_t token = rows.first + query;
  store_shared(r.rows + column, device::element(o.tensor, rows.row, head, token, bytes_of(o.tensor.dtype)) - static_cast<const char *>(o.tensor.data));
  store_shared(r.lses + column, (rows.row * o.tensor.extent[1] + head) * o.tensor.extent[2] + token);
  store_shared(r.sinks + column, o.sink_logit ? load_constant(o.sink_logit + head) * kLog2E : -INFINITY);
}

// The outputs of a unit, where find_outputs() has said. sums: of each channel.
THINK_DEVICE void write_outputs(const Decode &d, const Output &o, int32_t columns, const Reduction &r, Shared<float> sums) {
  const int32_t thread = late_thread(), channels = d.geometry.value_channels;
  if (thread < columns) {
    const float mass = load_shared(r.mass + thread), maximum = load_shared(r.largest + thread);
    const float whole = mass + exp2_fast(load_shared(r.sinks + thread) - maximum);
    store_shared(r.factors + thread, mass == 0.0f ? -1.0f : 1.0f / whole);  // below 0: saw nothing
    if (o.lse) store_global(o.lse + load_shared(r.lses + thread), mass == 0.0f ? -INFINITY : (maximum + log2_fast(mass)) * kLn2);
  }
  sync_block();
  // A thread has the same channels of all columns.
  char *outputs = static_cast<char *>(o.tensor.data);
#pragma unroll 1
  for (int32_t channel = thread; channel < channels; channel += block_threads()) {
#pragma unroll 1
    for (int32_t column = 0; column < columns; ++column) {
      const float factor = load_shared(r.factors + column);
      const float value = factor < 0.0f ? 0.0f : load_shared(sums + place_of_column(column, channels) + channel * 4) * factor;
      device::store_number(outputs + load_shared(r.rows + column), o.tensor.dtype, channel, value);
    }
  }
}

// Parts of a unit to its outputs; or, of a group, to one part in the place of the first.
template <int32_t kWarps>
THINK_DEVICE void reduce_parts(const Decode &d, const Output &o, const Block &block, const Parts &parts, bool whole) {
  const Geometry &g = d.geometry;
  const int32_t thread = late_thread(), channels = g.value_channels, halves = read_shared<Visit>(block.visit).halves;
  const Reduction r = reduction_of(d, block);
  // Of one run without a basis the sums are the outputs.
  const bool plain = !whole || (g.runs == 1 && !d.segment[0].value.index);
  sync_block();  // the ring is free
  if (!plain) {
#pragma unroll 1
    for (int32_t i = thread; i < partial_floats(channels); i += block_threads()) store_shared(r.outputs + i, 0.0f);
  }
  if (thread < kColumns) store_shared(r.mass + thread, 0.0f), store_shared(r.largest + thread, kLowest);
  float largest = 0.0f;
  bool begun = false;
#pragma unroll 1
  for (int32_t run = 0; run < g.runs; ++run) {
    const Visit visit = read_shared<Visit>(block.visit);
    const Parts own = parts_of_run(d, block, visit.cuts, run, parts);
    if (own.count == 0) continue;
    const int32_t segment = first_segment(d, run);
    Expansion expansion = {};
    expansion.kept = located(block, segment).value.channels;
    if (!plain) expansion = expansion_of(d, o, block, run, segment);
    const int32_t kept = expansion.kept, weight_words = expansion.dropped * weight_pitch(expansion.chunks);
    const Shared<Words4> staged = r.weight + weight_words;
    const Places places = places_of(d, visit.cuts, visit.unit.index, run, own);
    // As many parts at once as there is room for.
    const int32_t room = kept > 0 ? divide(r.room - weight_words, kept * halves) : own.count, most = room < own.count ? room : own.count;
    if (begun) sync_block();
    fetch_maxima(r, places, own.count, halves, channels);
    cp_async_commit();
    fetch_parts(staged, places, 0, most, kept, halves, channels);
    if (expansion.index) fetch_expansion(r, expansion, channels);
    cp_async_commit();
    if (whole && !begun) find_outputs(d, o, visit.unit, r);
    cp_async_wait<1>();
    sync_block();
    if (!begun) {
      begun = true;
      const float own_largest = g.runs > 1 ? find_largest(d, block, parts) : find_largest(r, own.count, halves);
      largest = across_warps<kWarps>(r, own_largest, [](float x, float y) { return fmaxf(x, y); });
      if (thread < kColumns) store_shared(r.largest + thread, largest);
    }
    const float of_thread = weigh_parts(r, own.count, halves, largest);
    cp_async_wait<0>();
    sync_block();
    const float mass = across_warps<kWarps>(r, of_thread, [](float x, float y) { return x + y; });
    if (thread < halves * 4) {
      store_shared(r.sums + place_of_column(thread, channels), mass);
      store_shared(r.mass + thread, load_shared(r.mass + thread) + mass);
    }
#pragma unroll 1
    for (int32_t first = 0; first < own.count; first += most) {
      const int32_t left = own.count - first, count = left < most ? left : most;
      if (first > 0) {  // a thread sums what it has fetched
        fetch_parts(staged, places, first, count, kept, halves, channels);
        cp_async_commit();
        cp_async_wait<0>();
      }
      sum_parts(r, staged, first, count, kept, halves, channels);
    }
    sync_block();
    if (whole) {
      if (!plain) expand(r, expansion, channels, halves);
      continue;
    }
    float *to = d.partial + (places(0) - d.partial);
#pragma unroll 1
    for (int32_t i = thread; i < (kept + 2) * halves; i += block_threads()) {
      const int32_t half = i & (halves - 1), at = i >> (halves - 1);
      const Shared<float> from = at == 0 ? r.largest + half * 4 : r.sums + half * half_floats(channels) + (at - 1) * 4;
      store_global(reinterpret_cast<Float4 *>(to + half * half_floats(channels)) + at, load_shared(from.as<Float4>()));
    }
  }
  if (!whole) return;
  const Visit visit = read_shared<Visit>(block.visit);
  if (!begun) find_outputs(d, o, visit.unit, r);
  sync_block();
  write_outputs(d, o, columns_of(g, visit.unit, visit.queries), r, plain ? r.sums + 4 : r.outputs);
}

// The tiles of a run that begin on the block's stretch.
THINK_DEVICE Range run_on_stretch(const Decode &d, const Block &block, int32_t run) {
  const Visit visit = read_shared<Visit>(block.visit);
  const Range tiles = run_range(d, block, run);
  return {tiles.first > visit.first ? tiles.first : visit.first, tiles.end < visit.end ? tiles.end : visit.end};
}

// Of that which begins with tile `at`: what is left of the run, whose part of the stretch ends with tile `last`, or of an item.
THINK_DEVICE int32_t end_of_piece(const Block &block, int32_t at, int32_t last) {
  const int32_t chunk = read_shared<Visit>(block.visit).cuts.chunk;
  if (!chunk) return last;
  const int32_t next = (divide(at, chunk) + 1) * chunk;
  return next < last ? next : last;
}

// A part that saw nothing of a run says so, where others have tiles of it.
THINK_DEVICE void leave_nothing(const Decode &d, const Block &block, int32_t run) {
  const Visit visit = read_shared<Visit>(block.visit);
  const Range tiles = run_range(d, block, run);
  if (tiles.first == tiles.end || visit.cuts.chunk) return;
  float *nothing = partial_at(d, visit.cuts, visit.unit.index, block_x(), run, visit.cuts.begins, visit.cuts.ends);
  const int32_t of_half = half_floats(d.geometry.value_channels);
#pragma unroll 1
  for (int32_t i = late_thread(); i < visit.halves * of_half; i += block_threads()) store_global(nothing + i, i % of_half < 4 ? kLowest : 0.0f);
}

// Every tile of a unit that begins on the block's stretch of the line, and the reduction where this block is the last. Returns the index, for which there is
// no register meanwhile.
template <class T, int32_t kSteps, bool kCodes>
THINK_DEVICE int32_t visit_unit(const Decode &d, const Output &o, const Block &block, int32_t index, int64_t start) {
  const Geometry &g = d.geometry;
  {
    Visit visit;
    visit.cuts = read_shared<Cuts>(block.visit);
    visit.unit = unit_at(g, o.batch, index);
    sync_block();  // the unit before has been read
    // The first warp finds where the rows are, a lane for each side of a segment, and the second how many: they wait for memory together.
    static_assert(THINK_MAX_SEGMENTS * 2 <= 32);
    if (late_thread() < g.segments * 2) {
      const int32_t values = late_thread() % 2, s = late_thread() / 2;
      const DecodeSegment &segment = d.segment[s];
      const device::View view = device::view_of(values ? segment.value : segment.key, segment.run, g.kv_heads, visit.unit.sequence, visit.unit.head);
      put(block.segments + (s * kLocatedWords + values * kViewWords), view);
    } else if (const int32_t s = late_thread() - 32; s >= 0 && s < g.segments) {
      const DecodeSegment &segment = d.segment[s];
      const SegmentTiles tiles = tiles_of_segment(g, weighed(segment), visit.unit);
      const Rows rows = {device::first_of(segment.run, visit.unit.sequence, visit.unit.head),
                         device::length_of(segment.run, visit.unit.sequence, visit.unit.head), tiles.count, tiles.weight};
      put(block.segments + (s * kLocatedWords + 2 * kViewWords), rows);
    }
    visit.queries = static_cast<int32_t>(device::rows_of(o.tensor, o.batch, visit.unit.sequence, g.most_queries).count);
    visit.halves = halves_of(g, visit.unit, visit.queries);
    sync_block();
    Cuts &cuts = visit.cuts;
    cuts.start = start;
    cuts.tiles = 0, cuts.weight = 0, cuts.chunk = 0;
#pragma unroll 1
    for (int32_t s = 0; s < g.segments; ++s) {
      const Rows rows = located(block, s).rows;
      cuts.tiles += rows.tiles;
      cuts.weight += int64_t{rows.weight} * rows.tiles;
    }
    if (cuts.weight == 0) cuts.weight = 1;
    if (start + cuts.weight <= cuts.from) return index;
    cuts.begins = start >= cuts.from, cuts.ends = start + cuts.weight <= cuts.to;
    if (g.invariant) {
      cuts.chunk = divide_up(cuts.tiles, kMaxItems);
      if (cuts.chunk < kLeastItem) cuts.chunk = kLeastItem;
    }
    visit.first = cuts.begins ? 0 : first_tile(g, block, cuts, cuts.from), visit.end = cuts.ends ? cuts.tiles : first_tile(g, block, cuts, cuts.to);
    if (late_thread() == 0) put(block.visit, visit);
    sync_block();
  }
#pragma unroll 1
  for (int32_t run = 0; run < g.runs; ++run) {
    Range own = run_on_stretch(d, block, run);
    if (own.first >= own.end) leave_nothing(d, block, run);
    // What a piece begins with is looked up for each, as registers are for its sums.
    int32_t at = own.first;
#pragma unroll 1
    while (at < own.end) {
      const int32_t begin = at, end = end_of_piece(block, at, own.end);
      const auto place = [&] {
        const Visit now = read_shared<Visit>(block.visit);
        const int32_t part = now.cuts.chunk ? divide(begin, now.cuts.chunk) : block_x();
        return partial_at(d, now.cuts, now.unit.index, part, run, now.cuts.begins, now.cuts.ends);
      };
      const Cursor cursor = {first_segment(d, run), run_range(d, block, run).first};
      if (kCodes && has_codes(d.segment[cursor.segment])) {
        if constexpr (kCodes) sum_code_piece<T, kSteps>(d, o.scale, o.softcap, block, cursor, begin, end, place);
      } else {
        sum_piece<T, stage_rows(kSteps * kStep), kSteps, kSteps>(d, o.scale, o.softcap, block, cursor, begin, end, place);
      }
      if (!read_shared<Visit>(block.visit).cuts.chunk) break;  // without items a run is one piece
      own = run_on_stretch(d, block, run);
      at = end_of_piece(block, begin, own.end);
    }
  }
  wait_for_previous_launch();  // which cleared the counters
  int32_t first_block, last;  // that have something of the unit
  {
    const Cuts cuts = read_shared<Cuts>(block.visit);
    first_block = cuts.begins ? block_x() : block_at(cuts, cuts.start);
    last = cuts.ends ? block_x() : block_at(cuts, cuts.start + cuts.weight - 1);
  }
  const auto own_index = [&] { return read_shared<Visit>(block.visit).unit.index; };
  const int32_t arrivals = last - first_block + 1;
  // The block that is last in its group reduces the group, the one whose group is last the unit.
#pragma unroll 1
  for (bool whole = g.invariant || arrivals <= kWholeParts;; whole = true) {
    Parts parts = {first_block, arrivals, 1, true, arrivals == 1};
    uint32_t *counter = d.counters + first_block;
    int32_t awaited = arrivals;
    if (g.invariant) {
      const Cuts cuts = read_shared<Cuts>(block.visit);
      parts = {0, divide_up(cuts.tiles, cuts.chunk), 1, false, false};
      counter = d.counters + own_index();
    } else if (!whole) {
      const int32_t leader = first_block + divide(block_x() - first_block, kGroupParts) * kGroupParts, left = last + 1 - leader;
      awaited = left < kGroupParts ? left : kGroupParts;
      parts = {leader, awaited, 1, leader == first_block, false};
      // A block leads two groups at most: of the unit that begins in it, and of one that began before.
      counter = d.counters + grid_x() + leader * 2 + (leader > first_block);
    } else if (arrivals > kWholeParts) {
      awaited = divide_up(arrivals, kGroupParts);
      parts = {first_block, awaited, kGroupParts, true, false};
    }
    if (awaited > 1 && !last_block(counter, static_cast<uint32_t>(awaited))) return own_index();
    if (whole || awaited > 1) reduce_parts<warps_of(kSteps * kStep)>(d, o, block, parts, whole);
    if (whole) return own_index();
  }
}

// kCodes: segments may be tiles of codes.
template <class T, int32_t kChannels, bool kCodes>
__global__ void __launch_bounds__(warps_of(kChannels) * 32, kResidentBlocks) attend_decode(const __grid_constant__ Decode d, const __grid_constant__ Output o) {
  constexpr int32_t kSteps = kChannels / kStep;
  const Geometry &g = d.geometry;
  SharedCarver carver = shared_memory();
  const Block block = take_block(carver, g.key_channels, g.value_channels, kCodes ? code_ring(d) : 0);
  // A plan of its own, and the rows that it fetches first, need nothing of the launch before: that starts when everything in front of the call has ended.
  if (g.own_plan) {
    place_units<warps_of(kChannels) * 32>(
        g, o.batch, o.tensor, block.ring.as<int64_t>(),
        [&](int32_t s) { return weighed(d.segment[s]); },
        [&](int32_t index, int64_t place) { store_shared(block.start + index, static_cast<int32_t>(place)); });
    sync_block();
  } else {
    wait_for_previous_launch();
  }
  const auto start_of = [&](int32_t unit) { return g.own_plan ? int64_t{load_shared(block.start + unit)} : load_global(d.start + unit); };
  Cuts cuts = {};
  cuts.total = start_of(g.units);
  if (cuts.total == 0) return wait_for_previous_launch();  // else some block does: one has to, or what comes behind this launch would overtake prepare
  const int32_t wanted = divide(static_cast<int32_t>(start_of(g.units + 1)), d.least);
  cuts.blocks = wanted < 1 ? 1 : wanted < grid_x() ? wanted : grid_x();
  // A block that has something of two units takes twice what a piece costs besides its tiles. Units of one weight have blocks of their own.
  if (const int32_t shared = cuts.blocks - divide(cuts.blocks, g.units) * g.units; shared * 16 <= cuts.blocks) cuts.blocks -= shared;
  if (block_x() >= cuts.blocks) return;
  cuts.each = quotient(cuts.total, cuts.blocks);
  cuts.rest = divide(static_cast<int32_t>(cuts.total - cuts.each * cuts.blocks) << kRestBits, cuts.blocks) + 1;
  cuts.from = stretch_of(cuts, block_x()), cuts.to = stretch_of(cuts, block_x() + 1);
  if (thread_index() == 0) put(block.visit, cuts);
  // The last unit that begins at `from` or in front of it; a lane for each of 32 candidates.
  int32_t low = 0, high = g.units;
#pragma unroll 1
  while (high - low > 1) {
    const int32_t apart = divide_up(high - low, 32), candidate = low + lane_index() * apart;
    const int64_t start = start_of(candidate < high ? candidate : low);
    const int32_t reached = count_bits(ballot(candidate < high && start <= cuts.from));
    low += (reached - 1) * apart;
    if (low + apart < high) high = low + apart;
  }
  sync_block();
  // Little is kept while a unit is summed, which needs the registers.
#pragma unroll 1
  for (int32_t index = low; index < g.units; ++index) {
    const int64_t start = start_of(index);
    if (start >= read_shared<Cuts>(block.visit).to) return;
    if (start_of(index + 1) > start) index = visit_unit<T, kSteps, kCodes>(d, o, block, index, start);
  }
}

// The kernels for calls with tiles of codes, in a unit of their own.
using DecodeKernel = void (*)(Decode, Output);
DecodeKernel codes_kernel(think_dtype dtype, int32_t channels);

}  // namespace think::attend::cuda
