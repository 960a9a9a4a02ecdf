// The second kernel of attend: a fixed grid whose blocks walk along their stretch of the line. Inside of a piece (tiles of one unit and run) each warp has
// its own tiles, ring and softmax; at the end of a piece the warps of the block merge, and the last block of a unit reduces it (cuda_reduce.cuh).
#pragma once

#include "cuda_codes.cuh"

namespace think::attend::cuda {

constexpr int32_t kStages = 2;  // of a warp's ring
constexpr int32_t kBatchParts = 128;  // parts that the reduction looks at together

struct DecodeSegment {
  device::Side key, value;
  device::Run run;
  int8_t value_run, basis, causal, unused;
};

struct ValueBasis {
  const void *weight;
  const int64_t *weight_offset;
  const float *offset;
};

struct Decode {
  Geometry geometry;
  DecodeSegment segment[THINK_MAX_SEGMENTS];
  const uint32_t *folded;
  const float *constant;
  const int64_t *start;
  float *partial;
  uint32_t *counters;
  int32_t least;  // weight that a block has at least, while there are fewer blocks than in the grid
  int32_t warps;
};

struct Output {
  think_tensor tensor;
  Batch batch;
  const float *sink_logit;
  float *lse;
  ValueBasis basis[THINK_MAX_SEGMENTS];  // of each run
  float scale, softcap;
};

// How the unit is cut: parts [i * chunk ...) when it is invariant, else what the blocks first .. last have of it.
struct Cuts {
  int64_t start, total;  // of the unit, and of the line
  int32_t blocks;        // that share the line
  int32_t tiles, chunk;  // of the unit; chunk: 0 = not invariant
  int32_t first_block, last_block;
};

// What a block knows of the unit that it visits.
struct Visit {
  Cuts cuts;
  Unit unit;
  int32_t queries, end;  // end: of the tiles that are the block's
};

constexpr int32_t kViewWords = static_cast<int32_t>(sizeof(device::View) / sizeof(Words2)), kVisitWords = static_cast<int32_t>(sizeof(Visit) / sizeof(Words2));

// Shared memory of a block.
struct Block {
  Shared<uint32_t> tiles, weight;  // [segment] of the current unit: tiles, and weight of a tile
  Shared<Words4> ring;             // of all warps; between pieces the place where they merge
  Shared<Words2> folded;           // queries of each warp, where they have no place in registers
  Shared<Words2> views;            // of each warp: keys and values of the segment that it fetches
  Shared<Words2> visit;            // of each warp, where codes are summed
  SharedCarver behind;             // what begins where the ring begins: for the reduction
};

THINK_HOST_DEVICE int32_t key_words(int32_t channels) { return steps_of(channels) * 2 * kTileTokens; }  // of 16 bytes, tiles and rows alike
// Of 16 channels or less that are codes, a whole block with scales and zeros is more than the numbers are.
THINK_HOST_DEVICE int32_t value_words(int32_t channels) { return key_words(channels) + (channels <= kStep ? 8 : 0); }
THINK_HOST_DEVICE int32_t stage_words(int32_t key_channels, int32_t value_channels) { return key_words(key_channels) + value_words(value_channels); }
// Maxima and masses of 8 columns, then the sums of each value channel: floats of a partial result.
THINK_HOST_DEVICE int32_t partial_floats(int32_t value_channels) { return (2 + value_channels) * kColumns; }
// The reduction: sums and outputs of all channels, weights and places of a batch of parts, maxima.
THINK_HOST_DEVICE int32_t reduce_floats(int32_t value_channels, int32_t threads) {
  return (1 + 2 * value_channels) * kColumns + kBatchParts * (kColumns + 2) + (threads / kColumns + 2) * kColumns + 32;
}

THINK_HOST_DEVICE Block take_block(SharedCarver &carver, int32_t key_channels, int32_t value_channels, int32_t warps) {
  Block block;
  block.tiles = carver.take<uint32_t>(THINK_MAX_SEGMENTS);
  block.weight = carver.take<uint32_t>(THINK_MAX_SEGMENTS);
  block.folded = carver.take<Words2>(warps == 1 ? static_cast<uint32_t>(steps_of(key_channels) * 32) : 0);
  block.views = carver.take<Words2>(static_cast<uint32_t>(warps * 2 * kViewWords));
  block.visit = carver.take<Words2>(static_cast<uint32_t>(warps * kVisitWords));
  int32_t words = warps * kStages * stage_words(key_channels, value_channels);
  const int32_t merge = warps * partial_floats(steps_of(value_channels) * kStep) / 4, reduce = (reduce_floats(value_channels, warps * 32) + 3) / 4;
  if (words < merge) words = merge;
  if (words < reduce) words = reduce;
  carver.next = (carver.next + 127) / 128 * 128;
  block.behind = carver;
  block.ring = carver.take<Words4>(static_cast<uint32_t>(words), 128);
  return block;
}

// What is needed now and then: in shared memory it holds no registers while a tile is summed.
template <class What>
struct AsWords {
  Words2 words[sizeof(What) / sizeof(Words2)];
};

template <class What>
THINK_DEVICE void put(Shared<Words2> to, const What &what) {
  const auto copy = bit_copy<AsWords<What>>(what);
  if (lane_index() == 0) {
#pragma unroll
    for (int32_t i = 0; i < static_cast<int32_t>(sizeof(What) / sizeof(Words2)); ++i) store_shared(to + i, copy.words[i]);
  }
}

template <class What>
THINK_DEVICE What get(Shared<Words2> from) {
  AsWords<What> copy;
#pragma unroll
  for (int32_t i = 0; i < static_cast<int32_t>(sizeof(What) / sizeof(Words2)); ++i) copy.words[i] = load_shared(from + i);
  return bit_copy<What>(copy);
}

// ---- walking along the tiles of a run

struct Cursor {
  int32_t segment, begin;  // the segment, and the unit's tile that is its first
};

THINK_DEVICE bool advance(Cursor &cursor, const Block &block, int32_t tile) {
  bool moved = false;
#pragma unroll 1
  for (;;) {
    const int32_t tiles = static_cast<int32_t>(load_shared(block.tiles + cursor.segment));
    if (tile < cursor.begin + tiles) return moved;
    cursor.begin += tiles;
    ++cursor.segment;
    moved = true;
  }
}

// Tiles of the unit that begin before `distance` on the line, from the unit's start.
THINK_DEVICE int32_t cut(const Geometry &g, const Block &block, int64_t distance) {
  int64_t at = 0;
  int32_t before = 0;
#pragma unroll 1
  for (int32_t s = 0; s < g.segments; ++s) {
    const int32_t tiles = static_cast<int32_t>(load_shared(block.tiles + s)), weight = static_cast<int32_t>(load_shared(block.weight + s));
    const int64_t whole = int64_t{tiles} * weight;
    if (distance >= at + whole) {
      before += tiles;
    } else if (distance > at) {
      before += static_cast<int32_t>((distance - at + weight - 1) / weight);
    }
    at += whole;
  }
  return before;
}

THINK_DEVICE int64_t stretch_of(const Cuts &cuts, int32_t block) { return block * cuts.total / cuts.blocks; }
THINK_DEVICE int32_t block_at(const Cuts &cuts, int64_t place) { return static_cast<int32_t>(((place + 1) * cuts.blocks - 1) / cuts.total); }

// The unit's first tile that is not in front of the stretch of `block`.
THINK_DEVICE int32_t first_tile(const Geometry &g, const Block &block, const Cuts &cuts, int32_t of_block) {
  const int32_t tile = cut(g, block, stretch_of(cuts, of_block) - cuts.start);
  if (cuts.chunk == 0) return tile;
  const int32_t up = (tile + cuts.chunk - 1) / cuts.chunk * cuts.chunk;
  return up < cuts.tiles ? up : cuts.tiles;
}

// Where the partial result of a part and a run lies. A block has a place for each run of a unit that began before it, of one that goes on behind it, and
// of one that it has alone; of the last there may be many, one after the other.
THINK_DEVICE float *partial_at(const Decode &d, const Cuts &cuts, int32_t unit, int32_t part, int32_t run) {
  const Geometry &g = d.geometry;
  int64_t place;
  if (cuts.chunk) {
    place = (kMaxItems + g.runs) * int64_t{unit} + part + run;
  } else {
    const int32_t kind = cuts.first_block == cuts.last_block ? 2 : part == cuts.first_block ? 1 : 0;
    place = (int64_t{part} * 3 + kind) * g.runs + run;
  }
  return d.partial + place * partial_floats(g.value_channels);
}

// ---- a piece

template <int32_t kSteps>
THINK_DEVICE void meet_segment(Keys<kSteps> &keys, const Decode &d, const Unit &unit, int32_t s, int32_t queries) {
  const Geometry &g = d.geometry;
  const int32_t columns = g.residue ? kColumns : columns_of(g, unit, queries);
  const DecodeSegment &segment = d.segment[s];
  const int32_t slot = device::slot_of(segment.run.slot, unit.sequence), lane = lane_index();
  keys.kept = device::width_of(segment.key, int64_t{slot} * g.kv_heads + unit.head);
  keys.steps = steps_of(keys.kept);
  keys.bits = device::bits_of(segment.key.dtype);
  keys.layout = segment.key.layout;
  const int64_t place = int64_t{unit.index} * g.bases + segment.basis;
  const Words2 *folded = reinterpret_cast<const Words2 *>(d.folded + place * steps_of(g.key_channels) * 64) + lane;
#pragma unroll
  for (int32_t k = 0; k < kSteps; ++k) {
    if (k < keys.steps) {
      const Words2 pair = lane / 4 < columns ? load_global(folded + k * 32) : Words2{0, 0};
      if constexpr (Keys<kSteps>::kInRegisters) {
        keys.query[k][0] = pair.x, keys.query[k][1] = pair.y;
      } else {
        store_shared(keys.folded + k * 32 + lane, pair);  // each lane reads what it wrote
      }
    }
  }
  const Float2 begin = load_global(reinterpret_cast<const Float2 *>(d.constant + place * kColumns) + lane % 4);
  keys.begin[0] = begin.x, keys.begin[1] = begin.y;
  const int32_t length = device::length_of(segment.run, unit.sequence, unit.head);
  keys.length = length;
#pragma unroll
  for (int32_t x = 0; x < 2; ++x) {
    const int32_t column = (g.residue ? lane % 2 : lane % 4) * 2 + x;
    const int64_t token = (int64_t{unit.column_group} * kColumns + column) / g.group;
    keys.limit[x] = segment.causal && token < queries ? static_cast<int32_t>(length - (queries - token - 1)) : length;
  }
}

// kCodes: there may be tiles of codes, of keys and of values.
template <class T, bool kCodes, int32_t kSteps, int32_t kMatrices>
THINK_DEVICE void sum_tile(Sums<kMatrices> &sums, const Keys<kSteps> &keys, const Geometry &g, float scale, float softcap, Shared<Words4> staged_keys,
                           Shared<Words4> staged_values, int32_t value_kept, int32_t value_bits, int32_t tile_in_segment, int32_t rows) {
  const int32_t lane = kCodes ? opaque(lane_index()) : lane_index(), group = lane / 4, matrix = lane / 8, row = lane % 8;
  float score[2][4];
#pragma unroll
  for (int32_t m = 0; m < 2; ++m) score[m][0] = score[m][2] = keys.begin[0], score[m][1] = score[m][3] = keys.begin[1];
  // load(a, m, k): the rows m * 16 .. of step k as the A operand.
  const auto add_scores = [&](const auto &load) {
#pragma unroll
    for (int32_t k = 0; k < kSteps; ++k) {
      if (k < keys.steps) {
        uint32_t query[2];
        load_query(query, keys, k);
#pragma unroll
        for (int32_t m = 0; m < 2; ++m) {
          uint32_t a[4];
          load(a, m, k);
          mma<T>(score[m], a, query);
        }
      }
    }
  };
  const bool codes = kCodes && keys.bits < 16;
  if (codes) {
    if constexpr (kCodes) {
      if (keys.bits == 8) {
        sum_key_codes<8>(score, keys, staged_keys);
      } else {
        sum_key_codes<4>(score, keys, staged_keys);
      }
    }
  } else if (keys.layout == THINK_TILES) {
    const int32_t place[2] = {tile_place(matrix / 2 * 8 + row, matrix % 2), tile_place(matrix / 2 * 8 + row, 2 + matrix % 2)};
    add_scores([&](uint32_t(&a)[4], int32_t m, int32_t k) { ldmatrix_trans(a, staged_keys + (place[m] + k * kStep * 4)); });
  } else {
    const LanePlace place = lane_place(keys.steps, matrix % 2 * 8 + row, matrix / 2);
    add_scores([&](uint32_t(&a)[4], int32_t m, int32_t k) { ldmatrix(a, staged_keys + place(m, k)); });
  }
  if (g.residue) {
#pragma unroll
    for (int32_t m = 0; m < 2; ++m) {
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) score[m][i] += shuffle_xor(score[m][i], 2);
    }
  }
  const float factor = softcap > 0.0f ? scale / softcap * 2.0f * kLog2E : scale * kLog2E;
#pragma unroll
  for (int32_t x = 0; x < 2; ++x) {
    float largest = sums.maximum[x];
#pragma unroll
    for (int32_t m = 0; m < 2; ++m) {
#pragma unroll
      for (int32_t half = 0; half < 2; ++half) {
        float &z = score[m][half * 2 + x];
        z *= factor;
        if (softcap > 0.0f) z = softcap * kLog2E * (1.0f - 2.0f * reciprocal_fast(1.0f + exp2_fast(z)));  // tanh
        const int32_t token = codes ? 2 * group + half : half * 8 + group;
        if (tile_in_segment * kTileTokens + m * 16 + token >= keys.limit[x]) z = -INFINITY;
        largest = fmaxf(largest, z);
      }
    }
#pragma unroll
    for (int32_t distance = 4; distance < 32; distance *= 2) largest = fmaxf(largest, shuffle_xor(largest, distance));
    const float shrink = exp2_fast(sums.maximum[x] - largest);
    sums.maximum[x] = largest;
    sums.mass[x] *= shrink;
#pragma unroll
    for (int32_t j = 0; j < kMatrices; ++j) sums.out[j][x] *= shrink, sums.out[j][2 + x] *= shrink;
    if constexpr (kCodes) sums.zero[x] *= shrink;
#pragma unroll
    for (int32_t m = 0; m < 2; ++m) {
#pragma unroll
      for (int32_t half = 0; half < 2; ++half) {
        float &p = score[m][half * 2 + x];
        p = exp2_fast(p - largest);
        sums.mass[x] += p;
      }
    }
  }
  uint32_t p[2][2];
  const auto make_operands = [&](auto type) {
    using P = decltype(type);
#pragma unroll
    for (int32_t m = 0; m < 2; ++m) {
      if (codes) {
        order_probabilities<P>(p[m], score[m]);
      } else {
        p[m][0] = movmatrix_trans(pack<P>(score[m][0], score[m][1]));
        p[m][1] = movmatrix_trans(pack<P>(score[m][2], score[m][3]));
      }
    }
  };
  if constexpr (kCodes) {
    if (value_bits < 16) {
      make_operands(F16{});
      if (value_bits == 8) {
        sum_value_codes<8>(sums, p, staged_values, value_kept, rows);
      } else {
        sum_value_codes<4>(sums, p, staged_values, value_kept, rows);
      }
      return;
    }
  }
  make_operands(T{});
  const int32_t value_steps = steps_of(value_kept);
  const LanePlace place = lane_place(value_steps, matrix / 2 * 8 + row, matrix % 2);
  const auto sum_half = [&](int32_t m, uint32_t low, uint32_t high) {
    const uint32_t probability[2] = {low, high};
#pragma unroll
    for (int32_t j = 0; j < kMatrices; ++j) {
      if (j < value_steps) {
        uint32_t a[4];
        ldmatrix_trans(a, staged_values + place(m, j));
        mma<T>(sums.out[j], a, probability);
      }
    }
  };
  if constexpr (kMatrices <= 8) {
    sum_half(0, p[0][0], p[0][1]);
    sum_half(1, p[1][0], p[1][1]);
  } else {
    // Unrolled, so many matrices are fetched ahead that registers spill.
#pragma unroll 1
    for (int32_t m = 0; m < 2; ++m) sum_half(m, m ? p[1][0] : p[0][0], m ? p[1][1] : p[0][1]);
  }
}

// The sums of the block's warps, in the order of the warps, as one partial result.
template <bool kCodes, int32_t kMatrices>
THINK_DEVICE void merge_warps(Sums<kMatrices> &sums, const Decode &d, const Block &block, int32_t value_kept, int32_t value_bits, float *to) {
  const int32_t value_steps = kCodes && value_bits < 16 ? 0 : steps_of(value_kept);  // in order
  const int32_t lane = kCodes ? opaque(lane_index()) : lane_index(), group = lane / 4, column = lane % 4 * 2, floats = partial_floats(steps_of(value_kept) * kStep);
  sync_block();  // every ring is free
  const Shared<float> all = block.ring.as<float>(), own = all + warp_index() * floats;
#pragma unroll
  for (int32_t x = 0; x < 2; ++x) {
#pragma unroll
    for (int32_t distance = 4; distance < 32; distance *= 2) sums.mass[x] += shuffle_xor(sums.mass[x], distance);
    if (group == 0) store_shared(own + column + x, sums.maximum[x]), store_shared(own + kColumns + column + x, sums.mass[x]);
  }
  if constexpr (kCodes) {
    if (value_bits < 16) store_value_codes(own + 2 * kColumns, sums, value_kept, value_bits);
  }
#pragma unroll
  for (int32_t j = 0; j < kMatrices; ++j) {
    if (j < value_steps) {
#pragma unroll
      for (int32_t half = 0; half < 2; ++half) {
        store_shared((own + (2 + j * kStep + half * 8 + group) * kColumns + column).template as<Float2>(), Float2{sums.out[j][half * 2], sums.out[j][half * 2 + 1]});
      }
    }
  }
  sync_block();
#pragma unroll 1
  for (int32_t i = thread_index(); i < 2 * (1 + value_kept); i += block_threads()) {
    // i: mass, then channels, in halves of four columns.
    float maximum[4] = {kLowest, kLowest, kLowest, kLowest}, sum[4] = {};
#pragma unroll 1
    for (int32_t w = 0; w < d.warps; ++w) {
      const Float4 m = load_shared((all + w * floats + i % 2 * 4).as<Float4>()), x = load_shared((all + w * floats + kColumns + i * 4).as<Float4>());
      const float theirs[4] = {m.x, m.y, m.z, m.w}, value[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int32_t c = 0; c < 4; ++c) {
        const float largest = fmaxf(maximum[c], theirs[c]);
        sum[c] = sum[c] * exp2_fast(maximum[c] - largest) + value[c] * exp2_fast(theirs[c] - largest);
        maximum[c] = largest;
      }
    }
    Float4 *out = reinterpret_cast<Float4 *>(to);
    if (i < 2) store_global(out + i, Float4{maximum[0], maximum[1], maximum[2], maximum[3]});
    store_global(out + 2 + i, Float4{sum[0], sum[1], sum[2], sum[3]});
  }
  sync_block();  // before the rings fill again
}

// Tiles [first, end) of the unit, all of one run, which begins with segment `cursor.segment`.
template <class T, bool kCodes, int32_t kSteps, int32_t kMatrices>
THINK_DEVICE void sum_piece(const Decode &d, float scale, float softcap, const Block &block, const Unit &unit, int32_t queries, Cursor cursor, int32_t first,
                            int32_t end, float *to) {
  const Geometry &g = d.geometry;
  const int32_t warp = warp_index(), keys_at = key_words(g.key_channels), words = stage_words(g.key_channels, g.value_channels);
  const Shared<Words4> ring = block.ring + warp * kStages * words;
  Cursor ahead = cursor;
  const Shared<Words2> key_at = block.views + warp * 2 * kViewWords, value_at = key_at + kViewWords;
  int32_t ahead_first = 0, ahead_length = 0;
  bool fresh = true;
  const int64_t head_of_slot = int64_t{device::slot_of(d.segment[cursor.segment].run.slot, unit.sequence)} * g.kv_heads + unit.head;
  const device::Side &values = d.segment[cursor.segment].value;
  const int32_t value_kept = device::width_of(values, head_of_slot), value_bits = device::bits_of(values.dtype);
  const auto fetch = [&](int32_t tile, int32_t round) {
    if (tile < end) {
      if (advance(ahead, block, tile) || fresh) {
        const DecodeSegment &segment = d.segment[ahead.segment];
        sync_warp();
        put(key_at, device::view_of(segment.key, segment.run, g.kv_heads, unit.sequence, unit.head));
        put(value_at, device::view_of(segment.value, segment.run, g.kv_heads, unit.sequence, unit.head));
        sync_warp();
        ahead_first = device::first_of(segment.run, unit.sequence, unit.head);
        ahead_length = device::length_of(segment.run, unit.sequence, unit.head);
        fresh = false;
      }
      const int32_t row = (tile - ahead.begin) * kTileTokens, left = ahead_length - row, rows = left < kTileTokens ? left : kTileTokens;
      const Shared<Words4> stage = ring + round % kStages * words;
      const device::View key_view = get<device::View>(key_at);
      const int32_t key_bits = device::bits_of(d.segment[ahead.segment].key.dtype);
      if (kCodes && key_bits < 16) {
        fetch_key_codes(stage, key_view, key_bits, ahead_first + row);
      } else if (key_view.layout == THINK_TILES) {
        fetch_tile(stage, key_view, ahead_first + row);
      } else {
        fetch_rows(stage, key_view, ahead_first + row, rows);
      }
      if (kCodes && value_bits < 16) {
        fetch_value_codes(stage + keys_at, get<device::View>(value_at), value_bits, ahead_first + row);
      } else {
        fetch_rows(stage + keys_at, get<device::View>(value_at), ahead_first + row, rows);
      }
    }
    cp_async_commit();
  };

  Sums<kMatrices> sums = {};
  sums.maximum[0] = sums.maximum[1] = kLowest;
  Keys<kSteps> keys;
  keys.folded = block.folded;
  bool met = false;
  // The first rounds only fetch.
#pragma unroll 1
  for (int32_t round = 1 - kStages, tile = first + warp + round * d.warps; tile < end; tile += d.warps, ++round) {
    fetch(tile + (kStages - 1) * d.warps, round + kStages - 1);
    if (round < 0) continue;
    if (advance(cursor, block, tile) || !met) meet_segment(keys, d, unit, cursor.segment, queries), met = true;
    cp_async_wait<kStages - 1>();
    sync_warp();
    const Shared<Words4> stage = ring + round % kStages * words;
    const int32_t left = keys.length - (tile - cursor.begin) * kTileTokens;
    sum_tile<T, kCodes>(sums, keys, g, scale, softcap, stage, stage + keys_at, value_kept, value_bits, tile - cursor.begin, left);
    sync_warp();  // the stage may be filled again
  }
  cp_async_wait<0>();
  merge_warps<kCodes>(sums, d, block, value_kept, value_bits, to);
}

}  // namespace think::attend::cuda
