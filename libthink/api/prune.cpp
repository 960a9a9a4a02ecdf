#include "libthink/core/prune.h"

#include <algorithm>

#include "kernels/score/score.h"
#include "libthink/core/check.h"
#include "libthink/core/device.h"
#include "libthink/core/layout.h"
#include "libthink/core/format.h"
#include "libthink/core/workspace.h"

using namespace think;

namespace {

// Lengths (and with them the rows that move) must be those of the whole sequence: one basis and one page layout serve all its heads.
think_status check_heads_alike(const Argument &argument, const think_segment &segment, bool used, const Shape &shape) {
  if (!used || segment.lengths_stride[1] == 0 || shape.kv_heads == 1) return THINK_OK;
  return unsupported(argument, "lengths_stride[1]", "expected 0 (heads of a sequence have the same rows), got %lld",
                     static_cast<long long>(segment.lengths_stride[1]));
}

think_status check_target_basis(const Argument &destination, const char *field, const think_basis *basis, int32_t side, const Shape &shape,
                                const PruneOptions &options, bool pruned) {
  if (!basis) return pruned ? null_pointer(destination, field) : THINK_OK;
  const Text name("%s->%s", destination.name, field);
  const Argument argument{destination.error, destination.position, name.text};
  think_basis copy;
  if (const think_status status = read_basis(argument, basis, shape, side, pruned && options.regressed, copy)) return status;
  if (!copy.weight_offset) return null_pointer(argument, "weight_offset");
  return pruned && options.regressed ? check_weight_room(argument, copy, shape) : THINK_OK;
}

// Has the state seen the rows that are to be pruned? More is fine: rows may have been evicted since.
think_status check_prune_state(think_error *error, const Shape &shape, const void *score_state, const think_segment &source, const Batch &batch) {
  if (shape.on_device) return THINK_OK;
  for (int32_t sequence = 0; sequence < batch.count; ++sequence) {
    const int64_t seen = *score::state_view(shape, const_cast<void *>(score_state), slot_of(batch, sequence)).tokens;
    const int64_t tokens = run_length(source, sequence, 0);
    if (seen >= tokens) continue;
    return fail(error, THINK_E_STATE, 2, "score_state: expected think_score_update() with all %lld tokens of sequence %d before, got %lld",
                static_cast<long long>(tokens), sequence, static_cast<long long>(seen));
  }
  return THINK_OK;
}

// Heads are placed one behind the other, and the widest sequence (one that stays dense, say) must not run into the next page or slot.
think_status check_prune_stride(const Argument &argument, const Shape &shape, const PruneOptions &options, const think_segment &source,
                                const think_segment &target, const Batch &batch) {
  if (shape.on_device) return THINK_OK;
  for (int32_t sequence = 0; sequence < batch.count; ++sequence) {
    const PruneDecision decision = decide_prune(shape, options, target.key_dtype, target.value_dtype, run_length(source, sequence, 0));
    if (decision.range.count == 0) continue;
    const auto check = [&](const char *field, bool placed, int64_t stride, const SideDecision &side, int32_t which, think_dtype dtype) -> think_status {
      // What the rows that move take, for all rows of the page; as placed, which is further apart where the rows are.
      int64_t needed = is_quantized(dtype) ? side.bytes / (decision.range.count / kTileTokens) * (target.page_tokens / kTileTokens)
                                           : rows_bytes(shape, which, target.page_tokens, side.total, 1, dtype);
      const bool keys = which == THINK_KEYS;
      const int64_t row = (keys ? target.key_layout : target.value_layout) == THINK_ROWS ? (keys ? target.key_stride : target.value_stride)[2] : 0;
      int64_t spread;
      if (__builtin_mul_overflow(int64_t{shape.kv_heads} * target.page_tokens, row, &spread)) spread = INT64_MAX;
      needed = std::max(needed, spread);
      if (!placed || stride == 0 || stride >= needed) return THINK_OK;
      return wrong(argument, field, "expected at least %lld bytes for the %lld channels that the heads of sequence %d keep together, got %lld",
                   static_cast<long long>(needed), static_cast<long long>(side.total), sequence, static_cast<long long>(stride));
    };
    if (const think_status status = check("key_stride[0]", target.key_head_offset, target.key_stride[0], decision.key, THINK_KEYS, target.key_dtype)) return status;
    if (const think_status status = check("value_stride[0]", target.value_head_offset, target.value_stride[0], decision.value, THINK_VALUES, target.value_dtype)) {
      return status;
    }
  }
  return THINK_OK;
}

}  // namespace

extern "C" {

void think_prune_options_init(think_prune_options *options, uint32_t struct_size) {
  const think_prune_options initial = THINK_PRUNE_OPTIONS_INIT;
  init_struct(options, struct_size, initial);
}

void think_prune_result_init(think_prune_result *result, uint32_t struct_size) {
  const think_prune_result initial = THINK_PRUNE_RESULT_INIT;
  init_struct(result, struct_size, initial);
}

think_status think_prune_preview(const think_plan *plan, const think_format *format, int64_t tokens, const think_prune_options *options,
                                 think_prune_result *result, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    const Shape &shape = plan->shape;
    think_format target;
    if (const think_status status = read_format({error, 2, "format"}, format, shape, target)) return status;
    if (tokens < 0 || tokens > shape.max_tokens) {
      return wrong({error, 3, "tokens"}, "", "expected 0 .. %lld (max_tokens of the plan), got %lld", static_cast<long long>(shape.max_tokens),
                   static_cast<long long>(tokens));
    }
    PruneOptions settings;
    if (const think_status status = read_prune_options({error, 4, "options"}, options, shape, settings)) return status;
    if (const think_status status = check_output({error, 5, "result"}, result)) return status;
    const PruneDecision decision = decide_prune(shape, settings, target.key_dtype, target.value_dtype, tokens);
    think_prune_result answer = THINK_PRUNE_RESULT_INIT;
    answer.first = decision.range.first;
    answer.rows = decision.range.count;
    answer.key_total = decision.key.total;
    answer.value_total = decision.value.total;
    answer.dense_bytes = decision.dense_bytes;
    answer.key_bytes = decision.key.bytes;
    answer.value_bytes = decision.value.bytes;
    answer.key_basis_bytes = decision.key.basis_bytes;
    answer.value_basis_bytes = decision.value.basis_bytes;
    write_output(result, answer);
    return THINK_OK;
  });
}

think_status think_prune(const think_plan *plan, const void *score_state, const think_segment *source, const think_segment *destination,
                         const think_batch *batch, const think_prune_options *options, uint8_t *mask, const think_launch *launch, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    const Shape &shape = plan->shape;
    if (const think_status status = check_pointer({error, 2, "score_state"}, score_state, 64)) return status;
    const Argument source_argument{error, 3, "source"}, destination_argument{error, 4, "destination"}, batch_argument{error, 5, "batch"};
    if (!source) return null_pointer(source_argument);
    if (!destination) return null_pointer(destination_argument);
    // Batch, options and launch say what the segments must be, so they are read before them.
    PruneCall call{};
    call.shape = shape;
    Launch launched;
    if (const think_status status = read_launch({error, 8, "launch"}, launch, plan->shape, false, launched)) return status;
    if (const think_status status = read_batch(batch_argument, batch, shape, 1, call.batch)) return status;
    if (const think_status status = check_slots(batch_argument, call.batch, plan->shape, INT32_MAX, "a slot", launched.check)) return status;
    if (const think_status status = read_prune_options({error, 6, "options"}, options, shape, call.options)) return status;
    SegmentCopy from, to;
    const SegmentRule source_rule{true, true, false, false, true, false}, destination_rule{false, false, false, false, false, true};
    if (const think_status status = read_segment(source_argument, source, 0, shape, call.batch, source_rule, launched.check, from)) return status;
    if (const think_status status = check_heads_alike(source_argument, from.segment, true, shape)) return status;
    if (!from.segment.key) return null_pointer(source_argument, "key");
    if (const think_status status =
            read_segment(destination_argument, destination, 0, shape, call.batch, destination_rule, launched.check, to)) {
      return status;
    }
    const think_segment &target = to.segment;
    if (const think_status status = check_heads_alike(destination_argument, target, target.first != nullptr, shape)) return status;
    if (!target.key) return null_pointer(destination_argument, "key");
    const bool values = call.options.value_kept < shape.value_channels;
    if (!from.segment.value && (target.value || values)) return null_pointer(source_argument, "value");
    if (!target.value && (from.segment.value || values)) return null_pointer(destination_argument, "value");
    if (shape.on_device && values && !call.options.regressed) {  // values are scored by attention
      think_dtype dtype = 0;
      if (const think_status status = check_device_attention(source_argument, from.segment, dtype)) return status;
    }
    const bool keys = call.options.key_kept < shape.key_channels;
    if (const think_status status = check_target_basis(destination_argument, "key_basis", target.key_basis, THINK_KEYS, shape, call.options, keys)) {
      return status;
    }
    if (const think_status status =
            check_target_basis(destination_argument, "value_basis", target.value_basis, THINK_VALUES, shape, call.options, values)) {
      return status;
    }
    if (target.key_head_offset || target.value_head_offset) {
      if (const think_status status = check_place(destination_argument, target)) return status;
    }
    if (const think_status status = check_prune_room(destination_argument, from.segment, target, shape, call.options.sinks, call.options.recent, call.batch,
                                                           launched.check)) {
      return status;
    }
    if (const think_status status = check_prune_state(error, shape, score_state, from.segment, call.batch)) return status;
    if (const think_status status = check_prune_stride(destination_argument, shape, call.options, from.segment, target, call.batch)) return status;
    const cuda::Backend *backend = plan->context->cuda;
    const int64_t needed = backend ? prune_workspace(*backend, shape, call.batch.count, from.longest)
                                   : prune_workspace(shape, call.batch.count, from.longest, plan->parallel.threads);
    if (const think_status status = check_workspace(launched, needed)) return status;
    call.isa = plan->isa;
    call.parallel = plan->parallel;
    call.score_state = score_state;
    call.source = from.segment;
    call.destination = target;
    call.mask = mask;
    if (backend) {
      return run_on_device(*plan, error, [&](const cuda::Backend &) { return prune(*backend, call, from.longest, launched.workspace, launched.stream); });
    }
    prune(call, launched.workspace);
    leave_counters_zero(shape, launched.workspace, needed);
    return THINK_OK;
  });
}

}  // extern "C"
