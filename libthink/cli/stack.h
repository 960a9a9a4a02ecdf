// A stack: the ways of shrinking a cache that are put on top of each other, as text: PART+PART+..., every part at most once,
//   keys:METHOD:KEPT[:FORMAT]    values:METHOD:KEPT[:FORMAT]    evict:METHOD:BUDGET    fold:block
// METHOD of channels: think (the paper: zeros, no sinks), regressed (uniform widths), adaptive (regressed, adaptive widths); KEPT of the head's channels.
// METHOD of rows: snapkv, h2o, window, tova, recent; BUDGET: rows of each head, or a share of the prompt as 50%. The example engine writes such names.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace think::cli {

struct StackSide {
  std::string method;  // empty: this side stays as it is
  int32_t kept = 0;
  std::string format;  // "int4"; empty: the cache's own
  bool given() const { return !method.empty(); }
  bool quantized() const { return format.compare(0, 3, "int") == 0 || format.compare(0, 3, "fp8") == 0; }
};

struct Stack {
  std::string name;
  StackSide key, value;
  std::string eviction;  // its method; empty: all rows stay
  int64_t rows = 0;      // that eviction leaves of each head; 0 = a share
  double share = 0;
};

// Throws Failure(kUsage) with what was expected. `channels`: of a head, 0 = not known.
Stack parse_stack(const std::string &text, int32_t key_channels = 0, int32_t value_channels = 0);

// What pictures tell apart, in the order of their legend.
enum class Family { dense, think, regressed, adaptive, both_sides, quantized, evicted };
constexpr int kFamilies = 7;
const char *family_name(Family family);

// By what costs most: eviction, then formats, then both sides, then the method of the keys. All channels kept in 16 bits are no family of their own.
Family family_of(const Stack &stack, int32_t key_channels, int32_t value_channels);

// The stacks that are looked at when none are named, for heads of this size.
std::vector<std::string> default_stacks(int32_t key_channels, int32_t value_channels);

}  // namespace think::cli
