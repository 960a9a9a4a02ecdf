// The fit stage on a CUDA device: launches only, errors as the CUDA runtime numbers them. Pointers inside the arguments are device memory.
#pragma once

#include "fit.h"

namespace think::fit::cuda {

int32_t load();  // every kernel, when a plan is made

int64_t workspace(const Shape &shape, int32_t batch);
// moments_slot: where the moments of a sequence lie, NULL = its number. The slots of the basis are those of arguments.batch, so the two may differ.
int32_t fit(const Arguments &arguments, const int32_t *moments_slot, void *workspace, void *stream);

}  // namespace think::fit::cuda
