"""Every stage through the classes, against the same in numpy."""

import calls
import libthink
import numpy
import pytest
from libthink import constants as c

HQ, HKV, D, T = 4, 2, 16, 200


def softmax_attention(query, key, value, causal=True):
    """float64; query [h][n][d], key and value [kv][t][d] -> out [h][n][d], lse [h][n]"""
    group, n, tokens = query.shape[0] // key.shape[0], query.shape[1], key.shape[1]
    key, value = (numpy.repeat(side.astype(numpy.float64), group, 0) for side in (key, value))
    logits = query.astype(numpy.float64) @ key.transpose(0, 2, 1) / numpy.sqrt(query.shape[2])
    if causal:
        logits[:, numpy.arange(tokens) > tokens - n + numpy.arange(n)[:, None]] = -numpy.inf
    top = logits.max(-1, keepdims=True)
    weights = numpy.exp(logits - top)
    total = weights.sum(-1, keepdims=True)
    return weights / total @ value, (top + numpy.log(total))[..., 0]


@pytest.fixture
def data():
    return calls.rows(1, HQ, T, D), calls.rows(2, HKV, T, D, weak=True), calls.rows(3, HKV, T, D)


def dense(key, value, tokens=None, first=None, flags=0, dtype=libthink.F32):
    """A segment of rows; the arrays must outlive it."""
    return libthink.Segment(key_layout=c.ROWS, value_layout=c.ROWS, key_dtype=dtype, value_dtype=dtype, key=key.ctypes.data,
                            value=value.ctypes.data, flags=flags, key_stride=(0, key.strides[1], key.strides[2]), value_stride=(0, value.strides[1], value.strides[2]),
                            lengths=[tokens or key.shape[2] - (first or 0)], first=None if first is None else [first])


def test_plan_says_what_it_is(plan):
    assert plan.about["problem"]["query_heads"] == 4
    assert all(size >= 0 and alignment in (1, 64) for size, alignment in map(plan.workspace_size, libthink.plan.STAGES))
    small = plan.workspace_size(c.STAGE_ATTEND, libthink.Extent(tokens=64, queries=1, batch=1))[0]
    assert small <= plan.workspace_size(c.STAGE_ATTEND)[0]
    assert libthink.supports(libthink.Problem(query_heads=4, kv_heads=2, key_channels=16))
    with pytest.raises(libthink.ArgumentError):
        libthink.supports(libthink.Problem(query_heads=3, kv_heads=2, key_channels=16))
    with pytest.raises(TypeError):
        libthink.Plan(libthink.Context(), libthink.Problem(), query_heads=4)


def test_attend_is_attention(plan, data):
    query, key, value = data
    segment = dense(key, value, flags=c.SEGMENT_CAUSAL)
    lse = numpy.zeros((1, HQ, 5), numpy.float32)
    out = numpy.from_dlpack(plan.attend(query[:, :, -5:], [segment], lse=lse))
    expected, expected_lse = softmax_attention(query[0, :, -5:], key[0], value[0])
    assert numpy.abs(out[0] - expected).max() < 1e-5 and numpy.abs(lse[0] - expected_lse).max() < 1e-5
    # into memory of the caller, with a workspace of the caller
    given = numpy.zeros((1, HQ, 5, D), numpy.float32)
    assert plan.attend(query[:, :, -5:], [segment], output=given, launch=plan.launch(c.STAGE_ATTEND)) is given
    assert (given == out).all()
    with pytest.raises(libthink.WorkspaceError):
        plan.attend(query[:, :, -5:], [segment], launch=libthink.Launch())
    given.flags.writeable = False
    with pytest.raises(ValueError):
        plan.attend(query[:, :, -5:], [segment], output=given)


def test_merge_of_two_halves(plan, data):
    query, key, value = data
    parts, lses = [], []
    for first, tokens in ((0, 90), (90, T - 90)):
        segment = dense(key, value, tokens, first)
        lses.append(libthink.Array((1, HQ, 1)))
        parts.append(plan.attend(query[:, :, -1:], [segment], lse=lses[-1]))
    lse = libthink.Array((1, HQ, 1))
    out = numpy.from_dlpack(plan.merge(parts, lses, lse=lse))
    expected, expected_lse = softmax_attention(query[0, :, -1:], key[0], value[0])
    assert numpy.abs(out[0] - expected).max() < 1e-5 and numpy.abs(numpy.from_dlpack(lse)[0] - expected_lse).max() < 1e-5
    with pytest.raises(ValueError):
        plan.merge(parts, lses[:1])


def scored(plan, query, key):
    state = plan.score_state()
    plan.score_reset(state)
    plan.score_update(query, key, state)
    return state


def test_stages_one_by_one(plan, data):
    """score, moments, gains, budgets, select, fit, compact, attend: what comes out is attention over the rows that the basis stands for."""
    query, key, value = data
    state = scored(plan, query, key)
    score = plan.score_finish(state)
    expected = (query[0, :, -8:].astype(numpy.float64) ** 2).sum(1).reshape(HKV, 2, D).sum(1) * (key[0].astype(numpy.float64) ** 2).sum(1)
    assert numpy.allclose(numpy.from_dlpack(score)[0], expected, rtol=1e-5)
    per_head = plan.score_finish(state, options=libthink.ScoreOptions(flags=c.SCORE_QUERY_HEADS))
    assert per_head.shape == (1, HQ, D)
    window = plan.score_window(state)
    assert (numpy.from_dlpack(window)[0] == query[0, :, -8:]).all()

    source = dense(key, value, flags=c.SEGMENT_CAUSAL)
    moments = plan.moments(window, source, options=libthink.MomentsOptions())
    order = libthink.Array((1, HKV, D), libthink.INT32)
    gains = plan.gains(moments, libthink.KEYS, score, order=order)
    assert (numpy.from_dlpack(order)[0] == numpy.argsort(-numpy.from_dlpack(score)[0], kind="stable")).all()
    kept = plan.budgets(gains, libthink.KEYS, libthink.BudgetOptions(total=HKV * 8))
    assert numpy.from_dlpack(kept).sum() == HKV * 8
    basis = plan.basis(libthink.KEYS)
    mask = numpy.from_dlpack(plan.select(score, libthink.SelectOptions(side=libthink.KEYS, kept=8), basis, kept=kept))
    assert (mask[0].sum(1) == numpy.from_dlpack(kept)[0, 0]).all()
    plan.fit(moments, basis, libthink.FitOptions(side=libthink.KEYS))

    first, moved = 4, 32 * ((T - 4 - 32) // 32)
    info = plan.layout(224, HKV * 8, HKV * D)
    keys, values = libthink.Memory(info.key_page_bytes), numpy.zeros((1, HKV, 224, D), numpy.float32)
    offsets = numpy.zeros((1, HKV), numpy.int64)
    compact = libthink.Segment(key_layout=c.TILES, value_layout=c.ROWS, page_tokens=224, key_dtype=libthink.F32, value_dtype=libthink.F32, key=keys,
                               value=values, key_head_offset=offsets, value_stride=(0, values.strides[1], values.strides[2]), lengths=[moved], key_basis=basis)
    plan.segment_place(compact)
    assert offsets[0, 1] == numpy.from_dlpack(kept)[0, 0, 0] * 224 * 4
    shifted = dense(key[:, :, first:], value[:, :, first:])
    plan.compact(shifted, compact)
    sinks = dense(key, value, first)
    recent = dense(key, value, T - first - moved, first + moved, c.SEGMENT_CAUSAL)
    out = numpy.from_dlpack(plan.attend(query[:, :, -1:], [sinks, compact, recent]))

    rebuilt = key[0].astype(numpy.float64).copy()
    ffi = libthink.native.ffi
    for head in range(HKV):
        width = ffi.cast("int32_t *", basis.kept)[head]
        index = numpy.array([ffi.cast("int32_t *", basis.index)[head * D + i] for i in range(D)])
        offset = numpy.array([ffi.cast("float *", basis.offset)[head * D + i] for i in range(D)])
        at = ffi.cast("int64_t *", basis.weight_offset)[head]
        padded = (width + 7) // 8 * 8
        w = numpy.frombuffer(ffi.buffer(ffi.cast("char *", basis.weight + at), (D - width) * padded * 2), numpy.float16).reshape(D - width, padded)[:, :width]
        rows = slice(first, first + moved)
        rebuilt[head, rows, index[width:]] = w.astype(numpy.float64) @ rebuilt[head, rows][:, index[:width]].T + offset[width:, None]
    expected, _ = softmax_attention(query[0, :, -1:], rebuilt, value[0])
    assert numpy.abs(out[0] - expected).max() < 1e-5


def test_prune_in_one_call(plan, data):
    query, key, value = data
    state, options = scored(plan, query, key), libthink.PruneOptions(key_kept=8, dense_limit=-1)
    preview = plan.prune_preview(T, options)
    assert (preview.first, preview.rows, preview.key_total) == (4, 160, HKV * 8)
    source = dense(key, value)
    keys, values = libthink.Memory(HKV * 8 * 160 * 4), numpy.zeros((1, HKV, 160, D), numpy.float32)
    compact = libthink.Segment(key_layout=c.TILES, value_layout=c.ROWS, page_tokens=160, key_dtype=libthink.F32, value_dtype=libthink.F32, key=keys,
                               value=values, key_stride=(keys.bytes, 0, 0), key_head_offset=numpy.zeros((1, HKV), numpy.int64),
                               value_stride=(values.nbytes, values.strides[1], values.strides[2]), key_basis=plan.basis(libthink.KEYS), lengths=[160])
    mask = numpy.from_dlpack(plan.prune(state, source, compact, options=options))
    assert mask.sum() == HKV * 8 and (values[0] == value[0, :, 4:164]).all()


def test_value_score(plan, data):
    attention = calls.rows(7, HQ, 8, D)
    score = numpy.from_dlpack(plan.value_score(attention))
    assert numpy.allclose(score[0], (attention[0].astype(numpy.float64) ** 2).sum(1).reshape(HKV, 2, D).sum(1), rtol=1e-5)


def test_evict(plan, data):
    query, key, value = data
    key, value = key.copy(), value.copy()
    source = dense(key, value, flags=c.SEGMENT_CAUSAL)
    options = libthink.EvictOptions(method=c.EVICT_SNAPKV, budget=64)
    state = scored(plan, query, key)
    kept, lengths = plan.evict(source, options, plan.score_window(state))
    assert lengths.tolist() == [[64, 64]]
    rows = numpy.from_dlpack(kept)[0]
    assert (numpy.diff(rows) > 0).all() and (rows[:, -8:] == numpy.arange(T - 8, T)).all()
    plan_rows = key[0].copy()
    destination = dense(key, value)
    destination.lengths, destination.lengths_stride = lengths, (HKV, 1)
    plan.evict_move(source, destination, kept, 64)
    for head in range(HKV):
        assert (key[0, head, :64] == plan_rows[head, rows[head]]).all()
    kept, lengths = plan.evict(source, libthink.EvictOptions(method=c.EVICT_RECENT, budget=10, sinks=2))
    assert kept.tolist()[0][0] == [0, 1, *range(T - 8, T)]


def test_closed(plan, data):
    cache = libthink.Cache(plan)
    plan.close()
    plan.close()
    assert plan.closed and not cache.closed
    with pytest.raises(ValueError, match="closed"):
        plan.describe()
    cache.step([0], [1])  # the cache keeps what it needs
    with cache:
        pass
    with pytest.raises(ValueError, match="closed"):
        cache.reset()
