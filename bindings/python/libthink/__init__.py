"""libthink: smaller key-value caches for language models by dropping or folding channels.

    context = libthink.Context(threads=-1)
    plan = libthink.Plan(context, query_heads=32, kv_heads=8, key_channels=128, max_tokens=32768)
    cache = libthink.Cache(plan, layers=24, sequences=8)

Tensors are numpy, torch or jax arrays, or Tensor objects; nothing is copied. Failures raise ThinkError. The C names are in `libthink.native`.
"""

from . import _native as native
from . import constants
from ._dlpack import INT32, INT64, UINT8
from ._struct import Data, Struct
from .arrays import Array, Memory, Tensor, dtype_bytes, dtype_name
from .cache import Cache
from .constants import BF16, DEVICE_CPU, DEVICE_CUDA, F16, F32, KEYS, ROWS, TILES, U4, U8, VALUES
from .context import Context, abi_version, backend_reason, kept_channels, query, status_name, supports, version, version_string
from .errors import (ArgumentError, DeviceError, FormatError, InternalError, OutOfMemoryError, StateError, StreamError, ThinkError, UnsupportedError,
                     WorkspaceError)
from .plan import Plan
from .structs import (Basis, Batch, BudgetOptions, CacheInfo, CacheOptions, ContextOptions, Error, EvictOptions, Extent, FitOptions, Format, Launch, LayoutInfo,
                      MomentsOptions, Problem, PruneOptions, PruneResult, ScoreOptions, Segment, SelectOptions)

__all__ = [
    "ArgumentError", "Array", "BF16", "Basis", "Batch", "BudgetOptions", "Cache", "CacheInfo", "CacheOptions", "Context", "ContextOptions", "DEVICE_CPU",
    "DEVICE_CUDA", "Data", "DeviceError", "Error", "EvictOptions", "Extent", "F16", "F32", "FitOptions", "Format", "FormatError", "INT32", "INT64",
    "InternalError", "KEYS", "Launch", "LayoutInfo", "Memory", "MomentsOptions", "OutOfMemoryError", "Plan", "Problem", "PruneOptions", "PruneResult", "ROWS",
    "ScoreOptions", "Segment", "SelectOptions", "StateError", "StreamError", "Struct", "TILES", "Tensor", "ThinkError", "U4", "U8", "UINT8", "UnsupportedError",
    "VALUES", "WorkspaceError", "abi_version", "backend_reason", "constants", "dtype_bytes", "dtype_name", "kept_channels", "native", "query", "status_name",
    "supports", "version", "version_string",
]
