// Dense rows become compact: by a prune, which finds a new basis for them, or by a fold, which uses the last one.
#include <algorithm>

#include "kernels/common/quantized.h"
#include "kernels/compact/compact.h"
#include "kernels/score/score.h"
#include "libthink/cache/cache.h"
#include "libthink/core/workspace.h"

namespace think::cache {
namespace {

// Rows behind the sinks that a fold leaves: what may still be rolled back is never folded.
int32_t kept_rows(const think_cache &cache) { return std::max(cache.prune.recent, cache.rollback); }

// Rows behind the sinks move by whole pages, so sinks that share a page with some of them go into the page behind.
int32_t sinks_aside(const think_cache &cache) { return cache.prune.sinks % kPageTokens; }
int32_t sinks_page(const think_cache &cache) { return cache.prune.sinks / kPageTokens; }

// That page becomes the sequence's own, before anything moves.
void own_sinks_page(think_cache &cache, Sequence &sequence, int32_t rows) {
  if (sinks_aside(cache) > 0) own(cache, sequence, int64_t{cache.prune.sinks} + rows);
}

// From and to: one page for each of some sequences, and how many rows.
struct Sinks {
  Rows from, to;
};

void move_sinks(think_cache &cache, int32_t layer, const Sinks &sinks, int32_t sequences) {
  if (sinks_aside(cache) == 0) return;
  move_rows(cache, dense_segment(cache, layer, sinks.from), dense_segment(cache, layer, sinks.to), sequences, sinks_aside(cache));
}

// `rows` rows behind the sinks are compact now, so their pages go.
void forget_moved(think_cache &cache, Sequence &sequence, int32_t rows) {
  const int32_t first = sinks_page(cache), pages = rows / kPageTokens;
  for (int32_t page = first; page < first + pages; ++page) drop_page(cache.pools[kDense], sequence.pages[page]);
  sequence.pages.erase(first, pages);
  sequence.dense_rows -= rows;
  sequence.settled_rows = std::max(0, sequence.settled_rows - rows);
}

// A copy of the page that takes the sinks, where forks share it.
void count_sinks_page(const think_cache &cache, const Sequence &sequence, int32_t rows, Needs &needs) {
  if (sinks_aside(cache) > 0 && shared(cache, sequence, int64_t{cache.prune.sinks} + rows)) ++needs.pages[kDense];
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

void move_rows(const think_cache &cache, const think_segment &source, const think_segment &destination, int32_t sequences, int64_t longest) {
  compact::Arguments move{};
  move.shape = cache.plan->shape;
  move.source = source;
  move.destination = destination;
  move.batch = {sequences, nullptr, nullptr, nullptr};
  if (Device *device = cache.device) {
    run(*device, [&](const cuda::Backend &backend) { return backend.compact(move, longest, device->stream); });
  } else {
    compact::compact(cache.plan->isa, move, cache.plan->parallel, {0, 1});
  }
}

bool reserve(think_cache &cache, const Needs &needs) {
  bool fits = true;
  for (int32_t kind = 0; kind < kKinds; ++kind) {
    fits = fits && reserve_pages(cache.memory, cache.pools[kind], needs.pages[kind]);
    fits = fits && (cache.device || reserve_slots(cache.memory, cache.plan->shape, cache.pools[kind], needs.slots[kind]));
  }
  if (!cache.device) return fits;
  fits = fits && reserve_pages(cache.memory, cache.pools[kScores], needs.pages[kScores]);
  int64_t slots = 0;
  for (const int64_t more : needs.slots) slots += more;
  if (fits && reserve_slots(cache.memory, cache.plan->shape, cache.device->bases, slots)) return true;
  for (Pool &pool : cache.pools) give_back_reserved(pool);
  return false;
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
  needs.slots[move.kind] += has_slots(cache, move.kind);
  count_sinks_page(cache, sequence, move.rows, needs);
  return reserve(cache.memory, sequence.runs[sequence.run_count].pages, move.rows / kPageTokens);
}

int64_t prune_workspace(const think_cache &cache, int64_t rows) {
  const Shape &shape = cache.plan->shape;
  if (cache.device) return prune_workspace(*cache.device->backend, shape, 1, rows);
  return prune_workspace(shape, 1, rows, cache.plan->parallel.threads);
}

void prune(think_cache &cache, Sequence &sequence, const Move &move, void *workspace) {
  if (move.rows == 0) return;
  const Shape &shape = cache.plan->shape;
  Run &run = sequence.runs[sequence.run_count++];
  run.kind = move.kind;
  run.slot = take_slot(cache, move.kind);
  run.folds = 0;
  add_pages(cache, run, move.rows);
  run.rows = move.rows;
  own_sinks_page(cache, sequence, move.rows);
  Lists lists(cache);
  const Rows source = dense_rows(lists, sequence), destination = compact_rows(lists, run);
  const int32_t aside = sinks_aside(cache), *pages = sequence.pages.data + sinks_page(cache);
  Sinks sinks{};
  if (aside > 0) {
    const int32_t *asides = lists.add(&aside, 1);
    sinks = {{lists.add(pages, 1), 1, nullptr, asides, nullptr}, {lists.add(pages + move.rows / kPageTokens, 1), 1, nullptr, asides, nullptr}};
  }
  lists.send();
  for (int32_t layer = 0; layer < cache.layers; ++layer) {
    PruneCall call{};
    call.shape = shape;
    call.isa = cache.plan->isa;
    call.parallel = cache.plan->parallel;
    call.score_state = sequence.score + layer * score::state_bytes(shape);
    call.source = dense_segment(cache, layer, source);
    call.destination = compact_segment(cache, layer, run.kind, destination);
    call.batch = kOneSequence;
    call.options = move.options;
    if (Device *device = cache.device) {
      cache::run(*device, [&](const cuda::Backend &backend) { return think::prune(backend, call, sequence.dense_rows, workspace, device->stream); });
    } else {
      think::prune(call, workspace);
    }
    move_sinks(cache, layer, sinks, 1);
  }
  if (!cache.device) leave_counters_zero(shape, workspace, prune_workspace(cache, sequence.dense_rows));
  forget_moved(cache, sequence, move.rows);
  if (!prunes_again(cache.flags, cache.refit) || sequence.run_count == THINK_CACHE_MAX_RUNS) drop_score(cache, sequence);
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

namespace {

// Sequences that fold into runs of one kind are folded together: what their lists take.
int64_t fold_numbers(const think_cache &cache, int32_t sequences, int32_t tiles) {
  return int64_t{sequences} * (2 * tiles + (sinks_aside(cache) > 0) + 6);
}

struct Folding {
  int32_t kind, sequences, tiles;  // tiles: the most
};

// What has been gathered in cache.gathered: numbers of sequences, each with its tiles.
void fold_gathered(think_cache &cache, const Folding &folding) {
  const int32_t count = folding.sequences, stride = folding.tiles + (sinks_aside(cache) > 0);
  Array<int32_t> &numbers = cache.gathered;
  const int32_t begin = 2 * count, *gathered = numbers.data;
  const auto take = [&](int64_t size) {
    int32_t *at = numbers.data + numbers.size;
    std::fill_n(at, size, 0);
    numbers.size += static_cast<int32_t>(size);
    return at;
  };
  numbers.size = begin;
  int32_t *from = take(int64_t{count} * stride), *to = take(int64_t{count} * folding.tiles), *first = take(count), *lengths = take(count), *slot = take(count);
  int32_t *sinks_from = take(count), *sinks_to = take(count), *asides = take(count);
  for (int32_t index = 0; index < count; ++index) {
    Sequence &sequence = cache.sequences[gathered[2 * index]];
    const int32_t tiles = gathered[2 * index + 1], rows = tiles * kTileTokens;
    Run &run = sequence.runs[sequence.run_count - 1];
    own_sinks_page(cache, sequence, rows);
    add_pages(cache, run, rows);
    const int32_t *pages = sequence.pages.data + sinks_page(cache);
    std::copy_n(pages, tiles + (sinks_aside(cache) > 0), from + index * stride);
    std::copy_n(run.pages.data + run.pages.size - tiles, tiles, to + index * folding.tiles);
    first[index] = asides[index] = sinks_aside(cache);
    lengths[index] = rows;
    slot[index] = run.slot;
    if (sinks_aside(cache) == 0) continue;
    sinks_from[index] = pages[0];
    sinks_to[index] = pages[tiles];
  }
  Lists lists(cache);
  const int32_t *all = lists.add(from, numbers.data + numbers.size - from);
  const auto there = [&](const int32_t *list) { return all + (list - from); };
  lists.send();
  const Rows source{there(from), stride, there(first), there(lengths), nullptr}, destination{there(to), folding.tiles, nullptr, there(lengths), there(slot)};
  const Sinks sinks{{there(sinks_from), 1, nullptr, there(asides), nullptr}, {there(sinks_to), 1, nullptr, there(asides), nullptr}};
  for (int32_t layer = 0; layer < cache.layers; ++layer) {
    const think_segment target = compact_segment(cache, layer, folding.kind, destination);
    move_rows(cache, dense_segment(cache, layer, source), target, count, int64_t{folding.tiles} * kTileTokens);
    move_sinks(cache, layer, sinks, count);
  }
  for (int32_t index = 0; index < count; ++index) {
    Sequence &sequence = cache.sequences[gathered[2 * index]];
    const int32_t tiles = gathered[2 * index + 1];
    Run &run = sequence.runs[sequence.run_count - 1];
    run.rows += tiles * kTileTokens;
    // The time for another fit starts again where the last one was not worth it.
    run.folds = cache.refit > 0 && run.folds >= cache.refit ? 0 : run.folds + tiles;
    forget_moved(cache, sequence, tiles * kTileTokens);
  }
  numbers.size = 0;
}

}  // namespace

void fold_all(think_cache &cache, const int32_t *sequences, int32_t count, void *workspace) {
  for (int32_t index = 0; index < count; ++index) {
    Sequence &sequence = cache.sequences[sequences[index]];
    prune(cache, sequence, plan_fold(cache, sequence).refit, workspace);
  }
  for (int32_t kind = 0; kind < kDense; ++kind) {
    Folding folding{kind, 0, 0};
    for (int32_t index = 0; index < count; ++index) {
      const Sequence &sequence = cache.sequences[sequences[index]];
      const int32_t tiles = plan_fold(cache, sequence).tiles;
      if (tiles == 0 || sequence.runs[sequence.run_count - 1].kind != kind) continue;
      const int32_t most = std::max(tiles, folding.tiles);
      if (cache.device && folding.sequences > 0 && fold_numbers(cache, folding.sequences + 1, most) > cache.device->call_numbers) {
        fold_gathered(cache, folding);
        folding = {kind, 0, 0};
      }
      cache.gathered.push(sequences[index]);
      cache.gathered.push(tiles);
      folding = {kind, folding.sequences + 1, std::max(tiles, folding.tiles)};
    }
    if (folding.sequences > 0) fold_gathered(cache, folding);
  }
}

bool prepare_folds(think_cache &cache, const int32_t *sequences, int32_t count) {
  int32_t folding = 0, most = 0;
  for (int32_t index = 0; index < count; ++index) {
    const int32_t tiles = plan_fold(cache, cache.sequences[sequences[index]]).tiles;
    folding += tiles > 0;
    most = std::max(most, tiles);
  }
  return reserve(cache.memory, cache.gathered, 2 * folding + fold_numbers(cache, folding, most));
}

}  // namespace think::cache
