use std::marker::PhantomData;

use think_sys as sys;

use crate::error::{call, Result};
use crate::memory::Memory;
use crate::options::{stamped, Format};
use crate::plan::{expect, Plan};
use crate::tensor::Element;

/// What compact rows mean: which channels are stored and how the dropped ones are predicted, for every slot and KV head. Owns its memory.
pub struct Basis {
    pub(crate) raw: sys::think_basis,
    pub(crate) side: i32,
    pub(crate) heads: usize,
    _memory: Memory,
}

// SAFETY: the pointers are those of its memory; the library writes there through `&mut` only.
unsafe impl Send for Basis {}
unsafe impl Sync for Basis {}

impl Basis {
    /// (kept channels, all channels: the kept ones first) of a head.
    pub fn channels(&self, slot: usize, head: usize) -> (usize, &[i32]) {
        assert!(slot < self.raw.slots as usize && head < self.heads, "no slot {slot} with head {head}");
        let at = slot * self.heads + head;
        let channels = self.raw.channels as usize;
        // SAFETY: the arrays were laid out for so many slots and heads, in memory that began as zeros.
        unsafe { (*self.raw.kept.add(at) as usize, std::slice::from_raw_parts(self.raw.index.add(at * channels), channels)) }
    }
}

/// A run of cached tokens for the whole batch, borrowed from the buffers that hold it.
pub struct Segment<'a> {
    pub(crate) raw: sys::think_segment,
    pub(crate) slots: usize,
    capacity: usize,
    _arrays: (Box<[i32]>, Box<[i32]>),
    rows: PhantomData<&'a [u8]>,
}

// SAFETY: it stands for slices that are only read.
unsafe impl Send for Segment<'_> {}
unsafe impl Sync for Segment<'_> {}

impl<'a> Segment<'a> {
    /// Dense rows: key [slots][kv_heads][capacity][key_channels] and value the same, of which the first `lengths[slot]` tokens are there.
    pub fn dense<T: Element>(plan: &Plan, key: &'a [T], value: &'a [T], capacity: usize, lengths: &[i32]) -> Result<Self> {
        let (key_rows, value_rows) = (key.as_ptr().cast_mut(), value.as_ptr().cast_mut());
        Self::described(plan, (key_rows, key.len()), (value_rows, value.len()), capacity, lengths)
    }

    pub(crate) fn described<T: Element>(
        plan: &Plan,
        key: (*mut T, usize),
        value: (*mut T, usize),
        capacity: usize,
        lengths: &[i32],
    ) -> Result<Self> {
        let (slots, heads, size) = (lengths.len(), plan.kv_heads(), size_of::<T>() as i64);
        for (name, (_, length), side) in [("key", key, sys::THINK_KEYS), ("value", value, sys::THINK_VALUES)] {
            let needed = slots * heads * capacity * plan.channels(side);
            expect(length >= needed, || format!("{name} has {length} elements, {slots} slots of {capacity} rows need {needed}"))?;
        }
        let fits = |length: &i32| *length >= 0 && *length as usize <= capacity;
        expect(lengths.iter().all(fits), || format!("lengths {lengths:?} do not fit into {capacity} rows"))?;
        let (lengths, first): (Box<[i32]>, Box<[i32]>) = (lengths.into(), vec![0; slots].into());
        let steps = |side: i32| {
            let row = plan.channels(side) as i64 * size;
            [heads as i64 * capacity as i64 * row, capacity as i64 * row, row]
        };
        let raw = sys::think_segment {
            key_layout: sys::THINK_ROWS,
            value_layout: sys::THINK_ROWS,
            key_dtype: T::DTYPE,
            value_dtype: T::DTYPE,
            key: key.0.cast(),
            value: value.0.cast(),
            key_stride: steps(sys::THINK_KEYS),
            value_stride: steps(sys::THINK_VALUES),
            first: first.as_ptr(),
            lengths: lengths.as_ptr(),
            ..Default::default()
        };
        Ok(Self { raw, slots, capacity, _arrays: (lengths, first), rows: PhantomData })
    }

    pub(crate) fn must_be_dense(&self) -> Result<()> {
        let dense = self.capacity > 0 && self.raw.key_layout == sys::THINK_ROWS && self.raw.key_basis.is_null();
        expect(dense, || "a segment of Segment::dense() is needed".into())
    }

    pub(crate) fn of_cache(raw: sys::think_segment, slots: usize) -> Self {
        Self { raw, slots, capacity: 0, _arrays: Default::default(), rows: PhantomData }
    }

    /// The queries belong to the last rows of this segment: each sees those up to its own.
    pub fn causal(mut self) -> Self {
        self.raw.flags |= sys::THINK_SEGMENT_CAUSAL as u32;
        self
    }

    /// The same rows, but only `count` of each slot from `first` on.
    pub fn part(mut self, first: usize, count: usize) -> Result<Self> {
        let capacity = self.capacity;
        expect(first + count <= capacity, || format!("rows {first} .. {} of {capacity}", first + count))?;
        let lengths: Box<[i32]> = vec![count as i32; self.slots].into();
        let begins: Box<[i32]> = vec![first as i32; self.slots].into();
        (self.raw.lengths, self.raw.first) = (lengths.as_ptr(), begins.as_ptr());
        self._arrays = (lengths, begins);
        Ok(self)
    }
}

/// Compact rows that own their memory: keys in tiles, a basis for each side that is pruned.
pub struct Compact {
    pub(crate) key_basis: Option<Box<Basis>>,
    pub(crate) value_basis: Option<Box<Basis>>,
    pub(crate) lengths: Box<[i32]>,
    pub(crate) capacity: usize,
    raw: sys::think_segment,
    _memory: [Memory; 2],
    _offsets: [Box<[i64]>; 2],
}

// SAFETY: the pointers are those of its own memory, which the library writes through `&mut` only.
unsafe impl Send for Compact {}
unsafe impl Sync for Compact {}

impl Compact {
    /// Room for `capacity` rows (a multiple of 32) of every slot, however wide the heads will be; which sides get a basis.
    pub fn new(plan: &Plan, format: Option<&Format>, slots: usize, capacity: usize, key: bool, value: bool) -> Result<Self> {
        let format = format.map_or_else(Format::default, stamped);
        let heads = plan.kv_heads();
        let total = |side| (heads * plan.channels(side)) as i64;
        let info = plan.layout(Some(&format), capacity as i32, total(sys::THINK_KEYS), total(sys::THINK_VALUES))?;
        let basis = |wanted: bool, side| -> Result<Option<Box<Basis>>> { wanted.then(|| plan.basis(side, slots).map(Box::new)).transpose() };
        let (key_basis, value_basis) = (basis(key, sys::THINK_KEYS)?, basis(value, sys::THINK_VALUES)?);
        let memory = [Memory::new(info.key_page_bytes * slots as i64), Memory::new(info.value_page_bytes * slots as i64)];
        let mut offsets: [Box<[i64]>; 2] = [vec![0; slots * heads].into(), vec![0; slots * heads].into()];
        let lengths: Box<[i32]> = vec![0; slots].into();
        let or = |dtype: i32| if dtype == 0 { plan.problem.cache_dtype } else { dtype };
        let at = |basis: &Option<Box<Basis>>| basis.as_ref().map_or(std::ptr::null(), |side| &raw const side.raw);
        let raw = sys::think_segment {
            key_layout: format.key_layout,
            value_layout: format.value_layout,
            page_tokens: capacity as i32,
            key_dtype: or(format.key_dtype),
            value_dtype: or(format.value_dtype),
            key: memory[0].at(),
            value: memory[1].at(),
            key_stride: [info.key_page_bytes, 0, 0],
            value_stride: [info.value_page_bytes, 0, 0],
            key_head_offset: offsets[0].as_mut_ptr(),
            value_head_offset: offsets[1].as_mut_ptr(),
            lengths: lengths.as_ptr(),
            key_basis: at(&key_basis),
            value_basis: at(&value_basis),
            ..Default::default()
        };
        Ok(Self { key_basis, value_basis, lengths, capacity, raw, _memory: memory, _offsets: offsets })
    }

    /// The rows that are there, for attention.
    pub fn segment(&self) -> Segment<'_> {
        Segment { raw: self.raw, slots: self.lengths.len(), capacity: self.capacity, _arrays: Default::default(), rows: PhantomData }
    }

    pub(crate) fn describe(&mut self) -> sys::think_segment {
        self.raw
    }

    pub fn key_basis(&mut self) -> Option<&mut Basis> {
        self.key_basis.as_deref_mut()
    }

    pub fn value_basis(&mut self) -> Option<&mut Basis> {
        self.value_basis.as_deref_mut()
    }
}

impl Plan {
    /// (bytes, alignment) of the bases of so many slots.
    pub fn basis_size(&self, side: i32, slots: usize) -> Result<(i64, i64)> {
        let (mut bytes, mut alignment) = (0, 0);
        // SAFETY: all are valid.
        call(|error| unsafe { sys::think_basis_size(self.raw(), side, slots as i32, &mut bytes, &mut alignment, error) })?;
        Ok((bytes, alignment))
    }

    /// An empty basis: select() and fit() write it.
    pub fn basis(&self, side: i32, slots: usize) -> Result<Basis> {
        let memory = Memory::new(self.basis_size(side, slots)?.0);
        let mut raw = sys::think_basis::default();
        // SAFETY: the memory is as large and as aligned as the library asked for.
        call(|error| unsafe { sys::think_basis_bind(self.raw(), side, slots as i32, memory.at(), memory.bytes(), &mut raw, error) })?;
        Ok(Basis { raw, side, heads: self.kv_heads(), _memory: memory })
    }
}
