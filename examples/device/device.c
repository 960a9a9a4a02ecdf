#include "device.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
  int (*init)(unsigned);
  int (*count)(int *);
  int (*get)(int *, int);
  int (*retain)(void **, int);
  int (*push)(void *);
  int (*allocate)(uint64_t *, size_t);
  int (*fill)(uint64_t, unsigned char, size_t);
  int (*put)(uint64_t, const void *, size_t);
  int (*fetch)(void *, uint64_t, size_t);
  int (*stream)(void **, unsigned);
  int (*wait)(void *);
  int (*capture)(void *, int);
  int (*end_capture)(void *, void **);
  int (*instantiate)(void **, void *, unsigned long long);
  int (*launch)(void *, void *);
} driver;

static const struct {
  const char *name;
  void *function;
} symbols[] = {
    {"cuInit", &driver.init},
    {"cuDeviceGetCount", &driver.count},
    {"cuDeviceGet", &driver.get},
    {"cuDevicePrimaryCtxRetain", &driver.retain},
    {"cuCtxPushCurrent_v2", &driver.push},
    {"cuMemAlloc_v2", &driver.allocate},
    {"cuMemsetD8_v2", &driver.fill},
    {"cuMemcpyHtoD_v2", &driver.put},
    {"cuMemcpyDtoH_v2", &driver.fetch},
    {"cuStreamCreate", &driver.stream},
    {"cuStreamSynchronize", &driver.wait},
    {"cuStreamBeginCapture_v2", &driver.capture},
    {"cuStreamEndCapture", &driver.end_capture},
    {"cuGraphInstantiateWithFlags", &driver.instantiate},
    {"cuGraphLaunch", &driver.launch},
};

static void check(int code, const char *what) {
  if (code == 0) return;
  fprintf(stderr, "%s: CUDA error %d\n", what, code);
  exit(1);
}

const char *device_open(device *device, const char *name) {
  void *library, *context, *symbol;
  int count = 0, handle;
  size_t i;
  memset(device, 0, sizeof *device);
  if (strcmp(name, "cpu") == 0) return NULL;
  if (strncmp(name, "cuda", 4) != 0 || (name[4] != 0 && name[4] != ':')) {
    fprintf(stderr, "device: expected cpu, cuda or cuda:N, got '%s'\n", name);
    exit(2);
  }
  device->cuda = 1;
  device->index = name[4] ? atoi(name + 5) : 0;
  library = dlopen("libcuda.so.1", RTLD_NOW);
  if (!library) return "no NVIDIA driver: libcuda.so.1 could not be loaded";
  for (i = 0; i < sizeof symbols / sizeof *symbols; ++i) {
    symbol = dlsym(library, symbols[i].name);
    if (!symbol) return "libcuda.so.1 is not a CUDA driver of this century";
    memcpy(symbols[i].function, &symbol, sizeof symbol);
  }
  if (driver.init(0) != 0 || driver.count(&count) != 0 || device->index >= count || device->index < 0) return "no such CUDA device";
  check(driver.get(&handle, device->index), "cuDeviceGet");
  check(driver.retain(&context, handle), "cuDevicePrimaryCtxRetain");
  check(driver.push(context), "cuCtxPushCurrent");
  check(driver.stream(&device->stream, 1), "cuStreamCreate"); /* 1: does not wait for the default stream */
  return NULL;
}

void *device_allocate(const device *device, size_t bytes) {
  uint64_t address = 0;
  void *memory;
  bytes = (bytes + 64) / 64 * 64;
  if (device->cuda) {
    check(driver.allocate(&address, bytes), "cuMemAlloc");
    check(driver.fill(address, 0, bytes), "cuMemsetD8");
    check(driver.wait(NULL), "cuMemsetD8");
    return (void *)(uintptr_t)address;
  }
  memory = aligned_alloc(64, bytes);
  if (!memory) check(2, "aligned_alloc");
  return memset(memory, 0, bytes);
}

void device_put(const device *device, void *to, const void *from, size_t bytes) {
  if (!device->cuda) {
    memcpy(to, from, bytes);
    return;
  }
  check(driver.wait(device->stream), "cuStreamSynchronize"); /* whatever still reads the old contents */
  check(driver.put((uint64_t)(uintptr_t)to, from, bytes), "cuMemcpyHtoD");
}

void device_get(const device *device, void *to, const void *from, size_t bytes) {
  if (!device->cuda) {
    memcpy(to, from, bytes);
    return;
  }
  check(driver.wait(device->stream), "cuStreamSynchronize");
  check(driver.fetch(to, (uint64_t)(uintptr_t)from, bytes), "cuMemcpyDtoH");
}

void device_capture(const device *device) { check(driver.capture(device->stream, 1), "cuStreamBeginCapture"); } /* 1: of this thread only */

void *device_end_capture(const device *device) {
  void *graph, *executable;
  check(driver.end_capture(device->stream, &graph), "cuStreamEndCapture");
  check(driver.instantiate(&executable, graph, 0), "cuGraphInstantiate");
  return executable;
}

void device_replay(const device *device, void *graph) { check(driver.launch(graph, device->stream), "cuGraphLaunch"); }

void must(think_status status, const think_error *error, const char *what) {
  if (status == THINK_OK) return;
  if (status == THINK_E_UNSUPPORTED) {
    printf("skipped: %s\n", error->message);
    exit(EXIT_SKIPPED);
  }
  fprintf(stderr, "%s: %s: %s\n", what, think_status_name(status), error->message);
  exit(1);
}
