#include "cpu_body.h"

namespace think::attend {
constinit const Kernels kernels_avx2 = kernel_table();
}  // namespace think::attend
