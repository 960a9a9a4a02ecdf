/**
 * @file think/compact.h
 * @brief Stage 5: move rows from one segment to another, keeping what the destination's basis keeps.
 */
#ifndef THINK_COMPACT_H
#define THINK_COMPACT_H

#include "fit.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Move rows [first, first + length) of each sequence and head of `source` to rows [first, first + length) of `destination`; the lengths are the
 * destination's. One call prunes (rows -> tiles with a basis), folds (a full window block -> the end of the tiles), or copies (no basis, any layouts).
 *
 * The source holds all channels of every row (no basis), or has the same basis and channels as the destination. dtypes may differ: numbers are
 * rounded to nearest even, or to the codes of a quantized destination (think/segment.h). Whole tiles that stay in the same quantized dtype and keep all
 * channels of the source are copied; other quantized rows are decoded first. A side whose key (or value) pointer is NULL in both segments is left out. Source and destination must not overlap. May be cut
 * into slices.
 *
 * @param source       where the rows are; its lengths are ignored
 * @param destination  where they go
 * @param batch        count and slots; NULL = one sequence in slot 0
 * @since 0.9
 */
THINK_API think_status think_compact(const think_plan *plan, const think_segment *source, const think_segment *destination, const think_batch *batch, const think_launch *launch, think_error *error);

#ifdef __cplusplus
}
#endif
#endif
