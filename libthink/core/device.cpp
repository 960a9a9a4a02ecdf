#include "libthink/core/device.h"

#include "kernels/common/quantized.h"

namespace think {
think_status without_backend(const Argument &argument, const cuda::Search &search) {
  const think_status status = unsupported(argument, "device_type", "%d (CUDA): %s", THINK_DEVICE_CUDA, search.reason);
  set_native_code(argument.error, search.error);
  return status;
}

think_status device_failed(const cuda::Backend &backend, int32_t code, const char *what, think_error *error) {
  const think_status status = fail(error, THINK_E_DEVICE, 0, "%s: CUDA error %d, %s", what, code, backend.error_text(code));
  set_native_code(error, code);
  return status;
}

think_status check_device_problem(const Argument &argument, const Shape &shape) {
  constexpr int32_t kMostBlocks = 65535;  // of a grid along its second and third axis: KV heads and sequences
  if (shape.kv_heads > kMostBlocks) return unsupported(argument, "kv_heads", "at most %d on a CUDA device, got %d", kMostBlocks, shape.kv_heads);
  if (shape.max_batch > kMostBlocks) return unsupported(argument, "max_batch", "at most %d on a CUDA device, got %d", kMostBlocks, shape.max_batch);
  return THINK_OK;
}

think_status check_device_rows(const Argument &argument, const think_tensor &tensor) {
  constexpr int64_t kAlignment = 16;
  if (tensor.extent[0] == 0 || tensor.extent[2] == 0) return THINK_OK;
  if (reinterpret_cast<uintptr_t>(tensor.data) % kAlignment) {
    return unsupported(argument, "data", "CUDA kernels need an address that is a multiple of 16, got %p", tensor.data);
  }
  const int64_t elements = kAlignment / dtype_bytes(tensor.dtype);
  for (int axis = 0; axis < 3; ++axis) {
    if (tensor.extent[axis] > 1 && tensor.stride[axis] % elements) {
      return unsupported(argument, Text("stride[%d]", axis).text, "CUDA kernels need a multiple of %lld elements (16 bytes), got %lld",
                         static_cast<long long>(elements), static_cast<long long>(tensor.stride[axis]));
    }
  }
  return THINK_OK;
}

think_status check_device_attention(const Argument &argument, const think_segment &segment, think_dtype &dtype) {
  const auto check = [&](const char *field, think_dtype own) -> think_status {
    if (is_quantized(own)) return THINK_OK;
    if (own == THINK_F32) return unsupported(argument, field, "expected f16, bf16, u8, u4, u2 or f8_e4m3 for attention on a CUDA device, got f32");
    if (dtype == 0) dtype = own;
    if (own == dtype) return THINK_OK;
    return unsupported(argument, field, "expected one type for attention on a CUDA device (%s), got %s", dtype_name(dtype), dtype_name(own));
  };
  if (const think_status status = check("value_dtype", segment.value_dtype)) return status;
  return check("key_dtype", segment.key_dtype);
}

}  // namespace think
