// The host's side of a kernel: what the host code in kernels/<stage>/cuda.cu needs of the CUDA runtime. In the emulator (THINK_SIMT) a launch runs
// the whole grid before it returns. Every function returns a cudaError_t as int32_t, 0 = success, and clears no sticky error.
#pragma once

#include "ptx.cuh"

namespace think::ptx {

struct Grid {
  int32_t x = 1, y = 1, z = 1;
};

constexpr uint32_t kReservedShared = 1 << 10;  // of a multiprocessor's shared memory, for each block besides its own

struct Launch {
  const char *name;  // of the kernel, for the emulator's reports
  Grid grid;
  int32_t threads;            // per block, a multiple of 32
  uint32_t shared_bytes = 0;  // dynamic shared memory; more than 48 KiB needs prepare() first
  void *stream = nullptr;
  bool overlap = false;  // may start before its predecessor has ended; the kernel calls wait_for_previous_launch() (sm_90 and newer)
};

}  // namespace think::ptx

#if defined(THINK_SIMT)
#include "tests/simt/launch.h"
#else

#include <cuda_runtime_api.h>

namespace think::ptx {

// When a plan is made, once per kernel and device: loads the kernel, so that a launch can be captured, and allows it its shared memory.
template <class... P>
int32_t prepare(void (*kernel)(P...), uint32_t shared_bytes) {
  const void *function = reinterpret_cast<const void *>(kernel);
  cudaFuncAttributes attributes;
  if (const cudaError_t error = cudaFuncGetAttributes(&attributes, function)) return error;
  return cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
}

// Blocks of a kernel that one multiprocessor holds at a time. For plans, not for run calls.
template <class... P>
int32_t resident_blocks(int32_t *blocks, void (*kernel)(P...), int32_t threads, uint32_t shared_bytes) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, reinterpret_cast<const void *>(kernel), threads, shared_bytes);
}

// Multiprocessors of the current device.
inline int32_t multiprocessors(int32_t *count) {
  int device;
  if (const cudaError_t error = cudaGetDevice(&device)) return error;
  return cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device);
}

// Shared memory of one of them, which its blocks divide.
inline int32_t multiprocessor_shared_bytes(int32_t *bytes) {
  int device;
  if (const cudaError_t error = cudaGetDevice(&device)) return error;
  return cudaDeviceGetAttribute(bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
}

// A grid without blocks is no launch.
template <class... P>
int32_t launch(const Launch &how, void (*kernel)(P...), Same<P>... arguments) {
  if (how.grid.x <= 0 || how.grid.y <= 0 || how.grid.z <= 0) return 0;
  cudaLaunchAttribute overlap;
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(how.grid.x, how.grid.y, how.grid.z);
  config.blockDim = dim3(how.threads);
  config.dynamicSmemBytes = how.shared_bytes;
  config.stream = static_cast<cudaStream_t>(how.stream);
  config.attrs = &overlap;
  config.numAttrs = how.overlap ? 1 : 0;
  void *pointers[] = {static_cast<void *>(&arguments)..., nullptr};
  return cudaLaunchKernelExC(&config, reinterpret_cast<const void *>(kernel), pointers);
}

// Sets device memory to zero in the order of the stream.
inline int32_t set_zero(void *memory, size_t bytes, void *stream) {
  return bytes ? cudaMemsetAsync(memory, 0, bytes, static_cast<cudaStream_t>(stream)) : 0;
}

}  // namespace think::ptx
#endif
