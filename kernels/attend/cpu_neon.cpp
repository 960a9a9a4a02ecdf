#include "cpu_body.h"

namespace think::attend {
constinit const Kernels kernels_neon = kernel_table();
}  // namespace think::attend
