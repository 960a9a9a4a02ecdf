#include "kernels/select/select.h"

#include <algorithm>

#include "libthink/core/check.h"
#include "libthink/core/device.h"
#include "libthink/core/workspace.h"

using namespace think;

namespace {

// Widths of a table are indices into rows, so they are looked at in every call: there are few of them.
think_status check_widths(const Argument &argument, const int32_t *kept, int64_t count, int32_t channels, bool on_device) {
  if (const think_status status = check_array(argument, kept)) return status;
  for (int64_t i = 0; i < count && !on_device; ++i) {
    if (kept[i] < 1 || kept[i] > channels) {
      return wrong(argument, Text("[%lld]", static_cast<long long>(i)).text, "expected 1 .. %d, got %d", channels, kept[i]);
    }
  }
  return THINK_OK;
}

think_status read_budgets(const Argument &argument, const think_budget_options *in, const Shape &shape, int32_t side, select::Budgets &budgets) {
  think_budget_options options;
  if (const think_status status = read_struct(argument, in, options, THINK_BUDGET_NORMALISE)) return status;
  const int32_t channels = channels_of(shape, side);
  if (options.layers < 0 || options.layers > 65536) return wrong(argument, "layers", "expected 0 .. 65536, got %d", options.layers);
  budgets.layers = options.layers ? options.layers : 1;
  budgets.kv_heads = shape.kv_heads;
  budgets.channels = channels;
  budgets.step = options.step ? options.step : 8;
  budgets.total = options.total;
  budgets.normalise = (options.flags & THINK_BUDGET_NORMALISE) != 0;
  if (budgets.step < 1 || budgets.step > channels) return wrong(argument, "step", "expected 1 .. %d, got %d", channels, options.step);
  const int32_t whole = channels / budgets.step * budgets.step;
  budgets.floor = options.floor ? options.floor : std::min(whole, (8 + budgets.step - 1) / budgets.step * budgets.step);
  if (budgets.floor < 1 || budgets.floor > channels || budgets.floor % budgets.step) {
    return wrong(argument, "floor", "expected a multiple of step (%d) from %d to %d, got %d", budgets.step, budgets.step, channels, budgets.floor);
  }
  if (options.reserved != 0) return wrong(argument, "reserved", "expected 0, got %d", options.reserved);
  const int64_t heads = int64_t{budgets.layers} * shape.kv_heads;
  if (options.total < heads * budgets.floor || options.total > heads * channels) {
    return wrong(argument, "total", "expected %lld (floor %d in each of %lld heads) .. %lld (all channels), got %lld",
                 static_cast<long long>(heads * budgets.floor), budgets.floor, static_cast<long long>(heads), static_cast<long long>(heads * channels),
                 static_cast<long long>(options.total));
  }
  return THINK_OK;
}

}  // namespace

extern "C" {

void think_budget_options_init(think_budget_options *options, uint32_t struct_size) {
  const think_budget_options initial = THINK_BUDGET_OPTIONS_INIT;
  init_struct(options, struct_size, initial);
}

void think_select_options_init(think_select_options *options, uint32_t struct_size) {
  const think_select_options initial = THINK_SELECT_OPTIONS_INIT;
  init_struct(options, struct_size, initial);
}

think_status think_budgets(const think_plan *plan, const float *gains, const think_batch *batch, int32_t side, const think_budget_options *options,
                           int32_t *kept, const think_launch *launch, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    if (const think_status status = check_array({error, 2, "gains"}, gains)) return status;
    Batch sequences;
    if (const think_status status = read_batch({error, 3, "batch"}, batch, plan->shape, 1, sequences)) return status;
    if (const think_status status = check_side({error, 4, "side"}, "", side)) return status;
    select::Budgets budgets{};
    budgets.batch = sequences.count;
    if (const think_status status = read_budgets({error, 5, "options"}, options, plan->shape, side, budgets)) return status;
    if (const think_status status = check_array({error, 6, "kept"}, kept)) return status;
    Launch call;
    if (const think_status status = read_launch({error, 7, "launch"}, launch, plan->shape, false, call)) return status;
    const cuda::Backend *backend = plan->context->cuda;
    const int64_t needed = backend ? backend->budgets_workspace(budgets) : select::budgets_workspace(budgets);
    if (const think_status status = check_workspace(call, needed)) return status;
    if (backend) {
      return run_on_device(*plan, error, [&](const cuda::Backend &) { return backend->budgets(budgets, gains, kept, call.workspace, call.stream); });
    }
    select::budgets(budgets, gains, kept, call.workspace);
    leave_counters_zero(plan->shape, call.workspace, needed);
    return THINK_OK;
  });
}

think_status think_select(const think_plan *plan, const float *score, const think_batch *batch, const think_select_options *options, const int32_t *kept,
                          think_basis *basis, uint8_t *mask, const think_launch *launch, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    const Shape &shape = plan->shape;
    if (const think_status status = check_array({error, 2, "score"}, score)) return status;
    Batch sequences;
    const Argument batch_argument{error, 3, "batch"}, options_argument{error, 4, "options"}, basis_argument{error, 6, "basis"};
    if (const think_status status = read_batch(batch_argument, batch, shape, 1, sequences)) return status;
    think_select_options copy;
    constexpr uint32_t pair_flags = THINK_SELECT_PAIRS_HALVES | THINK_SELECT_PAIRS_INTERLEAVED;
    if (const think_status status = read_struct(options_argument, options, copy, pair_flags)) return status;
    if (const think_status status = check_side(options_argument, "side", copy.side)) return status;
    if (copy.flags == pair_flags) return wrong(options_argument, "flags", "expected one kind of pairs at most, got both");
    const int32_t channels = channels_of(shape, copy.side);
    if (!kept && (copy.kept < 1 || copy.kept > channels)) return wrong(options_argument, "kept", "expected 1 .. %d, got %d", channels, copy.kept);
    const int32_t unit = copy.side == THINK_VALUES ? 8 : 1, round_to = copy.round_to ? copy.round_to : unit;
    if (round_to < 1 || round_to > kMaxChannels || round_to % unit) {
      return wrong(options_argument, "round_to", "expected %s up to %d, got %d", unit > 1 ? "a multiple of 8 (values)" : "a number", kMaxChannels,
                   copy.round_to);
    }
    if (copy.reserved != 0) return wrong(options_argument, "reserved", "expected 0, got %d", copy.reserved);
    if (kept) {
      const Argument kept_argument{error, 5, "kept", ""};
      if (const think_status status = check_widths(kept_argument, kept, int64_t{sequences.count} * shape.kv_heads, channels, shape.on_device)) return status;
    }
    think_basis target;
    if (const think_status status = read_basis(basis_argument, basis, shape, copy.side, false, target)) return status;
    if (!target.weight_offset) return null_pointer(basis_argument, "weight_offset");
    Launch call;
    if (const think_status status = read_launch({error, 8, "launch"}, launch, plan->shape, false, call)) return status;
    if (const think_status status = check_slots(batch_argument, sequences, plan->shape, target.slots, "slots of basis", call.check)) return status;
    select::Select choice{};
    choice.kv_heads = shape.kv_heads;
    choice.channels = channels;
    choice.round_to = round_to;
    choice.uniform_kept = copy.kept;
    choice.kept = kept;
    choice.pairs = copy.flags == THINK_SELECT_PAIRS_HALVES        ? select::Pairs::halves
                   : copy.flags == THINK_SELECT_PAIRS_INTERLEAVED ? select::Pairs::interleaved
                                                                  : select::Pairs::none;
    if (plan->context->cuda) {
      return run_on_device(*plan, error, [&](const cuda::Backend &backend) { return backend.select(choice, score, sequences, target, mask, call.stream); });
    }
    select::select(choice, score, sequences, target, mask);
    return THINK_OK;
  });
}

}  // extern "C"
