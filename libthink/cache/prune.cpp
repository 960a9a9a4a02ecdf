// Dense rows become compact: by a prune, which finds a new basis for them, or by a fold, which uses the last one.
#include <algorithm>

#include "kernels/common/quantized.h"
#include "kernels/score/score.h"
#include "libthink/cache/cache.h"
#include "libthink/core/workspace.h"

namespace think::cache {
namespace {

// Rows behind the sinks that a fold leaves: what may still be rolled back is never folded.
int32_t kept_rows(const think_cache &cache) { return std::max(cache.prune.recent, cache.rollback); }

// `rows` rows behind the sinks are compact now, so their pages go. Rows are moved by whole pages: only the sinks that share a page with others are copied.
void forget_moved(think_cache &cache, Sequence &sequence, int32_t rows) {
  const int32_t sinks = cache.prune.sinks, first = sinks / kPageTokens, pages = rows / kPageTokens, partial = sinks % kPageTokens;
  if (partial > 0) {
    const Shape &shape = cache.plan->shape;
    const Pool &pool = cache.pools[kDense];
    const int64_t row_bytes[2] = {int64_t{shape.key_channels} * dtype_bytes(shape.cache_dtype), int64_t{shape.value_channels} * dtype_bytes(shape.cache_dtype)};
    own(cache, sequence, int64_t{sinks} + rows);
    for (int32_t layer = 0; layer < cache.layers; ++layer) {
      const Slab &slab = pool.slabs[layer];
      const char *from = slab.pages + sequence.pages[first] * slab.page_bytes;
      char *to = slab.pages + sequence.pages[first + pages] * slab.page_bytes;
      for (const int32_t side : {THINK_KEYS, THINK_VALUES}) {
        for (int32_t head = 0; head < shape.kv_heads; ++head) {
          const int64_t at = (side == THINK_KEYS ? 0 : slab.value_begin) + head * kPageTokens * row_bytes[side];
          std::memcpy(to + at, from + at, static_cast<size_t>(partial * row_bytes[side]));
        }
      }
    }
  }
  for (int32_t page = first; page < first + pages; ++page) drop_page(cache.pools[kDense], sequence.pages[page]);
  sequence.pages.erase(first, pages);
  sequence.dense_rows -= rows;
  sequence.settled_rows = std::max(0, sequence.settled_rows - rows);
}

// A copy of the page that takes the sinks, where forks share it.
void count_sinks_page(const think_cache &cache, const Sequence &sequence, int32_t rows, Needs &needs) {
  const int64_t row = int64_t{cache.prune.sinks} + rows;
  if (cache.prune.sinks % kPageTokens > 0 && shared(cache, sequence, row)) ++needs.pages[kDense];
}

// Is a side of so many rows smaller with a basis, in all layers together?
bool prunes(const think_cache &cache, int32_t side, int64_t rows) {
  pruning::Rule all{};
  for (int32_t layer = 0; layer < cache.layers; ++layer) {
    const pruning::Rule rule = prune_rule(cache.plan->shape, cache.prune, side, stored_dtype(cache, layer, side));
    all = {rule.asked, all.basis_bytes + rule.basis_bytes, all.tile_bytes + rule.tile_bytes, all.dense_tile_bytes + rule.dense_tile_bytes, rule.limit};
  }
  return pruning::prunes(all, rows);
}

void add_pages(think_cache &cache, Run &run, int32_t rows) {
  for (int32_t page = 0; page < rows / kPageTokens; ++page) run.pages.push(take_page(cache.pools[run.kind]));
}

}  // namespace

bool reserve(think_cache &cache, const Needs &needs) {
  for (int32_t kind = 0; kind < kKinds; ++kind) {
    if (!reserve_pages(cache.memory, cache.pools[kind], needs.pages[kind])) return false;
    if (!reserve_slots(cache.memory, cache.plan->shape, cache.pools[kind], needs.slots[kind])) return false;
  }
  return true;
}

Move plan_prune(const think_cache &cache, const Sequence &sequence, int32_t recent) {
  const Shape &shape = cache.plan->shape;
  Move move{0, 0, cache.prune};
  move.options.recent = recent;
  const PruneRange range = prune_range(sequence.dense_rows, cache.prune.sinks, recent);
  // A side that stays dense needs no basis and says so by keeping all.
  if (prunes(cache, THINK_KEYS, range.count)) {
    move.kind |= kKeyBasis;
  } else {
    move.options.key_kept = shape.key_channels;
  }
  if (prunes(cache, THINK_VALUES, range.count)) {
    move.kind |= kValueBasis;
  } else {
    move.options.value_kept = shape.value_channels;
  }
  move.options.dense_limit = -1;  // no layer decides again
  move.rows = move.kind >= least_kind(cache) ? static_cast<int32_t>(range.count) : 0;
  return move;
}

bool prepare_prune(think_cache &cache, Sequence &sequence, const Move &move, Needs &needs) {
  if (move.rows == 0) return true;
  needs.pages[move.kind] += move.rows / kPageTokens;
  needs.slots[move.kind] += cache.pools[move.kind].slot_bytes > 0;
  count_sinks_page(cache, sequence, move.rows, needs);
  return reserve(cache.memory, sequence.runs[sequence.run_count].pages, move.rows / kPageTokens);
}

void prune(think_cache &cache, Sequence &sequence, const Move &move, void *workspace) {
  if (move.rows == 0) return;
  const Shape &shape = cache.plan->shape;
  Run &run = sequence.runs[sequence.run_count++];
  run.kind = move.kind;
  run.slot = take_slot(cache.pools[move.kind]);
  run.folds = 0;
  add_pages(cache, run, move.rows);
  run.rows = move.rows;
  for (int32_t layer = 0; layer < cache.layers; ++layer) {
    PruneCall call{};
    call.shape = shape;
    call.isa = cache.plan->isa;
    call.parallel = cache.plan->parallel;
    call.score_state = sequence.score + layer * score::state_bytes(shape);
    call.source = dense_segment(cache, layer, sequence);
    call.destination = compact_segment(cache, layer, run);
    call.batch = kOneSequence;
    call.options = move.options;
    think::prune(call, workspace);
  }
  leave_counters_zero(shape, workspace, prune_workspace(shape, 1, sequence.dense_rows, cache.plan->parallel.threads));
  forget_moved(cache, sequence, move.rows);
  const bool again = cache.refit > 0 || (cache.flags & THINK_CACHE_KEEP_SCORES);
  if (!again || sequence.run_count == THINK_CACHE_MAX_RUNS) drop_score(cache, sequence);
}

bool prune_all(think_cache &cache, const int32_t *sequences, int32_t count, void *workspace) {
  Needs needs{};
  for (int32_t index = 0; index < count; ++index) {
    Sequence &sequence = cache.sequences[sequences[index]];
    if (!prepare_prune(cache, sequence, plan_prune(cache, sequence, cache.prune.recent), needs)) return false;
  }
  if (!reserve(cache, needs)) return false;
  end_step(cache);
  for (int32_t index = 0; index < count; ++index) {
    Sequence &sequence = cache.sequences[sequences[index]];
    prune(cache, sequence, plan_prune(cache, sequence, cache.prune.recent), workspace);
  }
  settle(cache);
  return true;
}

Fold plan_fold(const think_cache &cache, const Sequence &sequence) {
  Fold fold{};
  if (cache.fold != THINK_FOLD_BLOCK || sequence.run_count == 0) return fold;
  const int32_t kept = kept_rows(cache), spare = sequence.dense_rows - cache.prune.sinks - kept;
  fold.tiles = spare > 0 ? spare / kTileTokens : 0;
  const Run &last = sequence.runs[sequence.run_count - 1];
  const bool again = cache.refit > 0 && last.folds >= cache.refit && sequence.run_count < THINK_CACHE_MAX_RUNS && sequence.score && last.kind != 0;
  if (!again || fold.tiles == 0) return fold;
  if (fold.tiles < cache.refit) return {};  // held back until there are enough rows to fit to
  fold.refit = plan_prune(cache, sequence, kept);
  // A basis that costs more than it saves: the last one goes on.
  if (fold.refit.kind != last.kind) fold.refit.rows = 0;
  if (fold.refit.rows > 0) fold.tiles = 0;
  return fold;
}

bool prepare_fold(think_cache &cache, Sequence &sequence, const Fold &fold, Needs &needs) {
  if (fold.refit.rows > 0) return prepare_prune(cache, sequence, fold.refit, needs);
  if (fold.tiles == 0) return true;
  Run &run = sequence.runs[sequence.run_count - 1];
  needs.pages[run.kind] += fold.tiles;
  count_sinks_page(cache, sequence, fold.tiles * kTileTokens, needs);
  return reserve(cache.memory, run.pages, int64_t{run.pages.size} + fold.tiles);
}

void fold(think_cache &cache, Sequence &sequence, const Fold &fold, void *workspace) {
  if (fold.refit.rows > 0) prune(cache, sequence, fold.refit, workspace);
  if (fold.tiles == 0) return;
  Run &run = sequence.runs[sequence.run_count - 1];
  const int32_t rows = fold.tiles * kTileTokens, first = cache.prune.sinks;
  add_pages(cache, run, rows);
  for (int32_t layer = 0; layer < cache.layers; ++layer) {
    compact::Arguments move{};
    move.shape = cache.plan->shape;
    move.source = dense_segment(cache, layer, sequence.pages.data, sequence.pages.size, &first, &rows);
    move.destination = compact_segment(cache, layer, run.kind, run.pages.data, run.pages.size, &run.rows, &rows, &run.slot);
    move.batch = kOneSequence;
    compact::compact(cache.plan->isa, move, cache.plan->parallel, {0, 1});
  }
  run.rows += rows;
  // The time for another fit starts again where the last one was not worth it.
  run.folds = cache.refit > 0 && run.folds >= cache.refit ? 0 : run.folds + fold.tiles;
  forget_moved(cache, sequence, rows);
}

}  // namespace think::cache
