// Calls of CUDA plans: what they refuse, and how a launch becomes a status.
#pragma once

#include "libthink/backend/cuda_loader.h"
#include "libthink/core/check.h"
#include "libthink/core/plan.h"

namespace think {

// Why there is no context: THINK_E_UNSUPPORTED with the reason, and the driver's number where it gave one.
think_status without_backend(const Argument &argument, const cuda::Search &search);
// THINK_E_DEVICE: `what` failed, with the number and text of the CUDA error.
think_status device_failed(const cuda::Backend &backend, int32_t code, const char *what, think_error *error);

// What a problem can be on a device and on the CPU differs: THINK_E_UNSUPPORTED.
think_status check_device_problem(const Argument &argument, const Shape &shape);

// Rows that kernels read 16 bytes at a time: THINK_E_UNSUPPORTED when base or strides do not allow it.
think_status check_device_rows(const Argument &argument, const think_tensor &tensor);

// Attention multiplies in matrix units: one 16-bit type for all that is cached as numbers, `dtype`, which the first of them sets (0 = none so far). Else
// THINK_E_UNSUPPORTED.
think_status check_device_attention(const Argument &argument, const think_segment &segment, think_dtype &dtype);

// body(backend) with the plan's device current; what was current before is so again afterwards.
template <class Body>
static inline think_status run_on_device(const think_plan &plan, think_error *error, const Body &body) {
  const cuda::Backend &backend = *plan.context->cuda;
  int32_t code = backend.enter(plan.context->device);
  if (!code) {
    code = body(backend);
    backend.leave();
  }
  return code ? device_failed(backend, code, "launching the kernels", error) : THINK_OK;
}

}  // namespace think
