"""A plan: one attention shape on one context, and every stage on the caller's own memory."""

import json
import threading
from typing import Any, Sequence

from . import constants as c
from ._dlpack import INT32, UINT8
from ._native import call, ffi, function, long_text, number, pair
from ._struct import Data, Pointer, at, pointer
from .arrays import Array, Memory, Tensor
from .context import Context, Owner
from .structs import (Basis, Batch, BudgetOptions, EvictOptions, Extent, FitOptions, Format, Launch, LayoutInfo, MomentsOptions, Problem, PruneOptions,
                      PruneResult, ScoreOptions, Segment, SelectOptions)

STAGES = (c.STAGE_SCORE, c.STAGE_MOMENTS, c.STAGE_SELECT, c.STAGE_FIT, c.STAGE_COMPACT, c.STAGE_ATTEND, c.STAGE_PRUNE, c.STAGE_EVICT)

_FLOATS, _CONST_FLOATS, _INTS, _CONST_INTS, _BYTES, _ANY, _CONST_ANY = (
    Pointer(kind) for kind in ("float *", "const float *", "int32_t *", "const int32_t *", "uint8_t *", "void *", "const void *"))


class Plan(Owner):
    """One attention shape on one context. Immutable: any number of threads may call one plan at the same time.

    Plan(context, query_heads=32, kv_heads=8, key_channels=128) or Plan(context, Problem(...)). Tensors are Tensor objects or anything with __dlpack__;
    arrays of numbers are Array objects, anything with the buffer protocol or __dlpack__, or addresses. An output that is not given is made, with zeroed memory, and
    returned. `launch` holds the workspace; without it a CPU plan uses one of its own for each thread.
    """

    def __init__(self, context: "Context | None" = None, problem: "Problem | None" = None, **fields: Any) -> None:
        if problem is None:
            problem = Problem(**fields)
        elif fields:
            raise TypeError("a Problem, or its fields, not both")
        context = context or Context()
        handle = ffi.new("think_plan **")
        call("think_plan_create", context._handle, at(problem), handle)
        self._own(handle[0], "think_plan_destroy", context._hooks, context._handle)
        self._local = threading.local()
        self._on_cpu = context.device in (0, c.DEVICE_CPU)
        self.about: "dict[str, Any]" = self.describe()
        shape = self.about["problem"]
        self.query_heads: int = shape["query_heads"]
        self.kv_heads: int = shape["kv_heads"]
        self.key_channels: int = shape["key_channels"]
        self.value_channels: int = shape["value_channels"]
        self.window: int = shape["window"]
        self.output_dtype: int = {"f32": c.F32, "f16": c.F16, "bf16": c.BF16}[shape["output_dtype"]]

    def describe(self) -> "dict[str, Any]":
        """What the plan is: the problem with its defaults, the kernel of every stage and why, workspaces, bytes moved."""
        return dict(json.loads(long_text("think_plan_describe", self._handle)))

    # ---- sizes and memory ----

    def workspace_size(self, stage: int, extent: "Extent | None" = None) -> "tuple[int, int]":
        """(bytes, alignment) that one call of a stage needs."""
        return pair("think_workspace_size", self._handle, stage, at(extent))

    def launch(self, *stages: int, extent: "Extent | None" = None, workspace: Data = None, stream: Data = None, **fields: Any) -> Launch:
        """A launch whose workspace serves these stages (all of them if none are named) at this extent; `workspace` is memory of the caller's, on the device."""
        sizes = [self.workspace_size(stage, extent) for stage in stages or STAGES]
        size, alignment = max(size for size, _ in sizes), max(alignment for _, alignment in sizes)
        return Launch(workspace=Memory(size, alignment) if workspace is None else workspace, workspace_bytes=size, stream=stream, **fields)

    def _launch(self, stage: int, launch: "Launch | None") -> Any:
        if launch is not None:
            return at(launch)
        if not self._on_cpu:
            return ffi.NULL  # no memory of the device is at hand: the library says what is missing
        own: "dict[Any, Any]" = self._local.__dict__
        if stage not in own:
            own[stage] = self.launch(stage)
        return at(own[stage])

    def _side(self, side: int) -> int:
        return self.value_channels if side == c.VALUES else self.key_channels

    def layout(self, page_tokens: int, total_key: int, total_value: int, format: "Format | None" = None) -> LayoutInfo:
        info = LayoutInfo()
        call("think_layout", self._handle, at(format), page_tokens, total_key, total_value, at(info))
        return info

    def basis_size(self, side: int, slots: int = 1) -> "tuple[int, int]":
        return pair("think_basis_size", self._handle, side, slots)

    def basis(self, side: int, slots: int = 1, memory: Data = None) -> Basis:
        """A basis in `memory`, which stays the caller's, or in memory of its own."""
        size, alignment = self.basis_size(side, slots)
        held: Any = Memory(size, alignment) if memory is None else memory
        address, kept = pointer(held, _ANY)
        made = Basis()
        call("think_basis_bind", self._handle, side, slots, address, size, at(made))
        made._kept["weight"] = (held, kept)
        return made

    def segment_place(self, segment: Segment, batch: "Batch | None" = None, launch: "Launch | None" = None) -> None:
        call("think_segment_place", self._handle, at(segment), at(batch), self._launch(c.STAGE_COMPACT, launch))

    # ---- score ----

    def score_state_size(self, slots: int = 1) -> int:
        return number("think_score_state_size", self._handle, slots)

    def score_state(self, slots: int = 1) -> Memory:
        return Memory(self.score_state_size(slots))

    def score_reset(self, state: Data, batch: "Batch | None" = None, launch: "Launch | None" = None) -> None:
        address, _ = pointer(state, _ANY)
        call("think_score_reset", self._handle, address, at(batch), self._launch(c.STAGE_SCORE, launch))

    def score_update(self, query: Any, key: Any, state: Data, batch: "Batch | None" = None, launch: "Launch | None" = None) -> None:
        q, k, (address, _) = Tensor.view(query), Tensor.view(key), pointer(state, _ANY)
        call("think_score_update", self._handle, at(q), at(k), at(batch), address, self._launch(c.STAGE_SCORE, launch))

    def score_finish(self, state: Data, batch: "Batch | None" = None, options: "ScoreOptions | None" = None, score: Data = None,
                     launch: "Launch | None" = None) -> Any:
        heads = self.query_heads if options is not None and options.flags & c.SCORE_QUERY_HEADS else self.kv_heads
        score = Array((_count(batch), heads, self.key_channels)) if score is None else score
        (address, _), (result, _) = pointer(state, _CONST_ANY), pointer(score, _FLOATS)
        call("think_score_finish", self._handle, address, at(batch), at(options), result, self._launch(c.STAGE_SCORE, launch))
        return score

    def score_window(self, state: Data, slots: int = 1) -> Tensor:
        """A view of the last queries inside the state, which it keeps alive."""
        address, _ = pointer(state, _CONST_ANY)
        made = Tensor()
        call("think_score_window", self._handle, address, slots, at(made))
        made._kept["data"] = state
        return made

    def value_score(self, attention: Any, batch: "Batch | None" = None, score: Data = None, launch: "Launch | None" = None) -> Any:
        rows = Tensor.view(attention)
        score = Array((_count(batch, rows), self.kv_heads, self.value_channels)) if score is None else score
        result, _ = pointer(score, _FLOATS)
        call("think_value_score", self._handle, at(rows), at(batch), result, self._launch(c.STAGE_SCORE, launch))
        return score

    # ---- moments, budgets, select, fit ----

    def moments_size(self, slots: int = 1) -> int:
        return number("think_moments_size", self._handle, slots)

    def moments(self, window_query: Any, source: Segment, batch: "Batch | None" = None, options: "MomentsOptions | None" = None, moments: Data = None,
                slots: int = 1, launch: "Launch | None" = None) -> Any:
        query = Tensor.view(window_query)
        moments = Memory(self.moments_size(slots)) if moments is None else moments
        address, _ = pointer(moments, _ANY)
        call("think_moments", self._handle, at(query), at(source), at(batch), at(options), address, self._launch(c.STAGE_MOMENTS, launch))
        return moments

    def gains(self, moments: Data, side: int, score: Data = None, batch: "Batch | None" = None, gains: Data = None, order: Data = None,
              launch: "Launch | None" = None) -> Any:
        """Gains; `order` receives the channel of each step, if given."""
        gains = Array((_count(batch), self.kv_heads, self._side(side))) if gains is None else gains
        (at_moments, _), (at_score, _k1), (result, _k2), (at_order, _k3) = (
            pointer(moments, _CONST_ANY), pointer(score, _CONST_FLOATS), pointer(gains, _FLOATS), pointer(order, _INTS))
        call("think_gains", self._handle, at_moments, at(batch), side, at_score, result, at_order, self._launch(c.STAGE_MOMENTS, launch))
        return gains

    def budgets(self, gains: Data, side: int, options: BudgetOptions, batch: "Batch | None" = None, kept: Data = None, launch: "Launch | None" = None) -> Any:
        kept = Array((max(options.layers, 1), _count(batch), self.kv_heads), INT32) if kept is None else kept
        (at_gains, _k1), (result, _k2) = pointer(gains, _CONST_FLOATS), pointer(kept, _INTS)
        call("think_budgets", self._handle, at_gains, at(batch), side, at(options), result, self._launch(c.STAGE_SELECT, launch))
        return kept

    def select(self, score: Data, options: SelectOptions, basis: Basis, batch: "Batch | None" = None, kept: Data = None, mask: Data = None,
               launch: "Launch | None" = None) -> Any:
        """Writes the choice into `basis` and returns the mask."""
        mask = Array((_count(batch), self.kv_heads, self._side(options.side)), UINT8) if mask is None else mask
        (at_score, _k1), (at_kept, _k2), (result, _k3) = pointer(score, _CONST_FLOATS), pointer(kept, _CONST_INTS), pointer(mask, _BYTES)
        call("think_select", self._handle, at_score, at(batch), at(options), at_kept, at(basis), result, self._launch(c.STAGE_SELECT, launch))
        return mask

    def fit(self, moments: Data, basis: Basis, options: "FitOptions | None" = None, batch: "Batch | None" = None, launch: "Launch | None" = None) -> None:
        address, _ = pointer(moments, _CONST_ANY)
        call("think_fit", self._handle, address, at(batch), at(options), at(basis), self._launch(c.STAGE_FIT, launch))

    # ---- rows ----

    def compact(self, source: Segment, destination: Segment, batch: "Batch | None" = None, launch: "Launch | None" = None) -> None:
        call("think_compact", self._handle, at(source), at(destination), at(batch), self._launch(c.STAGE_COMPACT, launch))

    def evict(self, source: Segment, options: EvictOptions, window_query: Any = None, batch: "Batch | None" = None, budget: Data = None, score: Data = None,
              kept: Data = None, lengths: Data = None, launch: "Launch | None" = None) -> "tuple[Any, Any]":
        """(kept, lengths): the rows that each head keeps, and how many they are."""
        query = None if window_query is None else Tensor.view(window_query)
        kept = Array((_count(batch), self.kv_heads, options.kept_stride or options.budget), INT32) if kept is None else kept
        lengths = Array((_count(batch), self.kv_heads), INT32) if lengths is None else lengths
        (at_budget, _k1), (at_score, _k2), (at_kept, _k3), (at_lengths, _k4) = (
            pointer(budget, _CONST_INTS), pointer(score, _FLOATS), pointer(kept, _INTS), pointer(lengths, _INTS))
        call("think_evict", self._handle, at(query), at(source), at(batch), at(options), at_budget, at_score, at_kept, at_lengths,
             self._launch(c.STAGE_EVICT, launch))
        return kept, lengths

    def evict_move(self, source: Segment, destination: Segment, kept: Data, kept_stride: int, batch: "Batch | None" = None, score: Data = None,
                   score_stride: int = 0, launch: "Launch | None" = None) -> None:
        (at_kept, _k1), (at_score, _k2) = pointer(kept, _CONST_INTS), pointer(score, _FLOATS)
        call("think_evict_move", self._handle, at(source), at(destination), at(batch), at_kept, kept_stride, at_score, score_stride, at(launch))

    # ---- attention ----

    def attend(self, query: Any, segments: "Sequence[Segment]", batch: "Batch | None" = None, sink_logit: Data = None, output: Any = None, lse: Data = None,
               launch: "Launch | None" = None) -> Any:
        """Attention over the rows of all segments together."""
        q, array = Tensor.view(query), _array(segments)
        output = self._output(q) if output is None else output
        out, (at_sink, _k1), (at_lse, _k2) = Tensor.view(output, writable=True), pointer(sink_logit, _CONST_FLOATS), pointer(lse, _FLOATS)
        call("think_attend", self._handle, at(q), at(batch), array, len(segments), at_sink, at(out), at_lse, self._launch(c.STAGE_ATTEND, launch))
        return output

    def merge(self, outputs: "Sequence[Any]", lses: "Sequence[Data]", output: Any = None, lse: Data = None, launch: "Launch | None" = None) -> Any:
        """Merge attention over disjoint sets of rows."""
        parts = [Tensor.view(part) for part in outputs]
        if len(parts) != len(lses):
            raise ValueError(f"{len(parts)} outputs, but {len(lses)} lses")
        output = self._output(parts[0]) if output is None else output
        array, pointers = ffi.new("think_tensor[]", [part._c[0] for part in parts]), [pointer(values, _CONST_FLOATS) for values in lses]
        out, (at_lse, _) = Tensor.view(output, writable=True), pointer(lse, _FLOATS)
        call("think_merge", self._handle, array, ffi.new("const float *[]", [at_values for at_values, _ in pointers]), len(parts), at(out), at_lse,
             self._launch(c.STAGE_ATTEND, launch))
        return output

    def _output(self, like: Tensor) -> Tensor:
        batch, _, tokens, _ = like.extent
        return Tensor.empty(batch, self.query_heads, tokens, self.value_channels, self.output_dtype)

    # ---- all of the middle in one call ----

    def prune_preview(self, tokens: int, options: "PruneOptions | None" = None, format: "Format | None" = None) -> PruneResult:
        result = PruneResult()
        call("think_prune_preview", self._handle, at(format), tokens, at(options), at(result))
        return result

    def prune(self, score_state: Data, source: Segment, destination: Segment, batch: "Batch | None" = None, options: "PruneOptions | None" = None,
              mask: Data = None, launch: "Launch | None" = None) -> Any:
        """Moves rows and returns the mask of the kept key channels."""
        mask = Array((_count(batch), self.kv_heads, self.key_channels), UINT8) if mask is None else mask
        (address, _k1), (result, _k2) = pointer(score_state, _CONST_ANY), pointer(mask, _BYTES)
        call("think_prune", self._handle, address, at(source), at(destination), at(batch), at(options), result, self._launch(c.STAGE_PRUNE, launch))
        return mask


def _count(batch: "Batch | None", rows: "Tensor | None" = None) -> int:
    return batch.count if batch is not None else rows.extent[0] if rows is not None else 1


def _array(segments: "Sequence[Segment]") -> Any:
    array = ffi.new("think_segment[]", max(len(segments), 1))
    function("think_segment_init")(array, ffi.sizeof("think_segment"))
    for position, segment in enumerate(segments):
        array[position] = segment._c[0]
    return array
