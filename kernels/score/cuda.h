// The score stage on a CUDA device: launches only, errors as the CUDA runtime numbers them. Pointers inside the arguments are device memory.
#pragma once

#include "score.h"

namespace think::score::cuda {

int32_t load();  // every kernel, when a plan is made

int64_t workspace(const Shape &shape, int32_t batch, int64_t tokens);
int32_t reset(const Shape &shape, void *state, const Batch &batch, void *stream);
// No sequence has more than `longest` rows. A sequence whose slot is negative has no state: nothing of it is read or written, so it can be in a batch with
// others.
int32_t update(const Update &update, int64_t longest, void *workspace, void *stream);
// The squares of the batch's slots once more, from all rows of the segment, dense ones, as score::sum_again() on the CPU: the same bits as from an update
// of a state of zeros with these rows. Window and count stay. No run has more than `longest` rows; workspace() for as many.
int32_t sum_again(const Shape &shape, const think_segment &segment, const Batch &batch, void *state, int64_t longest, void *workspace, void *stream);
int32_t finish(const Shape &shape, const void *state, const Batch &batch, bool query_heads, float *score, void *stream);
int32_t value_score(const Shape &shape, const think_tensor &attention, const Batch &batch, float *score, void *stream);

}  // namespace think::score::cuda
