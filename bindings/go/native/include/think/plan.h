/**
 * @file think/plan.h
 * @brief A plan: one attention shape on one context, with the kernels chosen for it; and what every run call takes besides its data.
 */
#ifndef THINK_PLAN_H
#define THINK_PLAN_H

#include "context.h"

#ifdef __cplusplus
extern "C" {
#endif

/** A plan. Immutable: any number of threads may run calls on one plan at the same time, each with its own workspace. */
typedef struct think_plan think_plan;

/** The shape of one attention layer. */
typedef struct think_problem {
  uint32_t struct_size;    /* sizeof(think_problem) */
  uint32_t flags;          /* THINK_PROBLEM_... */
  think_dtype query_dtype; /* of query tensors: f32, f16, bf16; 0 = f32 */
  think_dtype cache_dtype; /* of dense key and value rows and of compact ones: f32, f16, bf16; 0 = f16 */
  think_dtype output_dtype;/* of attention outputs: f32, f16, bf16; 0 = query_dtype */
  int32_t query_heads;     /* a multiple of kv_heads, at most 65536; their quotient is the group */
  int32_t kv_heads;        /* at least 1 */
  int32_t key_channels;    /* head size of queries and keys: 8, 16, ... 256 */
  int32_t value_channels;  /* head size of values: 8, 16, ... 256; 0 = key_channels */
  int32_t window;          /* observation queries: 0 = 32 (ThinK), at most 1024 */
  int32_t max_batch;       /* sequences in one call: 0 = 1 */
  int32_t max_queries;     /* new queries of one sequence in one call: 0 = 1 */
  int64_t max_tokens;      /* cached tokens of one sequence, all segments together: 0 = 131072; at most 2^31 - 1 */
  float scale;             /* of logits: 0 = 1 / sqrt(key_channels), the full width also after pruning */
  float softcap;           /* logit = softcap * tanh(logit / softcap): 0 or -1 = none. Applied to the finished logit, offset included */
} think_problem;

/**
 * think_attend() cuts a sequence's tokens by its own lengths and the shape alone, so that it has the same bits in every batch and on every device of one
 * kind. On a CUDA device that costs workspace and, with few or unequal sequences, time. The CPU does so always. @since 0.10
 */
#define THINK_PROBLEM_BATCH_INVARIANT 1u

#define THINK_PROBLEM_INIT {(uint32_t)sizeof(think_problem), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0f, 0.0f}

/**
 * What a run call works with, besides its data. NULL is allowed where think_workspace_size() gives 0.
 *
 * A workspace is plain memory of the plan's device. Zero it once when it is new: every completed call leaves its counters zero. It serves one call
 * at a time, and one plan: before a sliced call of another plan, zero it again. Run calls never allocate, free, synchronise or start threads.
 */
typedef struct think_launch {
  uint32_t struct_size;    /* sizeof(think_launch) */
  uint32_t flags;          /* THINK_LAUNCH_... */
  void *workspace;         /* aligned as think_workspace_size() says */
  int64_t workspace_bytes; /* at least as many as think_workspace_size() says */
  void *stream;            /* CUDA: a CUstream; ignored on the CPU */
  int32_t slice;           /* CPU, think_score_update, think_compact and think_attend only: the part of the work that this call does, 0 .. slices - 1 */
  int32_t slices;          /* 0 or 1 = all of it. Otherwise exactly one call per slice, with the same arguments and workspace, from any threads in any
                              order; no slice waits for another, the last one completes the result. Elsewhere THINK_E_UNSUPPORTED */
} think_launch;

#define THINK_LAUNCH_INIT {(uint32_t)sizeof(think_launch), 0, NULL, 0, NULL, 0, 0}

/** Check the contents of index, length and page arrays before they are used, which are trusted otherwise. For debugging, on the CPU only. It cannot see how
 *  many slots a score state or moments hold, how many pages a cache has, nor how far head offsets may go: slots are then any, pages and offsets at least 0. */
#define THINK_LAUNCH_CHECK 1u

/**
 * The size of a call, for think_workspace_size(). On a CUDA plan lengths are not read by the host, which takes them for as large as they can be: `queries`
 * and the new tokens of the score are then the rows of the tensors (packed rows: all of them together), up to max_queries, and `tokens` the room that the
 * segments tell (pages_stride * page_tokens, or page_tokens), up to max_tokens. Ask for as much.
 *
 * think_attend() on packed rows there works in proportion to all rows together and the batch, not to batch * queries: say in `rows` how many the query
 * tensor has. Without it the size is that of a batch in which every sequence has `queries` rows, which serves as well but may be many times as large.
 */
typedef struct think_extent {
  uint32_t struct_size; /* sizeof(think_extent) */
  uint32_t flags;       /* 0 */
  int32_t batch;        /* sequences: 0 = the plan's max_batch */
  int32_t queries;      /* new queries of one sequence, at most: 0 = the plan's max_queries */
  int32_t segments;     /* segments of think_attend(): 0 = 4 */
  int32_t reserved;     /* 0 */
  int64_t tokens;       /* cached tokens of one sequence, at most: 0 = the plan's max_tokens */
  int64_t rows;         /* new queries of all sequences together, where they are packed (row_start): 0 = batch * queries; at most max_batch * max_queries
                           of the plan. @since 0.11 */
} think_extent;

#define THINK_EXTENT_INIT {(uint32_t)sizeof(think_extent), 0, 0, 0, 0, 0, 0, 0}

/** Stages, for think_workspace_size(). */
#define THINK_STAGE_SCORE 1   /* think_score_reset, _update, _finish, think_value_score; tokens of the extent = new tokens of a call */
#define THINK_STAGE_MOMENTS 2 /* think_moments, think_gains */
#define THINK_STAGE_SELECT 3  /* think_budgets (up to 256 layers in steps of 8), think_select */
#define THINK_STAGE_FIT 4     /* think_fit */
#define THINK_STAGE_COMPACT 5 /* think_compact, think_segment_place */
#define THINK_STAGE_ATTEND 6  /* think_attend, think_merge */
#define THINK_STAGE_PRUNE 7   /* think_prune */
#define THINK_STAGE_EVICT 8   /* think_evict; think_evict_move needs none */

/** THINK_PROBLEM_INIT as a function. NULL is ignored. @since 0.9 */
THINK_API void think_problem_init(think_problem *problem, uint32_t struct_size);
/** THINK_LAUNCH_INIT as a function. NULL is ignored. @since 0.9 */
THINK_API void think_launch_init(think_launch *launch, uint32_t struct_size);
/** THINK_EXTENT_INIT as a function. NULL is ignored. @since 0.9 */
THINK_API void think_extent_init(think_extent *extent, uint32_t struct_size);

/**
 * Can this context run this problem? Nothing is allocated. think_plan_describe() names the kernel of each stage.
 * @param context  NULL = a default CPU context
 * @return THINK_OK, or what think_plan_create() would return, with the reason in `error`
 * @since 0.9
 */
THINK_API think_status think_supports(const think_context *context, const think_problem *problem, think_error *error);

/**
 * Make a plan. Besides here, the library allocates only when a context is made and in calls of a managed cache that say so (think/cache.h); it starts threads
 * only here and with a context, if the context asked for them.
 * On a CUDA device it loads the kernels. Calls on the plan take device pointers: tensors, segments, bases and also the small arrays (lengths, slots, page
 * tables, widths), which are never read on the host; structs stay in host memory. Rows of tensors must be aligned to 16 bytes.
 * think_attend() takes caches of f16 or bf16 there, all segments alike; f32 is THINK_E_UNSUPPORTED when it is called.
 * @param plan  receives the plan; destroy it with think_plan_destroy()
 * @return THINK_E_ARGUMENT, THINK_E_UNSUPPORTED, THINK_E_MEMORY, THINK_E_DEVICE
 * @since 0.9
 */
THINK_API think_status think_plan_create(const think_context *context, const think_problem *problem, think_plan **plan, think_error *error);

/**
 * Destroy a plan that no call is using any more. NULL is ignored.
 * @since 0.9
 */
THINK_API void think_plan_destroy(think_plan *plan);

/**
 * What the plan is, as a JSON object: version, device, isa, threads, the problem with its defaults filled in, the kernel of every stage and why, the
 * workspace of every stage, and for a dense decode step of max_tokens tokens the bytes moved and the ideal milliseconds at 1 GB/s.
 * @param json      receives the text and a final 0, cut to `capacity`; may be NULL when capacity is 0
 * @param capacity  bytes of json
 * @param needed    receives the bytes that the whole text needs, with its final 0; may be NULL
 * @since 0.9
 */
THINK_API think_status think_plan_describe(const think_plan *plan, char *json, size_t capacity, size_t *needed, think_error *error);

/**
 * Workspace that one call of a stage needs: computed by the code that lays it out. Grows with every field of the extent, so the size for a larger call
 * serves all smaller ones.
 * @param stage      THINK_STAGE_...
 * @param extent     NULL = the plan's maxima
 * @param bytes      receives the size; 0 = none needed
 * @param alignment  receives the alignment, 64 on the CPU; may be NULL
 * @since 0.9
 */
THINK_API think_status think_workspace_size(const think_plan *plan, int32_t stage, const think_extent *extent, int64_t *bytes, int64_t *alignment, think_error *error);

/**
 * Channels kept of `channels` at a pruning ratio, as the paper's code rounds: channels - (int)(channels * ratio), for example 77 of 128 at 0.4.
 * @return -1 when channels < 1 or ratio is not in [0, 1)
 * @since 0.9
 */
THINK_API int32_t think_kept_channels(int32_t channels, double ratio);

#ifdef __cplusplus
}
#endif
#endif
