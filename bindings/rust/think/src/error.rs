use std::ffi::CStr;

use think_sys as sys;

/// What kind of failure it was: the status code of the C interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A wrong argument.
    Argument,
    /// Well-formed, but not on this backend, device or build.
    Unsupported,
    /// Workspace missing, too small or misaligned.
    Workspace,
    /// An allocation failed.
    Memory,
    /// The device reported an error.
    Device,
    /// The call is right, its moment is not.
    State,
    /// Stored data are damaged or of another version.
    Format,
    /// A file could not be read or written.
    Io,
    /// A bug in the library.
    Internal,
    /// A code that this crate does not know.
    Unknown,
}

/// A failed call. The message is the library's own, the same in every language.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub kind: ErrorKind,
    /// The status code; 0 when the call failed in this crate, before it reached the library.
    pub code: i32,
    /// Position of the offending argument of the C function, counted from 1; 0 = none in particular.
    pub argument: i32,
    /// Error of the device's own interface or of a stream; 0 = none.
    pub native_code: i32,
    pub message: String,
}

/// Result of every fallible call.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn here(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, code: 0, argument: 0, native_code: 0, message: message.into() }
    }

    /// Name of the status in C: "THINK_E_ARGUMENT".
    pub fn name(&self) -> &'static str {
        status_name(self.code)
    }
}

/// Name of a status code: "THINK_E_ARGUMENT".
pub fn status_name(code: i32) -> &'static str {
    // SAFETY: static text, ended by 0.
    unsafe { text(sys::think_status_name(code)) }
}

/// # Safety
/// `pointer` is text that lives as long as the process and ends with 0.
pub(crate) unsafe fn text(pointer: *const std::ffi::c_char) -> &'static str {
    CStr::from_ptr(pointer).to_str().unwrap_or("not UTF-8")
}

/// Make a call that takes an error record.
pub(crate) fn call(function: impl FnOnce(*mut sys::think_error) -> sys::think_status) -> Result<()> {
    let mut record = sys::think_error::default();
    let code = function(&mut record);
    if code == sys::THINK_OK {
        return Ok(());
    }
    let kind = match code {
        sys::THINK_E_ARGUMENT => ErrorKind::Argument,
        sys::THINK_E_UNSUPPORTED => ErrorKind::Unsupported,
        sys::THINK_E_WORKSPACE => ErrorKind::Workspace,
        sys::THINK_E_MEMORY => ErrorKind::Memory,
        sys::THINK_E_DEVICE => ErrorKind::Device,
        sys::THINK_E_STATE => ErrorKind::State,
        sys::THINK_E_FORMAT => ErrorKind::Format,
        sys::THINK_E_IO => ErrorKind::Io,
        sys::THINK_E_INTERNAL => ErrorKind::Internal,
        _ => ErrorKind::Unknown,
    };
    // SAFETY: a failed call fills the record, and its text ends with 0.
    let message = unsafe { CStr::from_ptr(record.message.as_ptr()) }.to_string_lossy().into_owned();
    Err(Error { kind, code, argument: record.argument, native_code: record.native_code, message })
}
