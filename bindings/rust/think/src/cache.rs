use std::ffi::c_void;
use std::io::{Read, Write};
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::Arc;

use think_sys as sys;

use crate::error::{call, Error, ErrorKind, Result};
use crate::options::{stamped, CacheInfo, CacheOptions, EvictOptions};
use crate::plan::{check_logits, enough, expect, pointer, Plan, Workspace};
use crate::segment::Segment;
use crate::tensor::{Tensor, TensorMut};

/// The managed cache: all layers of many sequences, in pages that the library allocates and counts. `Send`, not `Sync`: one thread at a time.
///
/// For every engine step [`step`](Self::step) once, then for every layer [`append`](Self::append) and [`attend`](Self::attend); after the prefill
/// [`prune`](Self::prune); at the end of a sequence [`drop_sequence`](Self::drop_sequence).
///
/// ```
/// use think::{Cache, CacheOptions, Context, Plan, Problem, Tensor};
/// let plan = Plan::new(&Context::new()?, Problem { query_heads: 2, kv_heads: 1, key_channels: 8, max_queries: 4, ..Default::default() })?;
/// let mut cache = Cache::new(&plan, &CacheOptions::default())?;
/// let (query, rows) = ([1.0f32; 2 * 4 * 8], [1.0f32; 4 * 8]);
/// cache.step(&[0], &[4])?;
/// let (query, rows) = (Tensor::new(&query, [1, 2, 4, 8])?, Tensor::new(&rows, [1, 1, 4, 8])?);
/// cache.append(0, Some(&query), &rows, &rows)?;
/// let mut output = [0.0f32; 2 * 4 * 8];
/// cache.attend(0, &query, None, &mut think::TensorMut::new(&mut output, [1, 2, 4, 8])?, None)?;
/// assert!(output.iter().all(|x| (x - 1.0).abs() < 1e-3));
/// # Ok::<(), think::Error>(())
/// ```
pub struct Cache {
    raw: *mut sys::think_cache,
    plan: Plan,
    layers: usize,
    step_sequences: usize,
    workspace: Workspace,
}

// SAFETY: it may be used by any thread, one at a time.
unsafe impl Send for Cache {}

impl Drop for Cache {
    fn drop(&mut self) {
        // SAFETY: made by think_cache_create(); its plan is still there.
        unsafe { sys::think_cache_destroy(self.raw) }
    }
}

fn with_fields<T>(options: &CacheOptions, body: impl FnOnce(&sys::think_cache_options) -> T) -> T {
    let (prune, format) = (options.prune.as_ref().map(stamped), options.format.as_ref().map(stamped));
    body(&sys::think_cache_options {
        flags: options.flags,
        layers: options.layers,
        sequences: options.sequences,
        fold: options.fold,
        refit: options.refit,
        rollback: options.rollback,
        reserve_tokens: options.reserve_tokens,
        limit_bytes: options.limit_bytes,
        prune: pointer(&prune),
        format: pointer(&format),
        ..Default::default()
    })
}

impl Cache {
    /// A cache of a CPU plan. One of a CUDA plan needs device memory, a slab and a workspace, and is made with `think_sys`.
    pub fn new(plan: &Plan, options: &CacheOptions) -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: all are valid; the cache holds its plan.
        with_fields(options, |fields| call(|error| unsafe { sys::think_cache_create(plan.raw(), fields, &mut raw, error) }))?;
        let layers = options.layers.max(1) as usize;
        let mut made = Self { raw, plan: plan.clone(), layers, step_sequences: 0, workspace: Workspace::of(0) };
        let mut bytes = 0;
        // SAFETY: the cache is valid.
        call(|error| unsafe { sys::think_cache_workspace_size(made.raw, &mut bytes, std::ptr::null_mut(), error) })?;
        made.workspace = Workspace::of(bytes);
        Ok(made)
    }

    /// Begin an engine step: which sequences get how many new tokens.
    pub fn step(&mut self, sequences: &[i32], new_tokens: &[i32]) -> Result<()> {
        let count = sequences.len();
        expect(count == new_tokens.len(), || format!("{count} sequences, but {} numbers of new tokens", new_tokens.len()))?;
        // SAFETY: both arrays have `count` elements.
        call(|error| unsafe { sys::think_cache_step(self.raw, sequences.as_ptr(), new_tokens.as_ptr(), count as i32, &self.workspace.launch, error) })?;
        self.step_sequences = count;
        Ok(())
    }

    /// Store the new keys and values of one layer; the query may be left out where no sequence keeps scores.
    pub fn append(&mut self, layer: i32, query: Option<&Tensor>, key: &Tensor, value: &Tensor) -> Result<()> {
        let query = query.map_or(std::ptr::null(), |rows| &rows.raw);
        // SAFETY: tensors lie inside of their slices.
        call(|error| unsafe { sys::think_cache_append(self.raw, layer, query, &key.raw, &value.raw, &self.workspace.launch, error) })
    }

    /// Attention of the step's new tokens over everything that their sequences hold. `sink_logit` has one number for each query head, `lse` receives one for
    /// each head and token.
    pub fn attend(&mut self, layer: i32, query: &Tensor, sink_logit: Option<&[f32]>, output: &mut TensorMut, lse: Option<&mut [f32]>) -> Result<()> {
        check_logits(self.plan.problem.query_heads as usize, query, sink_logit, lse.as_deref())?;
        let sink = sink_logit.map_or(std::ptr::null(), <[f32]>::as_ptr);
        let lse = lse.map_or(std::ptr::null_mut(), <[f32]>::as_mut_ptr);
        // SAFETY: tensors lie inside of their slices, and the lengths of the arrays were checked.
        call(|error| unsafe { sys::think_cache_attend(self.raw, layer, &query.raw, sink, &output.raw, lse, &self.workspace.launch, error) })
    }

    /// Prune all layers of some sequences.
    pub fn prune(&mut self, sequences: &[i32]) -> Result<()> {
        // SAFETY: the array has so many elements.
        call(|error| unsafe { sys::think_cache_prune(self.raw, sequences.as_ptr(), sequences.len() as i32, &self.workspace.launch, error) })
    }

    /// Every KV head keeps `options.budget` of its dense rows, in all layers, as [`Plan::evict`] would choose them. Comes before [`prune`](Self::prune).
    /// `score` is \[sequences\]\[layers\]\[kv_heads\]\[options.score_stride\].
    pub fn evict(&mut self, sequences: &[i32], options: &EvictOptions, window: Option<&Tensor>, score: Option<&mut [f32]>) -> Result<()> {
        if let Some(window) = window {
            let needed = sequences.len() * self.layers;
            expect(window.extent()[0] >= needed, || format!("window has {} rows, {needed} are needed", window.extent()[0]))?;
        }
        if let Some(score) = score.as_deref() {
            enough("score", score.len(), sequences.len() * self.lists() * options.score_stride.max(0) as usize)?;
        }
        let (options, window) = (stamped(options), window.map_or(std::ptr::null(), |rows| &rows.raw));
        let score = score.map_or(std::ptr::null_mut(), <[f32]>::as_mut_ptr);
        let (array, count, launch) = (sequences.as_ptr(), sequences.len() as i32, &self.workspace.launch);
        // SAFETY: tensors lie inside of their slices, and the lengths of the arrays were checked.
        call(|error| unsafe { sys::think_cache_evict(self.raw, array, count, &options, window, score, launch, error) })
    }

    /// Evict by lists of your own: `kept` is \[layers\]\[kv_heads\]\[rows\], dense rows in ascending order.
    pub fn keep(&mut self, sequence: i32, kept: &[i32], rows: usize) -> Result<()> {
        let lists = self.lists();
        expect(kept.len() == lists * rows, || format!("kept has {} rows, expected {lists} lists of {rows}", kept.len()))?;
        // SAFETY: the lists have so many rows; what is in them is checked by the library.
        call(|error| unsafe { sys::think_cache_keep(self.raw, sequence, kept.as_ptr(), rows as i32, error) })
    }

    /// What a sequence holds; `None` = the whole cache.
    pub fn usage(&self, sequence: Option<i32>) -> Result<CacheInfo> {
        let mut info = CacheInfo::default();
        // SAFETY: all are valid.
        call(|error| unsafe { sys::think_cache_usage(self.raw, sequence.unwrap_or(-1), &mut info, error) })?;
        Ok(info)
    }

    /// The segments that [`attend`](Self::attend) works on, borrowed: the cache cannot change while they are there.
    pub fn segments(&self, layer: i32) -> Result<Vec<Segment<'_>>> {
        // SAFETY: the array has so many elements.
        self.borrowed(self.step_sequences, |array, capacity, count, error| unsafe { sys::think_cache_segments(self.raw, layer, array, capacity, count, error) })
    }

    /// The same of one sequence, of a step or not: a batch of one, compact runs from the oldest on, then dense rows.
    pub fn sequence_segments(&self, sequence: i32, layer: i32) -> Result<Vec<Segment<'_>>> {
        // SAFETY: the array has so many elements.
        self.borrowed(1, |array, capacity, count, error| unsafe { sys::think_cache_sequence_segments(self.raw, sequence, layer, array, capacity, count, error) })
    }

    fn borrowed(
        &self,
        slots: usize,
        function: impl FnOnce(*mut sys::think_segment, i32, *mut i32, *mut sys::think_error) -> sys::think_status,
    ) -> Result<Vec<Segment<'_>>> {
        let mut raw = [sys::think_segment::default(); sys::THINK_MAX_SEGMENTS as usize];
        let mut count = 0;
        call(|error| function(raw.as_mut_ptr(), sys::THINK_MAX_SEGMENTS, &mut count, error))?;
        Ok(raw[..count as usize].iter().map(|segment| Segment::of_cache(*segment, slots)).collect())
    }

    /// Rebuild rows of one sequence and layer at full width.
    pub fn export_dense(&self, sequence: i32, layer: i32, first: i64, count: i64, key: Option<&mut TensorMut>, value: Option<&mut TensorMut>) -> Result<()> {
        let at = |side: Option<&mut TensorMut>| side.map_or(std::ptr::null(), |rows| &raw const rows.raw);
        let (key, value) = (at(key), at(value));
        // SAFETY: tensors lie inside of their slices; no workspace is needed.
        call(|error| unsafe { sys::think_cache_export_dense(self.raw, sequence, layer, first, count, key, value, std::ptr::null(), error) })
    }

    /// Bytes of the slab of a cache of a CUDA plan that has room for so many rows at the same time.
    pub fn slab_size(plan: &Plan, options: &CacheOptions, dense_tokens: i64, compact_tokens: i64) -> Result<i64> {
        let mut bytes = 0;
        // SAFETY: all are valid.
        with_fields(options, |fields| {
            call(|error| unsafe { sys::think_cache_slab_size(plan.raw(), fields, dense_tokens, compact_tokens, &mut bytes, error) })
        })?;
        Ok(bytes)
    }

    /// CUDA: what a graph that holds append and attend of every layer of this step depends on.
    pub fn graph_id(&self) -> Result<i64> {
        let mut id = 0;
        // SAFETY: the cache is valid.
        call(|error| unsafe { sys::think_cache_graph_id(self.raw, &mut id, error) })?;
        Ok(id)
    }

    /// CUDA: a graph of that number has been launched for this step.
    pub fn replayed(&mut self, graph_id: i64) -> Result<()> {
        // SAFETY: the cache is valid.
        call(|error| unsafe { sys::think_cache_replayed(self.raw, graph_id, error) })
    }

    /// Forget the last tokens of a sequence: `tokens` are left.
    pub fn trim(&mut self, sequence: i32, tokens: i64) -> Result<()> {
        // SAFETY: the cache is valid.
        call(|error| unsafe { sys::think_cache_trim(self.raw, sequence, tokens, error) })
    }

    /// Make `destination` a copy of `source` that shares its pages.
    pub fn fork(&mut self, source: i32, destination: i32) -> Result<()> {
        // SAFETY: the cache is valid.
        call(|error| unsafe { sys::think_cache_fork(self.raw, source, destination, error) })
    }

    /// Forget a sequence.
    pub fn drop_sequence(&mut self, sequence: i32) -> Result<()> {
        // SAFETY: the cache is valid.
        call(|error| unsafe { sys::think_cache_drop(self.raw, sequence, error) })
    }

    /// Forget all sequences.
    pub fn reset(&mut self) -> Result<()> {
        // SAFETY: the cache is valid.
        call(|error| unsafe { sys::think_cache_reset(self.raw, error) })
    }

    /// Bytes that [`save`](Self::save) writes.
    pub fn save_size(&self, sequence: i32) -> Result<u64> {
        let mut bytes = 0;
        // SAFETY: all are valid.
        call(|error| unsafe { sys::think_cache_save_size(self.raw, sequence, &mut bytes, error) })?;
        Ok(bytes as u64)
    }

    /// Write a sequence. The message of what the writer reports is appended to that of the library.
    pub fn save(&self, sequence: i32, file: &mut dyn Write) -> Result<()> {
        let mut stream = Stream { file, failure: Ok(()) };
        // SAFETY: the stream outlives the call.
        stream.through(|user, error| unsafe { sys::think_cache_save(self.raw, sequence, Some(write), user, error) })
    }

    /// Read a sequence, from a reader that buffers.
    pub fn load(&mut self, sequence: i32, file: &mut dyn Read) -> Result<()> {
        let mut stream = Stream { file, failure: Ok(()) };
        // SAFETY: the stream outlives the call.
        stream.through(|user, error| unsafe { sys::think_cache_load(self.raw, sequence, Some(read), user, error) })
    }

    /// Was it made with this plan?
    pub fn is_of(&self, plan: &Plan) -> bool {
        Arc::ptr_eq(&self.plan.inner, &plan.inner)
    }

    /// KV heads of all layers.
    fn lists(&self) -> usize {
        self.layers * self.plan.kv_heads()
    }
}

enum Failure {
    Io(std::io::Error),
    Panic(Box<dyn std::any::Any + Send>),
}

/// A file during a call, and why it failed: neither errors nor panics can pass through C.
struct Stream<F> {
    file: F,
    failure: std::result::Result<(), Failure>,
}

impl<F> Stream<F> {
    fn through(&mut self, function: impl FnOnce(*mut c_void, *mut sys::think_error) -> i32) -> Result<()> {
        let user = std::ptr::from_mut(self).cast();
        let result = call(|error| function(user, error));
        match std::mem::replace(&mut self.failure, Ok(())) {
            Ok(()) => result,
            Err(Failure::Panic(panic)) => resume_unwind(panic),
            Err(Failure::Io(problem)) => result.map_err(|error| Error { message: format!("{}: {problem}", error.message), kind: ErrorKind::Io, ..error }),
        }
    }

    fn attempt<T>(&mut self, work: impl FnOnce(&mut F) -> std::io::Result<T>) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(|| work(&mut self.file))) {
            Ok(Ok(value)) => return Some(value),
            Ok(Err(problem)) => self.failure = Err(Failure::Io(problem)),
            Err(panic) => self.failure = Err(Failure::Panic(panic)),
        }
        None
    }
}

unsafe extern "C" fn write(user: *mut c_void, data: *const c_void, bytes: i64) -> i32 {
    let stream = &mut *user.cast::<Stream<&mut dyn Write>>();
    let data = std::slice::from_raw_parts(data.cast::<u8>(), bytes as usize);
    stream.attempt(|file| file.write_all(data)).map_or(-1, |()| 0)
}

unsafe extern "C" fn read(user: *mut c_void, data: *mut c_void, bytes: i64) -> i64 {
    let stream = &mut *user.cast::<Stream<&mut dyn Read>>();
    std::ptr::write_bytes(data.cast::<u8>(), 0, bytes as usize);
    let data = std::slice::from_raw_parts_mut(data.cast::<u8>(), bytes as usize);
    stream.attempt(|file| {
        let mut filled = 0;
        while filled < data.len() {
            match file.read(&mut data[filled..]) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(problem) if problem.kind() == std::io::ErrorKind::Interrupted => {}
                Err(problem) => return Err(problem),
            }
        }
        Ok(filled as i64)
    })
    .unwrap_or(-1)
}
