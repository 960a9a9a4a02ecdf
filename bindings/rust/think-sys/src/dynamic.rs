#![allow(clippy::too_many_arguments)]
// The functions, called through the table of the library that load() opens. Written by bindings/tools/regenerate.sh from think.json: do not edit.

use core::ffi::{c_char, c_void};

use crate::loader::{note, table};
use crate::types::*;

/// # Safety
/// As in C.
pub unsafe fn think_version() -> i32 {
    note(0);
    (table().version.unwrap_unchecked())()
}

/// # Safety
/// As in C.
pub unsafe fn think_abi_version() -> i32 {
    note(1);
    (table().abi_version.unwrap_unchecked())()
}

/// # Safety
/// As in C.
pub unsafe fn think_version_string() -> *const c_char {
    note(2);
    (table().version_string.unwrap_unchecked())()
}

/// # Safety
/// As in C.
pub unsafe fn think_error_init(error: *mut think_error, struct_size: u32) {
    note(3);
    (table().error_init.unwrap_unchecked())(error, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_status_name(status: think_status) -> *const c_char {
    note(4);
    (table().status_name.unwrap_unchecked())(status)
}

/// # Safety
/// As in C.
pub unsafe fn think_tensor_init(tensor: *mut think_tensor, struct_size: u32) {
    note(5);
    (table().tensor_init.unwrap_unchecked())(tensor, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_batch_init(batch: *mut think_batch, struct_size: u32) {
    note(6);
    (table().batch_init.unwrap_unchecked())(batch, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_dtype_bytes(dtype: think_dtype) -> i32 {
    note(7);
    (table().dtype_bytes.unwrap_unchecked())(dtype)
}

/// # Safety
/// As in C.
pub unsafe fn think_dtype_name(dtype: think_dtype) -> *const c_char {
    note(8);
    (table().dtype_name.unwrap_unchecked())(dtype)
}

/// # Safety
/// As in C.
pub unsafe fn think_context_options_init(options: *mut think_context_options, struct_size: u32) {
    note(9);
    (table().context_options_init.unwrap_unchecked())(options, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_context_create(options: *const think_context_options, context: *mut *mut think_context, error: *mut think_error) -> think_status {
    note(10);
    (table().context_create.unwrap_unchecked())(options, context, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_context_destroy(context: *mut think_context) {
    note(11);
    (table().context_destroy.unwrap_unchecked())(context)
}

/// # Safety
/// As in C.
pub unsafe fn think_query(context: *const think_context, key: i32, value: *mut i64, error: *mut think_error) -> think_status {
    note(12);
    (table().query.unwrap_unchecked())(context, key, value, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_backend_reason(device: think_device, text: *mut c_char, capacity: usize, needed: *mut usize, error: *mut think_error) -> think_status {
    note(13);
    (table().backend_reason.unwrap_unchecked())(device, text, capacity, needed, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_problem_init(problem: *mut think_problem, struct_size: u32) {
    note(14);
    (table().problem_init.unwrap_unchecked())(problem, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_launch_init(launch: *mut think_launch, struct_size: u32) {
    note(15);
    (table().launch_init.unwrap_unchecked())(launch, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_extent_init(extent: *mut think_extent, struct_size: u32) {
    note(16);
    (table().extent_init.unwrap_unchecked())(extent, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_supports(context: *const think_context, problem: *const think_problem, error: *mut think_error) -> think_status {
    note(17);
    (table().supports.unwrap_unchecked())(context, problem, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_plan_create(context: *const think_context, problem: *const think_problem, plan: *mut *mut think_plan, error: *mut think_error) -> think_status {
    note(18);
    (table().plan_create.unwrap_unchecked())(context, problem, plan, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_plan_destroy(plan: *mut think_plan) {
    note(19);
    (table().plan_destroy.unwrap_unchecked())(plan)
}

/// # Safety
/// As in C.
pub unsafe fn think_plan_describe(plan: *const think_plan, json: *mut c_char, capacity: usize, needed: *mut usize, error: *mut think_error) -> think_status {
    note(20);
    (table().plan_describe.unwrap_unchecked())(plan, json, capacity, needed, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_workspace_size(plan: *const think_plan, stage: i32, extent: *const think_extent, bytes: *mut i64, alignment: *mut i64, error: *mut think_error) -> think_status {
    note(21);
    (table().workspace_size.unwrap_unchecked())(plan, stage, extent, bytes, alignment, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_kept_channels(channels: i32, ratio: f64) -> i32 {
    note(22);
    (table().kept_channels.unwrap_unchecked())(channels, ratio)
}

/// # Safety
/// As in C.
pub unsafe fn think_basis_init(basis: *mut think_basis, struct_size: u32) {
    note(23);
    (table().basis_init.unwrap_unchecked())(basis, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_basis_size(plan: *const think_plan, side: i32, slots: i32, bytes: *mut i64, alignment: *mut i64, error: *mut think_error) -> think_status {
    note(24);
    (table().basis_size.unwrap_unchecked())(plan, side, slots, bytes, alignment, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_basis_bind(plan: *const think_plan, side: i32, slots: i32, memory: *mut c_void, bytes: i64, basis: *mut think_basis, error: *mut think_error) -> think_status {
    note(25);
    (table().basis_bind.unwrap_unchecked())(plan, side, slots, memory, bytes, basis, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_segment_init(segment: *mut think_segment, struct_size: u32) {
    note(26);
    (table().segment_init.unwrap_unchecked())(segment, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_format_init(format: *mut think_format, struct_size: u32) {
    note(27);
    (table().format_init.unwrap_unchecked())(format, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_layout_info_init(info: *mut think_layout_info, struct_size: u32) {
    note(28);
    (table().layout_info_init.unwrap_unchecked())(info, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_layout(plan: *const think_plan, format: *const think_format, page_tokens: i32, total_key: i64, total_value: i64, info: *mut think_layout_info, error: *mut think_error) -> think_status {
    note(29);
    (table().layout.unwrap_unchecked())(plan, format, page_tokens, total_key, total_value, info, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_segment_place(plan: *const think_plan, segment: *const think_segment, batch: *const think_batch, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(30);
    (table().segment_place.unwrap_unchecked())(plan, segment, batch, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_score_options_init(options: *mut think_score_options, struct_size: u32) {
    note(31);
    (table().score_options_init.unwrap_unchecked())(options, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_score_state_size(plan: *const think_plan, slots: i32, bytes: *mut i64, error: *mut think_error) -> think_status {
    note(32);
    (table().score_state_size.unwrap_unchecked())(plan, slots, bytes, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_score_reset(plan: *const think_plan, state: *mut c_void, batch: *const think_batch, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(33);
    (table().score_reset.unwrap_unchecked())(plan, state, batch, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_score_update(plan: *const think_plan, query: *const think_tensor, key: *const think_tensor, batch: *const think_batch, state: *mut c_void, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(34);
    (table().score_update.unwrap_unchecked())(plan, query, key, batch, state, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_score_finish(plan: *const think_plan, state: *const c_void, batch: *const think_batch, options: *const think_score_options, score: *mut f32, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(35);
    (table().score_finish.unwrap_unchecked())(plan, state, batch, options, score, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_score_window(plan: *const think_plan, state: *const c_void, slots: i32, query: *mut think_tensor, error: *mut think_error) -> think_status {
    note(36);
    (table().score_window.unwrap_unchecked())(plan, state, slots, query, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_value_score(plan: *const think_plan, attention: *const think_tensor, batch: *const think_batch, score: *mut f32, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(37);
    (table().value_score.unwrap_unchecked())(plan, attention, batch, score, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_moments_options_init(options: *mut think_moments_options, struct_size: u32) {
    note(38);
    (table().moments_options_init.unwrap_unchecked())(options, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_moments_size(plan: *const think_plan, slots: i32, bytes: *mut i64, error: *mut think_error) -> think_status {
    note(39);
    (table().moments_size.unwrap_unchecked())(plan, slots, bytes, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_moments(plan: *const think_plan, window_query: *const think_tensor, source: *const think_segment, batch: *const think_batch, options: *const think_moments_options, moments: *mut c_void, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(40);
    (table().moments.unwrap_unchecked())(plan, window_query, source, batch, options, moments, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_gains(plan: *const think_plan, moments: *const c_void, batch: *const think_batch, side: i32, score: *const f32, gains: *mut f32, order: *mut i32, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(41);
    (table().gains.unwrap_unchecked())(plan, moments, batch, side, score, gains, order, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_budget_options_init(options: *mut think_budget_options, struct_size: u32) {
    note(42);
    (table().budget_options_init.unwrap_unchecked())(options, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_select_options_init(options: *mut think_select_options, struct_size: u32) {
    note(43);
    (table().select_options_init.unwrap_unchecked())(options, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_budgets(plan: *const think_plan, gains: *const f32, batch: *const think_batch, side: i32, options: *const think_budget_options, kept: *mut i32, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(44);
    (table().budgets.unwrap_unchecked())(plan, gains, batch, side, options, kept, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_select(plan: *const think_plan, score: *const f32, batch: *const think_batch, options: *const think_select_options, kept: *const i32, basis: *mut think_basis, mask: *mut u8, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(45);
    (table().select.unwrap_unchecked())(plan, score, batch, options, kept, basis, mask, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_fit_options_init(options: *mut think_fit_options, struct_size: u32) {
    note(46);
    (table().fit_options_init.unwrap_unchecked())(options, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_fit(plan: *const think_plan, moments: *const c_void, batch: *const think_batch, options: *const think_fit_options, basis: *mut think_basis, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(47);
    (table().fit.unwrap_unchecked())(plan, moments, batch, options, basis, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_compact(plan: *const think_plan, source: *const think_segment, destination: *const think_segment, batch: *const think_batch, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(48);
    (table().compact.unwrap_unchecked())(plan, source, destination, batch, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_attend(plan: *const think_plan, query: *const think_tensor, batch: *const think_batch, segments: *const think_segment, segment_count: i32, sink_logit: *const f32, output: *const think_tensor, lse: *mut f32, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(49);
    (table().attend.unwrap_unchecked())(plan, query, batch, segments, segment_count, sink_logit, output, lse, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_merge(plan: *const think_plan, outputs: *const think_tensor, lses: *const *const f32, count: i32, output: *const think_tensor, lse: *mut f32, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(50);
    (table().merge.unwrap_unchecked())(plan, outputs, lses, count, output, lse, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_prune_options_init(options: *mut think_prune_options, struct_size: u32) {
    note(51);
    (table().prune_options_init.unwrap_unchecked())(options, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_prune_result_init(result: *mut think_prune_result, struct_size: u32) {
    note(52);
    (table().prune_result_init.unwrap_unchecked())(result, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_prune_preview(plan: *const think_plan, format: *const think_format, tokens: i64, options: *const think_prune_options, result: *mut think_prune_result, error: *mut think_error) -> think_status {
    note(53);
    (table().prune_preview.unwrap_unchecked())(plan, format, tokens, options, result, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_prune(plan: *const think_plan, score_state: *const c_void, source: *const think_segment, destination: *const think_segment, batch: *const think_batch, options: *const think_prune_options, mask: *mut u8, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(54);
    (table().prune.unwrap_unchecked())(plan, score_state, source, destination, batch, options, mask, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_tensor_from_dlpack(source: *const DLTensor, device: *mut think_device, tensor: *mut think_tensor, error: *mut think_error) -> think_status {
    note(55);
    (table().tensor_from_dlpack.unwrap_unchecked())(source, device, tensor, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_evict_options_init(options: *mut think_evict_options, struct_size: u32) {
    note(56);
    (table().evict_options_init.unwrap_unchecked())(options, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_evict(plan: *const think_plan, window_query: *const think_tensor, source: *const think_segment, batch: *const think_batch, options: *const think_evict_options, budget: *const i32, score: *mut f32, kept: *mut i32, lengths: *mut i32, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(57);
    (table().evict.unwrap_unchecked())(plan, window_query, source, batch, options, budget, score, kept, lengths, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_evict_move(plan: *const think_plan, source: *const think_segment, destination: *const think_segment, batch: *const think_batch, kept: *const i32, kept_stride: i64, score: *mut f32, score_stride: i64, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(58);
    (table().evict_move.unwrap_unchecked())(plan, source, destination, batch, kept, kept_stride, score, score_stride, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_options_init(options: *mut think_cache_options, struct_size: u32) {
    note(59);
    (table().cache_options_init.unwrap_unchecked())(options, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_info_init(info: *mut think_cache_info, struct_size: u32) {
    note(60);
    (table().cache_info_init.unwrap_unchecked())(info, struct_size)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_create(plan: *const think_plan, options: *const think_cache_options, cache: *mut *mut think_cache, error: *mut think_error) -> think_status {
    note(61);
    (table().cache_create.unwrap_unchecked())(plan, options, cache, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_destroy(cache: *mut think_cache) {
    note(62);
    (table().cache_destroy.unwrap_unchecked())(cache)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_workspace_size(cache: *const think_cache, bytes: *mut i64, alignment: *mut i64, error: *mut think_error) -> think_status {
    note(63);
    (table().cache_workspace_size.unwrap_unchecked())(cache, bytes, alignment, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_step(cache: *mut think_cache, sequences: *const i32, new_tokens: *const i32, count: i32, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(64);
    (table().cache_step.unwrap_unchecked())(cache, sequences, new_tokens, count, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_append(cache: *mut think_cache, layer: i32, query: *const think_tensor, key: *const think_tensor, value: *const think_tensor, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(65);
    (table().cache_append.unwrap_unchecked())(cache, layer, query, key, value, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_attend(cache: *const think_cache, layer: i32, query: *const think_tensor, sink_logit: *const f32, output: *const think_tensor, lse: *mut f32, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(66);
    (table().cache_attend.unwrap_unchecked())(cache, layer, query, sink_logit, output, lse, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_prune(cache: *mut think_cache, sequences: *const i32, count: i32, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(67);
    (table().cache_prune.unwrap_unchecked())(cache, sequences, count, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_usage(cache: *const think_cache, sequence: i32, info: *mut think_cache_info, error: *mut think_error) -> think_status {
    note(68);
    (table().cache_usage.unwrap_unchecked())(cache, sequence, info, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_segments(cache: *const think_cache, layer: i32, segments: *mut think_segment, capacity: i32, count: *mut i32, error: *mut think_error) -> think_status {
    note(69);
    (table().cache_segments.unwrap_unchecked())(cache, layer, segments, capacity, count, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_trim(cache: *mut think_cache, sequence: i32, tokens: i64, error: *mut think_error) -> think_status {
    note(70);
    (table().cache_trim.unwrap_unchecked())(cache, sequence, tokens, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_fork(cache: *mut think_cache, source: i32, destination: i32, error: *mut think_error) -> think_status {
    note(71);
    (table().cache_fork.unwrap_unchecked())(cache, source, destination, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_drop(cache: *mut think_cache, sequence: i32, error: *mut think_error) -> think_status {
    note(72);
    (table().cache_drop.unwrap_unchecked())(cache, sequence, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_reset(cache: *mut think_cache, error: *mut think_error) -> think_status {
    note(73);
    (table().cache_reset.unwrap_unchecked())(cache, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_export_dense(cache: *const think_cache, sequence: i32, layer: i32, first: i64, count: i64, key: *const think_tensor, value: *const think_tensor, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(74);
    (table().cache_export_dense.unwrap_unchecked())(cache, sequence, layer, first, count, key, value, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_save_size(cache: *const think_cache, sequence: i32, bytes: *mut i64, error: *mut think_error) -> think_status {
    note(75);
    (table().cache_save_size.unwrap_unchecked())(cache, sequence, bytes, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_save(cache: *const think_cache, sequence: i32, write: think_writer, user: *mut c_void, error: *mut think_error) -> think_status {
    note(76);
    (table().cache_save.unwrap_unchecked())(cache, sequence, write, user, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_load(cache: *mut think_cache, sequence: i32, read: think_reader, user: *mut c_void, error: *mut think_error) -> think_status {
    note(77);
    (table().cache_load.unwrap_unchecked())(cache, sequence, read, user, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_evict(cache: *mut think_cache, sequences: *const i32, count: i32, options: *const think_evict_options, window_query: *const think_tensor, score: *mut f32, launch: *const think_launch, error: *mut think_error) -> think_status {
    note(78);
    (table().cache_evict.unwrap_unchecked())(cache, sequences, count, options, window_query, score, launch, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_keep(cache: *mut think_cache, sequence: i32, kept: *const i32, rows: i32, error: *mut think_error) -> think_status {
    note(79);
    (table().cache_keep.unwrap_unchecked())(cache, sequence, kept, rows, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_sequence_segments(cache: *const think_cache, sequence: i32, layer: i32, segments: *mut think_segment, capacity: i32, count: *mut i32, error: *mut think_error) -> think_status {
    note(80);
    (table().cache_sequence_segments.unwrap_unchecked())(cache, sequence, layer, segments, capacity, count, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_slab_size(plan: *const think_plan, options: *const think_cache_options, dense_tokens: i64, compact_tokens: i64, bytes: *mut i64, error: *mut think_error) -> think_status {
    note(81);
    (table().cache_slab_size.unwrap_unchecked())(plan, options, dense_tokens, compact_tokens, bytes, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_graph_id(cache: *const think_cache, id: *mut i64, error: *mut think_error) -> think_status {
    note(82);
    (table().cache_graph_id.unwrap_unchecked())(cache, id, error)
}

/// # Safety
/// As in C.
pub unsafe fn think_cache_replayed(cache: *mut think_cache, id: i64, error: *mut think_error) -> think_status {
    note(83);
    (table().cache_replayed.unwrap_unchecked())(cache, id, error)
}
