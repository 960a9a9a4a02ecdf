// The rebuild stage on a CUDA device: launches only, errors as the CUDA runtime numbers them. Pointers inside the arguments are device memory.
#pragma once

#include "rebuild.h"

namespace think::rebuild::cuda {

int32_t load();  // every kernel, when a plan is made

int32_t rebuild(const Arguments &arguments, void *stream);

}  // namespace think::rebuild::cuda
