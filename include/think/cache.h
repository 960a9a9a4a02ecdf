/**
 * @file think/cache.h
 * @brief The managed cache: all layers of many sequences, dense rows and compact ones, in pages that the library allocates and counts.
 *
 * Life of a sequence:  for every engine step  think_cache_step() once, then for every layer think_cache_append() and think_cache_attend() for the whole
 * batch;  after the prefill think_cache_evict() and think_cache_prune();  at its end think_cache_drop().
 *
 * A sequence is, in the order of its tokens: sinks (dense), compact runs (one for each prune that moved rows), recent rows (dense). Compact pages and their
 * bases are shared by forks until the last of them is gone; a dense page is copied before one of those who share it writes to it.
 *
 * Positions: the cache stores keys as they are given, rotary embedding included, and never looks at positions. Evicted tokens leave no gaps between rows, so
 * the position of a new token is the caller's to count: it goes on from the text (tokens + evicted_tokens of think_cache_usage()), not from the rows held.
 */
#ifndef THINK_CACHE_H
#define THINK_CACHE_H

#include "evict.h"
#include "prune.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * A cache. One thread at a time, but for the slices of one think_cache_attend(); any number of caches may work on one plan at the same time. Destroy it
 * before its plan.
 *
 * With a CUDA plan its rows, bases and scores lie in a slab of device memory that the caller gives (think_cache_slab_size()), and nothing in it ever moves.
 * Calls launch their work into the stream of their think_launch; without one (NULL, or a call that takes none) into the stream of the last call that had one.
 * Use one stream, or order the streams yourself; the slab must stay until the stream has come past the last call. The host reads nothing back, but in
 * think_cache_save() and think_cache_load(), which wait. After THINK_E_DEVICE the sequences of the call are undefined: drop them. A step that fails so is over.
 *
 * think_cache_append() and think_cache_attend() can be captured in a CUDA graph: what changes from step to step is in tables of the slab, which
 * think_cache_step() writes. A graph that holds them for every layer may be launched after any later step with the same think_cache_graph_id(), which is to be
 * compared before; then think_cache_replayed() tells the cache. A graph also holds the caller's tensors: a later step has its rows in the same places, packed
 * if the first was packed.
 */
typedef struct think_cache think_cache;

/** What becomes of dense rows that are older than the recent ones, once a sequence has been pruned. */
#define THINK_FOLD_NEVER 0 /* they stay dense */
#define THINK_FOLD_BLOCK 1 /* blocks of 32 are folded into tiles with the basis of the last prune, by think_cache_step() */

/** Most compact runs of a sequence: how often it can be pruned, re-fitting included. */
#define THINK_CACHE_MAX_RUNS 3

/** No score states: saves their memory and the queries of append. think_cache_prune() is then THINK_E_STATE. */
#define THINK_CACHE_NO_SCORES 1u
/** Keep the score state of a sequence that was pruned, so that it can be pruned again (a later turn). Implied by refit. */
#define THINK_CACHE_KEEP_SCORES 2u

/** Options of think_cache_create(). */
typedef struct think_cache_options {
  uint32_t struct_size;   /* sizeof(think_cache_options) */
  uint32_t flags;         /* THINK_CACHE_... */
  int32_t layers;         /* 0 = 1 */
  int32_t sequences;      /* they are called 0 .. sequences - 1; 0 = the plan's max_batch */
  int32_t fold;           /* THINK_FOLD_... */
  int32_t refit;          /* after so many folds, the next so many blocks are held back, and a new basis is fitted to them: 0 = never. Uses up a run */
  int32_t rollback;       /* newest dense rows, the recent ones among them, that folds leave for think_cache_trim(): 0 = max_queries, -1 = only recent ones */
  int32_t reserved;       /* 0 */
  int64_t reserve_tokens; /* CPU: dense rows, of all sequences together, that have memory from the start and for ever: 0 = none. CUDA: 0 */
  int64_t limit_bytes;    /* CPU: the cache never has more than this, not even for a moment: 0 = no limit. CUDA: 0, the slab is the limit */
  const think_prune_options *prune; /* mode, budgets, sinks, recent rows; NULL = defaults */
  const think_format *format;       /* of compact rows; NULL = defaults. Dense rows are the plan's cache_dtype */
  const think_format *layer_formats; /* [layers] in place of format, for first and last layers that need more bits, say; NULL = format in every layer. The
                                        step of the array is the first element's struct_size */
  void *slab;         /* CUDA: device memory that the cache lives in, a multiple of 256; the caller's before and after. CPU: NULL */
  int64_t slab_bytes; /* CUDA: of it, see think_cache_slab_size(). CPU: 0 */
  int32_t bases;      /* CUDA: how many runs of all sequences together the slab has room for the bases of: 0 = one for each sequence, or
                         THINK_CACHE_MAX_RUNS for each where one can be pruned again (refit, THINK_CACHE_KEEP_SCORES). CPU: 0 */
  int32_t scored;     /* CUDA: how many sequences at the same time the slab has room for the scores of, from their first token to their prune: 0 = max_batch
                         of the plan, or all sequences where they keep scores for longer. CPU: 0 */
} think_cache_options;

#define THINK_CACHE_OPTIONS_INIT {(uint32_t)sizeof(think_cache_options), 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, 0, 0, 0}

/** What a cache, or one sequence of it, holds. Bytes are of all layers. */
typedef struct think_cache_info {
  uint32_t struct_size;    /* sizeof(think_cache_info) */
  uint32_t flags;          /* 0 */
  int64_t tokens;          /* rows that the sequence holds; of the cache: of all sequences, forks counted each */
  int64_t compact_tokens;  /* of them in compact runs */
  int64_t dense_bytes;     /* what the tokens, evicted ones too, would take as dense rows of cache_dtype, without any slack */
  int64_t page_bytes;      /* pages that hold rows, whole; of the cache: shared ones once */
  int64_t basis_bytes;     /* bases and head offsets; shared ones once */
  int64_t score_bytes;     /* score states */
  int64_t table_bytes;     /* of the cache: the handle, page tables and counts */
  int64_t spare_bytes;     /* of the cache: allocated for pages and bases (CUDA: and scores), but free */
  int64_t allocated_bytes; /* the sum of the five; of the cache: what the context's allocator gave and has not got back (CUDA: with the slab and page-locked
                              memory of the host, through which tables reach the device) */
  int32_t key_channels;    /* of a sequence: key channels that all KV heads of a layer keep together in its last run; all of them if it has none */
  int32_t value_channels;  /* the same for values */
  int32_t runs;            /* of a sequence: compact runs */
  int32_t sequences;       /* of the cache: sequences that hold tokens */
  int64_t evicted_tokens;  /* that the sequence has been given and no longer holds: think_cache_evict(), think_cache_keep() */
} think_cache_info;

#define THINK_CACHE_INFO_INIT {(uint32_t)sizeof(think_cache_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

/** THINK_CACHE_OPTIONS_INIT as a function. NULL is ignored. @since 0.11 */
THINK_API void think_cache_options_init(think_cache_options *options, uint32_t struct_size);
/** THINK_CACHE_INFO_INIT as a function. NULL is ignored. @since 0.11 */
THINK_API void think_cache_info_init(think_cache_info *info, uint32_t struct_size);

/**
 * Bytes of a slab in which a cache with these options has room for so much at the same time: what it always needs (bases and scores among it), whole pages of
 * 32 tokens, and what is lost where dense and compact pages meet. Where some sequences are too short for one of the two sides, their compact pages are of
 * another size, and more is lost. A host that gives the cache all the memory it has need not ask.
 * @param plan            a CUDA plan
 * @param options         slab and slab_bytes are not looked at; NULL = defaults
 * @param dense_tokens    rows of all sequences together that are dense: sinks, recent ones, those of sequences that have not been pruned; of each sequence in
 *                        steps of 32
 * @param compact_tokens  rows of all sequences together in compact runs, both sides pruned if both have a width
 * @param bytes           receives the size
 * @return THINK_E_ARGUMENT; THINK_E_UNSUPPORTED for a CPU plan; THINK_E_MEMORY
 * @since 0.11
 */
THINK_API think_status think_cache_slab_size(const think_plan *plan, const think_cache_options *options, int64_t dense_tokens, int64_t compact_tokens, int64_t *bytes, think_error *error);

/**
 * Make an empty cache. On the CPU all its memory comes from the context's allocator, in think_cache_create(), _step(), _evict(), _keep(), _prune(), _fork(),
 * _load(), and goes back there when pages become free (_evict(), _keep(), _prune(), _trim(), _drop(), _reset(): what is left may move into a smaller block,
 * which is allocated first; where that fails, the larger one stays), all of it in _destroy(). When an allocation fails in a call, THINK_E_MEMORY, all
 * sequences are as they were before; pages that were already added stay in the pool. With a CUDA plan pages, bases and scores come from options->slab, and what
 * does not fit is THINK_E_MEMORY as well; lists of the host still come from the allocator.
 * @param plan     of one layer; it must outlive the cache. max_batch, max_queries and max_tokens hold for the cache
 * @param options  NULL = defaults (CUDA: a slab is needed)
 * @param cache    receives the cache; destroy it with think_cache_destroy()
 * @return THINK_E_ARGUMENT, THINK_E_UNSUPPORTED (dense rows or formats that CUDA attention does not take), THINK_E_MEMORY, THINK_E_DEVICE
 * @since 0.11
 */
THINK_API think_status think_cache_create(const think_plan *plan, const think_cache_options *options, think_cache **cache, think_error *error);

/**
 * Destroy a cache and give all its memory back. NULL is ignored.
 * @since 0.11
 */
THINK_API void think_cache_destroy(think_cache *cache);

/**
 * Workspace that serves every call on this cache. Its rules are those of think_launch.
 * @param bytes      receives the size
 * @param alignment  receives the alignment; may be NULL
 * @since 0.11
 */
THINK_API think_status think_cache_workspace_size(const think_cache *cache, int64_t *bytes, int64_t *alignment, think_error *error);

/**
 * Begin an engine step: which sequences get how many new tokens. Makes room for their rows, and folds blocks that are older than the recent rows
 * (THINK_FOLD_BLOCK: while recent or rollback rows are left, whichever is more). The new rows are not counted and never folded in their own step: whatever
 * rollback is, all tokens of the last step can be forgotten again (rejected drafts), and with it so many older ones. Afterwards every layer is to be
 * appended once, in any order; until then only append, attend, usage, segments, export_dense, drop and reset are allowed. Cannot be captured in a graph.
 * @param sequences   [count] different numbers of sequences; one without tokens begins anew
 * @param new_tokens  [count] each at least 0, and no more than max_tokens together with what the sequence holds
 * @param count       1 .. max_batch
 * @return THINK_E_ARGUMENT; THINK_E_STATE when layers of the step before are missing; THINK_E_WORKSPACE (with refit only); THINK_E_MEMORY, THINK_E_DEVICE
 * @since 0.11
 */
THINK_API think_status think_cache_step(think_cache *cache, const int32_t *sequences, const int32_t *new_tokens, int32_t count, const think_launch *launch, think_error *error);

/**
 * Store the new keys and values of one layer, and bring its score states up to date. Prefill chunks of any size, decode and mixes of both.
 *
 * Tensors hold the sequences in the order of the step: rectangular, where batch row i has the new tokens of sequence i first; or packed one behind the other
 * in batch row 0, if extent[0] is 1 and the step has more sequences than one. Packed tensors of a call that is captured need extent[2] for as many new tokens
 * of every sequence as any of them has in this step, so that they hold the rows of every later step with the same think_cache_graph_id().
 * @param layer  0 .. layers - 1
 * @param query  [batch][query_heads][tokens][key_channels], query_dtype; NULL where no sequence of the step keeps scores
 * @param key    [batch][kv_heads][tokens][key_channels], f32, f16 or bf16; rounded to cache_dtype
 * @param value  [batch][kv_heads][tokens][value_channels], the same
 * @return THINK_E_ARGUMENT, THINK_E_WORKSPACE; THINK_E_STATE without a step, or when the layer has been appended in this one; THINK_E_UNSUPPORTED (CUDA:
 *         rows that do not begin at multiples of 16 bytes), THINK_E_DEVICE
 * @since 0.11
 */
THINK_API think_status think_cache_append(think_cache *cache, int32_t layer, const think_tensor *query, const think_tensor *key, const think_tensor *value, const think_launch *launch, think_error *error);

/**
 * Attention of the step's new tokens over everything that their sequences hold, themselves included (causal): think_attend() on the segments of the cache.
 * At most max_queries new tokens per sequence. May be cut into slices.
 * @param layer       one that has been appended in this step
 * @param query       [batch][query_heads][tokens][key_channels], in the order of think_cache_append()
 * @param sink_logit  as in think_attend()
 * @param output      [batch][query_heads][tokens][value_channels], output_dtype, laid out like query
 * @param lse         as in think_attend(); may be NULL
 * @return THINK_E_ARGUMENT, THINK_E_WORKSPACE; THINK_E_STATE when the layer has not been appended, or sequences have been changed after the step
 * @since 0.11
 */
THINK_API think_status think_cache_attend(const think_cache *cache, int32_t layer, const think_tensor *query, const float *sink_logit, const think_tensor *output, float *lse, const think_launch *launch, think_error *error);

/**
 * What a graph that holds append and attend of all layers of this step depends on, as one number: how many sequences the step has, the most new tokens of one,
 * how many compact runs of each kind, and whether any sequence keeps scores. Sequences grow, fold, come and go without changing it. Numbers come back
 * when what they stand for does, in this cache, so a host may keep a graph for each.
 * @param id  receives the number, at least 1
 * @return THINK_E_ARGUMENT; THINK_E_STATE when there is no step, or sequences have been changed after it; THINK_E_UNSUPPORTED for a CPU plan
 * @since 0.11
 */
THINK_API think_status think_cache_graph_id(const think_cache *cache, int64_t *id, think_error *error);

/**
 * Say that a graph has been launched that holds think_cache_append() of every layer: for the cache they are appended now, as if they had been called. Tensors
 * that the graph reads hold the new rows in the order of the step.
 * @param id  think_cache_graph_id() of the step in which it was captured
 * @return THINK_E_ARGUMENT: another id than this step's (if such a graph was launched, sequences of the step are undefined: drop them); THINK_E_STATE without
 *         a step, or when a layer has been appended in it; THINK_E_UNSUPPORTED for a CPU plan
 * @since 0.11
 */
THINK_API think_status think_cache_replayed(think_cache *cache, int64_t id, think_error *error);

/**
 * Evict rows of some sequences, in all layers: every KV head keeps options->budget of its dense rows, those that think_evict() chooses with these options, and
 * moves them together. A sequence that has no more dense rows than that is left alone. Comes before think_cache_prune(), which then chooses and fits channels
 * on what is left (evict -> score -> select -> fit -> compact -> quantize); rows that are compact already stay, count nothing towards the budget and are not
 * looked at, but the sinks of a sequence that has any always stay. Scores for the next prune are those of the rows that are left.
 *
 * Afterwards row t of a head is the t-th token that this head has kept: think_cache_export_dense() and think_cache_segments() give such rows, and
 * think_cache_trim() reaches back as far as all heads of all layers have kept the same last tokens (CUDA: as the options say they do, options->recent of them).
 * Forks keep what they had.
 * @param sequences     [count] different numbers of sequences
 * @param count         1 .. sequences of the cache
 * @param options       as for think_evict(), with budget at least 1; kept_stride must be 0
 * @param window_query  [count * layers][query_heads][rows <= window][key_channels], right-aligned: queries of the caller's choice (pseudo-queries, a probe);
 *                      batch row i * layers + l is layer l of sequences[i]. NULL = the last queries that think_cache_append() has seen (required with RECENT)
 * @param score         f32 [count][layers][kv_heads][options->score_stride], one number per dense row, moved with the rows, zero behind them. H2O (required):
 *                      the sums so far, to which the mass is added; in a cache of THINK_CACHE_NO_SCORES, without window_query, they are taken as they are. A
 *                      prune or a fold takes rows out of the sequence, behind its sinks: the caller then closes that gap in its numbers.
 *                      SNAPKV, WINDOW, TOVA: receives the mass; may be NULL. RECENT: NULL
 * @return THINK_E_ARGUMENT; THINK_E_STATE during a step, or when queries are needed and a sequence keeps no scores (any more); THINK_E_WORKSPACE,
 *         THINK_E_MEMORY (forks share rows that would move)
 * @since 0.11
 */
THINK_API think_status think_cache_evict(think_cache *cache, const int32_t *sequences, int32_t count, const think_evict_options *options, const think_tensor *window_query, float *score, const think_launch *launch, think_error *error);

/**
 * Evict rows of one sequence by lists of the caller's own making; all else as think_cache_evict().
 * @param sequence  0 .. sequences - 1
 * @param kept      [layers][kv_heads][rows]: which of its dense rows each head keeps, ascending, counted from 0. Of a sequence with compact runs the first ones
 *                  are its sinks: 0, 1, ..
 * @param rows      of every head: 1 .. dense rows of the sequence (tokens - compact_tokens of think_cache_usage())
 * @return THINK_E_ARGUMENT; THINK_E_STATE during a step; THINK_E_MEMORY
 * @since 0.11
 */
THINK_API think_status think_cache_keep(think_cache *cache, int32_t sequence, const int32_t *kept, int32_t rows, think_error *error);

/**
 * Prune all layers of some sequences: every dense row but sinks and recent ones moves into a compact run, and its page becomes free. What happens to a
 * sequence is what think_prune_preview() says for its dense rows; one that is too short, or that would not become smaller, stays as it is. All layers decide
 * alike: where they have different formats, by the bytes of all of them together.
 * @param sequences  [count] different numbers of sequences
 * @param count      1 .. sequences of the cache
 * @return THINK_E_ARGUMENT; THINK_E_STATE during a step, or when a sequence keeps no scores (any more) or has THINK_CACHE_MAX_RUNS runs;
 *         THINK_E_WORKSPACE, THINK_E_MEMORY
 * @since 0.11
 */
THINK_API think_status think_cache_prune(think_cache *cache, const int32_t *sequences, int32_t count, const think_launch *launch, think_error *error);

/**
 * What is held, to the byte.
 * @param sequence  0 .. sequences - 1; -1 = the whole cache
 * @param info      receives the answer; its struct_size is read
 * @since 0.11
 */
THINK_API think_status think_cache_usage(const think_cache *cache, int32_t sequence, think_cache_info *info, think_error *error);

/**
 * Borrow the segments that think_cache_attend() works on, for a think_attend() of one's own: the sequences in the order of the step; the last segment is the
 * dense one, causal. They point into the cache, and are valid until the next call that changes it.
 * @param layer     one that has been appended in this step
 * @param segments  receives them; element 0's struct_size is the step of the array and is set in all elements
 * @param capacity  elements of the array
 * @param count     receives how many there are, at most THINK_MAX_SEGMENTS
 * @return THINK_E_ARGUMENT, also when capacity is too small; THINK_E_STATE as think_cache_attend()
 * @since 0.11
 */
THINK_API think_status think_cache_segments(const think_cache *cache, int32_t layer, think_segment *segments, int32_t capacity, int32_t *count, think_error *error);

/**
 * The same for one sequence at any time, of a step or not (loaded from a file, say): a batch of one, its compact runs from the oldest on, then its dense rows.
 * A query of a token behind all that it holds sees every row, so the dense segment is not causal.
 * @param sequence  0 .. sequences - 1
 * @param layer     0 .. layers - 1
 * @param segments  receives them; element 0's struct_size is the step of the array and is set in all elements
 * @param capacity  elements of the array; THINK_CACHE_MAX_RUNS + 1 are always enough
 * @param count     receives how many there are, at least 1
 * @return THINK_E_ARGUMENT, also when capacity is too small; THINK_E_STATE when the sequence has new tokens of a step whose layer has not been appended;
 *         THINK_E_UNSUPPORTED with a CUDA plan, where only steps have tables: use think_cache_segments()
 * @since 0.11
 */
THINK_API think_status think_cache_sequence_segments(const think_cache *cache, int32_t sequence, int32_t layer, think_segment *segments, int32_t capacity, int32_t *count, think_error *error);

/**
 * Rebuild rows of one sequence and layer at full width, in the order of their tokens: dense rows as they are stored; of compact ones the kept channels as
 * stored (dequantized), the dropped ones as their basis predicts them, or 0 where it does not (THINK_MODE_CHANNELS). For tests, for other attention kernels,
 * for looking at what is lost; nothing in the cache changes.
 * @param sequence  0 .. sequences - 1
 * @param layer     0 .. layers - 1
 * @param first     the first token wanted: 0 .. tokens of the sequence
 * @param count     tokens wanted: 0 .. those from first on
 * @param key       receives [1][kv_heads][count][key_channels] as f32, f16 or bf16; extent[0] at least 1, extent[2] at least count; NULL = not wanted
 * @param value     receives [1][kv_heads][count][value_channels], the same
 * @param launch    no workspace is needed: may be NULL. CUDA: the tensors are written in its stream
 * @return THINK_E_ARGUMENT; THINK_E_STATE when the sequence has new tokens of a step whose layer has not been appended
 * @since 0.11
 */
THINK_API think_status think_cache_export_dense(const think_cache *cache, int32_t sequence, int32_t layer, int64_t first, int64_t count, const think_tensor *key, const think_tensor *value, const think_launch *launch, think_error *error);

/**
 * Forget the last tokens of a sequence (speculative decoding). Score states keep what they have seen of them.
 * @param tokens  that are left: 0 .. those it holds; 0 = drop
 * @return THINK_E_ARGUMENT; THINK_E_STATE during a step, or when the tokens to forget reach into compact rows, or into rows that an eviction has mixed
 * @since 0.11
 */
THINK_API think_status think_cache_trim(think_cache *cache, int32_t sequence, int64_t tokens, think_error *error);

/**
 * Make `destination` a copy of `source` that shares all its pages and bases. Only the score state is copied.
 * @param destination  a sequence without tokens
 * @return THINK_E_ARGUMENT; THINK_E_STATE during a step, or when destination holds tokens; THINK_E_MEMORY
 * @since 0.11
 */
THINK_API think_status think_cache_fork(think_cache *cache, int32_t source, int32_t destination, think_error *error);

/**
 * Forget a sequence. If layers of a step are still missing, the step is given up: the new tokens of all its sequences are taken back.
 * As with think_cache_trim(), score states keep what they have seen of them, in the layers that had been appended.
 * @since 0.11
 */
THINK_API think_status think_cache_drop(think_cache *cache, int32_t sequence, think_error *error);

/**
 * Forget all sequences, and give up the step.
 * @since 0.11
 */
THINK_API think_status think_cache_reset(think_cache *cache, think_error *error);

#ifdef __cplusplus
}
#endif
#endif
