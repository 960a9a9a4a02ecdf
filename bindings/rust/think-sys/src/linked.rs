//! The library was linked: there is nothing to load.

use crate::{think_abi_version, THINK_ABI_MAJOR};

/// Is the library that this process has of the ABI generation of these declarations?
pub fn load() -> Result<(), &'static str> {
    // SAFETY: takes nothing.
    if unsafe { think_abi_version() } == THINK_ABI_MAJOR {
        Ok(())
    } else {
        Err("libthink is of another ABI generation than this crate")
    }
}
