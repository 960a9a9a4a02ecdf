#include "cpu_body.h"

namespace think::moments {
const Kernels kernels_neon = {prepare, scan, mass, covariance, finish, rows_mass, eliminate};
}
