#include "libthink/core/plan.h"

#include "kernels/common/workspace.h"
#include "libthink/core/describe.h"
#include "libthink/core/device.h"
#include "libthink/core/structs.h"
#include "libthink/core/workspace.h"

using namespace think;

extern "C" {

void think_problem_init(think_problem *problem, uint32_t struct_size) {
  const think_problem initial = THINK_PROBLEM_INIT;
  init_struct(problem, struct_size, initial);
}

void think_launch_init(think_launch *launch, uint32_t struct_size) {
  const think_launch initial = THINK_LAUNCH_INIT;
  init_struct(launch, struct_size, initial);
}

void think_extent_init(think_extent *extent, uint32_t struct_size) {
  const think_extent initial = THINK_EXTENT_INIT;
  init_struct(extent, struct_size, initial);
}

think_status think_supports(const think_context *context, const think_problem *problem, think_error *error) {
  return fence(error, [&]() -> think_status {
    IsaChoice isa;
    if (!context) {
      think_context_options defaults;
      if (const think_status status = read_context_options({error, 1, "context"}, nullptr, defaults, isa)) return status;
    }
    Shape shape;
    const Argument argument{error, 2, "problem"};
    if (const think_status status = read_problem(argument, problem, shape)) return status;
    return context && context->cuda ? check_device_problem(argument, shape) : THINK_OK;
  });
}

think_status think_plan_create(const think_context *context, const think_problem *problem, think_plan **plan, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!context) return null_pointer({error, 1, "context"});
    Shape shape;
    const Argument argument{error, 2, "problem"};
    if (const think_status status = read_problem(argument, problem, shape)) return status;
    if (context->cuda) {
      if (const think_status status = check_device_problem(argument, shape)) return status;
    }
    if (const think_status status = check_array({error, 3, "plan"}, plan)) return status;
    // The handle is const for callers, as nothing that they can see changes: only its count and its threads do.
    return make_plan(*const_cast<think_context *>(context), shape, *plan, error);
  });
}

void think_plan_destroy(think_plan *plan) {
  if (plan) destroy_plan(plan);
}

think_status think_plan_describe(const think_plan *plan, char *json, size_t capacity, size_t *needed, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    if (!json && capacity > 0) return wrong({error, 2, "json"}, "", "expected a pointer to %zu bytes (capacity), got NULL", capacity);
    if (const think_status status = check_optional({error, 4, "needed"}, needed)) return status;
    const size_t bytes = describe_plan(*plan, json, capacity);
    if (needed) *needed = bytes;
    return THINK_OK;
  });
}

think_status think_workspace_size(const think_plan *plan, int32_t stage, const think_extent *extent, int64_t *bytes, int64_t *alignment,
                                  think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    if (stage < kFirstStage || stage > kLastStage) {
      return wrong({error, 2, "stage"}, "", "expected %d .. %d (THINK_STAGE_...), got %d", kFirstStage, kLastStage, stage);
    }
    CallExtent sizes;
    if (const think_status status = read_extent({error, 3, "extent"}, extent, plan->shape, sizes)) return status;
    if (const think_status status = check_array({error, 4, "bytes"}, bytes)) return status;
    if (const think_status status = check_optional({error, 5, "alignment"}, alignment)) return status;
    *bytes = workspace_bytes(*plan, stage, sizes);
    if (alignment) *alignment = kWorkspaceAlignment;
    return THINK_OK;
  });
}

int32_t think_kept_channels(int32_t channels, double ratio) {
  if (channels < 1 || !(ratio >= 0 && ratio < 1)) return -1;
  return channels - static_cast<int32_t>(channels * ratio);
}

}  // extern "C"
