#include "cpu_body.h"

namespace think::compact {
const Kernels kernels_avx512 = kKernels;
}
