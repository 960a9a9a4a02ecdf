#include "integer_body.h"

namespace think::attend {
constinit const CodeKernels codes_avx512bf16 = code_kernels();
}  // namespace think::attend
