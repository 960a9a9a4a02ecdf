"""What tests/vectors/bindings.json asks for, through the classes of this package. The file says what each call is."""

import io

import libthink
import numpy


def numbers(seed, *shape):
    """`count` numbers in [-1, 1), the same in every language: 32-bit arithmetic."""
    x = (numpy.arange(int(numpy.prod(shape)), dtype=numpy.uint64) * 2654435761 + seed * 40503 + 12345) & 0xFFFFFFFF
    x = (x ^ (x >> 15)) * 2246822519 & 0xFFFFFFFF
    x = (x ^ (x >> 13)) * 3266489917 & 0xFFFFFFFF
    x = x ^ (x >> 16)
    return (x.astype(numpy.float64) / 2147483648.0 - 1.0).astype(numpy.float32).reshape(shape)


def plan_of(case):
    return libthink.Plan(libthink.Context(), libthink.Problem(**case["problem"]))


def cache_of(case, plan):
    options = dict(case.get("cache", {}))
    options["prune"] = libthink.PruneOptions(**options["prune"]) if "prune" in options else None
    options["format"] = libthink.Format(**options["format"]) if "format" in options else None
    return libthink.Cache(plan, libthink.CacheOptions(**options))


def rows(seed, heads, tokens, channels, weak=False):
    made = numbers(seed, 1, heads, tokens, channels)
    if weak:
        made[..., 1::2] *= numpy.float32(0.125)
    return made


def layer_rows(plan, seed, tokens):
    return (rows(seed, plan.query_heads, tokens, plan.key_channels), rows(seed + 1, plan.kv_heads, tokens, plan.key_channels, weak=True),
            rows(seed + 2, plan.kv_heads, tokens, plan.value_channels))


def fail(case):
    """Make the call of an error case."""
    call = case["call"]
    if call == "query":
        return libthink.query(case["key"])
    plan = plan_of(case)
    if call == "preview":
        return plan.prune_preview(case["tokens"], libthink.PruneOptions(**case["options"]))
    if call == "layout":
        return plan.layout(case["page_tokens"], case["total_key"], case["total_value"])
    if call == "workspace_size":
        return plan.workspace_size(case["stage"])
    cache = cache_of(case, plan)
    if "new_tokens" in case:
        cache.step(case["sequences"], case["new_tokens"])
    if call == "load":
        return cache.load(0, io.BytesIO(bytes.fromhex(case["bytes"])))
    if call == "trim":
        return cache.trim(case["sequence"], case["tokens"])
    if call == "prune":
        return cache.prune(case["sequences"])
    if call == "append":
        query, key, value = (libthink.Tensor.empty(*case[side], libthink.F32) for side in ("query", "key", "value"))
        return cache.append(case["layer"], query, key, value)
    if call == "attend":
        return cache.attend(case["layer"], libthink.Tensor.empty(*case["query"], libthink.F32))
    return None


def flow(case):
    """A prompt, a prune, some tokens: (outputs of each token and layer, their lse, usage of the sequence)."""
    plan = plan_of(case)
    cache = cache_of(case, plan)
    layers, outputs, lses = case["cache"]["layers"], [], []
    cache.step([0], [case["prompt"]])
    for layer in range(layers):
        cache.append(layer, *layer_rows(plan, 10 * layer, case["prompt"]))
    cache.prune([0])
    for token in range(1, case["tokens"] + 1):
        cache.step([0], [1])
        for layer in range(layers):
            query, key, value = layer_rows(plan, 1000 * token + 10 * layer, 1)
            lse = libthink.Array((1, plan.query_heads, 1))
            cache.append(layer, query, key, value)
            outputs.append(numpy.from_dlpack(cache.attend(layer, query, lse=lse)).ravel())
            lses.append(numpy.from_dlpack(lse).ravel())
    usage = cache.usage(0)
    return numpy.array(outputs), numpy.array(lses), {name: getattr(usage, name) for name in usage.fields() if name != "flags"}
