// The compact stage on a CUDA device: launches only, errors as the CUDA runtime numbers them. Pointers inside the arguments are device memory.
#pragma once

#include "compact.h"

namespace think::compact::cuda {

int32_t load();  // every kernel, when a plan is made

// No run has more than `longest` rows.
int32_t compact(const Arguments &arguments, int64_t longest, void *stream);
int32_t place(const Shape &shape, const think_segment &segment, const Batch &batch, void *stream);

}  // namespace think::compact::cuda
