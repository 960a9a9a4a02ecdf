// think_evict(): the attention mass of the window (moments) and the choice of rows (evict), a few heads at a time.
#pragma once

#include "libthink/backend/cuda_backend.h"
#include "libthink/core/plan.h"
#include "think/evict.h"

namespace think {

struct EvictCall {
  Shape shape;
  int32_t isa;
  Parallel parallel;
  bool measure;               // the window's mass is wanted; otherwise scores are taken as they are
  bool accumulate;            // the mass is added to score; otherwise it is written there
  think_tensor window_query;  // if measured
  think_segment source;
  Batch batch;
  int64_t sinks, recent;
  int32_t pooling, kernel;
  int32_t budget;
  const int32_t *budgets;  // [batch][kv_heads]; NULL = budget
  float *score;            // [slots][kv_heads][score_stride]; NULL = not wanted
  int64_t score_stride;
  int32_t *kept;  // [batch][kv_heads][kept_stride]
  int64_t kept_stride;
  int32_t *lengths;  // [batch][kv_heads]
};
// Options with their defaults filled in (0 = default, -1 = none), and as they were given.
think_status read_evict_options(const Argument &argument, const think_evict_options *in, const Shape &shape, EvictCall &call, think_evict_options &copy);
think_status check_evict_score(const Argument &argument, int32_t method, const float *score);
int64_t evict_workspace(const Shape &shape, int32_t batch, int64_t tokens);
void evict_rows(const EvictCall &call, int64_t longest, void *workspace);
// On a device; an error of the CUDA runtime.
int64_t evict_workspace(const cuda::Backend &backend, const Shape &shape, int32_t batch, int64_t tokens);
int32_t evict_rows(const cuda::Backend &backend, const EvictCall &call, int64_t longest, void *workspace, void *stream);

}  // namespace think
