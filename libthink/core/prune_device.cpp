// think_prune() on a CUDA device: the stages of prune.cpp one after the other on the stream, each for a wave of sequences, and the rows of all at the end.
// The host reads no array, so what depends on lengths is decided by kernels (kernels/prune).
#include <algorithm>
#include <iterator>

#include "kernels/prune/prune.h"
#include "libthink/backend/cuda_loader.h"
#include "libthink/core/prune.h"
#include "libthink/core/structs.h"

namespace think {
namespace {

// Memory of one call. Moments, scores and widths lie by sequence of the wave; bases by the slots of the destination.
struct Scratch {
  int32_t *table[8];  // [batch] each: see Plan
  char *moments;
  float *score, *gains;
  int32_t *order, *kept;
  float *attention;  // of the window's queries, where values are scored by it
  char *stage;       // workspace of whatever stage is running
};

Scratch carve(const cuda::Backend &backend, const Shape &shape, int32_t batch, int64_t tokens, Carver &carver) {
  const int32_t wave = device_wave(shape, batch);
  const int64_t heads = int64_t{wave} * shape.kv_heads, widest = std::max(shape.key_channels, shape.value_channels);
  Scratch scratch;
  for (int32_t *&table : scratch.table) table = take<int32_t>(carver, batch);
  scratch.moments = take<char>(carver, wave * moments::state_bytes(shape));
  scratch.score = take<float>(carver, heads * widest);
  scratch.gains = take<float>(carver, heads * widest);
  scratch.order = take<int32_t>(carver, heads * widest);
  scratch.kept = take<int32_t>(carver, heads);
  scratch.attention = take<float>(carver, int64_t{wave} * shape.query_heads * shape.window * shape.value_channels);
  int64_t stage = std::max(backend.moments_workspace(shape, wave, tokens), backend.gains_workspace(shape, wave));
  for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
    stage = std::max(stage, backend.budgets_workspace(prune_budgets(shape, wave, side, int64_t{shape.kv_heads} * channels_of(shape, side))));
  }
  stage = std::max(stage, backend.attend_workspace(window_shape(shape, wave), {wave, shape.window, 1, tokens}));
  scratch.stage = take<char>(carver, std::max(stage, backend.fit_workspace(shape, wave)));
  return scratch;
}

struct DevicePrune {
  const cuda::Backend &backend;
  const PruneCall &call;
  const Scratch &scratch;
  int64_t longest;
  void *stream;
  pruning::Plan plan;
  // The wave: its number of sequences with the slots of the score state, of the destination's bases, and none (slot = sequence).
  int32_t first;
  Batch of_state, of_destination, by_sequence;
};

// A segment's sequences from `first` on, without their slots.
think_segment from_sequence(think_segment segment, int32_t first) {
  if (segment.pages) segment.pages += first * segment.pages_stride;
  if (segment.first) segment.first += first * segment.lengths_stride[0];
  segment.lengths += first * segment.lengths_stride[0];
  return segment;
}

int32_t measure(const DevicePrune &prune) {
  const PruneCall &call = prune.call;
  moments::Arguments arguments{};
  arguments.shape = call.shape;
  arguments.window_query = score::window_tensor(call.shape, call.score_state, 1);
  arguments.source = from_sequence(prune.plan.source, prune.first);
  arguments.source.slot = prune.plan.source_slot + prune.first;
  arguments.source.flags |= THINK_SEGMENT_CAUSAL;
  if (!prune.plan.value.asked) arguments.source.value = nullptr;
  arguments.batch = prune.by_sequence;
  arguments.sinks = call.options.sinks;
  arguments.recent = call.options.recent;
  arguments.attention_share = call.options.attention_share;
  arguments.moments = prune.scratch.moments;
  return prune.backend.moments(arguments, prune.of_state.slot, prune.longest, prune.scratch.stage, prune.stream);
}

// The paper's score of values: squares of what the window's queries get from each channel.
int32_t score_values_by_attention(const DevicePrune &prune) {
  const PruneCall &call = prune.call;
  think_segment source = from_sequence(prune.plan.source, prune.first);
  source.slot = prune.plan.source_slot + prune.first;
  source.flags |= THINK_SEGMENT_CAUSAL;
  const attend::Arguments arguments =
      window_attention(call.shape, prune.by_sequence, score::window_tensor(call.shape, call.score_state, 1), source, prune.scratch.attention);
  const attend::Extent extent{prune.by_sequence.count, call.shape.window, 1, prune.longest};
  if (const int32_t error = prune.backend.attend(arguments, extent, prune.of_state.slot, prune.scratch.stage, prune.stream)) return error;
  return prune.backend.score_values(arguments.shape, arguments.output, prune.by_sequence, prune.scratch.score, prune.stream);
}

// Scores and widths -> the kept channels -> their weights.
int32_t prune_side(const DevicePrune &prune, int32_t side, const think_basis &basis, uint8_t *mask) {
  const cuda::Backend &backend = prune.backend;
  const PruneCall &call = prune.call;
  const Shape &shape = call.shape;
  const PruneOptions &options = call.options;
  const Scratch &scratch = prune.scratch;
  const bool keys = side == THINK_KEYS;
  const int32_t channels = channels_of(shape, side);
  const bool greedy = !keys && options.regressed;
  int32_t error = 0;
  if (keys) {
    error = backend.score_finish(shape, call.score_state, prune.of_state, false, scratch.score, prune.stream);
  } else if (!greedy) {
    error = score_values_by_attention(prune);
  }
  if (!error && (options.adaptive || greedy)) {
    error = backend.gains(shape, scratch.moments, prune.by_sequence, side, keys ? scratch.score : nullptr, scratch.gains, scratch.order, scratch.stage,
                          prune.stream);
  }
  if (!error && greedy) error = backend.prune_rank(prune.by_sequence.count * shape.kv_heads, channels, scratch.order, scratch.score, prune.stream);
  if (!error && options.adaptive) {
    const select::Budgets budgets = prune_budgets(shape, prune.by_sequence.count, side, prune_total(shape, options, side));
    error = backend.budgets(budgets, scratch.gains, scratch.kept, scratch.stage, prune.stream);
  }
  const select::Select choice = prune_choice(shape, options, side, options.adaptive ? scratch.kept : nullptr);
  if (!error) error = backend.select(choice, scratch.score, prune.of_destination, basis, mask, prune.stream);
  if (error || !options.regressed) return error;
  fit::Arguments arguments{};
  arguments.shape = shape;
  arguments.moments = scratch.moments;
  arguments.batch = prune.of_destination;
  arguments.side = side;
  arguments.ridge = options.ridge;
  arguments.basis = basis;
  return backend.fit(arguments, nullptr, scratch.stage, prune.stream);
}

// The stages of a side that may be pruned, and the sequences of which it is not.
int32_t run_side(const DevicePrune &prune, int32_t side) {
  const PruneCall &call = prune.call;
  const bool keys = side == THINK_KEYS;
  const think_basis *basis = keys ? call.destination.key_basis : call.destination.value_basis;
  const bool asked = keys ? prune.plan.key.asked : prune.plan.value.asked;
  uint8_t *mask = keys && call.mask ? call.mask + int64_t{prune.first} * call.shape.kv_heads * call.shape.key_channels : nullptr;
  if (!asked && !basis && !mask) return 0;
  if (asked) {
    if (const int32_t error = prune_side(prune, side, *basis, mask)) return error;
  }
  const int32_t *dense = asked ? (keys ? prune.plan.key_dense : prune.plan.value_dense) + prune.first : nullptr;
  const think_basis none = THINK_BASIS_INIT;
  return prune.backend.prune_keep_all(call.shape.kv_heads, channels_of(call.shape, side), basis ? *basis : none, prune.of_destination, dense, mask,
                                      prune.stream);
}

}  // namespace

int64_t prune_workspace(const cuda::Backend &backend, const Shape &shape, int32_t batch, int64_t tokens) {
  Carver carver{nullptr, 0};
  carve(backend, shape, batch, tokens, carver);
  return carver.offset;
}

int32_t prune(const cuda::Backend &backend, const PruneCall &call, int64_t longest, void *workspace, void *stream) {
  const Shape &shape = call.shape;
  Carver carver{static_cast<char *>(workspace), 0};
  const Scratch scratch = carve(backend, shape, call.batch.count, longest, carver);
  DevicePrune prune{backend, call, scratch, longest, stream, {}, 0, {}, {}, {}};
  pruning::Plan &plan = prune.plan;
  plan.source = call.source;
  plan.destination = call.destination;
  plan.batch = call.batch;
  plan.sinks = call.options.sinks;
  plan.recent = call.options.recent;
  plan.key = prune_rule(shape, call.options, THINK_KEYS, call.destination.key_dtype);
  plan.value = prune_rule(shape, call.options, THINK_VALUES, call.destination.value_dtype);
  int32_t **const tables[] = {&plan.source_first, &plan.destination_first, &plan.rows,        &plan.key_dense,
                              &plan.value_dense,  &plan.state_slot,        &plan.source_slot, &plan.destination_slot};
  for (size_t i = 0; i < std::size(tables); ++i) *tables[i] = scratch.table[i];
  if (const int32_t error = backend.prune_plan(plan, longest, stream)) return error;
  const int32_t wave = device_wave(shape, call.batch.count);
  for (prune.first = 0; prune.first < call.batch.count; prune.first += wave) {
    const int32_t count = std::min(wave, call.batch.count - prune.first);
    prune.of_state = {count, nullptr, nullptr, plan.state_slot + prune.first};
    prune.of_destination = {count, nullptr, nullptr, plan.destination_slot + prune.first};
    prune.by_sequence = {count, nullptr, nullptr, nullptr};
    if (call.options.regressed && (plan.key.asked || plan.value.asked)) {
      if (const int32_t error = measure(prune)) return error;
    }
    for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
      if (const int32_t error = run_side(prune, side)) return error;
    }
  }
  compact::Arguments move = prune_move(call, plan.source_first, plan.destination_first, plan.rows);
  move.batch = {call.batch.count, nullptr, nullptr, nullptr};
  move.source.slot = plan.source_slot;
  move.destination.slot = plan.destination_slot;
  if (call.destination.key_head_offset || call.destination.value_head_offset) {
    if (const int32_t error = backend.place(shape, move.destination, move.batch, stream)) return error;
  }
  return backend.compact(move, longest, stream);
}

}  // namespace think
