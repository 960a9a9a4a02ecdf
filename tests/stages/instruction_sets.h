// The instruction sets that this build has units for and this host can run: stage tests force each of them.
#pragma once

#include <cstdint>
#include <vector>

#include "think/context.h"

namespace think::test {

inline std::vector<int32_t> instruction_sets() {
  std::vector<int32_t> isas = {THINK_ISA_PORTABLE};
#if THINK_HAVE_AVX2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) isas.push_back(THINK_ISA_AVX2);
#endif
#if THINK_HAVE_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi2")) {
    isas.push_back(THINK_ISA_AVX512);
#if THINK_HAVE_AVX512BF16
    if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi")) isas.push_back(THINK_ISA_AVX512BF16);
#endif
  }
#endif
#if THINK_HAVE_NEON
  isas.push_back(THINK_ISA_NEON);
#endif
  return isas;
}

inline const char *isa_name(int32_t isa) {
  switch (isa) {
    case THINK_ISA_AVX2: return "avx2";
    case THINK_ISA_AVX512: return "avx512";
    case THINK_ISA_AVX512BF16: return "avx512bf16";
    case THINK_ISA_NEON: return "neon";
    default: return "portable";
  }
}

}  // namespace think::test
