"""Written by bindings/tools/regenerate.sh from think.json: do not edit."""

from collections.abc import Sequence

from ._struct import Data, Struct

class Error(Struct):
    def __init__(self, *, flags: int = ..., code: int = ..., argument: int = ..., native_code: int = ..., message: str = ...) -> None: ...
    flags: int
    code: int
    argument: int
    native_code: int
    message: str

class Tensor(Struct):
    def __init__(self, *, flags: int = ..., data: Data | None = ..., dtype: int = ..., extent: Sequence[int] = ..., stride: Sequence[int] = ...) -> None: ...
    flags: int
    @property
    def data(self) -> int: ...
    @data.setter
    def data(self, value: Data | None) -> None: ...
    dtype: int
    @property
    def extent(self) -> tuple[int, ...]: ...
    @extent.setter
    def extent(self, value: Sequence[int]) -> None: ...
    @property
    def stride(self) -> tuple[int, ...]: ...
    @stride.setter
    def stride(self, value: Sequence[int]) -> None: ...

class Batch(Struct):
    def __init__(self, *, flags: int = ..., count: int = ..., lengths: Data | None = ..., row_start: Data | None = ..., slot: Data | None = ...) -> None: ...
    flags: int
    count: int
    @property
    def lengths(self) -> int: ...
    @lengths.setter
    def lengths(self, value: Data | None) -> None: ...
    @property
    def row_start(self) -> int: ...
    @row_start.setter
    def row_start(self, value: Data | None) -> None: ...
    @property
    def slot(self) -> int: ...
    @slot.setter
    def slot(self, value: Data | None) -> None: ...

class ContextOptions(Struct):
    def __init__(self, *, flags: int = ..., device_type: int = ..., device_index: int = ..., threads: int = ..., parallel_for: object = ..., allocate: object = ..., deallocate: object = ..., log: object = ..., user: Data | None = ...) -> None: ...
    flags: int
    device_type: int
    device_index: int
    threads: int
    @property
    def parallel_for(self) -> int: ...
    @parallel_for.setter
    def parallel_for(self, value: object) -> None: ...
    @property
    def allocate(self) -> int: ...
    @allocate.setter
    def allocate(self, value: object) -> None: ...
    @property
    def deallocate(self) -> int: ...
    @deallocate.setter
    def deallocate(self, value: object) -> None: ...
    @property
    def log(self) -> int: ...
    @log.setter
    def log(self, value: object) -> None: ...
    @property
    def user(self) -> int: ...
    @user.setter
    def user(self, value: Data | None) -> None: ...

class Problem(Struct):
    def __init__(self, *, flags: int = ..., query_dtype: int = ..., cache_dtype: int = ..., output_dtype: int = ..., query_heads: int = ..., kv_heads: int = ..., key_channels: int = ..., value_channels: int = ..., window: int = ..., max_batch: int = ..., max_queries: int = ..., max_tokens: int = ..., scale: float = ..., softcap: float = ...) -> None: ...
    flags: int
    query_dtype: int
    cache_dtype: int
    output_dtype: int
    query_heads: int
    kv_heads: int
    key_channels: int
    value_channels: int
    window: int
    max_batch: int
    max_queries: int
    max_tokens: int
    scale: float
    softcap: float

class Launch(Struct):
    def __init__(self, *, flags: int = ..., workspace: Data | None = ..., workspace_bytes: int = ..., stream: Data | None = ..., slice: int = ..., slices: int = ...) -> None: ...
    flags: int
    @property
    def workspace(self) -> int: ...
    @workspace.setter
    def workspace(self, value: Data | None) -> None: ...
    workspace_bytes: int
    @property
    def stream(self) -> int: ...
    @stream.setter
    def stream(self, value: Data | None) -> None: ...
    slice: int
    slices: int

class Extent(Struct):
    def __init__(self, *, flags: int = ..., batch: int = ..., queries: int = ..., segments: int = ..., tokens: int = ..., rows: int = ...) -> None: ...
    flags: int
    batch: int
    queries: int
    segments: int
    tokens: int
    rows: int

class Basis(Struct):
    def __init__(self, *, flags: int = ..., channels: int = ..., slots: int = ..., kept: Data | None = ..., index: Data | None = ..., weight: Data | None = ..., weight_bytes: int = ..., weight_offset: Data | None = ..., offset: Data | None = ...) -> None: ...
    flags: int
    channels: int
    slots: int
    @property
    def kept(self) -> int: ...
    @kept.setter
    def kept(self, value: Data | None) -> None: ...
    @property
    def index(self) -> int: ...
    @index.setter
    def index(self, value: Data | None) -> None: ...
    @property
    def weight(self) -> int: ...
    @weight.setter
    def weight(self, value: Data | None) -> None: ...
    weight_bytes: int
    @property
    def weight_offset(self) -> int: ...
    @weight_offset.setter
    def weight_offset(self, value: Data | None) -> None: ...
    @property
    def offset(self) -> int: ...
    @offset.setter
    def offset(self, value: Data | None) -> None: ...

class Segment(Struct):
    def __init__(self, *, flags: int = ..., key_layout: int = ..., value_layout: int = ..., page_tokens: int = ..., key_dtype: int = ..., value_dtype: int = ..., key: Data | None = ..., value: Data | None = ..., key_stride: Sequence[int] = ..., value_stride: Sequence[int] = ..., key_head_offset: Data | None = ..., value_head_offset: Data | None = ..., pages: Data | None = ..., pages_stride: int = ..., first: Data | None = ..., lengths: Data | None = ..., lengths_stride: Sequence[int] = ..., slot: Data | None = ..., key_basis: Basis | None = ..., value_basis: Basis | None = ..., key_scale: Data | None = ..., value_scale: Data | None = ...) -> None: ...
    flags: int
    key_layout: int
    value_layout: int
    page_tokens: int
    key_dtype: int
    value_dtype: int
    @property
    def key(self) -> int: ...
    @key.setter
    def key(self, value: Data | None) -> None: ...
    @property
    def value(self) -> int: ...
    @value.setter
    def value(self, value: Data | None) -> None: ...
    @property
    def key_stride(self) -> tuple[int, ...]: ...
    @key_stride.setter
    def key_stride(self, value: Sequence[int]) -> None: ...
    @property
    def value_stride(self) -> tuple[int, ...]: ...
    @value_stride.setter
    def value_stride(self, value: Sequence[int]) -> None: ...
    @property
    def key_head_offset(self) -> int: ...
    @key_head_offset.setter
    def key_head_offset(self, value: Data | None) -> None: ...
    @property
    def value_head_offset(self) -> int: ...
    @value_head_offset.setter
    def value_head_offset(self, value: Data | None) -> None: ...
    @property
    def pages(self) -> int: ...
    @pages.setter
    def pages(self, value: Data | None) -> None: ...
    pages_stride: int
    @property
    def first(self) -> int: ...
    @first.setter
    def first(self, value: Data | None) -> None: ...
    @property
    def lengths(self) -> int: ...
    @lengths.setter
    def lengths(self, value: Data | None) -> None: ...
    @property
    def lengths_stride(self) -> tuple[int, ...]: ...
    @lengths_stride.setter
    def lengths_stride(self, value: Sequence[int]) -> None: ...
    @property
    def slot(self) -> int: ...
    @slot.setter
    def slot(self, value: Data | None) -> None: ...
    key_basis: Basis | None
    value_basis: Basis | None
    @property
    def key_scale(self) -> int: ...
    @key_scale.setter
    def key_scale(self, value: Data | None) -> None: ...
    @property
    def value_scale(self) -> int: ...
    @value_scale.setter
    def value_scale(self, value: Data | None) -> None: ...

class Format(Struct):
    def __init__(self, *, flags: int = ..., key_layout: int = ..., value_layout: int = ..., key_dtype: int = ..., value_dtype: int = ...) -> None: ...
    flags: int
    key_layout: int
    value_layout: int
    key_dtype: int
    value_dtype: int

class LayoutInfo(Struct):
    def __init__(self, *, flags: int = ..., key_page_bytes: int = ..., value_page_bytes: int = ..., key_basis_bytes: int = ..., value_basis_bytes: int = ..., alignment: int = ...) -> None: ...
    flags: int
    key_page_bytes: int
    value_page_bytes: int
    key_basis_bytes: int
    value_basis_bytes: int
    alignment: int

class EvictOptions(Struct):
    def __init__(self, *, flags: int = ..., method: int = ..., budget: int = ..., sinks: int = ..., recent: int = ..., pooling: int = ..., kernel: int = ..., kept_stride: int = ..., score_stride: int = ...) -> None: ...
    flags: int
    method: int
    budget: int
    sinks: int
    recent: int
    pooling: int
    kernel: int
    kept_stride: int
    score_stride: int

class ScoreOptions(Struct):
    def __init__(self, *, flags: int = ...) -> None: ...
    flags: int

class MomentsOptions(Struct):
    def __init__(self, *, flags: int = ..., sinks: int = ..., recent: int = ..., attention_share: float = ...) -> None: ...
    flags: int
    sinks: int
    recent: int
    attention_share: float

class BudgetOptions(Struct):
    def __init__(self, *, flags: int = ..., layers: int = ..., floor: int = ..., step: int = ..., total: int = ...) -> None: ...
    flags: int
    layers: int
    floor: int
    step: int
    total: int

class SelectOptions(Struct):
    def __init__(self, *, flags: int = ..., side: int = ..., kept: int = ..., round_to: int = ...) -> None: ...
    flags: int
    side: int
    kept: int
    round_to: int

class FitOptions(Struct):
    def __init__(self, *, flags: int = ..., side: int = ..., ridge: float = ...) -> None: ...
    flags: int
    side: int
    ridge: float

class PruneOptions(Struct):
    def __init__(self, *, flags: int = ..., mode: int = ..., budget: int = ..., key_kept: int = ..., value_kept: int = ..., sinks: int = ..., recent: int = ..., attention_share: float = ..., ridge: float = ..., dense_limit: float = ...) -> None: ...
    flags: int
    mode: int
    budget: int
    key_kept: int
    value_kept: int
    sinks: int
    recent: int
    attention_share: float
    ridge: float
    dense_limit: float

class PruneResult(Struct):
    def __init__(self, *, flags: int = ..., first: int = ..., rows: int = ..., key_total: int = ..., value_total: int = ..., dense_bytes: int = ..., key_bytes: int = ..., value_bytes: int = ..., key_basis_bytes: int = ..., value_basis_bytes: int = ...) -> None: ...
    flags: int
    first: int
    rows: int
    key_total: int
    value_total: int
    dense_bytes: int
    key_bytes: int
    value_bytes: int
    key_basis_bytes: int
    value_basis_bytes: int

class CacheOptions(Struct):
    def __init__(self, *, flags: int = ..., layers: int = ..., sequences: int = ..., fold: int = ..., refit: int = ..., rollback: int = ..., reserve_tokens: int = ..., limit_bytes: int = ..., prune: PruneOptions | None = ..., format: Format | None = ..., layer_formats: Format | None = ..., slab: Data | None = ..., slab_bytes: int = ..., bases: int = ..., scored: int = ...) -> None: ...
    flags: int
    layers: int
    sequences: int
    fold: int
    refit: int
    rollback: int
    reserve_tokens: int
    limit_bytes: int
    prune: PruneOptions | None
    format: Format | None
    layer_formats: Format | None
    @property
    def slab(self) -> int: ...
    @slab.setter
    def slab(self, value: Data | None) -> None: ...
    slab_bytes: int
    bases: int
    scored: int

class CacheInfo(Struct):
    def __init__(self, *, flags: int = ..., tokens: int = ..., compact_tokens: int = ..., dense_bytes: int = ..., page_bytes: int = ..., basis_bytes: int = ..., score_bytes: int = ..., table_bytes: int = ..., spare_bytes: int = ..., allocated_bytes: int = ..., key_channels: int = ..., value_channels: int = ..., runs: int = ..., sequences: int = ..., evicted_tokens: int = ...) -> None: ...
    flags: int
    tokens: int
    compact_tokens: int
    dense_bytes: int
    page_bytes: int
    basis_bytes: int
    score_bytes: int
    table_bytes: int
    spare_bytes: int
    allocated_bytes: int
    key_channels: int
    value_channels: int
    runs: int
    sequences: int
    evicted_tokens: int
