// The compact stage on a CUDA device: a kernel for each pair of layouts. Rows become tiles, or narrower rows, through shared memory, a warp per tile, with
// ldmatrix as the transposition; all other moves go from global memory to global memory.
#include "cuda.h"

#include "cuda_job.cuh"

namespace think::compact::cuda {
namespace {

using namespace ptx;

constexpr int32_t kWarps = 4, kThreads = 32 * kWarps;
constexpr int32_t kBlocks = 5;  // of a multiprocessor, at least: as many registers as that allows, or ptxas spills for the sake of more
constexpr int32_t kChunk = 8;  // 16-bit elements of 16 bytes: what a thread moves at a time, in numbers, whatever their type
constexpr int32_t kAbsent = 255;

uint32_t job_shared_bytes() {
  SharedCarver carver;
  carver.take<Words4>(kJobWords);
  return carver.bytes();
}

// ---- eight numbers of any type. Numbers that keep their type keep their bits

template <class A, class B>
constexpr bool kSame = false;
template <class A>
constexpr bool kSame<A, A> = true;

template <class From, class To>
THINK_DEVICE To convert(From x) {
  if constexpr (kSame<From, To>) {
    return x;
  } else {
    return from_float<To>(to_float(x));
  }
}

template <class T, int32_t N>
THINK_DEVICE T number_of(const uint32_t (&words)[N], int32_t i) {
  if constexpr (sizeof(T) == 4) {
    return as_float(words[i]);
  } else {
    return T{static_cast<uint16_t>(words[i / 2] >> i % 2 * 16)};
  }
}

template <class From, class To>
THINK_DEVICE void load_eight(To (&x)[kChunk], const char *from) {
  const Words4 *at = reinterpret_cast<const Words4 *>(from);
  const Words4 a = load_stream(at);
  uint32_t words[kChunk] = {a.x, a.y, a.z, a.w};
  if constexpr (sizeof(From) == 4) {
    const Words4 b = load_stream(at + 1);
    words[4] = b.x, words[5] = b.y, words[6] = b.z, words[7] = b.w;
  }
#pragma unroll
  for (int32_t i = 0; i < kChunk; ++i) x[i] = convert<From, To>(number_of<From>(words, i));
}

template <class T>
THINK_DEVICE Words4 pack_eight(const T (&x)[kChunk]) {
  return {pack(x[0], x[1]), pack(x[2], x[3]), pack(x[4], x[5]), pack(x[6], x[7])};
}

template <class T>
THINK_DEVICE void store_eight(char *to, const T (&x)[kChunk]) {
  if constexpr (sizeof(T) == 4) {
    store_global(reinterpret_cast<Float4 *>(to), Float4{x[0], x[1], x[2], x[3]});
    store_global(reinterpret_cast<Float4 *>(to) + 1, Float4{x[4], x[5], x[6], x[7]});
  } else {
    store_global(reinterpret_cast<Words4 *>(to), pack_eight(x));
  }
}

// ---- rows to tiles

// Row r of a staged tile, chunk c lies at r * row_chunks + (c ^ swizzle(r)). Both the eight chunks of a row that are written together and the eight
// rows of a matrix that ldmatrix reads together then lie in different banks: see row_of_matrix.
THINK_DEVICE int32_t swizzle(int32_t row) { return (row >> 3 & 3) * 2 + (row & 1); }

// ldmatrix hands the rows 2t and 2t + 1 of matrix m, transposed, to lanes 4g + t as one register. With this order of rows the four registers of a lane
// are eight tokens in a row, 8t .. 8t + 7, of channel g: sixteen bytes of the tile.
THINK_DEVICE int32_t row_of_matrix(int32_t matrix, int32_t row) { return (row >> 1) * 8 + matrix * 2 + (row & 1); }

// One chunk of a row into shared memory, in 16 bits each. Rows that do not exist, and numbers behind the end of a row, are zero.
template <class From, class To>
THINK_DEVICE void stage_chunk(Shared<Words4> to, const char *row, int32_t chunk, int32_t channels, bool exists) {
  constexpr int32_t kBytes = static_cast<int32_t>(sizeof(From));
  const char *from = row + chunk * kChunk * kBytes;
  const bool whole = (chunk + 1) * kChunk <= channels && is_aligned(from);
  if constexpr (kBytes == 2) {
    if (whole || !exists) {
      cp_async_zfill<16>(to, exists ? from : nullptr, exists ? 16 : 0);
      return;
    }
    From x[kChunk] = {};
#pragma unroll
    for (int32_t i = 0; i < kChunk; ++i) {
      if (chunk * kChunk + i < channels) x[i] = load_constant(reinterpret_cast<const From *>(from) + i);
    }
    store_shared(to, pack_eight(x));
  } else {
    To x[kChunk] = {};
    if (exists && whole) {
      load_eight<From>(x, from);
    } else if (exists) {
#pragma unroll
      for (int32_t i = 0; i < kChunk; ++i) {
        if (chunk * kChunk + i < channels) x[i] = from_float<To>(load_constant(reinterpret_cast<const float *>(from) + i));
      }
    }
    store_shared(to, pack_eight(x));
  }
}

// Staged numbers are of the source's type if that has 16 bits, else of the destination's.
template <class From, class To>
struct Staging {
  using Type = From;
};
template <class To>
struct Staging<float, To> {
  using Type = To;
};
template <class From, class To>
using StagedAs = typename Staging<From, To>::Type;

template <class From, class To>
THINK_DEVICE void store_tokens(char *to, const uint32_t (&tokens)[4]) {
  using Staged = StagedAs<From, To>;
  if constexpr (kSame<Staged, To>) {
    store_global(reinterpret_cast<Words4 *>(to), Words4{tokens[0], tokens[1], tokens[2], tokens[3]});
  } else {
    To x[kChunk];
#pragma unroll
    for (int32_t i = 0; i < kChunk; ++i) x[i] = convert<Staged, To>(number_of<Staged>(tokens, i));
    store_eight(to, x);
  }
}

// The shared memory of kernels that stage tiles, one of 32 rows for each warp, and what else a warp needs in `out_words`.
struct Stage {
  Shared<uint8_t> place;
  Shared<Words4> staged;
  Shared<uint32_t> out;
};

THINK_HOST_DEVICE Stage take_stage(SharedCarver &carver, int32_t warps, int32_t warp, int32_t row_chunks, int32_t out_words) {
  Stage stage;
  stage.place = carver.take<uint8_t>(kMaxChannels);
  stage.staged = carver.take<Words4>(static_cast<uint32_t>(warps * kTileTokens * row_chunks), 128) + warp * kTileTokens * row_chunks;
  stage.out = carver.take<uint32_t>(static_cast<uint32_t>(warps * out_words)) + warp * out_words;
  return stage;
}

uint32_t stage_shared_bytes(int32_t warps, int32_t row_chunks, int32_t out_words) {
  SharedCarver carver;
  carver.take<Words4>(kJobWords);
  take_stage(carver, warps, 0, row_chunks, out_words);
  return carver.bytes();
}

// place[channel] = its position among the kept ones, kAbsent if it is dropped. In halves of 128 channels, whose bytes lie in 32 different banks.
THINK_DEVICE void find_places(Shared<uint8_t> place, const Job &job) {
  Shared<uint32_t> words = place.as<uint32_t>();
  for (int32_t i = thread_index(); i < kMaxChannels / 4; i += block_threads()) store_shared(words + i, 0xffffffffu);
  sync_block();
  for (int32_t i = thread_index(); i < job.destination.channels; i += block_threads()) {
    const int32_t channel = load_constant(job.index + i);
    if (channel < 128) store_shared(place + channel, static_cast<uint8_t>(i));
    if (channel >= 128) store_shared(place + channel, static_cast<uint8_t>(i));
  }
  sync_block();
}

// Brings the rows from `first` on into the warp's shared memory.
template <class From, class To>
THINK_DEVICE void stage_rows(const Stage &stage, const Job &job, int32_t first, int32_t row_chunks) {
  const int32_t lane = lane_index(), rows = job.count - first, channels = job.source.channels, chunks = (channels + kChunk - 1) / kChunk;
  const char *own_row = lane < rows ? device::row_address(job.source, job.source_first + first + lane) : nullptr;
  // Eight lanes have eight chunks of one row, the warp has four rows.
  for (int32_t unit = lane / 8; unit < kTileTokens * row_chunks / 8; unit += 4) {
    const int32_t row = unit & (kTileTokens - 1), chunk = unit / kTileTokens * 8 + lane % 8;
    const char *from = device::shuffle_pointer(own_row, row);
    if (chunk < chunks) stage_chunk<From, To>(stage.staged + (row * row_chunks + (chunk ^ swizzle(row))), from, chunk, channels, row < rows);
  }
  cp_async_commit();
  cp_async_wait<0>();
  sync_warp();
}

// Calls body(position, tokens) for each kept channel of this lane: eight of its tokens, 8 * (lane % 4) and on, as staged. Dropped channels are left out.
template <class Body>
THINK_DEVICE void for_each_kept(const Stage &stage, const Job &job, int32_t row_chunks, const Body &body) {
  const int32_t lane = lane_index(), row = row_of_matrix(lane / 8, lane % 8), chunks = (job.source.channels + kChunk - 1) / kChunk;
  for (int32_t chunk = 0; chunk < chunks; ++chunk) {
    uint32_t tokens[4];
    ldmatrix_trans(tokens, stage.staged + (row * row_chunks + (chunk ^ swizzle(row))));
    const int32_t channel = chunk * kChunk + lane / 4;
    const int32_t position = job.index ? load_shared(stage.place + channel) : channel < job.destination.channels ? channel : kAbsent;
    if (job.index ? position != kAbsent : channel < job.destination.channels) body(position, tokens);
  }
}

template <class From, class To>
__global__ void __launch_bounds__(kThreads, kBlocks) compact_rows_to_tiles(Move move) {
  SharedCarver carver = shared_memory();
  const Job job = job_of(move, carver);
  const Stage stage = take_stage(carver, move.warps, warp_index(), move.row_chunks, 0);
  if (first_tile(move) * kTileTokens >= job.count) return;
  if (job.index) find_places(stage.place, job);
  for (int32_t turn = 0; turn < move.tiles_per_warp; ++turn) {
    const int32_t first = first_row(move, turn);
    if (first >= job.count) return;
    stage_rows<From, To>(stage, job, first, move.row_chunks);
    char *tile = device::row_address(job.destination, job.destination_first + first) + lane_index() % 4 * kChunk * static_cast<int32_t>(sizeof(To));
    for_each_kept(stage, job, move.row_chunks, [&](int32_t position, const uint32_t(&tokens)[4]) {
      store_tokens<From, To>(tile + position * kTileTokens * static_cast<int32_t>(sizeof(To)), tokens);
    });
    sync_warp();  // before the next rows come
  }
}

// ---- rows to rows of fewer channels: the same way in, and through shared memory once more, as rows an odd number of words apart

THINK_HOST_DEVICE int32_t out_pitch(int32_t kept, int32_t element_bytes) { return (kept * element_bytes + 3) / 4 | 1; }

// Writes `rows` rows of `kept` numbers. Whole words where the row allows it.
template <class To>
THINK_DEVICE void store_rows(const Stage &stage, const Job &job, int32_t first, int32_t pitch) {
  const int32_t lane = lane_index(), left = job.count - first, rows = left < kTileTokens ? left : kTileTokens, kept = job.destination.channels;
  const int32_t words = kept * static_cast<int32_t>(sizeof(To)) / 4;
  const char *own_row = lane < rows ? device::row_address(job.destination, job.destination_first + first + lane) : nullptr;
  for (int32_t row = 0; row < rows; ++row) {
    char *to = const_cast<char *>(device::shuffle_pointer(own_row, row));
    const Shared<uint32_t> from = stage.out + row * pitch;
    if (sizeof(To) == 4 || (reinterpret_cast<uint64_t>(to) & 3) == 0) {
      for (int32_t i = lane; i < words; i += 32) store_global(reinterpret_cast<uint32_t *>(to) + i, load_shared(from + i));
      if (words * 4 < kept * static_cast<int32_t>(sizeof(To)) && lane == 0) {
        store_global(reinterpret_cast<uint16_t *>(to) + kept - 1, load_shared(from.template as<uint16_t>() + (kept - 1)));
      }
    } else {
      for (int32_t i = lane; i < kept; i += 32) store_global(reinterpret_cast<uint16_t *>(to) + i, load_shared(from.template as<uint16_t>() + i));
    }
  }
}

template <class From, class To>
__global__ void __launch_bounds__(kThreads, kBlocks) compact_rows_to_rows(Move move) {
  using Staged = StagedAs<From, To>;
  SharedCarver carver = shared_memory();
  const Job job = job_of(move, carver);
  const Stage stage = take_stage(carver, move.warps, warp_index(), move.row_chunks, move.out_words);
  if (first_tile(move) * kTileTokens >= job.count) return;
  if (job.index) find_places(stage.place, job);
  const int32_t pitch = out_pitch(job.destination.channels, sizeof(To)), token = lane_index() % 4 * kChunk;
  for (int32_t turn = 0; turn < move.tiles_per_warp; ++turn) {
    const int32_t first = first_row(move, turn);
    if (first >= job.count) return;
    stage_rows<From, To>(stage, job, first, move.row_chunks);
    // A number of 16 bits is half a word: four lanes' tokens lie 8 * pitch words apart, eight channels in at most five (f32: eight) words.
    for_each_kept(stage, job, move.row_chunks, [&](int32_t position, const uint32_t(&tokens)[4]) {
#pragma unroll
      for (int32_t i = 0; i < kChunk; ++i) {
        store_shared((stage.out + (token + i) * pitch).template as<To>() + position, convert<Staged, To>(number_of<Staged>(tokens, i)));
      }
    });
    sync_warp();
    store_rows<To>(stage, job, first, pitch);
    sync_warp();  // before the next rows come
  }
}

// f32 stays f32: numbers of four bytes have no ldmatrix. A lane is a token; what it reads of a row is in the first cache when its neighbour channels come.
__global__ void __launch_bounds__(kThreads, kBlocks) compact_rows_to_tiles_f32(Move move) {
  SharedCarver carver = shared_memory();
  const Job job = job_of(move, carver);
  const int32_t lane = lane_index();
  for (int32_t turn = 0; turn < move.tiles_per_warp; ++turn) {
    const int32_t first = first_row(move, turn), rows = job.count - first;
    if (rows <= 0) return;
    const float *row = lane < rows ? reinterpret_cast<const float *>(device::row_address(job.source, job.source_first + first + lane)) : nullptr;
    float *tile = reinterpret_cast<float *>(device::row_address(job.destination, job.destination_first + first));
#pragma unroll 4
    for (int32_t i = 0; i < job.destination.channels; ++i) {
      const int32_t channel = job.index ? load_constant(job.index + i) : i;
      store_global(tile + (i * kTileTokens + lane), row ? load_constant(row + channel) : 0.0f);
    }
  }
}

// ---- tiles to tiles: four lanes have a channel of a tile

template <class From, class To>
__global__ void __launch_bounds__(kThreads, kBlocks) compact_tiles_to_tiles(Move move) {
  SharedCarver carver = shared_memory();
  const Job job = job_of(move, carver);
  const int32_t lane = lane_index(), token = lane % 4 * kChunk;
  for (int32_t turn = 0; turn < move.tiles_per_warp; ++turn) {
    const int32_t first = first_row(move, turn), rows = job.count - first;
    if (rows <= 0) return;
    const char *source = device::row_address(job.source, job.source_first + first);
    char *tile = device::row_address(job.destination, job.destination_first + first);
#pragma unroll 2
    for (int32_t i = lane / 4; i < job.destination.channels; i += kChunk) {
      const int32_t channel = job.index ? load_constant(job.index + i) : i;
      const char *from = source + (channel * kTileTokens + token) * static_cast<int32_t>(sizeof(From));
      To x[kChunk] = {};
      if (token + kChunk <= rows) {
        load_eight<From>(x, from);
      } else {
#pragma unroll
        for (int32_t j = 0; j < kChunk; ++j) {
          if (token + j < rows) x[j] = convert<From, To>(load_constant(reinterpret_cast<const From *>(from) + j));
        }
      }
      store_eight(tile + (i * kTileTokens + token) * static_cast<int32_t>(sizeof(To)), x);
    }
  }
}

// ---- all other ways to rows: a thread has eight channels of every so many-th row, and collects them through the first cache where they are apart

// Kept channels of a head in shared memory, channel i of every unit side by side: lines of `pitch` words, where 4 mod 8 keeps eight lines apart.
constexpr int32_t kMaxPitch = kMaxChannels / kChunk + 4;

THINK_DEVICE int32_t pitch_of(int32_t units) { return (units + 3) / 8 * 8 + 4; }

THINK_HOST_DEVICE Shared<int32_t> take_channels(SharedCarver &carver) { return carver.take<int32_t>(kChunk * kMaxPitch); }

uint32_t rows_shared_bytes() {
  SharedCarver carver;
  carver.take<Words4>(kJobWords);
  take_channels(carver);
  return carver.bytes();
}

template <class From, class To>
__global__ void __launch_bounds__(kThreads, kBlocks) compact_to_rows(Move move) {
  constexpr int32_t kFrom = static_cast<int32_t>(sizeof(From)), kTo = static_cast<int32_t>(sizeof(To));
  SharedCarver carver = shared_memory();
  const Job job = job_of(move, carver);
  const Shared<int32_t> channel_at = take_channels(carver);
  const int32_t start = first_tile(move) * kTileTokens, most = start + move.warps * move.tiles_per_warp * kTileTokens;
  const int32_t end = job.count < most ? job.count : most;
  const int32_t kept = job.destination.channels;
  if (start >= end || kept < 1) return;
  const int32_t units = (kept + kChunk - 1) / kChunk, rows_at_once = block_threads() / units, pitch = pitch_of(units);
  if (job.index) {
    for (int32_t i = thread_index(); i < kept; i += block_threads()) store_shared(channel_at + (i % kChunk * pitch + i / kChunk), load_constant(job.index + i));
    sync_block();
  }
  const int32_t own_row = thread_index() / units, unit = thread_index() - own_row * units;
  if (own_row >= rows_at_once) return;
  const bool whole = (unit + 1) * kChunk <= kept, from_rows = job.source.layout == THINK_ROWS;
  const int32_t numbers = whole ? kChunk : kept - unit * kChunk;
  // Bytes from the start of a row (or of a token's column of a tile) to each of the eight channels.
  int32_t offset[kChunk], channel = 0;
#pragma unroll
  for (int32_t i = 0; i < kChunk; ++i) {
    if (i < numbers) channel = job.index ? load_shared(channel_at + (i * pitch + unit)) : unit * kChunk + i;
    offset[i] = channel * kFrom * (from_rows ? 1 : kTileTokens);
  }
  for (int32_t row = start + own_row; row < end; row += rows_at_once) {
    const int32_t source_row = job.source_first + row;
    const char *from = device::row_address(job.source, source_row) + (from_rows ? 0 : source_row % kTileTokens * kFrom);
    char *to = device::row_address(job.destination, job.destination_first + row) + unit * kChunk * kTo;
    To x[kChunk];
    if (!job.index && from_rows && whole && is_aligned(from + offset[0])) {
      load_eight<From>(x, from + offset[0]);
    } else {
#pragma unroll
      for (int32_t i = 0; i < kChunk; ++i) x[i] = convert<From, To>(load_constant(reinterpret_cast<const From *>(from + offset[i])));
    }
    if (whole && is_aligned(to)) {
      store_eight(to, x);
    } else {
#pragma unroll
      for (int32_t i = 0; i < kChunk; ++i) {
        if (i < numbers) store_global(reinterpret_cast<To *>(to) + i, x[i]);
      }
    }
  }
}

// ---- place: grid (sequences), one warp

struct PlaceCall {
  int64_t *offset;
  const int32_t *kept, *slot;
  int64_t row_bytes, number_bytes;  // a head's rows have row_bytes each, or where that is 0 as many numbers as it keeps
  int64_t page_tokens;              // of codes: tiles of a page, which have so many times 16 bytes
  think_dtype codes;                // 0 = rows and tiles of numbers
  bool keys;
  int32_t channels, kv_heads;
};

__global__ void __launch_bounds__(32) compact_place(PlaceCall call) {
  const int64_t head_of_slot = static_cast<int64_t>(device::slot_of(call.slot, block_x())) * call.kv_heads;
  int32_t before = 0;  // channels of the heads so far: as numbers they fit, as bytes they may not
  for (int32_t start = 0; start < call.kv_heads; start += 32) {
    const int32_t head = start + lane_index();
    int32_t own = head < call.kv_heads ? (call.kept ? load_constant(call.kept + head_of_slot + head) : call.channels) : 0;
    if (call.codes && head < call.kv_heads) own = static_cast<int32_t>(device::code_tile(call.keys, own, call.codes).bytes / kTileAlignment);
    int32_t sum = own;
    for (int32_t distance = 1; distance < 32; distance *= 2) {
      const int32_t other = shuffle_up(sum, distance);
      if (lane_index() >= distance) sum += other;
    }
    const int64_t numbers = before + sum - own, bytes = call.row_bytes ? head * call.row_bytes : numbers * call.number_bytes;
    if (head < call.kv_heads) store_global(call.offset + head_of_slot + head, bytes * call.page_tokens);
    before += shuffle(sum, 31);
  }
}

template <class Body>
int32_t with_type(think_dtype dtype, const Body &body) {
  return dtype == THINK_F32 ? body(float{}) : dtype == THINK_F16 ? body(F16{}) : body(BF16{});
}

constexpr int32_t row_chunks_of(int32_t channels) { return (channels + 8 * kChunk - 1) / (8 * kChunk) * 8; }

// A block has four warps, or two where the rows of four would not fit into the shared memory of every architecture.
constexpr uint32_t kMostSharedBytes = 99 * 1024;

// What differs from kernel to kernel about a launch.
struct Way {
  const char *name;
  uint32_t shared_bytes;
};

template <class To>
Way way_of_rows(Move &move) {
  move.out_words = kTileTokens * out_pitch(move.destination.channels, sizeof(To));
  move.warps = stage_shared_bytes(kWarps, move.row_chunks, move.out_words) <= kMostSharedBytes ? kWarps : kWarps / 2;
  return {"compact_rows_to_rows", stage_shared_bytes(move.warps, move.row_chunks, move.out_words)};
}

template <class From, class To>
int32_t load_pair() {
  if (const int32_t error = prepare(compact_tiles_to_tiles<From, To>, job_shared_bytes())) return error;
  if (const int32_t error = prepare(compact_to_rows<From, To>, rows_shared_bytes())) return error;
  if constexpr (sizeof(From) == 4 && sizeof(To) == 4) {
    return prepare(compact_rows_to_tiles_f32, job_shared_bytes());
  } else {
    if (const int32_t error = prepare(compact_rows_to_rows<From, To>, kMostSharedBytes)) return error;
    return prepare(compact_rows_to_tiles<From, To>, stage_shared_bytes(kWarps, row_chunks_of(kMaxChannels), 0));
  }
}

// Chooses the kernel and fills in what depends on it; `go` launches it.
template <class From, class To, class Go>
int32_t with_kernel(Move &move, const Go &go) {
  constexpr bool kAllWide = sizeof(From) == 4 && sizeof(To) == 4;
  const bool from_rows = move.source.layout == THINK_ROWS, to_rows = move.destination.layout == THINK_ROWS;
  const bool chooses = move.destination.index && !move.source.index;
  if constexpr (!kAllWide) {
    if (from_rows && to_rows && chooses) {
      const Way way = way_of_rows<To>(move);
      return go(way, compact_rows_to_rows<From, To>);
    }
    if (from_rows && !to_rows) {
      return go(Way{"compact_rows_to_tiles", stage_shared_bytes(kWarps, move.row_chunks, 0)}, compact_rows_to_tiles<From, To>);
    }
  } else if (from_rows && !to_rows) {
    return go(Way{"compact_rows_to_tiles_f32", job_shared_bytes()}, compact_rows_to_tiles_f32);
  }
  if (to_rows) return go(Way{"compact_to_rows", rows_shared_bytes()}, compact_to_rows<From, To>);
  return go(Way{"compact_tiles_to_tiles", job_shared_bytes()}, compact_tiles_to_tiles<From, To>);
}

}  // namespace

int32_t load() {
  int32_t error = prepare(compact_place, 0);
  if (!error) error = load_codes();
  for (const think_dtype from : {THINK_F32, THINK_F16, THINK_BF16}) {
    for (const think_dtype to : {THINK_F32, THINK_F16, THINK_BF16}) {
      if (error) return error;
      error = with_type(from, [&](auto source) {
        return with_type(to, [&](auto destination) { return load_pair<decltype(source), decltype(destination)>(); });
      });
    }
  }
  return error;
}

int32_t compact(const Arguments &arguments, int64_t longest, void *stream) {
  const Shape &shape = arguments.shape;
  // A long run shares what a block finds out about it among several tiles of each warp, a short one is spread out.
  constexpr int32_t kLong = 256;
  const int32_t tiles = static_cast<int32_t>((longest + kTileTokens - 1) / kTileTokens);
  for (const think::Side side : {think::Side::keys, think::Side::values}) {
    if (!(side == think::Side::keys ? arguments.destination.key : arguments.destination.value)) continue;
    Move move;
    move.source = device::side_of(arguments.source, shape, side);
    move.destination = device::side_of(arguments.destination, shape, side);
    move.from = device::run_of(arguments.source, arguments.batch, longest);
    move.to = device::run_of(arguments.destination, arguments.batch, longest);
    move.kv_heads = shape.kv_heads;
    move.warps = kWarps;
    move.tiles_per_warp = tiles >= kLong ? 4 : 1;
    move.row_chunks = row_chunks_of(move.source.channels);
    move.out_words = 0;
    const auto go = [&](const Way &way, void (*kernel)(Move)) {
      const int32_t group = move.warps * move.tiles_per_warp;
      const Launch how{.name = way.name,
                       .grid = {(tiles + group - 1) / group, shape.kv_heads, arguments.batch.count},
                       .threads = 32 * move.warps,
                       .shared_bytes = way.shared_bytes,
                       .stream = stream};
      return launch(how, kernel, move);
    };
    if (device::is_codes(move.source.dtype) || device::is_codes(move.destination.dtype)) {
      const bool measures = (arguments.destination.flags & THINK_SEGMENT_MEASURE) != 0;
      if (const int32_t error = launch_codes(move, tiles, arguments.batch.count, measures, stream)) return error;
      continue;
    }
    const int32_t error = with_type(move.source.dtype, [&](auto source) {
      return with_type(move.destination.dtype, [&](auto destination) { return with_kernel<decltype(source), decltype(destination)>(move, go); });
    });
    if (error) return error;
  }
  return 0;
}

int32_t place(const Shape &shape, const think_segment &segment, const Batch &batch, void *stream) {
  for (const think::Side name : {think::Side::keys, think::Side::values}) {
    PlaceCall call;
    call.offset = name == think::Side::keys ? segment.key_head_offset : segment.value_head_offset;
    if (!call.offset) continue;
    const device::Side side = device::side_of(segment, shape, name);
    call.kept = side.kept;
    call.slot = segment.slot ? segment.slot : batch.slot;
    call.row_bytes = side.layout == THINK_ROWS ? side.row_stride : 0;
    call.number_bytes = side.element_bytes;
    call.page_tokens = segment.page_tokens;
    call.codes = device::is_codes(side.dtype) ? side.dtype : 0;
    call.keys = side.keys;
    if (call.codes) call.number_bytes = kTileAlignment, call.page_tokens /= kTileTokens;
    call.channels = side.channels;
    call.kv_heads = shape.kv_heads;
    const int32_t error = launch({.name = "compact_place", .grid = {batch.count}, .threads = 32, .stream = stream}, compact_place, call);
    if (error) return error;
  }
  return 0;
}

}  // namespace think::compact::cuda
