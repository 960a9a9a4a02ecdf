// The cache behind the opaque handle: sequences, their pages, and the step that is going on. Functions here trust their arguments; those that return false
// had no memory, and have then changed no sequence.
#pragma once

#include <memory>

#include "kernels/common/workspace.h"
#include "libthink/cache/device.h"
#include "libthink/core/evict.h"
#include "libthink/core/prune.h"
#include "think/cache.h"

namespace think::cache {

// Kinds of pages: compact ones by the sides that have a basis (quantized rows may have none), and dense ones.
constexpr int32_t kKeyBasis = 1, kValueBasis = 2, kDense = 4, kKinds = 5;
constexpr int32_t kScores = kKinds, kPools = kKinds + 1;  // on a device a score state is a page as well
constexpr int32_t kPageTokens = kTileTokens;
constexpr int64_t kScorePiece = 2048;  // tokens of one update of a score state

struct Run {
  int32_t kind, slot;
  int32_t rows;   // whole tiles
  int32_t folds;  // since the prune that began it
  Array<int32_t> pages;
};

struct Sequence {
  int32_t dense_rows;    // sinks, then what is recent
  int32_t settled_rows;  // of them, the first ones that no trim can reach, as heads have kept different tokens there
  int32_t evicted;       // tokens that are gone, as far as that number can count
  Array<int32_t> pages;
  Run runs[THINK_CACHE_MAX_RUNS];
  int32_t run_count;
  char *score;  // [layers]; NULL = not kept. On a device a page of kScores
};

// A segment of the step, all its sequences: places in `tables`.
struct StepSegment {
  int32_t kind;
  int64_t first, lengths, slots, pages;  // first: dense rows before the step
  int64_t stride;
};

struct Step {
  int32_t count;  // 0 = none, or sequences have changed since
  int32_t missing;  // layers that are not appended
  bool scores;      // some sequence keeps them
  int64_t total;    // new tokens
  int32_t longest;
  int32_t segment_count;
  StepSegment segments[THINK_MAX_SEGMENTS];  // the dense one is the last
  int64_t sequence, new_tokens, row_start;   // places in `tables`
  Array<int32_t> tables;
  Array<uint8_t> appended;  // [layers]
};

}  // namespace think::cache

struct think_cache {
  const think_plan *plan;
  think::cache::Memory memory;
  int32_t layers, fold, refit;
  int32_t rollback;  // rows; 0 = none
  uint32_t flags;
  think::PruneOptions prune;
  think::cache::Array<think_format> formats;  // [layers]
  think::cache::Pool pools[think::cache::kPools];
  think::cache::Array<think::cache::Sequence> sequences;
  think::cache::Step step;
  think::cache::Array<int32_t> gathered;  // numbers of sequences that work is done for together
  think::cache::Device *device;  // NULL: the CPU
};

namespace think::cache {

struct Options {
  int32_t layers, sequences, fold, refit, rollback;
  uint32_t flags;
  int64_t reserve_tokens, limit_bytes;
  PruneOptions prune;
  think_format format;
  const think_format *layer_formats;  // the caller's array, checked; NULL = format
  void *slab;                         // NULL: memory of the host
  int64_t slab_bytes;
  int32_t bases, scored;
  int32_t *device_error;  // receives what the device said, where it is the reason why there is no cache
};

// ---- life.cpp ----
think_cache *make(const think_plan &plan, const Options &options);  // NULL: no memory, or see Options::device_error
// What a slab holds at the same time. The cache may be one without a slab.
struct SlabContents {
  int64_t dense_tokens, compact_tokens;
  int32_t bases, scored;
};
int64_t slab_bytes(const think_cache &cache, const SlabContents &contents);
void destroy(think_cache &cache);
// One that is gone at the end of a call.
struct Destroy {
  void operator()(think_cache *cache) const { destroy(*cache); }
};
using Holder = std::unique_ptr<think_cache, Destroy>;

// The pool that has the bases of a run of this kind: on a device one for all.
static inline Pool &bases_of(think_cache &cache, int32_t kind) { return cache.device ? cache.device->bases : cache.pools[kind]; }
static inline const Pool &bases_of(const think_cache &cache, int32_t kind) { return cache.device ? cache.device->bases : cache.pools[kind]; }
static inline bool has_slots(const think_cache &cache, int32_t kind) { return cache.pools[kind].slot_bytes > 0; }
static inline int32_t take_slot(think_cache &cache, int32_t kind) { return has_slots(cache, kind) ? take_slot(bases_of(cache, kind)) : 0; }

int64_t compact_tokens(const Sequence &sequence);
static inline int64_t tokens_of(const Sequence &sequence) { return compact_tokens(sequence) + sequence.dense_rows; }
// Do sequences keep scores behind their first prune?
constexpr bool prunes_again(uint32_t flags, int32_t refit) { return refit > 0 || (flags & THINK_CACHE_KEEP_SCORES); }
static inline bool keeps_scores(const think_cache &cache) { return !(cache.flags & THINK_CACHE_NO_SCORES); }
static inline int32_t page_count(int64_t rows) { return static_cast<int32_t>((rows + kPageTokens - 1) / kPageTokens); }
int64_t workspace(const think_cache &cache);  // of any call
static inline think_dtype stored_dtype(const think_cache &cache, int32_t layer, int32_t side) {
  return side == THINK_KEYS ? cache.formats[layer].key_dtype : cache.formats[layer].value_dtype;
}
int32_t least_kind(const think_cache &cache);  // of a run: where nothing is quantized, one side needs a basis
bool can_hold(const think_cache &cache, int32_t kind);  // a run of this kind
int64_t compact_side_bytes(const think_cache &cache, int32_t layer, int32_t side, bool pruned);  // of a page
think_cache_info usage(const think_cache &cache, int32_t sequence);

bool add_score(think_cache &cache, Sequence &sequence);  // on a device room for a page has been reserved
void own_score(think_cache &cache, Sequence &sequence);  // on a device forks share it until rows are added: room for a page has been reserved
int32_t score_users(const think_cache &cache, const Sequence &sequence);  // of one that there is, on a device
// Does the sequence at `index` need a copy, after those before it for which wants(index)? Of sequences that share one and all go on, the last does not.
template <class Wants>
bool needs_score_copy(const think_cache &cache, const int32_t *sequences, int32_t index, const Wants &wants) {
  const Sequence &sequence = cache.sequences[sequences[index]];
  if (!cache.device || !sequence.score || !wants(index)) return false;
  int32_t others = 0;
  for (int32_t before = 0; before < index; ++before) others += wants(before) && cache.sequences[sequences[before]].score == sequence.score;
  return others + 1 < score_users(cache, sequence);
}
char *score_page(const think_cache &cache, int32_t page);
int32_t score_page_number(const think_cache &cache, const Sequence &sequence);
void drop_score(think_cache &cache, Sequence &sequence);
bool fork(think_cache &cache, int32_t source, int32_t destination);
// Room for as many rows in as many runs as another sequence has, in one without tokens; what is in them is for the caller to write. False: it is empty.
bool imitate(think_cache &cache, int32_t sequence, const Sequence &like, bool scores);
void trim(think_cache &cache, int32_t sequence, int32_t dense_rows);
void drop(think_cache &cache, int32_t sequence);
void settle(think_cache &cache);  // free pages go back to the allocator

// The page that holds a dense row becomes this sequence's own; room for one more page has been reserved if others use it.
bool shared(const think_cache &cache, const Sequence &sequence, int64_t row);
void own(think_cache &cache, Sequence &sequence, int64_t row);

// Rows of some sequences: arrays for the stages, as in think_segment. They must outlive the segments that are made of them.
struct Rows {
  const int32_t *pages;
  int64_t stride;
  const int32_t *first, *lengths;
  const int32_t *slot;  // compact rows
};
think_segment dense_segment(const think_cache &cache, int32_t layer, const Rows &rows);
think_segment compact_segment(const think_cache &cache, int32_t layer, int32_t kind, const Rows &rows);
// All rows of one sequence, for stages on the CPU; and for a call: see Lists.
Rows dense_rows(const Sequence &sequence);
Rows compact_rows(const Run &run);
Rows dense_rows(Lists &lists, const Sequence &sequence);
Rows compact_rows(Lists &lists, const Run &run);

// ---- export.cpp: rows at full width; tensors: [1][kv_heads][count][channels of the side], NULL = not wanted ----
void export_rows(const think_cache &cache, int32_t sequence, int32_t layer, int64_t first, int64_t count, const think_tensor *key, const think_tensor *value);

// ---- prune.cpp: dense rows become compact ----
struct Needs {  // of pools
  int64_t pages[kPools], slots[kKinds];
};
bool reserve(think_cache &cache, const Needs &needs);
// The compact stage, for some sequences at once; no more than `longest` rows of one.
void move_rows(const think_cache &cache, const think_segment &source, const think_segment &destination, int32_t sequences, int64_t longest);

// What a prune of this sequence would do, leaving `recent` rows. Nothing is worth it: rows 0.
struct Move {
  int32_t rows, kind;
  PruneOptions options;
};
Move plan_prune(const think_cache &cache, const Sequence &sequence, int32_t recent);
bool prepare_prune(think_cache &cache, Sequence &sequence, const Move &move, Needs &needs);  // room in its lists, and what it needs of the pools
void prune(think_cache &cache, Sequence &sequence, const Move &move, void *workspace);

bool prune_all(think_cache &cache, const int32_t *sequences, int32_t count, void *workspace);

// Blocks that a step folds with the last basis, or a prune where the time for another basis has come.
struct Fold {
  int32_t tiles;
  Move refit;  // rows 0 = no
};
Fold plan_fold(const think_cache &cache, const Sequence &sequence);
bool prepare_fold(think_cache &cache, Sequence &sequence, const Fold &fold, Needs &needs);
bool prepare_folds(think_cache &cache, const int32_t *sequences, int32_t count);  // room for the lists of all
void fold_all(think_cache &cache, const int32_t *sequences, int32_t count, void *workspace);  // by plan_fold() of each
int64_t prune_workspace(const think_cache &cache, int64_t rows);  // of one sequence

// ---- evict.cpp: whole rows go ----
struct Eviction {
  // What all sequences and layers have in common. score: [count][layers][kv_heads][score_stride] or NULL; window_query: [count * layers][query_heads]..., no data:
  // the windows of the score states.
  EvictCall choice;
  bool last_query_only;
};
int64_t evict_workspace(const think_cache &cache, int64_t rows);
bool evict_all(think_cache &cache, const int32_t *sequences, int32_t count, const Eviction &eviction, void *workspace);
bool keep(think_cache &cache, int32_t sequence, const int32_t *kept, int32_t rows);  // kept: [layers][kv_heads][rows]

// ---- step.cpp ----
// Numbers of a step's tables before the pages, on a device: new tokens, score slots and row starts of each sequence; then first rows, lengths and slots of each
// segment. The dense one is the first of them, so that no graph, whatever it was captured for, ever writes through a table of another kind.
constexpr int64_t step_head(int64_t batch, int32_t segments) { return 3 * batch + 1 + 3 * batch * segments; }
bool begin_step(think_cache &cache, const int32_t *sequences, const int32_t *new_tokens, int32_t count, void *workspace);
void end_step(think_cache &cache);    // what its segments say is no longer so
void abort_step(think_cache &cache);  // and if layers are missing, the new tokens of its sequences are taken back
struct Append {
  think_tensor query, key, value;
  bool scores;  // sequences of the step keep them, so there is a query
};
int64_t append_workspace(const think_cache &cache, int64_t longest);  // where scores are kept
void append(think_cache &cache, int32_t layer, const Append &rows, void *workspace);
int64_t graph_id(const Step &step);
Batch step_batch(const think_cache &cache, const think_tensor &tensor);
int32_t step_segments(const think_cache &cache, int32_t layer, think_segment *segments);
static inline bool is_packed(const think_cache &cache, const think_tensor &tensor) { return tensor.extent[0] == 1 && cache.step.count > 1; }

}  // namespace think::cache
