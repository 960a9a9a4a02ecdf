// Which unit of a stage serves which instruction set: once for all stages. THINK_KERNELS_OF defines, for a stage whose units export `kernels_<isa>` tables
// of type Kernels, the function `kernels_of(isa)`. A macro, because the tables of other architectures must not even be named.
#pragma once

#include <cstdint>

#include "think/context.h"

#if THINK_HAVE_AVX512
#define THINK_SERVE_AVX512 \
  if (isa == THINK_ISA_AVX512 || isa == THINK_ISA_AVX512BF16) return kernels_avx512;
#else
#define THINK_SERVE_AVX512
#endif
#if THINK_HAVE_AVX2
#define THINK_SERVE_AVX2 \
  if (isa == THINK_ISA_AVX2) return kernels_avx2;
#else
#define THINK_SERVE_AVX2
#endif
#if THINK_HAVE_NEON
#define THINK_SERVE_NEON \
  if (isa == THINK_ISA_NEON) return kernels_neon;
#else
#define THINK_SERVE_NEON
#endif

#define THINK_KERNELS_OF                                      \
  const Kernels &kernels_of([[maybe_unused]] int32_t isa) {  \
    THINK_SERVE_AVX512                                        \
    THINK_SERVE_AVX2                                          \
    THINK_SERVE_NEON                                          \
    return kernels_portable;                                  \
  }
