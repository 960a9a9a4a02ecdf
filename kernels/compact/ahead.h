#pragma once

#include "../common/prefetch.h"
#include "cpu.h"

namespace think::compact {
namespace {

// Fetches rows that come later. The ways were found by measuring; each is up to a third slower in another's place (tests/bench/README.md).
struct Ahead {
  static constexpr int64_t kBytes = 2048;
  const char *const *rows, *const *next;
  int32_t known, next_count;
  int64_t row_bytes, next_bytes;
  int32_t fetched;

  Ahead(const Block &block, int64_t bytes, int32_t before)
      : rows(block.rows), next(block.next), known(block.known), next_count(block.next_count), row_bytes(bytes), next_bytes(block.next_bytes), fetched(before) {}
  // Tiles, where lines of 32 rows are read across, and heads side by side: the next block into the second cache, spread over the work on this one.
  // `part` of `parts`.
  inline void fetch_block(int32_t part, int32_t parts) {
    for (const int32_t end = (part + 1) * next_count / parts; fetched < end; ++fetched) {
      for (int64_t byte = 0; byte < next_bytes; byte += 64) prefetch_far(next[fetched] + byte);
    }
  }
  // ... and from there the next line of all rows into the first cache, spread over the work on a line.
  inline void fetch_line(int32_t chunk) {
    constexpr int32_t kChunks = 64 / kChunkBytes, kRows = kTileTokens / kChunks;
    const int64_t line = (chunk / kChunks + 1) * int64_t{64};
    if (line >= row_bytes) return;
    for (int32_t r = 0; r < kRows; ++r) prefetch_near(rows[chunk % kChunks * kRows + r] + line);
  }
  // Rows, which are read one after the other: only a little ahead, into the first cache; twice as much where the work comes in bursts.
  inline void fetch_row(int32_t current, int64_t distance = kBytes) {
    const int32_t after = current + static_cast<int32_t>((distance + row_bytes - 1) / row_bytes);
    if (after >= known) return;
    for (int64_t byte = 0; byte < row_bytes; byte += 64) prefetch_near(rows[after] + byte);
  }
};

// Fetches rows that become codes, spread over the arithmetic on this tile, which takes longer than memory: those of the next tile into the first cache, and
// those of the one behind it into the second, from where the first has them in time. Row after row: memory gives half as much when they are read across.
struct NextTiles {
  const char *const *rows;  // of the next tile and the one behind it
  int64_t row_bytes;
  int32_t work, due = 0, row = 0;

  // All the work on a tile, in the unit of fetch_for().
  NextTiles(const char *const *next, int64_t bytes, int32_t all) : rows(next), row_bytes(bytes), work(all) {}
  // What is due with a part of it.
  inline void fetch_for(int32_t part) {
    for (due += part * kTileTokens; due >= work && row < kTileTokens; due -= work, ++row) {
      const char *near = rows[row], *far = rows[row + kTileTokens];
      for (int64_t byte = 0; byte < row_bytes; byte += 64) {
        prefetch_near(near + byte);
        prefetch_far(far + byte);
      }
    }
  }
};

}  // namespace
}  // namespace think::compact
