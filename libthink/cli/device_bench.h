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
  int32_t batch, tokens;
  int32_t key_kept, value_kept;  // channels: the cache is dense rows
  float softcap;
  std::vector<int32_t> lengths = {};  // of each sequence, `tokens` at most, on pages of 256; empty = `tokens` each, contiguous
};

struct Measured {
  double seconds = 0;   // median of one call
  int64_t bytes = 0;    // that it has to move: keys, values and bases, read once; compact: read and written
  std::string skipped;  // why there is no time
};

struct StageTime {
  const char *stage;
  Measured measured;
};

class DeviceBench {
 public:
  // `arena_bytes` of device memory hold all caches; `rounds` measurements of each case.
  DeviceBench(Driver &driver, const Context &context, int64_t arena_bytes, int rounds);

  // Plain reading of the arena.
  Measured probe();
  // One decode step, bf16.
  Measured attend(const AttendCase &wanted);
  // score (all tokens as one chunk), moments, select, fit, compact, and prune (all behind score) of one layer of one sequence, half the channels, bf16.
  std::vector<StageTime> prune(int32_t query_heads, int32_t kv_heads, int32_t channels, int32_t tokens);

 private:
  template <class Calls>
  double median_seconds(int calls, const Calls &launch_all);
  template <class Body>
  static Measured measure(const Body &body);
  think_launch workspace(const Plan &plan, int32_t stage, const think_extent *extent, Room &room) const;
  think_basis make_basis(const Plan &plan, Room &room, int32_t side, int32_t slots, int32_t heads, int32_t channels, int32_t kept) const;
  std::byte *arena() const { return static_cast<std::byte *>(arena_.data()); }

  Driver &driver_;
  const Context &context_;
  int rounds_;
  DeviceMemory arena_;
};

}  // namespace think::cli
