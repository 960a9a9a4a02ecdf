// Contract of the evict stage: see include/think/evict.h. Arguments are checked by the caller, which also brings the scores (the attention mass is the
// moments stage's).
#pragma once

#include "../common/parallel.h"
#include "../common/segment.h"

namespace think::evict {

// One sequence and KV head. More tokens than budget: the first `sinks` rows, the last `recent` ones, and of the rest those of the best pooled score;
// sinks before recent rows before the rest, where the budget is short.
struct Choice {
  int64_t tokens, budget;
  int64_t sinks, recent;
  int32_t pooling, kernel;  // THINK_POOL_..., odd; 1 = none
  const float *score;       // [tokens]; NULL where sinks and recent rows fill the budget
  float *pooled;            // [tokens], scratch; NULL as well
};
int32_t choose(const Choice &choice, int32_t *kept);  // the number of rows

// Row kept[i] of the source's run becomes row i of the destination's, for both sides that have a pointer. The two may be the same memory: a kept row
// never lies before its new place.
struct Move {
  Shape shape;
  think_segment source, destination;  // dense rows; the destination's lengths are those of the lists
  Batch batch;
  const int32_t *kept;  // [batch][kv_heads][kept_stride]
  int64_t kept_stride;
  float *score;  // [slots][kv_heads][score_stride], moves with the rows; NULL = none
  int64_t score_stride;
};
bool same_memory(const Move &move);
void move_rows(const Move &move, int64_t longest, const Parallel &parallel);

namespace reference {
// The same in plain loops and a full sort.
int32_t choose(const Choice &choice, int32_t *kept);
}  // namespace reference

}  // namespace think::evict
