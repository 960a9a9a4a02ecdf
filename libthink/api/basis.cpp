#include "think/basis.h"

#include "kernels/common/workspace.h"
#include "libthink/core/check.h"
#include "libthink/core/layout.h"

using namespace think;

namespace {

think_status check_slot_count(const Argument &argument, int32_t slots) {
  return slots >= 1 ? THINK_OK : wrong(argument, "", "expected at least 1, got %d", slots);
}

}  // namespace

extern "C" {

void think_basis_init(think_basis *basis, uint32_t struct_size) {
  const think_basis initial = THINK_BASIS_INIT;
  init_struct(basis, struct_size, initial);
}

think_status think_basis_size(const think_plan *plan, int32_t side, int32_t slots, int64_t *bytes, int64_t *alignment, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    if (const think_status status = check_side({error, 2, "side"}, "", side)) return status;
    if (const think_status status = check_slot_count({error, 3, "slots"}, slots)) return status;
    if (const think_status status = check_array({error, 4, "bytes"}, bytes)) return status;
    if (const think_status status = check_optional({error, 5, "alignment"}, alignment)) return status;
    *bytes = basis_bytes(plan->shape, side) * slots;
    if (alignment) *alignment = kWorkspaceAlignment;
    return THINK_OK;
  });
}

think_status think_basis_bind(const think_plan *plan, int32_t side, int32_t slots, void *memory, int64_t bytes, think_basis *basis, think_error *error) {
  return fence(error, [&]() -> think_status {
    if (!plan) return null_pointer({error, 1, "plan"});
    if (const think_status status = check_side({error, 2, "side"}, "", side)) return status;
    if (const think_status status = check_slot_count({error, 3, "slots"}, slots)) return status;
    if (const think_status status = check_pointer({error, 4, "memory"}, memory, static_cast<int32_t>(kWorkspaceAlignment))) return status;
    const int64_t needed = basis_bytes(plan->shape, side) * slots;
    if (bytes < needed) {
      return wrong({error, 5, "bytes"}, "", "expected at least %lld (think_basis_size), got %lld", static_cast<long long>(needed),
                   static_cast<long long>(bytes));
    }
    if (const think_status status = check_output({error, 6, "basis"}, basis)) return status;
    think_basis answer;
    bind_basis(plan->shape, side, slots, memory, answer);
    write_output(basis, answer);
    return THINK_OK;
  });
}

}  // extern "C"
