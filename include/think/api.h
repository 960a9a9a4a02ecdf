/**
 * @file think/api.h
 * @brief Optional: all functions of the library as one table, for programs that load it with dlopen(). Not included by think.h.
 *
 * Written by libthink/abi/generate.py from the public headers and functions.def: do not edit.
 */
#ifndef THINK_API_H
#define THINK_API_H

#include "dlpack.h"
#include "store.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * The functions, in an order that never changes: later versions add entries at the end. An entry is documented at the function of the same name,
 * `think_` before it: table->attend is think_attend().
 *
 * A library may be older or newer than these headers. Its table is as long as struct_size says. Entries from struct_size on do not exist: test them
 * with THINK_API_HAS() before use, unless every version of the ABI generation has them (those marked "since 0.9").
 */
typedef struct think_api {
  uint32_t struct_size; /* bytes of the library's table */
  uint32_t abi_major;   /* THINK_ABI_MAJOR of the library */

  /* think/version.h, since 0.9 */
  int32_t (*version)(void);
  int32_t (*abi_version)(void);
  const char *(*version_string)(void);

  /* think/status.h, since 0.9 */
  void (*error_init)(think_error *error, uint32_t struct_size);
  const char *(*status_name)(think_status status);

  /* think/tensor.h, since 0.9 */
  void (*tensor_init)(think_tensor *tensor, uint32_t struct_size);
  void (*batch_init)(think_batch *batch, uint32_t struct_size);
  int32_t (*dtype_bytes)(think_dtype dtype);
  const char *(*dtype_name)(think_dtype dtype);

  /* think/context.h, since 0.9 */
  void (*context_options_init)(think_context_options *options, uint32_t struct_size);
  think_status (*context_create)(const think_context_options *options, think_context **context, think_error *error);
  void (*context_destroy)(think_context *context);
  think_status (*query)(const think_context *context, int32_t key, int64_t *value, think_error *error);
  think_status (*backend_reason)(think_device device, char *text, size_t capacity, size_t *needed, think_error *error);

  /* think/plan.h, since 0.9 */
  void (*problem_init)(think_problem *problem, uint32_t struct_size);
  void (*launch_init)(think_launch *launch, uint32_t struct_size);
  void (*extent_init)(think_extent *extent, uint32_t struct_size);
  think_status (*supports)(const think_context *context, const think_problem *problem, think_error *error);
  think_status (*plan_create)(const think_context *context, const think_problem *problem, think_plan **plan, think_error *error);
  void (*plan_destroy)(think_plan *plan);
  think_status (*plan_describe)(const think_plan *plan, char *json, size_t capacity, size_t *needed, think_error *error);
  think_status (*workspace_size)(const think_plan *plan, int32_t stage, const think_extent *extent, int64_t *bytes, int64_t *alignment, think_error *error);
  int32_t (*kept_channels)(int32_t channels, double ratio);

  /* think/basis.h, since 0.9 */
  void (*basis_init)(think_basis *basis, uint32_t struct_size);
  think_status (*basis_size)(const think_plan *plan, int32_t side, int32_t slots, int64_t *bytes, int64_t *alignment, think_error *error);
  think_status (*basis_bind)(const think_plan *plan, int32_t side, int32_t slots, void *memory, int64_t bytes, think_basis *basis, think_error *error);

  /* think/segment.h, since 0.9 */
  void (*segment_init)(think_segment *segment, uint32_t struct_size);
  void (*format_init)(think_format *format, uint32_t struct_size);
  void (*layout_info_init)(think_layout_info *info, uint32_t struct_size);
  think_status (*layout)(const think_plan *plan, const think_format *format, int32_t page_tokens, int64_t total_key, int64_t total_value, think_layout_info *info, think_error *error);
  think_status (*segment_place)(const think_plan *plan, const think_segment *segment, const think_batch *batch, const think_launch *launch, think_error *error);

  /* think/score.h, since 0.9 */
  void (*score_options_init)(think_score_options *options, uint32_t struct_size);
  think_status (*score_state_size)(const think_plan *plan, int32_t slots, int64_t *bytes, think_error *error);
  think_status (*score_reset)(const think_plan *plan, void *state, const think_batch *batch, const think_launch *launch, think_error *error);
  think_status (*score_update)(const think_plan *plan, const think_tensor *query, const think_tensor *key, const think_batch *batch, void *state, const think_launch *launch, think_error *error);
  think_status (*score_finish)(const think_plan *plan, const void *state, const think_batch *batch, const think_score_options *options, float *score, const think_launch *launch, think_error *error);
  think_status (*score_window)(const think_plan *plan, const void *state, int32_t slots, think_tensor *query, think_error *error);
  think_status (*value_score)(const think_plan *plan, const think_tensor *attention, const think_batch *batch, float *score, const think_launch *launch, think_error *error);

  /* think/moments.h, since 0.9 */
  void (*moments_options_init)(think_moments_options *options, uint32_t struct_size);
  think_status (*moments_size)(const think_plan *plan, int32_t slots, int64_t *bytes, think_error *error);
  think_status (*moments)(const think_plan *plan, const think_tensor *window_query, const think_segment *source, const think_batch *batch, const think_moments_options *options, void *moments, const think_launch *launch, think_error *error);
  think_status (*gains)(const think_plan *plan, const void *moments, const think_batch *batch, int32_t side, const float *score, float *gains, int32_t *order, const think_launch *launch, think_error *error);

  /* think/select.h, since 0.9 */
  void (*budget_options_init)(think_budget_options *options, uint32_t struct_size);
  void (*select_options_init)(think_select_options *options, uint32_t struct_size);
  think_status (*budgets)(const think_plan *plan, const float *gains, const think_batch *batch, int32_t side, const think_budget_options *options, int32_t *kept, const think_launch *launch, think_error *error);
  think_status (*select)(const think_plan *plan, const float *score, const think_batch *batch, const think_select_options *options, const int32_t *kept, think_basis *basis, uint8_t *mask, const think_launch *launch, think_error *error);

  /* think/fit.h, since 0.9 */
  void (*fit_options_init)(think_fit_options *options, uint32_t struct_size);
  think_status (*fit)(const think_plan *plan, const void *moments, const think_batch *batch, const think_fit_options *options, think_basis *basis, const think_launch *launch, think_error *error);

  /* think/compact.h, since 0.9 */
  think_status (*compact)(const think_plan *plan, const think_segment *source, const think_segment *destination, const think_batch *batch, const think_launch *launch, think_error *error);

  /* think/attend.h, since 0.9 */
  think_status (*attend)(const think_plan *plan, const think_tensor *query, const think_batch *batch, const think_segment *segments, int32_t segment_count, const float *sink_logit, const think_tensor *output, float *lse, const think_launch *launch, think_error *error);
  think_status (*merge)(const think_plan *plan, const think_tensor *outputs, const float *const *lses, int32_t count, const think_tensor *output, float *lse, const think_launch *launch, think_error *error);

  /* think/prune.h, since 0.9 */
  void (*prune_options_init)(think_prune_options *options, uint32_t struct_size);
  void (*prune_result_init)(think_prune_result *result, uint32_t struct_size);
  think_status (*prune_preview)(const think_plan *plan, const think_format *format, int64_t tokens, const think_prune_options *options, think_prune_result *result, think_error *error);
  think_status (*prune)(const think_plan *plan, const void *score_state, const think_segment *source, const think_segment *destination, const think_batch *batch, const think_prune_options *options, uint8_t *mask, const think_launch *launch, think_error *error);

  /* think/dlpack.h, since 0.9 */
  think_status (*tensor_from_dlpack)(const struct DLTensor *source, think_device *device, think_tensor *tensor, think_error *error);

  /* think/evict.h, since 0.10 */
  void (*evict_options_init)(think_evict_options *options, uint32_t struct_size);
  think_status (*evict)(const think_plan *plan, const think_tensor *window_query, const think_segment *source, const think_batch *batch, const think_evict_options *options, const int32_t *budget, float *score, int32_t *kept, int32_t *lengths, const think_launch *launch, think_error *error);
  think_status (*evict_move)(const think_plan *plan, const think_segment *source, const think_segment *destination, const think_batch *batch, const int32_t *kept, int64_t kept_stride, float *score, int64_t score_stride, const think_launch *launch, think_error *error);

  /* think/cache.h, since 0.11 */
  void (*cache_options_init)(think_cache_options *options, uint32_t struct_size);
  void (*cache_info_init)(think_cache_info *info, uint32_t struct_size);
  think_status (*cache_create)(const think_plan *plan, const think_cache_options *options, think_cache **cache, think_error *error);
  void (*cache_destroy)(think_cache *cache);
  think_status (*cache_workspace_size)(const think_cache *cache, int64_t *bytes, int64_t *alignment, think_error *error);
  think_status (*cache_step)(think_cache *cache, const int32_t *sequences, const int32_t *new_tokens, int32_t count, const think_launch *launch, think_error *error);
  think_status (*cache_append)(think_cache *cache, int32_t layer, const think_tensor *query, const think_tensor *key, const think_tensor *value, const think_launch *launch, think_error *error);
  think_status (*cache_attend)(const think_cache *cache, int32_t layer, const think_tensor *query, const float *sink_logit, const think_tensor *output, float *lse, const think_launch *launch, think_error *error);
  think_status (*cache_prune)(think_cache *cache, const int32_t *sequences, int32_t count, const think_launch *launch, think_error *error);
  think_status (*cache_usage)(const think_cache *cache, int32_t sequence, think_cache_info *info, think_error *error);
  think_status (*cache_segments)(const think_cache *cache, int32_t layer, think_segment *segments, int32_t capacity, int32_t *count, think_error *error);
  think_status (*cache_trim)(think_cache *cache, int32_t sequence, int64_t tokens, think_error *error);
  think_status (*cache_fork)(think_cache *cache, int32_t source, int32_t destination, think_error *error);
  think_status (*cache_drop)(think_cache *cache, int32_t sequence, think_error *error);
  think_status (*cache_reset)(think_cache *cache, think_error *error);
  think_status (*cache_export_dense)(const think_cache *cache, int32_t sequence, int32_t layer, int64_t first, int64_t count, const think_tensor *key, const think_tensor *value, const think_launch *launch, think_error *error);

  /* think/store.h, since 0.11 */
  think_status (*cache_save_size)(const think_cache *cache, int32_t sequence, int64_t *bytes, think_error *error);
  think_status (*cache_save)(const think_cache *cache, int32_t sequence, think_writer write, void *user, think_error *error);
  think_status (*cache_load)(think_cache *cache, int32_t sequence, think_reader read, void *user, think_error *error);

  /* think/cache.h, since 0.11 */
  think_status (*cache_evict)(think_cache *cache, const int32_t *sequences, int32_t count, const think_evict_options *options, const think_tensor *window_query, float *score, const think_launch *launch, think_error *error);
  think_status (*cache_keep)(think_cache *cache, int32_t sequence, const int32_t *kept, int32_t rows, think_error *error);
  think_status (*cache_sequence_segments)(const think_cache *cache, int32_t sequence, int32_t layer, think_segment *segments, int32_t capacity, int32_t *count, think_error *error);
  think_status (*cache_slab_size)(const think_plan *plan, const think_cache_options *options, int64_t dense_tokens, int64_t compact_tokens, int64_t *bytes, think_error *error);
  think_status (*cache_graph_id)(const think_cache *cache, int64_t *id, think_error *error);
  think_status (*cache_replayed)(think_cache *cache, int64_t id, think_error *error);
} think_api;

/** Does the library's table have this entry? THINK_API_HAS(table, merge) */
#define THINK_API_HAS(table, entry) ((table)->struct_size >= offsetof(think_api, entry) + sizeof((table)->entry))

/**
 * The function table: the only symbol that a program which uses dlopen() has to look up. Any thread.
 *
 * @param abi_major   THINK_ABI_MAJOR of the caller's headers
 * @param table_size  sizeof(think_api) of the caller's headers
 * @return a static table, owned by the library and valid until the process ends. A caller with older headers (a smaller table_size) gets the whole table
 *         and sees its beginning. A caller with newer headers gets what this library has: struct_size is then smaller than its own sizeof(think_api).
 *         NULL: the library is of another ABI generation, or table_size is smaller than any version of this generation had.
 * @since 0.9
 */
THINK_API const think_api *think_get_api(uint32_t abi_major, uint32_t table_size);

/** Type of think_get_api(), for the result of dlsym(). */
typedef const think_api *(*think_get_api_function)(uint32_t abi_major, uint32_t table_size);

#ifdef __cplusplus
}
#endif
#endif
