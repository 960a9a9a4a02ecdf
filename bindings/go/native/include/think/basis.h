/**
 * @file think/basis.h
 * @brief A basis says what a compact row means: which channels are stored, and how the dropped ones are predicted from them.
 */
#ifndef THINK_BASIS_H
#define THINK_BASIS_H

#include "plan.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Sides of the cache. */
#define THINK_KEYS 0
#define THINK_VALUES 1

/**
 * Bases of one side of one layer, one per slot and KV head.
 *
 * A compact row holds the kept channels I of a full row, as they are, in ascending order. What the dropped channels P contributed is predicted from
 * them, independently of the token: x_P ~ W x_I + offset_P. Attention never rebuilds rows:
 *   keys:   logit = scale * ((q_I + W^T q_P) . k_I + q_P . offset_P)      folded into the query, in f32
 *   values: out_I = sum p v_I;  out_P = W out_I + (sum p) offset_P        expanded once, where sum p is the attention mass of the segment
 * Where weight_offset is -1 there is no prediction: the dropped channels count as zero (the paper's method).
 *
 * think_basis_bind() lays the arrays out in one block of memory; they may also lie apart, and be filled by the caller (static masks, calibrated
 * matrices). A basis is tied to the slot, so sequences may change their place in the batch.
 */
typedef struct think_basis {
  uint32_t struct_size;   /* sizeof(think_basis) */
  uint32_t flags;         /* 0 */
  int32_t channels;       /* of a full row: key_channels or value_channels of the plan */
  int32_t slots;
  int32_t *kept;          /* [slots][kv_heads] number of kept channels, 1 .. channels (values: a multiple of 8) */
  int32_t *index;         /* [slots][kv_heads][channels]: the kept channels ascending, then the dropped ones ascending */
  void *weight;           /* f16; the block of one head: W as [dropped][kept rounded up to 8], the padding zero. 16-byte aligned */
  int64_t weight_bytes;   /* size of `weight` */
  int64_t *weight_offset; /* [slots][kv_heads] byte offset of a head's block in `weight`, a multiple of 16; -1 = none */
  float *offset;          /* [slots][kv_heads][channels] in the order of `index`; only the dropped part is used */
} think_basis;

#define THINK_BASIS_INIT {(uint32_t)sizeof(think_basis), 0, 0, 0, NULL, NULL, NULL, 0, NULL, NULL}

/** THINK_BASIS_INIT as a function. NULL is ignored. @since 0.9 */
THINK_API void think_basis_init(think_basis *basis, uint32_t struct_size);

/**
 * Memory for the bases of `slots` slots, whatever widths they will have.
 * @param side       THINK_KEYS or THINK_VALUES
 * @param bytes      receives the size; proportional to slots
 * @param alignment  receives the alignment, 64 on the CPU; may be NULL
 * @since 0.9
 */
THINK_API think_status think_basis_size(const think_plan *plan, int32_t side, int32_t slots, int64_t *bytes, int64_t *alignment, think_error *error);

/**
 * Lay a basis out in `memory`, which stays the caller's. Only pointers and sizes are set: the contents come from think_select() and think_fit(), or
 * from the caller.
 * @param memory  of the plan's device, aligned, `bytes` bytes, at least what think_basis_size() says; must outlive the use of the basis
 * @param basis   receives the pointers; its struct_size is read
 * @since 0.9
 */
THINK_API think_status think_basis_bind(const think_plan *plan, int32_t side, int32_t slots, void *memory, int64_t bytes, think_basis *basis, think_error *error);

#ifdef __cplusplus
}
#endif
#endif
