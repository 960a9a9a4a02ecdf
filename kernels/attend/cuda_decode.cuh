// The second kernel of attend: a fixed grid whose blocks walk along their stretch of the line. Inside of a piece (tiles of one unit and run) each warp has
// its own tiles, ring and softmax; at the end of a piece the warps of the block merge, and the last block of a unit reduces it (cuda_reduce.cuh).
#pragma once

#include "cuda_plan.cuh"

namespace think::attend::cuda {

constexpr int32_t kGroupParts = 32;   // parts of a unit that are reduced to one before the unit is, where it has more
constexpr int32_t kMostParts = 64;    // that a reduction takes; a grid has at most kGroupParts times as many blocks
constexpr float kLeastWeight = 1.17549435e-38f;  // of a part that saw something: 0 would take a NaN for nothing
constexpr int32_t kPartsAhead = 16;   // partial results that a thread asks for at once
constexpr int32_t kCodeStages = 2;    // of a warp's ring for tiles of codes
constexpr int32_t kStepsAhead = 4;    // steps whose matrices are loaded before the first is multiplied

struct DecodeSegment {
  device::Side key, value;
  device::Run run;
  int8_t value_run, basis, causal, unused;
};

THINK_HOST_DEVICE WeighedSegment weighed(const DecodeSegment &segment) {
  return {segment.run, segment.key.kept, segment.value.kept, device::bits_of(segment.key.dtype), device::bits_of(segment.value.dtype)};
}

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
  uint32_t *counters;  // of units that are cut; then, unless they are invariant, two for each block: of the groups of parts that it leads
  int32_t least;  // weight that a block has at least, while there are fewer blocks than in the grid
  int32_t code_warps, code_words;  // warps that take tiles of codes, and their stages of 16 bytes; 0 where no segment has any
};

struct Output {
  think_tensor tensor;
  Batch batch;
  const float *sink_logit;
  float *lse;
  ValueBasis basis[THINK_MAX_SEGMENTS];  // of each run
  float scale, softcap;
};

constexpr int32_t kViewWords = static_cast<int32_t>(sizeof(device::View) / sizeof(Words2)), kAheadWords = 2 * kViewWords + 1;

// Rows of keys and values at even distances: what a warp adds to its addresses from one share to its next, in bytes; between rows; and what a share is.
struct Pace {
  int64_t key_step, value_step, key_stride, value_stride;
  int32_t key_channels, value_channels, key_layout, unused;
};
struct Int64Pair {
  int64_t x, y;
};
constexpr int32_t kPaceWords = static_cast<int32_t>(sizeof(Pace) / sizeof(Words4));

// Shared memory of a block.
struct Block {
  Shared<uint32_t> tiles, weight;  // [segment] of the current unit: tiles, and weight of a tile
  Shared<int64_t> start;           // [units + 1], where the block has made the plan
  Shared<Words4> ring;             // of all warps; between pieces the place where they merge
  Shared<Words2> folded;           // queries of each warp, where they have no place in registers
  Shared<Words2> views;            // of each warp: keys and values of the segment that it fetches, and its rows
  Shared<Words4> paces;            // of each warp
  SharedCarver behind;             // what begins where the ring begins: for the reduction
};

// There is a kernel for heads of up to 64, 128 and 256 channels, whichever side has more. A stage of a warp's ring holds a tile, or half of it where a whole
// one would leave a multiprocessor few warps: what a warp does for a tile is one long chain, and only other warps fill its gaps. Two stages, so that two
// blocks fit on multiprocessors with 164 KiB and one on those with 100.
constexpr int32_t kStages = 2;
THINK_HOST_DEVICE constexpr int32_t class_of(int32_t channels) { return channels > 128 ? 256 : channels > 64 ? 128 : 64; }
THINK_HOST_DEVICE constexpr int32_t class_of(int32_t key_channels, int32_t value_channels) {
  return class_of(key_channels > value_channels ? key_channels : value_channels);
}
// Of a kernel's class.
THINK_HOST_DEVICE constexpr int32_t stage_rows(int32_t kernel) { return kernel > 64 ? kTileTokens / 2 : kTileTokens; }
THINK_HOST_DEVICE constexpr int32_t warps_of(int32_t kernel) { return kernel > 128 ? 2 : 4; }
THINK_HOST_DEVICE constexpr int32_t blocks_of(int32_t kernel) { return kernel > 128 ? 3 : 2; }  // whose registers a multiprocessor has room for
THINK_HOST_DEVICE int32_t key_words(int32_t channels, int32_t rows) { return steps_of(channels) * 2 * rows; }  // of 16 bytes, tiles and rows alike
THINK_HOST_DEVICE int32_t stage_words(int32_t key_channels, int32_t value_channels) {
  const int32_t rows = stage_rows(class_of(key_channels, value_channels));
  return key_words(key_channels, rows) + key_words(value_channels, rows);
}
// A partial result: of four columns the maxima, the masses and the sums of each value channel, and the same of the other four. Half as many columns are half
// as many bytes in one piece, and numbers of both halves lie in different banks.
THINK_HOST_DEVICE int32_t half_floats(int32_t value_channels) { return (4 + value_channels) * 4; }
THINK_HOST_DEVICE int32_t partial_floats(int32_t value_channels) { return half_floats(value_channels) * 2; }
THINK_HOST_DEVICE int32_t place_of_column(int32_t column, int32_t value_channels) { return column / 4 * half_floats(value_channels) + column % 4; }
// A reduction's shared memory.
struct Reduction {
  Shared<float> sums;     // [mass, channel], in halves as a partial result
  Shared<float> outputs;  // [channel], the same
  Shared<float> weights;  // [part][column]; first their maxima
  Shared<float> masses;   // [part][column]
  Shared<float> maxima;    // [warp][column]
  Shared<float> largest, mass, factors;  // [column]
  Shared<int64_t> rows;                  // [column]: where the output begins, in bytes
  Shared<int32_t> index;                 // [channel], of the basis
  Shared<float> offsets;                 // [channel], the same
  Shared<Float4> expanded;               // [other thread's share][dropped channel]: four columns
  Shared<Words4> weight;                 // W
};

THINK_HOST_DEVICE Reduction take_reduction(SharedCarver &carver, int32_t value_channels, int32_t warps) {
  Reduction r;
  r.sums = carver.take<float>(static_cast<uint32_t>(partial_floats(value_channels)));
  r.outputs = carver.take<float>(static_cast<uint32_t>(partial_floats(value_channels)));
  r.weights = carver.take<float>(kMostParts * kColumns);
  r.masses = carver.take<float>(kMostParts * kColumns);
  r.maxima = carver.take<float>(static_cast<uint32_t>(warps * kColumns));
  r.largest = carver.take<float>(kColumns);
  r.mass = carver.take<float>(kColumns);
  r.factors = carver.take<float>(kColumns);
  r.rows = carver.take<int64_t>(kColumns);
  r.index = carver.take<int32_t>(static_cast<uint32_t>(value_channels));
  r.offsets = carver.take<float>(static_cast<uint32_t>(value_channels));
  r.expanded = carver.take<Float4>(static_cast<uint32_t>(warps * 32));
  // dropped x (kept + 7) / 8 + 1 chunks at most, of kept + dropped channels: the largest product of two numbers of one sum.
  r.weight = carver.take<Words4>(static_cast<uint32_t>((value_channels + 15) * (value_channels + 15) / 32 + 1));
  return r;
}

THINK_HOST_DEVICE Block take_block(SharedCarver &carver, int32_t key_channels, int32_t value_channels, int32_t code_ring) {
  const int32_t kernel = class_of(key_channels, value_channels), warps = warps_of(kernel);
  Block block;
  block.tiles = carver.take<uint32_t>(THINK_MAX_SEGMENTS);
  block.weight = carver.take<uint32_t>(THINK_MAX_SEGMENTS);
  block.start = carver.take<int64_t>(kOwnPlanUnits + 1);
  block.folded = carver.take<Words2>(kernel > 128 ? static_cast<uint32_t>(warps * steps_of(key_channels) * 32) : 0);
  block.views = carver.take<Words2>(static_cast<uint32_t>(warps * kAheadWords));
  block.paces = carver.take<Words4>(static_cast<uint32_t>(warps * kPaceWords));
  carver.next = (carver.next + 127) / 128 * 128;
  block.behind = carver;
  SharedCarver reduction = carver;
  take_reduction(reduction, value_channels, warps);
  int32_t words = warps * kStages * stage_words(key_channels, value_channels);
  const int32_t merge = warps * partial_floats(steps_of(value_channels) * kStep) / 4, reduce = static_cast<int32_t>(reduction.next - carver.next + 15) / 16;
  if (words < code_ring) words = code_ring;
  if (words < merge) words = merge;
  if (words < reduce) words = reduce;
  block.ring = carver.take<Words4>(static_cast<uint32_t>(words), 128);
  return block;
}

// ---- staged tiles

// Channel-major keys: chunk c of eight tokens of channel r. Eight rows of a matrix lie in different banks.
template <int32_t kRows>
THINK_DEVICE int32_t tile_place(int32_t channel, int32_t chunk) {
  return kRows == 32 ? channel * 4 + (chunk ^ (channel >> 1 & 3)) : channel * 2 + (chunk ^ (channel >> 2 & 1));
}

// Rows of `chunks` (even) chunks without gaps: an exclusive-or with the bits of the row that the multiplication by `chunks` shifts out.
struct RowPlace {
  int32_t chunks, shift, mask;
  THINK_DEVICE int32_t operator()(int32_t row, int32_t chunk) const { return row * chunks + (chunk ^ (row >> shift & mask)); }
};

THINK_DEVICE RowPlace row_place(int32_t steps) {
  const int32_t chunks = steps * 2, even = trailing_zeros(static_cast<uint32_t>(chunks)), bits = even < 3 ? even : 3;
  return {chunks, 3 - bits, (1 << bits) - 1};
}

// place(m * 16 + row, k * 2 + half) of a lane's matrix row, in few registers: the exclusive-or knows neither m nor more of k than its two lowest bits.
struct LanePlace {
  int32_t begin, step, half, twist;
  THINK_DEVICE int32_t operator()(int32_t m, int32_t k) const { return begin + m * step + ((k % 4 * 2 + half) ^ twist) + k / 4 * 8; }
};

THINK_DEVICE LanePlace lane_place(int32_t steps, int32_t row, int32_t half) {
  const RowPlace place = row_place(steps);
  return {row * place.chunks, 16 * place.chunks, half, row >> place.shift & place.mask};
}

// Of whole chunks of rows: lanes hold 8 rows x 4 chunks, so that from one copy to the next only constants are added. Eight lanes that store together have two
// rows, so far apart that their chunks lie in different banks: 4, 1 or 2.
THINK_DEVICE int32_t lane_row(const RowPlace &place) {
  const int32_t bit = (place.shift + 2) % 3, rest = lane_index() / 8;
  return (rest >> bit << (bit + 1)) + (lane_index() / 4 % 2 << bit) + (rest & ((1 << bit) - 1));
}

// As many rows as a stage has. from: this lane's first chunk.
template <int32_t kRows, int32_t kSteps>
THINK_DEVICE void fetch_whole_rows(Shared<Words4> to, const char *from, int64_t stride, int32_t channels) {
  const int32_t lane = lane_index(), chunk = lane % 4, stored = channels / 8, chunks = steps_of(channels) * 2;
  const RowPlace place = row_place(steps_of(channels));
  const int32_t row = lane_row(place);
  // Of the exclusive-or the two lower bits lie within the lanes' four chunks; the third changes places of four.
  const int32_t twist = row >> place.shift & place.mask, odd = twist & 4;
  const Shared<Words4> at = to + (row * chunks + (chunk ^ (twist & 3)));
#pragma unroll
  for (int32_t r = 0; r < kRows / 8; ++r) {
#pragma unroll
    for (int32_t c = 0; c < kSteps / 2; ++c) {
      if (c < stored / 4) cp_async<16>(at + (r * 8 * chunks + ((c * 4) ^ odd)), from + r * 8 * stride + c * 64);
    }
  }
  if (chunk < stored % 4) {
    const int32_t last = stored / 4;
#pragma unroll
    for (int32_t r = 0; r < kRows / 8; ++r) cp_async<16>(at + (r * 8 * chunks + ((last * 4) ^ odd)), from + r * 8 * stride + last * 64);
  }
  if (stored < chunks && lane < kRows) store_shared(to + place(lane, stored), Words4{0, 0, 0, 0});
}

THINK_DEVICE const char *first_chunk(const char *row, int64_t stride, int32_t channels) {
  return row + lane_row(row_place(steps_of(channels))) * stride + lane_index() % 4 * 16;
}

// `rows` rows from `first` on; what is missing of rows and channels becomes zero. Rows off the 16 bytes go through registers.
template <int32_t kRows, int32_t kSteps>
THINK_DEVICE void fetch_rows(Shared<Words4> to, const device::View &view, int32_t first, int32_t rows) {
  const char *begin = rows > 0 ? device::row_address(view, first) : nullptr;
  const bool in_one_page = !view.pages || first % view.page_tokens + rows <= view.page_tokens;
  const bool even = ((reinterpret_cast<uint64_t>(begin) | static_cast<uint64_t>(view.row_stride)) & 15) == 0;
  if (rows == kRows && in_one_page && even && view.channels % 8 == 0) {
    return fetch_whole_rows<kRows, kSteps>(to, first_chunk(begin, view.row_stride, view.channels), view.row_stride, view.channels);
  }
  const int32_t lane = lane_index(), steps = steps_of(view.channels), chunks = steps * 2;
  const RowPlace place = row_place(steps);
  const char *own = lane < rows ? device::row_address(view, first + lane) : nullptr;
#pragma unroll 1
  for (int32_t i = lane; i < kRows * chunks; i += 32) {
    const int32_t row = i / chunks, chunk = i - row * chunks, numbers = row < rows ? view.channels - chunk * 8 : 0;
    const char *from = device::shuffle_pointer(own, row) + chunk * 16;
    device::copy_eight(to + place(row, chunk), from, numbers);
  }
}

// kRows tokens of a tile. from: this lane's first chunk. The exclusive-or of tile_place() is the same for all channels of a lane.
template <int32_t kRows, int32_t kSteps>
THINK_DEVICE void fetch_whole_tile(Shared<Words4> to, const char *from, int32_t channels) {
  constexpr int32_t kChunks = kRows / 8, kOn = 32 / kChunks;  // channels that the lanes hold
  const int32_t channel = lane_index() / kChunks, padded = steps_of(channels) * kStep;
  const Shared<Words4> at = to + tile_place<kRows>(channel, lane_index() % kChunks);
#pragma unroll
  for (int32_t c = 0; c < kSteps * kStep; c += kOn) {
    if (c + kOn <= channels) {
      cp_async<16>(at + c * kChunks, from + c * 64);
    } else if (c < padded) {
      device::copy_aligned_eight(at + c * kChunks, from + c * 64, c + channel < channels ? 8 : 0);
    }
  }
}

template <int32_t kRows>
THINK_DEVICE const char *first_chunk_of_tile(const char *tile, int32_t token) {
  constexpr int32_t kChunks = kRows / 8;
  return tile + token % kTileTokens * 2 + lane_index() / kChunks * 64 + lane_index() % kChunks * 16;
}

// Tokens [first, first + kRows) of a tile.
template <int32_t kRows, int32_t kSteps>
THINK_DEVICE void fetch_tile(Shared<Words4> to, const device::View &view, int32_t first) {
  fetch_whole_tile<kRows, kSteps>(to, first_chunk_of_tile<kRows>(device::row_address(view, first), first), view.channels);
}

// A view is needed for a moment per tile: in shared memory it holds no registers while a tile is summed.
struct ViewWords {
  Words2 words[kViewWords];
};

THINK_DEVICE void put_view(Shared<Words2> to, const device::View &view) {
  const ViewWords copy = bit_copy<ViewWords>(view);
  if (lane_index() == 0) {
#pragma unroll
    for (int32_t i = 0; i < kViewWords; ++i) store_shared(to + i, copy.words[i]);
  }
}

THINK_DEVICE device::View get_view(Shared<Words2> from) {
  ViewWords copy;
#pragma unroll
  for (int32_t i = 0; i < kViewWords; ++i) copy.words[i] = load_shared(from + i);
  return bit_copy<device::View>(copy);
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
      const int64_t reached = distance - at + weight - 1;
      before += static_cast<int32_t>(reached >> 31 ? reached / weight : static_cast<uint32_t>(reached) / static_cast<uint32_t>(weight));
    }
    at += whole;
  }
  return before;
}

// How the unit is cut: parts [i * chunk ...) when it is invariant, else what the blocks that it meets have of it.
struct Cuts {
  int64_t start, total;  // of the unit, and of the line
  int64_t each;          // total / blocks
  int32_t rest, blocks;  // total % blocks; blocks that share the line
  int32_t tiles, chunk;  // of the unit; chunk: 0 = not invariant
  bool begins, ends;     // the unit, on this block's stretch
};

// block * total / blocks, in divisions of 32 bits.
THINK_DEVICE int64_t stretch_of(const Cuts &cuts, int32_t block) { return block * cuts.each + block * cuts.rest / cuts.blocks; }
// The block that has `place`: a guess in f32, which is off by one at most, as there are fewer than 2^12 blocks.
THINK_DEVICE int32_t block_at(const Cuts &cuts, int64_t place) {
  int32_t block = static_cast<int32_t>(static_cast<float>(place) / static_cast<float>(cuts.total) * static_cast<float>(cuts.blocks));
  block = device::clamp(block, cuts.blocks - 1);
  while (stretch_of(cuts, block) > place) --block;
  while (stretch_of(cuts, block + 1) <= place) ++block;
  return block;
}

// The unit's first tile that is not in front of `place` on the line.
THINK_DEVICE int32_t first_tile(const Geometry &g, const Block &block, const Cuts &cuts, int64_t place) {
  const int32_t tile = cut(g, block, place - cuts.start);
  if (cuts.chunk == 0) return tile;
  const int32_t up = (tile + cuts.chunk - 1) / cuts.chunk * cuts.chunk;
  return up < cuts.tiles ? up : cuts.tiles;
}

// Where the partial result of a block, or of an item, and a run lies. A block has a place for each run of a unit that began before it, of one that goes on
// behind it, and of one that it has alone; of the last there may be many, one after the other.
THINK_DEVICE float *partial_at(const Decode &d, const Cuts &cuts, int32_t unit, int32_t part, int32_t run, bool begins, bool ends) {
  const Geometry &g = d.geometry;
  const int64_t place = cuts.chunk ? (kMaxItems + g.runs) * int64_t{unit} + part + run : (int64_t{part} * 3 + (begins ? 1 + ends : 0)) * g.runs + run;
  return d.partial + place * partial_floats(g.value_channels);
}

// ---- a piece

// What a segment means for the tiles that are summed next.
template <int32_t kSteps>
struct Keys {
  static constexpr bool kInRegisters = kSteps <= 8;
  uint32_t query[kInRegisters ? kSteps : 1][2];
  Shared<Words2> folded;
  float begin[2];   // of the sums of this lane's two columns
  int32_t limit[2];  // rows that they see
  int32_t steps, layout;
};

template <int32_t kSteps>
THINK_DEVICE void meet_segment(Keys<kSteps> &keys, const Decode &d, const Unit &unit, int32_t s, int32_t queries) {
  wait_for_previous_launch();  // which wrote the queries; what is fetched of the cache needs no plan of it
  const Geometry &g = d.geometry;
  const int32_t columns = g.residue ? kColumns : columns_of(g, unit, queries);
  const DecodeSegment &segment = d.segment[s];
  const int32_t slot = device::slot_of(segment.run.slot, unit.sequence), lane = lane_index();
  keys.steps = steps_of(device::width_of(segment.key, int64_t{slot} * g.kv_heads + unit.head));
  keys.layout = segment.key.layout;
  const int64_t place = int64_t{unit.index} * g.bases + segment.basis;
  const Words2 *folded = reinterpret_cast<const Words2 *>(d.folded + place * steps_of(g.key_channels) * 64) + lane;
#pragma unroll
  for (int32_t k = 0; k < kSteps; ++k) {
    const Words2 pair = k < keys.steps && lane / 4 < columns ? load_global(folded + k * 32) : Words2{0, 0};
    if constexpr (Keys<kSteps>::kInRegisters) {
      keys.query[k][0] = pair.x, keys.query[k][1] = pair.y;
    } else if (k < steps_of(g.key_channels)) {
      store_shared(keys.folded + k * 32 + lane, pair);  // each lane reads what it wrote
    }
  }
  const Float2 begin = load_global(reinterpret_cast<const Float2 *>(d.constant + place * kColumns) + lane % 4);
  keys.begin[0] = begin.x, keys.begin[1] = begin.y;
  const int32_t length = device::length_of(segment.run, unit.sequence, unit.head);
#pragma unroll
  for (int32_t x = 0; x < 2; ++x) {
    const int32_t column = (g.residue ? lane % 2 : lane % 4) * 2 + x;
    const int64_t token = (int64_t{unit.column_group} * kColumns + column) / g.group;
    keys.limit[x] = segment.causal && token < queries ? static_cast<int32_t>(length - (queries - token - 1)) : length;
  }
}

template <int32_t kSteps>
THINK_DEVICE void load_query(uint32_t (&query)[2], const Keys<kSteps> &keys, int32_t k) {
  if constexpr (Keys<kSteps>::kInRegisters) {
    query[0] = keys.query[k][0], query[1] = keys.query[k][1];
  } else {
    const Words2 pair = load_shared(keys.folded + k * 32 + lane_index());
    query[0] = pair.x, query[1] = pair.y;
  }
}

template <int32_t kMatrices>
struct Sums {
  float out[kMatrices][4], maximum[2], mass[2];
};

// Sums of products become logits and those probabilities, beside the maximum that they leave behind. token(m, half): which one of the segment's a number
// stands for. shrink(x, factor): what else is summed of column x.
template <int32_t kBlocks, int32_t kMatrices, int32_t kSteps, class Token, class Shrink>
THINK_DEVICE void make_probabilities(float (&score)[kBlocks][4], Sums<kMatrices> &sums, const Keys<kSteps> &keys, const Geometry &g, float scale,
                                     float softcap, const Token &token, const Shrink &shrink) {
  if (g.residue) {
#pragma unroll
    for (int32_t m = 0; m < kBlocks; ++m) {
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) score[m][i] += shuffle_xor(score[m][i], 2);
    }
  }
  const float factor = softcap > 0.0f ? scale / softcap * 2.0f * kLog2E : scale * kLog2E;
#pragma unroll
  for (int32_t x = 0; x < 2; ++x) {
    float largest = sums.maximum[x];
#pragma unroll
    for (int32_t m = 0; m < kBlocks; ++m) {
#pragma unroll
      for (int32_t half = 0; half < 2; ++half) {
        float &z = score[m][half * 2 + x];
        z *= factor;
        if (softcap > 0.0f) z = softcap * kLog2E * (1.0f - 2.0f * reciprocal_fast(1.0f + exp2_fast(z)));  // tanh
        if (token(m, half) >= keys.limit[x]) z = -INFINITY;
        largest = fmaxf(largest, z);
      }
    }
#pragma unroll
    for (int32_t distance = 4; distance < 32; distance *= 2) largest = fmaxf(largest, shuffle_xor(largest, distance));
    const float rest = exp2_fast(sums.maximum[x] - largest);
    sums.maximum[x] = largest;
    sums.mass[x] *= rest;
#pragma unroll
    for (int32_t j = 0; j < kMatrices; ++j) sums.out[j][x] *= rest, sums.out[j][2 + x] *= rest;
    shrink(x, rest);
#pragma unroll
    for (int32_t m = 0; m < kBlocks; ++m) {
#pragma unroll
      for (int32_t half = 0; half < 2; ++half) {
        float &p = score[m][half * 2 + x];
        p = exp2_fast(p - largest);
        sums.mass[x] += p;
      }
    }
  }
}

// kRows tokens, of which `first` is the first in the segment.
template <class T, int32_t kRows, int32_t kSteps, int32_t kMatrices>
THINK_DEVICE void sum_tile(Sums<kMatrices> &sums, const Keys<kSteps> &keys, const Geometry &g, float scale, float softcap, Shared<Words4> staged_keys,
                           Shared<Words4> staged_values, int32_t value_steps, int32_t first) {
  constexpr int32_t kBlocks = kRows / 16;
  const int32_t lane = lane_index(), group = lane / 4, matrix = lane / 8, row = lane % 8;
  // Two sums of every other step, so that a product does not wait for the one before.
  float score[kBlocks][4], other[kBlocks][4] = {};
#pragma unroll
  for (int32_t m = 0; m < kBlocks; ++m) score[m][0] = score[m][2] = keys.begin[0], score[m][1] = score[m][3] = keys.begin[1];
  // load(a, m, k): the rows m * 16 .. of step k as the A operand. Steps behind the last multiply zeros.
  const auto add_scores = [&](const auto &load) {
#pragma unroll
    for (int32_t first_step = 0; first_step < kSteps; first_step += kStepsAhead) {
      if (first_step < keys.steps) {
        uint32_t a[kStepsAhead][kBlocks][4] = {}, query[kStepsAhead][2];
#pragma unroll
        for (int32_t i = 0; i < kStepsAhead; ++i) {
          if (first_step + i < keys.steps) {
#pragma unroll
            for (int32_t m = 0; m < kBlocks; ++m) load(a[i][m], m, first_step + i);
            load_query(query[i], keys, first_step + i);
          } else {
            query[i][0] = query[i][1] = 0;
          }
        }
#pragma unroll
        for (int32_t i = 0; i < kStepsAhead; ++i) {
#pragma unroll
          for (int32_t m = 0; m < kBlocks; ++m) mma<T>(i % 2 ? other[m] : score[m], a[i][m], query[i]);
        }
      }
    }
  };
  if (keys.layout == THINK_TILES) {
    int32_t place[kBlocks];
#pragma unroll
    for (int32_t m = 0; m < kBlocks; ++m) place[m] = tile_place<kRows>(matrix / 2 * 8 + row, m * 2 + matrix % 2);
    add_scores([&](uint32_t(&a)[4], int32_t m, int32_t k) { ldmatrix_trans(a, staged_keys + (place[m] + k * kStep * (kRows / 8))); });
  } else {
    const LanePlace place = lane_place(keys.steps, matrix % 2 * 8 + row, matrix / 2);
    add_scores([&](uint32_t(&a)[4], int32_t m, int32_t k) { ldmatrix(a, staged_keys + place(m, k)); });
  }
#pragma unroll
  for (int32_t m = 0; m < kBlocks; ++m) {
#pragma unroll
    for (int32_t i = 0; i < 4; ++i) score[m][i] += other[m][i];
  }
  make_probabilities(
      score, sums, keys, g, scale, softcap, [&](int32_t m, int32_t half) { return first + m * 16 + half * 8 + group; }, [](int32_t, float) {});
  const LanePlace place = lane_place(value_steps, matrix / 2 * 8 + row, matrix % 2);
  uint32_t p[kBlocks][2];
#pragma unroll
  for (int32_t m = 0; m < kBlocks; ++m) {
    p[m][0] = movmatrix_trans(pack<T>(score[m][0], score[m][1]));
    p[m][1] = movmatrix_trans(pack<T>(score[m][2], score[m][3]));
  }
#pragma unroll
  for (int32_t first_matrix = 0; first_matrix < kMatrices; first_matrix += kStepsAhead) {
    if (first_matrix < value_steps) {
#pragma unroll
      for (int32_t m = 0; m < kBlocks; ++m) {
        uint32_t a[kStepsAhead][4] = {};
#pragma unroll
        for (int32_t i = 0; i < kStepsAhead; ++i) {
          if (first_matrix + i < value_steps) ldmatrix_trans(a[i], staged_values + place(m, first_matrix + i));
        }
#pragma unroll
        for (int32_t i = 0; i < kStepsAhead; ++i) mma<T>(sums.out[first_matrix + i], a[i], p[m]);
      }
    }
  }
}

// Halves of four columns that stand for queries: with residues the other half has done its part in the scores.
THINK_DEVICE int32_t halves_of(const Geometry &g, const Unit &unit, int32_t queries) { return columns_of(g, unit, queries) > kColumns / 2 ? 2 : 1; }

THINK_DEVICE Float4 multiply_add(const Float4 &factor, const Float4 &x, const Float4 &sum) {
  return {fmaf(factor.x, x.x, sum.x), fmaf(factor.y, x.y, sum.y), fmaf(factor.z, x.z, sum.z), fmaf(factor.w, x.w, sum.w)};
}

// The sums of a warp's channels, to what is of this lane's columns of them.
template <int32_t kMatrices>
THINK_DEVICE void store_sums(Shared<float> to, const Sums<kMatrices> &sums, int32_t value_steps) {
#pragma unroll
  for (int32_t j = 0; j < kMatrices; ++j) {
    if (j < value_steps) {
#pragma unroll
      for (int32_t half = 0; half < 2; ++half) {
        const Float2 two = {sums.out[j][half * 2], sums.out[j][half * 2 + 1]};
        store_shared((to + (j * kStep + half * 8 + lane_index() / 4) * 4).template as<Float2>(), two);
      }
    }
  }
}

// The sums of the block's warps, in the order of the warps, as one partial result for `global_channels`. store(to): store_sums() of the form that they have.
template <int32_t kMatrices, class Store>
THINK_DEVICE void merge_warps(Sums<kMatrices> &sums, const Block &block, int32_t value_steps, int32_t value_kept, int32_t global_channels, int32_t halves,
                              float *to, const Store &store) {
  constexpr int32_t kWarps = warps_of(kMatrices * kStep);
  const int32_t lane = lane_index(), group = lane / 4, column = lane % 4 * 2, channels = value_steps * kStep, floats = partial_floats(channels);
  sync_block();  // every ring is free
  const Shared<float> all = block.ring.as<float>(), own = all + (warp_index() * floats + place_of_column(column, channels));
#pragma unroll
  for (int32_t x = 0; x < 2; ++x) {
#pragma unroll
    for (int32_t distance = 4; distance < 32; distance *= 2) sums.mass[x] += shuffle_xor(sums.mass[x], distance);
    if (group == 0) store_shared(own + x, sums.maximum[x]), store_shared(own + 4 + x, sums.mass[x]);
  }
  store(own + 8);
  sync_block();
  // A thread has one half of everything.
  const int32_t half = halves == 2 ? thread_index() % 2 : 0, step = block_threads() / halves;
  const Shared<float> theirs = all + half * half_floats(channels);
  Float4 maximum[kWarps], weight[kWarps], largest = {kLowest, kLowest, kLowest, kLowest};
#pragma unroll
  for (int32_t w = 0; w < kWarps; ++w) maximum[w] = load_shared((theirs + w * floats).template as<Float4>());
#pragma unroll
  for (int32_t w = 0; w < kWarps; ++w) {
    largest = {fmaxf(largest.x, maximum[w].x), fmaxf(largest.y, maximum[w].y), fmaxf(largest.z, maximum[w].z), fmaxf(largest.w, maximum[w].w)};
  }
#pragma unroll
  for (int32_t w = 0; w < kWarps; ++w) {
    weight[w] = {exp2_fast(maximum[w].x - largest.x), exp2_fast(maximum[w].y - largest.y), exp2_fast(maximum[w].z - largest.z),
                 exp2_fast(maximum[w].w - largest.w)};
  }
  Float4 *out = reinterpret_cast<Float4 *>(to) + half * half_floats(global_channels) / 4;
  if (thread_index() < halves) store_global(out, largest);
#pragma unroll 1
  for (int32_t i = thread_index() / halves; i <= value_kept; i += step) {  // mass, then channels
    Float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int32_t w = 0; w < kWarps; ++w) {
      sum = multiply_add(weight[w], load_shared((theirs + w * floats + (1 + i) * 4).template as<Float4>()), sum);
    }
    store_global(out + 1 + i, sum);
  }
  sync_block();  // before the rings fill again
}

// The segment whose tiles a warp fetches, ahead of those that it sums.
struct Ahead {
  Cursor cursor;
  Shared<Words2> key_view, value_view, rows;  // of the warp; rows: where the segment begins, and how many it has
  bool met;
};

struct Rows {
  int32_t first, length;
};

THINK_DEVICE Ahead ahead_of(const Cursor &cursor, const Block &block) {
  const Shared<Words2> views = block.views + warp_index() * kAheadWords;
  return {cursor, views, views + kViewWords, views + 2 * kViewWords, false};
}

THINK_DEVICE void meet_tile(Ahead &ahead, const Decode &d, const Block &block, const Unit &unit, int32_t tile) {
  if (!advance(ahead.cursor, block, tile) && ahead.met) return;
  const DecodeSegment &segment = d.segment[ahead.cursor.segment];
  sync_warp();
  put_view(ahead.key_view, device::view_of(segment.key, segment.run, d.geometry.kv_heads, unit.sequence, unit.head));
  put_view(ahead.value_view, device::view_of(segment.value, segment.run, d.geometry.kv_heads, unit.sequence, unit.head));
  const Rows rows = {device::first_of(segment.run, unit.sequence, unit.head), device::length_of(segment.run, unit.sequence, unit.head)};
  if (lane_index() == 0) store_shared(ahead.rows, bit_copy<Words2>(rows));
  sync_warp();
  ahead.met = true;
}

// Where a warp goes on fetching without looking anything up.
struct Stride {
  const char *key, *value;  // this lane's first chunks of the next share
  int32_t shares;           // of this warp that are left of it
};

// How many rows at even distances lie behind `row` in the segment and page: shares of kRows, `apart` rows from one to the next, `left` rows in the segment.
template <int32_t kRows>
THINK_DEVICE int32_t shares_ahead(const device::View &view, int32_t row, int32_t left, int32_t apart) {
  if (view.pages) {
    const int32_t in_page = view.page_tokens - row % view.page_tokens;
    if (in_page < left) left = in_page;
  }
  return left < kRows ? 0 : (left - kRows) / apart + 1;
}

// Begins a stride where at least one whole share is left; rows off the 16 bytes have none.
template <int32_t kRows, int32_t kWarps>
THINK_DEVICE Stride stride_from(const device::View &keys, const device::View &values, int32_t row, int32_t left, Shared<Words4> pace_of_warp) {
  constexpr int32_t kApart = kWarps * kRows;
  static_assert(kApart % kTileTokens == 0, "a warp's next share begins where this one does in its tile");
  Stride stride = {};
  const int32_t shares = shares_ahead<kRows>(keys, row, left, kApart), of_values = shares_ahead<kRows>(values, row, left, kApart);
  const bool tiles = keys.layout == THINK_TILES;
  if (of_values == 0 || (!tiles && (shares == 0 || keys.channels % 8 != 0)) || values.channels % 8 != 0) return stride;
  const char *key = device::row_address(keys, row), *value = device::row_address(values, row);
  const int64_t key_stride = tiles ? 0 : keys.row_stride;
  if (((reinterpret_cast<uint64_t>(key) | reinterpret_cast<uint64_t>(value) | static_cast<uint64_t>(key_stride | values.row_stride)) & 15) != 0) return stride;
  stride.shares = shares < of_values ? shares : of_values;
  stride.key = tiles ? first_chunk_of_tile<kRows>(key, row) : first_chunk(key, key_stride, keys.channels);
  stride.value = first_chunk(value, values.row_stride, values.channels);
  const Pace pace = {tiles ? kApart / kTileTokens * keys.tile_bytes : kApart * key_stride, kApart * values.row_stride, key_stride, values.row_stride,
                     keys.channels, values.channels, keys.layout, 0};
  struct PaceWords {
    Words4 words[kPaceWords];
  };
  const PaceWords copy = bit_copy<PaceWords>(pace);
  sync_warp();
  if (lane_index() == 0) {
#pragma unroll
    for (int32_t i = 0; i < kPaceWords; ++i) store_shared(pace_of_warp + i, copy.words[i]);
  }
  sync_warp();
  return stride;
}

// Fetches a share and goes on to the next.
template <int32_t kRows, int32_t kSteps>
THINK_DEVICE void fetch_share(Shared<Words4> keys, Shared<Words4> values, Stride &stride, Shared<Words4> pace_of_warp) {
  const auto steps = bit_copy<Int64Pair>(load_shared(pace_of_warp)), strides = bit_copy<Int64Pair>(load_shared(pace_of_warp + 1));
  const Words4 shape = load_shared(pace_of_warp + 2);
  if (shape.z == THINK_TILES) {
    fetch_whole_tile<kRows, kSteps>(keys, stride.key, static_cast<int32_t>(shape.x));
  } else {
    fetch_whole_rows<kRows, kSteps>(keys, stride.key, strides.x, static_cast<int32_t>(shape.x));
  }
  fetch_whole_rows<kRows, kSteps>(values, stride.value, strides.y, static_cast<int32_t>(shape.y));
  stride.key += steps.x, stride.value += steps.y;
  --stride.shares;
}

// Tiles [first, end) of the unit, all of one run, which begins with segment `cursor.segment`. place(): where the partial result goes.
template <class T, int32_t kRows, int32_t kSteps, int32_t kMatrices, class Place>
THINK_DEVICE void sum_piece(const Decode &d, float scale, float softcap, const Block &block, const Unit &unit, int32_t queries, Cursor cursor, int32_t first,
                            int32_t end, const Place &place) {
  const Geometry &g = d.geometry;
  constexpr int32_t kShares = kTileTokens / kRows, kWarps = warps_of(kSteps * kStep);
  const int32_t warp = warp_index(), keys_at = key_words(g.key_channels, kRows), words = stage_words(g.key_channels, g.value_channels);
  const Shared<Words4> ring = block.ring + warp * kStages * words;
  const Shared<Words4> pace = block.paces + warp * kPaceWords;
  Ahead ahead = ahead_of(cursor, block);
  Stride stride = {};
  const auto fetch = [&](int32_t share, int32_t round) {
    const int32_t tile = share / kShares;
    if (tile < end) {
      const Shared<Words4> stage = ring + round % kStages * words;
      int32_t row = 0, left = 0;  // of the pages or slot; in the segment, from there on
      if (stride.shares == 0) {
        meet_tile(ahead, d, block, unit, tile);
        const Rows rows = bit_copy<Rows>(load_shared(ahead.rows));
        const int32_t behind = share * kRows - ahead.cursor.begin * kTileTokens;
        row = rows.first + behind, left = rows.length - behind;
        stride = stride_from<kRows, kWarps>(get_view(ahead.key_view), get_view(ahead.value_view), row, left, pace);
      }
      if (stride.shares > 0) {
        fetch_share<kRows, kSteps>(stage, stage + keys_at, stride, pace);
      } else {
        if (left > kRows) left = kRows;
        const device::View key_view = get_view(ahead.key_view);
        if (key_view.layout == THINK_TILES) {
          fetch_tile<kRows, kSteps>(stage, key_view, row);
        } else {
          fetch_rows<kRows, kSteps>(stage, key_view, row, left);
        }
        fetch_rows<kRows, kSteps>(stage + keys_at, get_view(ahead.value_view), row, left);
      }
    }
    cp_async_commit();
  };

  const int64_t head_of_slot = int64_t{device::slot_of(d.segment[cursor.segment].run.slot, unit.sequence)} * g.kv_heads + unit.head;
  const int32_t value_kept = device::width_of(d.segment[cursor.segment].value, head_of_slot), value_steps = steps_of(value_kept);
  Sums<kMatrices> sums = {};
  sums.maximum[0] = sums.maximum[1] = kLowest;
  Keys<kSteps> keys;
  keys.folded = block.folded + (Keys<kSteps>::kInRegisters ? 0 : warp * steps_of(g.key_channels) * 32);
  bool met = false;
  // The first rounds only fetch.
#pragma unroll 1
  for (int32_t round = 1 - kStages, share = first * kShares + warp + round * kWarps; share < end * kShares; share += kWarps, ++round) {
    fetch(share + (kStages - 1) * kWarps, round + kStages - 1);
    if (round < 0) continue;
    if (advance(cursor, block, share / kShares) || !met) meet_segment(keys, d, unit, cursor.segment, queries), met = true;
    cp_async_wait<kStages - 1>();
    sync_warp();
    const Shared<Words4> stage = ring + round % kStages * words;
    sum_tile<T, kRows>(sums, keys, g, scale, softcap, stage, stage + keys_at, value_steps, share * kRows - cursor.begin * kTileTokens);
    sync_warp();  // the stage may be filled again
  }
  cp_async_wait<0>();
  merge_warps(sums, block, value_steps, value_kept, g.value_channels, halves_of(g, unit, queries), place(),
              [&](Shared<float> own) { store_sums(own, sums, value_steps); });
}

}  // namespace think::attend::cuda
