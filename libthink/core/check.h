// Checks of what run calls are handed. Each function copies a public struct into today's full form and says what is wrong with it; nothing is written
// anywhere else, so that a refused call leaves its outputs untouched.
//
// Shape::on_device: the arrays that structs point to are the device's and are never read here. Their contents are trusted, and where a size follows from
// them, the largest that they can stand for takes its place.
#pragma once

#include "kernels/common/segment.h"
#include "libthink/core/plan.h"
#include "libthink/core/structs.h"

namespace think {

think_status check_side(const Argument &argument, const char *field, int32_t side);

// How a call is cut and what it may use. `sliced`: the call is one of those that can be cut.
struct Launch {
  Argument argument;
  void *workspace;
  int64_t workspace_bytes;
  void *stream;
  Slice slice;
  bool check;  // THINK_LAUNCH_CHECK
};
think_status read_launch(const Argument &argument, const think_launch *in, const Shape &shape, bool sliced, Launch &launch);
// Last of all checks: is the workspace what this call needs?
think_status check_workspace(const Launch &launch, int64_t needed);

// A tensor of `heads` heads and `channels` channels; dtype 0 = any of the three.
struct TensorRule {
  int32_t heads, channels;
  think_dtype dtype;
};
think_status read_tensor(const Argument &argument, const think_tensor *in, const TensorRule &rule, think_tensor &tensor);
// Of a copy: an axis of one element, whose stride may be anything, gets the stride 0.
think_status check_tensor(const Argument &argument, think_tensor &tensor, const TensorRule &rule);

// A batch; NULL = `count_of_null` sequences.
think_status read_batch(const Argument &argument, const think_batch *in, const Shape &shape, int64_t count_of_null, Batch &batch);
// Do the rows of the batch lie inside the tensor, and has no sequence more than `most`? `longest` may be NULL.
think_status check_rows(const Argument &argument, const Batch &batch, const Argument &tensor_argument, const think_tensor &tensor, const Shape &shape,
                        int64_t most, const char *most_name, int64_t *longest);
// Slots: inside [0, slots), and with `distinct` no two the same (a slot that is written).
think_status check_slots(const Argument &argument, const Batch &batch, const Shape &shape, int64_t slots, const char *slots_name, bool distinct);

// Pointers and extents of a basis; with `weights` also those that attention and fit need.
think_status read_basis(const Argument &argument, const think_basis *in, const Shape &shape, int32_t side, bool weights, think_basis &basis);
// Widths, indices and blocks of one slot, as think_select() and think_fit() write them.
think_status check_basis_contents(const Argument &argument, const think_basis &basis, const Shape &shape, int32_t side, int32_t slot);

// What a segment is for.
struct SegmentRule {
  bool dense;     // THINK_ROWS without a basis
  bool lengths;   // its lengths count
  bool contents;  // its bases hold a choice already (looked at with THINK_LAUNCH_CHECK)
  bool weights;   // attention reads the weights and offsets of its bases
  bool tables;    // its page table and head offsets are ready (looked at with THINK_LAUNCH_CHECK)
  bool distinct;  // it is written: no two sequences in one slot (looked at with THINK_LAUNCH_CHECK)
  bool measured = false;  // it may have THINK_SEGMENT_MEASURE
};
struct SegmentCopy {
  think_segment segment;
  think_basis key_basis, value_basis;  // where segment.key_basis and value_basis point to
  int64_t longest;                     // tokens, if lengths count; on a device: that there can be
};
think_status read_segment(const Argument &argument, const think_segment *array, int32_t element, const Shape &shape, const Batch &batch,
                          const SegmentRule &rule, bool check, SegmentCopy &copy);
// What think_segment_place() needs besides: rows of a page or slot, and the element size of the sides whose offsets it writes.
think_status check_place(const Argument &argument, const think_segment &segment);
// Does the source of think_compact() have the rows that the destination asks for, as far as it tells its room? `check`: look at pages and head offsets too.
think_status check_source_room(const Argument &argument, const think_segment &source, const think_segment &destination, const Shape &shape,
                               const Batch &batch, bool check);
// Has the destination of think_prune() room for the rows that move?
think_status check_prune_room(const Argument &argument, const think_segment &source, const think_segment &destination, const Shape &shape, int32_t sinks,
                              int32_t recent, const Batch &batch, bool check);
// Has a basis that is going to be fitted room for the weights of any widths?
think_status check_weight_room(const Argument &argument, const think_basis &basis, const Shape &shape);

}  // namespace think
