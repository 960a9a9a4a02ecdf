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
  scratch.choice = take<char>(carver, think::evict_workspace(shape, 1, rows));
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

void move_layer(think_cache &cache, Sequence &sequence, int32_t layer, const int32_t *kept, int32_t rows, float *score, int64_t score_stride) {
  const Shape &shape = cache.plan->shape;
  evict::Move move{};
  move.shape = shape;
  move.source = move.destination = dense_segment(cache, layer, sequence);
  move.destination.lengths = &rows;
  move.batch = kOneSequence;
  move.kept = kept;
  move.kept_stride = rows;
  move.score = score;
  move.score_stride = score_stride;
  evict::move_rows(move, rows, cache.plan->parallel);
  if (!sequence.score) return;
  score::sum_again(cache.plan->isa, shape, move.destination, sequence.score + layer * score::state_bytes(shape), cache.plan->parallel);
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
    if (sequence.dense_rows > eviction.choice.budget) needs.pages[kDense] += shared_pages(cache, sequence, eviction.choice.budget);
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
    if (fewer) own_pages(cache, sequence, rows);
    // Where all rows stay, only the caller's scores can want a mass.
    const bool wanted = fewer || (eviction.choice.measure && eviction.choice.score);
    int32_t tail = sequence.dense_rows - sequence.settled_rows;
    for (int32_t layer = 0; wanted && sequence.dense_rows > 0 && layer < cache.layers; ++layer) {
      const int64_t place = int64_t{index} * cache.layers + layer;
      EvictCall call = eviction.choice;
      call.source = dense_segment(cache, layer, sequence);
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
      evict_rows(call, sequence.dense_rows, call.measure ? scratch.choice : nullptr);
      if (!fewer) continue;
      tail = common_tail(scratch.kept, shape.kv_heads, rows, sequence.dense_rows, std::min(tail, rows));
      move_layer(cache, sequence, layer, scratch.kept, rows, call.score, call.score_stride);
    }
    if (fewer) forget_evicted(cache, sequences[index], rows, tail);
  }
  leave_counters_zero(shape, workspace, used);
  settle(cache);
  return true;
}

bool keep(think_cache &cache, int32_t number, const int32_t *kept, int32_t rows) {
  const Shape &shape = cache.plan->shape;
  Sequence &sequence = cache.sequences[number];
  if (rows == sequence.dense_rows) return true;
  Needs needs{};
  needs.pages[kDense] = shared_pages(cache, sequence, rows);
  if (!reserve(cache, needs)) return false;
  end_step(cache);
  own_pages(cache, sequence, rows);
  int32_t tail = std::min(rows, sequence.dense_rows - sequence.settled_rows);
  for (int32_t layer = 0; layer < cache.layers; ++layer) {
    const int32_t *lists = kept + int64_t{layer} * shape.kv_heads * rows;
    tail = common_tail(lists, shape.kv_heads, rows, sequence.dense_rows, tail);
    move_layer(cache, sequence, layer, lists, rows, nullptr, 0);
  }
  forget_evicted(cache, number, rows, tail);
  settle(cache);
  return true;
}

}  // namespace think::cache
