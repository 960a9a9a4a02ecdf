// Prefetches: near into the first cache, far into the second. An address that cannot be read does no harm.
#pragma once

#include <cstdint>

namespace think {

// Volatile, because GCC 12 takes __builtin_prefetch() for a call without effect and drops it from some unrolled loops.
#if defined(__x86_64__)
static inline void prefetch_near(const char *p) { asm volatile("prefetcht0 %0" : : "m"(*p)); }
static inline void prefetch_far(const char *p) { asm volatile("prefetcht1 %0" : : "m"(*p)); }
#elif defined(__aarch64__)
static inline void prefetch_near(const char *p) { asm volatile("prfm pldl1keep, [%0]" : : "r"(p)); }
static inline void prefetch_far(const char *p) { asm volatile("prfm pldl2keep, [%0]" : : "r"(p)); }
#else
static inline void prefetch_near(const char *p) { __builtin_prefetch(p, 0, 3); }
static inline void prefetch_far(const char *p) { __builtin_prefetch(p, 0, 2); }
#endif

static inline void prefetch_far(const void *start, int64_t bytes) {
  for (int64_t byte = 0; byte < bytes; byte += 64) prefetch_far(static_cast<const char *>(start) + byte);
}

}  // namespace think
