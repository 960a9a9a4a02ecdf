#include "cpu_body.h"

namespace think::score {
const Kernels kernels_portable = kKernels;
}
