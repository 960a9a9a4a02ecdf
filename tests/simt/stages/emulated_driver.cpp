// Stands in for libcuda.so.1 where the device is the emulator: its memory, one stream in which everything has ended when a call returns, graphs, which
// keep the launches (and their arguments) that were made during a capture and make them again, and contexts: each thread has a stack of those that are current.
// What needs one that is current fails without. What the runtime does (launches and the like) is stricter here than on a device: it wants the primary one,
// so that a call that forgets to enter is found out whatever the host has current.
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tests/simt/machine.h"

namespace {

using Graph = std::vector<std::function<int32_t()>>;
constexpr int kInvalidValue = 1, kInvalidDevice = 101, kInvalidContext = 201, kInvalidHandle = 400, kLaunchFailed = 719, kWrongState = 401;
int stream;  // something to point at

void *memory_at(uint64_t device) { return reinterpret_cast<void *>(device); }
bool lies_in_a_buffer(uint64_t device, size_t bytes) {
  const auto &memory = simt::machine().memory;
  return memory.in_window(memory_at(device)) && memory.allows(memory.offset_of(memory_at(device)), bytes, simt::Use::host);
}

// ---- contexts
struct Context {};
std::mutex contexts_lock;
Context primary;
int primary_uses = 0;  // those who have retained and not released it
std::vector<std::unique_ptr<Context>> made;
thread_local std::vector<const void *> stack;  // of contexts that are current: the last is on top

const void *current() { return stack.empty() ? nullptr : stack.back(); }

bool lives(const void *context) {
  const std::lock_guard<std::mutex> hold(contexts_lock);
  if (context == &primary) return primary_uses > 0;
  for (const auto &one : made) {
    if (context == one.get()) return true;
  }
  return false;
}

// ---- failures that a test asks for
std::string failing;  // the function whose next call fails
int failing_with = 0;

int failure_of(const char *function) {
  if (failing != function) return 0;
  failing.clear();
  return failing_with;
}

// Why this thread cannot use the device now; 0 = it can.
int without_context() { return lives(current()) ? 0 : kInvalidContext; }

int32_t admit() {
  if (const int error = without_context()) return error;
  if (current() != &primary) return kInvalidHandle;
  return failure_of("launch");
}
const bool ready = (simt::machine().admit = admit, true);

// Sticky, as a driver's.
int state() {
  if (const int error = without_context()) return error;
  return simt::machine().fault() ? kLaunchFailed : 0;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default"))) int

// For tests: the next call of that function of the driver fails; "launch" stands for whatever the runtime does on the device. Returns what was still to fail: 0
// when it has.
EXPORT emulated_driver_fail(const char *function, int error) {
  const int waiting = failing.empty() ? 0 : failing_with;
  failing = function;
  failing_with = error;
  return waiting;
}

EXPORT cuDriverGetVersion(int *version) { return *version = 13000, 0; }
EXPORT cuInit(unsigned) { return 0; }
EXPORT cuDeviceGetCount(int *count) { return *count = 1, 0; }
EXPORT cuDeviceGet(int *device, int index) { return index ? kInvalidDevice : (*device = 0, 0); }
EXPORT cuDeviceGetName(char *name, int bytes, int) {
  std::strncpy(name, "the emulator of tests/simt", static_cast<size_t>(bytes));
  return 0;
}
EXPORT cuDeviceGetAttribute(int *value, int attribute, int) {
  if (const int error = failure_of("cuDeviceGetAttribute")) return error;
  switch (attribute) {
    case 16: return *value = simt::machine().options.multiprocessors, 0;
    case 38: return *value = 1 << 20, 0;
    case 75: return *value = 9, 0;
    case 76: return *value = 0, 0;
    default: return kInvalidValue;
  }
}

EXPORT cuDevicePrimaryCtxRetain(void **context, int) {
  if (const int error = failure_of("cuDevicePrimaryCtxRetain")) return error;
  const std::lock_guard<std::mutex> hold(contexts_lock);
  ++primary_uses;
  *context = &primary;
  return 0;
}
EXPORT cuDevicePrimaryCtxRelease_v2(int) {
  const std::lock_guard<std::mutex> hold(contexts_lock);
  return primary_uses > 0 ? (--primary_uses, 0) : kInvalidContext;
}
EXPORT cuDevicePrimaryCtxGetState(int, unsigned *flags, int *active) {
  const std::lock_guard<std::mutex> hold(contexts_lock);
  *flags = 0;
  *active = primary_uses > 0;
  return 0;
}
EXPORT cuCtxCreate_v2(void **context, unsigned, int) {
  const std::lock_guard<std::mutex> hold(contexts_lock);
  stack.push_back(*context = made.emplace_back(std::make_unique<Context>()).get());
  return 0;
}
EXPORT cuCtxDestroy_v2(void *context) {
  if (context == &primary || !lives(context)) return kInvalidContext;
  if (current() == context) stack.pop_back();
  const std::lock_guard<std::mutex> hold(contexts_lock);
  std::erase_if(made, [&](const auto &one) { return one.get() == context; });
  return 0;
}
EXPORT cuCtxPushCurrent_v2(void *context) {
  if (const int error = failure_of("cuCtxPushCurrent_v2")) return error;
  return lives(context) ? (stack.push_back(context), 0) : kInvalidContext;
}
EXPORT cuCtxPopCurrent_v2(void **popped) {
  if (stack.empty()) return kInvalidContext;
  *popped = const_cast<void *>(current());
  stack.pop_back();
  return 0;
}
EXPORT cuCtxGetCurrent(void **context) { return *context = const_cast<void *>(current()), 0; }
EXPORT cuCtxSetCurrent(void *context) {
  if (context && !lives(context)) return kInvalidContext;
  if (!stack.empty()) stack.pop_back();
  if (context) stack.push_back(context);
  return 0;
}

EXPORT cuGetErrorString(int error, const char **text) {
  static std::string fault;
  if (error == kLaunchFailed) fault = simt::machine().fault().text();
  *text = error == kLaunchFailed ? fault.c_str() : error == kInvalidValue ? "invalid argument" : "an error";
  return 0;
}

EXPORT cuMemAlloc_v2(uint64_t *device, size_t bytes) {
  if (const int error = without_context()) return error;
  *device = reinterpret_cast<uint64_t>(simt::machine().memory.allocate("array", bytes));
  return 0;
}
EXPORT cuMemFree_v2(uint64_t device) {
  if (const int error = without_context()) return error;
  return simt::machine().memory.release(memory_at(device)), 0;
}
EXPORT cuMemcpyHtoD_v2(uint64_t device, const void *host, size_t bytes) {
  if (const int error = without_context()) return error;
  if (!lies_in_a_buffer(device, bytes)) return kInvalidValue;
  simt::machine().memory.write(memory_at(device), host, bytes);
  return state();
}
EXPORT cuMemcpyDtoH_v2(void *host, uint64_t device, size_t bytes) {
  if (const int error = without_context()) return error;
  if (!lies_in_a_buffer(device, bytes)) return kInvalidValue;
  simt::machine().memory.read(host, memory_at(device), bytes);
  return state();
}
EXPORT cuMemsetD8_v2(uint64_t device, unsigned char value, size_t bytes) {
  if (const int error = without_context()) return error;
  return simt::machine().memory.fill(memory_at(device), value, bytes) ? state() : kInvalidValue;
}
EXPORT cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t bytes) {
  if (const int error = without_context()) return error;
  if (!lies_in_a_buffer(from, bytes) || !lies_in_a_buffer(to, bytes)) return kInvalidValue;
  std::vector<char> copy(bytes);
  simt::machine().memory.read(copy.data(), memory_at(from), bytes);
  simt::machine().memory.write(memory_at(to), copy.data(), bytes);
  return state();
}
EXPORT cuMemGetInfo_v2(size_t *available, size_t *total) { return *available = *total = size_t{1} << 28, without_context(); }

EXPORT cuStreamCreate(void **made, unsigned) { return *made = &stream, without_context(); }
EXPORT cuStreamDestroy_v2(void *) { return 0; }
EXPORT cuStreamSynchronize(void *) { return simt::machine().capture ? kWrongState : state(); }
EXPORT cuEventCreate(void **event, unsigned) {
  if (const int error = without_context()) return error;
  return *event = new double(0), 0;
}
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
  if (const int error = without_context()) return error;
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
  if (const int error = without_context()) return error;
  for (const auto &launch : *static_cast<Graph *>(executable)) {
    if (launch()) return kLaunchFailed;
  }
  return 0;
}
EXPORT cuGraphExecDestroy(void *executable) { return delete static_cast<Graph *>(executable), 0; }
EXPORT cuGraphDestroy(void *graph) { return delete static_cast<Graph *>(graph), 0; }
