// Contract of the score stage: see include/think/score.h. Arguments are checked by the caller.
#pragma once

#include "../common/parallel.h"
#include "../common/segment.h"
#include "../common/workspace.h"

namespace think::score {

// State of one slot, one block after the other: f32 sum of squares [kv_heads][key_channels], the last `window` query rows
// [query_heads][window][key_channels] of query_dtype, right-aligned, and the count of tokens seen. Blocks are multiples of 64 bytes.
struct StateView {
  float *square_sum;
  void *window;
  int64_t *tokens;
};
int64_t state_bytes(const Shape &shape);  // of one slot
StateView state_view(const Shape &shape, void *state, int32_t slot);
// The windows of `slots` slots as a tensor.
think_tensor window_tensor(const Shape &shape, const void *state, int32_t slots);

struct Update {
  Shape shape;
  think_tensor query, key;
  Batch batch;
  void *state;
};

int64_t update_workspace(const Shape &shape, int32_t batch, int64_t tokens);

void reset(const Shape &shape, void *state, const Batch &batch);
// Cut into slices: exactly one call per slice, the last one to arrive completes the state. `workspace` as update_workspace() says, counters zero.
void update(int32_t isa, const Update &arguments, void *workspace, const Parallel &parallel, Slice slice);
// The squares of one slot once more, from all rows of one sequence, dense ones: after some of them have gone. The same bits as from an update with these
// rows. Window and count stay.
void sum_again(int32_t isa, const Shape &shape, const think_segment &source, void *state, const Parallel &parallel);
// query_heads: one score per query head. score: [batch][kv_heads or query_heads][key_channels]
void finish(const Shape &shape, const void *state, const Batch &batch, bool query_heads, float *score);
// attention: [batch][query_heads][rows][value_channels] -> score [batch][kv_heads][value_channels]
void value_score(const Shape &shape, const think_tensor &attention, const Batch &batch, float *score);

namespace reference {
// Scores of one sequence from all its rows at once, in double: query [query_heads][tokens][key_channels], key [kv_heads][tokens][key_channels].
void score(const Shape &shape, const double *query, const double *key, int64_t tokens, bool query_heads, double *score);
void value_score(const Shape &shape, const double *attention, int64_t rows, double *score);
}  // namespace reference

}  // namespace think::score
