// The score stage on a CUDA device: launches only, errors as the CUDA runtime numbers them. Pointers inside the arguments are device memory.
#pragma once

#include "score.h"

namespace think::score::cuda {

int32_t load();  // every kernel, when a plan is made

int64_t workspace(const Shape &shape, int32_t batch, int64_t tokens);
int32_t reset(const Shape &shape, void *state, const Batch &batch, void *stream);
// No sequence has more than `longest` rows.
int32_t update(const Update &update, int64_t longest, void *workspace, void *stream);
int32_t finish(const Shape &shape, const void *state, const Batch &batch, bool query_heads, float *score, void *stream);
int32_t value_score(const Shape &shape, const think_tensor &attention, const Batch &batch, float *score, void *stream);

}  // namespace think::score::cuda
