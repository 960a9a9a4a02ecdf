// What a CUDA kernel of this project may use of the device: every PTX instruction and every access to global and shared memory goes through the
// small functions below. nvcc gets inline PTX; with THINK_SIMT the same kernel sources compile as C++ and tests/simt/device.h gives each function a
// checked implementation, so a kernel runs without a GPU. Kernels contain no asm, no CUDA built-in variable and no pointer dereference of their own
// (tests/simt/lint.py). What is not memory or a warp's business (fmaf, fmaxf, sqrt, integer arithmetic) is written plainly.
//
// Conventions
//   - Pointers to global memory are ordinary typed pointers (`const T *`), used for arithmetic only. T has 1, 2, 4, 8 or 16 bytes and the address
//     is aligned to sizeof(T).
//   - Shared memory is dynamic only: `SharedCarver` cuts it into `Shared<T>` views, on the host (to count bytes) and on the device by the same lines.
//   - Collectives (names of PTX) need all 32 lanes of the warp, unless a mask is an argument.
//   - Blocks are one-dimensional and a multiple of 32 threads; grids have up to three dimensions.
//   - For the compiler all memory functions and barriers stay in the order in which they are written; ptxas, which knows what they touch, overlaps them.
//     Only read_shared() may be left out in part, and stays between the stores and barriers around it.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define THINK_DEVICE __device__ __forceinline__
#define THINK_HOST_DEVICE __host__ __device__ __forceinline__
#elif defined(THINK_SIMT)
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define THINK_DEVICE __forceinline__
#define THINK_HOST_DEVICE __forceinline__
#else
#error "kernels/common/ptx.cuh needs nvcc, or THINK_SIMT for the emulator of tests/simt"
#endif

namespace think::ptx {

// 16-bit elements. Nothing but a place for the bits; see to_float(), from_float<T>(), pack<T>().
struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};

// 8 and 16 bytes as 32-bit words: the widest loads, and packed pairs of 16-bit elements (low half = lower address = first element).
struct alignas(8) Words2 {
  uint32_t x, y;
};
struct alignas(16) Words4 {
  uint32_t x, y, z, w;
};
struct alignas(8) Float2 {
  float x, y;
};
struct alignas(16) Float4 {
  float x, y, z, w;
};

constexpr uint32_t kAllLanes = 0xffffffffu;

template <class T>
struct IsF16 {
  static constexpr bool value = false;
};
template <>
struct IsF16<F16> {
  static constexpr bool value = true;
};

// A parameter that takes no part in deduction: store_global(float_pointer, 0) stores a float.
template <class T>
struct SameType {
  using type = T;
};
template <class T>
using Same = typename SameType<T>::type;

}  // namespace think::ptx

#if defined(THINK_SIMT)
#include "tests/simt/device.h"
#else
#include "ptx_device.cuh"
#endif

// What follows is written once in terms of the functions above, so it runs on the device and in the emulator alike.
namespace think::ptx {

// Cuts a block's dynamic shared memory. On the device start from shared_memory(); on the host start from SharedCarver{} and read `bytes()`
// afterwards: the same lines give the size to launch with.
struct SharedCarver {
  uint32_t begin = 0, next = 0;

  template <class T>
  THINK_HOST_DEVICE Shared<T> take(uint32_t count, uint32_t alignment = 16) {
    next = (next + alignment - 1) / alignment * alignment;
    const Shared<T> view = make_shared<T>(next, count);
    next += count * static_cast<uint32_t>(sizeof(T));
    return view;
  }
  THINK_HOST_DEVICE uint32_t bytes() const { return next - begin; }
};

// The whole dynamic shared memory of the block, aligned to 128 bytes.
THINK_DEVICE SharedCarver shared_memory() { return {shared_base(), shared_base()}; }

// The k16 MMA on fragments held in arrays: acc += a * b. T is F16 or BF16, the sums are f32.
// Lane l = 4 g + t holds, of a (16 x 16, rows g): a[0] = (g, 2t..2t+1), a[1] = (g+8, 2t..), a[2] = (g, 2t+8..), a[3] = (g+8, 2t+8..);
// of b (16 x 8, columns g): b[0] = (2t..2t+1, g), b[1] = (2t+8.., g); of acc (16 x 8): acc[0..1] = (g, 2t..2t+1), acc[2..3] = (g+8, 2t..2t+1).
template <class T>
THINK_DEVICE void mma(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma<T>(acc, a[0], a[1], a[2], a[3], b[0], b[1]);
}

template <class T>
THINK_DEVICE T shuffle_sum_step(T value, int32_t distance) {
  return value + shuffle_xor(value, distance);
}

// Sum and maximum over the lanes that differ in the bits below `lanes` (a power of two), the same bits in all of them. Fixed order.
template <class T>
THINK_DEVICE T warp_sum(T value, int32_t lanes = 32) {
  for (int32_t distance = lanes / 2; distance > 0; distance /= 2) value = shuffle_sum_step(value, distance);
  return value;
}

THINK_DEVICE float warp_max(float value, int32_t lanes = 32) {
  for (int32_t distance = lanes / 2; distance > 0; distance /= 2) value = fmaxf(value, shuffle_xor(value, distance));
  return value;
}

// True in every thread of the one block that arrives last of `arrivals` blocks at *counter; that block then sees everything the others stored to
// global memory before they came (read it with load_l2(), never with load_constant()). No block waits. The counter must start at 0 and is 0 again
// afterwards. Attend reduces with it; it is the only inter-block communication that is meant to be, and all its memory-model reasoning is here:
//   writers: the block barrier orders the stores of all threads before thread 0, whose acq_rel add at gpu scope releases them with its own (release is
//   cumulative; a fence in each thread costs a microsecond and adds nothing);
//   reader: thread 0's acq_rel add that returns the last number acquires them all (adds form one release sequence), the barrier extends that to its block.
// Every thread of the block must call it.
THINK_DEVICE bool last_block(uint32_t *counter, uint32_t arrivals) {
  sync_block();
  return sync_block_or(thread_index() == 0 && atomic_increment_wrap(counter, arrivals - 1) == arrivals - 1);
}

}  // namespace think::ptx
