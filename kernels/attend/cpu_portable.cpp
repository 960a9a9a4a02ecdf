#include "cpu_body.h"

namespace think::attend {
constinit const Kernels kernels_portable = kernel_table();
}  // namespace think::attend
