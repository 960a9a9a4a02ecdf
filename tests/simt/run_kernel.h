// For the emulator's own tests: launches a kernel and gives the fault that it ended with.
#pragma once

#include <gtest/gtest.h>

#include "buffer.h"
#include "kernels/common/launch.cuh"

namespace think::simt_test {

using namespace think::ptx;
using simt::Buffer;
using simt::FaultKind;
using simt::machine;

struct Shape {
  int32_t blocks = 1, threads = 32;
  uint32_t shared_bytes = 0;
};

// Resets the machine before; `seed` is the only option that the tests vary here.
template <class... P>
const simt::Fault &run_kernel(const Shape &shape, uint64_t seed, void (*kernel)(P...), Same<P>... arguments) {
  machine().reset();
  machine().options = {.seed = seed};
  const int32_t status =
      launch({.name = "tested", .grid = {shape.blocks}, .threads = shape.threads, .shared_bytes = shape.shared_bytes}, kernel, arguments...);
  EXPECT_EQ(status != 0, static_cast<bool>(machine().fault())) << status;
  return machine().fault();
}

// In how many of the seeds 0 .. 29 the kernel ends with this fault; any other fault fails the test.
template <class... P>
int32_t seeds_caught(FaultKind kind, const Shape &shape, void (*kernel)(P...), Same<P>... arguments) {
  int32_t caught = 0;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const simt::Fault &fault = run_kernel(shape, seed, kernel, arguments...);
    if (!fault) continue;
    EXPECT_EQ(simt::fault_name(fault.kind), std::string(simt::fault_name(kind))) << fault.text();
    caught += fault.kind == kind;
  }
  return caught;
}

#define EXPECT_NO_FAULT(call)                  \
  do {                                         \
    const simt::Fault &no_fault = call;        \
    EXPECT_FALSE(no_fault) << no_fault.text(); \
  } while (0)

}  // namespace think::simt_test
