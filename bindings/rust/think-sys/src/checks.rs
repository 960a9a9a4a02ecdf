// think.json and bindgen must say the same, and what follows from both. Written by bindings/tools/regenerate.sh from think.json: do not edit.

use core::mem::{offset_of, size_of};

use crate::types::*;

/// Every function, in the order of the table.
pub const FUNCTIONS: [&str; 84] = [
    "think_version",
    "think_abi_version",
    "think_version_string",
    "think_error_init",
    "think_status_name",
    "think_tensor_init",
    "think_batch_init",
    "think_dtype_bytes",
    "think_dtype_name",
    "think_context_options_init",
    "think_context_create",
    "think_context_destroy",
    "think_query",
    "think_backend_reason",
    "think_problem_init",
    "think_launch_init",
    "think_extent_init",
    "think_supports",
    "think_plan_create",
    "think_plan_destroy",
    "think_plan_describe",
    "think_workspace_size",
    "think_kept_channels",
    "think_basis_init",
    "think_basis_size",
    "think_basis_bind",
    "think_segment_init",
    "think_format_init",
    "think_layout_info_init",
    "think_layout",
    "think_segment_place",
    "think_score_options_init",
    "think_score_state_size",
    "think_score_reset",
    "think_score_update",
    "think_score_finish",
    "think_score_window",
    "think_value_score",
    "think_moments_options_init",
    "think_moments_size",
    "think_moments",
    "think_gains",
    "think_budget_options_init",
    "think_select_options_init",
    "think_budgets",
    "think_select",
    "think_fit_options_init",
    "think_fit",
    "think_compact",
    "think_attend",
    "think_merge",
    "think_prune_options_init",
    "think_prune_result_init",
    "think_prune_preview",
    "think_prune",
    "think_tensor_from_dlpack",
    "think_evict_options_init",
    "think_evict",
    "think_evict_move",
    "think_cache_options_init",
    "think_cache_info_init",
    "think_cache_create",
    "think_cache_destroy",
    "think_cache_workspace_size",
    "think_cache_step",
    "think_cache_append",
    "think_cache_attend",
    "think_cache_prune",
    "think_cache_usage",
    "think_cache_segments",
    "think_cache_trim",
    "think_cache_fork",
    "think_cache_drop",
    "think_cache_reset",
    "think_cache_export_dense",
    "think_cache_save_size",
    "think_cache_save",
    "think_cache_load",
    "think_cache_evict",
    "think_cache_keep",
    "think_cache_sequence_segments",
    "think_cache_slab_size",
    "think_cache_graph_id",
    "think_cache_replayed",
];

const _: () = {
    assert!(size_of::<think_error>() == 280);
    assert!(offset_of!(think_error, struct_size) == 0);
    assert!(offset_of!(think_error, flags) == 4);
    assert!(offset_of!(think_error, code) == 8);
    assert!(offset_of!(think_error, argument) == 12);
    assert!(offset_of!(think_error, native_code) == 16);
    assert!(offset_of!(think_error, message) == 20);
    assert!(offset_of!(think_error, reserved) == 276);
    assert!(size_of::<think_tensor>() == 88);
    assert!(offset_of!(think_tensor, struct_size) == 0);
    assert!(offset_of!(think_tensor, flags) == 4);
    assert!(offset_of!(think_tensor, data) == 8);
    assert!(offset_of!(think_tensor, dtype) == 16);
    assert!(offset_of!(think_tensor, reserved) == 20);
    assert!(offset_of!(think_tensor, extent) == 24);
    assert!(offset_of!(think_tensor, stride) == 56);
    assert!(size_of::<think_batch>() == 40);
    assert!(offset_of!(think_batch, struct_size) == 0);
    assert!(offset_of!(think_batch, flags) == 4);
    assert!(offset_of!(think_batch, count) == 8);
    assert!(offset_of!(think_batch, reserved) == 12);
    assert!(offset_of!(think_batch, lengths) == 16);
    assert!(offset_of!(think_batch, row_start) == 24);
    assert!(offset_of!(think_batch, slot) == 32);
    assert!(size_of::<think_context_options>() == 64);
    assert!(offset_of!(think_context_options, struct_size) == 0);
    assert!(offset_of!(think_context_options, flags) == 4);
    assert!(offset_of!(think_context_options, device_type) == 8);
    assert!(offset_of!(think_context_options, device_index) == 12);
    assert!(offset_of!(think_context_options, threads) == 16);
    assert!(offset_of!(think_context_options, reserved) == 20);
    assert!(offset_of!(think_context_options, parallel_for) == 24);
    assert!(offset_of!(think_context_options, allocate) == 32);
    assert!(offset_of!(think_context_options, deallocate) == 40);
    assert!(offset_of!(think_context_options, log) == 48);
    assert!(offset_of!(think_context_options, user) == 56);
    assert!(size_of::<think_problem>() == 64);
    assert!(offset_of!(think_problem, struct_size) == 0);
    assert!(offset_of!(think_problem, flags) == 4);
    assert!(offset_of!(think_problem, query_dtype) == 8);
    assert!(offset_of!(think_problem, cache_dtype) == 12);
    assert!(offset_of!(think_problem, output_dtype) == 16);
    assert!(offset_of!(think_problem, query_heads) == 20);
    assert!(offset_of!(think_problem, kv_heads) == 24);
    assert!(offset_of!(think_problem, key_channels) == 28);
    assert!(offset_of!(think_problem, value_channels) == 32);
    assert!(offset_of!(think_problem, window) == 36);
    assert!(offset_of!(think_problem, max_batch) == 40);
    assert!(offset_of!(think_problem, max_queries) == 44);
    assert!(offset_of!(think_problem, max_tokens) == 48);
    assert!(offset_of!(think_problem, scale) == 56);
    assert!(offset_of!(think_problem, softcap) == 60);
    assert!(size_of::<think_launch>() == 40);
    assert!(offset_of!(think_launch, struct_size) == 0);
    assert!(offset_of!(think_launch, flags) == 4);
    assert!(offset_of!(think_launch, workspace) == 8);
    assert!(offset_of!(think_launch, workspace_bytes) == 16);
    assert!(offset_of!(think_launch, stream) == 24);
    assert!(offset_of!(think_launch, slice) == 32);
    assert!(offset_of!(think_launch, slices) == 36);
    assert!(size_of::<think_extent>() == 40);
    assert!(offset_of!(think_extent, struct_size) == 0);
    assert!(offset_of!(think_extent, flags) == 4);
    assert!(offset_of!(think_extent, batch) == 8);
    assert!(offset_of!(think_extent, queries) == 12);
    assert!(offset_of!(think_extent, segments) == 16);
    assert!(offset_of!(think_extent, reserved) == 20);
    assert!(offset_of!(think_extent, tokens) == 24);
    assert!(offset_of!(think_extent, rows) == 32);
    assert!(size_of::<think_basis>() == 64);
    assert!(offset_of!(think_basis, struct_size) == 0);
    assert!(offset_of!(think_basis, flags) == 4);
    assert!(offset_of!(think_basis, channels) == 8);
    assert!(offset_of!(think_basis, slots) == 12);
    assert!(offset_of!(think_basis, kept) == 16);
    assert!(offset_of!(think_basis, index) == 24);
    assert!(offset_of!(think_basis, weight) == 32);
    assert!(offset_of!(think_basis, weight_bytes) == 40);
    assert!(offset_of!(think_basis, weight_offset) == 48);
    assert!(offset_of!(think_basis, offset) == 56);
    assert!(size_of::<think_segment>() == 200);
    assert!(offset_of!(think_segment, struct_size) == 0);
    assert!(offset_of!(think_segment, flags) == 4);
    assert!(offset_of!(think_segment, key_layout) == 8);
    assert!(offset_of!(think_segment, value_layout) == 12);
    assert!(offset_of!(think_segment, page_tokens) == 16);
    assert!(offset_of!(think_segment, reserved) == 20);
    assert!(offset_of!(think_segment, key_dtype) == 24);
    assert!(offset_of!(think_segment, value_dtype) == 28);
    assert!(offset_of!(think_segment, key) == 32);
    assert!(offset_of!(think_segment, value) == 40);
    assert!(offset_of!(think_segment, key_stride) == 48);
    assert!(offset_of!(think_segment, value_stride) == 72);
    assert!(offset_of!(think_segment, key_head_offset) == 96);
    assert!(offset_of!(think_segment, value_head_offset) == 104);
    assert!(offset_of!(think_segment, pages) == 112);
    assert!(offset_of!(think_segment, pages_stride) == 120);
    assert!(offset_of!(think_segment, first) == 128);
    assert!(offset_of!(think_segment, lengths) == 136);
    assert!(offset_of!(think_segment, lengths_stride) == 144);
    assert!(offset_of!(think_segment, slot) == 160);
    assert!(offset_of!(think_segment, key_basis) == 168);
    assert!(offset_of!(think_segment, value_basis) == 176);
    assert!(offset_of!(think_segment, key_scale) == 184);
    assert!(offset_of!(think_segment, value_scale) == 192);
    assert!(size_of::<think_format>() == 24);
    assert!(offset_of!(think_format, struct_size) == 0);
    assert!(offset_of!(think_format, flags) == 4);
    assert!(offset_of!(think_format, key_layout) == 8);
    assert!(offset_of!(think_format, value_layout) == 12);
    assert!(offset_of!(think_format, key_dtype) == 16);
    assert!(offset_of!(think_format, value_dtype) == 20);
    assert!(size_of::<think_layout_info>() == 48);
    assert!(offset_of!(think_layout_info, struct_size) == 0);
    assert!(offset_of!(think_layout_info, flags) == 4);
    assert!(offset_of!(think_layout_info, key_page_bytes) == 8);
    assert!(offset_of!(think_layout_info, value_page_bytes) == 16);
    assert!(offset_of!(think_layout_info, key_basis_bytes) == 24);
    assert!(offset_of!(think_layout_info, value_basis_bytes) == 32);
    assert!(offset_of!(think_layout_info, alignment) == 40);
    assert!(size_of::<think_evict_options>() == 48);
    assert!(offset_of!(think_evict_options, struct_size) == 0);
    assert!(offset_of!(think_evict_options, flags) == 4);
    assert!(offset_of!(think_evict_options, method) == 8);
    assert!(offset_of!(think_evict_options, budget) == 12);
    assert!(offset_of!(think_evict_options, sinks) == 16);
    assert!(offset_of!(think_evict_options, recent) == 20);
    assert!(offset_of!(think_evict_options, pooling) == 24);
    assert!(offset_of!(think_evict_options, kernel) == 28);
    assert!(offset_of!(think_evict_options, kept_stride) == 32);
    assert!(offset_of!(think_evict_options, score_stride) == 40);
    assert!(size_of::<think_score_options>() == 8);
    assert!(offset_of!(think_score_options, struct_size) == 0);
    assert!(offset_of!(think_score_options, flags) == 4);
    assert!(size_of::<think_moments_options>() == 24);
    assert!(offset_of!(think_moments_options, struct_size) == 0);
    assert!(offset_of!(think_moments_options, flags) == 4);
    assert!(offset_of!(think_moments_options, sinks) == 8);
    assert!(offset_of!(think_moments_options, recent) == 12);
    assert!(offset_of!(think_moments_options, attention_share) == 16);
    assert!(offset_of!(think_moments_options, reserved) == 20);
    assert!(size_of::<think_budget_options>() == 32);
    assert!(offset_of!(think_budget_options, struct_size) == 0);
    assert!(offset_of!(think_budget_options, flags) == 4);
    assert!(offset_of!(think_budget_options, layers) == 8);
    assert!(offset_of!(think_budget_options, floor) == 12);
    assert!(offset_of!(think_budget_options, step) == 16);
    assert!(offset_of!(think_budget_options, reserved) == 20);
    assert!(offset_of!(think_budget_options, total) == 24);
    assert!(size_of::<think_select_options>() == 24);
    assert!(offset_of!(think_select_options, struct_size) == 0);
    assert!(offset_of!(think_select_options, flags) == 4);
    assert!(offset_of!(think_select_options, side) == 8);
    assert!(offset_of!(think_select_options, kept) == 12);
    assert!(offset_of!(think_select_options, round_to) == 16);
    assert!(offset_of!(think_select_options, reserved) == 20);
    assert!(size_of::<think_fit_options>() == 24);
    assert!(offset_of!(think_fit_options, struct_size) == 0);
    assert!(offset_of!(think_fit_options, flags) == 4);
    assert!(offset_of!(think_fit_options, side) == 8);
    assert!(offset_of!(think_fit_options, reserved) == 12);
    assert!(offset_of!(think_fit_options, ridge) == 16);
    assert!(offset_of!(think_fit_options, reserved2) == 20);
    assert!(size_of::<think_prune_options>() == 48);
    assert!(offset_of!(think_prune_options, struct_size) == 0);
    assert!(offset_of!(think_prune_options, flags) == 4);
    assert!(offset_of!(think_prune_options, mode) == 8);
    assert!(offset_of!(think_prune_options, budget) == 12);
    assert!(offset_of!(think_prune_options, key_kept) == 16);
    assert!(offset_of!(think_prune_options, value_kept) == 20);
    assert!(offset_of!(think_prune_options, sinks) == 24);
    assert!(offset_of!(think_prune_options, recent) == 28);
    assert!(offset_of!(think_prune_options, attention_share) == 32);
    assert!(offset_of!(think_prune_options, ridge) == 36);
    assert!(offset_of!(think_prune_options, dense_limit) == 40);
    assert!(offset_of!(think_prune_options, reserved) == 44);
    assert!(size_of::<think_prune_result>() == 80);
    assert!(offset_of!(think_prune_result, struct_size) == 0);
    assert!(offset_of!(think_prune_result, flags) == 4);
    assert!(offset_of!(think_prune_result, first) == 8);
    assert!(offset_of!(think_prune_result, rows) == 16);
    assert!(offset_of!(think_prune_result, key_total) == 24);
    assert!(offset_of!(think_prune_result, value_total) == 32);
    assert!(offset_of!(think_prune_result, dense_bytes) == 40);
    assert!(offset_of!(think_prune_result, key_bytes) == 48);
    assert!(offset_of!(think_prune_result, value_bytes) == 56);
    assert!(offset_of!(think_prune_result, key_basis_bytes) == 64);
    assert!(offset_of!(think_prune_result, value_basis_bytes) == 72);
    assert!(size_of::<think_cache_options>() == 96);
    assert!(offset_of!(think_cache_options, struct_size) == 0);
    assert!(offset_of!(think_cache_options, flags) == 4);
    assert!(offset_of!(think_cache_options, layers) == 8);
    assert!(offset_of!(think_cache_options, sequences) == 12);
    assert!(offset_of!(think_cache_options, fold) == 16);
    assert!(offset_of!(think_cache_options, refit) == 20);
    assert!(offset_of!(think_cache_options, rollback) == 24);
    assert!(offset_of!(think_cache_options, reserved) == 28);
    assert!(offset_of!(think_cache_options, reserve_tokens) == 32);
    assert!(offset_of!(think_cache_options, limit_bytes) == 40);
    assert!(offset_of!(think_cache_options, prune) == 48);
    assert!(offset_of!(think_cache_options, format) == 56);
    assert!(offset_of!(think_cache_options, layer_formats) == 64);
    assert!(offset_of!(think_cache_options, slab) == 72);
    assert!(offset_of!(think_cache_options, slab_bytes) == 80);
    assert!(offset_of!(think_cache_options, bases) == 88);
    assert!(offset_of!(think_cache_options, scored) == 92);
    assert!(size_of::<think_cache_info>() == 104);
    assert!(offset_of!(think_cache_info, struct_size) == 0);
    assert!(offset_of!(think_cache_info, flags) == 4);
    assert!(offset_of!(think_cache_info, tokens) == 8);
    assert!(offset_of!(think_cache_info, compact_tokens) == 16);
    assert!(offset_of!(think_cache_info, dense_bytes) == 24);
    assert!(offset_of!(think_cache_info, page_bytes) == 32);
    assert!(offset_of!(think_cache_info, basis_bytes) == 40);
    assert!(offset_of!(think_cache_info, score_bytes) == 48);
    assert!(offset_of!(think_cache_info, table_bytes) == 56);
    assert!(offset_of!(think_cache_info, spare_bytes) == 64);
    assert!(offset_of!(think_cache_info, allocated_bytes) == 72);
    assert!(offset_of!(think_cache_info, key_channels) == 80);
    assert!(offset_of!(think_cache_info, value_channels) == 84);
    assert!(offset_of!(think_cache_info, runs) == 88);
    assert!(offset_of!(think_cache_info, sequences) == 92);
    assert!(offset_of!(think_cache_info, evicted_tokens) == 96);
    assert!(THINK_VERSION_MAJOR == 0);
    assert!(THINK_VERSION_MINOR == 11);
    assert!(THINK_VERSION_PATCH == 0);
    assert!(THINK_ABI_MAJOR == 1);
    assert!(THINK_OK == 0);
    assert!(THINK_E_ARGUMENT == 1);
    assert!(THINK_E_UNSUPPORTED == 2);
    assert!(THINK_E_WORKSPACE == 3);
    assert!(THINK_E_MEMORY == 4);
    assert!(THINK_E_DEVICE == 5);
    assert!(THINK_E_STATE == 6);
    assert!(THINK_E_FORMAT == 7);
    assert!(THINK_E_IO == 8);
    assert!(THINK_E_INTERNAL == 9);
    assert!(THINK_F32 == 73730);
    assert!(THINK_F16 == 69634);
    assert!(THINK_BF16 == 69636);
    assert!(THINK_U8 == 67585);
    assert!(THINK_U4 == 66561);
    assert!(THINK_U2 == 66049);
    assert!(THINK_F8_E4M3 == 67594);
    assert!(THINK_DEVICE_CPU == 1);
    assert!(THINK_DEVICE_CUDA == 2);
    assert!(THINK_LOG_DEBUG == 0);
    assert!(THINK_LOG_INFO == 1);
    assert!(THINK_LOG_WARNING == 2);
    assert!(THINK_QUERY_VERSION == 1);
    assert!(THINK_QUERY_ABI == 2);
    assert!(THINK_QUERY_DEVICE_TYPE == 3);
    assert!(THINK_QUERY_DEVICE_INDEX == 4);
    assert!(THINK_QUERY_THREADS == 5);
    assert!(THINK_QUERY_ISA == 6);
    assert!(THINK_QUERY_ISA_AVAILABLE == 7);
    assert!(THINK_QUERY_BACKENDS == 8);
    assert!(THINK_QUERY_MAX_CHANNELS == 9);
    assert!(THINK_QUERY_MAX_SEGMENTS == 10);
    assert!(THINK_ISA_PORTABLE == 0);
    assert!(THINK_ISA_AVX2 == 1);
    assert!(THINK_ISA_AVX512 == 2);
    assert!(THINK_ISA_AVX512BF16 == 3);
    assert!(THINK_ISA_NEON == 4);
    assert!(THINK_PROBLEM_BATCH_INVARIANT == 1);
    assert!(THINK_LAUNCH_CHECK == 1);
    assert!(THINK_STAGE_SCORE == 1);
    assert!(THINK_STAGE_MOMENTS == 2);
    assert!(THINK_STAGE_SELECT == 3);
    assert!(THINK_STAGE_FIT == 4);
    assert!(THINK_STAGE_COMPACT == 5);
    assert!(THINK_STAGE_ATTEND == 6);
    assert!(THINK_STAGE_PRUNE == 7);
    assert!(THINK_STAGE_EVICT == 8);
    assert!(THINK_KEYS == 0);
    assert!(THINK_VALUES == 1);
    assert!(THINK_ROWS == 0);
    assert!(THINK_TILES == 1);
    assert!(THINK_SEGMENT_CAUSAL == 1);
    assert!(THINK_SEGMENT_MEASURE == 2);
    assert!(THINK_EVICT_SNAPKV == 0);
    assert!(THINK_EVICT_H2O == 1);
    assert!(THINK_EVICT_WINDOW == 2);
    assert!(THINK_EVICT_TOVA == 3);
    assert!(THINK_EVICT_RECENT == 4);
    assert!(THINK_POOL_MAX == 0);
    assert!(THINK_POOL_MEAN == 1);
    assert!(THINK_SCORE_QUERY_HEADS == 1);
    assert!(THINK_BUDGET_NORMALISE == 1);
    assert!(THINK_SELECT_PAIRS_HALVES == 1);
    assert!(THINK_SELECT_PAIRS_INTERLEAVED == 2);
    assert!(THINK_MAX_SEGMENTS == 16);
    assert!(THINK_MODE_REGRESSED == 0);
    assert!(THINK_MODE_CHANNELS == 1);
    assert!(THINK_BUDGET_ADAPTIVE == 0);
    assert!(THINK_BUDGET_UNIFORM == 1);
    assert!(THINK_FOLD_NEVER == 0);
    assert!(THINK_FOLD_BLOCK == 1);
    assert!(THINK_CACHE_MAX_RUNS == 3);
    assert!(THINK_CACHE_NO_SCORES == 1);
    assert!(THINK_CACHE_KEEP_SCORES == 2);
};

#[cfg(not(feature = "dlopen"))]
#[allow(clippy::type_complexity)]
const _: () = {
    use core::ffi::{c_char, c_void};

    use crate::functions::*;
    let _: unsafe extern "C" fn() -> i32 = think_version;
    let _: unsafe extern "C" fn() -> i32 = think_abi_version;
    let _: unsafe extern "C" fn() -> *const c_char = think_version_string;
    let _: unsafe extern "C" fn(*mut think_error, u32) = think_error_init;
    let _: unsafe extern "C" fn(think_status) -> *const c_char = think_status_name;
    let _: unsafe extern "C" fn(*mut think_tensor, u32) = think_tensor_init;
    let _: unsafe extern "C" fn(*mut think_batch, u32) = think_batch_init;
    let _: unsafe extern "C" fn(think_dtype) -> i32 = think_dtype_bytes;
    let _: unsafe extern "C" fn(think_dtype) -> *const c_char = think_dtype_name;
    let _: unsafe extern "C" fn(*mut think_context_options, u32) = think_context_options_init;
    let _: unsafe extern "C" fn(*const think_context_options, *mut *mut think_context, *mut think_error) -> think_status = think_context_create;
    let _: unsafe extern "C" fn(*mut think_context) = think_context_destroy;
    let _: unsafe extern "C" fn(*const think_context, i32, *mut i64, *mut think_error) -> think_status = think_query;
    let _: unsafe extern "C" fn(think_device, *mut c_char, usize, *mut usize, *mut think_error) -> think_status = think_backend_reason;
    let _: unsafe extern "C" fn(*mut think_problem, u32) = think_problem_init;
    let _: unsafe extern "C" fn(*mut think_launch, u32) = think_launch_init;
    let _: unsafe extern "C" fn(*mut think_extent, u32) = think_extent_init;
    let _: unsafe extern "C" fn(*const think_context, *const think_problem, *mut think_error) -> think_status = think_supports;
    let _: unsafe extern "C" fn(*const think_context, *const think_problem, *mut *mut think_plan, *mut think_error) -> think_status = think_plan_create;
    let _: unsafe extern "C" fn(*mut think_plan) = think_plan_destroy;
    let _: unsafe extern "C" fn(*const think_plan, *mut c_char, usize, *mut usize, *mut think_error) -> think_status = think_plan_describe;
    let _: unsafe extern "C" fn(*const think_plan, i32, *const think_extent, *mut i64, *mut i64, *mut think_error) -> think_status = think_workspace_size;
    let _: unsafe extern "C" fn(i32, f64) -> i32 = think_kept_channels;
    let _: unsafe extern "C" fn(*mut think_basis, u32) = think_basis_init;
    let _: unsafe extern "C" fn(*const think_plan, i32, i32, *mut i64, *mut i64, *mut think_error) -> think_status = think_basis_size;
    let _: unsafe extern "C" fn(*const think_plan, i32, i32, *mut c_void, i64, *mut think_basis, *mut think_error) -> think_status = think_basis_bind;
    let _: unsafe extern "C" fn(*mut think_segment, u32) = think_segment_init;
    let _: unsafe extern "C" fn(*mut think_format, u32) = think_format_init;
    let _: unsafe extern "C" fn(*mut think_layout_info, u32) = think_layout_info_init;
    let _: unsafe extern "C" fn(*const think_plan, *const think_format, i32, i64, i64, *mut think_layout_info, *mut think_error) -> think_status = think_layout;
    let _: unsafe extern "C" fn(*const think_plan, *const think_segment, *const think_batch, *const think_launch, *mut think_error) -> think_status = think_segment_place;
    let _: unsafe extern "C" fn(*mut think_score_options, u32) = think_score_options_init;
    let _: unsafe extern "C" fn(*const think_plan, i32, *mut i64, *mut think_error) -> think_status = think_score_state_size;
    let _: unsafe extern "C" fn(*const think_plan, *mut c_void, *const think_batch, *const think_launch, *mut think_error) -> think_status = think_score_reset;
    let _: unsafe extern "C" fn(*const think_plan, *const think_tensor, *const think_tensor, *const think_batch, *mut c_void, *const think_launch, *mut think_error) -> think_status = think_score_update;
    let _: unsafe extern "C" fn(*const think_plan, *const c_void, *const think_batch, *const think_score_options, *mut f32, *const think_launch, *mut think_error) -> think_status = think_score_finish;
    let _: unsafe extern "C" fn(*const think_plan, *const c_void, i32, *mut think_tensor, *mut think_error) -> think_status = think_score_window;
    let _: unsafe extern "C" fn(*const think_plan, *const think_tensor, *const think_batch, *mut f32, *const think_launch, *mut think_error) -> think_status = think_value_score;
    let _: unsafe extern "C" fn(*mut think_moments_options, u32) = think_moments_options_init;
    let _: unsafe extern "C" fn(*const think_plan, i32, *mut i64, *mut think_error) -> think_status = think_moments_size;
    let _: unsafe extern "C" fn(*const think_plan, *const think_tensor, *const think_segment, *const think_batch, *const think_moments_options, *mut c_void, *const think_launch, *mut think_error) -> think_status = think_moments;
    let _: unsafe extern "C" fn(*const think_plan, *const c_void, *const think_batch, i32, *const f32, *mut f32, *mut i32, *const think_launch, *mut think_error) -> think_status = think_gains;
    let _: unsafe extern "C" fn(*mut think_budget_options, u32) = think_budget_options_init;
    let _: unsafe extern "C" fn(*mut think_select_options, u32) = think_select_options_init;
    let _: unsafe extern "C" fn(*const think_plan, *const f32, *const think_batch, i32, *const think_budget_options, *mut i32, *const think_launch, *mut think_error) -> think_status = think_budgets;
    let _: unsafe extern "C" fn(*const think_plan, *const f32, *const think_batch, *const think_select_options, *const i32, *mut think_basis, *mut u8, *const think_launch, *mut think_error) -> think_status = think_select;
    let _: unsafe extern "C" fn(*mut think_fit_options, u32) = think_fit_options_init;
    let _: unsafe extern "C" fn(*const think_plan, *const c_void, *const think_batch, *const think_fit_options, *mut think_basis, *const think_launch, *mut think_error) -> think_status = think_fit;
    let _: unsafe extern "C" fn(*const think_plan, *const think_segment, *const think_segment, *const think_batch, *const think_launch, *mut think_error) -> think_status = think_compact;
    let _: unsafe extern "C" fn(*const think_plan, *const think_tensor, *const think_batch, *const think_segment, i32, *const f32, *const think_tensor, *mut f32, *const think_launch, *mut think_error) -> think_status = think_attend;
    let _: unsafe extern "C" fn(*const think_plan, *const think_tensor, *const *const f32, i32, *const think_tensor, *mut f32, *const think_launch, *mut think_error) -> think_status = think_merge;
    let _: unsafe extern "C" fn(*mut think_prune_options, u32) = think_prune_options_init;
    let _: unsafe extern "C" fn(*mut think_prune_result, u32) = think_prune_result_init;
    let _: unsafe extern "C" fn(*const think_plan, *const think_format, i64, *const think_prune_options, *mut think_prune_result, *mut think_error) -> think_status = think_prune_preview;
    let _: unsafe extern "C" fn(*const think_plan, *const c_void, *const think_segment, *const think_segment, *const think_batch, *const think_prune_options, *mut u8, *const think_launch, *mut think_error) -> think_status = think_prune;
    let _: unsafe extern "C" fn(*const DLTensor, *mut think_device, *mut think_tensor, *mut think_error) -> think_status = think_tensor_from_dlpack;
    let _: unsafe extern "C" fn(*mut think_evict_options, u32) = think_evict_options_init;
    let _: unsafe extern "C" fn(*const think_plan, *const think_tensor, *const think_segment, *const think_batch, *const think_evict_options, *const i32, *mut f32, *mut i32, *mut i32, *const think_launch, *mut think_error) -> think_status = think_evict;
    let _: unsafe extern "C" fn(*const think_plan, *const think_segment, *const think_segment, *const think_batch, *const i32, i64, *mut f32, i64, *const think_launch, *mut think_error) -> think_status = think_evict_move;
    let _: unsafe extern "C" fn(*mut think_cache_options, u32) = think_cache_options_init;
    let _: unsafe extern "C" fn(*mut think_cache_info, u32) = think_cache_info_init;
    let _: unsafe extern "C" fn(*const think_plan, *const think_cache_options, *mut *mut think_cache, *mut think_error) -> think_status = think_cache_create;
    let _: unsafe extern "C" fn(*mut think_cache) = think_cache_destroy;
    let _: unsafe extern "C" fn(*const think_cache, *mut i64, *mut i64, *mut think_error) -> think_status = think_cache_workspace_size;
    let _: unsafe extern "C" fn(*mut think_cache, *const i32, *const i32, i32, *const think_launch, *mut think_error) -> think_status = think_cache_step;
    let _: unsafe extern "C" fn(*mut think_cache, i32, *const think_tensor, *const think_tensor, *const think_tensor, *const think_launch, *mut think_error) -> think_status = think_cache_append;
    let _: unsafe extern "C" fn(*const think_cache, i32, *const think_tensor, *const f32, *const think_tensor, *mut f32, *const think_launch, *mut think_error) -> think_status = think_cache_attend;
    let _: unsafe extern "C" fn(*mut think_cache, *const i32, i32, *const think_launch, *mut think_error) -> think_status = think_cache_prune;
    let _: unsafe extern "C" fn(*const think_cache, i32, *mut think_cache_info, *mut think_error) -> think_status = think_cache_usage;
    let _: unsafe extern "C" fn(*const think_cache, i32, *mut think_segment, i32, *mut i32, *mut think_error) -> think_status = think_cache_segments;
    let _: unsafe extern "C" fn(*mut think_cache, i32, i64, *mut think_error) -> think_status = think_cache_trim;
    let _: unsafe extern "C" fn(*mut think_cache, i32, i32, *mut think_error) -> think_status = think_cache_fork;
    let _: unsafe extern "C" fn(*mut think_cache, i32, *mut think_error) -> think_status = think_cache_drop;
    let _: unsafe extern "C" fn(*mut think_cache, *mut think_error) -> think_status = think_cache_reset;
    let _: unsafe extern "C" fn(*const think_cache, i32, i32, i64, i64, *const think_tensor, *const think_tensor, *const think_launch, *mut think_error) -> think_status = think_cache_export_dense;
    let _: unsafe extern "C" fn(*const think_cache, i32, *mut i64, *mut think_error) -> think_status = think_cache_save_size;
    let _: unsafe extern "C" fn(*const think_cache, i32, think_writer, *mut c_void, *mut think_error) -> think_status = think_cache_save;
    let _: unsafe extern "C" fn(*mut think_cache, i32, think_reader, *mut c_void, *mut think_error) -> think_status = think_cache_load;
    let _: unsafe extern "C" fn(*mut think_cache, *const i32, i32, *const think_evict_options, *const think_tensor, *mut f32, *const think_launch, *mut think_error) -> think_status = think_cache_evict;
    let _: unsafe extern "C" fn(*mut think_cache, i32, *const i32, i32, *mut think_error) -> think_status = think_cache_keep;
    let _: unsafe extern "C" fn(*const think_cache, i32, i32, *mut think_segment, i32, *mut i32, *mut think_error) -> think_status = think_cache_sequence_segments;
    let _: unsafe extern "C" fn(*const think_plan, *const think_cache_options, i64, i64, *mut i64, *mut think_error) -> think_status = think_cache_slab_size;
    let _: unsafe extern "C" fn(*const think_cache, *mut i64, *mut think_error) -> think_status = think_cache_graph_id;
    let _: unsafe extern "C" fn(*mut think_cache, i64, *mut think_error) -> think_status = think_cache_replayed;
};

impl Default for think_error {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_error_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_error>();
            crate::think_error_init(&mut made, size_of::<think_error>() as u32);
            made
        }
    }
}

impl Default for think_tensor {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_tensor_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_tensor>();
            crate::think_tensor_init(&mut made, size_of::<think_tensor>() as u32);
            made
        }
    }
}

impl Default for think_batch {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_batch_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_batch>();
            crate::think_batch_init(&mut made, size_of::<think_batch>() as u32);
            made
        }
    }
}

impl Default for think_context_options {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_context_options_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_context_options>();
            crate::think_context_options_init(&mut made, size_of::<think_context_options>() as u32);
            made
        }
    }
}

impl Default for think_problem {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_problem_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_problem>();
            crate::think_problem_init(&mut made, size_of::<think_problem>() as u32);
            made
        }
    }
}

impl Default for think_launch {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_launch_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_launch>();
            crate::think_launch_init(&mut made, size_of::<think_launch>() as u32);
            made
        }
    }
}

impl Default for think_extent {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_extent_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_extent>();
            crate::think_extent_init(&mut made, size_of::<think_extent>() as u32);
            made
        }
    }
}

impl Default for think_basis {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_basis_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_basis>();
            crate::think_basis_init(&mut made, size_of::<think_basis>() as u32);
            made
        }
    }
}

impl Default for think_segment {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_segment_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_segment>();
            crate::think_segment_init(&mut made, size_of::<think_segment>() as u32);
            made
        }
    }
}

impl Default for think_format {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_format_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_format>();
            crate::think_format_init(&mut made, size_of::<think_format>() as u32);
            made
        }
    }
}

impl Default for think_layout_info {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_layout_info_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_layout_info>();
            crate::think_layout_info_init(&mut made, size_of::<think_layout_info>() as u32);
            made
        }
    }
}

impl Default for think_evict_options {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_evict_options_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_evict_options>();
            crate::think_evict_options_init(&mut made, size_of::<think_evict_options>() as u32);
            made
        }
    }
}

impl Default for think_score_options {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_score_options_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_score_options>();
            crate::think_score_options_init(&mut made, size_of::<think_score_options>() as u32);
            made
        }
    }
}

impl Default for think_moments_options {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_moments_options_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_moments_options>();
            crate::think_moments_options_init(&mut made, size_of::<think_moments_options>() as u32);
            made
        }
    }
}

impl Default for think_budget_options {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_budget_options_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_budget_options>();
            crate::think_budget_options_init(&mut made, size_of::<think_budget_options>() as u32);
            made
        }
    }
}

impl Default for think_select_options {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_select_options_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_select_options>();
            crate::think_select_options_init(&mut made, size_of::<think_select_options>() as u32);
            made
        }
    }
}

impl Default for think_fit_options {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_fit_options_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_fit_options>();
            crate::think_fit_options_init(&mut made, size_of::<think_fit_options>() as u32);
            made
        }
    }
}

impl Default for think_prune_options {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_prune_options_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_prune_options>();
            crate::think_prune_options_init(&mut made, size_of::<think_prune_options>() as u32);
            made
        }
    }
}

impl Default for think_prune_result {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_prune_result_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_prune_result>();
            crate::think_prune_result_init(&mut made, size_of::<think_prune_result>() as u32);
            made
        }
    }
}

impl Default for think_cache_options {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_cache_options_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_cache_options>();
            crate::think_cache_options_init(&mut made, size_of::<think_cache_options>() as u32);
            made
        }
    }
}

impl Default for think_cache_info {
    fn default() -> Self {
        // SAFETY: plain data, filled by the library's think_cache_info_init().
        unsafe {
            let mut made = core::mem::zeroed::<think_cache_info>();
            crate::think_cache_info_init(&mut made, size_of::<think_cache_info>() as u32);
            made
        }
    }
}
