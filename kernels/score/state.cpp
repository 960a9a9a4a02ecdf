// Where the parts of a score state lie: the same for every backend.
#include "score.h"

namespace think::score {

namespace {

constexpr int64_t block_bytes(int64_t bytes) { return (bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment; }

int64_t square_sum_bytes(const Shape &shape) { return block_bytes(int64_t{4} * shape.kv_heads * shape.key_channels); }

int64_t window_bytes(const Shape &shape) {
  return block_bytes(static_cast<int64_t>(shape.query_heads) * shape.window * shape.key_channels * dtype_bytes(shape.query_dtype));
}

}  // namespace

int64_t state_bytes(const Shape &shape) { return square_sum_bytes(shape) + window_bytes(shape) + kWorkspaceAlignment; }

StateView state_view(const Shape &shape, void *state, int32_t slot) {
  char *base = static_cast<char *>(state) + slot * state_bytes(shape);
  char *window = base + square_sum_bytes(shape);
  return {reinterpret_cast<float *>(base), window, reinterpret_cast<int64_t *>(window + window_bytes(shape))};
}

}  // namespace think::score
