/**
 * @file think/fit.h
 * @brief Stage 4: predict the dropped channels from the kept ones.
 */
#ifndef THINK_FIT_H
#define THINK_FIT_H

#include "select.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Options of think_fit(). */
typedef struct think_fit_options {
  uint32_t struct_size; /* sizeof(think_fit_options) */
  uint32_t flags;       /* 0 */
  int32_t side;         /* THINK_KEYS, THINK_VALUES */
  int32_t reserved;     /* 0 */
  float ridge;          /* added to the diagonal, as a share of its mean: 0 = 1e-3; -1 = none, where singular covariances fail no call but predict the mean */
  float reserved2;      /* 0 */
} think_fit_options;

#define THINK_FIT_OPTIONS_INIT {(uint32_t)sizeof(think_fit_options), 0, 0, 0, 0.0f, 0.0f}

/** THINK_FIT_OPTIONS_INIT as a function. NULL is ignored. @since 0.9 */
THINK_API void think_fit_options_init(think_fit_options *options, uint32_t struct_size);

/**
 * Ridge regression of the dropped channels P on the kept ones I, per KV head: W = C_PI (C_II + ridge * mean diagonal of C)^-1 and
 * offset_P = mean_P - W mean_I, in f64, from the weighted mean and covariance C of think_moments(). Reads kept and index of the basis, writes weight
 * (f16), weight_offset and offset of the batch's slots. A head that keeps every channel gets weight_offset -1; a dropped channel without variance a zero row.
 * @param moments  of think_moments()
 * @param options  NULL = keys, default ridge
 * @param basis    kept and index in; weight, weight_offset and offset out
 * @since 0.9
 */
THINK_API think_status think_fit(const think_plan *plan, const void *moments, const think_batch *batch, const think_fit_options *options, think_basis *basis, const think_launch *launch, think_error *error);

#ifdef __cplusplus
}
#endif
#endif
