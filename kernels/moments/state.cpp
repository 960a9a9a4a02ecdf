// The layout of the moments, which CPU and CUDA share.
#include "moments.h"

namespace think::moments {
namespace {

int64_t head_floats(const Shape &shape) {
  const int64_t d = shape.key_channels, e = shape.value_channels;
  return d + 2 * d * d + e + e * e + 1;
}

}  // namespace

int64_t state_bytes(const Shape &shape) {
  return (shape.kv_heads * head_floats(shape) * static_cast<int64_t>(sizeof(float)) + 63) / 64 * 64;
}

View view(const Shape &shape, void *moments, int32_t slot, int32_t head) {
  const int64_t d = shape.key_channels, e = shape.value_channels;
  float *at = reinterpret_cast<float *>(static_cast<char *>(moments) + slot * state_bytes(shape)) + head * head_floats(shape);
  View result;
  result.key_mean = at;
  result.key_covariance = result.key_mean + d;
  result.query_moment = result.key_covariance + d * d;
  result.value_mean = result.query_moment + d * d;
  result.value_covariance = result.value_mean + e;
  result.rows = result.value_covariance + e * e;
  return result;
}

}  // namespace think::moments
