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
  int32_t fetched, next_row = kTileTokens;
  int64_t next_byte = 0, kept_bytes = 1;

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
  // Rows that become codes: those of the next tile, into the first cache, spread over the arithmetic on this one, which takes longer than memory. `used`
  // bytes of kept channels were worked on.
  inline void fetch_next(int32_t used) {
    if (next_row >= known) return;
    for (int64_t bytes = used * row_bytes / kept_bytes; bytes > 0; bytes -= 64) {
      prefetch_near(rows[next_row] + next_byte);
      next_byte += 64;
      if (next_byte < row_bytes) continue;
      next_byte = 0;
      if (++next_row >= known) return;
    }
  }
};

}  // namespace
}  // namespace think::compact
