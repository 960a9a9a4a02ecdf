// The select stage on a CUDA device: launches only, errors as the CUDA runtime numbers them. Pointers inside the arguments are device memory.
#pragma once

#include "select.h"

namespace think::select::cuda {

int32_t load();  // every kernel, when a plan is made

int64_t budgets_workspace(const Budgets &budgets);
int32_t budgets(const Budgets &arguments, const float *gains, int32_t *kept, void *workspace, void *stream);
int32_t select(const Select &arguments, const float *score, const Batch &batch, const think_basis &basis, uint8_t *mask, void *stream);

}  // namespace think::select::cuda
