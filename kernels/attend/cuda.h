// The attend stage on a CUDA device: launches only, errors as the CUDA runtime numbers them. Pointers inside the arguments are device memory.
#pragma once

#include "attend.h"

namespace think::attend::cuda {

int32_t load();  // every kernel, when a plan is made
// What the current device holds of the decode kernel: Shape::attend_blocks and what follows it there, when a plan is made.
int32_t resident(Shape &shape);

int64_t workspace(const Shape &shape, const Extent &extent);
// `extent`: what the host knows of the call; no sequence has more queries, no run more tokens. Segments have one element type of 16 bits.
// query_slot: where the queries of a sequence lie (not its outputs), NULL = its number. Not with packed rows.
int32_t attend(const Arguments &arguments, const Extent &extent, const int32_t *query_slot, void *workspace, void *stream);
int32_t merge(const Merge &arguments, void *stream);

}  // namespace think::attend::cuda
