// Where the parts of a score state lie: the same for every backend.
#include "score.h"

namespace think::score {

namespace {

int64_t square_sum_bytes(const Shape &shape) { return aligned_bytes(int64_t{4} * shape.kv_heads * shape.key_channels); }

int64_t window_bytes(const Shape &shape) {
  return aligned_bytes(static_cast<int64_t>(shape.query_heads) * shape.window * shape.key_channels * dtype_bytes(shape.query_dtype));
}

}  // namespace

int64_t state_bytes(const Shape &shape) { return square_sum_bytes(shape) + window_bytes(shape) + kWorkspaceAlignment; }

StateView state_view(const Shape &shape, void *state, int32_t slot) {
  char *base = static_cast<char *>(state) + slot * state_bytes(shape);
  char *window = base + square_sum_bytes(shape);
  return {reinterpret_cast<float *>(base), window, reinterpret_cast<int64_t *>(window + window_bytes(shape))};
}

think_tensor window_tensor(const Shape &shape, const void *state, int32_t slots) {
  const int64_t channels = shape.key_channels, window = shape.window;
  think_tensor tensor = THINK_TENSOR_INIT;
  tensor.data = state_view(shape, const_cast<void *>(state), 0).window;
  tensor.dtype = shape.query_dtype;
  const int64_t extent[4] = {slots, shape.query_heads, window, channels};
  const int64_t stride[4] = {state_bytes(shape) / dtype_bytes(shape.query_dtype), window * channels, channels, 1};
  for (int axis = 0; axis < 4; ++axis) {
    tensor.extent[axis] = extent[axis];
    tensor.stride[axis] = stride[axis];
  }
  return tensor;
}

}  // namespace think::score
