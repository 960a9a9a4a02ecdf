#![doc = include_str!("../README.md")]

mod cache;
mod context;
mod error;
mod memory;
mod options;
mod plan;
mod segment;
mod stages;
mod tensor;

pub use cache::Cache;
pub use context::{abi_version, backend_reason, kept_channels, query, version, version_string, Context, ContextOptions};
pub use error::{status_name, Error, ErrorKind, Result};
pub use options::*;
pub use plan::{Plan, Workspace, STAGES};
pub use segment::{Basis, Compact, Segment};
pub use stages::{Evicted, Gains, Moments, ScoreState};
pub use tensor::{contiguous, dtype_bytes, dtype_name, Bf16, Element, Tensor, TensorMut, F16};
/// Constants, `THINK_...`, and everything that this crate does not wrap.
pub use think_sys as sys;
