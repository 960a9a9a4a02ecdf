// The format of a compact segment, with its defaults filled in.
#pragma once

#include "libthink/core/plan.h"

namespace think {

think_status read_format(const Argument &argument, const think_format *in, const Shape &shape, think_format &format);

// Of one layer, in an array whose elements have the size of the first.
think_status read_layer_format(const Argument &element, const think_format *formats, int32_t layer, const Shape &shape, think_format &format);

// May a side be stored in this layout with this dtype?
think_status check_storage(const Argument &argument, int32_t side, int32_t layout, think_dtype dtype);

}  // namespace think
