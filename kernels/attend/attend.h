// Contract of the attend stage: see include/think/attend.h. Arguments are checked by the caller.
#pragma once

#include "../common/parallel.h"
#include "../common/segment.h"
#include "../common/workspace.h"

namespace think::attend {

struct Arguments {
  Shape shape;
  think_tensor query, output;
  Batch batch;
  const think_segment *segments;  // dense array of the current struct
  int32_t segment_count;
  const float *sink_logit;  // NULL = none
  float *lse;               // NULL = not wanted
};

// How work is cut, from the extent of a call alone (never from threads): see README.md.
struct Extent {
  int32_t batch, queries, segments;
  int64_t tokens;
  int64_t rows = 0;  // queries of all sequences together, where they are packed; 0 = batch * queries. The CPU does not need it
};
int64_t workspace(const Shape &shape, const Extent &extent);
// Cut into slices: exactly one call per slice with the same arguments. No slice waits; whoever completes a KV head reduces it. Counters of the workspace
// are zero before the first and after the last slice. With slice.count 1 the call cuts itself into slices for parallel.threads.
void attend(int32_t isa, const Arguments &arguments, void *workspace, const Parallel &parallel, Slice slice);

struct Merge {
  Shape shape;
  const think_tensor *outputs;
  const float *const *lses;
  int32_t count;
  think_tensor output;
  float *lse;
};
void merge(int32_t isa, const Merge &arguments);

// Where a query's LSE lies: [batch][query_heads][queries], or packed [query_heads][tokens].
static inline int64_t lse_index(const think_tensor &query, const Batch &batch, int32_t sequence, int32_t head, int64_t token) {
  const RowRange rows = rows_of(query, batch, sequence);
  return (rows.row * query.extent[1] + head) * query.extent[2] + rows.first + token;
}

namespace reference {
// Double precision, plain loops, the same arguments. basis_in_double: use W and offsets as stored (f16, f32) but sum in double.
void attend(const Arguments &arguments);
void merge(const Merge &arguments);
// The same loops in f32: what a straightforward implementation of the same precision loses. The yardstick of the tests' tolerance.
void attend_single(const Arguments &arguments);
// The same with both operands of every product in 16 bits, as matrix units take them: folded queries and probabilities are rounded to `operands`.
void attend_rounded(const Arguments &arguments, think_dtype operands);
}  // namespace reference

}  // namespace think::attend
