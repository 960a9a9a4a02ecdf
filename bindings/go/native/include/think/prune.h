/**
 * @file think/prune.h
 * @brief The middle of the flow in one call: moments, gains, budgets, select, fit and compact of one layer.
 */
#ifndef THINK_PRUNE_H
#define THINK_PRUNE_H

#include "attend.h"

#ifdef __cplusplus
extern "C" {
#endif

/** What attention makes of the dropped channels. All modes store the same bytes. */
#define THINK_MODE_REGRESSED 0 /* predicted from the kept ones */
#define THINK_MODE_CHANNELS 1  /* zero: the paper */

/** How widths are chosen. */
#define THINK_BUDGET_ADAPTIVE 0 /* by gain, among the heads of the layer, in steps of 8; THINK_MODE_CHANNELS: uniform, as adaptive does not pay there */
#define THINK_BUDGET_UNIFORM 1  /* the same for every head */

/** Options of think_prune(). */
typedef struct think_prune_options {
  uint32_t struct_size;  /* sizeof(think_prune_options) */
  uint32_t flags;        /* 0 */
  int32_t mode;          /* THINK_MODE_... */
  int32_t budget;        /* THINK_BUDGET_... */
  int32_t key_kept;      /* key channels per head, on average if adaptive: 0 = half of them, -1 = all, keys are copied */
  int32_t value_kept;    /* value channels per head, shared in steps of 8 (uniform: rounded up to 8): 0 or -1 = all, values are copied */
  int32_t sinks;         /* first rows that are not moved: 0 = 4, -1 = none */
  int32_t recent;        /* last rows that are not moved, at least: 0 = 32, -1 = none */
  float attention_share; /* see think_moments_options: 0 = 0.9 */
  float ridge;           /* see think_fit_options: 0 = 1e-3 */
  float dense_limit;     /* a side stays dense unless basis + compact rows are below this share of its rows with all channels, as they
                            would be stored (quantized where the plan says so): 0 = 0.9, -1 = prune anyway */
  float reserved;        /* 0 */
} think_prune_options;

#define THINK_PRUNE_OPTIONS_INIT {(uint32_t)sizeof(think_prune_options), 0, 0, 0, 0, 0, 0, 0, 0.0f, 0.0f, 0.0f, 0.0f}

/** What think_prune() will do with a sequence of a given length. */
typedef struct think_prune_result {
  uint32_t struct_size;      /* sizeof(think_prune_result) */
  uint32_t flags;            /* 0 */
  int64_t first;             /* first row that is moved: the sinks */
  int64_t rows;              /* rows that are moved: a multiple of 32; 0 = too short, nothing happens */
  int64_t key_total;         /* key channels that the heads keep together; kv_heads * key_channels = the keys stay dense */
  int64_t value_total;       /* the same for values */
  int64_t dense_bytes;       /* of the moved rows before */
  int64_t key_bytes;         /* of the moved keys after, as stored; adaptive and quantized: at most */
  int64_t value_bytes;       /* of the moved values after, as stored; adaptive and quantized: at most */
  int64_t key_basis_bytes;   /* of the basis, as think_basis_size() lays it out; 0 where the side stays dense */
  int64_t value_basis_bytes;
} think_prune_result;

#define THINK_PRUNE_RESULT_INIT {(uint32_t)sizeof(think_prune_result), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

/** THINK_PRUNE_OPTIONS_INIT as a function. NULL is ignored. @since 0.9 */
THINK_API void think_prune_options_init(think_prune_options *options, uint32_t struct_size);
/** THINK_PRUNE_RESULT_INIT as a function. NULL is ignored. @since 0.9 */
THINK_API void think_prune_result_init(think_prune_result *result, uint32_t struct_size);

/**
 * What think_prune() with these options will do with a sequence of `tokens` tokens: how many rows move, how wide they will be, and all bytes. A host
 * computation: call it, allocate the destination, then prune. Says in particular whether a side stays dense because its basis would cost more than it saves.
 * @param format   of the destination; NULL = THINK_FORMAT_INIT
 * @param options  NULL = defaults
 * @param result   receives the answer; its struct_size is read
 * @since 0.9
 */
THINK_API think_status think_prune_preview(const think_plan *plan, const think_format *format, int64_t tokens, const think_prune_options *options, think_prune_result *result, think_error *error);

/**
 * Prune one layer of each sequence of a batch: of T tokens the rows [sinks, sinks + 32 * floor((T - sinks - recent) / 32)) of `source` go to the rows from
 * destination->first on (NULL: 0) of `destination`. The source is not changed; the rows that stay dense are still the caller's to keep.
 *
 * On a CUDA device the host reads no array, so three things differ. Which rows move and which side stays dense is decided there, by the rules of
 * think_prune_preview(). What only lengths can tell is not checked and is the caller's to keep: that the state has seen all tokens, and that the rows fit into
 * the destination and into key_stride[0] and value_stride[0]. A side that stays dense may have had its weights and offsets overwritten; nothing refers to
 * them. THINK_MODE_CHANNELS with pruned values scores them by attention, so f32 rows are THINK_E_UNSUPPORTED there, as in think_attend().
 *
 * @param score_state  of the score stage, after the last chunk
 * @param source       all rows, dense (THINK_ROWS, no basis); lengths = T. THINK_SEGMENT_CAUSAL is implied
 * @param destination  key_basis must be given unless options->key_kept is -1, value_basis when value_kept is positive; their contents are written, and
 *                     key_head_offset and value_head_offset too, where given. destination->lengths is not read: the lengths are those of
 *                     think_prune_preview(). A side that stays dense by dense_limit gets a basis that keeps every channel
 * @param batch        count and slots; NULL = one sequence in slot 0
 * @param options      NULL = defaults
 * @param mask         receives 1 for each kept key channel, uint8 [batch][kv_heads][key_channels]; may be NULL
 * @return THINK_E_ARGUMENT, also when heads that are placed one behind the other would not fit into key_stride[0] or value_stride[0]: a sequence that stays
 *         dense is the widest; THINK_E_STATE when the state has seen fewer tokens than the source has; THINK_E_UNSUPPORTED, THINK_E_WORKSPACE
 * @since 0.9
 */
THINK_API think_status think_prune(const think_plan *plan, const void *score_state, const think_segment *source, const think_segment *destination, const think_batch *batch, const think_prune_options *options, uint8_t *mask, const think_launch *launch, think_error *error);

#ifdef __cplusplus
}
#endif
#endif
