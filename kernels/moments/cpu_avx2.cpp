#include "cpu_body.h"

namespace think::moments {
const Kernels kernels_avx2 = {prepare, scan, mass, covariance, finish, rows_mass, eliminate};
}
