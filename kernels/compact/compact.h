// Contract of the compact stage: see include/think/compact.h. Arguments are checked by the caller.
#pragma once

#include "../common/parallel.h"
#include "../common/segment.h"
#include "../common/workspace.h"

namespace think::compact {

struct Arguments {
  Shape shape;
  think_segment source, destination;  // a side with key (value) NULL in both is left out
  Batch batch;
};
// Work is independent per tile, so no workspace; slices simply divide the tiles.
void compact(int32_t isa, const Arguments &arguments, const Parallel &parallel, Slice slice);

// Write the head offsets of `segment` (where given) for the slots of the batch.
void place(const Shape &shape, const think_segment &segment, const Batch &batch);

namespace reference {
// Plain loops over rows, heads and channels through the address rule; the same arguments.
void compact(const Arguments &arguments);
}  // namespace reference

}  // namespace think::compact
