// The inside of libthink_cuda.so.1: the table that the core asks for. Compiled into that library only.
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cstring>

#include "libthink/backend/cuda/stages.h"

namespace think::cuda {
namespace {

constexpr int32_t kOldestArchitecture = 80;

// The driver's own functions for what the runtime cannot say: "this context, and afterwards whatever was there". The core has loaded the driver before.
struct Driver {
  decltype(&cuDeviceGet) device;
  decltype(&cuDevicePrimaryCtxRetain) retain;
  decltype(&cuDevicePrimaryCtxRelease) release;
  decltype(&cuCtxPushCurrent) push;
  decltype(&cuCtxPopCurrent) pop;
  bool complete;
};

template <class Function>
bool find(void *library, const char *name, Function &function) {
  void *symbol = ::dlsym(library, name);
  std::memcpy(&function, &symbol, sizeof function);
  return symbol != nullptr;
}

#define THINK_TEXT_OF(name) #name
#define THINK_TEXT(name) THINK_TEXT_OF(name)  // cuda.h renames functions that have a second version

const Driver &driver() {
  static const Driver table = [] {
    Driver found{};
    void *library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    found.complete = library && find(library, THINK_TEXT(cuDeviceGet), found.device) && find(library, THINK_TEXT(cuDevicePrimaryCtxRetain), found.retain) &&
                     find(library, THINK_TEXT(cuDevicePrimaryCtxRelease), found.release) && find(library, THINK_TEXT(cuCtxPushCurrent), found.push) &&
                     find(library, THINK_TEXT(cuCtxPopCurrent), found.pop);
    return found;
  }();
  return table;
}

const char *error_text(int32_t error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

int32_t enter(const Device &device) { return driver().push(static_cast<CUcontext>(device.context)); }

void leave() {
  CUcontext left;
  driver().pop(&left);
}

int32_t read_attributes(Device &device) {
  const struct {
    cudaDeviceAttr attribute;
    int32_t *value;
  } wanted[] = {{cudaDevAttrComputeCapabilityMajor, &device.major},
                {cudaDevAttrComputeCapabilityMinor, &device.minor},
                {cudaDevAttrMultiProcessorCount, &device.multiprocessors}};
  for (const auto &[attribute, value] : wanted) {
    if (const cudaError_t error = cudaDeviceGetAttribute(value, attribute, device.index)) return error;
  }
  return device.major * 10 + device.minor < kOldestArchitecture ? cudaErrorNoKernelImageForDevice : cudaSuccess;
}

// Driver and runtime share the numbers of their errors.
int32_t open(int32_t index, Device &device) {
  if (!driver().complete) return cudaErrorInsufficientDriver;
  CUdevice handle;
  if (const CUresult error = driver().device(&handle, index)) return error;
  CUcontext context;
  if (const CUresult error = driver().retain(&context, handle)) return error;
  device = {context, index, 0, 0, 0};
  int32_t error = enter(device);
  if (!error) {
    error = read_attributes(device);
    leave();
  }
  if (error) driver().release(handle);
  return error;
}

void close(const Device &device) {
  CUdevice handle;
  if (!driver().device(&handle, device.index)) driver().release(handle);
}

cudaStream_t stream_of(void *stream) { return static_cast<cudaStream_t>(stream); }

int32_t capturing(void *stream, bool *capturing) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t error = cudaStreamIsCapturing(stream_of(stream), &status);
  *capturing = status != cudaStreamCaptureStatusNone;
  return error;
}

int32_t copy(const Copy &copy, void *stream) {
  if (copy.width == 0 || copy.rows == 0) return cudaSuccess;
  const size_t width = static_cast<size_t>(copy.width);
  if (copy.rows == 1) return cudaMemcpyAsync(copy.to, copy.from, width, cudaMemcpyDefault, stream_of(stream));
  return cudaMemcpy2DAsync(copy.to, static_cast<size_t>(copy.to_pitch), copy.from, static_cast<size_t>(copy.from_pitch), width,
                           static_cast<size_t>(copy.rows), cudaMemcpyDefault, stream_of(stream));
}

int32_t synchronize(void *stream) { return cudaStreamSynchronize(stream_of(stream)); }

int32_t host_memory(int64_t bytes, void **memory) { return cudaHostAlloc(memory, static_cast<size_t>(bytes), cudaHostAllocDefault); }

void free_host_memory(void *memory) { cudaFreeHost(memory); }

int32_t make_event(void **event) {
  cudaEvent_t made;
  const cudaError_t error = cudaEventCreateWithFlags(&made, cudaEventDisableTiming);
  if (!error) *event = made;
  return error;
}

void free_event(void *event) { cudaEventDestroy(static_cast<cudaEvent_t>(event)); }

int32_t record(void *event, void *stream) { return cudaEventRecord(static_cast<cudaEvent_t>(event), stream_of(stream)); }

int32_t wait(void *event) { return cudaEventSynchronize(static_cast<cudaEvent_t>(event)); }

constexpr Backend table = with_stages({
    .abi = kBackendAbi,
    .size = sizeof(Backend),
    .version = THINK_VERSION_MAJOR * 10000 + THINK_VERSION_MINOR * 100 + THINK_VERSION_PATCH,
    .minimum_driver = CUDART_VERSION / 1000 * 1000,  // within one major version older drivers run newer programs
    .architectures = THINK_CUDA_ARCHITECTURES,
    .error_text = error_text,
    .open = open,
    .close = close,
    .enter = enter,
    .leave = leave,
    .capturing = capturing,
    .copy = copy,
    .synchronize = synchronize,
    .host_memory = host_memory,
    .free_host_memory = free_host_memory,
    .make_event = make_event,
    .free_event = free_event,
    .record = record,
    .wait = wait,
});

}  // namespace
}  // namespace think::cuda

extern "C" __attribute__((visibility("default"))) const think::cuda::Backend *think_cuda_backend() { return &think::cuda::table; }
