// The second kernel of attend: a fixed grid whose blocks walk along their stretch of the line. Inside of a piece (tiles of one unit and run) each warp has
// its own tiles, ring and softmax; at the end of a piece the warps of the block merge, and the last block of a unit reduces it (cuda_reduce.cuh).
#pragma once

#include "cuda_plan.cuh"

namespace think::attend::cuda {

constexpr int32_t kWholeParts = 32;   // parts of a unit that are reduced at once; where it has more,
constexpr int32_t kGroupParts = 16;   // so many become one first
constexpr int32_t kMostParts = 64;    // that a reduction takes
constexpr int32_t kMostBlocks = 1024; // of a grid
static_assert(kMostBlocks <= kGroupParts * kMostParts && kWholeParts <= kMostParts);
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
  int32_t least;  // tiles that a block has on average at least, while there are fewer blocks than in the grid
  int32_t code_warps, code_words;  // warps that take tiles of codes, and their stages of 16 bytes; 0 where no segment has any
  int32_t shared_bytes;  // of a block
};

struct Output {
  think_tensor tensor;
  Batch batch;
  const float *sink_logit;
  float *lse;
  ValueBasis basis[THINK_MAX_SEGMENTS];  // of each run
  float scale, softcap;
};

// What is needed for a moment at a time lies in shared memory, where it holds no registers while a tile is summed.
template <class T>
struct InWords {
  static constexpr int32_t kCount = static_cast<int32_t>(sizeof(T) / sizeof(Words2));
  Words2 words[kCount];
};

template <class T>
THINK_DEVICE void put(Shared<Words2> to, const T &value) {
  const auto copy = bit_copy<InWords<T>>(value);
#pragma unroll
  for (int32_t i = 0; i < InWords<T>::kCount; ++i) store_shared(to + i, copy.words[i]);
}

struct Rows {
  int32_t first, length;  // from the start of the pages or slot on
  int32_t tiles, weight;  // weight: of a tile
};

// A segment of the unit that a block sums: where its rows are, and how many.
struct Located {
  device::View key, value;
  Rows rows;
};
constexpr int32_t kLocatedWords = InWords<Located>::kCount, kViewWords = InWords<device::View>::kCount;

// How the unit is cut: parts [i * chunk ...) when it is invariant, else what the blocks that it meets have of it.
struct Cuts {
  int64_t total, each;   // of the line, and total / blocks, whole
  int64_t from, to;      // the block's stretch of it
  int64_t start, weight; // of the unit
  int32_t rest, blocks;  // total % blocks / blocks, in 2^-kRestBits, rounded up or 1 more; blocks that share the line
  int32_t tiles, chunk;  // of the unit; chunk: 0 = not invariant
  int32_t begins, ends;  // the unit, on this block's stretch: 0 or 1
};

// What a block knows of the unit that it sums.
struct Visit {
  Cuts cuts;
  Unit unit;
  int32_t queries, halves;  // halves: of four columns, that stand for queries
  int32_t first, end;       // its tiles that begin on the block's stretch
};
constexpr int32_t kVisitWords = InWords<Visit>::kCount;

// Shared memory of a block.
struct Block {
  Shared<Words2> segments;         // [segment] of the current unit: a Located
  Shared<Words2> visit;            // a Visit
  Shared<int32_t> start;           // [units + 2], where the block has made the plan: 32 bits are enough for that
  Shared<Words2> folded;           // queries of each warp, where they have no place in registers
  Shared<Words4> ring;             // of all warps; between pieces the place where they merge
  SharedCarver behind;             // for the reduction: what begins in front of those two and ends where the ring does
};

// There is a kernel for heads of up to 64, 128 and 256 channels, whichever side has more. A stage of a warp's ring holds a tile, or half of it where a whole
// one would leave a multiprocessor few warps: what a warp does for a tile is one long chain, and only other warps fill its gaps. Two stages, so that three
// blocks fit on multiprocessors with 228 KiB, of all widths up to 128 channels and of 256 two on those with 164 and one on those with 100.
constexpr int32_t kStages = 2;
THINK_HOST_DEVICE constexpr int32_t class_of(int32_t channels) { return channels > 128 ? 256 : channels > 64 ? 128 : 64; }
THINK_HOST_DEVICE constexpr int32_t class_of(int32_t key_channels, int32_t value_channels) {
  return class_of(key_channels > value_channels ? key_channels : value_channels);
}
// Of a kernel's class.
THINK_HOST_DEVICE constexpr int32_t stage_rows(int32_t kernel) { return kernel > 64 ? kTileTokens / 2 : kTileTokens; }
THINK_HOST_DEVICE constexpr int32_t warps_of(int32_t kernel) { return kernel > 128 ? 2 : 4; }
constexpr int32_t kResidentBlocks = kLargeShared ? 3 : 2;  // whose registers a multiprocessor has room for: as many as its shared memory holds
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
  Shared<float> weights;  // of each part_place(); first their maxima
  Shared<float> masses;   // the same
  Shared<float> of_warp;   // [warp][column]
  Shared<float> largest, mass, factors;  // [column]
  Shared<int64_t> rows, lses;            // [column]: where the output begins, in bytes, and the LSE's place
  Shared<float> sinks;                   // [column], in powers of two
  Shared<int32_t> index;                 // [channel], of the basis
  Shared<float> offsets;                 // [channel], the same
  Shared<Float4> expanded;               // [other thread's share][dropped channel]: four columns
  Shared<Words4> weight;                 // W; then parts, as many as there is room for, one at least
  int32_t room;                          // for both, in 16 bytes
};

// [half][part][column of four]; what is half a round of the banks lies between the halves.
constexpr int32_t kHalfOfParts = kMostParts * 4 + 16;
THINK_HOST_DEVICE constexpr int32_t part_place(int32_t part, int32_t column) { return column / 4 * kHalfOfParts + part * 4 + column % 4; }

// dropped x (kept + 7) / 8 + 1 chunks at most, of kept + dropped channels: the largest product of two numbers of one sum.
THINK_HOST_DEVICE int32_t most_weight_words(int32_t value_channels) { return (value_channels + 15) * (value_channels + 15) / 32 + 1; }

// end: where the block's shared memory does, in bytes; 0 = as soon as it can.
THINK_HOST_DEVICE Reduction take_reduction(SharedCarver &carver, int32_t value_channels, int32_t warps, int32_t end) {
  Reduction r;
  r.sums = carver.take<float>(static_cast<uint32_t>(partial_floats(value_channels)));
  r.outputs = carver.take<float>(static_cast<uint32_t>(partial_floats(value_channels)));
  r.weights = carver.take<float>(2 * kHalfOfParts);
  r.masses = carver.take<float>(2 * kHalfOfParts);
  r.of_warp = carver.take<float>(static_cast<uint32_t>(warps * kColumns));
  r.largest = carver.take<float>(kColumns);
  r.mass = carver.take<float>(kColumns);
  r.factors = carver.take<float>(kColumns);
  r.rows = carver.take<int64_t>(kColumns);
  r.lses = carver.take<int64_t>(kColumns);
  r.sinks = carver.take<float>(kColumns);
  r.index = carver.take<int32_t>(static_cast<uint32_t>(value_channels));
  r.offsets = carver.take<float>(static_cast<uint32_t>(value_channels));
  r.expanded = carver.take<Float4>(static_cast<uint32_t>(warps * 32));
  r.room = end ? (end - static_cast<int32_t>(carver.next + 15) / 16 * 16) / 16 : most_weight_words(value_channels) + 2 * value_channels;
  r.weight = carver.take<Words4>(static_cast<uint32_t>(r.room));
  return r;
}

THINK_HOST_DEVICE Block take_block(SharedCarver &carver, int32_t key_channels, int32_t value_channels, int32_t code_ring) {
  const int32_t kernel = class_of(key_channels, value_channels), warps = warps_of(kernel);
  Block block;
  block.segments = carver.take<Words2>(THINK_MAX_SEGMENTS * kLocatedWords);
  block.visit = carver.take<Words2>(kVisitWords);
  block.start = carver.take<int32_t>(kOwnPlanUnits + 2);
  carver.next = (carver.next + 127) / 128 * 128;
  block.behind = carver;
  SharedCarver reduction = carver;
  take_reduction(reduction, value_channels, warps, 0);
  // Queries are written anew for each piece, so a reduction has their place too.
  block.folded = carver.take<Words2>(kernel > 128 ? static_cast<uint32_t>(warps * steps_of(key_channels) * 32) : 0);
  carver.next = (carver.next + 127) / 128 * 128;
  int32_t words = warps * kStages * stage_words(key_channels, value_channels);
  const int32_t merge = warps * partial_floats(steps_of(value_channels) * kStep) / 4;
  const int32_t reduce = static_cast<int32_t>(reduction.next + 15) / 16 - static_cast<int32_t>(carver.next) / 16;
  if (words < code_ring) words = code_ring;
  if (words < merge) words = merge;
  if (words < reduce) words = reduce;
  block.ring = carver.take<Words4>(static_cast<uint32_t>(words));
  return block;
}

THINK_DEVICE Located located(const Block &block, int32_t segment) { return read_shared<Located>(block.segments + segment * kLocatedWords); }

THINK_DEVICE Reduction reduction_of(const Decode &d, const Block &block) {
  SharedCarver carver = block.behind;
  return take_reduction(carver, d.geometry.value_channels, block_threads() / 32, static_cast<int32_t>(carver.begin) + d.shared_bytes);
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

// For what is seldom, or done once: what follows from them is computed there, not in front of the loop or of all units.
THINK_DEVICE int32_t late_lane() {
  const int32_t lane = opaque(lane_index());
  assume(lane >= 0 && lane < 32);
  return lane;
}
THINK_DEVICE int32_t late_thread() {
  const int32_t thread = opaque(thread_index());
  assume(thread >= 0 && thread < 1024);
  return thread;
}

// Of whole chunks of rows: lanes hold 8 rows x 4 chunks, so that from one copy to the next only constants are added. Eight lanes that store together have two
// rows, so far apart that their chunks lie in different banks: 4, 1 or 2.
THINK_DEVICE int32_t lane_row(const RowPlace &place, int32_t lane) {
  const int32_t bit = place.shift ? place.shift - 1 : 2, rest = lane / 8;
  return (rest >> bit << (bit + 1)) + (lane / 4 % 2 << bit) + (rest & ((1 << bit) - 1));
}

// The row of a lane's first chunk of whole rows; and where it stores it, by 8, and, added, what the exclusive-or does further on: its two lower bits lie within
// the lanes' four chunks, the third, 4 or 0, changes places of four.
struct LaneOfRows {
  int32_t row, place;
  THINK_DEVICE const char *chunk(const char *first_row, int64_t stride) const { return first_row + row * stride + late_lane() % 4 * 16; }
};

THINK_DEVICE LaneOfRows lane_of_rows(int32_t channels) {
  const RowPlace place = row_place(steps_of(channels));
  const int32_t lane = late_lane(), row = lane_row(place, lane), twist = row >> place.shift & place.mask;
  return {row, (row * place.chunks + (lane % 4 ^ (twist & 3))) * 8 + (twist & 4)};
}

// As many rows as a stage has. from, place: this lane's, of LaneOfRows. No branches but for what most widths have not.
template <int32_t kRows, int32_t kSteps>
THINK_DEVICE void fetch_whole_rows(Shared<Words4> to, const char *from, int64_t stride, int32_t channels, int32_t place) {
  const int32_t stored = divide(channels, 8), chunks = steps_of(channels) * 2, odd = place & 4;
  const Shared<Words4> at = to + divide(place, 8);
#pragma unroll
  for (int32_t r = 0; r < kRows / 8; ++r) {
#pragma unroll
    for (int32_t c = 0; c < kSteps / 2; ++c) cp_async_if(c < stored / 4, at + (r * 8 * chunks + ((c * 4) ^ odd)), from + r * 8 * stride + c * 64);
  }
  if (stored % 4) {
    const int32_t last = stored / 4;
#pragma unroll
    for (int32_t r = 0; r < kRows / 8; ++r) {
      cp_async_if(late_lane() % 4 < stored % 4, at + (r * 8 * chunks + ((last * 4) ^ odd)), from + r * 8 * stride + last * 64);
    }
    const int32_t lane = late_lane();
    if (stored < chunks && lane < kRows) store_shared(to + row_place(chunks / 2)(lane, stored), Words4{0, 0, 0, 0});
  }
}

// `rows` rows from `first` on; what is missing of rows and channels becomes zero. Rows off the 16 bytes go through registers.
template <int32_t kRows, int32_t kSteps>
THINK_DEVICE void fetch_rows(Shared<Words4> to, const device::View &view, int32_t first, int32_t rows) {
  const char *begin = rows > 0 ? device::row_address(view, first) : nullptr;
  const bool in_one_page = !view.pages || first % view.page_tokens + rows <= view.page_tokens;
  const bool even = ((reinterpret_cast<uint64_t>(begin) | static_cast<uint64_t>(view.step)) & 15) == 0;
  if (rows == kRows && in_one_page && even && view.channels % 8 == 0) {
    const LaneOfRows own = lane_of_rows(view.channels);
    return fetch_whole_rows<kRows, kSteps>(to, own.chunk(begin, view.step), view.step, view.channels, own.place);
  }
  const int32_t lane = late_lane(), steps = steps_of(view.channels), chunks = steps * 2;
  const RowPlace place = row_place(steps);
  const char *own = lane < rows ? device::row_address(view, first + lane) : nullptr;
#pragma unroll 1
  for (int32_t i = lane; i < kRows * chunks; i += 32) {
    const int32_t row = divide(i, chunks), chunk = i - row * chunks, numbers = row < rows ? view.channels - chunk * 8 : 0;
    const char *from = device::shuffle_pointer(own, row) + chunk * 16;
    device::copy_eight(to + place(row, chunk), from, numbers);
  }
}

template <int32_t kRows>
THINK_DEVICE int32_t lane_of_tile(int32_t lane) {
  return tile_place<kRows>(lane / (kRows / 8), lane % (kRows / 8));
}

// kRows tokens of a tile. from: this lane's first chunk. place: lane_of_tile(); the exclusive-or of tile_place() is the same for all channels of a lane.
template <int32_t kRows, int32_t kSteps>
THINK_DEVICE void fetch_whole_tile(Shared<Words4> to, const char *from, int32_t channels, int32_t place) {
  constexpr int32_t kChunks = kRows / 8, kOn = 32 / kChunks;  // channels that the lanes hold
  const Shared<Words4> at = to + place;
  const int32_t whole = divide(channels, kOn);
#pragma unroll
  for (int32_t c = 0; c < kSteps * kStep / kOn; ++c) cp_async_if(c < whole, at + c * 32, from + c * kOn * 64);
  // What is missing of the last step becomes zero.
  const int32_t padded = steps_of(channels) * kStep;
#pragma unroll 1
  for (int32_t c = whole; c * kOn < padded; ++c) {
    device::copy_aligned_eight(at + c * 32, from + c * kOn * 64, c * kOn + late_lane() / kChunks < channels ? 8 : 0);
  }
}

template <int32_t kRows>
THINK_DEVICE const char *first_chunk_of_tile(const char *tile, int32_t token) {
  constexpr int32_t kChunks = kRows / 8;
  const int32_t lane = late_lane();
  return tile + (token & (kTileTokens - 1)) * 2 + lane / kChunks * 64 + lane % kChunks * 16;
}

// Tokens [first, first + kRows) of a tile.
template <int32_t kRows, int32_t kSteps>
THINK_DEVICE void fetch_tile(Shared<Words4> to, const device::View &view, int32_t first) {
  const char *from = first_chunk_of_tile<kRows>(device::row_address(view, first), first);
  fetch_whole_tile<kRows, kSteps>(to, from, view.channels, lane_of_tile<kRows>(late_lane()));
}

// ---- walking along the tiles of a run

struct Cursor {
  int32_t segment, begin;  // the segment, and the unit's tile that is its first
};

THINK_DEVICE bool advance(Cursor &cursor, const Block &block, int32_t tile) {
  bool moved = false;
#pragma unroll 1
  for (;;) {
    const int32_t tiles = located(block, cursor.segment).rows.tiles;
    if (tile < cursor.begin + tiles) return moved;
    cursor.begin += tiles;
    ++cursor.segment;
    moved = true;
  }
}

// What is too large for a division of 32 bits is rare.
THINK_DEVICE int64_t quotient(int64_t number, int32_t divisor) {
  return number >> 31 ? number / divisor : static_cast<int64_t>(static_cast<uint32_t>(number) / static_cast<uint32_t>(divisor));
}

// Tiles of the unit that begin before `distance` on the line, from the unit's start.
THINK_DEVICE int32_t cut(const Geometry &g, const Block &block, int64_t distance) {
  int64_t at = 0;
  int32_t before = 0;
#pragma unroll 1
  for (int32_t s = 0; s < g.segments; ++s) {
    const Rows rows = located(block, s).rows;
    const int32_t tiles = rows.tiles, weight = rows.weight;
    const int64_t whole = int64_t{tiles} * weight;
    if (distance >= at + whole) {
      before += tiles;
    } else if (distance > at) {
      before += static_cast<int32_t>(quotient(distance - at + weight - 1, weight));
    }
    at += whole;
  }
  return before;
}

// Where a block's stretch begins: block * total / blocks. What rounding added to the rest is less than 1 / blocks.
constexpr int32_t kRestBits = 21;
static_assert(kMostBlocks <= 1 << kRestBits / 2, "what rounding adds in all blocks is less than 1 / blocks");
static_assert(((int64_t{kMostBlocks} - 1) << kRestBits) + kMostBlocks <= INT32_MAX, "all blocks times the rest fit in 31 bits");
THINK_DEVICE int64_t stretch_of(const Cuts &cuts, int32_t block) { return block * cuts.each + (block * cuts.rest >> kRestBits); }
// The block that has `place`: a guess in f32, which is off by one at most, as there are fewer than 2^12 blocks.
THINK_DEVICE int32_t block_at(const Cuts &cuts, int64_t place) {
  int32_t block = static_cast<int32_t>(static_cast<float>(place) * reciprocal_fast(static_cast<float>(cuts.total)) * static_cast<float>(cuts.blocks));
  block = device::clamp(block, cuts.blocks - 1);
  while (stretch_of(cuts, block) > place) --block;
  while (stretch_of(cuts, block + 1) <= place) ++block;
  return block;
}

// The unit's first tile that is not in front of `place` on the line.
THINK_DEVICE int32_t first_tile(const Geometry &g, const Block &block, const Cuts &cuts, int64_t place) {
  const int32_t tile = cut(g, block, place - cuts.start);
  if (cuts.chunk == 0) return tile;
  const int32_t up = divide_up(tile, cuts.chunk) * cuts.chunk;
  return up < cuts.tiles ? up : cuts.tiles;
}

// Where the partial result of a block, or of an item, and a run lies. A block has a place for each run of a unit that began before it, of one that goes on
// behind it, and of one that it has alone; of the last there may be many, one after the other.
THINK_DEVICE float *partial_at(const Decode &d, const Cuts &cuts, int32_t unit, int32_t part, int32_t run, int32_t begins, int32_t ends) {
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
THINK_DEVICE void meet_segment(Keys<kSteps> &keys, const Decode &d, const Block &block, int32_t s) {
  wait_for_previous_launch();  // which wrote the queries; what is fetched of the cache needs no plan of it
  const Visit visit = read_shared<Visit>(block.visit);
  const Unit &unit = visit.unit;
  const int32_t queries = visit.queries;
  const Geometry &g = d.geometry;
  const int32_t own = lane_index() / 4;  // column of the MMA whose queries this lane holds
  const bool wanted = g.residue || (g.sparse ? own % 2 == 0 && own / 2 < columns_of(g, unit, queries) : own < columns_of(g, unit, queries));
  const DecodeSegment &segment = d.segment[s];
  const Located at = located(block, s);
  const int32_t lane = lane_index();
  keys.steps = steps_of(at.key.channels);
  keys.layout = segment.key.layout;
  const int64_t place = int64_t{unit.index} * g.bases + segment.basis;
  const Words2 *folded = reinterpret_cast<const Words2 *>(d.folded + place * steps_of(g.key_channels) * 64) + lane;
#pragma unroll
  for (int32_t k = 0; k < kSteps; ++k) {
    const Words2 pair = k < keys.steps && wanted ? load_global(folded + k * 32) : Words2{0, 0};
    if constexpr (Keys<kSteps>::kInRegisters) {
      keys.query[k][0] = pair.x, keys.query[k][1] = pair.y;
    } else if (k < steps_of(g.key_channels)) {
      store_shared(keys.folded + k * 32 + lane, pair);  // each lane reads what it wrote
    }
  }
  const float *begin = d.constant + place * kColumns;
  if (g.sparse) {
    keys.begin[0] = load_global(begin + lane % 4), keys.begin[1] = 0.0f;
  } else {
    const Float2 two = load_global(reinterpret_cast<const Float2 *>(begin) + lane % 4);
    keys.begin[0] = two.x, keys.begin[1] = two.y;
  }
#pragma unroll
  for (int32_t x = 0; x < 2; ++x) {
    keys.limit[x] = at.rows.length;
    if (segment.causal) {
      const int32_t token = divide(unit.column_group * kColumns + (g.sparse ? lane % 4 : lane % 4 * 2 + x), g.group);
      if (token < queries) keys.limit[x] -= queries - token - 1;
    }
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

// Sums of products become logits and those probabilities, beside the maximum that they leave behind. Only where a logit is above it do lanes exchange theirs,
// and are sums scaled. (It must not lag: a largest probability other than 1 would be rounded where it meets the values, but not in the mass.) token(m, half):
// which one of the segment's a number stands for. shrink(x, factor): what else is summed of column x. Where columns are sparse a lane has one of them.
template <int32_t kRowMatrices, int32_t kMatrices, int32_t kSteps, class Token, class Shrink>
THINK_DEVICE void make_probabilities(float (&score)[kRowMatrices][4], Sums<kMatrices> &sums, const Keys<kSteps> &keys, const Geometry &g, float scale,
                                     float softcap, const Token &token, const Shrink &shrink) {
  if (g.residue) {
#pragma unroll
    for (int32_t m = 0; m < kRowMatrices; ++m) score[m][0] += score[m][1], score[m][2] += score[m][3];
  }
  const float factor = softcap > 0.0f ? scale / softcap * 2.0f * kLog2E : scale * kLog2E;
  float largest[2] = {kLowest, kLowest};
  bool higher = false;
  const auto of_column = [&](int32_t x, const auto &body) {
#pragma unroll
    for (int32_t m = 0; m < kRowMatrices; ++m) {
#pragma unroll
      for (int32_t half = 0; half < 2; ++half) body(score[m][half * 2 + x], m, half);
    }
  };
  const auto make_logits = [&](int32_t x) {
    of_column(x, [&](float &z, int32_t, int32_t) { z *= factor; });
    if (softcap > 0.0f) {  // tanh
      of_column(x, [&](float &z, int32_t, int32_t) { z = softcap * kLog2E * (1.0f - 2.0f * reciprocal_fast(1.0f + exp2_fast(z))); });
    }
    of_column(x, [&](float &z, int32_t m, int32_t half) {
      if (token(m, half) >= keys.limit[x]) z = -INFINITY;
      largest[x] = fmaxf(largest[x], z);
    });
    higher = higher || largest[x] > sums.maximum[x];
  };
  const auto follow = [&](int32_t x) {
    largest[x] = fmaxf(largest[x], sums.maximum[x]);
#pragma unroll
    for (int32_t distance = 4; distance < 32; distance *= 2) largest[x] = fmaxf(largest[x], shuffle_xor(largest[x], distance));
    const float rest = exp2_fast(sums.maximum[x] - largest[x]);
    sums.maximum[x] = largest[x];
    sums.mass[x] *= rest;
#pragma unroll
    for (int32_t j = 0; j < kMatrices; ++j) sums.out[j][x] *= rest, sums.out[j][2 + x] *= rest;
    shrink(x, rest);
  };
  const auto make_powers = [&](int32_t x) {
    of_column(x, [&](float &p, int32_t, int32_t) {
      p = exp2_fast(p - sums.maximum[x]);
      sums.mass[x] += p;
    });
  };
  make_logits(0);
  if (!g.sparse) make_logits(1);
  if (ballot(higher)) {
    follow(0);
    if (!g.sparse) follow(1);
  }
  make_powers(0);
  if (g.sparse) {
    of_column(1, [](float &p, int32_t, int32_t) { p = 0.0f; });
  } else {
    make_powers(1);
  }
}

// kRows tokens, of which `first` is the first in the segment.
template <class T, int32_t kRows, int32_t kSteps, int32_t kMatrices>
THINK_DEVICE void sum_tile(Sums<kMatrices> &sums, const Keys<kSteps> &keys, const Geometry &g, float scale, float softcap, Shared<Words4> staged_keys,
                           Shared<Words4> staged_values, int32_t value_steps, int32_t first) {
  constexpr int32_t kRowMatrices = kRows / 16;
  const int32_t lane = lane_index(), group = lane / 4, matrix = lane / 8, row = lane % 8;
  // Two sums of every other step, so that a product does not wait for the one before.
  float score[kRowMatrices][4], other[kRowMatrices][4] = {};
#pragma unroll
  for (int32_t m = 0; m < kRowMatrices; ++m) score[m][0] = score[m][2] = keys.begin[0], score[m][1] = score[m][3] = keys.begin[1];
  // load(a, m, k): the rows m * 16 .. of step k as the A operand. Steps behind the last multiply zeros.
  const auto add_scores = [&](const auto &load) {
#pragma unroll
    for (int32_t first_step = 0; first_step < kSteps; first_step += kStepsAhead) {
      if (first_step < keys.steps) {
        uint32_t a[kStepsAhead][kRowMatrices][4] = {}, query[kStepsAhead][2];
#pragma unroll
        for (int32_t i = 0; i < kStepsAhead; ++i) {
          if (first_step + i < keys.steps) {
#pragma unroll
            for (int32_t m = 0; m < kRowMatrices; ++m) load(a[i][m], m, first_step + i);
            load_query(query[i], keys, first_step + i);
          } else {
            query[i][0] = query[i][1] = 0;
          }
        }
#pragma unroll
        for (int32_t i = 0; i < kStepsAhead; ++i) {
#pragma unroll
          for (int32_t m = 0; m < kRowMatrices; ++m) mma<T>(i % 2 ? other[m] : score[m], a[i][m], query[i]);
        }
      }
    }
  };
  if (keys.layout == THINK_TILES) {
    int32_t place[kRowMatrices];
#pragma unroll
    for (int32_t m = 0; m < kRowMatrices; ++m) place[m] = tile_place<kRows>(matrix / 2 * 8 + row, m * 2 + matrix % 2);
    add_scores([&](uint32_t(&a)[4], int32_t m, int32_t k) { ldmatrix_trans(a, staged_keys + (place[m] + k * kStep * (kRows / 8))); });
  } else {
    const LanePlace place = lane_place(keys.steps, matrix % 2 * 8 + row, matrix / 2);
    add_scores([&](uint32_t(&a)[4], int32_t m, int32_t k) { ldmatrix(a, staged_keys + place(m, k)); });
  }
#pragma unroll
  for (int32_t m = 0; m < kRowMatrices; ++m) {
#pragma unroll
    for (int32_t i = 0; i < 4; ++i) score[m][i] += other[m][i];
  }
  make_probabilities(
      score, sums, keys, g, scale, softcap, [&](int32_t m, int32_t half) { return first + m * 16 + half * 8 + group; }, [](int32_t, float) {});
  const LanePlace place = lane_place(value_steps, matrix / 2 * 8 + row, matrix % 2);
  uint32_t p[kRowMatrices][2];
#pragma unroll
  for (int32_t m = 0; m < kRowMatrices; ++m) {
    p[m][0] = movmatrix_trans(pack<T>(score[m][0], score[m][1]));
    p[m][1] = movmatrix_trans(pack<T>(score[m][2], score[m][3]));
  }
#pragma unroll
  for (int32_t first_matrix = 0; first_matrix < kMatrices; first_matrix += kStepsAhead) {
    if (first_matrix < value_steps) {
#pragma unroll
      for (int32_t m = 0; m < kRowMatrices; ++m) {
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

// Halves of four columns that stand for queries.
THINK_DEVICE int32_t halves_of(const Geometry &g, const Unit &unit, int32_t queries) { return columns_of(g, unit, queries) > kColumns / 2 ? 2 : 1; }

THINK_DEVICE Float4 multiply_add(const Float4 &factor, const Float4 &x, const Float4 &sum) {
  return {fmaf(factor.x, x.x, sum.x), fmaf(factor.y, x.y, sum.y), fmaf(factor.z, x.z, sum.z), fmaf(factor.w, x.w, sum.w)};
}

// What a lane has of its columns: two, or one where they are sparse.
THINK_DEVICE void store_columns(Shared<float> to, bool sparse, float x, float y) {
  if (sparse) {
    store_shared(to, x);
  } else {
    store_shared(to.as<Float2>(), Float2{x, y});
  }
}

// The sums of a warp's channels, to what is of this lane's columns of them.
template <int32_t kMatrices>
THINK_DEVICE void store_sums(Shared<float> to, bool sparse, const Sums<kMatrices> &sums, int32_t value_steps) {
#pragma unroll
  for (int32_t j = 0; j < kMatrices; ++j) {
    if (j < value_steps) {
#pragma unroll
      for (int32_t half = 0; half < 2; ++half) {
        store_columns(to + (j * kStep + half * 8 + lane_index() / 4) * 4, sparse, sums.out[j][half * 2], sums.out[j][half * 2 + 1]);
      }
    }
  }
}

// The sums of the block's warps, in the order of the warps, as one partial result for `global_channels`. store(to): store_sums() of the form that they have.
template <int32_t kMatrices, class Store>
THINK_DEVICE void merge_warps(Sums<kMatrices> &sums, const Block &block, int32_t value_steps, int32_t value_kept, int32_t global_channels, int32_t halves,
                              bool sparse, float *to, const Store &store) {
  constexpr int32_t kWarps = warps_of(kMatrices * kStep);
  const int32_t lane = late_lane(), group = lane / 4, column = sparse ? lane % 4 : lane % 4 * 2;
  const int32_t channels = value_steps * kStep, floats = partial_floats(channels);
  sync_block();  // every ring is free
  const Shared<float> all = block.ring.as<float>(), own = all + (warp_index() * floats + place_of_column(column, channels));
#pragma unroll
  for (int32_t x = 0; x < 2; ++x) {
#pragma unroll
    for (int32_t distance = 4; distance < 32; distance *= 2) sums.mass[x] += shuffle_xor(sums.mass[x], distance);
  }
  if (group == 0) {
    store_shared(own, sums.maximum[0]), store_shared(own + 4, sums.mass[0]);
    if (!sparse) store_shared(own + 1, sums.maximum[1]), store_shared(own + 5, sums.mass[1]);
  }
  store(own + 8);
  sync_block();
  // A thread has one half of everything.
  const int32_t half = late_thread() & (halves - 1), step = block_threads() >> (halves - 1);
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
  // Where no column has seen anything there may still be a NaN, from behind the end of a segment.
  const bool seen = fmaxf(fmaxf(largest.x, largest.y), fmaxf(largest.z, largest.w)) > kLowest;
  Float4 *out = reinterpret_cast<Float4 *>(to) + half * half_floats(global_channels) / 4;
  if (late_thread() < halves) store_global(out, largest);
#pragma unroll 1
  for (int32_t i = late_thread() >> (halves - 1); i <= value_kept; i += step) {  // mass, then channels
    Float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int32_t w = 0; w < kWarps; ++w) {
      sum = multiply_add(weight[w], load_shared((theirs + w * floats + (1 + i) * 4).template as<Float4>()), sum);
    }
    store_global(out + 1 + i, seen || i == 0 ? sum : Float4{0.0f, 0.0f, 0.0f, 0.0f});
  }
  sync_block();  // before the rings fill again
}

// Where a warp goes on fetching without looking anything up.
struct Stride {
  const char *key, *value;  // this lane's first chunks of the next share
  int32_t key_place, value_place;  // and where they are staged
  int32_t shares;           // of this warp that are left of it
};

// Begins a stride where at least one whole share is left; rows off the 16 bytes have none.
template <int32_t kRows, int32_t kApart>
THINK_DEVICE Stride stride_from(Shared<Words2> segment, int32_t row, int32_t left) {
  if (left < kRows) return {};  // there may be no page for such a row
  Stride stride = {};
  const device::View of_both = read_shared<device::View>(segment);
  const device::RowInBlock place = device::find_row(of_both, row);
  if (of_both.pages && of_both.page_tokens - place.row < left) left = of_both.page_tokens - place.row;
  if (left < kRows) return {};
#pragma unroll 1
  for (int32_t values = 0; values < 2; ++values) {
    const device::View view = read_shared<device::View>(segment + values * kViewWords);
    const bool tiles = view.layout == THINK_TILES;
    if (!tiles && view.channels % 8 != 0) return {};
    const char *address = device::row_address(view, place);
    const int64_t apart = tiles ? 0 : view.step;
    if (((reinterpret_cast<uint64_t>(address) | static_cast<uint64_t>(apart)) & 15) != 0) return {};
    const LaneOfRows of_rows = lane_of_rows(view.channels);
    const char *chunk = tiles ? first_chunk_of_tile<kRows>(address, row) : of_rows.chunk(address, apart);
    const int32_t staged = tiles ? lane_of_tile<kRows>(late_lane()) : of_rows.place;
    if (values) {
      stride.value = chunk, stride.value_place = staged;
    } else {
      stride.key = chunk, stride.key_place = staged;
    }
  }
  stride.shares = divide(left - kRows, kApart) + 1;
  return stride;
}

// Fetches a share and goes on to the warp's next, kApart rows further on.
template <int32_t kRows, int32_t kSteps, int32_t kApart>
THINK_DEVICE void fetch_share(Shared<Words4> keys, Shared<Words4> values, Stride &stride, Shared<Words2> segment) {
  static_assert(kApart % kTileTokens == 0, "the next share begins where this one does in its tile");
  const device::View key = read_shared<device::View>(segment), value = read_shared<device::View>(segment + kViewWords);
  if (key.layout == THINK_TILES) {
    fetch_whole_tile<kRows, kSteps>(keys, stride.key, key.channels, stride.key_place);
    stride.key += kApart / kTileTokens * key.step;
  } else {
    fetch_whole_rows<kRows, kSteps>(keys, stride.key, key.step, key.channels, stride.key_place);
    stride.key += kApart * key.step;
  }
  fetch_whole_rows<kRows, kSteps>(values, stride.value, value.step, value.channels, stride.value_place);
  stride.value += kApart * value.step;
  --stride.shares;
}

// Tiles [first, end) of the unit, all of one run, which begins with segment `cursor.segment`. place(): where the partial result goes.
template <class T, int32_t kRows, int32_t kSteps, int32_t kMatrices, class Place>
THINK_DEVICE void sum_piece(const Decode &d, float scale, float softcap, const Block &block, Cursor cursor, int32_t first, int32_t end, const Place &place) {
  const Geometry &g = d.geometry;
  constexpr int32_t kShares = kTileTokens / kRows, kWarps = warps_of(kSteps * kStep);
  const int32_t warp = warp_index(), keys_at = key_words(g.key_channels, kRows), words = stage_words(g.key_channels, g.value_channels);
  const Shared<Words4> ring = block.ring + warp * kStages * words;
  Cursor ahead = cursor;  // of what is fetched
  Stride stride = {};
  const auto fetch = [&](int32_t share, int32_t round) {
    const int32_t tile = divide(share, kShares);
    if (tile < end) {
      const Shared<Words4> stage = ring + round % kStages * words;
      int32_t row = 0, left = 0;  // of the pages or slot; in the segment, from there on
      if (stride.shares == 0) {
        advance(ahead, block, tile);
        const Rows rows = located(block, ahead.segment).rows;
        const int32_t behind = share * kRows - ahead.begin * kTileTokens;
        row = rows.first + behind, left = rows.length - behind;
        stride = stride_from<kRows, kWarps * kRows>(block.segments + ahead.segment * kLocatedWords, row, left);
      }
      if (stride.shares > 0) {
        fetch_share<kRows, kSteps, kWarps * kRows>(stage, stage + keys_at, stride, block.segments + ahead.segment * kLocatedWords);
      } else {
        if (left > kRows) left = kRows;
#pragma unroll 1
        for (int32_t values = 0; values < 2; ++values) {
          const device::View view = read_shared<device::View>(block.segments + (ahead.segment * kLocatedWords + values * kViewWords));
          if (view.layout == THINK_TILES) {
            fetch_tile<kRows, kSteps>(stage, view, row);
          } else {
            fetch_rows<kRows, kSteps>(values ? stage + keys_at : stage, view, row, left);
          }
        }
      }
    }
    cp_async_commit();
  };

  const int32_t value_kept = located(block, cursor.segment).value.channels, value_steps = steps_of(value_kept);
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
    if (advance(cursor, block, divide(share, kShares)) || !met) meet_segment(keys, d, block, cursor.segment), met = true;
    cp_async_wait<kStages - 1>();
    sync_warp();
    const Shared<Words4> stage = ring + round % kStages * words;
    sum_tile<T, kRows>(sums, keys, g, scale, softcap, stage, stage + keys_at, value_steps, share * kRows - cursor.begin * kTileTokens);
    sync_warp();  // the stage may be filled again
  }
  cp_async_wait<0>();
  merge_warps(sums, block, value_steps, value_kept, g.value_channels, read_shared<Visit>(block.visit).halves, g.sparse, place(),
              [&](Shared<float> own) { store_sums(own, g.sparse, sums, value_steps); });
}

}  // namespace think::attend::cuda
