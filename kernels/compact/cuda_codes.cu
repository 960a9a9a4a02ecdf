// Moves to and from tiles of codes. A tile passes through shared memory as f32, channel by channel: a block loads it in whatever form it has and stores it in
// the other one. Almost everywhere a lane is a token, so minima, codes and conversions need no index of tokens, and no bank is met twice.
#include <cmath>

#include "cuda_job.cuh"

namespace think::compact::cuda {
namespace {

constexpr int32_t kWarps = 4, kThreads = 32 * kWarps;
constexpr int32_t kBlocks = 4;                  // of a multiprocessor, at least
constexpr int32_t kPitch = kTileTokens + 1;     // floats of a channel
constexpr int32_t kTilesOfBlock = 16;           // of a long run: they share what a block finds out about it
constexpr int32_t kChunk = 8;
constexpr float kMostFinite = 3.402823466e38f;

struct Parts {
  Shared<int32_t> channel;  // [kept]: of the source
  Shared<float> numbers;    // [channel of the source][kPitch]
};

THINK_HOST_DEVICE Parts take_parts(SharedCarver &carver, int32_t source_channels) {
  return {carver.take<int32_t>(kMaxChannels), carver.take<float>(static_cast<uint32_t>(source_channels * kPitch))};
}

uint32_t parts_bytes(int32_t source_channels) {
  SharedCarver carver;
  carver.take<Words4>(kJobWords);
  take_parts(carver, source_channels);
  return carver.bytes();
}

THINK_DEVICE Shared<float> place_of(const Parts &parts, int32_t channel, int32_t token) { return parts.numbers + (channel * kPitch + token); }
THINK_DEVICE float number_of(const Parts &parts, int32_t position) { return load_shared(place_of(parts, load_shared(parts.channel + position), lane_index())); }

// ---- in. Tokens from `rows` on become zero.

// A warp has eight rows of four chunks: whole sectors, and stores that meet in no bank.
THINK_DEVICE void load_rows(const Parts &parts, const Move &move, const Job &job, int32_t first, int32_t rows) {
  const int32_t channels = job.source.channels, chunks = (channels + kChunk - 1) / kChunk, lane = lane_index(), bytes = move.source.element_bytes;
  const char *own = lane < rows ? device::row_address(job.source, job.source_first + first + lane) : nullptr;
  for (int32_t unit = warp_index(); unit < (chunks + 3) / 4 * 4; unit += kWarps) {
    const int32_t row = unit % 4 * 8 + lane % 8, chunk = unit / 4 * 4 + lane / 8;
    const char *from = device::shuffle_pointer(own, row) + chunk * kChunk * bytes;
    if (chunk >= chunks) continue;
    const int32_t numbers = channels - chunk * kChunk;
    float x[kChunk] = {};
    if (row < rows && numbers >= kChunk) {
      device::load_eight(x, from, move.source.dtype);
    } else if (row < rows) {
#pragma unroll
      for (int32_t i = 0; i < kChunk; ++i) {
        if (i < numbers) x[i] = device::load_number(from, move.source.dtype, i);
      }
    }
#pragma unroll
    for (int32_t i = 0; i < kChunk; ++i) {
      if (i < numbers) store_shared(place_of(parts, chunk * kChunk + i, row), x[i]);
    }
  }
}

THINK_DEVICE void load_tile(const Parts &parts, const Move &move, const Job &job, const char *tile, int32_t rows) {
  for (int32_t i = warp_index(); i < job.destination.channels; i += kWarps) {
    const int32_t channel = load_shared(parts.channel + i), lane = lane_index();
    const float x = lane < rows ? device::load_number(tile, move.source.dtype, channel * kTileTokens + lane) : 0.0f;
    store_shared(place_of(parts, channel, lane), x);
  }
}

THINK_DEVICE void load_key_codes(const Parts &parts, think_dtype dtype, const Job &job, const char *tile, int32_t rows) {
  const TileLayout layout = device::code_tile(true, job.source.channels, dtype);
  const int32_t kept = job.destination.channels, lane = lane_index();
  const bool groups = device::has_groups(dtype);
  const uint32_t mask = (1u << device::bits_of(dtype)) - 1;
  for (int32_t begin = warp_index() * 32; begin < kept; begin += kWarps * 32) {
    const int32_t count = kept - begin < 32 ? kept - begin : 32, own = lane < count ? load_shared(parts.channel + begin + lane) : 0;
    float scale = job.source_scale, zero = 0.0f;
    if (groups) scale = lane < count ? device::load_half(tile + layout.scale, own) : 0.0f, zero = lane < count ? device::load_half(tile + layout.zero, own) : 0.0f;
    for (int32_t i = 0; i < count; ++i) {
      const int32_t channel = shuffle(own, i);
      const CodePlace at = device::key_code(dtype, channel, lane);
      const uint32_t code = static_cast<uint32_t>(load_constant(reinterpret_cast<const uint8_t *>(tile) + at.byte)) >> at.shift & mask;
      const float x = device::number_of_code(dtype, code, shuffle(scale, i), shuffle(zero, i));
      store_shared(place_of(parts, channel, lane), lane < rows ? x : 0.0f);
    }
  }
}

THINK_DEVICE void load_value_codes(const Parts &parts, think_dtype dtype, const Job &job, const char *tile, int32_t rows) {
  const int32_t channels = job.source.channels, lane = lane_index(), bits = device::bits_of(dtype);
  const TileLayout layout = device::code_tile(false, channels, dtype);
  for (int32_t first = warp_index() * kBlockChannels; first < channels; first += kWarps * kBlockChannels) {
    const int32_t width = channels - first < kBlockChannels ? channels - first : kBlockChannels, bytes = width * bits / 8;
    float scale = job.source_scale, zero = 0.0f;
    if (device::has_groups(dtype)) {
      const int32_t block = first / kBlockChannels, group = block < layout.groups ? block : layout.groups - 1;
      scale = device::load_half(tile + layout.scale, group * kTileTokens + lane), zero = device::load_half(tile + layout.zero, group * kTileTokens + lane);
    }
    const char *row = tile + first * kTileTokens * bits / 8 + lane * bytes;
    const auto store_codes = [&](uint32_t word, int32_t i, int32_t count) {
#pragma unroll
      for (int32_t k = 0; k < 4; ++k) {
        for (int32_t part = 0; part < 8 / bits && k < count; ++part) {
          const uint32_t code = word >> (8 * k + part * bits) & ((1u << bits) - 1);
          const float x = device::number_of_code(dtype, code, scale, zero);
          store_shared(place_of(parts, first + part * bytes + i + k, lane), lane < rows ? x : 0.0f);
        }
      }
    };
    if (bytes % 4 == 0) {
      for (int32_t i = 0; i < bytes; i += 4) store_codes(load_constant(reinterpret_cast<const uint32_t *>(row + i)), i, 4);
    } else {
      for (int32_t i = 0; i < bytes; i += 2) store_codes(load_constant(reinterpret_cast<const uint16_t *>(row + i)), i, 2);
    }
  }
}

// ---- out

// Byte c of lane 4 q + r becomes byte r of lane 4 q + c.
THINK_DEVICE uint32_t transpose_bytes(uint32_t word) {
  const uint32_t near = shuffle_xor(word, 1);
  word = permute_bytes(word, near, lane_index() & 1 ? 0x3715 : 0x6240);
  const uint32_t far = shuffle_xor(word, 2);
  return permute_bytes(word, far, lane_index() & 2 ? 0x3276 : 0x5410);
}

// A warp encodes four channels; a lane has one token of all of them, and afterwards four tokens of one.
THINK_DEVICE void store_key_codes(const Parts &parts, think_dtype dtype, const Job &job, char *tile, int32_t rows) {
  const int32_t kept = job.destination.channels, lane = lane_index(), mine = lane % 4, bits = device::bits_of(dtype);
  const TileLayout layout = device::code_tile(true, kept, dtype);
  const bool groups = device::has_groups(dtype);
  const float inverse_of_segment = device::inverse_of(job.destination_scale);
  uint16_t *scales = reinterpret_cast<uint16_t *>(tile + layout.scale), *zeros = reinterpret_cast<uint16_t *>(tile + layout.zero);
  const bool exists = lane < rows;
  for (int32_t begin = warp_index() * 4; begin < kept; begin += kWarps * 4) {
    float x[4], least = 0, most = 0;
    bool finite = true;
#pragma unroll
    for (int32_t j = 0; j < 4; ++j) {
      x[j] = begin + j < kept ? number_of(parts, begin + j) : 0.0f;
      if (!groups) continue;
      const float low = -warp_max(exists ? -x[j] : -INFINITY), high = warp_max(exists ? x[j] : -INFINITY);
      const bool all_finite = all(!exists || fabsf(x[j]) <= kMostFinite);
      if (j == mine) least = low, most = high, finite = all_finite;
    }
    const CodeRange range = device::code_range(least, most, finite, bits);
    const float zero = device::half_to_float(range.zero), inverse = device::inverse_of(device::half_to_float(range.scale));
    uint32_t word = 0;
#pragma unroll
    for (int32_t j = 0; j < 4; ++j) {
      const uint32_t code = groups ? device::code_of(x[j], shuffle(zero, j), shuffle(inverse, j), bits) : device::f8_code_of(x[j], inverse_of_segment);
      word |= (exists ? code : 0) << 8 * j;
    }
    if (bits == 2) {  // the first eight lanes are what counts: a byte of each channel, as they take turns in a pair
      word |= shuffle_xor(word, 16) << 4;
      word |= shuffle_xor(word, 8) << 2;
      word = permute_bytes(word, shuffle_xor(word, 1), lane & 1 ? 0x3276 : 0x5410);
      if (lane < 8 && begin + lane % 2 * 2 < kept) store_global(reinterpret_cast<uint32_t *>(tile + (begin / 2 + lane % 2) * 16) + lane / 2, word);
    } else {
      if (bits == 4) word |= shuffle_xor(word, 16) << 4;  // the lower half is what counts
      word = transpose_bytes(word);
      if (begin + mine < kept && lane < 4 * bits) store_global(reinterpret_cast<uint32_t *>(tile + (begin + mine) * kTileTokens * bits / 8) + lane / 4, word);
    }
    if (groups && begin + mine < kept && lane < 4) {
      store_global(scales + begin + mine, range.scale);
      store_global(zeros + begin + mine, range.zero);
    }
  }
  const int32_t padding = groups ? static_cast<int32_t>(layout.bytes - layout.zero) / 2 - kept : 0;
  if (thread_index() < padding) store_global(zeros + kept + thread_index(), 0);
}

// A warp has a group of channels (of F8 a block), a lane the row of a token.
THINK_DEVICE void store_value_codes(const Parts &parts, think_dtype dtype, const Job &job, char *tile, int32_t rows) {
  const int32_t kept = job.destination.channels, lane = lane_index(), bits = device::bits_of(dtype);
  const TileLayout layout = device::code_tile(false, kept, dtype);
  const bool exists = lane < rows, has_groups = device::has_groups(dtype);
  const int32_t groups = has_groups ? layout.groups : (kept + kBlockChannels - 1) / kBlockChannels;
  for (int32_t group = warp_index(); group < groups; group += kWarps) {
    const int32_t begin = group * kBlockChannels, end = group == groups - 1 ? kept : begin + kBlockChannels;
    CodeRange range = {0, 0};
    if (has_groups) {
      float least = INFINITY, most = -INFINITY;
      bool finite = true;
      for (int32_t i = begin; i < end; ++i) {
        const float x = number_of(parts, i);
        least = fminf(least, x);
        most = fmaxf(most, x);
        finite = finite && fabsf(x) <= kMostFinite;
      }
      if (exists) range = device::code_range(least, most, finite, bits);
    }
    const float zero = device::half_to_float(range.zero);
    const float inverse = device::inverse_of(has_groups ? device::half_to_float(range.scale) : job.destination_scale);
    for (int32_t first = begin; first < end; first += kBlockChannels) {
      const int32_t width = end - first < kBlockChannels ? end - first : kBlockChannels, bytes = width * bits / 8;
      char *row = tile + first * kTileTokens * bits / 8 + lane * bytes;
      for (int32_t at = 0; at < bytes; at += 16) {
        uint32_t words[4] = {};
#pragma unroll
        for (int32_t i = 0; i < 16; ++i) {
          if (at + i >= bytes) continue;
          uint32_t byte = 0;
          for (int32_t part = 0; part < 8 / bits; ++part) {
            const float x = number_of(parts, first + part * bytes + at + i);
            byte |= (has_groups ? device::code_of(x, zero, inverse, bits) : device::f8_code_of(x, inverse)) << part * bits;
          }
          words[i / 4] |= (exists ? byte : 0) << i % 4 * 8;
        }
        if (bytes % 16 == 0) {
          store_global(reinterpret_cast<Words4 *>(row + at), Words4{words[0], words[1], words[2], words[3]});
        } else if (bytes % 4 == 0) {
#pragma unroll
          for (int32_t i = 0; i < 4; ++i) {
            if (at + 4 * i < bytes) store_global(reinterpret_cast<uint32_t *>(row + at) + i, words[i]);
          }
        } else {  // narrow blocks of two bits
#pragma unroll
          for (int32_t i = 0; i < 4; ++i) {
            if (2 * i < bytes) store_global(reinterpret_cast<uint16_t *>(row) + i, static_cast<uint16_t>(words[i / 2] >> i % 2 * 16));
          }
        }
      }
    }
    if (!has_groups) continue;
    store_global(reinterpret_cast<uint16_t *>(tile + layout.scale) + group * kTileTokens + lane, range.scale);
    store_global(reinterpret_cast<uint16_t *>(tile + layout.zero) + group * kTileTokens + lane, range.zero);
  }
}

// A lane has the row of a token, a warp eight of its channels.
THINK_DEVICE void store_rows(const Parts &parts, const Move &move, const Job &job, int32_t first, int32_t rows) {
  const int32_t kept = job.destination.channels, lane = lane_index(), bytes = move.destination.element_bytes;
  if (lane >= rows) return;
  char *row = device::row_address(job.destination, job.destination_first + first + lane);
  for (int32_t begin = warp_index() * kChunk; begin < kept; begin += kWarps * kChunk) {
    const int32_t count = kept - begin < kChunk ? kept - begin : kChunk;
    char *to = row + begin * bytes;
    float x[kChunk] = {};
#pragma unroll
    for (int32_t i = 0; i < kChunk; ++i) {
      if (i < count) x[i] = number_of(parts, begin + i);
    }
    if (count == kChunk && bytes == 2 && is_aligned(to)) {
      uint32_t words[4];
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        words[i] = move.destination.dtype == THINK_F16 ? pack<F16>(x[2 * i], x[2 * i + 1]) : pack<BF16>(x[2 * i], x[2 * i + 1]);
      }
      store_global(reinterpret_cast<Words4 *>(to), Words4{words[0], words[1], words[2], words[3]});
    } else {
#pragma unroll
      for (int32_t i = 0; i < kChunk; ++i) {
        if (i < count) device::store_number(to, move.destination.dtype, i, x[i]);
      }
    }
  }
}

THINK_DEVICE void store_tile(const Parts &parts, const Move &move, const Job &job, char *tile) {
  for (int32_t i = warp_index(); i < job.destination.channels; i += kWarps) {
    device::store_number(tile, move.destination.dtype, i * kTileTokens + lane_index(), number_of(parts, i));
  }
}

// Rows of a block, and what of the source they keep.
struct Range {
  int32_t begin, end;
};

THINK_DEVICE Range take_range(const Move &move, const Job &job, const Parts &parts) {
  const int32_t begin = first_tile(move) * kTileTokens, most = begin + move.tiles_per_warp * kTileTokens, end = job.count < most ? job.count : most;
  for (int32_t i = thread_index(); i < job.destination.channels; i += kThreads) store_shared(parts.channel + i, job.index ? load_constant(job.index + i) : i);
  sync_block();
  return {begin, end};
}

THINK_DEVICE void load_numbers(const Parts &parts, const Move &move, const Job &job, int32_t first, int32_t rows) {
  if (job.source.layout != THINK_TILES) return load_rows(parts, move, job, first, rows);
  const char *source = device::row_address(job.source, job.source_first + first);
  if (!device::is_codes(move.source.dtype)) return load_tile(parts, move, job, source, rows);
  if (move.source.keys) return load_key_codes(parts, move.source.dtype, job, source, rows);
  load_value_codes(parts, move.source.dtype, job, source, rows);
}

__global__ void __launch_bounds__(kThreads, kBlocks) compact_codes(const __grid_constant__ Move move) {
  SharedCarver carver = shared_memory();
  const Job job = job_of(move, carver);
  const Parts parts = take_parts(carver, move.source.channels);
  const bool to_tiles = job.destination.layout == THINK_TILES;
  const bool same_form = device::is_codes(move.source.dtype) && move.source.dtype == move.destination.dtype &&
                         job.source.channels == job.destination.channels && job.source_scale == job.destination_scale;
  const Range range = take_range(move, job, parts);
  for (int32_t first = range.begin; first < range.end; first += kTileTokens) {
    const int32_t rows = range.end - first < kTileTokens ? range.end - first : kTileTokens;
    char *tile = to_tiles ? device::row_address(job.destination, job.destination_first + first) : nullptr;
    if (same_form && rows == kTileTokens) {
      const char *source = device::row_address(job.source, job.source_first + first);
      for (int32_t i = thread_index(); i < job.source.step / 16; i += kThreads) {
        store_global(reinterpret_cast<Words4 *>(tile) + i, load_stream(reinterpret_cast<const Words4 *>(source) + i));
      }
      continue;
    }
    load_numbers(parts, move, job, first, rows);
    sync_block();
    if (!to_tiles) {
      store_rows(parts, move, job, first, rows);
    } else if (!device::is_codes(move.destination.dtype)) {
      store_tile(parts, move, job, tile);
    } else if (move.destination.keys) {
      store_key_codes(parts, move.destination.dtype, job, tile, rows);
    } else {
      store_value_codes(parts, move.destination.dtype, job, tile, rows);
    }
    sync_block();  // before the next tile comes
  }
}

// ---- scales of F8: the largest number, then what follows of it, in the same place

THINK_DEVICE float *place_of_scale(const Move &move, int32_t sequence, int32_t head) {
  return move.destination.scale + (static_cast<int64_t>(device::slot_of(move.to.slot, sequence)) * move.kv_heads + head);
}

// Grid (groups of KV heads, sequences). ends: it becomes the scale; else it begins with 0.
__global__ void __launch_bounds__(kThreads) compact_scale(const __grid_constant__ Move move, bool ends) {
  const int32_t head = block_x() * kThreads + thread_index();
  if (head >= move.kv_heads) return;
  float *place = place_of_scale(move, block_y(), head);
  store_global(place, ends ? device::f8_scale_of(load_global(place)) : 0.0f);
}

// The grid of compact_codes.
__global__ void __launch_bounds__(kThreads, kBlocks) compact_measure(const __grid_constant__ Move move) {
  SharedCarver carver = shared_memory();
  const Job job = job_of(move, carver);
  const Parts parts = take_parts(carver, move.source.channels);
  const Range range = take_range(move, job, parts);
  float most = 0.0f;
  for (int32_t first = range.begin; first < range.end; first += kTileTokens) {
    load_numbers(parts, move, job, first, range.end - first < kTileTokens ? range.end - first : kTileTokens);
    sync_block();
    for (int32_t i = warp_index(); i < job.destination.channels; i += kWarps) {
      const float x = fabsf(number_of(parts, i));
      if (x <= kMostFinite) most = fmaxf(most, x);
    }
    sync_block();  // before the next tile comes
  }
  most = warp_max(most);
  // Numbers without a sign are ordered as their bits are.
  if (lane_index() == 0 && most > 0.0f) atomic_max(reinterpret_cast<uint32_t *>(place_of_scale(move, block_z(), block_y())), as_bits(most));
}

}  // namespace

int32_t load_codes() {
  if (const int32_t error = prepare(compact_codes, parts_bytes(kMaxChannels))) return error;
  if (const int32_t error = prepare(compact_scale, 0)) return error;
  return prepare(compact_measure, parts_bytes(kMaxChannels));
}

int32_t launch_codes(Move move, int32_t tiles, int32_t sequences, bool measures, void *stream) {
  move.warps = 1;  // of tiles: all warps of a block have the same one
  move.tiles_per_warp = tiles >= 16 * kTilesOfBlock ? kTilesOfBlock : tiles >= 64 ? 4 : 1;
  const Launch how{.name = "compact_codes",
             .grid = {(tiles + move.tiles_per_warp - 1) / move.tiles_per_warp, move.kv_heads, sequences},
             .threads = kThreads,
             .shared_bytes = parts_bytes(move.source.channels),
             .stream = stream};
  if (measures && move.destination.dtype == THINK_F8_E4M3 && move.destination.scale) {
    const Launch of_scales{.name = "compact_scale", .grid = {(move.kv_heads + kThreads - 1) / kThreads, sequences}, .threads = kThreads, .stream = stream};
    Launch of_rows = how;
    of_rows.name = "compact_measure";
    if (const int32_t error = launch(of_scales, compact_scale, move, false)) return error;
    if (const int32_t error = launch(of_rows, compact_measure, move)) return error;
    if (const int32_t error = launch(of_scales, compact_scale, move, true)) return error;
  }
  return launch(how, compact_codes, move);
}

}  // namespace think::compact::cuda
