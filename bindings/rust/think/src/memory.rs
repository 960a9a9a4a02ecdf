use std::alloc::{alloc_zeroed, dealloc, handle_alloc_error, Layout};
use std::ffi::c_void;
use std::ptr::NonNull;

/// Zeroed memory at a multiple of 64 bytes.
pub(crate) struct Memory {
    pointer: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain bytes, owned; they are changed through `&mut` only, or by calls of the library that the owner allows.
unsafe impl Send for Memory {}
unsafe impl Sync for Memory {}

impl Memory {
    pub(crate) fn new(bytes: i64) -> Self {
        let layout = Layout::from_size_align(bytes.max(1) as usize, 64).expect("a size that the library asked for");
        // SAFETY: the size is not 0.
        let pointer = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        Self { pointer, layout }
    }

    pub(crate) fn bytes(&self) -> i64 {
        self.layout.size() as i64
    }

    pub(crate) fn at(&self) -> *mut c_void {
        self.pointer.as_ptr().cast()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.pointer.as_ptr(), self.layout) }
    }
}
