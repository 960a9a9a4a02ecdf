#include "libthink/core/prune.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/compact/compact.h"
#include "kernels/fit/fit.h"
#include "kernels/moments/moments.h"
#include "kernels/score/score.h"
#include "kernels/select/select.h"
#include "libthink/core/layout.h"
#include "libthink/core/shared_options.h"
#include "libthink/core/structs.h"

namespace think {
namespace {

constexpr int32_t kBudgetStep = 8;  // adaptive widths come in blocks of so many, with one block as the floor

think_status check_kept(const Argument &argument, const char *field, int32_t kept, int32_t channels, bool adaptive) {
  if (kept < 1 || kept > channels) return wrong(argument, field, "expected -1 .. %d, got %d", channels, kept);
  if (adaptive && kept < kBudgetStep) {
    return wrong(argument, field, "expected at least %d, as adaptive budgets give every head %d channels, got %d", kBudgetStep, kBudgetStep, kept);
  }
  return THINK_OK;
}

// Widths: what the options ask for, as long as the side has less bytes that way than it would have dense.
SideDecision decide_side(const Shape &shape, const PruneOptions &options, int32_t side, think_dtype dtype, int64_t rows) {
  const pruning::Rule rule = prune_rule(shape, options, side, dtype);
  if (pruning::prunes(rule, rows)) return {true, prune_total(shape, options, side), rows / kTileTokens * rule.tile_bytes, rule.basis_bytes};
  const int64_t dense_total = int64_t{shape.kv_heads} * channels_of(shape, side);
  return {false, dense_total, rows_bytes(shape, side, rows, dense_total, 1, dtype), 0};
}

// Memory of one call. Sequences are pruned one after the other, so everything but the tables is that of a single one.
struct Scratch {
  int32_t *source_first, *destination_first, *rows;  // [batch]
  char *moments;
  float *key_score, *value_score, *gains;
  int32_t *order, *kept;
  float *attention;  // [query_heads][window][value_channels]
  char *stage;       // workspace of whatever stage is running
};

int64_t window_attend_workspace(const Shape &shape, int64_t tokens) {
  return attend::workspace(window_shape(shape, 1), {1, shape.window, 1, tokens});
}

Scratch carve(const Shape &shape, int32_t batch, int64_t tokens, int32_t threads, Carver &carver) {
  const int64_t heads = shape.kv_heads, widest = std::max(shape.key_channels, shape.value_channels);
  Scratch scratch;
  scratch.source_first = take<int32_t>(carver, batch);
  scratch.destination_first = take<int32_t>(carver, batch);
  scratch.rows = take<int32_t>(carver, batch);
  scratch.moments = take<char>(carver, moments::state_bytes(shape));
  scratch.key_score = take<float>(carver, heads * shape.key_channels);
  scratch.value_score = take<float>(carver, heads * shape.value_channels);
  scratch.gains = take<float>(carver, heads * widest);
  scratch.order = take<int32_t>(carver, heads * widest);
  scratch.kept = take<int32_t>(carver, heads);
  scratch.attention = take<float>(carver, int64_t{shape.query_heads} * shape.window * shape.value_channels);
  int64_t stage = std::max(moments::workspace(shape, 1, tokens), moments::gains_workspace(shape, 1));
  for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
    stage = std::max(stage, select::budgets_workspace(prune_budgets(shape, 1, side, heads * channels_of(shape, side))));
  }
  stage = std::max(stage, fit::workspace(shape, 1, threads));
  stage = std::max(stage, window_attend_workspace(shape, tokens));
  scratch.stage = take<char>(carver, stage);
  return scratch;
}

// One sequence of the call as a batch of one in slot 0 of everything.
struct Sequence {
  int32_t index;
  int32_t state_slot, source_slot, destination_slot;
  int64_t tokens;
  PruneDecision decision;
  think_segment source;  // of this sequence alone; its slot points here
  think_tensor window;   // its queries
};

void describe(const PruneCall &call, int32_t index, Sequence &sequence) {
  const Shape &shape = call.shape;
  sequence.index = index;
  sequence.state_slot = slot_of(call.batch, index);
  sequence.source_slot = slot_of(call.source, call.batch, index);
  sequence.destination_slot = slot_of(call.destination, call.batch, index);
  sequence.tokens = run_length(call.source, index, 0);
  sequence.decision = decide_prune(shape, call.options, call.destination.key_dtype, call.destination.value_dtype, sequence.tokens);
  think_segment &source = sequence.source;
  source = call.source;
  source.flags |= THINK_SEGMENT_CAUSAL;
  if (source.pages) source.pages += index * source.pages_stride;
  if (source.first) source.first += index * source.lengths_stride[0];
  source.lengths += index * source.lengths_stride[0];
  source.slot = &sequence.source_slot;
  sequence.window = score::window_tensor(shape, static_cast<const char *>(call.score_state) + sequence.state_slot * score::state_bytes(shape), 1);
}

// A side that stays dense keeps every channel, in order.
void keep_all(const Shape &shape, const think_basis &basis) {
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    basis.kept[head] = basis.channels;
    basis.weight_offset[head] = -1;
    for (int32_t channel = 0; channel < basis.channels; ++channel) basis.index[int64_t{head} * basis.channels + channel] = channel;
  }
}

void measure(const PruneCall &call, const Sequence &sequence, const Scratch &scratch) {
  moments::Arguments arguments{};
  arguments.shape = call.shape;
  arguments.window_query = sequence.window;
  arguments.source = sequence.source;
  if (!sequence.decision.value.pruned) arguments.source.value = nullptr;
  arguments.batch = kOneSequence;
  arguments.sinks = call.options.sinks;
  arguments.recent = call.options.recent;
  arguments.attention_share = call.options.attention_share;
  arguments.moments = scratch.moments;
  moments::measure(call.isa, arguments, scratch.stage, call.parallel);
}

// The paper's score of values: squares of what the window's queries get from each channel.
void score_values_by_attention(const PruneCall &call, const Sequence &sequence, const Scratch &scratch) {
  const attend::Arguments arguments = window_attention(call.shape, kOneSequence, sequence.window, sequence.source, scratch.attention);
  attend::attend(call.isa, arguments, scratch.stage, call.parallel, {0, 1});
  score::value_score(arguments.shape, arguments.output, kOneSequence, scratch.value_score);
}

// The greedy order of values as a score that ranks like it.
void score_values_by_order(const Shape &shape, const Scratch &scratch) {
  const int32_t channels = shape.value_channels;
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    float *score = scratch.value_score + int64_t{head} * channels;
    const int32_t *order = scratch.order + int64_t{head} * channels;
    for (int32_t step = 0; step < channels; ++step) score[order[step]] = static_cast<float>(channels - step);
  }
}

// Scores and widths -> the kept channels -> their weights.
void prune_side(const PruneCall &call, const Sequence &sequence, const Scratch &scratch, int32_t side, const think_basis &whole_basis, uint8_t *mask) {
  const Shape &shape = call.shape;
  const PruneOptions &options = call.options;
  const bool keys = side == THINK_KEYS;
  float *score = keys ? scratch.key_score : scratch.value_score;
  if (keys) {
    const Batch state{1, nullptr, nullptr, &sequence.state_slot};
    score::finish(shape, call.score_state, state, false, score);
  } else if (!options.regressed) {
    score_values_by_attention(call, sequence, scratch);
  }
  if (options.adaptive || (!keys && options.regressed)) {
    moments::gains(call.isa, shape, scratch.moments, kOneSequence, side, keys ? score : nullptr, scratch.gains, scratch.order, scratch.stage, call.parallel);
  }
  if (!keys && options.regressed) score_values_by_order(shape, scratch);
  if (options.adaptive) {
    const int64_t total = keys ? sequence.decision.key.total : sequence.decision.value.total;
    select::budgets(prune_budgets(shape, 1, side, total), scratch.gains, scratch.kept, scratch.stage);
  }
  const select::Select choice = prune_choice(shape, options, side, options.adaptive ? scratch.kept : nullptr);
  const think_basis basis = basis_of_slot(shape, whole_basis, sequence.destination_slot);
  select::select(choice, score, kOneSequence, basis, mask);
  if (!options.regressed) return;
  fit::Arguments arguments{};
  arguments.shape = shape;
  arguments.moments = scratch.moments;
  arguments.batch = kOneSequence;
  arguments.side = side;
  arguments.ridge = options.ridge;
  arguments.basis = basis;
  fit::fit(arguments, scratch.stage, call.parallel);
  restore_weight_offset(shape, basis, whole_basis);
}

}  // namespace

think_status read_prune_options(const Argument &argument, const think_prune_options *in, const Shape &shape, PruneOptions &options) {
  static const think_prune_options defaults = THINK_PRUNE_OPTIONS_INIT;
  think_prune_options copy;
  if (const think_status status = read_options(argument, in, copy, defaults)) return status;
  if (copy.mode != THINK_MODE_REGRESSED && copy.mode != THINK_MODE_CHANNELS) {
    return wrong(argument, "mode", "expected 0 (regressed) or 1 (channels), got %d", copy.mode);
  }
  if (copy.budget != THINK_BUDGET_ADAPTIVE && copy.budget != THINK_BUDGET_UNIFORM) {
    return wrong(argument, "budget", "expected 0 (adaptive) or 1 (uniform), got %d", copy.budget);
  }
  options.regressed = copy.mode == THINK_MODE_REGRESSED;
  options.adaptive = options.regressed && copy.budget == THINK_BUDGET_ADAPTIVE;
  options.key_kept = copy.key_kept == 0 ? shape.key_channels / 2 : copy.key_kept == -1 ? shape.key_channels : copy.key_kept;
  options.value_kept = copy.value_kept == 0 || copy.value_kept == -1 ? shape.value_channels : copy.value_kept;
  // Half of the smallest head is less than the floor: the default is then the floor.
  if (copy.key_kept == 0 && options.adaptive) options.key_kept = std::max(options.key_kept, kBudgetStep);
  if (const think_status status = check_kept(argument, "key_kept", options.key_kept, shape.key_channels, options.adaptive)) return status;
  if (const think_status status = check_kept(argument, "value_kept", options.value_kept, shape.value_channels, options.adaptive)) return status;
  if (const think_status status = read_count(argument, "sinks", copy.sinks, kDefaultSinks, options.sinks)) return status;
  if (const think_status status = read_count(argument, "recent", copy.recent, kDefaultRecent, options.recent)) return status;
  if (const think_status status = read_attention_share(argument, copy.attention_share, options.attention_share)) return status;
  if (const think_status status = read_ridge(argument, copy.ridge, options.ridge)) return status;
  const bool limit_fits = copy.dense_limit == -1 || (copy.dense_limit >= 0 && std::isfinite(copy.dense_limit));
  if (!limit_fits) return wrong(argument, "dense_limit", "expected -1 or a finite number of at least 0, got %s", NumberText(copy.dense_limit).text);
  options.dense_limit = copy.dense_limit == -1 ? -1 : copy.dense_limit == 0 ? 0.9 : static_cast<double>(copy.dense_limit);
  if (copy.reserved != 0) return wrong(argument, "reserved", "expected 0, got %s", NumberText(copy.reserved).text);
  return THINK_OK;
}

int64_t prune_total(const Shape &shape, const PruneOptions &options, int32_t side) {
  const int64_t kept = side == THINK_KEYS ? options.key_kept : options.value_kept;
  if (options.adaptive) return shape.kv_heads * kept / kBudgetStep * kBudgetStep;
  return shape.kv_heads * (side == THINK_KEYS ? kept : (kept + 7) / 8 * 8);
}

pruning::Rule prune_rule(const Shape &shape, const PruneOptions &options, int32_t side, think_dtype dtype) {
  const int64_t total = prune_total(shape, options, side), dense_total = int64_t{shape.kv_heads} * channels_of(shape, side);
  // Uniform widths are all the same, adaptive ones come in steps.
  const int64_t tile_bytes = options.adaptive ? rows_bytes(shape, side, kTileTokens, total, kBudgetStep, dtype)
                                              : shape.kv_heads * head_bytes(kTileTokens, static_cast<int32_t>(total / shape.kv_heads), dtype, side == THINK_KEYS);
  // All channels quantized are the cheaper alternative.
  const int64_t dense_tile_bytes =
      is_quantized(dtype) ? rows_bytes(shape, side, kTileTokens, dense_total, 1, dtype) : kTileTokens * dense_total * dtype_bytes(shape.cache_dtype);
  return {total < dense_total, basis_bytes(shape, side), tile_bytes, dense_tile_bytes, options.dense_limit};
}

select::Budgets prune_budgets(const Shape &shape, int32_t batch, int32_t side, int64_t total) {
  select::Budgets budgets{};
  budgets.layers = 1;
  budgets.batch = batch;
  budgets.kv_heads = shape.kv_heads;
  budgets.channels = channels_of(shape, side);
  budgets.floor = budgets.step = kBudgetStep;
  budgets.total = total;
  return budgets;
}

select::Select prune_choice(const Shape &shape, const PruneOptions &options, int32_t side, const int32_t *kept) {
  select::Select choice{};
  choice.kv_heads = shape.kv_heads;
  choice.channels = channels_of(shape, side);
  choice.round_to = side == THINK_KEYS ? 1 : 8;
  choice.uniform_kept = side == THINK_KEYS ? options.key_kept : options.value_kept;
  choice.kept = kept;
  choice.pairs = select::Pairs::none;
  return choice;
}

PruneDecision decide_prune(const Shape &shape, const PruneOptions &options, think_dtype key_dtype, think_dtype value_dtype, int64_t tokens) {
  PruneDecision decision;
  decision.range = prune_range(tokens, options.sinks, options.recent);
  const int64_t rows = decision.range.count;
  decision.dense_bytes = rows * shape.kv_heads * (int64_t{shape.key_channels} + shape.value_channels) * dtype_bytes(shape.cache_dtype);
  decision.key = decide_side(shape, options, THINK_KEYS, key_dtype, rows);
  decision.value = decide_side(shape, options, THINK_VALUES, value_dtype, rows);
  return decision;
}

// Like the plan, but so many queries at once, and outputs that are only squared and summed.
Shape window_shape(const Shape &shape, int32_t batch) {
  Shape window = shape;
  window.max_batch = batch;
  window.max_queries = shape.window;
  window.output_dtype = THINK_F32;
  return window;
}

attend::Arguments window_attention(const Shape &shape, const Batch &batch, const think_tensor &queries, const think_segment &source, float *attention) {
  attend::Arguments arguments{};
  arguments.shape = window_shape(shape, batch.count);
  arguments.query = queries;
  think_tensor &output = arguments.output;
  output = THINK_TENSOR_INIT;
  output.data = attention;
  output.dtype = THINK_F32;
  const int64_t channels = shape.value_channels, window = shape.window;
  const int64_t extent[4] = {batch.count, shape.query_heads, window, channels};
  const int64_t stride[4] = {shape.query_heads * window * channels, window * channels, channels, 1};
  std::memcpy(output.extent, extent, sizeof extent);
  std::memcpy(output.stride, stride, sizeof stride);
  arguments.batch = batch;
  arguments.segments = &source;
  arguments.segment_count = 1;
  return arguments;
}

compact::Arguments prune_move(const PruneCall &call, const int32_t *source_first, const int32_t *destination_first, const int32_t *rows) {
  compact::Arguments move{call.shape, call.source, call.destination, call.batch};
  move.source.first = source_first;
  move.destination.first = destination_first;
  move.source.lengths = move.destination.lengths = rows;
  move.destination.flags |= THINK_SEGMENT_MEASURE;
  for (think_segment *segment : {&move.source, &move.destination}) {
    segment->lengths_stride[0] = 1;
    segment->lengths_stride[1] = 0;
  }
  return move;
}

int64_t prune_workspace(const Shape &shape, int32_t batch, int64_t tokens, int32_t threads) {
  Carver carver{nullptr, 0};
  carve(shape, batch, tokens, threads, carver);
  return carver.offset;
}

void prune(const PruneCall &call, void *workspace) {
  const Shape &shape = call.shape;
  int64_t longest = 0;
  for (int32_t index = 0; index < call.batch.count; ++index) longest = std::max(longest, run_length(call.source, index, 0));
  Carver carver{static_cast<char *>(workspace), 0};
  const Scratch scratch = carve(shape, call.batch.count, longest, call.parallel.threads, carver);
  for (int32_t index = 0; index < call.batch.count; ++index) {
    Sequence sequence;
    describe(call, index, sequence);
    const PruneDecision &decision = sequence.decision;
    if (call.options.regressed && (decision.key.pruned || decision.value.pruned)) measure(call, sequence, scratch);
    const int64_t mask_bytes = int64_t{shape.kv_heads} * shape.key_channels;
    uint8_t *mask = call.mask ? call.mask + index * mask_bytes : nullptr;
    if (decision.key.pruned) {
      prune_side(call, sequence, scratch, THINK_KEYS, *call.destination.key_basis, mask);
    } else {
      if (call.destination.key_basis) keep_all(shape, basis_of_slot(shape, *call.destination.key_basis, sequence.destination_slot));
      if (mask) std::memset(mask, 1, static_cast<size_t>(mask_bytes));
    }
    if (decision.value.pruned) {
      prune_side(call, sequence, scratch, THINK_VALUES, *call.destination.value_basis, nullptr);
    } else if (call.destination.value_basis) {
      keep_all(shape, basis_of_slot(shape, *call.destination.value_basis, sequence.destination_slot));
    }
    scratch.source_first[index] = static_cast<int32_t>(run_first(call.source, index, 0) + decision.range.first);
    scratch.destination_first[index] = static_cast<int32_t>(run_first(call.destination, index, 0));
    scratch.rows[index] = static_cast<int32_t>(decision.range.count);
  }
  compact::Arguments move = prune_move(call, scratch.source_first, scratch.destination_first, scratch.rows);
  if (call.destination.key_head_offset || call.destination.value_head_offset) compact::place(shape, call.destination, call.batch);
  compact::compact(call.isa, move, call.parallel, {0, 1});
}

}  // namespace think
