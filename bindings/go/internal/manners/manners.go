// Package manners looks at what a library in this process must leave alone, for the tests: cgo is not allowed there.
package manners

/*
#cgo LDFLAGS: -lm -ldl
#include <dlfcn.h>
#include <fenv.h>
#include <float.h>
#include <locale.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static uint64_t control(void) {
#if defined(__x86_64__)
  uint32_t mxcsr;
  uint16_t word;
  __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
  __asm__ volatile("fnstcw %0" : "=m"(word));
  return (uint64_t)word << 32 | (mxcsr & ~0x3Fu); // without the sticky flags of exceptions
#elif defined(__aarch64__)
  uint64_t word;
  __asm__ volatile("mrs %0, fpcr" : "=r"(word));
  return word;
#else
#error "how is the floating-point control word read here?"
#endif
}

static int subnormals(void) {
  volatile float smallest = FLT_MIN, half = smallest / 2;
  volatile double tiny = DBL_MIN, part = tiny / 4;
  return half > 0 && half + half == smallest && part > 0;
}

static const char *locale_now(void) { return setlocale(LC_ALL, NULL); }

static unsigned mask_now(void) {
  mode_t mask = umask(0);
  umask(mask);
  return mask;
}

// As the C library has them; 32 and 33 are its own.
static void handlers(uintptr_t *all) {
  for (int number = 1; number < 65; ++number) {
    struct sigaction action = {0};
    if (number != 32 && number != 33 && sigaction(number, NULL, &action) == 0) all[number - 1] = (uintptr_t)action.sa_handler;
  }
}

// Of the variables as C has them: Go's are a copy.
static uint64_t environment(void) {
  extern char **environ;
  uint64_t hash = 14695981039346656037u;
  for (char **variable = environ; *variable; ++variable)
    for (const char *letter = *variable;; ++letter) {
      hash = (hash ^ (unsigned char)*letter) * 1099511628211u;
      if (!*letter) break;
    }
  return hash;
}

// tests/abi/device_host.c.
static struct {
  const char *(*open)(void);
  void *(*memory)(long long bytes);
  int (*unchanged)(void);
  void (*close)(void);
} host;

static const char *open_host(const char *path) {
  void *library = dlopen(path, RTLD_NOW);
  if (!library) return dlerror();
  *(void **)&host.open = dlsym(library, "device_host_open");
  *(void **)&host.memory = dlsym(library, "device_host_memory");
  *(void **)&host.unchanged = dlsym(library, "device_host_unchanged");
  *(void **)&host.close = dlsym(library, "device_host_close");
  return host.open && host.memory && host.unchanged && host.close ? host.open() : "this is no host";
}
static uintptr_t host_memory(long long bytes) { return (uintptr_t)host.memory(bytes); }
static int host_unchanged(void) { return host.unchanged(); }
static void close_host(void) { host.close(); }

static void wait_a_moment(void) { usleep(200000); }
*/
import "C"

import (
	"errors"
	"sync"
	"unsafe"
)

// State as C sees it, in the calling thread.
type State struct {
	Control, Environment uint64
	Rounding             int
	Subnormals           bool
	Locale               string
	Mask                 uint
	Handlers             [64]uintptr
}

// Look at it now.
func Look() State {
	var handlers [64]C.uintptr_t
	C.handlers(&handlers[0])
	made := State{Control: uint64(C.control()), Rounding: int(C.fegetround()), Subnormals: C.subnormals() != 0, Locale: C.GoString(C.locale_now())}
	made.Mask, made.Environment = uint(C.mask_now()), uint64(C.environment())
	for i, handler := range handlers {
		made.Handlers[i] = uintptr(handler)
	}
	return made
}

// OpenHost opens a host that has a context of a device current in the calling thread: tests/abi/device_host.c, compiled. The error says why there is none.
func OpenHost(path string) error {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	if reason := C.open_host(name); reason != nil {
		return errors.New(C.GoString(reason))
	}
	return nil
}

// HostMemory is the address of zeroed memory of the device.
func HostMemory(bytes int64) uintptr { return uintptr(C.host_memory(C.longlong(bytes))) }

// HostUnchanged says whether the thread has current what it had.
func HostUnchanged() bool { return C.host_unchanged() != 0 }

// CloseHost frees all of it.
func CloseHost() { C.close_host() }

// Warm has Go make the threads that it may want for calls of C.
func Warm() {
	var all sync.WaitGroup
	for i := 0; i < 24; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			C.wait_a_moment()
		}()
	}
	all.Wait()
}
