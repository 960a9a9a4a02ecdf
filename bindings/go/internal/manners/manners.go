// Package manners looks at what a library in this process must leave alone, for the tests: cgo is not allowed there.
package manners

/*
#cgo LDFLAGS: -lm
#include <fenv.h>
#include <float.h>
#include <locale.h>
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

static void wait_a_moment(void) { usleep(200000); }
*/
import "C"

import "sync"

// State as C sees it, in the calling thread.
type State struct {
	Control    uint64
	Rounding   int
	Subnormals bool
	Locale     string
	Mask       uint
}

// Look at it now.
func Look() State {
	return State{uint64(C.control()), int(C.fegetround()), C.subnormals() != 0, C.GoString(C.locale_now()), uint(C.mask_now())}
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
