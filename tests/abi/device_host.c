#include "device_host.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Prototypes are ours: CUdevice is an int, CUdeviceptr 64 bits, a context a pointer. */
static struct {
  int (*init)(unsigned);
  int (*device)(int *, int);
  int (*create)(void **, unsigned, int);
  int (*destroy)(void *);
  int (*current)(void **);
  int (*push)(void *);
  int (*pop)(void **);
  int (*retain)(void **, int);
  int (*release)(int);
  int (*allocate)(uint64_t *, size_t);
  int (*deallocate)(uint64_t);
  int (*fill)(uint64_t, unsigned char, size_t);
  int (*wait)(void *);
} driver;

static const struct {
  const char *name;
  void *function;
} symbols[] = {
    {"cuInit", &driver.init},
    {"cuDeviceGet", &driver.device},
    {"cuCtxCreate_v2", &driver.create},
    {"cuCtxDestroy_v2", &driver.destroy},
    {"cuCtxGetCurrent", &driver.current},
    {"cuCtxPushCurrent_v2", &driver.push},
    {"cuCtxPopCurrent_v2", &driver.pop},
    {"cuDevicePrimaryCtxRetain", &driver.retain},
    {"cuDevicePrimaryCtxRelease_v2", &driver.release},
    {"cuMemAlloc_v2", &driver.allocate},
    {"cuMemFree_v2", &driver.deallocate},
    {"cuMemsetD8_v2", &driver.fill},
    {"cuStreamSynchronize", &driver.wait},
};

enum { MOST_BLOCKS = 8 };
static void *below, *own, *primary;
static int device, count;
static uint64_t blocks[MOST_BLOCKS];

const char *device_host_open(void) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW);
  size_t i;
  if (!library) return "no NVIDIA driver: libcuda.so.1 could not be loaded";
  for (i = 0; i < sizeof symbols / sizeof *symbols; ++i) {
    void *symbol = dlsym(library, symbols[i].name);
    if (!symbol) return "libcuda.so.1 lacks a function";
    memcpy(symbols[i].function, &symbol, sizeof symbol);
  }
  if (driver.init(0) != 0 || driver.device(&device, 0) != 0) return "no CUDA device: the NVIDIA driver finds none";
  if (driver.current(&below) != 0 || driver.create(&own, 0, device) != 0) return "the device gives no second context";
  if (driver.retain(&primary, device) == 0) return NULL;
  driver.destroy(own);
  return "the device does not open";
}

/* Of the context that the library uses: another one's memory is out of its kernels' reach. */
void *device_host_memory(long long bytes) {
  uint64_t address = 0;
  void *popped;
  if (count == MOST_BLOCKS || driver.push(primary) != 0) return NULL;
  if (driver.allocate(&address, (size_t)bytes) == 0) {
    blocks[count++] = address;
    if (driver.fill(address, 0, (size_t)bytes) != 0 || driver.wait(NULL) != 0) address = 0;
  }
  driver.pop(&popped);
  return (void *)(uintptr_t)address;
}

int device_host_unchanged(void) {
  void *top = NULL, *next = NULL, *popped = NULL;
  if (driver.current(&top) != 0 || top != own || driver.pop(&popped) != 0) return 0;
  return driver.current(&next) == 0 && next == below && driver.push(own) == 0;
}

void device_host_close(void) {
  void *popped;
  if (driver.push(primary) == 0) {
    driver.wait(NULL);
    while (count > 0) driver.deallocate(blocks[--count]);
    driver.pop(&popped);
  }
  driver.release(device);
  driver.destroy(own);
}
