/**
 * @file think/attend.h
 * @brief Stage 6: attention directly on compact and dense segments, and the merge of partial results.
 */
#ifndef THINK_ATTEND_H
#define THINK_ATTEND_H

#include "compact.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Largest segment_count of think_attend(). */
#define THINK_MAX_SEGMENTS 16

/**
 * Attention of any number of new queries of each sequence over the rows of all segments together, in f32:
 *   z = scale * (q_eff . k_I + constant of the segment), then the soft cap, then the causal limit, then softmax over all segments, then the values.
 * Decode, speculative decoding, teacher forcing and the next turn of a chat are the same call. Each segment is visible to every query, except the one
 * flagged THINK_SEGMENT_CAUSAL; rows that a query does not see yet have the weight 0, so all rows must be finite. A NaN among the logits gives NaN. May be cut into slices. Two runs with the same arguments give the same bits, whatever the threads and slices.
 *
 * @param query          [batch][query_heads][queries][key_channels], query_dtype; query head i belongs to KV head i / group
 * @param batch          rows of query and output, and slots; NULL = every row
 * @param segments       in any order; RoPE is in the keys. Element 0's struct_size is the step of the array
 * @param segment_count  1 .. THINK_MAX_SEGMENTS
 * @param sink_logit     f32 [query_heads]: a logit without a value that joins each softmax, uncapped; NULL = none
 * @param output         [batch][query_heads][queries][value_channels], output_dtype
 * @param lse            receives f32 [batch][query_heads][queries]: the natural logarithm of the sum of exp(z), sink logit not counted; packed rows:
 *                       [query_heads][tokens]. NULL = not wanted. A query that sees no token: output 0, LSE -inf
 * @return THINK_E_ARGUMENT, THINK_E_UNSUPPORTED, THINK_E_WORKSPACE
 * @since 0.9
 */
THINK_API think_status think_attend(const think_plan *plan, const think_tensor *query, const think_batch *batch, const think_segment *segments, int32_t segment_count, const float *sink_logit, const think_tensor *output, float *lse, const think_launch *launch, think_error *error);

/**
 * Merge attention over disjoint sets of rows: out = sum_i exp(lse_i - lse) out_i, lse = log sum_i exp(lse_i). For results of other libraries or machines;
 * segments of one think_attend() need no merge. The outputs must come without sink logits.
 * @param outputs  [count] tensors of output_dtype or f32 and equal extents
 * @param lses     [count] pointers to f32 [batch][query_heads][queries]
 * @param count    1 .. 64
 * @param output   may be one of the outputs
 * @param lse      receives the merged LSE, may be one of the lses; NULL = not wanted
 * @since 0.9
 */
THINK_API think_status think_merge(const think_plan *plan, const think_tensor *outputs, const float *const *lses, int32_t count, const think_tensor *output, float *lse, const think_launch *launch, think_error *error);

#ifdef __cplusplus
}
#endif
#endif
