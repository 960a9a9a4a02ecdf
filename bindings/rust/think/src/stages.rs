//! The stages on the caller's own rows: what [`crate::Cache`] does inside.

use think_sys as sys;

use crate::error::{call, Result};
use crate::memory::Memory;
use crate::options::{stamped, BudgetOptions, EvictOptions, FitOptions, MomentsOptions, PruneOptions, ScoreOptions, SelectOptions};
use crate::plan::{batch_of, check_logits, enough, expect, Plan, Workspace};
use crate::segment::{Basis, Compact, Segment};
use crate::tensor::{Element, Tensor, TensorMut};

/// What the score stage has seen of each slot.
pub struct ScoreState {
    memory: Memory,
    slots: usize,
}

/// Weighted means and covariances of each slot.
pub struct Moments {
    memory: Memory,
    slots: usize,
}

/// What each further channel is worth, and which one it is: [slots][kv_heads][channels].
#[derive(Debug, Clone, PartialEq)]
pub struct Gains {
    pub gains: Vec<f32>,
    pub order: Vec<i32>,
}

/// The rows that each head keeps: [slots][kv_heads][stride], and how many they are: [slots][kv_heads].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evicted {
    pub kept: Vec<i32>,
    pub stride: usize,
    pub lengths: Vec<i32>,
}

impl Plan {
    // ---- score ----

    /// An empty state of so many slots.
    pub fn score_state(&self, slots: usize, workspace: &mut Workspace) -> Result<ScoreState> {
        let mut bytes = 0;
        // SAFETY: all are valid.
        call(|error| unsafe { sys::think_score_state_size(self.raw(), slots as i32, &mut bytes, error) })?;
        let mut state = ScoreState { memory: Memory::new(bytes), slots };
        self.score_reset(&mut state, workspace)?;
        Ok(state)
    }

    pub fn score_reset(&self, state: &mut ScoreState, workspace: &mut Workspace) -> Result<()> {
        let batch = batch_of(state.slots);
        // SAFETY: the state has the slots of the batch.
        call(|error| unsafe { sys::think_score_reset(self.raw(), state.memory.at(), &batch, &workspace.launch, error) })
    }

    /// Add a chunk of new tokens: batch row i belongs to slot i.
    pub fn score_update(&self, query: &Tensor, key: &Tensor, state: &mut ScoreState, workspace: &mut Workspace) -> Result<()> {
        self.rows_of("query", query, state.slots)?;
        let (at, launch) = (state.memory.at(), &workspace.launch);
        // SAFETY: tensors lie inside of their slices, the state has a slot for each row of the batch.
        call(|error| unsafe { sys::think_score_update(self.raw(), &query.raw, &key.raw, std::ptr::null(), at, launch, error) })
    }

    /// The scores so far: [slots][kv_heads][key_channels], with `THINK_SCORE_QUERY_HEADS` [slots][query_heads][key_channels].
    pub fn score_finish(&self, state: &ScoreState, options: &ScoreOptions, workspace: &mut Workspace) -> Result<Vec<f32>> {
        let (batch, options) = (batch_of(state.slots), stamped(options));
        let heads = if options.flags & sys::THINK_SCORE_QUERY_HEADS as u32 == 0 { self.problem.kv_heads } else { self.problem.query_heads };
        let mut score = vec![0.0; state.slots * heads as usize * self.channels(sys::THINK_KEYS)];
        let (at, to, launch) = (state.memory.at(), score.as_mut_ptr(), &workspace.launch);
        // SAFETY: the result has room for all slots.
        call(|error| unsafe { sys::think_score_finish(self.raw(), at, &batch, &options, to, launch, error) })?;
        Ok(score)
    }

    /// The last queries inside the state.
    pub fn score_window<'a>(&self, state: &'a ScoreState) -> Result<Tensor<'a>> {
        let mut view = Tensor::<'a>::new::<f32>(&[0.0], [1; 4])?;
        // SAFETY: the view lies inside of the state, which is borrowed as long.
        call(|error| unsafe { sys::think_score_window(self.raw(), state.memory.at(), state.slots as i32, &mut view.raw, error) })?;
        Ok(view)
    }

    /// The paper's score of value channels, from attention outputs of the window's queries: [batch][kv_heads][value_channels].
    pub fn value_score(&self, attention: &Tensor, workspace: &mut Workspace) -> Result<Vec<f32>> {
        let mut score = vec![0.0; attention.extent()[0] * self.kv_heads() * self.channels(sys::THINK_VALUES)];
        let (to, launch) = (score.as_mut_ptr(), &workspace.launch);
        // SAFETY: the result has room for all rows of the batch.
        call(|error| unsafe { sys::think_value_score(self.raw(), &attention.raw, std::ptr::null(), to, launch, error) })?;
        Ok(score)
    }

    // ---- moments, budgets, select, fit ----

    pub fn moments(&self, window: &Tensor, source: &Segment, options: &MomentsOptions, workspace: &mut Workspace) -> Result<Moments> {
        let slots = source.slots;
        self.rows_of("window", window, slots)?;
        enough("window", window.extent()[0], slots)?;
        let mut bytes = 0;
        // SAFETY: all are valid.
        call(|error| unsafe { sys::think_moments_size(self.raw(), slots as i32, &mut bytes, error) })?;
        let moments = Moments { memory: Memory::new(bytes), slots };
        let (batch, options, to, launch) = (batch_of(slots), stamped(options), moments.memory.at(), &workspace.launch);
        // SAFETY: window, segment and moments have all slots.
        call(|error| unsafe { sys::think_moments(self.raw(), &window.raw, &source.raw, &batch, &options, to, launch, error) })?;
        Ok(moments)
    }

    /// `score` is that of the keys; `None` for values.
    pub fn gains(&self, moments: &Moments, side: i32, score: Option<&[f32]>, workspace: &mut Workspace) -> Result<Gains> {
        let count = moments.slots * self.kv_heads() * self.channels(side);
        if let Some(score) = score {
            enough("score", score.len(), count)?;
        }
        let mut made = Gains { gains: vec![0.0; count], order: vec![0; count] };
        let batch = batch_of(moments.slots);
        let score = score.map_or(std::ptr::null(), <[f32]>::as_ptr);
        let (at, gains, order, launch) = (moments.memory.at(), made.gains.as_mut_ptr(), made.order.as_mut_ptr(), &workspace.launch);
        // SAFETY: all arrays have room for all slots.
        call(|error| unsafe { sys::think_gains(self.raw(), at, &batch, side, score, gains, order, launch, error) })?;
        Ok(made)
    }

    /// Share a total of channels among the heads: [layers][slots][kv_heads].
    pub fn budgets(&self, gains: &[f32], slots: usize, side: i32, options: &BudgetOptions, workspace: &mut Workspace) -> Result<Vec<i32>> {
        let (batch, options) = (batch_of(slots), stamped(options));
        let heads = options.layers.max(1) as usize * slots * self.kv_heads();
        enough("gains", gains.len(), heads * self.channels(side))?;
        let mut kept = vec![0; heads];
        let (to, launch) = (kept.as_mut_ptr(), &workspace.launch);
        // SAFETY: both arrays have all layers and slots.
        call(|error| unsafe { sys::think_budgets(self.raw(), gains.as_ptr(), &batch, side, &options, to, launch, error) })?;
        Ok(kept)
    }

    /// Keep the best channels of each head. Returns the mask: [slots][kv_heads][channels].
    pub fn select(
        &self,
        score: &[f32],
        options: &SelectOptions,
        kept: Option<&[i32]>,
        basis: &mut Basis,
        workspace: &mut Workspace,
    ) -> Result<Vec<u8>> {
        let slots = basis.raw.slots as usize;
        let (heads, mut options) = (slots * self.kv_heads(), stamped(options));
        options.side = basis.side;
        enough("score", score.len(), heads * self.channels(basis.side))?;
        if let Some(kept) = kept {
            enough("kept", kept.len(), heads)?;
        }
        let mut mask = vec![0; heads * self.channels(basis.side)];
        let (batch, kept) = (batch_of(slots), kept.map_or(std::ptr::null(), <[i32]>::as_ptr));
        let (from, to, mask_at, launch) = (score.as_ptr(), &mut basis.raw, mask.as_mut_ptr(), &workspace.launch);
        // SAFETY: all arrays have all slots of the basis.
        call(|error| unsafe { sys::think_select(self.raw(), from, &batch, &options, kept, to, mask_at, launch, error) })?;
        Ok(mask)
    }

    /// Predict the dropped channels from the kept ones.
    pub fn fit(&self, moments: &Moments, options: &FitOptions, basis: &mut Basis, workspace: &mut Workspace) -> Result<()> {
        let (slots, mut options) = (basis.raw.slots as usize, stamped(options));
        options.side = basis.side;
        expect(slots <= moments.slots, || format!("the basis has {slots} slots, the moments {}", moments.slots))?;
        let (batch, at, launch) = (batch_of(slots), moments.memory.at(), &workspace.launch);
        // SAFETY: moments and basis have all slots.
        call(|error| unsafe { sys::think_fit(self.raw(), at, &batch, &options, &mut basis.raw, launch, error) })
    }

    // ---- rows ----

    /// Put the heads of a compact segment one behind the other, by the widths of its bases. [`Plan::prune`] does it by itself.
    pub fn segment_place(&self, destination: &mut Compact, workspace: &mut Workspace) -> Result<()> {
        let (batch, raw) = (batch_of(destination.lengths.len()), destination.describe());
        // SAFETY: offsets and bases have all slots.
        call(|error| unsafe { sys::think_segment_place(self.raw(), &raw, &batch, &workspace.launch, error) })
    }

    /// Move the first `count` rows of a dense segment, from `first` on, to the beginning of a compact one whose heads are placed.
    pub fn compact(&self, source: &Segment, first: usize, count: usize, destination: &mut Compact, workspace: &mut Workspace) -> Result<()> {
        let slots = destination.lengths.len();
        source.must_be_dense()?;
        expect(source.slots >= slots, || format!("the source has {} slots, {slots} are needed", source.slots))?;
        expect(count <= destination.capacity, || format!("{count} rows do not fit into {}", destination.capacity))?;
        // SAFETY: lengths of dense segments and parts of them are valid for every slot.
        let has = |slot: usize| unsafe { *source.raw.lengths.add(slot) as usize };
        expect((0..slots).all(|slot| first + count <= has(slot)), || format!("rows {first} .. {} are not there", first + count))?;
        let mut from = source.raw;
        // SAFETY: row `first` lies inside of every slot.
        unsafe {
            from.key = from.key.byte_offset(first as isize * from.key_stride[2] as isize);
            from.value = from.value.byte_offset(first as isize * from.value_stride[2] as isize);
        }
        destination.lengths.fill(count as i32);
        let (batch, to) = (batch_of(slots), destination.describe());
        // SAFETY: both sides have the rows.
        call(|error| unsafe { sys::think_compact(self.raw(), &from, &to, &batch, &workspace.launch, error) })
    }

    /// Score state and dense rows in, a compact segment and the mask of its key channels out: moments, gains, budgets, select, fit and compact of one layer.
    pub fn prune(
        &self,
        state: &ScoreState,
        source: &Segment,
        destination: &mut Compact,
        options: &PruneOptions,
        workspace: &mut Workspace,
    ) -> Result<Vec<u8>> {
        let (slots, options) = (destination.lengths.len(), stamped(options));
        source.must_be_dense()?;
        expect(state.slots >= slots && source.slots >= slots, || format!("state and source need {slots} slots"))?;
        let mut mask = vec![0; slots * self.kv_heads() * self.channels(sys::THINK_KEYS)];
        let (batch, to) = (batch_of(slots), destination.describe());
        let (at, mask_at, launch) = (state.memory.at(), mask.as_mut_ptr(), &workspace.launch);
        let mut moved = Vec::with_capacity(slots);
        for slot in 0..slots {
            // SAFETY: lengths of dense segments are valid for every slot.
            let tokens = unsafe { *source.raw.lengths.add(slot) };
            let preview = self.prune_preview(None, tokens.into(), &options)?;
            expect(preview.rows as usize <= destination.capacity, || format!("{} rows do not fit into {}", preview.rows, destination.capacity))?;
            moved.push(preview.rows as i32);
        }
        // SAFETY: every side has all slots, and the moved rows fit.
        call(|error| unsafe { sys::think_prune(self.raw(), at, &source.raw, &to, &batch, &options, mask_at, launch, error) })?;
        destination.lengths.copy_from_slice(&moved);
        Ok(mask)
    }

    /// Choose the rows that each KV head keeps. `window` as from [`Plan::score_window`]; not needed with `THINK_EVICT_RECENT`.
    pub fn evict(&self, window: Option<&Tensor>, source: &Segment, options: &EvictOptions, workspace: &mut Workspace) -> Result<Evicted> {
        let (slots, mut options) = (source.slots, stamped(options));
        if let Some(window) = window {
            enough("window", window.extent()[0], slots)?;
        }
        options.kept_stride = i64::from(options.budget);
        let heads = slots * self.kv_heads();
        let mut made = Evicted { kept: vec![0; heads * options.budget.max(0) as usize], stride: options.budget.max(0) as usize, lengths: vec![0; heads] };
        let (batch, window) = (batch_of(slots), window.map_or(std::ptr::null(), |rows| &rows.raw));
        let (null, none) = (std::ptr::null(), std::ptr::null_mut());
        let (kept, lengths, launch) = (made.kept.as_mut_ptr(), made.lengths.as_mut_ptr(), &workspace.launch);
        // SAFETY: the lists have room for the budget of every head.
        call(|error| unsafe { sys::think_evict(self.raw(), window, &source.raw, &batch, &options, null, none, kept, lengths, launch, error) })?;
        Ok(made)
    }

    /// Move kept rows together into buffers of `capacity` rows: [slots][kv_heads][capacity][channels].
    pub fn evict_move<T: Element>(&self, source: &Segment, rows: &Evicted, key: &mut [T], value: &mut [T], capacity: usize) -> Result<()> {
        let (slots, heads) = (source.slots, self.kv_heads());
        enough("kept", rows.kept.len(), slots * heads * rows.stride)?;
        enough("lengths", rows.lengths.len(), slots * heads)?;
        let fits = |length: &i32| *length >= 0 && *length as usize <= capacity.min(rows.stride);
        expect(rows.lengths.iter().all(fits), || format!("the lists do not fit into {capacity} rows"))?;
        let full = vec![capacity as i32; slots];
        let (key, value) = ((key.as_mut_ptr(), key.len()), (value.as_mut_ptr(), value.len()));
        let mut to = Segment::described::<T>(self, key, value, capacity, &full)?;
        (to.raw.lengths, to.raw.lengths_stride, to.raw.first) = (rows.lengths.as_ptr(), [heads as i64, 1], std::ptr::null());
        let (batch, check) = (batch_of(slots), Workspace::of(0));
        let (list, stride, none) = (rows.kept.as_ptr(), rows.stride as i64, std::ptr::null_mut());
        // SAFETY: lists and both segments have all slots; the contents of the lists are checked by the library.
        call(|error| unsafe { sys::think_evict_move(self.raw(), &source.raw, &to.raw, &batch, list, stride, none, 0, &check.launch, error) })
    }

    // ---- attention ----

    /// Attention of new queries over the rows of all segments together; batch row i is slot i of each.
    pub fn attend(
        &self,
        query: &Tensor,
        segments: &[Segment],
        sink_logit: Option<&[f32]>,
        output: &mut TensorMut,
        lse: Option<&mut [f32]>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        check_logits(self.problem.query_heads as usize, query, sink_logit, lse.as_deref())?;
        for segment in segments {
            self.rows_of("query", query, segment.slots)?;
        }
        let raw: Vec<_> = segments.iter().map(|segment| segment.raw).collect();
        let sink = sink_logit.map_or(std::ptr::null(), <[f32]>::as_ptr);
        let lse = lse.map_or(std::ptr::null_mut(), <[f32]>::as_mut_ptr);
        let (array, count, launch) = (raw.as_ptr(), raw.len() as i32, &workspace.launch);
        // SAFETY: every segment has a slot for each row of the batch; arrays were checked.
        call(|error| unsafe { sys::think_attend(self.raw(), &query.raw, std::ptr::null(), array, count, sink, &output.raw, lse, launch, error) })
    }

    /// Merge attention over disjoint sets of rows, each with its logarithms.
    pub fn merge(&self, parts: &[(Tensor, &[f32])], output: &mut TensorMut, lse: Option<&mut [f32]>, workspace: &mut Workspace) -> Result<()> {
        let [batch, _, tokens, _] = output.extent();
        let needed = batch * self.problem.query_heads as usize * tokens;
        for (_, values) in parts {
            enough("lse", values.len(), needed)?;
        }
        if let Some(values) = &lse {
            enough("lse", values.len(), needed)?;
        }
        let outputs: Vec<_> = parts.iter().map(|(rows, _)| rows.raw).collect();
        let lses: Vec<_> = parts.iter().map(|(_, values)| values.as_ptr()).collect();
        let lse = lse.map_or(std::ptr::null_mut(), <[f32]>::as_mut_ptr);
        let (from, count, launch) = (outputs.as_ptr(), parts.len() as i32, &workspace.launch);
        // SAFETY: tensors lie inside of their slices; the library compares their extents.
        call(|error| unsafe { sys::think_merge(self.raw(), from, lses.as_ptr(), count, &output.raw, lse, launch, error) })
    }

    fn rows_of(&self, name: &str, rows: &Tensor, slots: usize) -> Result<()> {
        let batch = rows.extent()[0];
        expect(batch <= slots, || format!("{name} has {batch} sequences, there are {slots} slots"))
    }
}
