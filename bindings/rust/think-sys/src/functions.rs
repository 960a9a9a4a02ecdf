// Written by bindings/tools/regenerate.sh with bindgen from the C headers: do not edit.
use crate::types::*;

extern "C" {
    pub fn think_version() -> i32;
}
extern "C" {
    pub fn think_abi_version() -> i32;
}
extern "C" {
    pub fn think_version_string() -> *const core::ffi::c_char;
}
extern "C" {
    pub fn think_error_init(error: *mut think_error, struct_size: u32);
}
extern "C" {
    pub fn think_status_name(status: think_status) -> *const core::ffi::c_char;
}
extern "C" {
    pub fn think_tensor_init(tensor: *mut think_tensor, struct_size: u32);
}
extern "C" {
    pub fn think_batch_init(batch: *mut think_batch, struct_size: u32);
}
extern "C" {
    pub fn think_dtype_bytes(dtype: think_dtype) -> i32;
}
extern "C" {
    pub fn think_dtype_name(dtype: think_dtype) -> *const core::ffi::c_char;
}
extern "C" {
    pub fn think_tensor_from_dlpack(
        source: *const DLTensor,
        device: *mut think_device,
        tensor: *mut think_tensor,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_context_options_init(options: *mut think_context_options, struct_size: u32);
}
extern "C" {
    pub fn think_context_create(
        options: *const think_context_options,
        context: *mut *mut think_context,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_context_destroy(context: *mut think_context);
}
extern "C" {
    pub fn think_query(
        context: *const think_context,
        key: i32,
        value: *mut i64,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_backend_reason(
        device: think_device,
        text: *mut core::ffi::c_char,
        capacity: usize,
        needed: *mut usize,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_problem_init(problem: *mut think_problem, struct_size: u32);
}
extern "C" {
    pub fn think_launch_init(launch: *mut think_launch, struct_size: u32);
}
extern "C" {
    pub fn think_extent_init(extent: *mut think_extent, struct_size: u32);
}
extern "C" {
    pub fn think_supports(
        context: *const think_context,
        problem: *const think_problem,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_plan_create(
        context: *const think_context,
        problem: *const think_problem,
        plan: *mut *mut think_plan,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_plan_destroy(plan: *mut think_plan);
}
extern "C" {
    pub fn think_plan_describe(
        plan: *const think_plan,
        json: *mut core::ffi::c_char,
        capacity: usize,
        needed: *mut usize,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_workspace_size(
        plan: *const think_plan,
        stage: i32,
        extent: *const think_extent,
        bytes: *mut i64,
        alignment: *mut i64,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_kept_channels(channels: i32, ratio: f64) -> i32;
}
extern "C" {
    pub fn think_basis_init(basis: *mut think_basis, struct_size: u32);
}
extern "C" {
    pub fn think_basis_size(
        plan: *const think_plan,
        side: i32,
        slots: i32,
        bytes: *mut i64,
        alignment: *mut i64,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_basis_bind(
        plan: *const think_plan,
        side: i32,
        slots: i32,
        memory: *mut core::ffi::c_void,
        bytes: i64,
        basis: *mut think_basis,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_segment_init(segment: *mut think_segment, struct_size: u32);
}
extern "C" {
    pub fn think_format_init(format: *mut think_format, struct_size: u32);
}
extern "C" {
    pub fn think_layout_info_init(info: *mut think_layout_info, struct_size: u32);
}
extern "C" {
    pub fn think_layout(
        plan: *const think_plan,
        format: *const think_format,
        page_tokens: i32,
        total_key: i64,
        total_value: i64,
        info: *mut think_layout_info,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_segment_place(
        plan: *const think_plan,
        segment: *const think_segment,
        batch: *const think_batch,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_evict_options_init(options: *mut think_evict_options, struct_size: u32);
}
extern "C" {
    pub fn think_evict(
        plan: *const think_plan,
        window_query: *const think_tensor,
        source: *const think_segment,
        batch: *const think_batch,
        options: *const think_evict_options,
        budget: *const i32,
        score: *mut f32,
        kept: *mut i32,
        lengths: *mut i32,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_evict_move(
        plan: *const think_plan,
        source: *const think_segment,
        destination: *const think_segment,
        batch: *const think_batch,
        kept: *const i32,
        kept_stride: i64,
        score: *mut f32,
        score_stride: i64,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_score_options_init(options: *mut think_score_options, struct_size: u32);
}
extern "C" {
    pub fn think_score_state_size(
        plan: *const think_plan,
        slots: i32,
        bytes: *mut i64,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_score_reset(
        plan: *const think_plan,
        state: *mut core::ffi::c_void,
        batch: *const think_batch,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_score_update(
        plan: *const think_plan,
        query: *const think_tensor,
        key: *const think_tensor,
        batch: *const think_batch,
        state: *mut core::ffi::c_void,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_score_finish(
        plan: *const think_plan,
        state: *const core::ffi::c_void,
        batch: *const think_batch,
        options: *const think_score_options,
        score: *mut f32,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_score_window(
        plan: *const think_plan,
        state: *const core::ffi::c_void,
        slots: i32,
        query: *mut think_tensor,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_value_score(
        plan: *const think_plan,
        attention: *const think_tensor,
        batch: *const think_batch,
        score: *mut f32,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_moments_options_init(options: *mut think_moments_options, struct_size: u32);
}
extern "C" {
    pub fn think_moments_size(
        plan: *const think_plan,
        slots: i32,
        bytes: *mut i64,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_moments(
        plan: *const think_plan,
        window_query: *const think_tensor,
        source: *const think_segment,
        batch: *const think_batch,
        options: *const think_moments_options,
        moments: *mut core::ffi::c_void,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_gains(
        plan: *const think_plan,
        moments: *const core::ffi::c_void,
        batch: *const think_batch,
        side: i32,
        score: *const f32,
        gains: *mut f32,
        order: *mut i32,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_budget_options_init(options: *mut think_budget_options, struct_size: u32);
}
extern "C" {
    pub fn think_select_options_init(options: *mut think_select_options, struct_size: u32);
}
extern "C" {
    pub fn think_budgets(
        plan: *const think_plan,
        gains: *const f32,
        batch: *const think_batch,
        side: i32,
        options: *const think_budget_options,
        kept: *mut i32,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_select(
        plan: *const think_plan,
        score: *const f32,
        batch: *const think_batch,
        options: *const think_select_options,
        kept: *const i32,
        basis: *mut think_basis,
        mask: *mut u8,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_fit_options_init(options: *mut think_fit_options, struct_size: u32);
}
extern "C" {
    pub fn think_fit(
        plan: *const think_plan,
        moments: *const core::ffi::c_void,
        batch: *const think_batch,
        options: *const think_fit_options,
        basis: *mut think_basis,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_compact(
        plan: *const think_plan,
        source: *const think_segment,
        destination: *const think_segment,
        batch: *const think_batch,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_attend(
        plan: *const think_plan,
        query: *const think_tensor,
        batch: *const think_batch,
        segments: *const think_segment,
        segment_count: i32,
        sink_logit: *const f32,
        output: *const think_tensor,
        lse: *mut f32,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_merge(
        plan: *const think_plan,
        outputs: *const think_tensor,
        lses: *const *const f32,
        count: i32,
        output: *const think_tensor,
        lse: *mut f32,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_prune_options_init(options: *mut think_prune_options, struct_size: u32);
}
extern "C" {
    pub fn think_prune_result_init(result: *mut think_prune_result, struct_size: u32);
}
extern "C" {
    pub fn think_prune_preview(
        plan: *const think_plan,
        format: *const think_format,
        tokens: i64,
        options: *const think_prune_options,
        result: *mut think_prune_result,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_prune(
        plan: *const think_plan,
        score_state: *const core::ffi::c_void,
        source: *const think_segment,
        destination: *const think_segment,
        batch: *const think_batch,
        options: *const think_prune_options,
        mask: *mut u8,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_cache_options_init(options: *mut think_cache_options, struct_size: u32);
}
extern "C" {
    pub fn think_cache_info_init(info: *mut think_cache_info, struct_size: u32);
}
extern "C" {
    pub fn think_cache_slab_size(
        plan: *const think_plan,
        options: *const think_cache_options,
        dense_tokens: i64,
        compact_tokens: i64,
        bytes: *mut i64,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_cache_create(
        plan: *const think_plan,
        options: *const think_cache_options,
        cache: *mut *mut think_cache,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_cache_destroy(cache: *mut think_cache);
}
extern "C" {
    pub fn think_cache_workspace_size(
        cache: *const think_cache,
        bytes: *mut i64,
        alignment: *mut i64,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_cache_step(
        cache: *mut think_cache,
        sequences: *const i32,
        new_tokens: *const i32,
        count: i32,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_cache_append(
        cache: *mut think_cache,
        layer: i32,
        query: *const think_tensor,
        key: *const think_tensor,
        value: *const think_tensor,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_cache_attend(
        cache: *const think_cache,
        layer: i32,
        query: *const think_tensor,
        sink_logit: *const f32,
        output: *const think_tensor,
        lse: *mut f32,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_cache_graph_id(cache: *const think_cache, id: *mut i64, error: *mut think_error) -> think_status;
}
extern "C" {
    pub fn think_cache_replayed(cache: *mut think_cache, id: i64, error: *mut think_error) -> think_status;
}
extern "C" {
    pub fn think_cache_evict(
        cache: *mut think_cache,
        sequences: *const i32,
        count: i32,
        options: *const think_evict_options,
        window_query: *const think_tensor,
        score: *mut f32,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_cache_keep(
        cache: *mut think_cache,
        sequence: i32,
        kept: *const i32,
        rows: i32,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_cache_prune(
        cache: *mut think_cache,
        sequences: *const i32,
        count: i32,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_cache_usage(
        cache: *const think_cache,
        sequence: i32,
        info: *mut think_cache_info,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_cache_segments(
        cache: *const think_cache,
        layer: i32,
        segments: *mut think_segment,
        capacity: i32,
        count: *mut i32,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_cache_sequence_segments(
        cache: *const think_cache,
        sequence: i32,
        layer: i32,
        segments: *mut think_segment,
        capacity: i32,
        count: *mut i32,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_cache_export_dense(
        cache: *const think_cache,
        sequence: i32,
        layer: i32,
        first: i64,
        count: i64,
        key: *const think_tensor,
        value: *const think_tensor,
        launch: *const think_launch,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_cache_trim(
        cache: *mut think_cache,
        sequence: i32,
        tokens: i64,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_cache_fork(
        cache: *mut think_cache,
        source: i32,
        destination: i32,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_cache_drop(cache: *mut think_cache, sequence: i32, error: *mut think_error) -> think_status;
}
extern "C" {
    pub fn think_cache_reset(cache: *mut think_cache, error: *mut think_error) -> think_status;
}
extern "C" {
    pub fn think_cache_save_size(
        cache: *const think_cache,
        sequence: i32,
        bytes: *mut i64,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_cache_save(
        cache: *const think_cache,
        sequence: i32,
        write: think_writer,
        user: *mut core::ffi::c_void,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_cache_load(
        cache: *mut think_cache,
        sequence: i32,
        read: think_reader,
        user: *mut core::ffi::c_void,
        error: *mut think_error,
    ) -> think_status;
}
extern "C" {
    pub fn think_get_api(abi_major: u32, table_size: u32) -> *const think_api;
}
