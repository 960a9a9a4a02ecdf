// The loops of the compact stage, compiled once per instruction set.
#pragma once

#include "cpu.h"
#include "lines.h"

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

// How numbers of 2 or 4 bytes are transposed: 16 bytes of a row hold kCount of them, and a register the same channel of kCount tokens per lane.
template <int kBytes>
struct Unit {
  static constexpr int kCount = kChunkBytes / kBytes;
  static constexpr int kTokens = kCount * kLaneCount;  // of one register
  static constexpr int kRowBytes = kTileTokens * kBytes;  // of one channel in a tile
  static inline void transpose(Line (&x)[kCount]) {
    if constexpr (kBytes == 2) {
      transpose16(x);
    } else {
      transpose32(x);
    }
  }
};

// Fetches rows that come later. The two ways were found by measuring; either is up to a third slower in the other's place (tests/bench/README.md).
struct Ahead {
  static constexpr int64_t kBytes = 2048;
  const char *const *rows;
  int32_t known;
  int64_t row_bytes;
  int32_t row;

  // Tiles, where lines of 32 rows are read across: the next block into the second cache, spread over the work on this one. `part` of `parts`.
  inline void fetch_block(int32_t part, int32_t parts) {
    if (known < 2 * kTileTokens) return;
    for (const int32_t end = (part + 1) * kTileTokens / parts; row < end; ++row) {
      for (int64_t byte = 0; byte < row_bytes; byte += 64) prefetch_far(rows[kTileTokens + row] + byte);
    }
  }
  // Rows, which are read one after the other: only a little ahead, into the first cache.
  inline void fetch_row(int32_t current) {
    const int32_t next = current + static_cast<int32_t>((kBytes + row_bytes - 1) / row_bytes);
    if (next >= known) return;
    for (int64_t byte = 0; byte < row_bytes; byte += 64) prefetch_near(rows[next] + byte);
  }
};

// Channels of a tile on their way to the destination. Every channel is written to the next free place, which only a kept one moves on: no branch depends
// on the mask. Full lines leave in portions, so that writing goes on beside reading.
template <int kBytes>
struct Outlet {
  static constexpr int64_t kRowBytes = kTileTokens * kBytes;
  static constexpr int32_t kPortion = 8;
  alignas(64) char staged[(kMaxChannels + 1) * kRowBytes];
  char *destination;
  bool stream;
  int32_t filled = 0, flushed = 0;

  inline char *next() { return staged + filled * kRowBytes; }
  inline void flush_portion() {
    if (filled - flushed < kPortion) return;
    copy_lines<kPortion * kRowBytes / sizeof(Line)>(destination + flushed * kRowBytes, staged + flushed * kRowBytes, stream);
    flushed += kPortion;
  }
  inline void flush() { copy_out(destination + flushed * kRowBytes, staged + flushed * kRowBytes, (filled - flushed) * kRowBytes, stream); }
};

// The kept channels of 16 bytes (kCount channels, bits = which) of 32 rows.
template <int kBytes>
inline void transpose_chunk(const char *const *at, int64_t offset, uint32_t bits, Outlet<kBytes> &outlet) {
  using U = Unit<kBytes>;
  int32_t kept = 0;
  for (int part = 0; part < kTileTokens / U::kTokens; ++part) {
    Line x[U::kCount];
    for (int j = 0; j < U::kCount; ++j) x[j] = gather_lanes(at + part * U::kTokens + j, U::kCount, offset);
    U::transpose(x);
    char *to = outlet.next() + part * sizeof(Line);
    kept = 0;
    for (int j = 0; j < U::kCount; ++j) {
      store_line(to + kept * U::kRowBytes, x[j]);
      kept += bits >> j & 1;
    }
  }
  outlet.filled += kept;
  outlet.flush_portion();
}

template <int kBytes>
inline void rows_to_tile_sized(const Block &block) {
  using U = Unit<kBytes>;
  const Map &map = *block.map;
  const int64_t source_bytes = bytes_of(block.source_dtype);
  Ahead ahead{block.rows, block.known, map.channels * source_bytes, 0};
  Outlet<kBytes> outlet;
  outlet.destination = block.destination;
  outlet.stream = can_stream(block.destination, block.stream);
  const int32_t chunks = (map.channels + U::kCount - 1) / U::kCount;
  const auto bits_of = [&](int32_t c) { return static_cast<uint32_t>(map.mask[c / 8] >> (c % 8) & ((1u << U::kCount) - 1)); };
  if (block.source_dtype == block.destination_dtype && map.channels % U::kCount == 0) {
    for (int32_t chunk = 0; chunk < chunks; ++chunk) {
      ahead.fetch_block(chunk, chunks);
      const uint32_t bits = bits_of(chunk * U::kCount);
      if (bits) transpose_chunk<kBytes>(block.rows, int64_t{chunk} * kChunkBytes, bits, outlet);
    }
    outlet.flush();
    return;
  }
  // Rows are copied first when their numbers change, or when they end inside 16 bytes, behind which nothing may be read.
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
      const uint32_t bits = bits_of(c + i);
      if (bits) transpose_chunk<kBytes>(at, int64_t{i} * kBytes, bits, outlet);
    }
  }
  outlet.flush();
}

void rows_to_tile(const Block &block) {
  bytes_of(block.destination_dtype) == 2 ? rows_to_tile_sized<2>(block) : rows_to_tile_sized<4>(block);
}

// The kept channels of one row, already in the destination's dtype. Writes up to 16 bytes too many.
inline void gather_row(const Map &map, const char *row, int64_t number_bytes, char *out) {
  if constexpr (kShufflesBytes) {
    const int32_t chunks = static_cast<int32_t>(map.channels * number_bytes / kChunkBytes);
    for (int32_t i = 0; i < chunks; ++i) {
      shuffle_bytes(out, row + i * kChunkBytes, map.shuffle[i]);
      out += map.advance[i];
    }
  } else if (number_bytes == 2) {
    for (int32_t i = 0; i < map.kept; ++i) __builtin_memcpy(out + i * 2, row + map.index[i] * 2, 2);
  } else {
    for (int32_t i = 0; i < map.kept; ++i) __builtin_memcpy(out + i * 4, row + map.index[i] * 4, 4);
  }
}

void rows_to_rows(const Block &block) {
  const Map &map = *block.map;
  const int64_t number_bytes = bytes_of(block.destination_dtype), row_bytes = map.kept * number_bytes;
  const bool same = block.source_dtype == block.destination_dtype;
  Ahead ahead{block.rows, block.known, map.channels * bytes_of(block.source_dtype), 0};
  if (!map.index && same) {
    for (int32_t t = 0; t < block.count; ++t) {
      ahead.fetch_row(t);
      copy_out(block.destination + t * block.destination_stride, block.rows[t], row_bytes, block.stream);
    }
    return;
  }
  // A few rows at a time are packed on the stack, then written in one piece where the destination is packed as well.
  constexpr int32_t kRows = 8;
  alignas(64) char staged[kRows * kMaxChannels * 4 + kChunkBytes];
  alignas(64) char converted[kMaxChannels * 4];
  for (int32_t t = 0; t < block.count; t += kRows) {
    const int32_t rows = block.count - t < kRows ? block.count - t : kRows;
    for (int32_t r = 0; r < rows; ++r) {
      ahead.fetch_row(t + r);
      const char *row = block.rows[t + r];
      char *out = staged + r * row_bytes;
      if (!map.index) {
        convert(row, block.source_dtype, out, block.destination_dtype, map.channels);
        continue;
      }
      if (!same) {
        convert(row, block.source_dtype, converted, block.destination_dtype, map.channels);
        row = converted;
      }
      gather_row(map, row, number_bytes, out);
    }
    char *destination = block.destination + t * block.destination_stride;
    if (block.destination_stride == row_bytes) {
      copy_out(destination, staged, rows * row_bytes, block.stream);
    } else {
      for (int32_t r = 0; r < rows; ++r) __builtin_memcpy(destination + r * block.destination_stride, staged + r * row_bytes, row_bytes);
    }
  }
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

constexpr Kernels kKernels = {rows_to_tile, rows_to_rows, tile_to_tile, tile_to_rows, finish_stream};

}  // namespace
}  // namespace think::compact
