// The loops of the compact stage, compiled once per instruction set.
#pragma once

#include <type_traits>

#include "ahead.h"
#include "cpu.h"
#include "lines.h"
#include "quantize.h"

namespace think::compact {
namespace {

// Channels that go through a small buffer on the stack in one go: it stays in the first cache.
constexpr int32_t kStrip = 64;

inline int64_t bytes_of(think_dtype dtype) { return dtype_bytes(dtype); }

template <class S, class D>
inline void convert_run(const char *source, char *destination, int64_t count) {
  const auto *from = reinterpret_cast<const typename S::Type *>(source);
  auto *to = reinterpret_cast<typename D::Type *>(destination);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) D::store(to + i, S::load(from + i));
  if (i == count) return;
  typename S::Type padded_from[kLanes] = {};
  typename D::Type padded_to[kLanes];
  __builtin_memcpy(padded_from, from + i, (count - i) * sizeof(typename S::Type));
  D::store(padded_to, S::load(padded_from));
  __builtin_memcpy(to + i, padded_to, (count - i) * sizeof(typename D::Type));
}

// kBytes: of a number of the destination.
template <int kBytes>
inline void convert(const char *source, think_dtype from, char *destination, think_dtype to, int64_t count) {
  if (from == to) {
    __builtin_memcpy(destination, source, count * kBytes);
  } else if constexpr (kBytes == 4) {
    from == THINK_F16 ? convert_run<F16, F32>(source, destination, count) : convert_run<BF16, F32>(source, destination, count);
  } else if (from == THINK_F32) {
    to == THINK_F16 ? convert_run<F32, F16>(source, destination, count) : convert_run<F32, BF16>(source, destination, count);
  } else {
    to == THINK_F16 ? convert_run<BF16, F16>(source, destination, count) : convert_run<F16, BF16>(source, destination, count);
  }
}

inline void convert(const char *source, think_dtype from, char *destination, think_dtype to, int64_t count) {
  bytes_of(to) == 2 ? convert<2>(source, from, destination, to, count) : convert<4>(source, from, destination, to, count);
}

// Channels of a tile on their way to the destination: a register that is a whole line goes there at once. The branch on the mask is taken the same way in
// every tile of a head, which processors learn.
template <int kBytes>
struct LineOutlet {
  static constexpr int64_t kRowBytes = kTileTokens * kBytes;
  char *destination;
  bool stream;

  inline void put(int part, const Line *x, uint32_t bits) {
    char *to = destination + part * sizeof(Line);
#pragma GCC unroll 8
    for (int j = 0; j < Unit<kBytes>::kCount; ++j) {
      if (!(bits & 1u << j)) continue;
      if (stream) {
        stream_line(to, x[j]);
      } else {
        store_line(to, x[j]);
      }
      to += kRowBytes;
    }
  }
  inline void next(uint32_t bits) { destination += __builtin_popcount(bits) * kRowBytes; }
  inline void flush() {}
};

// Shorter registers: every channel is written to the next free place, which only a kept one moves on, and full lines leave in portions, so that writing
// goes on beside reading.
template <int kBytes>
struct StagedOutlet {
  static constexpr int64_t kRowBytes = kTileTokens * kBytes;
  static constexpr int32_t kPortion = 8;
  char *destination;
  bool stream;
  int32_t filled = 0, flushed = 0;
  alignas(64) char staged[(kMaxChannels + 1) * kRowBytes];

  inline void put(int part, const Line *x, uint32_t bits) {
    char *to = staged + filled * kRowBytes + part * sizeof(Line);
    for (int j = 0; j < Unit<kBytes>::kCount; ++j) {
      store_line(to, x[j]);
      to += (bits >> j & 1) * kRowBytes;
    }
  }
  inline void next(uint32_t bits) {
    filled += __builtin_popcount(bits);
    if (filled - flushed < kPortion) return;
    copy_lines<kPortion * kRowBytes / sizeof(Line)>(destination + flushed * kRowBytes, staged + flushed * kRowBytes, stream);
    flushed += kPortion;
  }
  inline void flush() { copy_out(destination + flushed * kRowBytes, staged + flushed * kRowBytes, (filled - flushed) * kRowBytes, stream); }
};

template <int kBytes>
using Outlet = std::conditional_t<sizeof(Line) == 64, LineOutlet<kBytes>, StagedOutlet<kBytes>>;

// The kept channels of 16 bytes (kCount channels, bits = which) of 32 rows.
template <int kBytes>
[[gnu::always_inline]] inline void transpose_chunk(const char *const *at, int64_t offset, uint32_t bits, Outlet<kBytes> &outlet) {
  using U = Unit<kBytes>;
  for (int part = 0; part < kTileTokens / U::kTokens; ++part) {
    Line x[U::kCount];
    for (int j = 0; j < U::kCount; ++j) x[j] = gather_lanes(at + part * U::kTokens + j, U::kCount, offset);
    U::transpose(x);
    outlet.put(part, x, bits);
  }
  outlet.next(bits);
}

template <int kBytes>
inline uint32_t bits_of(const Map &map, int32_t channel) {
  return static_cast<uint32_t>(map.mask[channel / 8] >> (channel % 8) & ((1u << Unit<kBytes>::kCount) - 1));
}

// Lines of 32 rows are read where they are.
template <int kBytes>
[[gnu::noinline]] void rows_to_tile_across(const Block &block) {
  using U = Unit<kBytes>;
  const Map &map = *block.map;
  Ahead ahead(block, int64_t{map.channels} * kBytes, 0);
  Outlet<kBytes> outlet{block.destination, can_stream(block.destination, block.stream)};
  const int32_t chunks = map.channels / U::kCount;
  for (int32_t chunk = 0; chunk < chunks; ++chunk) {
    ahead.fetch_block(chunk, chunks);
    ahead.fetch_line(chunk);
    const uint32_t bits = bits_of<kBytes>(map, chunk * U::kCount);
    if (bits) transpose_chunk<kBytes>(block.rows, int64_t{chunk} * kChunkBytes, bits, outlet);
  }
  outlet.flush();
}

// Rows are copied first, a strip of channels at a time.
template <int kBytes>
[[gnu::noinline]] void rows_to_tile_copied(const Block &block) {
  using U = Unit<kBytes>;
  const Map &map = *block.map;
  const int64_t source_bytes = bytes_of(block.source_dtype);
  Ahead ahead(block, map.channels * source_bytes, 0);
  Outlet<kBytes> outlet{block.destination, can_stream(block.destination, block.stream)};
  alignas(64) char copied[kTileTokens * kStrip * kBytes];
  const char *at[kTileTokens];
  for (int t = 0; t < kTileTokens; ++t) at[t] = copied + t * kStrip * kBytes;
  const int32_t strips = (map.channels + kStrip - 1) / kStrip;
  for (int32_t strip = 0; strip < strips; ++strip) {
    const int32_t c = strip * kStrip, channels = map.channels - c < kStrip ? map.channels - c : kStrip;
    for (int t = 0; t < kTileTokens; ++t) {
      ahead.fetch_block(strip * kTileTokens + t, strips * kTileTokens);
      convert<kBytes>(block.rows[t] + c * source_bytes, block.source_dtype, copied + t * kStrip * kBytes, block.destination_dtype, channels);
    }
    for (int32_t i = 0; i < channels; i += U::kCount) {
      const uint32_t bits = bits_of<kBytes>(map, c + i);
      if (bits) transpose_chunk<kBytes>(at, int64_t{i} * kBytes, bits, outlet);
    }
  }
  outlet.flush();
}

// The kept channels of one row, already in the destination's dtype. Writes up to kGatherBytes too many.
template <int kBytes>
inline void gather_row(const Map &map, const char *row, char *out) {
  if constexpr (kGatherBytes > 0) {
    const int64_t row_bytes = int64_t{map.channels} * kBytes;
    const uint8_t *advance = map.advance;
    for (int64_t at = 0; at < row_bytes; at += kGatherBytes) {
      gather_numbers<kBytes>(out, row + at, map.order + at, row_bytes - at);
      out += *advance++;
    }
  } else {
    for (int32_t i = 0; i < map.kept; ++i) __builtin_memcpy(out + i * kBytes, row + map.index[i] * kBytes, kBytes);
  }
}

// Where numbers that are collected from rows from `row` on are put: in `buffer`, which has a page more than they take, a line in front of the row's place
// within a page. A processor takes a load for one of a store before it that ended in the same place of another page, and waits; so stores follow the loads
// in their pages and are never met by them. Left to the stack's address, some processes were a third slower than others.
constexpr int64_t kPage = 4096;
inline char *behind(char *buffer, const char *row) {
  return buffer + ((reinterpret_cast<uintptr_t>(row) - 64 - reinterpret_cast<uintptr_t>(buffer)) & (kPage - 64));
}

// Reading lines of 32 rows across costs the same for few kept channels as for all: up to one in three, they are collected first.
constexpr int32_t kFewShare = 3;
template <int kBytes>
[[gnu::noinline]] void rows_to_tile_collected(const Block &block) {
  using U = Unit<kBytes>;
  const Map &map = *block.map;
  Ahead ahead(block, int64_t{map.channels} * kBytes, 0);
  Outlet<kBytes> outlet{block.destination, can_stream(block.destination, block.stream)};
  // An odd number of lines from row to row uses all of the first cache.
  alignas(64) char buffer[kTileTokens * (kMaxChannels / kFewShare * kBytes + 128) + 64 + kPage];
  char *const collected = behind(buffer, block.rows[0]);
  const int64_t stride = ((map.kept * kBytes + 63) / 64 | 1) * 64;
  const char *at[kTileTokens];
  for (int t = 0; t < kTileTokens; ++t) {
    block.together ? ahead.fetch_block(t, kTileTokens) : ahead.fetch_row(t, 2 * Ahead::kBytes);
    at[t] = collected + t * stride;
    gather_row<kBytes>(map, block.rows[t], collected + t * stride);
  }
  for (int32_t c = 0; c < map.kept; c += U::kCount) {
    const int32_t left = map.kept - c;
    transpose_chunk<kBytes>(at, int64_t{c} * kBytes, (1u << (left < U::kCount ? left : U::kCount)) - 1, outlet);
  }
  outlet.flush();
}

template <int kBytes>
inline void rows_to_tile_sized(const Block &block) {
  // Copied when their numbers change, when they end inside 16 bytes, behind which nothing may be read, and when a distance of a multiple of 1 KiB would
  // send the lines of many rows to the same few places of the first cache.
  const bool crowded = (reinterpret_cast<uintptr_t>(block.rows[1]) - reinterpret_cast<uintptr_t>(block.rows[0])) % 1024 == 0;
  const bool across = block.source_dtype == block.destination_dtype && block.map->channels % Unit<kBytes>::kCount == 0 && !crowded;
  const bool few = kGatherBytes == 64 && block.map->index && kFewShare * block.map->kept <= block.map->channels;
  if (block.source_dtype == block.destination_dtype && few) return rows_to_tile_collected<kBytes>(block);
  across ? rows_to_tile_across<kBytes>(block) : rows_to_tile_copied<kBytes>(block);
}

void rows_to_tile(const Block &block) {
  bytes_of(block.destination_dtype) == 2 ? rows_to_tile_sized<2>(block) : rows_to_tile_sized<4>(block);
}

template <int kBytes>
inline void rows_to_rows_sized(const Block &block) {
  const Map &map = *block.map;
  const int64_t row_bytes = int64_t{map.kept} * kBytes;
  const bool same = block.source_dtype == block.destination_dtype;
  Ahead ahead(block, map.channels * bytes_of(block.source_dtype), block.first * block.next_count / kTileTokens);
  const auto fetch = [&](int32_t t) { block.together ? ahead.fetch_block(block.first + t, kTileTokens) : ahead.fetch_row(t); };
  if (!map.index && same) {
    for (int32_t t = 0; t < block.count; ++t) {
      fetch(t);
      copy_out(block.destination + t * block.destination_stride, block.rows[t], row_bytes, block.stream);
    }
    return;
  }
  if (map.index && same && block.padded) {
    for (int32_t t = 0; t < block.count; ++t) {
      fetch(t);
      gather_row<kBytes>(map, block.rows[t], block.destination + t * block.destination_stride);
    }
    return;
  }
  // A few rows at a time are packed on the stack, then written in one piece where the destination is packed as well; a turn later, because a load waits
  // for all that was just stored under it in smaller pieces.
  constexpr int32_t kRows = 8;
  alignas(64) char buffer[2][kRows * kMaxChannels * kBytes + 64 + kPage];
  alignas(64) char converted[kMaxChannels * kBytes];
  char *staged[2];
  const auto deliver = [&](int32_t t) {
    const int32_t rows = block.count - t < kRows ? block.count - t : kRows;
    const char *from = staged[t / kRows % 2];
    char *destination = block.destination + t * block.destination_stride;
    if (block.destination_stride == row_bytes) {
      copy_out(destination, from, rows * row_bytes, block.stream);
    } else {
      for (int32_t r = 0; r < rows; ++r) __builtin_memcpy(destination + r * block.destination_stride, from + r * row_bytes, row_bytes);
    }
  };
  int32_t t = 0;
  for (; t < block.count; t += kRows) {
    const int32_t rows = block.count - t < kRows ? block.count - t : kRows;
    staged[t / kRows % 2] = behind(buffer[t / kRows % 2], block.rows[t]);
    for (int32_t r = 0; r < rows; ++r) {
      fetch(t + r);
      const char *row = block.rows[t + r];
      char *out = staged[t / kRows % 2] + r * row_bytes;
      if (!map.index) {
        convert<kBytes>(row, block.source_dtype, out, block.destination_dtype, map.channels);
        continue;
      }
      if (!same) {
        convert<kBytes>(row, block.source_dtype, converted, block.destination_dtype, map.channels);
        row = converted;
      }
      gather_row<kBytes>(map, row, out);
    }
    if (t > 0) deliver(t - kRows);
  }
  deliver(t - kRows);
}

void rows_to_rows(const Block &block) {
  bytes_of(block.destination_dtype) == 2 ? rows_to_rows_sized<2>(block) : rows_to_rows_sized<4>(block);
}

void tile_to_tile(const Block &block) {
  const int64_t from = kTileTokens * bytes_of(block.source_dtype), to = kTileTokens * bytes_of(block.destination_dtype);
  const int32_t kept = block.map->kept, *index = block.map->index;
  if (!index && block.count == kTileTokens && block.source_dtype == block.destination_dtype) {
    copy_out(block.destination, block.tile, kept * to, block.stream);
    return;
  }
  for (int32_t c = 0; c < kept; ++c) {
    char *row = block.destination + c * to;
    convert(block.tile + (index ? index[c] : c) * from, block.source_dtype, row, block.destination_dtype, block.count);
    const int64_t written = block.count * bytes_of(block.destination_dtype);
    __builtin_memset(row + written, 0, to - written);
  }
}

template <int kBytes>
inline void tile_to_rows_sized(const Block &block) {
  using U = Unit<kBytes>;
  const int64_t from = kTileTokens * bytes_of(block.source_dtype);
  alignas(64) char staged[kTileTokens][kStrip * kBytes];
  alignas(64) char converted[U::kCount * U::kRowBytes];
  char *at[kTileTokens];
  for (int t = 0; t < kTileTokens; ++t) at[t] = staged[t];
  const int32_t kept = block.map->kept, *index = block.map->index;
  for (int32_t c = 0; c < kept; c += kStrip) {
    const int32_t channels = kept - c < kStrip ? kept - c : kStrip;
    for (int32_t i = 0; i < channels; i += U::kCount) {
      const char *source = block.tile + (c + i) * from;
      const int32_t count = channels - i < U::kCount ? channels - i : U::kCount;
      if (index || block.source_dtype != block.destination_dtype || count < U::kCount) {
        for (int32_t j = 0; j < count; ++j) {
          const char *row = block.tile + (index ? index[c + i + j] : c + i + j) * from;
          convert<kBytes>(row, block.source_dtype, converted + j * U::kRowBytes, block.destination_dtype, kTileTokens);
        }
        __builtin_memset(converted + count * U::kRowBytes, 0, (U::kCount - count) * U::kRowBytes);
        source = converted;
      }
      for (int part = 0; part < kTileTokens / U::kTokens; ++part) {
        Line x[U::kCount];
        for (int j = 0; j < U::kCount; ++j) x[j] = load_line(source + j * U::kRowBytes + part * sizeof(Line));
        U::transpose(x);
        for (int j = 0; j < U::kCount; ++j) scatter_lanes(at + part * U::kTokens + j, U::kCount, int64_t{i} * kBytes, x[j]);
      }
    }
    for (int32_t t = 0; t < block.count; ++t) {
      __builtin_memcpy(block.destination + t * block.destination_stride + c * kBytes, staged[block.first + t], channels * kBytes);
    }
  }
}

void tile_to_rows(const Block &block) {
  bytes_of(block.destination_dtype) == 2 ? tile_to_rows_sized<2>(block) : tile_to_rows_sized<4>(block);
}

constexpr Kernels kKernels = {kGatherBytes, rows_to_tile, rows_to_rows, tile_to_tile, tile_to_rows, find_f8_steps, encode, decode, find_largest, finish_stream};

}  // namespace
}  // namespace think::compact
