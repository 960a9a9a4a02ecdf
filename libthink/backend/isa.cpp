#include "libthink/backend/isa.h"

#include <cstdlib>
#include <cstring>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "think/context.h"

namespace think {
namespace {

constexpr const char *kNames[] = {"portable", "avx2", "avx512", "avx512bf16", "neon"};
constexpr int32_t kIsas = sizeof kNames / sizeof kNames[0];

}  // namespace

uint32_t isa_available() {
  uint32_t mask = 1u << THINK_ISA_PORTABLE;
#if defined(__x86_64__)
  // The compiler's detection also asks whether the operating system saves the wide registers.
  __builtin_cpu_init();
  // Clang 14, which builds the fuzzers, does not know the name of F16C.
  unsigned a, b, c, d;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi2");
#if defined(THINK_HAVE_AVX2)
  if (avx2) mask |= 1u << THINK_ISA_AVX2;
#endif
#if defined(THINK_HAVE_AVX512)
  if (avx512) mask |= 1u << THINK_ISA_AVX512;
#endif
#if defined(THINK_HAVE_AVX512BF16)
  const bool dot_products = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
  if (avx512 && dot_products) mask |= 1u << THINK_ISA_AVX512BF16;
#endif
#elif defined(__aarch64__) && defined(THINK_HAVE_NEON)
  mask |= 1u << THINK_ISA_NEON;  // part of every AArch64 processor
#endif
  return mask;
}

const char *isa_name(int32_t isa) { return isa >= 0 && isa < kIsas ? kNames[isa] : "unknown"; }

think_status choose_isa(think_error *error, IsaChoice &choice) {
  const uint32_t available = isa_available();
  choice.forced = false;
  choice.isa = THINK_ISA_PORTABLE;
  for (int32_t isa = 0; isa < kIsas; ++isa) {
    if (available >> isa & 1) choice.isa = isa;  // ascending: the last one is the best
  }
  const char *wanted = std::getenv("THINK_CPU_ISA");
  if (!wanted || !*wanted) return THINK_OK;
  for (int32_t isa = 0; isa < kIsas; ++isa) {
    if (std::strcmp(wanted, kNames[isa]) != 0) continue;
    if (!(available >> isa & 1)) {
      return fail(error, THINK_E_UNSUPPORTED, 0, "THINK_CPU_ISA=%s: this host or this build cannot do more than %s", wanted, isa_name(choice.isa));
    }
    choice = {isa, true};
    return THINK_OK;
  }
  return fail(error, THINK_E_UNSUPPORTED, 0, "THINK_CPU_ISA=%.40s: expected portable, avx2, avx512, avx512bf16 or neon", wanted);
}

}  // namespace think
