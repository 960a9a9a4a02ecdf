/**
 * @file think/select.h
 * @brief Stage 3: how many channels each head keeps, and which.
 */
#ifndef THINK_SELECT_H
#define THINK_SELECT_H

#include "moments.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Options of think_budgets(). */
typedef struct think_budget_options {
  uint32_t struct_size; /* sizeof(think_budget_options) */
  uint32_t flags;       /* THINK_BUDGET_NORMALISE */
  int32_t layers;       /* layers that share the total: 0 = 1 */
  int32_t floor;        /* fewest channels of a head, a multiple of step: 0 = 8, rounded up to one, or the most that a head has */
  int32_t step;         /* channels are handed out in blocks of so many: 0 = 8 */
  int32_t reserved;     /* 0 */
  int64_t total;        /* channels that one sequence keeps in all heads of all layers together */
} think_budget_options;

#define THINK_BUDGET_OPTIONS_INIT {(uint32_t)sizeof(think_budget_options), 0, 0, 0, 0, 0, 0}

/** Divide the gains by their sum over the layer first. For values over several layers, whose gains do not compare otherwise. */
#define THINK_BUDGET_NORMALISE 1u

/** Options of think_select(). */
typedef struct think_select_options {
  uint32_t struct_size; /* sizeof(think_select_options) */
  uint32_t flags;       /* THINK_SELECT_PAIRS_... */
  int32_t side;         /* THINK_KEYS, THINK_VALUES */
  int32_t kept;         /* channels that every head keeps, where no budgets are given */
  int32_t round_to;     /* round widths up to a multiple of this: 0 = 1 (keys) or 8 (values). The places won go to the next best channels */
  int32_t reserved;     /* 0 */
} think_select_options;

#define THINK_SELECT_OPTIONS_INIT {(uint32_t)sizeof(think_select_options), 0, 0, 0, 0, 0}

/** Keep or drop the two channels of a RoPE pair together, so that stored keys can be rotated again. The pair scores the sum; odd widths are rounded up. */
#define THINK_SELECT_PAIRS_HALVES 1u      /* channel j goes with j + channels / 2 */
#define THINK_SELECT_PAIRS_INTERLEAVED 2u /* channel 2j goes with 2j + 1 */

/** THINK_BUDGET_OPTIONS_INIT as a function. NULL is ignored. @since 0.9 */
THINK_API void think_budget_options_init(think_budget_options *options, uint32_t struct_size);
/** THINK_SELECT_OPTIONS_INIT as a function. NULL is ignored. @since 0.9 */
THINK_API void think_select_options_init(think_select_options *options, uint32_t struct_size);

/**
 * Share a total of channels among the heads by what they gain ("adaptive" budgets). Every head gets the floor; the remaining blocks of `step` channels
 * go to the heads that gain most by them, gains made non-increasing along a head. Equal gains: lower layer, lower head, lower block first. What is less than a
 * whole block stays unused: a layer keeps step * floor(total / step) channels.
 * @param gains  f32 [layers][batch][kv_heads][channels of the side], from think_gains()
 * @param side   THINK_KEYS, THINK_VALUES
 * @param kept   receives int32 [layers][batch][kv_heads]
 * @since 0.9
 */
THINK_API think_status think_budgets(const think_plan *plan, const float *gains, const think_batch *batch, int32_t side, const think_budget_options *options, int32_t *kept, const think_launch *launch, think_error *error);

/**
 * Keep the best channels of each head. Writes kept and index of the batch's slots of `basis` and sets their weight_offset to -1 (the paper's method until
 * think_fit() says otherwise). Equal scores: lower channel first; NaN counts as +inf. The result is the same, bit for bit, on every backend.
 * @param score    f32 [batch][kv_heads][channels]: think_score_finish(), think_value_score(), or numbers of the caller's choice
 * @param options  side and widths
 * @param kept     int32 [batch][kv_heads], from think_budgets() or a static table; NULL = options->kept for every head
 * @param basis    receives the choice
 * @param mask     receives 1 for kept and 0 for dropped channels, uint8 [batch][kv_heads][channels]; may be NULL
 * @since 0.9
 */
THINK_API think_status think_select(const think_plan *plan, const float *score, const think_batch *batch, const think_select_options *options, const int32_t *kept, think_basis *basis, uint8_t *mask, const think_launch *launch, think_error *error);

#ifdef __cplusplus
}
#endif
#endif
