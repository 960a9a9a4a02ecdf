#include "kernels/attend/attend.h"

#include "libthink/core/check.h"
#include "libthink/core/device.h"

using namespace think;

namespace {

constexpr int32_t kMostMerged = 64;

// Rows of all segments together, for every sequence (and head, where lengths differ by head): at most max_tokens, the largest is what is measured.
// `longest` comes as the sum of what each segment can have, which is all that is known of a device.
think_status check_tokens(think_error *error, const think_segment *segments, int32_t count, const Shape &shape, const Batch &batch, int64_t &longest) {
  if (shape.on_device) {
    if (longest > shape.max_tokens) longest = shape.max_tokens;
    return THINK_OK;
  }
  bool by_head = false;
  for (int32_t s = 0; s < count; ++s) by_head |= segments[s].lengths_stride[1] != 0;
  longest = 0;
  for (int32_t sequence = 0; sequence < batch.count; ++sequence) {
    for (int32_t head = 0; head < (by_head ? shape.kv_heads : 1); ++head) {
      int64_t tokens = 0;
      for (int32_t s = 0; s < count; ++s) tokens += run_length(segments[s], sequence, head);
      if (tokens > shape.max_tokens) {
        return wrong({error, 4, "segments"}, "", "expected at most %lld tokens (max_tokens of the plan) in sequence %d, got %lld",
                     static_cast<long long>(shape.max_tokens), sequence, static_cast<long long>(tokens));
      }
      if (tokens > longest) longest = tokens;
    }
  }
  return THINK_OK;
}

think_status check_same_extents(const Argument &argument, const think_tensor &tensor, const think_tensor &other, const char *other_name, int axes) {
  for (int axis = 0; axis < axes; ++axis) {
    if (tensor.extent[axis] != other.extent[axis]) {
      return wrong(argument, Text("extent[%d]", axis).text, "expected %lld as %s, got %lld", static_cast<long long>(other.extent[axis]), other_name,
                   static_cast<long long>(tensor.extent[axis]));
    }
  }
  return THINK_OK;
}

}  // namespace

extern "C" {

think_status think_attend(const think_plan *plan, const think_tensor *query, const think_batch *batch, const think_segment *segments,
                          int32_t segment_count, const float *sink_logit, const think_tensor *output, float *lse, const think_launch *launch,
                          think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    const Shape &shape = plan->shape;
    const Argument query_argument{error, 2, "query"}, batch_argument{error, 3, "batch"}, output_argument{error, 7, "output"};
    attend::Arguments arguments{};
    arguments.shape = shape;
    if (const think_status status = read_tensor(query_argument, query, {shape.query_heads, shape.key_channels, shape.query_dtype}, arguments.query)) {
      return status;
    }
    int64_t queries, tokens = 0;
    if (const think_status status = read_batch(batch_argument, batch, shape, arguments.query.extent[0], arguments.batch)) return status;
    if (const think_status status =
            check_rows(batch_argument, arguments.batch, query_argument, arguments.query, shape, shape.max_queries, "max_queries", &queries)) {
      return status;
    }
    if (const think_status status = check_slots(batch_argument, arguments.batch, plan->shape, INT32_MAX, "a slot", false)) return status;
    // The launch is read before the segments because its flags say how closely to look at them.
    Launch call;
    if (const think_status status = read_launch({error, 9, "launch"}, launch, plan->shape, true, call)) return status;
    if (!segments) return null_pointer({error, 4, "segments"});
    if (segment_count < 1 || segment_count > THINK_MAX_SEGMENTS) {
      return wrong({error, 5, "segment_count"}, "", "expected 1 .. %d (THINK_MAX_SEGMENTS), got %d", THINK_MAX_SEGMENTS, segment_count);
    }
    think_segment checked[THINK_MAX_SEGMENTS];
    think_basis bases[THINK_MAX_SEGMENTS][2];
    const SegmentRule rule{false, true, true, true, true, false};
    int32_t causal = -1;
    think_dtype device_dtype = 0;
    for (int32_t s = 0; s < segment_count; ++s) {
      const Text name("segments[%d]", s);
      const Argument argument{error, 4, name.text, "."};
      SegmentCopy copy;
      if (const think_status status = read_segment(argument, segments, s, shape, arguments.batch, rule, call.check, copy)) return status;
      if (!copy.segment.key && copy.longest > 0) return null_pointer(argument, "key");
      if (!copy.segment.value && copy.longest > 0) return null_pointer(argument, "value");
      if (copy.segment.flags & THINK_SEGMENT_CAUSAL) {
        if (causal >= 0) return wrong(argument, "flags", "expected one causal segment at most, segments[%d] is causal too", causal);
        causal = s;
      }
      if (plan->context->cuda) {
        if (const think_status status = check_device_attention(argument, copy.segment, device_dtype)) return status;
      }
      tokens += copy.longest;
      checked[s] = copy.segment;
      if (copy.segment.key_basis) checked[s].key_basis = &(bases[s][THINK_KEYS] = copy.key_basis);
      if (copy.segment.value_basis) checked[s].value_basis = &(bases[s][THINK_VALUES] = copy.value_basis);
    }
    if (const think_status status = check_tokens(error, checked, segment_count, shape, arguments.batch, tokens)) return status;
    if (const think_status status = check_optional({error, 6, "sink_logit"}, sink_logit)) return status;
    if (const think_status status = read_tensor(output_argument, output, {shape.query_heads, shape.value_channels, shape.output_dtype}, arguments.output)) {
      return status;
    }
    if (const think_status status = check_same_extents(output_argument, arguments.output, arguments.query, "the query's", 3)) return status;
    if (const think_status status = check_optional({error, 8, "lse"}, lse)) return status;
    attend::Extent extent{arguments.batch.count, static_cast<int32_t>(queries), segment_count, tokens};
    if (arguments.batch.row_start) extent.rows = arguments.query.extent[2];
    const cuda::Backend *backend = plan->context->cuda;
    const int64_t needed = backend ? backend->attend_workspace(shape, extent) : attend::workspace(shape, extent);
    if (const think_status status = check_workspace(call, needed)) return status;
    if (queries == 0) return THINK_OK;
    arguments.segments = checked;
    arguments.segment_count = segment_count;
    arguments.sink_logit = sink_logit;
    arguments.lse = lse;
    if (backend) {
      return run_on_device(*plan, error, [&](const cuda::Backend &) { return backend->attend(arguments, extent, nullptr, call.workspace, call.stream); });
    }
    attend::attend(plan->isa, arguments, call.workspace, plan->parallel, call.slice);
    return THINK_OK;
  });
}

think_status think_merge(const think_plan *plan, const think_tensor *outputs, const float *const *lses, int32_t count, const think_tensor *output,
                         float *lse, const think_launch *launch, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    const Shape &shape = plan->shape;
    if (!outputs) return null_pointer({error, 2, "outputs"});
    if (count < 1 || count > kMostMerged) return wrong({error, 4, "count"}, "", "expected 1 .. %d, got %d", kMostMerged, count);
    const TensorRule rule{shape.query_heads, shape.value_channels, 0};
    const auto check_dtype = [&](const Argument &argument, think_dtype dtype) -> think_status {
      if (dtype == shape.output_dtype || dtype == THINK_F32) return THINK_OK;
      return wrong(argument, "dtype", "expected %s (output_dtype of the plan) or f32, got %s", dtype_name(shape.output_dtype), dtype_name(dtype));
    };
    think_tensor checked[kMostMerged];
    for (int32_t i = 0; i < count; ++i) {
      const Text name("outputs[%d]", i);
      const Argument argument{error, 2, name.text, "."};
      if (const think_status status = read_element(argument, outputs, i, checked[i])) return status;
      if (const think_status status = check_tensor(argument, checked[i], rule)) return status;
      if (const think_status status = check_dtype(argument, checked[i].dtype)) return status;
      if (const think_status status = check_same_extents(argument, checked[i], checked[0], "outputs[0]", 4)) return status;
    }
    const Argument lses_argument{error, 3, "lses", ""}, output_argument{error, 5, "output"};
    if (const think_status status = check_pointer(lses_argument, lses, alignof(const float *))) return status;
    for (int32_t i = 0; i < count; ++i) {
      if (const think_status status = check_pointer(lses_argument, lses[i], alignof(float), Text("[%d]", i).text)) return status;
    }
    attend::Merge merge{};
    merge.shape = shape;
    if (const think_status status = read_tensor(output_argument, output, rule, merge.output)) return status;
    if (const think_status status = check_dtype(output_argument, merge.output.dtype)) return status;
    if (const think_status status = check_same_extents(output_argument, merge.output, checked[0], "outputs[0]", 4)) return status;
    if (const think_status status = check_optional({error, 6, "lse"}, lse)) return status;
    Launch call;
    if (const think_status status = read_launch({error, 7, "launch"}, launch, plan->shape, false, call)) return status;
    merge.outputs = checked;
    merge.lses = lses;
    merge.count = count;
    merge.lse = lse;
    if (plan->context->cuda) {
      return run_on_device(*plan, error, [&](const cuda::Backend &backend) { return backend.merge(merge, call.stream); });
    }
    attend::merge(plan->isa, merge);
    return THINK_OK;
  });
}

}  // extern "C"
