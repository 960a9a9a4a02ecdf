use std::ffi::{c_char, c_void, CStr};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use think_sys as sys;

use crate::error::{call, text, Error, ErrorKind, Result};
use crate::options::{stamped, Problem};

type Log = Box<dyn Fn(i32, &str) + Send + Sync>;

/// How to make a [`Context`]: the CPU, and the calling thread only, unless said otherwise.
#[derive(Default)]
pub struct ContextOptions {
    device: i32,
    index: i32,
    threads: i32,
    log: Option<Log>,
}

impl ContextOptions {
    /// Device kind, `sys::THINK_DEVICE_...`, and number.
    pub fn device(mut self, kind: i32, index: i32) -> Self {
        (self.device, self.index) = (kind, index);
        self
    }

    /// Threads of the library: 0 = the caller's own, -1 = one for every core.
    pub fn threads(mut self, threads: i32) -> Self {
        self.threads = threads;
        self
    }

    /// Lines for the host's log, from any thread: level and text. A panic of the closure is swallowed.
    pub fn log(mut self, write: impl Fn(i32, &str) + Send + Sync + 'static) -> Self {
        self.log = Some(Box::new(write));
        self
    }

    pub fn build(self) -> Result<Context> {
        sys::load().map_err(|problem| Error::here(ErrorKind::Unsupported, problem))?;
        let log = self.log.map(Box::new);
        let mut options = sys::think_context_options {
            device_type: self.device,
            device_index: self.index,
            threads: self.threads,
            ..Default::default()
        };
        if let Some(write) = &log {
            options.log = Some(forward_log);
            options.user = (&raw const **write).cast_mut().cast();
        }
        let mut raw = std::ptr::null_mut();
        // SAFETY: the hook and what it is handed live as long as the context's last plan, which holds this Arc.
        call(|error| unsafe { sys::think_context_create(&options, &mut raw, error) })?;
        Ok(Context { inner: Arc::new(Inner { raw, _log: log }) })
    }
}

unsafe extern "C" fn forward_log(user: *mut c_void, level: i32, message: *const c_char) {
    let write = &*user.cast::<Log>();
    let message = CStr::from_ptr(message).to_string_lossy();
    let _ = catch_unwind(AssertUnwindSafe(|| write(level, &message)));
}

pub(crate) struct Inner {
    pub(crate) raw: *mut sys::think_context,
    _log: Option<Box<Log>>,
}

// SAFETY: a context is immutable once made; any thread may use and destroy it.
unsafe impl Send for Inner {}
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: made by think_context_create(), given up once.
        unsafe { sys::think_context_destroy(self.raw) }
    }
}

/// The device, the threads and the host's hooks. Cheap to clone; any number of threads may use it.
#[derive(Clone)]
pub struct Context {
    pub(crate) inner: Arc<Inner>,
}

impl Context {
    /// The CPU, without threads of its own.
    pub fn new() -> Result<Self> {
        Self::options().build()
    }

    pub fn options() -> ContextOptions {
        ContextOptions::default()
    }

    /// One fact about this context: `sys::THINK_QUERY_...`.
    pub fn query(&self, key: i32) -> Result<i64> {
        ask(self.inner.raw, key)
    }

    /// Can this context run this problem?
    pub fn supports(&self, problem: &Problem) -> Result<()> {
        let problem = stamped(problem);
        // SAFETY: both are valid.
        call(|error| unsafe { sys::think_supports(self.inner.raw, &problem, error) })
    }
}

fn ask(context: *const sys::think_context, key: i32) -> Result<i64> {
    let mut value = 0;
    // SAFETY: a context or NULL.
    call(|error| unsafe { sys::think_query(context, key, &mut value, error) })?;
    Ok(value)
}

/// One fact about the library: `sys::THINK_QUERY_...`.
pub fn query(key: i32) -> Result<i64> {
    ask(std::ptr::null(), key)
}

/// Version of the library that runs: major * 10000 + minor * 100 + patch.
pub fn version() -> i32 {
    // SAFETY: takes nothing.
    unsafe { sys::think_version() }
}

pub fn version_string() -> &'static str {
    // SAFETY: static text.
    unsafe { text(sys::think_version_string()) }
}

/// ABI generation of the library that runs.
pub fn abi_version() -> i32 {
    // SAFETY: takes nothing.
    unsafe { sys::think_abi_version() }
}

/// Why a backend can or cannot be used here; begins with "available" if it can.
pub fn backend_reason(device: i32) -> Result<String> {
    long_text(|text, capacity, needed, error| {
        // SAFETY: `capacity` bytes lie at `text`.
        unsafe { sys::think_backend_reason(device, text, capacity, needed, error) }
    })
}

/// Channels kept of `channels` at a pruning ratio, as the paper's code rounds; `None` unless the ratio is in [0, 1).
pub fn kept_channels(channels: i32, ratio: f64) -> Option<i32> {
    // SAFETY: takes numbers.
    Some(unsafe { sys::think_kept_channels(channels, ratio) }).filter(|kept| *kept >= 0)
}

pub(crate) fn long_text(fill: impl Fn(*mut c_char, usize, *mut usize, *mut sys::think_error) -> i32) -> Result<String> {
    let mut needed = 0;
    call(|error| fill(std::ptr::null_mut(), 0, &mut needed, error))?;
    let mut buffer = vec![0u8; needed];
    call(|error| fill(buffer.as_mut_ptr().cast(), buffer.len(), std::ptr::null_mut(), error))?;
    Ok(CStr::from_bytes_until_nul(&buffer).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default())
}
