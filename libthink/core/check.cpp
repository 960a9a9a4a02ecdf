#include "libthink/core/check.h"

#include "kernels/common/workspace.h"

namespace think {
namespace {

using Long = long long;  // what %lld takes

}  // namespace

think_status check_side(const Argument &argument, const char *field, int32_t side) {
  if (side == THINK_KEYS || side == THINK_VALUES) return THINK_OK;
  return wrong(argument, field, "expected 0 (keys) or 1 (values), got %d", side);
}

think_status read_launch(const Argument &argument, const think_launch *in, const Shape &shape, bool sliced, Launch &launch) {
  static const think_launch defaults = THINK_LAUNCH_INIT;
  think_launch copy;
  if (const think_status status = read_options(argument, in, copy, defaults, THINK_LAUNCH_CHECK)) return status;
  if (copy.slices < 0) return wrong(argument, "slices", "expected at least 0, got %d", copy.slices);
  const int32_t slices = copy.slices ? copy.slices : 1;
  if (shape.on_device && (copy.flags & THINK_LAUNCH_CHECK)) {
    return unsupported(argument, "flags", "THINK_LAUNCH_CHECK: arrays of a device cannot be looked at without waiting for it");
  }
  if (shape.on_device && slices > 1) return unsupported(argument, "slices", "expected 0 or 1 on a CUDA device, got %d", slices);
  if (copy.slice < 0 || copy.slice >= slices) return wrong(argument, "slice", "expected 0 .. %d, got %d", slices - 1, copy.slice);
  if (slices > 1 && !sliced) {
    return unsupported(argument, "slices", "expected 0 or 1, got %d: only think_score_update, think_compact and think_attend can be cut", slices);
  }
  launch = {argument, copy.workspace, copy.workspace_bytes, copy.stream, {copy.slice, slices}, (copy.flags & THINK_LAUNCH_CHECK) != 0};
  return THINK_OK;
}

think_status check_workspace(const Launch &launch, int64_t needed) {
  if (needed == 0) return THINK_OK;
  const int64_t given = launch.workspace ? launch.workspace_bytes : 0;
  if (given < needed) {
    return fail(launch.argument.error, THINK_E_WORKSPACE, launch.argument.position, "%s->workspace_bytes: expected at least %lld, got %lld%s",
                launch.argument.name, static_cast<Long>(needed), static_cast<Long>(given), launch.workspace ? "" : " (workspace is NULL)");
  }
  if (reinterpret_cast<uintptr_t>(launch.workspace) % kWorkspaceAlignment) {
    return fail(launch.argument.error, THINK_E_WORKSPACE, launch.argument.position,
                "%s->workspace: expected an address that is a multiple of %d, got %p (needed %lld bytes, got %lld)", launch.argument.name,
                static_cast<int>(kWorkspaceAlignment), launch.workspace, static_cast<Long>(needed), static_cast<Long>(given));
  }
  return THINK_OK;
}

think_status read_tensor(const Argument &argument, const think_tensor *in, const TensorRule &rule, think_tensor &tensor) {
  if (const think_status status = read_struct(argument, in, tensor)) return status;
  return check_tensor(argument, tensor, rule);
}

think_status check_tensor(const Argument &argument, think_tensor &tensor, const TensorRule &rule) {
  if (rule.dtype ? tensor.dtype != rule.dtype : !is_float_dtype(tensor.dtype)) {
    const char *expected = rule.dtype ? dtype_name(rule.dtype) : "f32, f16 or bf16";
    return wrong(argument, "dtype", "expected %s, got %s (0x%x)", expected, dtype_name(tensor.dtype), static_cast<unsigned>(tensor.dtype));
  }
  if (tensor.reserved != 0) return wrong(argument, "reserved", "expected 0, got %d", tensor.reserved);
  for (int axis = 0; axis < 4; ++axis) {
    if (tensor.extent[axis] < 0) {
      return wrong(argument, Text("extent[%d]", axis).text, "expected at least 0, got %lld", static_cast<Long>(tensor.extent[axis]));
    }
  }
  if (tensor.extent[1] != rule.heads) {
    return wrong(argument, "extent[1]", "expected %d heads, got %lld", rule.heads, static_cast<Long>(tensor.extent[1]));
  }
  if (tensor.extent[3] != rule.channels) {
    return wrong(argument, "extent[3]", "expected %d channels, got %lld", rule.channels, static_cast<Long>(tensor.extent[3]));
  }
  if (tensor.extent[2] > INT32_MAX) return wrong(argument, "extent[2]", "expected at most %d, got %lld", INT32_MAX, static_cast<Long>(tensor.extent[2]));
  if (tensor.stride[3] != 1) return wrong(argument, "stride[3]", "expected 1, got %lld", static_cast<Long>(tensor.stride[3]));
  const int32_t bytes = dtype_bytes(tensor.dtype);
  if (tensor.extent[0] == 0 || tensor.extent[2] == 0) return THINK_OK;  // nothing in it
  if (const think_status status = check_pointer(argument, tensor.data, bytes, "data")) return status;
  // The farthest element in either direction must be addressable in bytes.
  int64_t farthest = 0, largest = -1;
  int widest = 0;
  for (int axis = 0; axis < 4; ++axis) {
    int64_t distance = tensor.stride[axis] == INT64_MIN ? INT64_MAX : tensor.stride[axis] < 0 ? -tensor.stride[axis] : tensor.stride[axis];
    bool overflow = __builtin_mul_overflow(distance, tensor.extent[axis] - 1, &distance) || __builtin_mul_overflow(distance, int64_t{bytes}, &distance);
    if (overflow || distance > largest) {
      largest = overflow ? INT64_MAX : distance;
      widest = axis;
    }
    overflow = overflow || __builtin_add_overflow(farthest, distance, &farthest);
    if (overflow) {
      return wrong(argument, Text("stride[%d]", widest).text, "extent %lld with stride %lld exceeds 64-bit offsets",
                   static_cast<Long>(tensor.extent[widest]), static_cast<Long>(tensor.stride[widest]));
    }
  }
  for (int axis = 0; axis < 3; ++axis) {
    if (tensor.extent[axis] == 1) tensor.stride[axis] = 0;
  }
  return THINK_OK;
}

think_status read_batch(const Argument &argument, const think_batch *in, const Shape &shape, int64_t count_of_null, Batch &batch) {
  if (!in) {
    if (count_of_null < 1 || count_of_null > shape.max_batch) {
      return wrong(argument, "", "NULL stands for every row of the tensor: expected 1 .. %d (max_batch of the plan) sequences, got %lld", shape.max_batch,
                   static_cast<Long>(count_of_null));
    }
    batch = {static_cast<int32_t>(count_of_null), nullptr, nullptr, nullptr};
    return THINK_OK;
  }
  think_batch copy;
  if (const think_status status = read_struct(argument, in, copy)) return status;
  if (copy.count < 1 || copy.count > shape.max_batch) {
    return wrong(argument, "count", "expected 1 .. %d (max_batch of the plan), got %d", shape.max_batch, copy.count);
  }
  if (copy.reserved != 0) return wrong(argument, "reserved", "expected 0, got %d", copy.reserved);
  if (copy.lengths && copy.row_start) return wrong(argument, "row_start", "expected NULL together with lengths");
  constexpr int32_t alignment = alignof(int32_t);
  if (copy.lengths) {
    if (const think_status status = check_pointer(argument, copy.lengths, alignment, "lengths")) return status;
  }
  if (copy.row_start) {
    if (const think_status status = check_pointer(argument, copy.row_start, alignment, "row_start")) return status;
  }
  if (copy.slot) {
    if (const think_status status = check_pointer(argument, copy.slot, alignment, "slot")) return status;
  }
  batch = {copy.count, copy.lengths, copy.row_start, copy.slot};
  return THINK_OK;
}

think_status check_rows(const Argument &argument, const Batch &batch, const Argument &tensor_argument, const think_tensor &tensor, const Shape &shape,
                        int64_t most, const char *most_name, int64_t *longest) {
  const int64_t tokens = tensor.extent[2];
  const bool unread = shape.on_device && (batch.row_start || batch.lengths);
  if (batch.row_start) {
    if (tensor.extent[0] < 1) return wrong(tensor_argument, "extent[0]", "expected at least 1 (packed rows), got 0");
    if (!unread && batch.row_start[0] != 0) return wrong(argument, "row_start[0]", "expected 0, got %d", batch.row_start[0]);
  } else if (tensor.extent[0] < batch.count) {
    return wrong(tensor_argument, "extent[0]", "expected at least %d (sequences of the batch), got %lld", batch.count,
                 static_cast<Long>(tensor.extent[0]));
  }
  if (unread) {
    if (longest) *longest = tokens < most ? tokens : most;
    return THINK_OK;
  }
  int64_t maximum = 0;
  for (int32_t sequence = 0; sequence < batch.count; ++sequence) {
    int64_t count = tokens;
    if (batch.row_start) {
      const int32_t start = batch.row_start[sequence], end = batch.row_start[sequence + 1];
      if (end < start || end > tokens) {
        return wrong(argument, Text("row_start[%d]", sequence + 1).text, "expected %d .. %lld (rows of the tensor), got %d", start,
                     static_cast<Long>(tokens), end);
      }
      count = int64_t{end} - start;
    } else if (batch.lengths) {
      count = batch.lengths[sequence];
      if (count < 0 || count > tokens) {
        return wrong(argument, Text("lengths[%d]", sequence).text, "expected 0 .. %lld (rows of the tensor), got %lld", static_cast<Long>(tokens),
                     static_cast<Long>(count));
      }
    }
    if (count > most) {
      return wrong(batch.row_start || batch.lengths ? argument : tensor_argument,
                   (batch.row_start ? Text("row_start[%d]", sequence + 1) : batch.lengths ? Text("lengths[%d]", sequence) : Text("extent[2]")).text,
                   "expected at most %lld rows of a sequence (%s of the plan), got %lld", static_cast<Long>(most), most_name, static_cast<Long>(count));
    }
    if (count > maximum) maximum = count;
  }
  if (longest) *longest = maximum;
  return THINK_OK;
}

think_status check_slots(const Argument &argument, const Batch &batch, const Shape &shape, int64_t slots, const char *slots_name, bool distinct) {
  if (shape.on_device && batch.slot) return THINK_OK;
  for (int32_t sequence = 0; sequence < batch.count; ++sequence) {
    const int32_t slot = slot_of(batch, sequence);
    if (slot < 0 || slot >= slots) {
      return wrong(argument, Text("slot[%d]", sequence).text, "expected 0 .. %lld (%s), got %d", static_cast<Long>(slots - 1), slots_name, slot);
    }
  }
  if (!distinct || !batch.slot) return THINK_OK;
  for (int32_t sequence = 1; sequence < batch.count; ++sequence) {
    for (int32_t other = 0; other < sequence; ++other) {
      if (batch.slot[sequence] == batch.slot[other]) {
        return wrong(argument, Text("slot[%d]", sequence).text, "expected a slot of its own, got %d as sequence %d", batch.slot[sequence], other);
      }
    }
  }
  return THINK_OK;
}

}  // namespace think
