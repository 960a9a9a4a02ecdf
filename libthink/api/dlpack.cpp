#include "think/dlpack.h"

#include "libthink/core/plan.h"
#include "libthink/core/structs.h"

// The part of DLPack that is fixed since version 0.2, under the name that its header gives it.
extern "C" {

struct DLTensor {
  void *data;
  struct {
    int32_t device_type;
    int32_t device_id;
  } device;
  int32_t ndim;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t *shape;
  int64_t *strides;
  uint64_t byte_offset;
};

}  // extern "C"

static_assert(sizeof(DLTensor) == 48);

using namespace think;

extern "C" {

think_status think_tensor_from_dlpack(const struct DLTensor *source, think_device *device, think_tensor *tensor, think_error *error) {
  return fence(error, [&]() -> think_status {
    const Argument argument{error, 1, "source"};
    if (!source) return null_pointer(argument);
    if (reinterpret_cast<uintptr_t>(source) % alignof(DLTensor)) return wrong(argument, "", "expected an address that is a multiple of 8");
    if (source->ndim != 3 && source->ndim != 4) return unsupported(argument, "ndim", "expected 3 or 4, got %d", source->ndim);
    const think_dtype dtype = static_cast<think_dtype>(source->dtype.code | source->dtype.bits << 8 | static_cast<uint32_t>(source->dtype.lanes) << 16);
    if (!is_float_dtype(dtype)) {
      return unsupported(argument, "dtype", "expected f32, f16 or bf16, got code %d, bits %d, lanes %d", source->dtype.code, source->dtype.bits,
                         source->dtype.lanes);
    }
    if (const think_status status = check_pointer(argument, source->shape, alignof(int64_t), "shape")) return status;
    if (source->strides) {
      if (const think_status status = check_pointer(argument, source->strides, alignof(int64_t), "strides")) return status;
    }
    think_tensor answer = THINK_TENSOR_INIT;
    answer.dtype = dtype;
    const int missing = 4 - source->ndim;  // the batch of one
    bool empty = false;
    for (int axis = 3; axis >= 0; --axis) {
      const int64_t extent = axis < missing ? 1 : source->shape[axis - missing];
      if (extent < 0) return wrong(argument, Text("shape[%d]", axis - missing).text, "expected at least 0, got %lld", static_cast<long long>(extent));
      answer.extent[axis] = extent;
      empty |= extent == 0;
      int64_t stride = 1;
      if (axis >= missing && source->strides) {
        stride = source->strides[axis - missing];
      } else if (axis < 3 && __builtin_mul_overflow(answer.stride[axis + 1], answer.extent[axis + 1], &stride)) {
        return wrong(argument, Text("shape[%d]", axis + 1 - missing).text, "the extents exceed 64-bit offsets");
      }
      answer.stride[axis] = stride;
    }
    if (answer.extent[3] == 1) answer.stride[3] = 1;
    if (answer.stride[3] != 1) {
      return unsupported(argument, Text("strides[%d]", source->ndim - 1).text, "expected 1 (channels one after the other), got %lld",
                         static_cast<long long>(answer.stride[3]));
    }
    if (!source->data && !empty) return null_pointer(argument, "data");
    if (source->data && source->byte_offset > UINTPTR_MAX - reinterpret_cast<uintptr_t>(source->data)) {
      return wrong(argument, "byte_offset", "data and byte_offset %llu lead behind the last address", static_cast<unsigned long long>(source->byte_offset));
    }
    answer.data = source->data ? reinterpret_cast<void *>(reinterpret_cast<uintptr_t>(source->data) + source->byte_offset) : nullptr;
    if (const think_status status = check_optional({error, 2, "device"}, device)) return status;
    if (const think_status status = check_output({error, 3, "tensor"}, tensor)) return status;
    if (device) *device = source->device.device_type;
    write_output(tensor, answer);
    return THINK_OK;
  });
}

}  // extern "C"
