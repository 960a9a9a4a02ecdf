// Contract of the fit stage: see include/think/fit.h. Arguments are checked by the caller.
#pragma once

#include "../common/parallel.h"
#include "../common/shape.h"
#include "../common/workspace.h"

namespace think::fit {

// Bytes of the weight block of one head that keeps `kept` of `channels`: [dropped][kept rounded up to 8] f16, a multiple of 16.
static inline int64_t weight_block_bytes(int32_t channels, int32_t kept) {
  return static_cast<int64_t>(channels - kept) * ((kept + 7) / 8 * 8) * 2;
}
// The largest block over all widths: each head of each slot owns this much of basis.weight, at (slot * kv_heads + head) * weight_head_bytes().
static inline int64_t weight_head_bytes(int32_t channels) {
  int64_t most = 0;
  for (int32_t kept = 1; kept <= channels; ++kept) {
    const int64_t bytes = weight_block_bytes(channels, kept);
    if (bytes > most) most = bytes;
  }
  return most;
}

struct Arguments {
  Shape shape;
  const void *moments;
  Batch batch;
  int32_t side;
  float ridge;
  think_basis basis;
};
int64_t workspace(const Shape &shape, int32_t batch, int32_t threads);
void fit(const Arguments &arguments, void *workspace, const Parallel &parallel);

namespace reference {
// One head: W [dropped][kept] and offset [dropped] for the channels in index order (kept first, then dropped).
void fit(int32_t channels, const double *mean, const double *covariance, const int32_t *index, int32_t kept, double ridge, double *weight, double *offset);
}  // namespace reference

}  // namespace think::fit
