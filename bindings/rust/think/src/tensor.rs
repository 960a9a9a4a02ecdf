use std::ffi::c_void;
use std::marker::PhantomData;

use think_sys as sys;

use crate::error::{call, text, Error, ErrorKind, Result};

/// An IEEE half, by its bits. `half::f16` and others have the same layout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct F16(pub u16);

/// A bfloat16, by its bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(pub u16);

/// Numbers that tensors hold.
///
/// # Safety
/// `DTYPE` is the library's type of exactly this layout, and every bit pattern is a value.
pub unsafe trait Element: Copy + Default {
    const DTYPE: i32;
}
// SAFETY: the layouts are those of the types of the same name.
unsafe impl Element for f32 {
    const DTYPE: i32 = sys::THINK_F32;
}
unsafe impl Element for F16 {
    const DTYPE: i32 = sys::THINK_F16;
}
unsafe impl Element for Bf16 {
    const DTYPE: i32 = sys::THINK_BF16;
}

/// Bytes of one element of a type; 0 for what tensors cannot hold.
pub fn dtype_bytes(dtype: i32) -> usize {
    // SAFETY: takes a number.
    unsafe { sys::think_dtype_bytes(dtype) as usize }
}

/// Name of a type: "f32", "bf16", "u4".
pub fn dtype_name(dtype: i32) -> &'static str {
    // SAFETY: static text.
    unsafe { text(sys::think_dtype_name(dtype)) }
}

/// Rows in the order (batch, head, token, channel), borrowed from a slice that the library only reads.
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    pub(crate) raw: sys::think_tensor,
    borrowed: PhantomData<&'a [u8]>,
}

/// The same, for what the library writes.
pub struct TensorMut<'a> {
    pub(crate) raw: sys::think_tensor,
    borrowed: PhantomData<&'a mut [u8]>,
}

// SAFETY: they stand for slices.
unsafe impl Send for Tensor<'_> {}
unsafe impl Sync for Tensor<'_> {}
unsafe impl Send for TensorMut<'_> {}

/// Contiguous rows: elements per step of each axis.
pub fn contiguous(extent: [usize; 4]) -> [usize; 4] {
    let token = extent[3];
    let head = extent[2].saturating_mul(token);
    [extent[1].saturating_mul(head), head, token, 1]
}

fn describe<T: Element>(data: *mut c_void, length: usize, extent: [usize; 4], stride: [usize; 4]) -> Result<sys::think_tensor> {
    let mut last = 0usize;
    for (size, step) in extent.into_iter().zip(stride) {
        last = size
            .checked_sub(1)
            .and_then(|steps| steps.checked_mul(step))
            .and_then(|more| last.checked_add(more))
            .ok_or_else(|| Error::here(ErrorKind::Argument, format!("extent {extent:?} with stride {stride:?} is empty or too large")))?;
    }
    if last >= length {
        let message = format!("extent {extent:?} with stride {stride:?} needs {} elements, the slice has {length}", last + 1);
        return Err(Error::here(ErrorKind::Argument, message));
    }
    Ok(sys::think_tensor {
        data,
        dtype: T::DTYPE,
        extent: extent.map(|size| size as i64),
        stride: stride.map(|step| step as i64),
        ..Default::default()
    })
}

impl<'a> Tensor<'a> {
    /// Contiguous rows. Fails when the slice is too short.
    pub fn new<T: Element>(data: &'a [T], extent: [usize; 4]) -> Result<Self> {
        Self::with_stride(data, extent, contiguous(extent))
    }

    /// Rows with steps of the caller's, in elements. Fails when one of them would lie outside of the slice.
    pub fn with_stride<T: Element>(data: &'a [T], extent: [usize; 4], stride: [usize; 4]) -> Result<Self> {
        let raw = describe::<T>(data.as_ptr().cast_mut().cast(), data.len(), extent, stride)?;
        Ok(Self { raw, borrowed: PhantomData })
    }

    /// A view of a DLPack tensor, without a copy.
    ///
    /// # Safety
    /// `tensor` points to a valid DLTensor whose memory lives, unchanged by others, as long as `'a`, and is host memory if the plan's device is the CPU.
    pub unsafe fn from_dlpack(tensor: *const c_void) -> Result<Self> {
        let (mut raw, mut device) = (sys::think_tensor::default(), 0);
        call(|error| sys::think_tensor_from_dlpack(tensor.cast(), &mut device, &mut raw, error))?;
        Ok(Self { raw, borrowed: PhantomData })
    }

    /// (batch, heads, tokens, channels)
    pub fn extent(&self) -> [usize; 4] {
        self.raw.extent.map(|size| size as usize)
    }
}

impl<'a> TensorMut<'a> {
    /// Contiguous rows. Fails when the slice is too short.
    pub fn new<T: Element>(data: &'a mut [T], extent: [usize; 4]) -> Result<Self> {
        let raw = describe::<T>(data.as_mut_ptr().cast(), data.len(), extent, contiguous(extent))?;
        Ok(Self { raw, borrowed: PhantomData })
    }

    /// (batch, heads, tokens, channels)
    pub fn extent(&self) -> [usize; 4] {
        self.raw.extent.map(|size| size as usize)
    }
}
