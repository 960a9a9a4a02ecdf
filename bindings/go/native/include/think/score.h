/**
 * @file think/score.h
 * @brief Stage 1: how much each key channel matters to the last queries (ThinK, arXiv 2407.21018, section 3).
 */
#ifndef THINK_SCORE_H
#define THINK_SCORE_H

#include "evict.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * The score of channel j of a KV head is  sum over the last `window` queries of the group of q_j^2  *  sum over all tokens of k_j^2,
 * queries and keys after RoPE: the square of the paper's |Q_j K_j^T|_F, which ranks channels alike. NaN counts as +inf. Sums are f32 in a fixed order.
 *
 * The state of a slot holds the sum of k^2 per KV head and channel, the last `window` raw query rows and a count of tokens. So a prefill may come in
 * chunks of any size, and no second pass over the keys is needed.
 */

/** Options of think_score_finish(). */
typedef struct think_score_options {
  uint32_t struct_size; /* sizeof(think_score_options) */
  uint32_t flags;       /* THINK_SCORE_QUERY_HEADS */
} think_score_options;

#define THINK_SCORE_OPTIONS_INIT {(uint32_t)sizeof(think_score_options), 0}

/** One score per query head instead of the sum over the group: what the paper's reference code ranks. */
#define THINK_SCORE_QUERY_HEADS 1u

/** THINK_SCORE_OPTIONS_INIT as a function. NULL is ignored. @since 0.9 */
THINK_API void think_score_options_init(think_score_options *options, uint32_t struct_size);

/**
 * Memory for the score state of `slots` slots, aligned to 64 bytes.
 * @param bytes  receives the size; proportional to slots
 * @since 0.9
 */
THINK_API think_status think_score_state_size(const think_plan *plan, int32_t slots, int64_t *bytes, think_error *error);

/**
 * Empty the state of the batch's slots. Comes before the first update of a sequence.
 * @param state  device memory of think_score_state_size(slots), the slots of the batch lie inside
 * @param batch  which slots; NULL = slot 0 alone, also where later updates bring more sequences: their slots must be named here
 * @since 0.9
 */
THINK_API think_status think_score_reset(const think_plan *plan, void *state, const think_batch *batch, const think_launch *launch, think_error *error);

/**
 * Add a chunk of new tokens. May be cut into slices.
 * @param query  [batch][query_heads][tokens][key_channels], query_dtype
 * @param key    [batch][kv_heads][tokens][key_channels], f32, f16 or bf16
 * @param batch  rows and slots; NULL = every row, slots 0, 1, 2, ...
 * @since 0.9
 */
THINK_API think_status think_score_update(const think_plan *plan, const think_tensor *query, const think_tensor *key, const think_batch *batch, void *state, const think_launch *launch, think_error *error);

/**
 * The scores so far. The state is not changed.
 * @param options  NULL = defaults
 * @param score    receives f32 [batch][kv_heads][key_channels]; with THINK_SCORE_QUERY_HEADS [batch][query_heads][key_channels]
 * @since 0.9
 */
THINK_API think_status think_score_finish(const think_plan *plan, const void *state, const think_batch *batch, const think_score_options *options, float *score, const think_launch *launch, think_error *error);

/**
 * A view of the last `window` queries inside the state: [slots][query_heads][window][key_channels] of query_dtype, oldest first, right-aligned: the rows
 * that a sequence shorter than the window does not have are zero and come first. Valid until the next update of the slot.
 * @param slots  of the state
 * @param query  receives the view; its struct_size is read
 * @since 0.9
 */
THINK_API think_status think_score_window(const think_plan *plan, const void *state, int32_t slots, think_tensor *query, think_error *error);

/**
 * The paper's score of value channels (appendix): sum over the window and the group of the squared attention output of each channel.
 * @param attention  [batch][query_heads][window][value_channels], f32, f16 or bf16: what think_attend() gave for the window's queries
 * @param batch      rows; NULL = every row
 * @param score      receives f32 [batch][kv_heads][value_channels]
 * @since 0.9
 */
THINK_API think_status think_value_score(const think_plan *plan, const think_tensor *attention, const think_batch *batch, float *score, const think_launch *launch, think_error *error);

#ifdef __cplusplus
}
#endif
#endif
