// Time of the stages on a CUDA device: by events around graphs, so that launches cost what they cost an engine, over caches that no L2 holds. Used by
// `think bench --device` and by the project's device benchmark (tests/bench/gpu).
#pragma once

#include <string>
#include <vector>

#include "library.h"
#include "room.h"

namespace think::cli {

struct AttendCase {
  int32_t query_heads, kv_heads, channels;
  int32_t batch, tokens;         // tokens: a multiple of 32
  int32_t key_kept, value_kept;  // channels: all of them, without a basis
  float softcap;
  std::vector<int32_t> lengths = {};  // of each sequence, `tokens` at most, on pages of 256; empty = `tokens` each, contiguous
  think_dtype key_dtype = THINK_BF16, value_dtype = THINK_BF16;
};

struct Measured {
  double seconds = 0;   // median of one call
  int64_t bytes = 0;    // that it has to move: keys, values (scales and zeros of codes among them) and bases, read once; compact: read and written
  std::string skipped;  // why there is no time
  std::vector<uint16_t> output = {};  // of attention, bf16
};

struct StageTime {
  const char *stage;
  Measured measured;
};

class DeviceBench {
 public:
  // `arena_bytes` of device memory hold caches of numbers; `rounds` measurements of each case. A cache of codes is made of the dense one that the arena
  // holds, in memory of its own.
  DeviceBench(Driver &driver, const Context &context, int64_t arena_bytes, int rounds);

  // Plain reading of the arena.
  Measured probe();
  // One decode step, bf16 but for the cache.
  Measured attend(const AttendCase &wanted);
  // score (all tokens as one chunk), moments, select, fit, compact, and prune (all behind score) of one layer of one sequence, half the channels, bf16.
  std::vector<StageTime> prune(int32_t query_heads, int32_t kv_heads, int32_t channels, int32_t tokens);

 private:
  struct Rows;
  struct Cache;

  template <class Calls>
  double median_seconds(int calls, const Calls &launch_all);
  template <class Body>
  static Measured measure(const Body &body);
  think_launch workspace(const Plan &plan, int32_t stage, const think_extent *extent, Room &room) const;
  think_basis make_basis(const Plan &plan, Room &room, int32_t side, int32_t slots, int32_t heads, int32_t channels, int32_t kept) const;
  Cache lay_out(const Plan &plan, Room &room, const AttendCase &wanted, const Rows &rows) const;
  void store_codes(const Plan &plan, Room &room, int32_t sequences, const Cache &dense, Cache &codes) const;
  std::byte *arena() const { return static_cast<std::byte *>(arena_.data()); }

  Driver &driver_;
  const Context &context_;
  int rounds_;
  DeviceMemory arena_;
};

}  // namespace think::cli
