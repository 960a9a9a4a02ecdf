/**
 * @file think/tensor.h
 * @brief Views of the engine's fresh rows (queries, keys, values, outputs) and which of them are real.
 */
#ifndef THINK_TENSOR_H
#define THINK_TENSOR_H

#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Element type, bit-identical to DLPack's DLDataType: code | bits << 8 | lanes << 16. */
typedef int32_t think_dtype;

#define THINK_F32 0x00012002
#define THINK_F16 0x00011002
#define THINK_BF16 0x00011004
/** Stored forms of segments in tiles (think/segment.h), never of tensors: 8 or 4 bits, asymmetric. @since 0.10 */
#define THINK_U8 0x00010801
#define THINK_U4 0x00010401
/** The same in 2 bits, and floating point in 8 bits: sign, 4 bits of exponent, 3 of fraction, one NaN, no infinity, at most 448. @since 0.11 */
#define THINK_U2 0x00010201
#define THINK_F8_E4M3 0x0001080A

/** Device kinds, DLPack's numbers. */
typedef int32_t think_device;

#define THINK_DEVICE_CPU 1
#define THINK_DEVICE_CUDA 2

/**
 * A view of rows that belong to the caller, in the order (batch, head, token, channel). Layouts such as BSHD and BHSD are just strides.
 *
 * The channel stride must be 1; the other strides are free (in elements), also zero or negative. A query tensor has the plan's query heads on
 * axis 1, key and value tensors its KV heads. `data` is memory of the plan's device, aligned to its element.
 */
typedef struct think_tensor {
  uint32_t struct_size; /* sizeof(think_tensor) */
  uint32_t flags;       /* 0 */
  void *data;           /* first element */
  think_dtype dtype;
  int32_t reserved;     /* 0 */
  int64_t extent[4];    /* batch, heads, tokens, channels */
  int64_t stride[4];    /* elements; stride[3] must be 1 */
} think_tensor;

#define THINK_TENSOR_INIT {(uint32_t)sizeof(think_tensor), 0, NULL, 0, 0, {0, 0, 0, 0}, {0, 0, 0, 0}}

/**
 * Which rows of the tensors of one call are real, and where the sequences keep their state. NULL instead of a batch: every row is real, sequence b
 * uses slot b.
 *
 * Rectangular: sequence b is batch row b, its first lengths[b] tokens are real. Packed: all sequences lie one after the other in batch row 0, and
 * sequence b owns tokens row_start[b] .. row_start[b + 1]. Padding never enters a statistic and is never written.
 */
typedef struct think_batch {
  uint32_t struct_size;     /* sizeof(think_batch) */
  uint32_t flags;           /* 0 */
  int32_t count;            /* sequences, at least 1 and at most the plan's max_batch */
  int32_t reserved;         /* 0 */
  const int32_t *lengths;   /* [count] valid tokens of each sequence (rectangular); NULL = all */
  const int32_t *row_start; /* [count + 1] packed rows, row_start[0] = 0, ascending; NULL = rectangular. Not together with lengths */
  const int32_t *slot;      /* [count] slot of each sequence in score states, moments and bases; NULL = 0, 1, 2, ... */
} think_batch;

#define THINK_BATCH_INIT {(uint32_t)sizeof(think_batch), 0, 0, 0, NULL, NULL, NULL}

/** THINK_TENSOR_INIT as a function. NULL is ignored. @since 0.9 */
THINK_API void think_tensor_init(think_tensor *tensor, uint32_t struct_size);

/** THINK_BATCH_INIT as a function. NULL is ignored. @since 0.9 */
THINK_API void think_batch_init(think_batch *batch, uint32_t struct_size);

/**
 * Bytes of one element of `dtype`; 0 for a type that this build does not know, and for quantized ones, whose bytes think_layout() tells. Any thread.
 * @since 0.9
 */
THINK_API int32_t think_dtype_bytes(think_dtype dtype);

/**
 * Name of `dtype` ("f32", "f16", "bf16", "u8", "u4", "u2", "f8_e4m3"); "unknown" otherwise. Static text. Any thread.
 * @since 0.9
 */
THINK_API const char *think_dtype_name(think_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
