#include "driver.h"

#include <dlfcn.h>

#include <cstring>

namespace think::cli {

// The prototypes are ours: CUdevice is an int, CUdeviceptr 64 bits, handles are pointers.
struct DriverFunctions {
  int (*init)(unsigned);
  int (*device_count)(int *);
  int (*device_get)(int *, int);
  int (*device_name)(char *, int, int);
  int (*device_attribute)(int *, int, int);
  int (*retain)(void **, int);
  int (*release)(int);
  int (*push)(void *);
  int (*pop)(void **);
  int (*error_string)(int, const char **);
  int (*allocate)(uint64_t *, size_t);
  int (*free)(uint64_t);
  int (*upload)(uint64_t, const void *, size_t);
  int (*download)(void *, uint64_t, size_t);
  int (*fill)(uint64_t, unsigned char, size_t);
  int (*stream_create)(void **, unsigned);
  int (*stream_destroy)(void *);
  int (*stream_synchronize)(void *);
  int (*event_create)(void **, unsigned);
  int (*event_destroy)(void *);
  int (*event_record)(void *, void *);
  int (*event_synchronize)(void *);
  int (*event_elapsed)(float *, void *, void *);
  int (*begin_capture)(void *, int);
  int (*end_capture)(void *, void **);
  int (*instantiate)(void **, void *, unsigned long long);
  int (*graph_launch)(void *, void *);
  int (*executable_destroy)(void *);
  int (*graph_destroy)(void *);
};

namespace {

constexpr char kDriver[] = "libcuda.so.1";
// Numbers of the driver's interface.
constexpr int kMultiprocessors = 16, kCacheBytes = 38, kMajor = 75, kMinor = 76;
constexpr unsigned kStreamNonBlocking = 1;
constexpr int kCaptureThreadLocal = 1;

// Returns the name of the first function that is missing, NULL when there are all.
const char *find_all(void *library, DriverFunctions &call) {
  const auto find = [&](const char *name, auto &function) -> const char * {
    void *symbol = ::dlsym(library, name);
    std::memcpy(&function, &symbol, sizeof function);
    return symbol ? nullptr : name;
  };
  const char *missing = nullptr;
  const auto need = [&](const char *name, auto &function) {
    if (!missing) missing = find(name, function);
  };
  need("cuInit", call.init);
  need("cuDeviceGetCount", call.device_count);
  need("cuDeviceGet", call.device_get);
  need("cuDeviceGetName", call.device_name);
  need("cuDeviceGetAttribute", call.device_attribute);
  need("cuDevicePrimaryCtxRetain", call.retain);
  need("cuDevicePrimaryCtxRelease_v2", call.release);
  need("cuCtxPushCurrent_v2", call.push);
  need("cuCtxPopCurrent_v2", call.pop);
  need("cuGetErrorString", call.error_string);
  need("cuMemAlloc_v2", call.allocate);
  need("cuMemFree_v2", call.free);
  need("cuMemcpyHtoD_v2", call.upload);
  need("cuMemcpyDtoH_v2", call.download);
  need("cuMemsetD8_v2", call.fill);
  need("cuStreamCreate", call.stream_create);
  need("cuStreamDestroy_v2", call.stream_destroy);
  need("cuStreamSynchronize", call.stream_synchronize);
  need("cuEventCreate", call.event_create);
  need("cuEventDestroy_v2", call.event_destroy);
  need("cuEventRecord", call.event_record);
  need("cuEventSynchronize", call.event_synchronize);
  need("cuEventElapsedTime", call.event_elapsed);
  need("cuStreamBeginCapture_v2", call.begin_capture);
  need("cuStreamEndCapture", call.end_capture);
  need("cuGraphInstantiateWithFlags", call.instantiate);
  need("cuGraphLaunch", call.graph_launch);
  need("cuGraphExecDestroy", call.executable_destroy);
  need("cuGraphDestroy", call.graph_destroy);
  return missing;
}

// Loads and starts the driver; the text says why it cannot be used.
std::string start(DriverFunctions &call, int32_t index) {
  // Stays loaded, as in every CUDA program.
  static void *const library = ::dlopen(kDriver, RTLD_NOW | RTLD_LOCAL);
  if (!library) return std::string("no NVIDIA driver: ") + kDriver + " could not be loaded";
  if (const char *missing = find_all(library, call)) return std::string(kDriver) + " has no " + missing;
  int count = 0;
  if (const int error = call.init(0)) return "the NVIDIA driver does not start (error " + std::to_string(error) + ")";
  if (const int error = call.device_count(&count)) return "the NVIDIA driver counts no devices (error " + std::to_string(error) + ")";
  if (index < 0 || index >= count) {
    return "no CUDA device " + std::to_string(index) + ": the NVIDIA driver finds " + (count ? std::to_string(count) : std::string("none"));
  }
  return "";
}

uint64_t address(const void *device) { return reinterpret_cast<uint64_t>(device); }

}  // namespace

std::string Driver::absent(int32_t index) {
  DriverFunctions call;
  return start(call, index);
}

void Driver::check(int error, const char *what) const {
  if (!error) return;
  const char *text = nullptr;
  call_->error_string(error, &text);
  throw Failure(kLibrary, std::string(what) + ": CUDA error " + std::to_string(error) + (text ? std::string(", ") + text : ""));
}

Driver::Driver(int32_t index) : call_(std::make_unique<DriverFunctions>()) {
  if (const std::string reason = start(*call_, index); !reason.empty()) throw Failure(kLibrary, reason);
  check(call_->device_get(&device_, index), "looking for the device");
  char name[256] = "";
  check(call_->device_name(name, sizeof name, device_), "asking the device for its name");
  name_ = name;
  int32_t major = 0, minor = 0, cache = 0;
  const std::pair<int, int32_t *> attributes[] = {{kMultiprocessors, &multiprocessors_}, {kCacheBytes, &cache}, {kMajor, &major}, {kMinor, &minor}};
  for (const auto &[attribute, value] : attributes) check(call_->device_attribute(value, attribute, device_), "asking the device what it is");
  capability_ = 10 * major + minor;
  cache_bytes_ = cache;
  check(call_->retain(&context_, device_), "opening the device");
  int error = call_->push(context_);
  if (!error) {
    error = call_->stream_create(&stream_, kStreamNonBlocking);
    if (error) {
      void *popped;
      call_->pop(&popped);
    }
  }
  if (error) call_->release(device_);
  check(error, "opening the device");
}

Driver::~Driver() {
  call_->stream_synchronize(stream_);
  call_->stream_destroy(stream_);
  void *popped;
  call_->pop(&popped);
  call_->release(device_);
}

void Driver::synchronize() const { check(call_->stream_synchronize(stream_), "waiting for the device"); }

void *Driver::allocate(int64_t bytes) const {
  uint64_t memory = 0;
  if (const int error = call_->allocate(&memory, static_cast<size_t>(bytes))) {
    const char *text = nullptr;
    call_->error_string(error, &text);
    throw Failure(kIo, std::to_string(bytes) + " bytes of device memory: " + (text ? text : "not to be had"));
  }
  return reinterpret_cast<void *>(memory);
}

void Driver::release(void *memory) const noexcept { call_->free(address(memory)); }

void Driver::upload(void *device, const void *host, int64_t bytes) const {
  synchronize();
  check(call_->upload(address(device), host, static_cast<size_t>(bytes)), "copying to the device");
}

void Driver::download(void *host, const void *device, int64_t bytes) const {
  synchronize();
  check(call_->download(host, address(device), static_cast<size_t>(bytes)), "copying from the device");
}

void Driver::fill(void *device, unsigned char value, int64_t bytes) const {
  synchronize();
  check(call_->fill(address(device), value, static_cast<size_t>(bytes)), "filling device memory");
  // The fill goes into another stream than ours, and may still be running.
  check(call_->stream_synchronize(nullptr), "filling device memory");
}

Driver::Event::Event(const Driver &driver) : driver_(driver) { driver.check(driver.call_->event_create(&event_, 0), "making an event"); }
Driver::Event::~Event() { driver_.call_->event_destroy(event_); }
void Driver::Event::record() { driver_.check(driver_.call_->event_record(event_, driver_.stream_), "recording an event"); }
double Driver::Event::milliseconds_since(const Event &earlier) const {
  float milliseconds = 0;
  driver_.check(driver_.call_->event_synchronize(event_), "waiting for the device");
  driver_.check(driver_.call_->event_elapsed(&milliseconds, earlier.event_, event_), "reading an event");
  return milliseconds;
}

void Driver::begin_capture() const { check(call_->begin_capture(stream_, kCaptureThreadLocal), "beginning a capture"); }

Driver::Graph::Graph(const Driver &driver) : driver_(driver) {
  driver.check(driver.call_->end_capture(driver.stream_, &graph_), "ending a capture");
  const int error = driver.call_->instantiate(&executable_, graph_, 0);
  if (error) driver.call_->graph_destroy(graph_);
  driver.check(error, "making a graph executable");
}
Driver::Graph::~Graph() {
  driver_.call_->stream_synchronize(driver_.stream_);
  driver_.call_->executable_destroy(executable_);
  driver_.call_->graph_destroy(graph_);
}
void Driver::Graph::launch() const { driver_.check(driver_.call_->graph_launch(executable_, driver_.stream_), "launching a graph"); }

}  // namespace think::cli
