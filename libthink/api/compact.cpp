#include "kernels/compact/compact.h"

#include "libthink/core/check.h"
#include "libthink/core/device.h"

using namespace think;

namespace {

struct SideNames {
  const char *side, *pointer, *basis;
};

// A side is in both segments or in none of them, and the source has everything or just what the destination keeps.
think_status check_pair(const Argument &source_argument, const Argument &destination_argument, const think_segment &source,
                        const think_segment &destination, int32_t side, const Shape &shape, const Batch &batch, bool check, bool any_rows) {
  const bool keys = side == THINK_KEYS;
  const SideNames names = keys ? SideNames{"keys", "key", "key_basis"} : SideNames{"values", "value", "value_basis"};
  const void *from = keys ? source.key : source.value, *to = keys ? destination.key : destination.value;
  if (!from && !to) return THINK_OK;
  if (any_rows && !from) return wrong(source_argument, names.pointer, "expected a pointer, as the destination has %s, got NULL", names.side);
  if (any_rows && !to) return wrong(destination_argument, names.pointer, "expected a pointer, as the source has %s, got NULL", names.side);
  const think_basis *from_basis = keys ? source.key_basis : source.value_basis, *to_basis = keys ? destination.key_basis : destination.value_basis;
  if (!from_basis) return THINK_OK;
  if (!to_basis) return wrong(destination_argument, names.basis, "expected the basis of the source, got NULL: dropped channels cannot be rebuilt");
  if (from_basis->kept == to_basis->kept && from_basis->index == to_basis->index) return THINK_OK;
  for (int32_t sequence = 0; check && sequence < batch.count; ++sequence) {
    const int64_t from_row = int64_t{slot_of(source, batch, sequence)} * shape.kv_heads, to_row = int64_t{slot_of(destination, batch, sequence)} * shape.kv_heads;
    const size_t kept_bytes = static_cast<size_t>(shape.kv_heads) * sizeof(int32_t), index_bytes = kept_bytes * static_cast<size_t>(to_basis->channels);
    if (std::memcmp(from_basis->kept + from_row, to_basis->kept + to_row, kept_bytes) != 0 ||
        std::memcmp(from_basis->index + from_row * to_basis->channels, to_basis->index + to_row * to_basis->channels, index_bytes) != 0) {
      return wrong(destination_argument, names.basis, "expected the channels of the source's basis, sequence %d keeps others", sequence);
    }
  }
  return THINK_OK;
}

}  // namespace

extern "C" {

think_status think_compact(const think_plan *plan, const think_segment *source, const think_segment *destination, const think_batch *batch,
                           const think_launch *launch, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    const Shape &shape = plan->shape;
    const Argument source_argument{error, 2, "source"}, destination_argument{error, 3, "destination"}, batch_argument{error, 4, "batch"};
    if (!source) return null_pointer(source_argument);
    if (!destination) return null_pointer(destination_argument);
    // The segments are measured against the batch, and the launch says how closely to look: both are read before.
    Launch call;
    if (const think_status status = read_launch({error, 5, "launch"}, launch, plan->shape, true, call)) return status;
    compact::Arguments arguments{};
    arguments.shape = shape;
    if (const think_status status = read_batch(batch_argument, batch, shape, 1, arguments.batch)) return status;
    if (const think_status status = check_slots(batch_argument, arguments.batch, plan->shape, INT32_MAX, "a slot", false)) return status;
    SegmentCopy from, to;
    const SegmentRule source_rule{false, false, true, false, false, false}, destination_rule{false, true, true, false, true, true, true};
    if (const think_status status = read_segment(source_argument, source, 0, shape, arguments.batch, source_rule, call.check, from)) return status;
    if (const think_status status = read_segment(destination_argument, destination, 0, shape, arguments.batch, destination_rule, call.check, to)) {
      return status;
    }
    if ((to.segment.flags & THINK_SEGMENT_MEASURE) && call.slice.count > 1) {
      return wrong(destination_argument, "flags", "expected no THINK_SEGMENT_MEASURE in a call of %d slices", call.slice.count);
    }
    for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
      if (const think_status status = check_pair(source_argument, destination_argument, from.segment, to.segment, side, shape, arguments.batch, call.check,
                                                 to.longest > 0)) {
        return status;
      }
    }
    if (const think_status status = check_source_room(source_argument, from.segment, to.segment, shape, arguments.batch, call.check)) return status;
    if (to.longest == 0) return THINK_OK;
    arguments.source = from.segment;
    arguments.destination = to.segment;
    if (plan->context->cuda) {
      return run_on_device(*plan, error, [&](const cuda::Backend &backend) { return backend.compact(arguments, to.longest, call.stream); });
    }
    compact::compact(plan->isa, arguments, plan->parallel, call.slice);
    return THINK_OK;
  });
}

}  // extern "C"
