// Bytes of bases and pages: the numbers that think_basis_size(), think_basis_bind(), think_layout() and the decision to prune share.
#pragma once

#include "kernels/common/shape.h"

namespace think {

// The arrays of one slot. In memory each array holds all slots, one array behind the other.
struct BasisLayout {
  int64_t kept, index, weight_offset, offset, weight;  // bytes of one slot; the sum is a multiple of 64
  int64_t padding;                                     // behind the last array, per slot
};

// `predicts`: with weights and offsets, which the paper's mode has no use for; without, both are NULL.
BasisLayout basis_layout(const Shape &shape, int32_t side, bool predicts = true);
int64_t basis_bytes(const Shape &shape, int32_t side, bool predicts = true);  // of one slot
void bind_basis(const Shape &shape, int32_t side, int32_t slots, void *memory, think_basis &basis, bool predicts = true);

// The basis of one slot as a basis with a single slot 0. weight_offset of the view counts from the start of that slot's weights only after
// think::fit has written it: see restore_weight_offset().
think_basis basis_of_slot(const Shape &shape, const think_basis &basis, int32_t slot);
void restore_weight_offset(const Shape &shape, const think_basis &slot_view, const think_basis &basis);

// Bytes of `rows` rows whose heads keep `total` channels together, each a multiple of `step`. What quantized tiles take besides their numbers depends on how
// the heads share the channels: this is the most that it can be, exact where it is always the same.
int64_t rows_bytes(const Shape &shape, int32_t side, int64_t rows, int64_t total, int32_t step, think_dtype dtype);

}  // namespace think
