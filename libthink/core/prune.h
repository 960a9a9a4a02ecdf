// think_prune(): what to do with a sequence (a function of its length and the options, the same for the preview), and the stages one after the other.
#pragma once

#include "kernels/attend/attend.h"
#include "kernels/compact/compact.h"
#include "kernels/prune/prune.h"
#include "kernels/select/select.h"
#include "libthink/core/plan.h"
#include "think/prune.h"

namespace think {

// think_prune_options with its defaults filled in.
struct PruneOptions {
  bool regressed;                // THINK_MODE_REGRESSED
  bool adaptive;                 // budgets; never together with THINK_MODE_CHANNELS
  int32_t key_kept, value_kept;  // per head; all channels = the side is copied
  int32_t sinks, recent;
  float attention_share, ridge;
  double dense_limit;  // negative = prune anyway
};
think_status read_prune_options(const Argument &argument, const think_prune_options *in, const Shape &shape, PruneOptions &options);

struct SideDecision {
  bool pruned;
  int64_t total;  // channels of all heads together
  int64_t bytes;  // rows as stored
  int64_t basis_bytes;
};
struct PruneDecision {
  PruneRange range;
  int64_t dense_bytes;
  SideDecision key, value;
};
PruneDecision decide_prune(const Shape &shape, const PruneOptions &options, think_dtype key_dtype, think_dtype value_dtype, int64_t tokens);

// The rule behind the decision about one side, and what select needs for it.
pruning::Rule prune_rule(const Shape &shape, const PruneOptions &options, int32_t side, think_dtype dtype);
int64_t prune_total(const Shape &shape, const PruneOptions &options, int32_t side);  // channels of all heads together, where the side is pruned
select::Budgets prune_budgets(const Shape &shape, int32_t batch, int32_t side, int64_t total);
select::Select prune_choice(const Shape &shape, const PruneOptions &options, int32_t side, const int32_t *kept);

struct PruneCall {
  Shape shape;
  int32_t isa;
  Parallel parallel;
  const void *score_state;
  think_segment source, destination;  // checked; lengths the same for all heads
  Batch batch;
  PruneOptions options;
  uint8_t *mask;
};
// The rows that move, given where they begin and how many they are: one number per sequence.
compact::Arguments prune_move(const PruneCall &call, const int32_t *source_first, const int32_t *destination_first, const int32_t *rows);
// The attention of the window's queries in THINK_MODE_CHANNELS, whose squares are the scores of values. `queries`: the window of the score state; `attention`:
// f32 [batch][query_heads][window][value_channels].
Shape window_shape(const Shape &shape, int32_t batch);
attend::Arguments window_attention(const Shape &shape, const Batch &batch, const think_tensor &queries, const think_segment &source, float *attention);

int64_t prune_workspace(const Shape &shape, int32_t batch, int64_t tokens, int32_t threads);
void prune(const PruneCall &call, void *workspace);

// On a CUDA device, which is current: launches only, the error is the CUDA runtime's. No sequence has more than `longest` tokens.
int64_t prune_workspace(const cuda::Backend &backend, const Shape &shape, int32_t batch, int64_t tokens);
int32_t prune(const cuda::Backend &backend, const PruneCall &call, int64_t longest, void *workspace, void *stream);

}  // namespace think
