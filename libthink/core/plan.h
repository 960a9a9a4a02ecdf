// The plan behind the opaque handle: one shape on one context, and what is chosen for it.
#pragma once

#include "kernels/common/parallel.h"
#include "kernels/common/shape.h"
#include "libthink/core/context.h"

struct think_plan {
  think_context *context;
  think::Shape shape;
  think::Parallel parallel;
  int32_t isa;
};

namespace think {

// The problem with all its defaults filled in, or the reason why it cannot be.
think_status read_problem(const Argument &argument, const think_problem *in, Shape &shape);

// Out of memory is THINK_E_MEMORY, as is a thread that cannot be started; kernels that cannot be loaded are THINK_E_DEVICE.
think_status make_plan(think_context &context, const Shape &shape, think_plan *&plan, think_error *error);
void destroy_plan(think_plan *plan);

const char *dtype_name(think_dtype dtype);  // "f16"; "unknown"
static inline bool is_float_dtype(think_dtype dtype) { return dtype == THINK_F32 || dtype == THINK_F16 || dtype == THINK_BF16; }
static inline int32_t channels_of(const Shape &shape, int32_t side) { return side == THINK_KEYS ? shape.key_channels : shape.value_channels; }

}  // namespace think
