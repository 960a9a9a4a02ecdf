// The inside of libthink_cuda.so.1: the table that the core asks for. Compiled into that library only.
#include <cuda_runtime_api.h>

#include "libthink/backend/cuda/driver.h"
#include "libthink/backend/cuda/stages.h"

namespace think::cuda {
namespace {

const char *error_text(int32_t error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

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
    .open = open_device,
    .close = close_device,
    .enter = enter_device,
    .leave = leave_device,
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
