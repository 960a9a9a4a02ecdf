#include "driver.h"

#include <dlfcn.h>

#include "libthink/backend/symbol.h"

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
  int (*duplicate)(uint64_t, uint64_t, size_t);
  int (*memory_info)(size_t *, size_t *);
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
  // May be missing.
  int (*module_load)(void **, const void *);
  int (*module_function)(void **, void *, const char *);
  int (*module_unload)(void *);
  int (*launch_kernel)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
};

namespace {

constexpr char kDriver[] = "libcuda.so.1";
// Numbers of the driver's interface.
constexpr int kMultiprocessors = 16, kCacheBytes = 38, kMajor = 75, kMinor = 76;
constexpr unsigned kStreamNonBlocking = 1;
constexpr int kCaptureThreadLocal = 1;

// Each thread reads 16 bytes four times per step, a grid apart, and keeps the sum (exclusive or) alive by a store that hardly ever happens.
constexpr char kReadKernel[] = R"(.version 7.4
.target sm_80
.address_size 64
.visible .entry read_stream(.param .u64 data, .param .u64 count, .param .u64 sink)
{
  .reg .pred %more, %never;
  .reg .b32 %x<17>, %sum, %thread, %ctas, %threads, %cta;
  .reg .b64 %at, %end, %out, %step, %i, %n, %byte, %far, %last, %reach;
  ld.param.u64 %at, [data];
  ld.param.u64 %n, [count];
  ld.param.u64 %out, [sink];
  cvta.to.global.u64 %at, %at;
  cvta.to.global.u64 %out, %out;
  mov.u32 %thread, %tid.x;
  mov.u32 %cta, %ctaid.x;
  mov.u32 %ctas, %nctaid.x;
  mov.u32 %threads, %ntid.x;
  mad.lo.u32 %thread, %cta, %threads, %thread;
  mul.lo.u32 %threads, %threads, %ctas;
  cvt.u64.u32 %i, %thread;
  cvt.u64.u32 %step, %threads;
  mov.u32 %sum, 0;
  shl.b64 %byte, %i, 4;
  add.u64 %at, %at, %byte;
  shl.b64 %far, %step, 4;
  mul.lo.u64 %n, %n, 16;
  ld.param.u64 %end, [data];
  cvta.to.global.u64 %end, %end;
  add.u64 %end, %end, %n;
  mul.lo.u64 %reach, %far, 3;
FOUR:
  add.u64 %last, %at, %reach;
  setp.ge.u64 %more, %last, %end;
  @%more bra NEXT;
  ld.global.nc.L1::no_allocate.v4.u32 {%x1, %x2, %x3, %x4}, [%at];
  add.u64 %at, %at, %far;
  ld.global.nc.L1::no_allocate.v4.u32 {%x5, %x6, %x7, %x8}, [%at];
  add.u64 %at, %at, %far;
  ld.global.nc.L1::no_allocate.v4.u32 {%x9, %x10, %x11, %x12}, [%at];
  add.u64 %at, %at, %far;
  ld.global.nc.L1::no_allocate.v4.u32 {%x13, %x14, %x15, %x16}, [%at];
  add.u64 %at, %at, %far;
  xor.b32 %sum, %sum, %x1;
  xor.b32 %sum, %sum, %x2;
  xor.b32 %sum, %sum, %x3;
  xor.b32 %sum, %sum, %x4;
  xor.b32 %sum, %sum, %x5;
  xor.b32 %sum, %sum, %x6;
  xor.b32 %sum, %sum, %x7;
  xor.b32 %sum, %sum, %x8;
  xor.b32 %sum, %sum, %x9;
  xor.b32 %sum, %sum, %x10;
  xor.b32 %sum, %sum, %x11;
  xor.b32 %sum, %sum, %x12;
  xor.b32 %sum, %sum, %x13;
  xor.b32 %sum, %sum, %x14;
  xor.b32 %sum, %sum, %x15;
  xor.b32 %sum, %sum, %x16;
  bra FOUR;
NEXT:
  setp.ge.u64 %more, %at, %end;
  @%more bra DONE;
  ld.global.nc.L1::no_allocate.v4.u32 {%x1, %x2, %x3, %x4}, [%at];
  xor.b32 %x1, %x1, %x2;
  xor.b32 %x3, %x3, %x4;
  xor.b32 %sum, %sum, %x1;
  xor.b32 %sum, %sum, %x3;
  add.u64 %at, %at, %far;
  bra NEXT;
DONE:
  setp.eq.u32 %never, %sum, 0x5eed1234;
  @%never st.global.u32 [%out], %sum;
  ret;
}
)";

// Returns the name of the first function that is missing, NULL when there are all.
const char *find_all(void *library, DriverFunctions &call) {
  const char *missing = nullptr;
  const auto need = [&](const char *name, auto &function) {
    if (!missing && !find_symbol(library, name, function)) missing = name;
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
  need("cuMemcpyDtoD_v2", call.duplicate);
  need("cuMemGetInfo_v2", call.memory_info);
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
  if (!find_symbol(library, "cuModuleLoadData", call.module_load) || !find_symbol(library, "cuModuleGetFunction", call.module_function) ||
      !find_symbol(library, "cuModuleUnload", call.module_unload) || !find_symbol(library, "cuLaunchKernel", call.launch_kernel)) {
    call.module_load = nullptr;
  }
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
  if (module_) call_->module_unload(module_);
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

void Driver::repeat(void *device, int64_t pattern, int64_t bytes) const {
  synchronize();
  for (int64_t have = pattern; have < bytes;) {
    const int64_t more = have < bytes - have ? have : bytes - have;
    check(call_->duplicate(address(device) + static_cast<uint64_t>(have), address(device), static_cast<size_t>(more)), "copying on the device");
    have += more;
  }
  check(call_->stream_synchronize(nullptr), "copying on the device");
}

int64_t Driver::free_bytes() const {
  size_t available = 0, total = 0;
  check(call_->memory_info(&available, &total), "asking for free memory");
  return static_cast<int64_t>(available);
}

bool Driver::read_stream(const void *device, int64_t bytes) {
  constexpr unsigned kThreads = 512;
  if (!call_->module_load) return false;
  if (!module_) {
    check(call_->module_load(&module_, kReadKernel), "loading the probe");
    check(call_->module_function(&read_kernel_, module_, "read_stream"), "loading the probe");
  }
  uint64_t data = address(device), count = static_cast<uint64_t>(bytes / 16), sink = data;
  void *arguments[] = {&data, &count, &sink};
  check(call_->launch_kernel(read_kernel_, static_cast<unsigned>(multiprocessors_) * 4, 1, 1, kThreads, 1, 1, 0, stream_, arguments, nullptr),
        "launching the probe");
  return true;
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
