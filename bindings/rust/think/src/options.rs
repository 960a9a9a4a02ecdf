//! The plain structs of the C interface: numbers only. `..Default::default()` is what their init functions say.

use think_sys as sys;

pub use sys::think_budget_options as BudgetOptions;
pub use sys::think_cache_info as CacheInfo;
pub use sys::think_evict_options as EvictOptions;
pub use sys::think_extent as Extent;
pub use sys::think_fit_options as FitOptions;
pub use sys::think_format as Format;
pub use sys::think_layout_info as LayoutInfo;
pub use sys::think_moments_options as MomentsOptions;
pub use sys::think_problem as Problem;
pub use sys::think_prune_options as PruneOptions;
pub use sys::think_prune_result as PruneResult;
pub use sys::think_score_options as ScoreOptions;
pub use sys::think_select_options as SelectOptions;

/// A struct that begins with its size.
pub(crate) trait Sized32: Copy {
    fn stamp(&mut self);
}

macro_rules! sized {
    ($($name:ident),*) => {$(impl Sized32 for $name {
        fn stamp(&mut self) { self.struct_size = size_of::<Self>() as u32; }
    })*};
}
sized!(BudgetOptions, EvictOptions, Extent, FitOptions, Format, MomentsOptions, Problem, PruneOptions, ScoreOptions, SelectOptions);

/// A copy with the true size: the field is public, and the library reads as many bytes as it says.
pub(crate) fn stamped<T: Sized32>(from: &T) -> T {
    let mut copy = *from;
    copy.stamp();
    copy
}

/// Options of [`crate::Cache::new`]: fields as in `think_cache_options`, 0 = the library's defaults.
#[derive(Debug, Clone, Copy, Default)]
pub struct CacheOptions {
    /// `sys::THINK_CACHE_...`
    pub flags: u32,
    pub layers: i32,
    pub sequences: i32,
    /// `sys::THINK_FOLD_...`
    pub fold: i32,
    pub refit: i32,
    pub rollback: i32,
    pub reserve_tokens: i64,
    pub limit_bytes: i64,
    pub prune: Option<PruneOptions>,
    pub format: Option<Format>,
}
