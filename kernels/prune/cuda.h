// The small kernels between the stages of a prune: launches only, errors as the CUDA runtime numbers them. Pointers inside the arguments are device memory.
#pragma once

#include "prune.h"

namespace think::pruning::cuda {

int32_t load();  // every kernel, when a plan is made

int32_t plan(const Plan &plan, int64_t longest, void *stream);
// Orders of `heads` heads in all as scores that rank alike: the first of n channels gets n.
int32_t rank(int32_t heads, int32_t channels, const int32_t *order, float *score, void *stream);
// Sequences with a 1 in `dense` (NULL: all) keep every channel of their slots, in order. basis (its kept NULL: none) and mask [batch][heads][channels] may be
// missing.
int32_t keep_all(int32_t kv_heads, int32_t channels, const think_basis &basis, const Batch &batch, const int32_t *dense, uint8_t *mask, void *stream);

}  // namespace think::pruning::cuda
