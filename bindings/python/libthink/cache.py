"""The managed cache: all layers of many sequences in pages that the library allocates and counts."""

import threading
from typing import Any, BinaryIO, Sequence

from ._hooks import Stream
from ._native import call, ffi, number, pair
from ._struct import Data, Pointer, at, pointer
from .arrays import Memory, Tensor
from .constants import MAX_SEGMENTS
from .context import Owner
from .errors import StreamError
from .plan import Plan
from .structs import CacheInfo, CacheOptions, EvictOptions, Launch, Segment

_FLOATS, _CONST_FLOATS, _CONST_INTS = Pointer("float *"), Pointer("const float *"), Pointer("const int32_t *")


class Cache(Owner):
    """A cache of a plan: for every engine step step() once, then for every layer append() and attend(); after the prefill prune(); at the end drop().

    Cache(plan, layers=24, sequences=8) or Cache(plan, CacheOptions(...)). One thread at a time: calls wait for each other. The plan lives as long as the cache.
    """

    def __init__(self, plan: Plan, options: "CacheOptions | None" = None, **fields: Any) -> None:
        if options is None:
            options = CacheOptions(**fields)
        elif fields:
            raise TypeError("CacheOptions, or its fields, not both")
        handle = ffi.new("think_cache **")
        call("think_cache_create", plan._handle, at(options), handle)
        self._own(handle[0], "think_cache_destroy", plan._handle)
        self._plan = plan
        self._one_at_a_time = threading.RLock()
        self._own_launch: "Launch | None" = None

    @staticmethod
    def slab_size(plan: Plan, options: CacheOptions, dense_tokens: int, compact_tokens: int) -> int:
        """Bytes of the slab of a cache of a CUDA plan that has room for so many rows at the same time."""
        return number("think_cache_slab_size", plan._handle, at(options), dense_tokens, compact_tokens)

    def workspace_size(self) -> "tuple[int, int]":
        """(bytes, alignment) that serve every call."""
        return pair("think_cache_workspace_size", self._handle)

    def _launch(self, launch: "Launch | None") -> Any:
        if launch is None:
            if self._own_launch is None:
                size, alignment = self.workspace_size()
                self._own_launch = Launch(workspace=Memory(size, alignment), workspace_bytes=size)
            launch = self._own_launch
        return at(launch)

    def _call(self, name: str, *arguments: Any) -> None:
        with self._one_at_a_time:
            call(name, self._handle, *arguments)

    def _run(self, name: str, *arguments: Any, launch: "Launch | None") -> None:
        """The same for a call that takes a launch, which is made under the lock."""
        with self._one_at_a_time:
            call(name, self._handle, *arguments, self._launch(launch))

    def step(self, sequences: "Sequence[int]", new_tokens: "Sequence[int]", launch: "Launch | None" = None) -> None:
        """Begin an engine step: which sequences get how many new tokens."""
        if len(sequences) != len(new_tokens):
            raise ValueError(f"{len(sequences)} sequences, but {len(new_tokens)} numbers of new tokens")
        self._run("think_cache_step", ffi.new("int32_t[]", list(sequences)), ffi.new("int32_t[]", list(new_tokens)), len(sequences), launch=launch)

    def append(self, layer: int, query: Any, key: Any, value: Any, launch: "Launch | None" = None) -> None:
        """Store the new keys and values of one layer; `query` may be None where no sequence keeps scores."""
        q, k, v = None if query is None else Tensor.view(query), Tensor.view(key), Tensor.view(value)
        self._run("think_cache_append", layer, at(q), at(k), at(v), launch=launch)

    def attend(self, layer: int, query: Any, sink_logit: Data = None, output: Any = None, lse: Data = None, launch: "Launch | None" = None) -> Any:
        """Attention of the step's new tokens over everything that their sequences hold. Returns the output."""
        q = Tensor.view(query)
        output = self._plan._output(q) if output is None else output
        out, (at_sink, _k1), (at_lse, _k2) = Tensor.view(output, writable=True), pointer(sink_logit, _CONST_FLOATS), pointer(lse, _FLOATS)
        self._run("think_cache_attend", layer, at(q), at_sink, at(out), at_lse, launch=launch)
        return output

    def prune(self, sequences: "Sequence[int]", launch: "Launch | None" = None) -> None:
        self._run("think_cache_prune", ffi.new("int32_t[]", list(sequences)), len(sequences), launch=launch)

    def evict(self, sequences: "Sequence[int]", options: EvictOptions, window_query: Any = None, score: Data = None, launch: "Launch | None" = None) -> None:
        """Every KV head keeps options.budget of its dense rows, in all layers, as Plan.evict() would choose them. Comes before prune()."""
        query, (at_score, _keep) = None if window_query is None else Tensor.view(window_query), pointer(score, _FLOATS)
        self._run("think_cache_evict", ffi.new("int32_t[]", list(sequences)), len(sequences), at(options), at(query), at_score, launch=launch)

    def keep(self, sequence: int, kept: Data, rows: int) -> None:
        """Evict by lists of your own: kept is [layers][kv_heads][rows], int32, dense rows in ascending order."""
        at_kept, _keep = pointer(kept, _CONST_INTS)
        self._call("think_cache_keep", sequence, at_kept, rows)

    def usage(self, sequence: int = -1) -> CacheInfo:
        """What a sequence holds, or the whole cache (-1)."""
        info = CacheInfo()
        self._call("think_cache_usage", sequence, at(info))
        return info

    def segments(self, layer: int) -> "list[Segment]":
        """The segments that attend() works on. They point into the cache, and are valid until the next call that changes it."""
        return self._segments("think_cache_segments", layer)

    def sequence_segments(self, sequence: int, layer: int) -> "list[Segment]":
        """The same of one sequence, of a step or not: a batch of one, compact runs from the oldest on, then dense rows."""
        return self._segments("think_cache_sequence_segments", sequence, layer)

    def _segments(self, name: str, *arguments: int) -> "list[Segment]":
        array, count = ffi.new("think_segment[]", MAX_SEGMENTS), ffi.new("int32_t *")
        array[0].struct_size = ffi.sizeof("think_segment")
        self._call(name, *arguments, array, MAX_SEGMENTS, count)
        return [Segment._of(array[position], {"cache": self._handle}) for position in range(count[0])]

    def export_dense(self, sequence: int, layer: int, first: int = 0, count: "int | None" = None, key: Any = None, value: Any = None,
                     launch: "Launch | None" = None) -> "tuple[Any, Any]":
        """(key, value): rows at full width. Both are made when neither is given."""
        count = self.usage(sequence).tokens - first if count is None else count
        if key is None and value is None:
            key = Tensor.empty(1, self._plan.kv_heads, max(count, 1), self._plan.key_channels)
            value = Tensor.empty(1, self._plan.kv_heads, max(count, 1), self._plan.value_channels)
        k, v = (None if side is None else Tensor.view(side, writable=True) for side in (key, value))
        self._run("think_cache_export_dense", sequence, layer, first, count, at(k), at(v), launch=launch)
        return key, value

    def graph_id(self) -> int:
        """CUDA: what a graph that holds append() and attend() of every layer of this step depends on."""
        with self._one_at_a_time:
            return number("think_cache_graph_id", self._handle)

    def replayed(self, graph_id: int) -> None:
        """CUDA: a graph of that number has been launched for this step."""
        self._call("think_cache_replayed", graph_id)

    def trim(self, sequence: int, tokens: int) -> None:
        self._call("think_cache_trim", sequence, tokens)

    def fork(self, source: int, destination: int) -> None:
        self._call("think_cache_fork", source, destination)

    def drop(self, sequence: int) -> None:
        self._call("think_cache_drop", sequence)

    def reset(self) -> None:
        self._call("think_cache_reset")

    def save_size(self, sequence: int) -> int:
        with self._one_at_a_time:
            return number("think_cache_save_size", self._handle, sequence)

    def save(self, sequence: int, file: BinaryIO) -> None:
        """Write a sequence to a binary file. What file.write() raises comes out."""
        stream = Stream(file)
        self._through(stream, "think_cache_save", sequence, stream.writer)

    def load(self, sequence: int, file: BinaryIO) -> None:
        """Read a sequence from a binary file, which should be buffered. What file.read() raises comes out."""
        stream = Stream(file)
        self._through(stream, "think_cache_load", sequence, stream.reader)

    def _through(self, stream: Stream, name: str, sequence: int, callback: Any) -> None:
        try:
            self._call(name, sequence, callback, ffi.NULL)
        except StreamError as problem:
            if stream.raised is not None:
                raise stream.raised from problem
            raise
