// Written by bindings/tools/regenerate.sh with bindgen from the C headers: do not edit.

pub const THINK_VERSION_MAJOR: i32 = 0;
pub const THINK_VERSION_MINOR: i32 = 11;
pub const THINK_VERSION_PATCH: i32 = 0;
pub const THINK_ABI_MAJOR: i32 = 1;
pub const THINK_OK: i32 = 0;
pub const THINK_E_ARGUMENT: i32 = 1;
pub const THINK_E_UNSUPPORTED: i32 = 2;
pub const THINK_E_WORKSPACE: i32 = 3;
pub const THINK_E_MEMORY: i32 = 4;
pub const THINK_E_DEVICE: i32 = 5;
pub const THINK_E_STATE: i32 = 6;
pub const THINK_E_FORMAT: i32 = 7;
pub const THINK_E_IO: i32 = 8;
pub const THINK_E_INTERNAL: i32 = 9;
pub const THINK_F32: i32 = 73730;
pub const THINK_F16: i32 = 69634;
pub const THINK_BF16: i32 = 69636;
pub const THINK_U8: i32 = 67585;
pub const THINK_U4: i32 = 66561;
pub const THINK_U2: i32 = 66049;
pub const THINK_F8_E4M3: i32 = 67594;
pub const THINK_DEVICE_CPU: i32 = 1;
pub const THINK_DEVICE_CUDA: i32 = 2;
pub const THINK_LOG_DEBUG: i32 = 0;
pub const THINK_LOG_INFO: i32 = 1;
pub const THINK_LOG_WARNING: i32 = 2;
pub const THINK_QUERY_VERSION: i32 = 1;
pub const THINK_QUERY_ABI: i32 = 2;
pub const THINK_QUERY_DEVICE_TYPE: i32 = 3;
pub const THINK_QUERY_DEVICE_INDEX: i32 = 4;
pub const THINK_QUERY_THREADS: i32 = 5;
pub const THINK_QUERY_ISA: i32 = 6;
pub const THINK_QUERY_ISA_AVAILABLE: i32 = 7;
pub const THINK_QUERY_BACKENDS: i32 = 8;
pub const THINK_QUERY_MAX_CHANNELS: i32 = 9;
pub const THINK_QUERY_MAX_SEGMENTS: i32 = 10;
pub const THINK_ISA_PORTABLE: i32 = 0;
pub const THINK_ISA_AVX2: i32 = 1;
pub const THINK_ISA_AVX512: i32 = 2;
pub const THINK_ISA_AVX512BF16: i32 = 3;
pub const THINK_ISA_NEON: i32 = 4;
pub const THINK_PROBLEM_BATCH_INVARIANT: i32 = 1;
pub const THINK_LAUNCH_CHECK: i32 = 1;
pub const THINK_STAGE_SCORE: i32 = 1;
pub const THINK_STAGE_MOMENTS: i32 = 2;
pub const THINK_STAGE_SELECT: i32 = 3;
pub const THINK_STAGE_FIT: i32 = 4;
pub const THINK_STAGE_COMPACT: i32 = 5;
pub const THINK_STAGE_ATTEND: i32 = 6;
pub const THINK_STAGE_PRUNE: i32 = 7;
pub const THINK_STAGE_EVICT: i32 = 8;
pub const THINK_KEYS: i32 = 0;
pub const THINK_VALUES: i32 = 1;
pub const THINK_ROWS: i32 = 0;
pub const THINK_TILES: i32 = 1;
pub const THINK_SEGMENT_CAUSAL: i32 = 1;
pub const THINK_SEGMENT_MEASURE: i32 = 2;
pub const THINK_EVICT_SNAPKV: i32 = 0;
pub const THINK_EVICT_H2O: i32 = 1;
pub const THINK_EVICT_WINDOW: i32 = 2;
pub const THINK_EVICT_TOVA: i32 = 3;
pub const THINK_EVICT_RECENT: i32 = 4;
pub const THINK_POOL_MAX: i32 = 0;
pub const THINK_POOL_MEAN: i32 = 1;
pub const THINK_SCORE_QUERY_HEADS: i32 = 1;
pub const THINK_BUDGET_NORMALISE: i32 = 1;
pub const THINK_SELECT_PAIRS_HALVES: i32 = 1;
pub const THINK_SELECT_PAIRS_INTERLEAVED: i32 = 2;
pub const THINK_MAX_SEGMENTS: i32 = 16;
pub const THINK_MODE_REGRESSED: i32 = 0;
pub const THINK_MODE_CHANNELS: i32 = 1;
pub const THINK_BUDGET_ADAPTIVE: i32 = 0;
pub const THINK_BUDGET_UNIFORM: i32 = 1;
pub const THINK_FOLD_NEVER: i32 = 0;
pub const THINK_FOLD_BLOCK: i32 = 1;
pub const THINK_CACHE_MAX_RUNS: i32 = 3;
pub const THINK_CACHE_NO_SCORES: i32 = 1;
pub const THINK_CACHE_KEEP_SCORES: i32 = 2;
pub type __uint8_t = core::ffi::c_uchar;
pub type __int32_t = core::ffi::c_int;
pub type __uint32_t = core::ffi::c_uint;
pub type __int64_t = core::ffi::c_long;
pub type think_status = i32;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_error {
    pub struct_size: u32,
    pub flags: u32,
    pub code: think_status,
    pub argument: i32,
    pub native_code: i32,
    pub message: [core::ffi::c_char; 256usize],
    pub reserved: i32,
}
pub type think_dtype = i32;
pub type think_device = i32;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_tensor {
    pub struct_size: u32,
    pub flags: u32,
    pub data: *mut core::ffi::c_void,
    pub dtype: think_dtype,
    pub reserved: i32,
    pub extent: [i64; 4usize],
    pub stride: [i64; 4usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_batch {
    pub struct_size: u32,
    pub flags: u32,
    pub count: i32,
    pub reserved: i32,
    pub lengths: *const i32,
    pub row_start: *const i32,
    pub slot: *const i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct DLTensor {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_context {
    _unused: [u8; 0],
}
pub type think_task = ::std::option::Option<unsafe extern "C" fn(arg: *mut core::ffi::c_void, index: i64)>;
pub type think_parallel_for = ::std::option::Option<
    unsafe extern "C" fn(user: *mut core::ffi::c_void, count: i64, task: think_task, arg: *mut core::ffi::c_void),
>;
pub type think_allocate = ::std::option::Option<
    unsafe extern "C" fn(user: *mut core::ffi::c_void, bytes: usize, alignment: usize) -> *mut core::ffi::c_void,
>;
pub type think_deallocate = ::std::option::Option<
    unsafe extern "C" fn(user: *mut core::ffi::c_void, memory: *mut core::ffi::c_void, bytes: usize, alignment: usize),
>;
pub type think_log = ::std::option::Option<
    unsafe extern "C" fn(user: *mut core::ffi::c_void, level: i32, message: *const core::ffi::c_char),
>;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_context_options {
    pub struct_size: u32,
    pub flags: u32,
    pub device_type: think_device,
    pub device_index: i32,
    pub threads: i32,
    pub reserved: i32,
    pub parallel_for: think_parallel_for,
    pub allocate: think_allocate,
    pub deallocate: think_deallocate,
    pub log: think_log,
    pub user: *mut core::ffi::c_void,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_plan {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_problem {
    pub struct_size: u32,
    pub flags: u32,
    pub query_dtype: think_dtype,
    pub cache_dtype: think_dtype,
    pub output_dtype: think_dtype,
    pub query_heads: i32,
    pub kv_heads: i32,
    pub key_channels: i32,
    pub value_channels: i32,
    pub window: i32,
    pub max_batch: i32,
    pub max_queries: i32,
    pub max_tokens: i64,
    pub scale: f32,
    pub softcap: f32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_launch {
    pub struct_size: u32,
    pub flags: u32,
    pub workspace: *mut core::ffi::c_void,
    pub workspace_bytes: i64,
    pub stream: *mut core::ffi::c_void,
    pub slice: i32,
    pub slices: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_extent {
    pub struct_size: u32,
    pub flags: u32,
    pub batch: i32,
    pub queries: i32,
    pub segments: i32,
    pub reserved: i32,
    pub tokens: i64,
    pub rows: i64,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_basis {
    pub struct_size: u32,
    pub flags: u32,
    pub channels: i32,
    pub slots: i32,
    pub kept: *mut i32,
    pub index: *mut i32,
    pub weight: *mut core::ffi::c_void,
    pub weight_bytes: i64,
    pub weight_offset: *mut i64,
    pub offset: *mut f32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_segment {
    pub struct_size: u32,
    pub flags: u32,
    pub key_layout: i32,
    pub value_layout: i32,
    pub page_tokens: i32,
    pub reserved: i32,
    pub key_dtype: think_dtype,
    pub value_dtype: think_dtype,
    pub key: *mut core::ffi::c_void,
    pub value: *mut core::ffi::c_void,
    pub key_stride: [i64; 3usize],
    pub value_stride: [i64; 3usize],
    pub key_head_offset: *mut i64,
    pub value_head_offset: *mut i64,
    pub pages: *const i32,
    pub pages_stride: i64,
    pub first: *const i32,
    pub lengths: *const i32,
    pub lengths_stride: [i64; 2usize],
    pub slot: *const i32,
    pub key_basis: *const think_basis,
    pub value_basis: *const think_basis,
    pub key_scale: *mut f32,
    pub value_scale: *mut f32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_format {
    pub struct_size: u32,
    pub flags: u32,
    pub key_layout: i32,
    pub value_layout: i32,
    pub key_dtype: think_dtype,
    pub value_dtype: think_dtype,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_layout_info {
    pub struct_size: u32,
    pub flags: u32,
    pub key_page_bytes: i64,
    pub value_page_bytes: i64,
    pub key_basis_bytes: i64,
    pub value_basis_bytes: i64,
    pub alignment: i64,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_evict_options {
    pub struct_size: u32,
    pub flags: u32,
    pub method: i32,
    pub budget: i32,
    pub sinks: i32,
    pub recent: i32,
    pub pooling: i32,
    pub kernel: i32,
    pub kept_stride: i64,
    pub score_stride: i64,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_score_options {
    pub struct_size: u32,
    pub flags: u32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_moments_options {
    pub struct_size: u32,
    pub flags: u32,
    pub sinks: i32,
    pub recent: i32,
    pub attention_share: f32,
    pub reserved: f32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_budget_options {
    pub struct_size: u32,
    pub flags: u32,
    pub layers: i32,
    pub floor: i32,
    pub step: i32,
    pub reserved: i32,
    pub total: i64,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_select_options {
    pub struct_size: u32,
    pub flags: u32,
    pub side: i32,
    pub kept: i32,
    pub round_to: i32,
    pub reserved: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_fit_options {
    pub struct_size: u32,
    pub flags: u32,
    pub side: i32,
    pub reserved: i32,
    pub ridge: f32,
    pub reserved2: f32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_prune_options {
    pub struct_size: u32,
    pub flags: u32,
    pub mode: i32,
    pub budget: i32,
    pub key_kept: i32,
    pub value_kept: i32,
    pub sinks: i32,
    pub recent: i32,
    pub attention_share: f32,
    pub ridge: f32,
    pub dense_limit: f32,
    pub reserved: f32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_prune_result {
    pub struct_size: u32,
    pub flags: u32,
    pub first: i64,
    pub rows: i64,
    pub key_total: i64,
    pub value_total: i64,
    pub dense_bytes: i64,
    pub key_bytes: i64,
    pub value_bytes: i64,
    pub key_basis_bytes: i64,
    pub value_basis_bytes: i64,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_cache {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_cache_options {
    pub struct_size: u32,
    pub flags: u32,
    pub layers: i32,
    pub sequences: i32,
    pub fold: i32,
    pub refit: i32,
    pub rollback: i32,
    pub reserved: i32,
    pub reserve_tokens: i64,
    pub limit_bytes: i64,
    pub prune: *const think_prune_options,
    pub format: *const think_format,
    pub layer_formats: *const think_format,
    pub slab: *mut core::ffi::c_void,
    pub slab_bytes: i64,
    pub bases: i32,
    pub scored: i32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_cache_info {
    pub struct_size: u32,
    pub flags: u32,
    pub tokens: i64,
    pub compact_tokens: i64,
    pub dense_bytes: i64,
    pub page_bytes: i64,
    pub basis_bytes: i64,
    pub score_bytes: i64,
    pub table_bytes: i64,
    pub spare_bytes: i64,
    pub allocated_bytes: i64,
    pub key_channels: i32,
    pub value_channels: i32,
    pub runs: i32,
    pub sequences: i32,
    pub evicted_tokens: i64,
}
pub type think_writer = ::std::option::Option<
    unsafe extern "C" fn(user: *mut core::ffi::c_void, data: *const core::ffi::c_void, bytes: i64) -> i32,
>;
pub type think_reader = ::std::option::Option<
    unsafe extern "C" fn(user: *mut core::ffi::c_void, data: *mut core::ffi::c_void, bytes: i64) -> i64,
>;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct think_api {
    pub struct_size: u32,
    pub abi_major: u32,
    pub version: ::std::option::Option<unsafe extern "C" fn() -> i32>,
    pub abi_version: ::std::option::Option<unsafe extern "C" fn() -> i32>,
    pub version_string: ::std::option::Option<unsafe extern "C" fn() -> *const core::ffi::c_char>,
    pub error_init: ::std::option::Option<unsafe extern "C" fn(error: *mut think_error, struct_size: u32)>,
    pub status_name: ::std::option::Option<unsafe extern "C" fn(status: think_status) -> *const core::ffi::c_char>,
    pub tensor_init: ::std::option::Option<unsafe extern "C" fn(tensor: *mut think_tensor, struct_size: u32)>,
    pub batch_init: ::std::option::Option<unsafe extern "C" fn(batch: *mut think_batch, struct_size: u32)>,
    pub dtype_bytes: ::std::option::Option<unsafe extern "C" fn(dtype: think_dtype) -> i32>,
    pub dtype_name: ::std::option::Option<unsafe extern "C" fn(dtype: think_dtype) -> *const core::ffi::c_char>,
    pub context_options_init:
        ::std::option::Option<unsafe extern "C" fn(options: *mut think_context_options, struct_size: u32)>,
    pub context_create: ::std::option::Option<
        unsafe extern "C" fn(
            options: *const think_context_options,
            context: *mut *mut think_context,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub context_destroy: ::std::option::Option<unsafe extern "C" fn(context: *mut think_context)>,
    pub query: ::std::option::Option<
        unsafe extern "C" fn(
            context: *const think_context,
            key: i32,
            value: *mut i64,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub backend_reason: ::std::option::Option<
        unsafe extern "C" fn(
            device: think_device,
            text: *mut core::ffi::c_char,
            capacity: usize,
            needed: *mut usize,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub problem_init: ::std::option::Option<unsafe extern "C" fn(problem: *mut think_problem, struct_size: u32)>,
    pub launch_init: ::std::option::Option<unsafe extern "C" fn(launch: *mut think_launch, struct_size: u32)>,
    pub extent_init: ::std::option::Option<unsafe extern "C" fn(extent: *mut think_extent, struct_size: u32)>,
    pub supports: ::std::option::Option<
        unsafe extern "C" fn(
            context: *const think_context,
            problem: *const think_problem,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub plan_create: ::std::option::Option<
        unsafe extern "C" fn(
            context: *const think_context,
            problem: *const think_problem,
            plan: *mut *mut think_plan,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub plan_destroy: ::std::option::Option<unsafe extern "C" fn(plan: *mut think_plan)>,
    pub plan_describe: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            json: *mut core::ffi::c_char,
            capacity: usize,
            needed: *mut usize,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub workspace_size: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            stage: i32,
            extent: *const think_extent,
            bytes: *mut i64,
            alignment: *mut i64,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub kept_channels: ::std::option::Option<unsafe extern "C" fn(channels: i32, ratio: f64) -> i32>,
    pub basis_init: ::std::option::Option<unsafe extern "C" fn(basis: *mut think_basis, struct_size: u32)>,
    pub basis_size: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            side: i32,
            slots: i32,
            bytes: *mut i64,
            alignment: *mut i64,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub basis_bind: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            side: i32,
            slots: i32,
            memory: *mut core::ffi::c_void,
            bytes: i64,
            basis: *mut think_basis,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub segment_init: ::std::option::Option<unsafe extern "C" fn(segment: *mut think_segment, struct_size: u32)>,
    pub format_init: ::std::option::Option<unsafe extern "C" fn(format: *mut think_format, struct_size: u32)>,
    pub layout_info_init: ::std::option::Option<unsafe extern "C" fn(info: *mut think_layout_info, struct_size: u32)>,
    pub layout: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            format: *const think_format,
            page_tokens: i32,
            total_key: i64,
            total_value: i64,
            info: *mut think_layout_info,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub segment_place: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            segment: *const think_segment,
            batch: *const think_batch,
            launch: *const think_launch,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub score_options_init:
        ::std::option::Option<unsafe extern "C" fn(options: *mut think_score_options, struct_size: u32)>,
    pub score_state_size: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            slots: i32,
            bytes: *mut i64,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub score_reset: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            state: *mut core::ffi::c_void,
            batch: *const think_batch,
            launch: *const think_launch,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub score_update: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            query: *const think_tensor,
            key: *const think_tensor,
            batch: *const think_batch,
            state: *mut core::ffi::c_void,
            launch: *const think_launch,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub score_finish: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            state: *const core::ffi::c_void,
            batch: *const think_batch,
            options: *const think_score_options,
            score: *mut f32,
            launch: *const think_launch,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub score_window: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            state: *const core::ffi::c_void,
            slots: i32,
            query: *mut think_tensor,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub value_score: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            attention: *const think_tensor,
            batch: *const think_batch,
            score: *mut f32,
            launch: *const think_launch,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub moments_options_init:
        ::std::option::Option<unsafe extern "C" fn(options: *mut think_moments_options, struct_size: u32)>,
    pub moments_size: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            slots: i32,
            bytes: *mut i64,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub moments: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            window_query: *const think_tensor,
            source: *const think_segment,
            batch: *const think_batch,
            options: *const think_moments_options,
            moments: *mut core::ffi::c_void,
            launch: *const think_launch,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub gains: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            moments: *const core::ffi::c_void,
            batch: *const think_batch,
            side: i32,
            score: *const f32,
            gains: *mut f32,
            order: *mut i32,
            launch: *const think_launch,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub budget_options_init:
        ::std::option::Option<unsafe extern "C" fn(options: *mut think_budget_options, struct_size: u32)>,
    pub select_options_init:
        ::std::option::Option<unsafe extern "C" fn(options: *mut think_select_options, struct_size: u32)>,
    pub budgets: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            gains: *const f32,
            batch: *const think_batch,
            side: i32,
            options: *const think_budget_options,
            kept: *mut i32,
            launch: *const think_launch,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub select: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            score: *const f32,
            batch: *const think_batch,
            options: *const think_select_options,
            kept: *const i32,
            basis: *mut think_basis,
            mask: *mut u8,
            launch: *const think_launch,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub fit_options_init:
        ::std::option::Option<unsafe extern "C" fn(options: *mut think_fit_options, struct_size: u32)>,
    pub fit: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            moments: *const core::ffi::c_void,
            batch: *const think_batch,
            options: *const think_fit_options,
            basis: *mut think_basis,
            launch: *const think_launch,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub compact: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            source: *const think_segment,
            destination: *const think_segment,
            batch: *const think_batch,
            launch: *const think_launch,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub attend: ::std::option::Option<
        unsafe extern "C" fn(
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
        ) -> think_status,
    >,
    pub merge: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            outputs: *const think_tensor,
            lses: *const *const f32,
            count: i32,
            output: *const think_tensor,
            lse: *mut f32,
            launch: *const think_launch,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub prune_options_init:
        ::std::option::Option<unsafe extern "C" fn(options: *mut think_prune_options, struct_size: u32)>,
    pub prune_result_init:
        ::std::option::Option<unsafe extern "C" fn(result: *mut think_prune_result, struct_size: u32)>,
    pub prune_preview: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            format: *const think_format,
            tokens: i64,
            options: *const think_prune_options,
            result: *mut think_prune_result,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub prune: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            score_state: *const core::ffi::c_void,
            source: *const think_segment,
            destination: *const think_segment,
            batch: *const think_batch,
            options: *const think_prune_options,
            mask: *mut u8,
            launch: *const think_launch,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub tensor_from_dlpack: ::std::option::Option<
        unsafe extern "C" fn(
            source: *const DLTensor,
            device: *mut think_device,
            tensor: *mut think_tensor,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub evict_options_init:
        ::std::option::Option<unsafe extern "C" fn(options: *mut think_evict_options, struct_size: u32)>,
    pub evict: ::std::option::Option<
        unsafe extern "C" fn(
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
        ) -> think_status,
    >,
    pub evict_move: ::std::option::Option<
        unsafe extern "C" fn(
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
        ) -> think_status,
    >,
    pub cache_options_init:
        ::std::option::Option<unsafe extern "C" fn(options: *mut think_cache_options, struct_size: u32)>,
    pub cache_info_init: ::std::option::Option<unsafe extern "C" fn(info: *mut think_cache_info, struct_size: u32)>,
    pub cache_create: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            options: *const think_cache_options,
            cache: *mut *mut think_cache,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub cache_destroy: ::std::option::Option<unsafe extern "C" fn(cache: *mut think_cache)>,
    pub cache_workspace_size: ::std::option::Option<
        unsafe extern "C" fn(
            cache: *const think_cache,
            bytes: *mut i64,
            alignment: *mut i64,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub cache_step: ::std::option::Option<
        unsafe extern "C" fn(
            cache: *mut think_cache,
            sequences: *const i32,
            new_tokens: *const i32,
            count: i32,
            launch: *const think_launch,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub cache_append: ::std::option::Option<
        unsafe extern "C" fn(
            cache: *mut think_cache,
            layer: i32,
            query: *const think_tensor,
            key: *const think_tensor,
            value: *const think_tensor,
            launch: *const think_launch,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub cache_attend: ::std::option::Option<
        unsafe extern "C" fn(
            cache: *const think_cache,
            layer: i32,
            query: *const think_tensor,
            sink_logit: *const f32,
            output: *const think_tensor,
            lse: *mut f32,
            launch: *const think_launch,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub cache_prune: ::std::option::Option<
        unsafe extern "C" fn(
            cache: *mut think_cache,
            sequences: *const i32,
            count: i32,
            launch: *const think_launch,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub cache_usage: ::std::option::Option<
        unsafe extern "C" fn(
            cache: *const think_cache,
            sequence: i32,
            info: *mut think_cache_info,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub cache_segments: ::std::option::Option<
        unsafe extern "C" fn(
            cache: *const think_cache,
            layer: i32,
            segments: *mut think_segment,
            capacity: i32,
            count: *mut i32,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub cache_trim: ::std::option::Option<
        unsafe extern "C" fn(
            cache: *mut think_cache,
            sequence: i32,
            tokens: i64,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub cache_fork: ::std::option::Option<
        unsafe extern "C" fn(
            cache: *mut think_cache,
            source: i32,
            destination: i32,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub cache_drop: ::std::option::Option<
        unsafe extern "C" fn(cache: *mut think_cache, sequence: i32, error: *mut think_error) -> think_status,
    >,
    pub cache_reset:
        ::std::option::Option<unsafe extern "C" fn(cache: *mut think_cache, error: *mut think_error) -> think_status>,
    pub cache_export_dense: ::std::option::Option<
        unsafe extern "C" fn(
            cache: *const think_cache,
            sequence: i32,
            layer: i32,
            first: i64,
            count: i64,
            key: *const think_tensor,
            value: *const think_tensor,
            launch: *const think_launch,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub cache_save_size: ::std::option::Option<
        unsafe extern "C" fn(
            cache: *const think_cache,
            sequence: i32,
            bytes: *mut i64,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub cache_save: ::std::option::Option<
        unsafe extern "C" fn(
            cache: *const think_cache,
            sequence: i32,
            write: think_writer,
            user: *mut core::ffi::c_void,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub cache_load: ::std::option::Option<
        unsafe extern "C" fn(
            cache: *mut think_cache,
            sequence: i32,
            read: think_reader,
            user: *mut core::ffi::c_void,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub cache_evict: ::std::option::Option<
        unsafe extern "C" fn(
            cache: *mut think_cache,
            sequences: *const i32,
            count: i32,
            options: *const think_evict_options,
            window_query: *const think_tensor,
            score: *mut f32,
            launch: *const think_launch,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub cache_keep: ::std::option::Option<
        unsafe extern "C" fn(
            cache: *mut think_cache,
            sequence: i32,
            kept: *const i32,
            rows: i32,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub cache_sequence_segments: ::std::option::Option<
        unsafe extern "C" fn(
            cache: *const think_cache,
            sequence: i32,
            layer: i32,
            segments: *mut think_segment,
            capacity: i32,
            count: *mut i32,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub cache_slab_size: ::std::option::Option<
        unsafe extern "C" fn(
            plan: *const think_plan,
            options: *const think_cache_options,
            dense_tokens: i64,
            compact_tokens: i64,
            bytes: *mut i64,
            error: *mut think_error,
        ) -> think_status,
    >,
    pub cache_graph_id: ::std::option::Option<
        unsafe extern "C" fn(cache: *const think_cache, id: *mut i64, error: *mut think_error) -> think_status,
    >,
    pub cache_replayed: ::std::option::Option<
        unsafe extern "C" fn(cache: *mut think_cache, id: i64, error: *mut think_error) -> think_status,
    >,
}
pub type think_get_api_function =
    ::std::option::Option<unsafe extern "C" fn(abi_major: u32, table_size: u32) -> *const think_api>;
