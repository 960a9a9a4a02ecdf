// Workspace of every stage: asked from the stages themselves, which count with the code that lays it out.
#pragma once

#include "libthink/core/plan.h"

namespace think {

struct CallExtent {
  int32_t batch, queries, segments;
  int64_t tokens, rows;  // rows: of packed queries, 0 = batch * queries
};

think_status read_extent(const Argument &argument, const think_extent *in, const Shape &shape, CallExtent &extent);  // NULL = the plan's maxima
CallExtent largest_extent(const Shape &shape);

constexpr int32_t kFirstStage = THINK_STAGE_SCORE, kLastStage = THINK_STAGE_EVICT;
const char *stage_name(int32_t stage);
int64_t workspace_bytes(const think_plan &plan, int32_t stage, const CallExtent &extent);  // of a stage that has kernels

// A call of score or attend that is cut into slices finds its counters at the start of the workspace and must find zeros there, whatever stage had the
// workspace before. So a stage that uses this memory for anything else, `used` bytes of it, ends with this.
void leave_counters_zero(const Shape &shape, void *workspace, int64_t used);

}  // namespace think
