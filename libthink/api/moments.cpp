#include "kernels/moments/moments.h"

#include "libthink/core/check.h"
#include "libthink/core/device.h"
#include "libthink/core/shared_options.h"
#include "libthink/core/workspace.h"

using namespace think;

namespace {

constexpr int32_t kMomentsAlignment = 64;

// Options with their defaults filled in: 0 = default, -1 = none.
think_status read_moments_options(const Argument &argument, const think_moments_options *in, moments::Arguments &arguments) {
  const think_moments_options defaults = THINK_MOMENTS_OPTIONS_INIT;
  think_moments_options copy;
  if (const think_status status = read_options(argument, in, copy, defaults)) return status;
  if (const think_status status = read_count(argument, "sinks", copy.sinks, kDefaultSinks, arguments.sinks)) return status;
  if (const think_status status = read_count(argument, "recent", copy.recent, kDefaultRecent, arguments.recent)) return status;
  if (const think_status status = read_attention_share(argument, copy.attention_share, arguments.attention_share)) return status;
  if (copy.reserved != 0) return wrong(argument, "reserved", "expected 0, got %s", NumberText(copy.reserved).text);
  return THINK_OK;
}

}  // namespace

extern "C" {

void think_moments_options_init(think_moments_options *options, uint32_t struct_size) {
  const think_moments_options initial = THINK_MOMENTS_OPTIONS_INIT;
  init_struct(options, struct_size, initial);
}

think_status think_moments_size(const think_plan *plan, int32_t slots, int64_t *bytes, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    if (slots < 1) return wrong({error, 2, "slots"}, "", "expected at least 1, got %d", slots);
    if (const think_status status = check_array({error, 3, "bytes"}, bytes)) return status;
    int64_t size;
    if (__builtin_mul_overflow(moments::state_bytes(plan->shape), int64_t{slots}, &size)) {
      return wrong({error, 2, "slots"}, "", "%d slots exceed 64-bit sizes", slots);
    }
    *bytes = size;
    return THINK_OK;
  });
}

think_status think_moments(const think_plan *plan, const think_tensor *window_query, const think_segment *source, const think_batch *batch,
                           const think_moments_options *options, void *moments, const think_launch *launch, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    const Shape &shape = plan->shape;
    const Argument query_argument{error, 2, "window_query"}, source_argument{error, 3, "source"}, batch_argument{error, 4, "batch"};
    moments::Arguments arguments{};
    arguments.shape = shape;
    think_tensor &query = arguments.window_query;
    if (const think_status status = read_tensor(query_argument, window_query, {shape.query_heads, shape.key_channels, 0}, query)) return status;
    if (query.extent[2] < 1 || query.extent[2] > shape.window) {
      return wrong(query_argument, "extent[2]", "expected 1 .. %d rows (window of the plan), got %lld", shape.window,
                   static_cast<long long>(query.extent[2]));
    }
    // The segment is measured against the batch, so the batch is read before it.
    Launch call;
    if (const think_status status = read_launch({error, 7, "launch"}, launch, plan->shape, false, call)) return status;
    if (const think_status status = read_batch(batch_argument, batch, shape, 1, arguments.batch)) return status;
    if (const think_status status =
            check_slots(batch_argument, arguments.batch, plan->shape, query.extent[0], "slots of window_query", call.check)) {
      return status;
    }
    const SegmentRule rule{true, true, false, false, true, false};
    SegmentCopy copy;
    if (const think_status status = read_segment(source_argument, source, 0, shape, arguments.batch, rule, call.check, copy)) return status;
    if (!copy.segment.key && copy.longest > 0) return null_pointer(source_argument, "key");
    arguments.source = copy.segment;
    if (const think_status status = read_moments_options({error, 5, "options"}, options, arguments)) return status;
    if (const think_status status = check_pointer({error, 6, "moments"}, moments, kMomentsAlignment)) return status;
    arguments.moments = moments;
    const cuda::Backend *backend = plan->context->cuda;
    const int64_t needed = backend ? backend->moments_workspace(shape, arguments.batch.count, copy.longest)
                                   : moments::workspace(shape, arguments.batch.count, copy.longest);
    if (const think_status status = check_workspace(call, needed)) return status;
    if (backend) {
      return run_on_device(*plan, error, [&](const cuda::Backend &) {
        return backend->moments(arguments, arguments.batch.slot, copy.longest, call.workspace, call.stream);
      });
    }
    moments::measure(plan->isa, arguments, call.workspace, plan->parallel);
    leave_counters_zero(shape, call.workspace, needed);
    return THINK_OK;
  });
}

think_status think_gains(const think_plan *plan, const void *moments, const think_batch *batch, int32_t side, const float *score, float *gains,
                         int32_t *order, const think_launch *launch, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    if (const think_status status = check_pointer({error, 2, "moments"}, moments, kMomentsAlignment)) return status;
    Batch sequences;
    const Argument batch_argument{error, 3, "batch"};
    if (const think_status status = read_batch(batch_argument, batch, plan->shape, 1, sequences)) return status;
    if (const think_status status = check_slots(batch_argument, sequences, plan->shape, INT32_MAX, "a slot", false)) return status;
    if (const think_status status = check_side({error, 4, "side"}, "", side)) return status;
    const Argument score_argument{error, 5, "score"};
    if (side == THINK_KEYS) {
      if (const think_status status = check_array(score_argument, score)) return status;
    } else if (score) {
      return wrong(score_argument, "", "expected NULL (values are taken best first), got a pointer");
    }
    if (const think_status status = check_array({error, 6, "gains"}, gains)) return status;
    if (const think_status status = check_optional({error, 7, "order"}, order)) return status;
    Launch call;
    if (const think_status status = read_launch({error, 8, "launch"}, launch, plan->shape, false, call)) return status;
    const cuda::Backend *backend = plan->context->cuda;
    const int64_t needed = backend ? backend->gains_workspace(plan->shape, sequences.count) : moments::gains_workspace(plan->shape, sequences.count);
    if (const think_status status = check_workspace(call, needed)) return status;
    if (backend) {
      return run_on_device(*plan, error, [&](const cuda::Backend &) {
        return backend->gains(plan->shape, moments, sequences, side, score, gains, order, call.workspace, call.stream);
      });
    }
    moments::gains(plan->isa, plan->shape, moments, sequences, side, score, gains, order, call.workspace, plan->parallel);
    leave_counters_zero(plan->shape, call.workspace, needed);
    return THINK_OK;
  });
}

}  // extern "C"
