// Stands in for libcuda.so.1 where the device is the emulator: its memory, one stream in which everything has ended when a call returns, and graphs, which
// keep the launches (and their arguments) that were made during a capture and make them again.
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "tests/simt/machine.h"

namespace {

using Graph = std::vector<std::function<int32_t()>>;
constexpr int kInvalidValue = 1, kInvalidDevice = 101, kLaunchFailed = 719, kWrongState = 401;
int stream, context;  // something to point at

void *memory_at(uint64_t device) { return reinterpret_cast<void *>(device); }
bool lies_in_a_buffer(uint64_t device, size_t bytes) {
  const auto &memory = simt::machine().memory;
  return memory.in_window(memory_at(device)) && memory.allows(memory.offset_of(memory_at(device)), bytes, simt::Use::host);
}
int state() { return simt::machine().fault() ? kLaunchFailed : 0; }  // sticky, as a driver's

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default"))) int

EXPORT cuDriverGetVersion(int *version) { return *version = 13000, 0; }
EXPORT cuInit(unsigned) { return 0; }
EXPORT cuDeviceGetCount(int *count) { return *count = 1, 0; }
EXPORT cuDeviceGet(int *device, int index) { return index ? kInvalidDevice : (*device = 0, 0); }
EXPORT cuDeviceGetName(char *name, int bytes, int) {
  std::strncpy(name, "the emulator of tests/simt", static_cast<size_t>(bytes));
  return 0;
}
EXPORT cuDeviceGetAttribute(int *value, int attribute, int) {
  switch (attribute) {
    case 16: return *value = simt::machine().options.multiprocessors, 0;
    case 38: return *value = 1 << 20, 0;
    case 75: return *value = 9, 0;
    case 76: return *value = 0, 0;
    default: return kInvalidValue;
  }
}
EXPORT cuDevicePrimaryCtxRetain(void **made, int) { return *made = &context, 0; }
EXPORT cuDevicePrimaryCtxRelease_v2(int) { return 0; }
EXPORT cuCtxPushCurrent_v2(void *) { return 0; }
EXPORT cuCtxPopCurrent_v2(void **popped) { return *popped = &context, 0; }
EXPORT cuGetErrorString(int error, const char **text) {
  static std::string fault;
  if (error == kLaunchFailed) fault = simt::machine().fault().text();
  *text = error == kLaunchFailed ? fault.c_str() : error == kInvalidValue ? "invalid argument" : "an error";
  return 0;
}

EXPORT cuMemAlloc_v2(uint64_t *device, size_t bytes) { return *device = reinterpret_cast<uint64_t>(simt::machine().memory.allocate("array", bytes)), 0; }
EXPORT cuMemFree_v2(uint64_t device) { return simt::machine().memory.release(memory_at(device)), 0; }
EXPORT cuMemcpyHtoD_v2(uint64_t device, const void *host, size_t bytes) {
  if (!lies_in_a_buffer(device, bytes)) return kInvalidValue;
  simt::machine().memory.write(memory_at(device), host, bytes);
  return state();
}
EXPORT cuMemcpyDtoH_v2(void *host, uint64_t device, size_t bytes) {
  if (!lies_in_a_buffer(device, bytes)) return kInvalidValue;
  simt::machine().memory.read(host, memory_at(device), bytes);
  return state();
}
EXPORT cuMemsetD8_v2(uint64_t device, unsigned char value, size_t bytes) {
  return simt::machine().memory.fill(memory_at(device), value, bytes) ? state() : kInvalidValue;
}
EXPORT cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t bytes) {
  if (!lies_in_a_buffer(from, bytes) || !lies_in_a_buffer(to, bytes)) return kInvalidValue;
  std::vector<char> copy(bytes);
  simt::machine().memory.read(copy.data(), memory_at(from), bytes);
  simt::machine().memory.write(memory_at(to), copy.data(), bytes);
  return state();
}
EXPORT cuMemGetInfo_v2(size_t *available, size_t *total) { return *available = *total = size_t{1} << 28, 0; }

EXPORT cuStreamCreate(void **made, unsigned) { return *made = &stream, 0; }
EXPORT cuStreamDestroy_v2(void *) { return 0; }
EXPORT cuStreamSynchronize(void *) { return simt::machine().capture ? kWrongState : state(); }
EXPORT cuEventCreate(void **event, unsigned) { return *event = new double(0), 0; }
EXPORT cuEventDestroy_v2(void *event) { return delete static_cast<double *>(event), 0; }
EXPORT cuEventRecord(void *event, void *) {
  static double now = 0;  // no time passes here but that of marks: a millisecond from each to the next
  *static_cast<double *>(event) = ++now;
  return state();
}
EXPORT cuEventSynchronize(void *) { return state(); }
EXPORT cuEventElapsedTime(float *milliseconds, void *from, void *to) {
  *milliseconds = static_cast<float>(*static_cast<double *>(to) - *static_cast<double *>(from));
  return 0;
}

EXPORT cuStreamBeginCapture_v2(void *, int) {
  if (simt::machine().capture) return kWrongState;
  simt::machine().capture = new Graph;
  return 0;
}
EXPORT cuStreamEndCapture(void *, void **graph) {
  if (!simt::machine().capture) return kWrongState;
  *graph = simt::machine().capture;
  simt::machine().capture = nullptr;
  return 0;
}
EXPORT cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long) {
  *executable = new Graph(*static_cast<Graph *>(graph));
  return 0;
}
EXPORT cuGraphLaunch(void *executable, void *) {
  for (const auto &launch : *static_cast<Graph *>(executable)) {
    if (launch()) return kLaunchFailed;
  }
  return 0;
}
EXPORT cuGraphExecDestroy(void *executable) { return delete static_cast<Graph *>(executable), 0; }
EXPORT cuGraphDestroy(void *graph) { return delete static_cast<Graph *>(graph), 0; }
