// Which devices this library can run on, and why not on the others. Asking about CUDA loads its backend and asks the driver.
#pragma once

#include <cstdint>

#include "think/tensor.h"

namespace think {

uint32_t backends_available();  // bit mask, 1 << device kind

struct BackendReason {
  char text[224];  // "available", or what is missing
};
BackendReason backend_reason(think_device device);

}  // namespace think
