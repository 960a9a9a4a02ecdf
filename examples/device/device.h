/* What the C examples need of a device: memory, copies, one stream, one graph. The CPU is a device as well. The CUDA driver is loaded at run time, so that an
 * example is built without a toolkit; an engine has all of this already. */
#ifndef EXAMPLE_DEVICE_H
#define EXAMPLE_DEVICE_H

#include <stddef.h>
#include <think.h>

typedef struct device {
  int cuda;  /* 0 = the CPU */
  int index;
  void *stream;
} device;

enum { EXIT_SKIPPED = 77 };

/* "cpu", "cuda" or "cuda:N"; any other name ends the program with exit code 2. Returns NULL, or why the device cannot be used. */
const char *device_open(device *device, const char *name);

void *device_allocate(const device *device, size_t bytes); /* zeroed, aligned to 64, never freed before the program ends */
void device_put(const device *device, void *to, const void *from, size_t bytes);
void device_get(const device *device, void *to, const void *from, size_t bytes); /* waits for the stream */

/* CUDA only: what is launched into the stream between the two becomes a graph instead of running. */
void device_capture(const device *device);
void *device_end_capture(const device *device);
void device_replay(const device *device, void *graph);

/* Ends the program: a message and exit code 1, or 77 when the library has no kernels for this on the device. */
void must(think_status status, const think_error *error, const char *what);
#define MUST(call) must((call), &error, #call)

#endif
