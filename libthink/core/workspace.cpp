#include "libthink/core/workspace.h"

#include <algorithm>
#include <cstring>

#include "kernels/attend/attend.h"
#include "kernels/attend/work.h"
#include "kernels/fit/fit.h"
#include "kernels/moments/moments.h"
#include "kernels/score/score.h"
#include "kernels/select/select.h"
#include "libthink/core/device.h"
#include "libthink/core/evict.h"
#include "libthink/core/prune.h"
#include "libthink/core/structs.h"

namespace think {
namespace {

constexpr int32_t kUsualSegments = 4;
// An extent has no layers, so the workspace of think_budgets() serves so many in steps of 8. More of them, or smaller steps, need what its error says.
constexpr int32_t kBudgetLayers = 256;

think_status check_maximum(const Argument &argument, const char *field, int64_t value, int64_t maximum, const char *maximum_name) {
  if (value >= 0 && value <= maximum) return THINK_OK;
  return wrong(argument, field, "expected 0 .. %lld (%s), got %lld", static_cast<long long>(maximum), maximum_name, static_cast<long long>(value));
}

// The most that think_budgets() needs, of the two sides.
template <class BytesOf>
int64_t largest_budgets(const Shape &shape, int32_t batch, const BytesOf &bytes_of) {
  int64_t bytes = 0;
  for (const int32_t channels : {shape.key_channels, shape.value_channels}) {
    select::Budgets budgets{};
    budgets.layers = kBudgetLayers;
    budgets.batch = batch;
    budgets.kv_heads = shape.kv_heads;
    budgets.channels = channels;
    budgets.floor = budgets.step = 8;
    bytes = std::max(bytes, bytes_of(budgets));
  }
  return bytes;
}

}  // namespace

CallExtent largest_extent(const Shape &shape) { return {shape.max_batch, shape.max_queries, kUsualSegments, shape.max_tokens, 0}; }

think_status read_extent(const Argument &argument, const think_extent *in, const Shape &shape, CallExtent &extent) {
  static const think_extent defaults = THINK_EXTENT_INIT;
  think_extent copy;
  if (const think_status status = read_options(argument, in, copy, defaults)) return status;
  if (const think_status status = check_maximum(argument, "batch", copy.batch, shape.max_batch, "max_batch of the plan")) return status;
  if (const think_status status = check_maximum(argument, "queries", copy.queries, shape.max_queries, "max_queries of the plan")) return status;
  if (const think_status status = check_maximum(argument, "segments", copy.segments, THINK_MAX_SEGMENTS, "THINK_MAX_SEGMENTS")) return status;
  if (copy.reserved != 0) return wrong(argument, "reserved", "expected 0, got %d", copy.reserved);
  if (const think_status status = check_maximum(argument, "tokens", copy.tokens, shape.max_tokens, "max_tokens of the plan")) return status;
  const int64_t most_rows = int64_t{shape.max_batch} * shape.max_queries;
  if (const think_status status = check_maximum(argument, "rows", copy.rows, most_rows, "max_batch * max_queries of the plan")) return status;
  extent = largest_extent(shape);
  if (copy.batch) extent.batch = copy.batch;
  if (copy.queries) extent.queries = copy.queries;
  if (copy.segments) extent.segments = copy.segments;
  if (copy.tokens) extent.tokens = copy.tokens;
  extent.rows = copy.rows;
  return THINK_OK;
}

const char *stage_name(int32_t stage) {
  constexpr const char *names[] = {"score", "moments", "select", "fit", "compact", "attend", "prune", "evict"};
  return stage >= kFirstStage && stage <= kLastStage ? names[stage - kFirstStage] : "unknown";
}

int64_t workspace_bytes(const think_plan &plan, int32_t stage, const CallExtent &extent) {
  const Shape &shape = plan.shape;
  if (const cuda::Backend *backend = plan.context->cuda) {
    switch (stage) {
      case THINK_STAGE_SCORE: return backend->score_workspace(shape, extent.batch, extent.tokens);
      case THINK_STAGE_MOMENTS: return std::max(backend->moments_workspace(shape, extent.batch, extent.tokens), backend->gains_workspace(shape, extent.batch));
      case THINK_STAGE_SELECT: return largest_budgets(shape, extent.batch, backend->budgets_workspace);
      case THINK_STAGE_FIT: return backend->fit_workspace(shape, extent.batch);
      case THINK_STAGE_ATTEND: return backend->attend_workspace(shape, {extent.batch, extent.queries, extent.segments, extent.tokens, extent.rows});
      case THINK_STAGE_EVICT: return evict_workspace(*backend, shape, extent.batch, extent.tokens);
      case THINK_STAGE_PRUNE: return prune_workspace(*backend, shape, extent.batch, extent.tokens);
      default: return 0;  // compact needs none
    }
  }
  switch (stage) {
    case THINK_STAGE_SCORE: return score::update_workspace(shape, extent.batch, extent.tokens);
    case THINK_STAGE_MOMENTS: return std::max(moments::workspace(shape, extent.batch, extent.tokens), moments::gains_workspace(shape, extent.batch));
    case THINK_STAGE_SELECT: return largest_budgets(shape, extent.batch, select::budgets_workspace);
    case THINK_STAGE_FIT: return fit::workspace(shape, extent.batch, plan.parallel.threads);
    case THINK_STAGE_ATTEND: return attend::workspace(shape, {extent.batch, extent.queries, extent.segments, extent.tokens});
    case THINK_STAGE_PRUNE: return prune_workspace(shape, extent.batch, extent.tokens, plan.parallel.threads);
    case THINK_STAGE_EVICT: return evict_workspace(shape, extent.batch, extent.tokens);
    default: return 0;  // compact needs none
  }
}

void leave_counters_zero(const Shape &shape, void *workspace, int64_t used) {
  // Score has one counter per sequence and KV head, attend at least as many.
  if (used > 0) std::memset(workspace, 0, static_cast<size_t>(std::min(used, attend::counter_bytes(shape))));
}

}  // namespace think
