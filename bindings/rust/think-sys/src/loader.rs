//! Opens the library at run time and keeps its function table.

use core::ffi::{c_char, c_int, c_void, CStr};
use std::ffi::CString;
use std::sync::OnceLock;

use crate::types::{think_api, think_get_api_function, THINK_ABI_MAJOR};

extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *const c_char;
}
const RTLD_NOW: c_int = 2;

static TABLE: OnceLock<Result<&'static think_api, String>> = OnceLock::new();

/// Open the library, once: what `THINK_LIBRARY` names, or `libthink.so.1`. Every function of this crate does it by itself, and panics where this fails.
pub fn load() -> Result<(), &'static str> {
    TABLE.get_or_init(open).as_ref().map(|_| ()).map_err(String::as_str)
}

pub(crate) fn table() -> &'static think_api {
    match TABLE.get_or_init(open) {
        Ok(table) => table,
        Err(problem) => panic!("{problem}"),
    }
}

fn open() -> Result<&'static think_api, String> {
    let name = std::env::var("THINK_LIBRARY").unwrap_or_else(|_| "libthink.so.1".into());
    let text = CString::new(name.clone()).map_err(|_| format!("THINK_LIBRARY holds a zero byte: {name:?}"))?;
    // SAFETY: the strings end with 0; the symbol has this type in every version of the library.
    unsafe {
        let library = dlopen(text.as_ptr(), RTLD_NOW);
        if library.is_null() {
            let reason = dlerror();
            let reason = if reason.is_null() { "no reason was given".into() } else { CStr::from_ptr(reason).to_string_lossy() };
            return Err(format!("cannot load {name} (THINK_LIBRARY names another file): {reason}"));
        }
        let symbol = dlsym(library, c"think_get_api".as_ptr());
        let get: think_get_api_function = core::mem::transmute(symbol);
        let Some(get) = get else { return Err(format!("{name} is no libthink: it has no think_get_api")) };
        let size = size_of::<think_api>() as u32;
        let table = get(THINK_ABI_MAJOR as u32, size);
        let Some(table) = table.as_ref() else {
            return Err(format!("{name} is of another ABI generation than this crate, which needs {THINK_ABI_MAJOR}"));
        };
        if table.struct_size < size {
            return Err(format!("{name} is older than this crate: its table has {} bytes, {size} are needed", table.struct_size));
        }
        Ok(table)
    }
}

#[cfg(not(feature = "calls"))]
pub(crate) fn note(_: usize) {}

#[cfg(feature = "calls")]
mod counted {
    use crate::FUNCTIONS;
    use std::sync::atomic::{AtomicUsize, Ordering};

    static CALLS: [AtomicUsize; FUNCTIONS.len()] = [const { AtomicUsize::new(0) }; FUNCTIONS.len()];

    pub(crate) fn note(number: usize) {
        CALLS[number].fetch_add(1, Ordering::Relaxed);
    }

    /// How often each function was called so far, in the order of `FUNCTIONS`.
    pub fn calls() -> Vec<usize> {
        CALLS.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}
#[cfg(feature = "calls")]
pub use counted::calls;
#[cfg(feature = "calls")]
pub(crate) use counted::note;
