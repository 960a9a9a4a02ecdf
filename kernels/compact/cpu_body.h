// The loops of the compact stage, compiled once per instruction set.
#pragma once

#include "cpu.h"
#include "lines.h"

namespace think::compact {
namespace {

// Channels that go through the small buffers on the stack in one go: they stay in the first cache.
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

// Kept channels of a strip of at most 64, from 32 rows to `staged`; returns their number. Every channel is written to the next free place, which only
// a kept one moves on: no branch depends on the mask. So `staged` has room for one channel more.
template <int kBytes>
inline int32_t transpose_strip(const char *const *at, const uint8_t *mask, int32_t channels, char *staged) {
  using U = Unit<kBytes>;
  int32_t kept = 0;
  for (int32_t c = 0; c < channels; c += U::kCount) {
    const uint32_t bits = mask[c / 8] >> (c % 8) & ((1u << U::kCount) - 1);
    if (bits == 0) continue;
    int32_t next = kept;
    for (int part = 0; part < kTileTokens / U::kTokens; ++part) {
      Line x[U::kCount];
      for (int j = 0; j < U::kCount; ++j) x[j] = gather_lanes(at + part * U::kTokens + j, U::kCount, int64_t{c} * kBytes);
      U::transpose(x);
      next = kept;
      for (int j = 0; j < U::kCount; ++j) {
        store_line(staged + next * U::kRowBytes + part * sizeof(Line), x[j]);
        next += bits >> j & 1;
      }
    }
    kept = next;
  }
  return kept;
}

template <int kBytes>
inline void rows_to_tile_sized(const Block &block) {
  const Map &map = *block.map;
  const int64_t source_bytes = bytes_of(block.source_dtype);
  alignas(64) char staged[(kStrip + 1) * kTileTokens * kBytes];
  alignas(64) char copied[kTileTokens * kStrip * kBytes];
  const char *at[kTileTokens];
  char *destination = block.destination;
  for (int32_t c = 0; c < map.channels; c += kStrip) {
    const int32_t channels = map.channels - c < kStrip ? map.channels - c : kStrip;
    // Rows are copied first when their numbers change, or when they end inside 16 bytes, behind which nothing may be read.
    if (block.source_dtype != block.destination_dtype || channels * kBytes % kChunkBytes != 0) {
      for (int t = 0; t < kTileTokens; ++t) {
        char *row = copied + t * kStrip * kBytes;
        convert<kBytes>(block.rows[t] + c * source_bytes, block.source_dtype, row, block.destination_dtype, channels);
        at[t] = row;
      }
    } else {
      for (int t = 0; t < kTileTokens; ++t) at[t] = block.rows[t] + c * source_bytes;
    }
    const int64_t bytes = int64_t{transpose_strip<kBytes>(at, map.mask + c / 8, channels, staged)} * kTileTokens * kBytes;
    copy_out(destination, staged, bytes, block.stream);
    destination += bytes;
  }
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
  if (!map.index && same) {
    for (int32_t t = 0; t < block.count; ++t) {
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
