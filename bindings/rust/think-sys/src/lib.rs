//! The C interface of libthink, as its headers have it. The crate `think` makes it safe.
#![allow(non_camel_case_types)]

mod checks;
#[cfg(feature = "dlopen")]
mod dynamic;
#[cfg(not(feature = "dlopen"))]
mod functions;
#[cfg_attr(not(feature = "dlopen"), path = "linked.rs")]
mod loader;
#[allow(clippy::type_complexity)]
mod types;

pub use checks::FUNCTIONS;
#[cfg(feature = "dlopen")]
pub use dynamic::*;
#[cfg(not(feature = "dlopen"))]
pub use functions::*;
#[cfg(feature = "calls")]
pub use loader::calls;
pub use loader::load;
pub use types::*;
