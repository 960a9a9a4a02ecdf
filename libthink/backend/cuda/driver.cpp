#include "libthink/backend/cuda/driver.h"

#include <dlfcn.h>

#include "libthink/backend/symbol.h"

namespace think::cuda {
namespace {

constexpr int32_t kOldestArchitecture = 80;
// Numbers of the driver's interface, which shares those of errors with the runtime.
constexpr int kInsufficientDriver = 35, kNoKernelImageForDevice = 209;
constexpr int kMultiprocessors = 16, kMajor = 75, kMinor = 76;

// The prototypes are ours: CUdevice is an int, a context a pointer. Names are those that cuda.h gives to functions that have a second version.
struct Driver {
  int (*device)(int *, int);
  int (*attribute)(int *, int, int);
  int (*retain)(void **, int);
  int (*release)(int);
  int (*push)(void *);
  int (*pop)(void **);
  bool complete;
};

// The core has loaded the driver before.
const Driver &driver() {
  static const Driver table = [] {
    Driver found{};
    void *library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    found.complete = library && find_symbol(library, "cuDeviceGet", found.device) && find_symbol(library, "cuDeviceGetAttribute", found.attribute) &&
                     find_symbol(library, "cuDevicePrimaryCtxRetain", found.retain) && find_symbol(library, "cuDevicePrimaryCtxRelease_v2", found.release) &&
                     find_symbol(library, "cuCtxPushCurrent_v2", found.push) && find_symbol(library, "cuCtxPopCurrent_v2", found.pop);
    return found;
  }();
  return table;
}

int32_t read_attributes(int handle, Device &device) {
  const struct {
    int attribute;
    int32_t *value;
  } wanted[] = {{kMajor, &device.major}, {kMinor, &device.minor}, {kMultiprocessors, &device.multiprocessors}};
  for (const auto &[attribute, value] : wanted) {
    if (const int error = driver().attribute(value, attribute, handle)) return error;
  }
  return device.major * 10 + device.minor < kOldestArchitecture ? kNoKernelImageForDevice : 0;
}

}  // namespace

int32_t open_device(int32_t index, Device &device) {
  if (!driver().complete) return kInsufficientDriver;
  int handle;
  if (const int error = driver().device(&handle, index)) return error;
  Device found{nullptr, index, 0, 0, 0};
  if (const int32_t error = read_attributes(handle, found)) return error;
  if (const int error = driver().retain(&found.context, handle)) return error;
  device = found;
  return 0;
}

void close_device(const Device &device) {
  int handle;
  if (!driver().device(&handle, device.index)) driver().release(handle);
}

int32_t enter_device(const Device &device) { return driver().push(device.context); }

void leave_device() {
  void *left;
  driver().pop(&left);
}

}  // namespace think::cuda
