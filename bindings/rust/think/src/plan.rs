use std::sync::Arc;

use think_sys as sys;

use crate::context::{long_text, Context, Inner as ContextInner};
use crate::error::{call, Error, ErrorKind, Result};
use crate::memory::Memory;
use crate::options::{stamped, Extent, Format, LayoutInfo, Problem, PruneOptions, PruneResult};
use crate::tensor::Tensor;

pub(crate) struct Inner {
    pub(crate) raw: *mut sys::think_plan,
    _context: Arc<ContextInner>,
}

// SAFETY: a plan is immutable; any number of threads may call it, each with its own workspace.
unsafe impl Send for Inner {}
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: made by think_plan_create(); calls borrow the plan, so none is running.
        unsafe { sys::think_plan_destroy(self.raw) }
    }
}

/// One attention shape on one context. `Send` and `Sync`, cheap to clone: any number of threads may call it at the same time, each with a [`Workspace`].
#[derive(Clone)]
pub struct Plan {
    pub(crate) inner: Arc<Inner>,
    pub(crate) problem: Problem,
}

/// Memory that calls work in, one call at a time.
pub struct Workspace {
    _memory: Memory,
    pub(crate) launch: sys::think_launch,
}

// SAFETY: the pointers of the launch are those of its memory.
unsafe impl Send for Workspace {}

impl Workspace {
    pub(crate) fn of(bytes: i64) -> Self {
        let memory = Memory::new(bytes);
        // Arrays of lengths, slots and widths are looked at before they are used: what safe code can get wrong is an error, not a stray read.
        let flags = sys::THINK_LAUNCH_CHECK as u32;
        let launch = sys::think_launch { flags, workspace: memory.at(), workspace_bytes: memory.bytes(), ..Default::default() };
        Self { _memory: memory, launch }
    }

    /// Bytes of this workspace.
    pub fn bytes(&self) -> usize {
        self.launch.workspace_bytes as usize
    }
}

/// Every stage, for [`Plan::workspace`].
pub const STAGES: [i32; 8] = [
    sys::THINK_STAGE_SCORE,
    sys::THINK_STAGE_MOMENTS,
    sys::THINK_STAGE_SELECT,
    sys::THINK_STAGE_FIT,
    sys::THINK_STAGE_COMPACT,
    sys::THINK_STAGE_ATTEND,
    sys::THINK_STAGE_PRUNE,
    sys::THINK_STAGE_EVICT,
];

impl Plan {
    /// ```
    /// let plan = think::Plan::new(&think::Context::new()?, think::Problem { query_heads: 8, kv_heads: 2, key_channels: 64, ..Default::default() })?;
    /// assert!(plan.describe()?.contains("\"query_heads\""));
    /// # Ok::<(), think::Error>(())
    /// ```
    pub fn new(context: &Context, problem: Problem) -> Result<Self> {
        let mut problem = stamped(&problem);
        let mut raw = std::ptr::null_mut();
        // SAFETY: all are valid.
        call(|error| unsafe { sys::think_plan_create(context.inner.raw, &problem, &mut raw, error) })?;
        // the library's defaults, for the sizes that are checked here
        let or = |value: i32, default: i32| if value == 0 { default } else { value };
        problem.query_dtype = or(problem.query_dtype, sys::THINK_F32);
        problem.cache_dtype = or(problem.cache_dtype, sys::THINK_F16);
        problem.output_dtype = or(problem.output_dtype, problem.query_dtype);
        problem.value_channels = or(problem.value_channels, problem.key_channels);
        problem.window = or(problem.window, 32);
        Ok(Self { inner: Arc::new(Inner { raw, _context: context.inner.clone() }), problem })
    }

    /// The problem, with the defaults of the library filled in where they matter for the sizes of arrays.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// What the plan is, as JSON: the kernel of every stage and why, workspaces, bytes moved.
    pub fn describe(&self) -> Result<String> {
        long_text(|text, capacity, needed, error| {
            // SAFETY: `capacity` bytes lie at `text`.
            unsafe { sys::think_plan_describe(self.raw(), text, capacity, needed, error) }
        })
    }

    /// (bytes, alignment) that one call of a stage needs.
    pub fn workspace_size(&self, stage: i32, extent: Option<&Extent>) -> Result<(i64, i64)> {
        let extent = extent.map(stamped);
        let (mut bytes, mut alignment) = (0, 0);
        // SAFETY: an extent or NULL.
        call(|error| unsafe { sys::think_workspace_size(self.raw(), stage, pointer(&extent), &mut bytes, &mut alignment, error) })?;
        Ok((bytes, alignment))
    }

    /// A workspace that serves these stages (`STAGES` for all of them) at this extent; `None` = the plan's maxima.
    pub fn workspace(&self, stages: &[i32], extent: Option<&Extent>) -> Result<Workspace> {
        let mut most = 0;
        for stage in stages {
            most = most.max(self.workspace_size(*stage, extent)?.0);
        }
        Ok(Workspace::of(most))
    }

    /// Bytes of pages whose heads keep so many channels together.
    pub fn layout(&self, format: Option<&Format>, page_tokens: i32, total_key: i64, total_value: i64) -> Result<LayoutInfo> {
        let format = format.map(stamped);
        let mut info = LayoutInfo::default();
        // SAFETY: all are valid.
        call(|error| unsafe { sys::think_layout(self.raw(), pointer(&format), page_tokens, total_key, total_value, &mut info, error) })?;
        Ok(info)
    }

    /// What a prune will do with a sequence of so many tokens.
    pub fn prune_preview(&self, format: Option<&Format>, tokens: i64, options: &PruneOptions) -> Result<PruneResult> {
        let (format, options) = (format.map(stamped), stamped(options));
        let mut result = PruneResult::default();
        // SAFETY: all are valid.
        call(|error| unsafe { sys::think_prune_preview(self.raw(), pointer(&format), tokens, &options, &mut result, error) })?;
        Ok(result)
    }

    pub(crate) fn raw(&self) -> *const sys::think_plan {
        self.inner.raw
    }

    pub(crate) fn kv_heads(&self) -> usize {
        self.problem.kv_heads as usize
    }

    pub(crate) fn channels(&self, side: i32) -> usize {
        (if side == sys::THINK_VALUES { self.problem.value_channels } else { self.problem.key_channels }) as usize
    }
}

pub(crate) fn pointer<T>(value: &Option<T>) -> *const T {
    value.as_ref().map_or(std::ptr::null(), std::ptr::from_ref)
}

pub(crate) fn expect(right: bool, message: impl FnOnce() -> String) -> Result<()> {
    if right {
        Ok(())
    } else {
        Err(Error::here(ErrorKind::Argument, message()))
    }
}

pub(crate) fn enough(name: &str, length: usize, needed: usize) -> Result<()> {
    expect(length >= needed, || format!("{name} has {length} numbers, {needed} are needed"))
}

pub(crate) fn check_logits(heads: usize, query: &Tensor, sink_logit: Option<&[f32]>, lse: Option<&[f32]>) -> Result<()> {
    let [batch, _, tokens, _] = query.extent();
    expect(sink_logit.is_none_or(|logits| logits.len() >= heads), || format!("sink_logit has fewer than {heads} numbers"))?;
    let needed = batch * heads * tokens;
    expect(lse.is_none_or(|values| values.len() >= needed), || format!("lse has fewer than {needed} numbers"))
}

pub(crate) fn batch_of(count: usize) -> sys::think_batch {
    sys::think_batch { count: count as i32, ..Default::default() }
}
