// Which instruction sets this build and this processor have, and which one to use.
#pragma once

#include <cstdint>

#include "libthink/core/error.h"

namespace think {

struct IsaChoice {
  int32_t isa;       // THINK_ISA_...
  bool forced;       // by THINK_CPU_ISA
};

uint32_t isa_available();            // bit mask, 1 << THINK_ISA_...
const char *isa_name(int32_t isa);   // "avx512"
think_status choose_isa(think_error *error, IsaChoice &choice);

}  // namespace think
