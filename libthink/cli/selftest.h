// The checks of `think selftest`: one layer of numbers, every stage through the C ABI, each result next to the double-precision reference.
#pragma once

#include <functional>
#include <string>

#include "driver.h"
#include "library.h"

namespace think::cli {

struct SelftestShape {
  const char *name;
  int32_t query_heads, kv_heads, key_channels, value_channels, tokens;
  think_dtype dtype;  // of queries, keys and values
  float softcap;
};

// Called once per result: how far it is from the reference, and how far it may be. 0 and 0: equal bit for bit.
using SelftestRecord = std::function<void(const char *stage, double error, double limit)>;

// Called for a stage that the device has no kernels for.
using SelftestSkip = std::function<void(const char *stage, const std::string &reason)>;

struct SelftestTarget {
  DeviceChoice device;
  const Driver *driver;  // of the device, NULL = the CPU
  int32_t threads;
};

// Runs on a context of its own, which takes its instruction set from THINK_CPU_ISA.
void selftest_layer(const SelftestShape &shape, const SelftestTarget &target, const SelftestRecord &record, const SelftestSkip &skip);

}  // namespace think::cli
