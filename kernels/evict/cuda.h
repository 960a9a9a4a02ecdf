// The evict stage on a CUDA device: launches only, errors as the CUDA runtime numbers them. Pointers inside the arguments are device memory.
#pragma once

#include "evict.h"

namespace think::evict::cuda {

int32_t load();  // every kernel, when a plan is made

// No run has more than `longest` rows. Lists end where kept_stride ends.
int32_t choose(const Choices &choices, int64_t longest, void *stream);
// No list has more than `longest` rows, no run of the source more than `longest_source`.
int32_t move_rows(const Move &move, int64_t longest, int64_t longest_source, void *stream);

}  // namespace think::evict::cuda
