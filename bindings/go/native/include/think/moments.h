/**
 * @file think/moments.h
 * @brief Stage 2: attention-weighted mean and covariance of the rows to be pruned, and what each further channel is worth.
 */
#ifndef THINK_MOMENTS_H
#define THINK_MOMENTS_H

#include "score.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Options of think_moments(). */
typedef struct think_moments_options {
  uint32_t struct_size;  /* sizeof(think_moments_options) */
  uint32_t flags;        /* 0 */
  int32_t sinks;         /* first rows that stay dense: 0 = 4, -1 = none */
  int32_t recent;        /* last rows that stay dense, at least: 0 = 32, -1 = none */
  float attention_share; /* share of the weight that follows the attention: 0 = 0.9, -1 = none */
  float reserved;        /* 0 */
} think_moments_options;

#define THINK_MOMENTS_OPTIONS_INIT {(uint32_t)sizeof(think_moments_options), 0, 0, 0, 0.0f, 0.0f}

/** THINK_MOMENTS_OPTIONS_INIT as a function. NULL is ignored. @since 0.9 */
THINK_API void think_moments_options_init(think_moments_options *options, uint32_t struct_size);

/**
 * Memory for the moments of `slots` slots, aligned to 64 bytes.
 * @param bytes  receives the size; proportional to slots
 * @since 0.9
 */
THINK_API think_status think_moments_size(const think_plan *plan, int32_t slots, int64_t *bytes, think_error *error);

/**
 * Measure the rows that a prune would move: of a sequence of T tokens the rows [sinks, sinks + 32 * floor((T - sinks - recent) / 32)).
 *
 * The attention mass a_t of a row is the sum of the softmax weights that the window's queries of the group give it, with the plan's scale and soft cap,
 * over all T rows. Row t has the weight (1 - share) / N + share * a_t / sum(a), where N and the sum run over the measured rows. With these weights: mean
 * and covariance of keys and of values, per KV head, in f32, centred before the products; and the second moment of the window's queries.
 * A sequence without a row to measure gets zero moments.
 *
 * @param window_query  [slots][query_heads][rows <= window][key_channels]: think_score_window(), or queries of the caller's choice
 * @param source        all rows of the sequences, dense (THINK_ROWS, no basis). THINK_SEGMENT_CAUSAL: the queries belong to its last rows, and query i of
 *                      n sees its first T - n + i + 1 rows; otherwise every query sees every row. Of a sequence with fewer rows than
 *                      there are queries only the last T queries count. value may be NULL: keys only
 * @param batch         which slots; NULL = one sequence in slot 0
 * @param options       NULL = defaults
 * @param moments       device memory of think_moments_size(slots)
 * @since 0.9
 */
THINK_API think_status think_moments(const think_plan *plan, const think_tensor *window_query, const think_segment *source, const think_batch *batch, const think_moments_options *options, void *moments, const think_launch *launch, think_error *error);

/**
 * What each further channel of a head is worth when channels are added one by one and the rest is regressed on them: gains[t] is the drop of
 * trace(S R) at step t, where R is the covariance that is left and S the second moment of the queries (keys: logit^2) or the identity (values). A channel
 * with less than 1e-6 of its variance left gains 0.
 *
 * @param side   THINK_KEYS: channels are taken in the order of `score` (best first, equal scores: lower channel first).
 *               THINK_VALUES: the best channel first at every step (equal gains: lower channel first), `score` must be NULL
 * @param score  f32 [batch][kv_heads][key_channels]; NULL with THINK_VALUES
 * @param gains  receives f32 [batch][kv_heads][channels of the side]
 * @param order  receives int32 of the same extent: the channel of each step; may be NULL
 * @since 0.9
 */
THINK_API think_status think_gains(const think_plan *plan, const void *moments, const think_batch *batch, int32_t side, const float *score, float *gains, int32_t *order, const think_launch *launch, think_error *error);

#ifdef __cplusplus
}
#endif
#endif
