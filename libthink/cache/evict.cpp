// Whole rows go, before any channel does: every KV head of every layer keeps as many rows, of its own choice.
#include <algorithm>

#include "kernels/evict/evict.h"
#include "kernels/score/score.h"
#include "libthink/cache/cache.h"
#include "libthink/core/workspace.h"

namespace think::cache {
namespace {

struct Scratch {
  int32_t *kept, *lengths;  // of one layer
  char *choice;
};

int64_t carve(const think_cache &cache, int64_t rows, Carver &carver, Scratch &scratch) {
  const Shape &shape = cache.plan->shape;
  scratch.kept = take<int32_t>(carver, rows * shape.kv_heads);
  scratch.lengths = take<int32_t>(carver, shape.kv_heads);
  const int64_t choice = cache.device ? think::evict_workspace(*cache.device->backend, shape, 1, rows) : think::evict_workspace(shape, 1, rows);
  scratch.choice = take<char>(carver, choice);
  return carver.offset;
}

// Pages that keep rows become the sequence's own, where forks share them.
int64_t shared_pages(const think_cache &cache, const Sequence &sequence, int32_t rows) {
  int64_t count = 0;
  for (int32_t page = 0; page < page_count(rows); ++page) count += shared(cache, sequence, int64_t{page} * kPageTokens);
  return count;
}

void own_pages(think_cache &cache, Sequence &sequence, int32_t rows) {
  for (int32_t page = 0; page < page_count(rows); ++page) own(cache, sequence, int64_t{page} * kPageTokens);
}

// Rows at the end that all heads keep: so many tokens can still be rolled back.
int32_t common_tail(const int32_t *kept, int32_t heads, int32_t rows, int32_t dense_rows, int32_t most) {
  for (int32_t head = 0; head < heads; ++head) {
    const int32_t *list = kept + int64_t{head} * rows;
    int32_t tail = 0;
    while (tail < most && list[rows - 1 - tail] == dense_rows - 1 - tail) ++tail;
    most = tail;
  }
  return most;
}

// Before and after: the same pages.
struct Ends {
  Rows before, after;
  int32_t rows_after;
};

struct LayerMove {
  int32_t layer;
  const int32_t *kept;  // [kv_heads][rows_after]
  float *score;
  int64_t score_stride;
};

void move_layer(think_cache &cache, Sequence &sequence, const Ends &ends, const LayerMove &layer) {
  const Shape &shape = cache.plan->shape;
  const int32_t rows = ends.rows_after;
  evict::Move move{};
  move.shape = shape;
  move.source = dense_segment(cache, layer.layer, ends.before);
  move.destination = dense_segment(cache, layer.layer, ends.after);
  move.batch = kOneSequence;
  move.kept = layer.kept;
  move.kept_stride = rows;
  move.score = layer.score;
  move.score_stride = layer.score_stride;
  char *state = sequence.score ? sequence.score + layer.layer * score::state_bytes(shape) : nullptr;
  if (Device *device = cache.device) {
    run(*device, [&](const cuda::Backend &backend) { return backend.evict_move(move, rows, sequence.dense_rows, device->stream); });
    if (!state) return;
    run(*device, [&](const cuda::Backend &backend) {
      return backend.score_sum_again(shape, move.destination, move.batch, state, rows, device->scratch, device->stream);
    });
    return;
  }
  evict::move_rows(move, rows, cache.plan->parallel);
  if (state) score::sum_again(cache.plan->isa, shape, move.destination, state, cache.plan->parallel);
}

Ends ends_of(Lists &lists, const Sequence &sequence, const int32_t &rows) {
  const Rows before = dense_rows(lists, sequence);
  return {before, {before.pages, before.stride, nullptr, lists.add(&rows, 1), nullptr}, rows};
}

void forget_evicted(think_cache &cache, int32_t number, int32_t rows, int32_t tail) {
  Sequence &sequence = cache.sequences[number];
  const int32_t gone = sequence.dense_rows - rows;
  trim(cache, number, rows);
  sequence.evicted = static_cast<int32_t>(std::min<int64_t>(INT32_MAX, int64_t{sequence.evicted} + gone));
  sequence.settled_rows = rows - tail;
}

}  // namespace

int64_t evict_workspace(const think_cache &cache, int64_t rows) {
  Carver carver{nullptr, 0};
  Scratch scratch;
  return carve(cache, rows, carver, scratch);
}

bool evict_all(think_cache &cache, const int32_t *sequences, int32_t count, const Eviction &eviction, void *workspace) {
  const Shape &shape = cache.plan->shape;
  Needs needs{};
  int64_t longest = 0;
  for (int32_t index = 0; index < count; ++index) {
    const Sequence &sequence = cache.sequences[sequences[index]];
    longest = std::max<int64_t>(longest, sequence.dense_rows);
    if (sequence.dense_rows <= eviction.choice.budget) continue;
    needs.pages[kDense] += shared_pages(cache, sequence, eviction.choice.budget);
    needs.pages[kScores] += needs_score_copy(cache, sequences, index, [&](int32_t other) {
      return cache.sequences[sequences[other]].dense_rows > eviction.choice.budget;
    });
  }
  if (!reserve(cache, needs)) return false;
  end_step(cache);
  Carver carver{static_cast<char *>(workspace), 0};
  Scratch scratch;
  const int64_t used = carve(cache, longest, carver, scratch);
  for (int32_t index = 0; index < count; ++index) {
    Sequence &sequence = cache.sequences[sequences[index]];
    const int32_t rows = std::min(sequence.dense_rows, eviction.choice.budget);
    const bool fewer = rows < sequence.dense_rows;
    // Where all rows stay, only the caller's scores can want a mass.
    const bool wanted = fewer || (eviction.choice.measure && eviction.choice.score);
    if (!wanted || sequence.dense_rows == 0) continue;
    if (fewer) own_pages(cache, sequence, rows);
    if (fewer) own_score(cache, sequence);
    Lists lists(cache);
    const Ends ends = ends_of(lists, sequence, rows);
    lists.send();
    int32_t tail = sequence.dense_rows - sequence.settled_rows;
    for (int32_t layer = 0; layer < cache.layers; ++layer) {
      const int64_t place = int64_t{index} * cache.layers + layer;
      EvictCall call = eviction.choice;
      call.source = dense_segment(cache, layer, ends.before);
      call.source.flags = THINK_SEGMENT_CAUSAL;
      call.batch = kOneSequence;
      if (sequence.run_count > 0) call.sinks = std::max<int64_t>(call.sinks, cache.prune.sinks);
      if (call.window_query.data) {
        call.window_query.data = const_cast<char *>(element(eviction.choice.window_query, place, 0, 0));
        call.window_query.extent[0] = 1;
      } else if (call.measure) {
        call.window_query = score::window_tensor(shape, sequence.score + layer * score::state_bytes(shape), 1);
      }
      if (eviction.last_query_only) {
        call.window_query.data = const_cast<char *>(element(call.window_query, 0, 0, call.window_query.extent[2] - 1));
        call.window_query.extent[2] = 1;
      }
      call.score = eviction.choice.score ? eviction.choice.score + place * shape.kv_heads * call.score_stride : nullptr;
      call.kept = scratch.kept;
      call.kept_stride = rows;
      call.lengths = scratch.lengths;
      void *choice = call.measure ? scratch.choice : nullptr;
      if (Device *device = cache.device) {
        run(*device, [&](const cuda::Backend &backend) { return evict_rows(backend, call, sequence.dense_rows, choice, device->stream); });
      } else {
        evict_rows(call, sequence.dense_rows, choice);
      }
      if (!fewer) continue;
      if (cache.device) {
        // What the lists say is not known here, but for the rows that the rule keeps whatever their scores are.
        tail = static_cast<int32_t>(std::min<int64_t>({tail, call.recent, rows - std::min<int64_t>(call.sinks, rows)}));
      } else {
        tail = common_tail(scratch.kept, shape.kv_heads, rows, sequence.dense_rows, std::min(tail, rows));
      }
      move_layer(cache, sequence, ends, {layer, scratch.kept, call.score, call.score_stride});
    }
    if (fewer) forget_evicted(cache, sequences[index], rows, tail);
  }
  if (!cache.device) leave_counters_zero(shape, workspace, used);
  settle(cache);
  return true;
}

bool keep(think_cache &cache, int32_t number, const int32_t *kept, int32_t rows) {
  const Shape &shape = cache.plan->shape;
  Sequence &sequence = cache.sequences[number];
  if (rows == sequence.dense_rows) return true;
  Needs needs{};
  needs.pages[kDense] = shared_pages(cache, sequence, rows);
  needs.pages[kScores] = needs_score_copy(cache, &number, 0, [](int32_t) { return true; });
  if (!reserve(cache, needs)) return false;
  end_step(cache);
  own_pages(cache, sequence, rows);
  own_score(cache, sequence);
  int32_t tail = std::min(rows, sequence.dense_rows - sequence.settled_rows);
  for (int32_t layer = 0; layer < cache.layers; ++layer) {
    const int32_t *kept_rows = kept + int64_t{layer} * shape.kv_heads * rows;
    tail = common_tail(kept_rows, shape.kv_heads, rows, sequence.dense_rows, tail);
    Lists lists(cache);
    const Ends ends = ends_of(lists, sequence, rows);
    const int32_t *own_lists = lists.add(kept_rows, int64_t{shape.kv_heads} * rows);
    lists.send();
    move_layer(cache, sequence, ends, {layer, own_lists, nullptr, 0});
  }
  forget_evicted(cache, number, rows, tail);
  settle(cache);
  return true;
}

}  // namespace think::cache
