// The format of a compact segment, with its defaults filled in.
#pragma once

#include "libthink/core/plan.h"

namespace think {

think_status read_format(const Argument &argument, const think_format *in, const Shape &shape, think_format &format);

}  // namespace think
