/* A think_merge() with one wrong number, put in front of the real one with LD_PRELOAD: `think selftest` must notice. */
#define _GNU_SOURCE
#include <dlfcn.h>

#include "think.h"

typedef think_status (*merge_function)(const think_plan *, const think_tensor *, const float *const *, int32_t, const think_tensor *,
                                       float *, const think_launch *, think_error *);

THINK_API think_status think_merge(const think_plan *plan, const think_tensor *outputs, const float *const *lses, int32_t count,
                                   const think_tensor *output, float *lse, const think_launch *launch, think_error *error) {
  merge_function real;
  *(void **)&real = dlsym(RTLD_NEXT, "think_merge");
  const think_status status = real(plan, outputs, lses, count, output, lse, launch, error);
  const int64_t last = (output->extent[1] - 1) * output->stride[1] + (output->extent[2] - 1) * output->stride[2] + output->extent[3] - 1;
  if (status == THINK_OK) ((float *)output->data)[last] += 1e-3f;
  return status;
}
