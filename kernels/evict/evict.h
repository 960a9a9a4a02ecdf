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
static inline bool same_memory(const Move &move) {
  return (move.source.key && move.source.key == move.destination.key) || (move.source.value && move.source.value == move.destination.value);
}
void move_rows(const Move &move, int64_t longest, const Parallel &parallel);

// Choices of sequences [first_sequence, first_sequence + sequences), on a device: what is behind pointers cannot be looked at when they are launched.
struct Choices {
  Shape shape;
  think_segment source;  // for the lengths of its runs
  Batch batch;
  int32_t first_sequence, sequences;
  int32_t budget;
  const int32_t *budgets;  // [batch][kv_heads]; NULL = budget
  int64_t sinks, recent;
  int32_t pooling, kernel;
  bool accumulate;    // the mass is added to score; otherwise it is written there
  const float *mass;  // [sequences][kv_heads][mass_stride]; NULL = scores are taken as they are
  int64_t mass_stride;
  float *score;  // [slots][kv_heads][score_stride]; NULL = none
  int64_t score_stride;
  float *pooled;  // [sequences][kv_heads][longest]; used if kernel > 1
  int32_t *kept;  // [batch][kv_heads][kept_stride]
  int64_t kept_stride;
  int32_t *lengths;  // [batch][kv_heads]
};

namespace reference {
// The same in plain loops and a full sort.
int32_t choose(const Choice &choice, int32_t *kept);
}  // namespace reference

}  // namespace think::evict
