"""The managed cache: attention over it, its life, and files."""

import io

import calls
import libthink
import numpy
import pytest
from test_plan import softmax_attention

HQ, HKV, D = 4, 2, 16


def fill(plan, cache, sequence, tokens, seed=1):
    data = calls.layer_rows(plan, seed, tokens)
    cache.step([sequence], [tokens])
    cache.append(0, *data)
    return data


def test_attention_over_dense_rows(plan):
    cache = libthink.Cache(plan, layers=1, sequences=2)
    query, key, value = fill(plan, cache, 0, 50)
    lse = numpy.zeros((1, HQ, 50), numpy.float32)
    out = numpy.from_dlpack(cache.attend(0, query, lse=lse))
    expected, expected_lse = softmax_attention(query[0], key[0], value[0])
    assert numpy.abs(out[0] - expected).max() < 1e-5 and numpy.abs(lse[0] - expected_lse).max() < 1e-5
    segments = cache.segments(0)
    assert segments[-1].flags == libthink.constants.SEGMENT_CAUSAL
    assert (numpy.from_dlpack(plan.attend(query, segments)) == out).all()
    assert cache.workspace_size()[0] > 0


def test_pruned_rows_export_as_attention_sees_them(plan):
    cache = libthink.Cache(plan, libthink.CacheOptions(layers=1, sequences=1, prune=libthink.PruneOptions(key_kept=8, dense_limit=-1)))
    fill(plan, cache, 0, 200)
    cache.prune([0])
    usage = cache.usage(0)
    assert (usage.tokens, usage.compact_tokens, usage.runs) == (200, 160, 1) and usage.page_bytes < usage.dense_bytes
    assert cache.usage().sequences == 1
    query, _, _ = fill(plan, cache, 0, 1, 500)
    out = numpy.from_dlpack(cache.attend(0, query))
    key, value = (libthink.Tensor.empty(1, HKV, 201, D, libthink.F32) for _ in "kv")
    assert cache.export_dense(0, 0, key=key, value=value) == (key, value)
    expected, _ = softmax_attention(query[0], numpy.from_dlpack(key)[0], numpy.from_dlpack(value)[0])
    assert numpy.abs(out[0] - expected).max() < 1e-4
    key, value = cache.export_dense(0, 0, 10, 20)
    assert key.extent == value.extent == (1, HKV, 20, D)


def test_eviction(plan):
    cache = libthink.Cache(plan, layers=1, sequences=2)
    query, key, _ = fill(plan, cache, 0, 100)
    key = key.astype(numpy.float16)  # as rows are exported unless told otherwise
    cache.evict([0], libthink.EvictOptions(method=libthink.constants.EVICT_RECENT, sinks=4, budget=40))
    assert (cache.usage(0).tokens, cache.usage(0).evicted_tokens) == (40, 60)
    key_left, _ = cache.export_dense(0, 0)
    assert (numpy.from_dlpack(key_left)[0] == numpy.concatenate([key[0, :, :4], key[0, :, 64:]], 1)).all()
    lists = numpy.arange(0, 40, 2, dtype=numpy.int32)
    cache.keep(0, numpy.ascontiguousarray(numpy.broadcast_to(lists, (1, HKV, 20))), 20)
    key_left, value_left = cache.export_dense(0, 0)
    assert cache.usage(0).tokens == 20 and (numpy.from_dlpack(key_left)[0, :, 2:] == key[0, :, 64::2]).all()
    segments = cache.sequence_segments(0, 0)
    out = numpy.from_dlpack(plan.attend(query[:, :, -1:], segments))
    expected, _ = softmax_attention(query[0, :, -1:], numpy.from_dlpack(key_left)[0], numpy.from_dlpack(value_left)[0])
    assert numpy.abs(out[0] - expected).max() < 2e-3
    with pytest.raises(libthink.ArgumentError, match="budget"):
        cache.evict([0], libthink.EvictOptions(method=libthink.constants.EVICT_RECENT))


def test_what_is_for_cuda(plan):
    cache = libthink.Cache(plan, layers=1, sequences=2)
    for call in (lambda: libthink.Cache.slab_size(plan, libthink.CacheOptions(), 64, 64), cache.graph_id, lambda: cache.replayed(1)):
        with pytest.raises(libthink.UnsupportedError, match="CUDA"):
            call()
    with pytest.raises(libthink.ArgumentError, match="slab_bytes"):
        libthink.Cache(plan, slab_bytes=1)


def test_life(plan):
    cache = libthink.Cache(plan, layers=1, sequences=3)
    fill(plan, cache, 0, 40)
    cache.fork(0, 1)
    cache.trim(1, 30)
    assert [cache.usage(i).tokens for i in range(3)] == [40, 30, 0]
    cache.drop(0)
    assert [cache.usage(i).tokens for i in range(3)] == [0, 30, 0]
    cache.reset()
    assert cache.usage().tokens == 0
    with pytest.raises(ValueError):
        cache.step([0, 1], [1])


def test_files(plan):
    cache = libthink.Cache(plan, layers=1, sequences=2)
    fill(plan, cache, 0, 100)
    cache.prune([0])
    file = io.BytesIO()
    cache.save(0, file)
    assert len(file.getvalue()) == cache.save_size(0)
    file.seek(0)
    cache.load(1, file)
    assert cache.usage(1).tokens == 100
    again = io.BytesIO()
    cache.save(1, again)
    assert again.getvalue() == file.getvalue()
    with pytest.raises(libthink.FormatError):
        cache.load(1, io.BytesIO(file.getvalue()[:-1])) if cache.drop(1) is None else None
    assert cache.usage(1).tokens == 0


class Broken(io.RawIOBase):
    def write(self, data):
        raise ConnectionError("the peer is gone")

    def read(self, size=-1):
        raise ConnectionError("the peer is gone")


class Slow(io.RawIOBase):
    """A few bytes at a time, as sockets do."""

    def __init__(self, data=b""):
        self.data = bytearray(data)

    def write(self, data):
        self.data += data[:5]
        return len(data[:5])

    def read(self, size=-1):
        block, self.data = self.data[:min(size, 7)], self.data[min(size, 7):]
        return bytes(block)


def test_what_a_file_raises_comes_out(plan):
    cache = libthink.Cache(plan, layers=1, sequences=2)
    fill(plan, cache, 0, 20)
    with pytest.raises(ConnectionError) as raised:
        cache.save(0, Broken())
    assert isinstance(raised.value.__cause__, libthink.StreamError)
    with pytest.raises(ConnectionError):
        cache.load(1, Broken())
    slow = Slow()
    cache.save(0, slow)
    cache.load(1, Slow(bytes(slow.data)))
    assert cache.usage(1).tokens == 20
