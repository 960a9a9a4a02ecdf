#include "think/segment.h"

#include "kernels/common/workspace.h"
#include "kernels/compact/compact.h"
#include "libthink/core/check.h"
#include "libthink/core/device.h"
#include "libthink/core/format.h"
#include "libthink/core/layout.h"

using namespace think;

namespace {

think_status check_total(const Argument &argument, int64_t total, int64_t most) {
  if (total >= 1 && total <= most) return THINK_OK;
  return wrong(argument, "", "expected 1 .. %lld (kv_heads * channels of the plan), got %lld", static_cast<long long>(most), static_cast<long long>(total));
}

}  // namespace

extern "C" {

void think_segment_init(think_segment *segment, uint32_t struct_size) {
  const think_segment initial = THINK_SEGMENT_INIT;
  init_struct(segment, struct_size, initial);
}

void think_format_init(think_format *format, uint32_t struct_size) {
  const think_format initial = THINK_FORMAT_INIT;
  init_struct(format, struct_size, initial);
}

void think_layout_info_init(think_layout_info *info, uint32_t struct_size) {
  const think_layout_info initial = THINK_LAYOUT_INFO_INIT;
  init_struct(info, struct_size, initial);
}

think_status think_layout(const think_plan *plan, const think_format *format, int32_t page_tokens, int64_t total_key, int64_t total_value,
                          think_layout_info *info, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    const Shape &shape = plan->shape;
    think_format copy;
    if (const think_status status = read_format({error, 2, "format"}, format, shape, copy)) return status;
    if (page_tokens < 1 || page_tokens % kTileTokens) {
      return wrong({error, 3, "page_tokens"}, "", "expected a positive multiple of 32, got %d", page_tokens);
    }
    if (const think_status status = check_total({error, 4, "total_key"}, total_key, int64_t{shape.kv_heads} * shape.key_channels)) return status;
    if (const think_status status = check_total({error, 5, "total_value"}, total_value, int64_t{shape.kv_heads} * shape.value_channels)) return status;
    if (const think_status status = check_output({error, 6, "info"}, info)) return status;
    think_layout_info answer = THINK_LAYOUT_INFO_INIT;
    answer.key_page_bytes = rows_bytes(shape, THINK_KEYS, page_tokens, total_key, 1, copy.key_dtype);
    answer.value_page_bytes = rows_bytes(shape, THINK_VALUES, page_tokens, total_value, 8, copy.value_dtype);
    answer.key_basis_bytes = basis_bytes(shape, THINK_KEYS);
    answer.value_basis_bytes = basis_bytes(shape, THINK_VALUES);
    answer.alignment = kWorkspaceAlignment;
    write_output(info, answer);
    return THINK_OK;
  });
}

think_status think_segment_place(const think_plan *plan, const think_segment *segment, const think_batch *batch, const think_launch *launch,
                                 think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    const Shape &shape = plan->shape;
    Launch call;
    Batch sequences;
    SegmentCopy copy;
    // The launch comes first because its flags say how closely to look.
    if (const think_status status = read_launch({error, 4, "launch"}, launch, plan->shape, false, call)) return status;
    if (const think_status status = read_batch({error, 3, "batch"}, batch, shape, 1, sequences)) return status;
    if (const think_status status = check_slots({error, 3, "batch"}, sequences, plan->shape, INT32_MAX, "a slot", false)) return status;
    const SegmentRule rule{false, false, true, false, false, true};
    const Argument argument{error, 2, "segment"};
    if (const think_status status = read_segment(argument, segment, 0, shape, sequences, rule, call.check, copy)) return status;
    if (const think_status status = check_place(argument, copy.segment)) return status;
    if (plan->context->cuda) {
      return run_on_device(*plan, error, [&](const cuda::Backend &backend) { return backend.place(shape, copy.segment, sequences, call.stream); });
    }
    compact::place(shape, copy.segment, sequences);
    return THINK_OK;
  });
}

}  // extern "C"
