// Workspace of every stage: asked from the stages themselves, which count with the code that lays it out.
#pragma once

#include "libthink/core/plan.h"

namespace think {

struct CallExtent {
  int32_t batch, queries, segments;
  int64_t tokens;
};

think_status read_extent(const Argument &argument, const think_extent *in, const Shape &shape, CallExtent &extent);  // NULL = the plan's maxima
CallExtent largest_extent(const Shape &shape);

constexpr int32_t kFirstStage = THINK_STAGE_SCORE, kLastStage = THINK_STAGE_PRUNE;
const char *stage_name(int32_t stage);
int64_t workspace_bytes(const think_plan &plan, int32_t stage, const CallExtent &extent);

}  // namespace think
