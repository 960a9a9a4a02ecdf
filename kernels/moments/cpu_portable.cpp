#include "cpu_body.h"

namespace think::moments {
const Kernels kernels_portable = {prepare, scan, mass, covariance, finish, rows_mass, eliminate};
}
