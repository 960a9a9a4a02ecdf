#include "cpu_body.h"

namespace think::score {
const Kernels kernels_avx2 = kKernels;
}
