// What the two kernels of attend share: how work is numbered, weighed and cut. And the first kernel: it folds the queries and, of calls with many
// units, writes the plan.
//
// A unit is a sequence, a KV head and a group of 8 columns; column c is query c / group of query head c % group. A unit's tokens are tiles of 32 rows,
// segment after segment, segments of one value basis (a run) next to each other. Units lie one behind the other on a line whose measure is bytes; each
// block of the decode kernel has an equal stretch of it, and the tiles that begin there.
//
// Units are numbered by KV head, then by place. Places are column groups of sequence after sequence: as many for each as the longest can have, or, where
// packed rows make that fewer, from row_start[b] * group / 8 + b on. Those never overlap, as rounding up loses less than the + 1 gives; some stay empty.
#pragma once

#include "../common/device.cuh"
#include "../common/workspace.h"
#include "think/attend.h"

namespace think::attend::cuda {

using namespace ptx;

constexpr int32_t kColumns = 8;          // N of the MMA
constexpr int32_t kStep = 16;            // K of the MMA: channels, and rows of a matrix of value channels
constexpr int32_t kPrepareThreads = kColumns * 32;
constexpr int32_t kPrepareBlocks = 2;    // of a multiprocessor, at least: as many registers as that allows, or ptxas spills for the sake of more
constexpr int32_t kWeightRows = 8;       // of W that a thread asks for at once
constexpr int32_t kUnitWeight = 64;      // what a unit costs besides its tiles, in rows of a tile (64 bytes)
constexpr int32_t kLeastTiles = 8;       // that a block should have on average before there are more, as more partial results take longer than tiles do
constexpr int32_t kLeastSparse = 6;      // the same of four columns or fewer, whose partial results are half as large
constexpr int32_t kLeastItem = 8;        // tiles of an item of an invariant unit
constexpr int32_t kCountedTiles = 1 << 20;  // of a thread, beyond which it counts no further: all threads' fit in 32 bits, and are enough for any grid
constexpr int32_t kMaxItems = 32;        // of a unit, when cuts may depend on nothing but the unit
constexpr int32_t kOwnPlanUnits = 256;   // up to which each block of the decode kernel weighs all units, which takes less time than to wait for a plan,
constexpr int32_t kOwnPlanLookups = 8;   // as long as no thread has to look at more segments of units
constexpr float kLowest = -1e30f;        // a maximum before anything was seen: finite, so that differences are no NaN
constexpr float kLog2E = 1.44269504088896340736f, kLn2 = 0.69314718055994530942f;

using device::divide, device::divide_up;
THINK_HOST_DEVICE int32_t steps_of(int32_t channels) { return divide_up(channels, kStep); }
THINK_HOST_DEVICE int32_t tiles_of(int32_t tokens) { return divide_up(tokens, kTileTokens); }
// Of a tile: its bytes by 64, keys and values. bits: of a code, 16 of numbers; scales and zeros take as much as one bit more.
THINK_HOST_DEVICE int32_t channel_weight(int32_t bits) { return bits < 16 ? bits + 1 : 16; }
THINK_HOST_DEVICE int32_t tile_weight(int32_t key_kept, int32_t key_bits, int32_t value_kept, int32_t value_bits) {
  return steps_of(key_kept) * channel_weight(key_bits) + steps_of(value_kept) * channel_weight(value_bits);
}

// Numbers of a call that both kernels need.
struct Geometry {
  int32_t kv_heads, group, key_channels, value_channels;
  int32_t column_groups, segments, runs, bases;  // column_groups: of the longest sequence; bases: different key bases, "none" among them
  int32_t units, places, most_queries;
  int32_t packed_rows;  // where row_start says which places a sequence has: rows of the tensors; else 0
  bool sparse;          // of four columns at most: column c is column 2c of the MMA, so a lane has one logit of a token instead of two
  bool residue;         // where they are sparse: column 2c + 1 holds what rounding took from it
  bool invariant;       // a unit is cut in the same way whatever else is in the call
  bool own_plan;        // the blocks of the decode kernel weigh the units, each for itself
};

struct Unit {
  int32_t index, sequence, head, column_group;
};

THINK_DEVICE int32_t first_place(const Geometry &g, const Batch &batch, int32_t sequence) {
  return static_cast<int32_t>(int64_t{device::clamp(load_constant(batch.row_start + sequence), g.packed_rows)} * g.group / kColumns) + sequence;
}

THINK_DEVICE Unit unit_at(const Geometry &g, const Batch &batch, int32_t index) {
  // Opaque, or what divides by them would be computed in front of all units, and kept.
  const int32_t places = opaque(g.places), head = divide(index, places), place = index - head * places;
  if (!g.packed_rows) {
    const int32_t column_groups = opaque(g.column_groups), sequence = divide(place, column_groups);
    return {index, sequence, head, place - sequence * column_groups};
  }
  int32_t low = 0, high = batch.count;
#pragma unroll 1
  while (high - low > 1) {
    const int32_t middle = (low + high) / 2;
    if (first_place(g, batch, middle) <= place) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return {index, low, head, place - first_place(g, batch, low)};
}

THINK_DEVICE Unit next_unit(const Geometry &g, const Batch &batch, const Unit &unit) {
  Unit next = {unit.index + 1, unit.sequence, unit.head, unit.column_group + 1};
  if (next.index - unit.head * g.places == g.places) return {next.index, 0, unit.head + 1, 0};
  if (!g.packed_rows) {
    if (next.column_group == g.column_groups) ++next.sequence, next.column_group = 0;
    return next;
  }
  if (unit.sequence + 1 < batch.count && first_place(g, batch, unit.sequence + 1) <= next.index - unit.head * g.places) ++next.sequence, next.column_group = 0;
  return next;
}

// Columns of a unit that stand for a query, 8 at most; 0 = the unit is empty.
THINK_DEVICE int32_t columns_of(const Geometry &g, const Unit &unit, int64_t queries) {
  const int64_t left = queries * g.group - int64_t{unit.column_group} * kColumns;
  return left < 0 || unit.column_group < 0 ? 0 : left < kColumns ? static_cast<int32_t>(left) : kColumns;  // < 0: row_start does not begin with 0
}

struct KeyBasis {
  const int32_t *kept, *index, *slot;
  const void *weight;
  const int64_t *weight_offset;
  const float *offset;
  int64_t codes;  // of keys that are codes: queries become f16, whatever the other keys are
};

// What the weight of a unit depends on.
struct WeighedSegment {
  device::Run run;
  const int32_t *key_kept, *value_kept;
  int32_t key_bits, value_bits;
};

struct Prepare {
  Geometry geometry;
  think_tensor query;
  const int32_t *query_slot;  // NULL = a sequence's own row
  Batch batch;
  WeighedSegment segment[THINK_MAX_SEGMENTS];
  KeyBasis basis[THINK_MAX_SEGMENTS];
  uint32_t *folded;   // [unit][basis][step][lane][2]: queries as B fragments
  float *constant;    // [unit][basis][column]: where the sum of a logit begins
  int64_t *start;     // [units + 2]: places on the line, and how many tiles there are
  uint32_t *counters;
  int32_t counter_count;
};

// Where the unit's head is in what there is for each slot and head.
THINK_DEVICE int64_t head_of_slot(const Geometry &g, const int32_t *slots, const Unit &unit) {
  return int64_t{device::slot_of(slots, unit.sequence)} * g.kv_heads + unit.head;
}

THINK_DEVICE int32_t kept_of(const int32_t *kept, int32_t channels, int64_t place) {
  return kept ? device::clamp(load_constant(kept + place), channels) : channels;
}

THINK_DEVICE int32_t bytes_of(think_dtype dtype) { return dtype == THINK_F32 ? 4 : 2; }

// What a unit has of a segment: tiles, and the weight of each.
struct SegmentTiles {
  int32_t count, weight;
};

THINK_DEVICE SegmentTiles tiles_of_segment(const Geometry &g, const WeighedSegment &segment, const Unit &unit) {
  const int64_t place = head_of_slot(g, segment.run.slot, unit);
  return {tiles_of(device::length_of(segment.run, unit.sequence, unit.head)),
          tile_weight(kept_of(segment.key_kept, g.key_channels, place), segment.key_bits, kept_of(segment.value_kept, g.value_channels, place),
                      segment.value_bits)};
}

// The place of every unit on the line, a stretch of units for each of kThreads threads. segment(s): a WeighedSegment. tensor: of queries or outputs.
// store(index, place), that of the end as index g.units, and how many tiles there are (see kCountedTiles) as the next.
template <int32_t kThreads, class Segment, class Store>
THINK_DEVICE void place_units(const Geometry &g, const Batch &batch, const think_tensor &tensor, Shared<int64_t> sums, const Segment &segment,
                              const Store &store) {
  const int32_t each = divide_up(g.units, kThreads), first = thread_index() * each, end = first + each < g.units ? first + each : g.units;
  struct Weight {
    int64_t line;
    int32_t tiles;
  };
  const auto weight_of = [&](const Unit &unit) {
    Weight weight = {kUnitWeight, 1};  // one without tiles takes its time too
#pragma unroll 1
    for (int32_t s = 0; s < g.segments; ++s) {
      const SegmentTiles tiles = tiles_of_segment(g, segment(s), unit);
      weight.line += static_cast<int64_t>(tiles.count) * tiles.weight;
      weight.tiles = device::clamp(weight.tiles + tiles.count, kCountedTiles);
    }
    return weight;
  };
  // body(index, weight). A sequence's units of one KV head weigh the same, which is looked up once.
  const auto for_each_unit = [&](const auto &body) {
    if (first >= end) return;
    Unit unit = unit_at(g, batch, first);
    int32_t queries = -1;
    Weight weight = {0, 0};
#pragma unroll 1
    for (;;) {
      if (queries < 0) {
        queries = static_cast<int32_t>(device::rows_of(tensor, batch, unit.sequence, g.most_queries).count);
        weight = queries > 0 ? weight_of(unit) : Weight{0, 0};
      }
      body(unit.index, columns_of(g, unit, queries) > 0 ? weight : Weight{0, 0});
      if (unit.index + 1 == end) return;
      const Unit next = next_unit(g, batch, unit);
      if (next.sequence != unit.sequence || next.head != unit.head) queries = -1;
      unit = next;
    }
  };
  // Twice: the sum of what is in front of a unit is known only when all are weighed.
  constexpr int32_t kWarps = kThreads / 32;
  int64_t before = 0;
  int32_t tiles = 0;
#pragma unroll 1
  for (int32_t pass = 0; pass < 2; ++pass) {
    int64_t sum = 0;
    if (pass == 0 || each > 1) {
      for_each_unit([&](int32_t index, const Weight &weight) {
        if (pass == 1) store(index, before + sum);
        sum += weight.line;
        if (pass == 0) tiles = device::clamp(tiles + weight.tiles, kCountedTiles);
      });
    } else if (first < end) {
      store(first, before);
    }
    if (pass == 1) break;
    // Sums of the warp up to each lane, then those of the warps in front.
    before = sum;
#pragma unroll
    for (int32_t distance = 1; distance < 32; distance *= 2) {
      const int64_t other = device::shuffle_wide(before, [&](uint32_t half) { return shuffle_up(half, distance); });
      if (lane_index() >= distance) before += other;
    }
    tiles = warp_sum(tiles);
    if (lane_index() == 31) store_shared(sums + warp_index(), before), store_shared(sums + kWarps + warp_index(), tiles);
    sync_block();
    before -= sum;
#pragma unroll 1
    for (int32_t i = 0; i < warp_index(); ++i) before += load_shared(sums + i), tiles += static_cast<int32_t>(load_shared(sums + kWarps + i));
    if (thread_index() == kThreads - 1) store(g.units, before + sum), store(g.units + 1, tiles);
  }
}

// One block: the plan, where the blocks of the decode kernel do not make it, and counters that are zero.
THINK_DEVICE void write_plan(const Prepare &p, SharedCarver carver) {
  const Geometry &g = p.geometry;
  for (int32_t i = thread_index(); i < p.counter_count; i += kPrepareThreads) store_global(p.counters + i, 0);
  if (g.own_plan) return;
  place_units<kPrepareThreads>(
      g, p.batch, p.query, carver.take<int64_t>(2 * kPrepareThreads / 32), [&](int32_t s) { return p.segment[s]; },
      [&](int32_t index, int64_t place) { store_global(p.start + index, place); });
}

struct Folding {
  Shared<Float4> queries;  // [channel in the order of the basis][column]
  Shared<Float4> parts;    // sums of each thread
  Shared<float> offsets;   // [channel], behind those that are kept
};

THINK_HOST_DEVICE Folding take_folding(SharedCarver &carver, int32_t key_channels) {
  Folding folding;
  folding.queries = carver.take<Float4>(static_cast<uint32_t>(steps_of(key_channels) * kStep * 2));
  folding.parts = carver.take<Float4>(kPrepareThreads * 4);
  folding.offsets = carver.take<float>(static_cast<uint32_t>(key_channels));
  return folding;
}

inline uint32_t prepare_shared_bytes(int32_t key_channels) {
  SharedCarver plan, folding;
  plan.take<int64_t>(2 * kPrepareThreads / 32);
  take_folding(folding, key_channels);
  return plan.bytes() > folding.bytes() ? plan.bytes() : folding.bytes();
}

// f16 ends at 65504: beyond it a folded query would be infinite, and its product with a zero NaN. A NaN stays.
template <class T>
THINK_DEVICE float representable(float x) {
  if constexpr (IsF16<T>::value) return x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x;
  return x;
}

// Two channels of a query as operands; or what rounding takes from them.
template <class T>
THINK_DEVICE uint32_t narrow(const float (&x)[2], bool residue) {
  float y[2];
#pragma unroll
  for (int32_t i = 0; i < 2; ++i) y[i] = representable<T>(residue ? x[i] - to_float(from_float<T>(representable<T>(x[i]))) : x[i]);
  return pack<T>(y[0], y[1]);
}

// q_eff = q_I + W^T q_P of 8 columns in f32, rounded once. Grid: (key bases x places + 1 for the plan, KV heads).
template <class T>
__global__ void __launch_bounds__(kPrepareThreads, kPrepareBlocks) attend_prepare(const __grid_constant__ Prepare p) {
  allow_next_launch();
  const Geometry &g = p.geometry;
  if (block_x() == g.bases * g.places) {
    if (block_y() == 0) write_plan(p, shared_memory());
    return;
  }
  const int32_t which = block_x() % g.bases;
  const Unit unit = unit_at(g, p.batch, block_y() * g.places + block_x() / g.bases);
  const RowRange rows = device::rows_of(p.query, p.batch, unit.sequence, g.most_queries);
  const int32_t columns = columns_of(g, unit, rows.count);
  if (columns <= 0) return;
  const KeyBasis &basis = p.basis[which];
  const int64_t of_head = head_of_slot(g, basis.slot, unit);
  const int32_t channels = g.key_channels, kept = kept_of(basis.kept, channels, of_head), steps = steps_of(kept), width = (kept + 7) / 8 * 8;
  const int32_t *index = basis.index ? basis.index + of_head * channels : nullptr;
  const int64_t block = basis.index && kept < channels ? load_constant(basis.weight_offset + of_head) : -1;

  // Pairs of channels; the threads of a pair share its rows of W. Rows are under way before the first is needed, and in front of all that is waited for.
  const int32_t pairs = (steps > 0 ? steps : 1) * kStep / 2, shares = kPrepareThreads / pairs;
  const int32_t share = thread_index() / pairs, own = thread_index() - share * pairs;
  const int32_t dropped = block >= 0 && share < shares && own * 2 < width ? channels - kept : 0;  // rows of W that this thread has something of
  const uint32_t *column_of_weight = dropped ? reinterpret_cast<const uint32_t *>(static_cast<const char *>(basis.weight) + block) + own : nullptr;
  uint32_t w[kWeightRows];
  const auto load_weights = [&](int32_t begin) {
#pragma unroll
    for (int32_t i = 0; i < kWeightRows; ++i) {
      const int32_t row = begin + i * shares;
      w[i] = row < dropped ? load_constant(column_of_weight + row * (width / 2)) : 0;
    }
  };
  load_weights(share);

  // Queries in the order of the basis, and the offsets of what is dropped.
  SharedCarver carver = shared_memory();
  const Folding folding = take_folding(carver, channels);
  const Shared<float> numbers = folding.queries.as<float>();
  const int32_t wanted = block < 0 ? kept : channels;
  const int64_t query_row = p.query_slot ? load_constant(p.query_slot + unit.sequence) : rows.row;
  const auto gather = [&](auto type) {
    using Q = decltype(type);
    const Q *query = static_cast<const Q *>(p.query.data);
    int64_t place[kColumns];
    int32_t token = unit.column_group * kColumns / g.group, head = unit.column_group * kColumns - token * g.group;
#pragma unroll
    for (int32_t column = 0; column < kColumns; ++column) {
      place[column] = query_row * p.query.stride[0] + (unit.head * g.group + head) * p.query.stride[1] + (rows.first + token) * p.query.stride[2];
      if (++head == g.group) head = 0, ++token;
    }
#pragma unroll 1
    for (int32_t position = thread_index(); position < wanted; position += kPrepareThreads) {
      const int32_t channel = index ? load_constant(index + position) : position;
      if (position >= kept) store_shared(folding.offsets + position, load_constant(basis.offset + of_head * channels + position));
      Q q[kColumns] = {};  // all of them under way before the first is needed
#pragma unroll
      for (int32_t column = 0; column < kColumns; ++column) {
        if (column < columns) q[column] = load_constant(query + place[column] + channel);
      }
      float x[kColumns];
#pragma unroll
      for (int32_t column = 0; column < kColumns; ++column) x[column] = to_float(q[column]);
      store_shared(folding.queries + position * 2, Float4{x[0], x[1], x[2], x[3]});
      store_shared(folding.queries + position * 2 + 1, Float4{x[4], x[5], x[6], x[7]});
    }
  };
  if (p.query.dtype == THINK_F32) {
    gather(float{});
  } else if (p.query.dtype == THINK_F16) {
    gather(F16{});
  } else {
    gather(BF16{});
  }
  sync_block();

  const int64_t place = int64_t{unit.index} * g.bases + which;
  if (share < shares) {
    float sum[2][kColumns] = {};
#pragma unroll
    for (int32_t x = 0; x < 2; ++x) {
      if (share == 0 && own * 2 + x < kept) {
        const Float4 low = load_shared(folding.queries + (own * 2 + x) * 2), high = load_shared(folding.queries + (own * 2 + x) * 2 + 1);
        sum[x][0] = low.x, sum[x][1] = low.y, sum[x][2] = low.z, sum[x][3] = low.w;
        sum[x][4] = high.x, sum[x][5] = high.y, sum[x][6] = high.z, sum[x][7] = high.w;
      }
    }
#pragma unroll 1
    for (int32_t begin = share; begin < dropped; begin += shares * kWeightRows) {
      if (begin > share) load_weights(begin);
#pragma unroll
      for (int32_t i = 0; i < kWeightRows; ++i) {
        const int32_t row = begin + i * shares;
        if (row < dropped) {
          const Float2 two = unpack<F16>(w[i]);
#pragma unroll
          for (int32_t half = 0; half < 2; ++half) {
            if (half == 1 && g.sparse) break;
            const Float4 four = load_shared(folding.queries + (kept + row) * 2 + half);
            const float q[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int32_t c = 0; c < 4; ++c) {
              sum[0][half * 4 + c] = fmaf(two.x, q[c], sum[0][half * 4 + c]);
              sum[1][half * 4 + c] = fmaf(two.y, q[c], sum[1][half * 4 + c]);
            }
          }
        }
      }
    }
#pragma unroll
    for (int32_t i = 0; i < 4; ++i) {
      const float(&four)[kColumns] = sum[i / 2];
      const int32_t c = i % 2 * 4;
      store_shared(folding.parts + i * kPrepareThreads + thread_index(), Float4{four[c], four[c + 1], four[c + 2], four[c + 3]});
    }
  }
  sync_block();
  uint32_t *folded = p.folded + place * steps_of(channels) * 64;
#pragma unroll 1
  for (int32_t i = thread_index(); i < steps * kStep / 2 * kColumns; i += kPrepareThreads) {
    const int32_t pair = i / kColumns, column = i % kColumns, from = g.sparse ? column / 2 : column;
    const bool second = g.sparse && column % 2;
    float sum[2] = {};
#pragma unroll 1
    for (int32_t of = 0; of < shares; ++of) {
#pragma unroll
      for (int32_t x = 0; x < 2; ++x) {
        sum[x] += load_shared((folding.parts + (x * 2 + from / 4) * kPrepareThreads + of * pairs + pair).as<float>() + from % 4);
      }
    }
    // b[half] of lane 4 c + t: rows 2t, 2t + 1 (+ 8) of the step, column c.
    const int32_t in_step = pair % 8;
    if (second && !g.residue) continue;
    const uint32_t two = basis.codes ? narrow<F16>(sum, second) : narrow<T>(sum, second);
    store_global(folded + pair / 8 * 64 + column * 8 + in_step % 4 * 2 + in_step / 4, two);
  }

  const int32_t column = warp_index();  // one for each warp
  float sum = 0.0f;
#pragma unroll 1
  for (int32_t i = kept + lane_index(); i < wanted; i += 32) sum = fmaf(load_shared(numbers + i * kColumns + column), load_shared(folding.offsets + i), sum);
  sum = warp_sum(sum);
  if (lane_index() == 0) store_global(p.constant + place * kColumns + column, sum);
}

}  // namespace think::attend::cuda
