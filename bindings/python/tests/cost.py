"""A program that prints one line: what a call costs, one that does next to nothing, and attention over one token and over a thousand."""

import timeit

import calls
import libthink
from libthink import constants as c

HQ, HKV, D, T = 8, 2, 128, 1024  # query heads, KV heads, channels, tokens


def measure(call, count):
    """The best of many short runs, in ns per call: on a busy machine some of them are left alone."""
    return 1e9 * min(timeit.repeat(call, number=count, repeat=100)) / count


def attend(plan, tokens, count):
    query, rows = calls.rows(1, HQ, 1, D), calls.rows(2, HKV, tokens, D)
    stride = (0, rows.strides[1], rows.strides[2])
    segment = libthink.Segment(key_layout=c.ROWS, value_layout=c.ROWS, key_dtype=libthink.F32, value_dtype=libthink.F32, key=rows, value=rows,
                               key_stride=stride, value_stride=stride, lengths=[tokens])
    in_place, out = libthink.Tensor.view(query), libthink.Tensor.empty(1, HQ, 1, D, libthink.F32)
    return measure(lambda: plan.attend(in_place, [segment], output=out), count)


def main():
    plan = libthink.Plan(query_heads=HQ, kv_heads=HKV, key_channels=D, max_tokens=T, cache_dtype=libthink.F32)
    trivial, one, many = measure(libthink.version, 5_000), attend(plan, 1, 100), attend(plan, T, 20)
    print(f"Python: a trivial call takes {trivial:.1f} ns, attention over 1 token {one / 1e3:.1f} us, over {T} tokens {many / 1e3:.1f} us, "
          f"of which a trivial call is {100 * trivial / many:.3f} %")


if __name__ == "__main__":
    main()
