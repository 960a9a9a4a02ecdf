/**
 * @file think/evict.h
 * @brief Whole rows out of the cache, before any channel goes: which rows a head keeps, and their move into a shorter run.
 *
 * Comes first: evict -> score -> moments -> select -> fit -> compact. Channels are chosen on the rows that are left.
 */
#ifndef THINK_EVICT_H
#define THINK_EVICT_H

#include "segment.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Methods. The mass of a row is the sum of the softmax weights that the window's queries of the group give it, with the plan's scale and soft cap,
 * over all rows of the sequence.
 *   SNAPKV  the mass, pooled over neighbouring rows; the window's own rows are always kept
 *   H2O     masses of all calls added up in `score`, which the caller keeps; or scores of the caller's own, when window_query is NULL
 *   WINDOW  the mass of this call alone, not pooled: what ThinK's reference code calls H2O
 *   TOVA    the weights of the last query alone
 *   RECENT  the first rows (sinks) and the last ones; no queries, no scores
 * A list of the caller's own making needs none of them: hand it to think_evict_move().
 */
#define THINK_EVICT_SNAPKV 0
#define THINK_EVICT_H2O 1
#define THINK_EVICT_WINDOW 2
#define THINK_EVICT_TOVA 3
#define THINK_EVICT_RECENT 4

/** How neighbouring scores are pooled. Rows outside of those that can be chosen are no neighbours; the mean divides by `kernel` everywhere. */
#define THINK_POOL_MAX 0
#define THINK_POOL_MEAN 1

/** Options of think_evict(). */
typedef struct think_evict_options {
  uint32_t struct_size; /* sizeof(think_evict_options) */
  uint32_t flags;       /* 0 */
  int32_t method;       /* THINK_EVICT_... */
  int32_t budget;       /* rows that every head keeps: at least 1 where no budgets are given, which may be 0 */
  int32_t sinks;        /* first rows that are always kept: 0 = none (RECENT: 4), -1 = none */
  int32_t recent;       /* last rows that are always kept: 0 = the plan's window (TOVA: none), -1 = none. RECENT: must be 0, all that the sinks leave */
  int32_t pooling;      /* SNAPKV: THINK_POOL_...; elsewhere 0 */
  int32_t kernel;       /* SNAPKV: rows that are pooled, an odd number up to 255: 0 = 7, -1 = none; elsewhere 0 */
  int64_t kept_stride;  /* elements of `kept` per head: 0 = budget */
  int64_t score_stride; /* elements of `score` per head; at least the tokens of the longest sequence where `score` is given */
} think_evict_options;

#define THINK_EVICT_OPTIONS_INIT {(uint32_t)sizeof(think_evict_options), 0, 0, 0, 0, 0, 0, 0, 0, 0}

/** THINK_EVICT_OPTIONS_INIT as a function. NULL is ignored. @since 0.10 */
THINK_API void think_evict_options_init(think_evict_options *options, uint32_t struct_size);

/**
 * Choose the rows that each KV head keeps. Nothing is moved. A head that has no more tokens than its budget keeps all of them. Otherwise the budget goes
 * to the sinks, then to the recent rows (the last ones first), then to the rows of the highest scores; equal scores: lower row first; NaN counts as +inf.
 * The result does not depend on the number of threads.
 *
 * Workspace: THINK_STAGE_EVICT. On a CUDA plan all arrays are memory of the device, whose contents cannot be checked: lists end with kept_stride rows, and a
 * sequence with the rows that its score has room for.
 *
 * @param window_query  [slots][query_heads][rows <= window][key_channels], right-aligned: think_score_window(), or queries of the caller's choice
 *                      (pseudo-queries, a probe); TOVA uses the last row. NULL with RECENT (required) and H2O (scores are taken as they are)
 * @param source        all rows of the sequences, dense (THINK_ROWS, no basis); lengths may differ from head to head. THINK_SEGMENT_CAUSAL: the queries
 *                      belong to its last rows, and query i of n sees its first T - n + i + 1 rows; otherwise every query sees every row. Of a sequence
 *                      with fewer rows than there are queries only the last T queries count. value is not read; key may be NULL where window_query is
 * @param batch         count and slots (of window_query, score and source); NULL = one sequence in slot 0
 * @param options       method and budget
 * @param budget        int32 [batch][kv_heads], at least 0; NULL = options->budget for every head
 * @param score         f32 [slots][kv_heads][score_stride], one number per row. H2O: the sums so far; zero them when a sequence begins, and let
 *                      think_evict_move() move them with the rows. SNAPKV, WINDOW, TOVA: receives the mass, before pooling; may be NULL. RECENT: NULL
 * @param kept          receives int32 [batch][kv_heads][kept_stride]: the kept rows of each head, ascending, counted from the start of the run;
 *                      elements behind the last one stay as they are
 * @param lengths       receives int32 [batch][kv_heads]: how many they are. As lengths of a segment: lengths_stride = {kv_heads, 1}
 * @return THINK_E_ARGUMENT, THINK_E_UNSUPPORTED, THINK_E_WORKSPACE
 * @since 0.10
 */
THINK_API think_status think_evict(const think_plan *plan, const think_tensor *window_query, const think_segment *source, const think_batch *batch, const think_evict_options *options, const int32_t *budget, float *score, int32_t *kept, int32_t *lengths, const think_launch *launch, think_error *error);

/**
 * Move kept rows together: row kept[i] of each sequence and head of `source` becomes row i of `destination`. Both are dense; dtypes may differ (numbers
 * are rounded to nearest even). A side whose pointer is NULL in both segments is left out. Needs no workspace. On a CUDA plan all arrays
 * are memory of the device, and the lists are trusted.
 *
 * In place: when both segments have the same key or value pointer, they must have the same dtypes, strides, offsets, pages and slots, and the
 * destination must not begin behind the source. Rows behind the kept ones then hold what they held. Otherwise the segments must not overlap.
 * No page and no slot of the destination may belong to two sequences, of this batch or outside of it: rows that are shared are moved once for all.
 *
 * @param source        where the rows are, with its lengths
 * @param destination   where they go; its lengths are those of the lists
 * @param batch         count and slots; NULL = one sequence in slot 0
 * @param kept          int32 [batch][kv_heads][kept_stride]: think_evict(), or lists of the caller's choice; ascending, each row at most once
 * @param kept_stride   at least the longest list
 * @param score         f32 [slots][kv_heads][score_stride]: moved like the rows, the places behind them up to the source's length become zero (H2O); may
 *                      be NULL
 * @param score_stride  at least the tokens of the longest sequence where `score` is given; otherwise not used
 * @return THINK_E_ARGUMENT, THINK_E_UNSUPPORTED
 * @since 0.10
 */
THINK_API think_status think_evict_move(const think_plan *plan, const think_segment *source, const think_segment *destination, const think_batch *batch, const int32_t *kept, int64_t kept_stride, float *score, int64_t score_stride, const think_launch *launch, think_error *error);

#ifdef __cplusplus
}
#endif
#endif
