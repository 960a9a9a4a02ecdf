"""The C interface for cffi. Written by bindings/tools/regenerate.sh from think.json: do not edit."""

DECLARATIONS = """
typedef int32_t think_status;
typedef int32_t think_dtype;
typedef int32_t think_device;
typedef struct think_context think_context;
typedef struct think_plan think_plan;
typedef struct think_cache think_cache;
typedef void (*think_task)(void *arg, int64_t index);
typedef void (*think_parallel_for)(void *user, int64_t count, think_task task, void *arg);
typedef void *(*think_allocate)(void *user, size_t bytes, size_t alignment);
typedef void (*think_deallocate)(void *user, void *memory, size_t bytes, size_t alignment);
typedef void (*think_log)(void *user, int32_t level, const char *message);
typedef int32_t (*think_writer)(void *user, const void *data, int64_t bytes);
typedef int64_t (*think_reader)(void *user, void *data, int64_t bytes);
typedef struct think_error {
  uint32_t struct_size;
  uint32_t flags;
  think_status code;
  int32_t argument;
  int32_t native_code;
  char message[256];
  int32_t reserved;
} think_error;
typedef struct think_tensor {
  uint32_t struct_size;
  uint32_t flags;
  void *data;
  think_dtype dtype;
  int32_t reserved;
  int64_t extent[4];
  int64_t stride[4];
} think_tensor;
typedef struct think_batch {
  uint32_t struct_size;
  uint32_t flags;
  int32_t count;
  int32_t reserved;
  const int32_t *lengths;
  const int32_t *row_start;
  const int32_t *slot;
} think_batch;
typedef struct think_context_options {
  uint32_t struct_size;
  uint32_t flags;
  think_device device_type;
  int32_t device_index;
  int32_t threads;
  int32_t reserved;
  think_parallel_for parallel_for;
  think_allocate allocate;
  think_deallocate deallocate;
  think_log log;
  void *user;
} think_context_options;
typedef struct think_problem {
  uint32_t struct_size;
  uint32_t flags;
  think_dtype query_dtype;
  think_dtype cache_dtype;
  think_dtype output_dtype;
  int32_t query_heads;
  int32_t kv_heads;
  int32_t key_channels;
  int32_t value_channels;
  int32_t window;
  int32_t max_batch;
  int32_t max_queries;
  int64_t max_tokens;
  float scale;
  float softcap;
} think_problem;
typedef struct think_launch {
  uint32_t struct_size;
  uint32_t flags;
  void *workspace;
  int64_t workspace_bytes;
  void *stream;
  int32_t slice;
  int32_t slices;
} think_launch;
typedef struct think_extent {
  uint32_t struct_size;
  uint32_t flags;
  int32_t batch;
  int32_t queries;
  int32_t segments;
  int32_t reserved;
  int64_t tokens;
  int64_t rows;
} think_extent;
typedef struct think_basis {
  uint32_t struct_size;
  uint32_t flags;
  int32_t channels;
  int32_t slots;
  int32_t *kept;
  int32_t *index;
  void *weight;
  int64_t weight_bytes;
  int64_t *weight_offset;
  float *offset;
} think_basis;
typedef struct think_segment {
  uint32_t struct_size;
  uint32_t flags;
  int32_t key_layout;
  int32_t value_layout;
  int32_t page_tokens;
  int32_t reserved;
  think_dtype key_dtype;
  think_dtype value_dtype;
  void *key;
  void *value;
  int64_t key_stride[3];
  int64_t value_stride[3];
  int64_t *key_head_offset;
  int64_t *value_head_offset;
  const int32_t *pages;
  int64_t pages_stride;
  const int32_t *first;
  const int32_t *lengths;
  int64_t lengths_stride[2];
  const int32_t *slot;
  const think_basis *key_basis;
  const think_basis *value_basis;
  float *key_scale;
  float *value_scale;
} think_segment;
typedef struct think_format {
  uint32_t struct_size;
  uint32_t flags;
  int32_t key_layout;
  int32_t value_layout;
  think_dtype key_dtype;
  think_dtype value_dtype;
} think_format;
typedef struct think_layout_info {
  uint32_t struct_size;
  uint32_t flags;
  int64_t key_page_bytes;
  int64_t value_page_bytes;
  int64_t key_basis_bytes;
  int64_t value_basis_bytes;
  int64_t alignment;
} think_layout_info;
typedef struct think_evict_options {
  uint32_t struct_size;
  uint32_t flags;
  int32_t method;
  int32_t budget;
  int32_t sinks;
  int32_t recent;
  int32_t pooling;
  int32_t kernel;
  int64_t kept_stride;
  int64_t score_stride;
} think_evict_options;
typedef struct think_score_options {
  uint32_t struct_size;
  uint32_t flags;
} think_score_options;
typedef struct think_moments_options {
  uint32_t struct_size;
  uint32_t flags;
  int32_t sinks;
  int32_t recent;
  float attention_share;
  float reserved;
} think_moments_options;
typedef struct think_budget_options {
  uint32_t struct_size;
  uint32_t flags;
  int32_t layers;
  int32_t floor;
  int32_t step;
  int32_t reserved;
  int64_t total;
} think_budget_options;
typedef struct think_select_options {
  uint32_t struct_size;
  uint32_t flags;
  int32_t side;
  int32_t kept;
  int32_t round_to;
  int32_t reserved;
} think_select_options;
typedef struct think_fit_options {
  uint32_t struct_size;
  uint32_t flags;
  int32_t side;
  int32_t reserved;
  float ridge;
  float reserved2;
} think_fit_options;
typedef struct think_prune_options {
  uint32_t struct_size;
  uint32_t flags;
  int32_t mode;
  int32_t budget;
  int32_t key_kept;
  int32_t value_kept;
  int32_t sinks;
  int32_t recent;
  float attention_share;
  float ridge;
  float dense_limit;
  float reserved;
} think_prune_options;
typedef struct think_prune_result {
  uint32_t struct_size;
  uint32_t flags;
  int64_t first;
  int64_t rows;
  int64_t key_total;
  int64_t value_total;
  int64_t dense_bytes;
  int64_t key_bytes;
  int64_t value_bytes;
  int64_t key_basis_bytes;
  int64_t value_basis_bytes;
} think_prune_result;
typedef struct think_cache_options {
  uint32_t struct_size;
  uint32_t flags;
  int32_t layers;
  int32_t sequences;
  int32_t fold;
  int32_t refit;
  int32_t rollback;
  int32_t reserved;
  int64_t reserve_tokens;
  int64_t limit_bytes;
  const think_prune_options *prune;
  const think_format *format;
  const think_format *layer_formats;
  void *slab;
  int64_t slab_bytes;
  int32_t bases;
  int32_t scored;
} think_cache_options;
typedef struct think_cache_info {
  uint32_t struct_size;
  uint32_t flags;
  int64_t tokens;
  int64_t compact_tokens;
  int64_t dense_bytes;
  int64_t page_bytes;
  int64_t basis_bytes;
  int64_t score_bytes;
  int64_t table_bytes;
  int64_t spare_bytes;
  int64_t allocated_bytes;
  int32_t key_channels;
  int32_t value_channels;
  int32_t runs;
  int32_t sequences;
  int64_t evicted_tokens;
} think_cache_info;
int32_t think_version(void);
int32_t think_abi_version(void);
const char *think_version_string(void);
void think_error_init(think_error *error, uint32_t struct_size);
const char *think_status_name(think_status status);
void think_tensor_init(think_tensor *tensor, uint32_t struct_size);
void think_batch_init(think_batch *batch, uint32_t struct_size);
int32_t think_dtype_bytes(think_dtype dtype);
const char *think_dtype_name(think_dtype dtype);
void think_context_options_init(think_context_options *options, uint32_t struct_size);
think_status think_context_create(const think_context_options *options, think_context **context, think_error *error);
void think_context_destroy(think_context *context);
think_status think_query(const think_context *context, int32_t key, int64_t *value, think_error *error);
think_status think_backend_reason(think_device device, char *text, size_t capacity, size_t *needed, think_error *error);
void think_problem_init(think_problem *problem, uint32_t struct_size);
void think_launch_init(think_launch *launch, uint32_t struct_size);
void think_extent_init(think_extent *extent, uint32_t struct_size);
think_status think_supports(const think_context *context, const think_problem *problem, think_error *error);
think_status think_plan_create(const think_context *context, const think_problem *problem, think_plan **plan, think_error *error);
void think_plan_destroy(think_plan *plan);
think_status think_plan_describe(const think_plan *plan, char *json, size_t capacity, size_t *needed, think_error *error);
think_status think_workspace_size(const think_plan *plan, int32_t stage, const think_extent *extent, int64_t *bytes, int64_t *alignment, think_error *error);
int32_t think_kept_channels(int32_t channels, double ratio);
void think_basis_init(think_basis *basis, uint32_t struct_size);
think_status think_basis_size(const think_plan *plan, int32_t side, int32_t slots, int64_t *bytes, int64_t *alignment, think_error *error);
think_status think_basis_bind(const think_plan *plan, int32_t side, int32_t slots, void *memory, int64_t bytes, think_basis *basis, think_error *error);
void think_segment_init(think_segment *segment, uint32_t struct_size);
void think_format_init(think_format *format, uint32_t struct_size);
void think_layout_info_init(think_layout_info *info, uint32_t struct_size);
think_status think_layout(const think_plan *plan, const think_format *format, int32_t page_tokens, int64_t total_key, int64_t total_value, think_layout_info *info, think_error *error);
think_status think_segment_place(const think_plan *plan, const think_segment *segment, const think_batch *batch, const think_launch *launch, think_error *error);
void think_score_options_init(think_score_options *options, uint32_t struct_size);
think_status think_score_state_size(const think_plan *plan, int32_t slots, int64_t *bytes, think_error *error);
think_status think_score_reset(const think_plan *plan, void *state, const think_batch *batch, const think_launch *launch, think_error *error);
think_status think_score_update(const think_plan *plan, const think_tensor *query, const think_tensor *key, const think_batch *batch, void *state, const think_launch *launch, think_error *error);
think_status think_score_finish(const think_plan *plan, const void *state, const think_batch *batch, const think_score_options *options, float *score, const think_launch *launch, think_error *error);
think_status think_score_window(const think_plan *plan, const void *state, int32_t slots, think_tensor *query, think_error *error);
think_status think_value_score(const think_plan *plan, const think_tensor *attention, const think_batch *batch, float *score, const think_launch *launch, think_error *error);
void think_moments_options_init(think_moments_options *options, uint32_t struct_size);
think_status think_moments_size(const think_plan *plan, int32_t slots, int64_t *bytes, think_error *error);
think_status think_moments(const think_plan *plan, const think_tensor *window_query, const think_segment *source, const think_batch *batch, const think_moments_options *options, void *moments, const think_launch *launch, think_error *error);
think_status think_gains(const think_plan *plan, const void *moments, const think_batch *batch, int32_t side, const float *score, float *gains, int32_t *order, const think_launch *launch, think_error *error);
void think_budget_options_init(think_budget_options *options, uint32_t struct_size);
void think_select_options_init(think_select_options *options, uint32_t struct_size);
think_status think_budgets(const think_plan *plan, const float *gains, const think_batch *batch, int32_t side, const think_budget_options *options, int32_t *kept, const think_launch *launch, think_error *error);
think_status think_select(const think_plan *plan, const float *score, const think_batch *batch, const think_select_options *options, const int32_t *kept, think_basis *basis, uint8_t *mask, const think_launch *launch, think_error *error);
void think_fit_options_init(think_fit_options *options, uint32_t struct_size);
think_status think_fit(const think_plan *plan, const void *moments, const think_batch *batch, const think_fit_options *options, think_basis *basis, const think_launch *launch, think_error *error);
think_status think_compact(const think_plan *plan, const think_segment *source, const think_segment *destination, const think_batch *batch, const think_launch *launch, think_error *error);
think_status think_attend(const think_plan *plan, const think_tensor *query, const think_batch *batch, const think_segment *segments, int32_t segment_count, const float *sink_logit, const think_tensor *output, float *lse, const think_launch *launch, think_error *error);
think_status think_merge(const think_plan *plan, const think_tensor *outputs, const float *const *lses, int32_t count, const think_tensor *output, float *lse, const think_launch *launch, think_error *error);
void think_prune_options_init(think_prune_options *options, uint32_t struct_size);
void think_prune_result_init(think_prune_result *result, uint32_t struct_size);
think_status think_prune_preview(const think_plan *plan, const think_format *format, int64_t tokens, const think_prune_options *options, think_prune_result *result, think_error *error);
think_status think_prune(const think_plan *plan, const void *score_state, const think_segment *source, const think_segment *destination, const think_batch *batch, const think_prune_options *options, uint8_t *mask, const think_launch *launch, think_error *error);
think_status think_tensor_from_dlpack(const struct DLTensor *source, think_device *device, think_tensor *tensor, think_error *error);
void think_evict_options_init(think_evict_options *options, uint32_t struct_size);
think_status think_evict(const think_plan *plan, const think_tensor *window_query, const think_segment *source, const think_batch *batch, const think_evict_options *options, const int32_t *budget, float *score, int32_t *kept, int32_t *lengths, const think_launch *launch, think_error *error);
think_status think_evict_move(const think_plan *plan, const think_segment *source, const think_segment *destination, const think_batch *batch, const int32_t *kept, int64_t kept_stride, float *score, int64_t score_stride, const think_launch *launch, think_error *error);
void think_cache_options_init(think_cache_options *options, uint32_t struct_size);
void think_cache_info_init(think_cache_info *info, uint32_t struct_size);
think_status think_cache_create(const think_plan *plan, const think_cache_options *options, think_cache **cache, think_error *error);
void think_cache_destroy(think_cache *cache);
think_status think_cache_workspace_size(const think_cache *cache, int64_t *bytes, int64_t *alignment, think_error *error);
think_status think_cache_step(think_cache *cache, const int32_t *sequences, const int32_t *new_tokens, int32_t count, const think_launch *launch, think_error *error);
think_status think_cache_append(think_cache *cache, int32_t layer, const think_tensor *query, const think_tensor *key, const think_tensor *value, const think_launch *launch, think_error *error);
think_status think_cache_attend(const think_cache *cache, int32_t layer, const think_tensor *query, const float *sink_logit, const think_tensor *output, float *lse, const think_launch *launch, think_error *error);
think_status think_cache_prune(think_cache *cache, const int32_t *sequences, int32_t count, const think_launch *launch, think_error *error);
think_status think_cache_usage(const think_cache *cache, int32_t sequence, think_cache_info *info, think_error *error);
think_status think_cache_segments(const think_cache *cache, int32_t layer, think_segment *segments, int32_t capacity, int32_t *count, think_error *error);
think_status think_cache_trim(think_cache *cache, int32_t sequence, int64_t tokens, think_error *error);
think_status think_cache_fork(think_cache *cache, int32_t source, int32_t destination, think_error *error);
think_status think_cache_drop(think_cache *cache, int32_t sequence, think_error *error);
think_status think_cache_reset(think_cache *cache, think_error *error);
think_status think_cache_export_dense(const think_cache *cache, int32_t sequence, int32_t layer, int64_t first, int64_t count, const think_tensor *key, const think_tensor *value, const think_launch *launch, think_error *error);
think_status think_cache_save_size(const think_cache *cache, int32_t sequence, int64_t *bytes, think_error *error);
think_status think_cache_save(const think_cache *cache, int32_t sequence, think_writer write, void *user, think_error *error);
think_status think_cache_load(think_cache *cache, int32_t sequence, think_reader read, void *user, think_error *error);
think_status think_cache_evict(think_cache *cache, const int32_t *sequences, int32_t count, const think_evict_options *options, const think_tensor *window_query, float *score, const think_launch *launch, think_error *error);
think_status think_cache_keep(think_cache *cache, int32_t sequence, const int32_t *kept, int32_t rows, think_error *error);
think_status think_cache_sequence_segments(const think_cache *cache, int32_t sequence, int32_t layer, think_segment *segments, int32_t capacity, int32_t *count, think_error *error);
think_status think_cache_slab_size(const think_plan *plan, const think_cache_options *options, int64_t dense_tokens, int64_t compact_tokens, int64_t *bytes, think_error *error);
think_status think_cache_graph_id(const think_cache *cache, int64_t *id, think_error *error);
think_status think_cache_replayed(think_cache *cache, int64_t id, think_error *error);
"""

FIELDS = {
    "think_error": ["flags", "code", "argument", "native_code", "message"],
    "think_tensor": ["flags", "data", "dtype", "extent", "stride"],
    "think_batch": ["flags", "count", "lengths", "row_start", "slot"],
    "think_context_options": ["flags", "device_type", "device_index", "threads", "parallel_for", "allocate", "deallocate", "log", "user"],
    "think_problem": ["flags", "query_dtype", "cache_dtype", "output_dtype", "query_heads", "kv_heads", "key_channels", "value_channels", "window",
        "max_batch", "max_queries", "max_tokens", "scale", "softcap"],
    "think_launch": ["flags", "workspace", "workspace_bytes", "stream", "slice", "slices"],
    "think_extent": ["flags", "batch", "queries", "segments", "tokens", "rows"],
    "think_basis": ["flags", "channels", "slots", "kept", "index", "weight", "weight_bytes", "weight_offset", "offset"],
    "think_segment": ["flags", "key_layout", "value_layout", "page_tokens", "key_dtype", "value_dtype", "key", "value", "key_stride", "value_stride",
        "key_head_offset", "value_head_offset", "pages", "pages_stride", "first", "lengths", "lengths_stride", "slot", "key_basis", "value_basis",
        "key_scale", "value_scale"],
    "think_format": ["flags", "key_layout", "value_layout", "key_dtype", "value_dtype"],
    "think_layout_info": ["flags", "key_page_bytes", "value_page_bytes", "key_basis_bytes", "value_basis_bytes", "alignment"],
    "think_evict_options": ["flags", "method", "budget", "sinks", "recent", "pooling", "kernel", "kept_stride", "score_stride"],
    "think_score_options": ["flags"],
    "think_moments_options": ["flags", "sinks", "recent", "attention_share"],
    "think_budget_options": ["flags", "layers", "floor", "step", "total"],
    "think_select_options": ["flags", "side", "kept", "round_to"],
    "think_fit_options": ["flags", "side", "ridge"],
    "think_prune_options": ["flags", "mode", "budget", "key_kept", "value_kept", "sinks", "recent", "attention_share", "ridge", "dense_limit"],
    "think_prune_result": ["flags", "first", "rows", "key_total", "value_total", "dense_bytes", "key_bytes", "value_bytes", "key_basis_bytes",
        "value_basis_bytes"],
    "think_cache_options": ["flags", "layers", "sequences", "fold", "refit", "rollback", "reserve_tokens", "limit_bytes", "prune", "format",
        "layer_formats", "slab", "slab_bytes", "bases", "scored"],
    "think_cache_info": ["flags", "tokens", "compact_tokens", "dense_bytes", "page_bytes", "basis_bytes", "score_bytes", "table_bytes", "spare_bytes",
        "allocated_bytes", "key_channels", "value_channels", "runs", "sequences", "evicted_tokens"],
}

POINTERS = {
    ("think_tensor", "data"): "void *",
    ("think_batch", "lengths"): "const int32_t *",
    ("think_batch", "row_start"): "const int32_t *",
    ("think_batch", "slot"): "const int32_t *",
    ("think_context_options", "user"): "void *",
    ("think_launch", "workspace"): "void *",
    ("think_launch", "stream"): "void *",
    ("think_basis", "kept"): "int32_t *",
    ("think_basis", "index"): "int32_t *",
    ("think_basis", "weight"): "void *",
    ("think_basis", "weight_offset"): "int64_t *",
    ("think_basis", "offset"): "float *",
    ("think_segment", "key"): "void *",
    ("think_segment", "value"): "void *",
    ("think_segment", "key_head_offset"): "int64_t *",
    ("think_segment", "value_head_offset"): "int64_t *",
    ("think_segment", "pages"): "const int32_t *",
    ("think_segment", "first"): "const int32_t *",
    ("think_segment", "lengths"): "const int32_t *",
    ("think_segment", "slot"): "const int32_t *",
    ("think_segment", "key_scale"): "float *",
    ("think_segment", "value_scale"): "float *",
    ("think_cache_options", "slab"): "void *",
}

SINCE = {
    "think_version": "0.9",
    "think_abi_version": "0.9",
    "think_version_string": "0.9",
    "think_error_init": "0.9",
    "think_status_name": "0.9",
    "think_tensor_init": "0.9",
    "think_batch_init": "0.9",
    "think_dtype_bytes": "0.9",
    "think_dtype_name": "0.9",
    "think_context_options_init": "0.9",
    "think_context_create": "0.9",
    "think_context_destroy": "0.9",
    "think_query": "0.9",
    "think_backend_reason": "0.9",
    "think_problem_init": "0.9",
    "think_launch_init": "0.9",
    "think_extent_init": "0.9",
    "think_supports": "0.9",
    "think_plan_create": "0.9",
    "think_plan_destroy": "0.9",
    "think_plan_describe": "0.9",
    "think_workspace_size": "0.9",
    "think_kept_channels": "0.9",
    "think_basis_init": "0.9",
    "think_basis_size": "0.9",
    "think_basis_bind": "0.9",
    "think_segment_init": "0.9",
    "think_format_init": "0.9",
    "think_layout_info_init": "0.9",
    "think_layout": "0.9",
    "think_segment_place": "0.9",
    "think_score_options_init": "0.9",
    "think_score_state_size": "0.9",
    "think_score_reset": "0.9",
    "think_score_update": "0.9",
    "think_score_finish": "0.9",
    "think_score_window": "0.9",
    "think_value_score": "0.9",
    "think_moments_options_init": "0.9",
    "think_moments_size": "0.9",
    "think_moments": "0.9",
    "think_gains": "0.9",
    "think_budget_options_init": "0.9",
    "think_select_options_init": "0.9",
    "think_budgets": "0.9",
    "think_select": "0.9",
    "think_fit_options_init": "0.9",
    "think_fit": "0.9",
    "think_compact": "0.9",
    "think_attend": "0.9",
    "think_merge": "0.9",
    "think_prune_options_init": "0.9",
    "think_prune_result_init": "0.9",
    "think_prune_preview": "0.9",
    "think_prune": "0.9",
    "think_tensor_from_dlpack": "0.9",
    "think_evict_options_init": "0.10",
    "think_evict": "0.10",
    "think_evict_move": "0.10",
    "think_cache_options_init": "0.11",
    "think_cache_info_init": "0.11",
    "think_cache_create": "0.11",
    "think_cache_destroy": "0.11",
    "think_cache_workspace_size": "0.11",
    "think_cache_step": "0.11",
    "think_cache_append": "0.11",
    "think_cache_attend": "0.11",
    "think_cache_prune": "0.11",
    "think_cache_usage": "0.11",
    "think_cache_segments": "0.11",
    "think_cache_trim": "0.11",
    "think_cache_fork": "0.11",
    "think_cache_drop": "0.11",
    "think_cache_reset": "0.11",
    "think_cache_export_dense": "0.11",
    "think_cache_save_size": "0.11",
    "think_cache_save": "0.11",
    "think_cache_load": "0.11",
    "think_cache_evict": "0.11",
    "think_cache_keep": "0.11",
    "think_cache_sequence_segments": "0.11",
    "think_cache_slab_size": "0.11",
    "think_cache_graph_id": "0.11",
    "think_cache_replayed": "0.11",
}
