#include "kernels/fit/fit.h"

#include "libthink/core/check.h"
#include "libthink/core/device.h"
#include "libthink/core/layout.h"
#include "libthink/core/shared_options.h"
#include "libthink/core/workspace.h"

using namespace think;

extern "C" {

void think_fit_options_init(think_fit_options *options, uint32_t struct_size) {
  const think_fit_options initial = THINK_FIT_OPTIONS_INIT;
  init_struct(options, struct_size, initial);
}

think_status think_fit(const think_plan *plan, const void *moments, const think_batch *batch, const think_fit_options *options, think_basis *basis,
                       const think_launch *launch, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    const Shape &shape = plan->shape;
    if (const think_status status = check_pointer({error, 2, "moments"}, moments, 64)) return status;
    const Argument batch_argument{error, 3, "batch"}, options_argument{error, 4, "options"}, basis_argument{error, 5, "basis"};
    fit::Arguments arguments{};
    arguments.shape = shape;
    arguments.moments = moments;
    if (const think_status status = read_batch(batch_argument, batch, shape, 1, arguments.batch)) return status;
    const think_fit_options defaults = THINK_FIT_OPTIONS_INIT;
    think_fit_options copy;
    if (const think_status status = read_options(options_argument, options, copy, defaults)) return status;
    if (const think_status status = check_side(options_argument, "side", copy.side)) return status;
    if (copy.reserved != 0) return wrong(options_argument, "reserved", "expected 0, got %d", copy.reserved);
    if (const think_status status = read_ridge(options_argument, copy.ridge, arguments.ridge)) return status;
    if (copy.reserved2 != 0) return wrong(options_argument, "reserved2", "expected 0, got %s", NumberText(copy.reserved2).text);
    arguments.side = copy.side;
    if (const think_status status = read_basis(basis_argument, basis, shape, copy.side, true, arguments.basis)) return status;
    if (const think_status status = check_weight_room(basis_argument, arguments.basis, shape)) return status;
    Launch call;
    if (const think_status status = read_launch({error, 6, "launch"}, launch, plan->shape, false, call)) return status;
    if (const think_status status = check_slots(batch_argument, arguments.batch, shape, arguments.basis.slots, "slots of basis", call.check)) return status;
    for (int32_t sequence = 0; call.check && sequence < arguments.batch.count; ++sequence) {
      // The weights are about to be written: only the choice must be there.
      think_basis choice = arguments.basis;
      choice.weight_offset = nullptr;
      if (const think_status status = check_basis_contents(basis_argument, choice, shape, copy.side, slot_of(arguments.batch, sequence))) return status;
    }
    const cuda::Backend *backend = plan->context->cuda;
    const int64_t needed =
        backend ? backend->fit_workspace(shape, arguments.batch.count) : fit::workspace(shape, arguments.batch.count, plan->parallel.threads);
    if (const think_status status = check_workspace(call, needed)) return status;
    if (backend) {
      return run_on_device(*plan, error, [&](const cuda::Backend &) { return backend->fit(arguments, arguments.batch.slot, call.workspace, call.stream); });
    }
    fit::fit(arguments, call.workspace, plan->parallel);
    leave_counters_zero(shape, call.workspace, needed);
    return THINK_OK;
  });
}

}  // extern "C"
