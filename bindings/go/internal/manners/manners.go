// Package manners looks at what a library in this process must leave alone, for the tests: cgo is not allowed there.
package manners

/*
#cgo LDFLAGS: -lm
#include <fenv.h>
#include <float.h>
#include <locale.h>
#include <signal.h>
#include <stdint.h>
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

static void wait_a_moment(void) { usleep(200000); }
*/
import "C"

import "sync"

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
