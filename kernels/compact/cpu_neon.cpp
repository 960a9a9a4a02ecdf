#include "cpu_body.h"

namespace think::compact {
const Kernels kernels_neon = kKernels;
}
