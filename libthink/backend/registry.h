// Which devices this library can run on, and why not on the others.
#pragma once

#include <cstdint>

#include "think/tensor.h"

namespace think {

uint32_t backends_available();                   // bit mask, 1 << device kind
const char *backend_reason(think_device device);  // "available", or what is missing

}  // namespace think
