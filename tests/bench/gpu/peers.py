#!/usr/bin/env python3
"""Decode attention of other libraries on the shapes of gpu_bench: dense bf16 caches, cold L2, graph replay, median.

    peers.py [--json FILE] [--seconds S] [--quick]

torch SDPA (flash, cuDNN), FlashInfer, and torch.bmm as cuBLAS unfused. Gemma's soft cap is applied by those that know one (FlashInfer, unfused); the others
run without and say so in their name. A ragged batch is for FlashInfer alone. What cannot be imported or refuses a shape is named with its reason. Exits 0
also where there is nothing to measure: the JSON then says why.
"""
import argparse
import json
import statistics
import sys
import time

# query heads, KV heads, channels, soft cap
MODELS = {"Llama-3-8B": (32, 8, 128, 0), "Llama-2-7B": (32, 32, 128, 0), "Qwen2.5-7B": (28, 4, 128, 0), "Qwen2.5-0.5B": (14, 2, 64, 0),
          "Gemma-2-9B": (16, 8, 256, 50), "Llama-3-70B TP8": (8, 1, 128, 0)}
RAGGED = (256, 65536)  # lengths from the one to the other, log-uniform
LOADS = [(32, 8192), (8, 4096), (64, 8192), (64, RAGGED), (1, 16384), (1, 4096), (8, 32768), (32, 2048), (128, 2048), (1, 65536), (1, 131072), (128, 8192),
         (32, 32768)]
ONLY = {(64, 8192): "Llama-3-70B TP8"}
PAGE = 256  # of a ragged batch
COLD_BYTES = 180 << 20
ARENA_BYTES = 20 << 30
CALLS = 12


def reason_of(error):
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}" if str(error).strip() else type(error).__name__


class Peer:
    """make(query, batch) -> call(copy). `capped`: knows a soft cap; `ragged`: knows sequences of different lengths. What a peer does not know it leaves out."""

    def __init__(self, make, capped=False, ragged=False):
        self.make, self.capped, self.ragged = make, capped, ragged


class Batch:
    """Caches of one load, some copies of them: contiguous [batch][head][token][channel], or pages [page][head][PAGE][channel] where lengths differ."""

    def __init__(self, torch, lengths, ragged, softcap, caches):
        self.lengths, self.ragged, self.softcap, self.caches = lengths, ragged, softcap, caches
        self.page = PAGE if ragged else max(lengths)
        # Pages of all sequences in turn, as an engine hands them out while they grow together.
        pages, count = [[] for _ in lengths], 0
        for place in range(-(-max(lengths) // self.page)):
            for sequence, length in enumerate(lengths):
                if place * self.page < length:
                    pages[sequence].append(count)
                    count += 1
        self.pages = pages

    def rows(self, copy, sequence):
        """Keys and values [head][token][channel] of one sequence."""
        if not self.ragged:
            return [side[sequence] for side in self.caches[copy]]
        length = self.lengths[sequence]
        return [side[self.pages[sequence]].transpose(0, 1).flatten(1, 2)[:, :length] for side in self.caches[copy]]


def ragged_lengths(batch, shortest, longest):
    """As gpu_bench: the middles of equal parts on a logarithmic scale, long and short ones mixed."""
    return [round(shortest * (longest / shortest) ** ((i * 37 % batch + 0.5) / batch)) for i in range(batch)]


def capped(torch, logits, softcap):
    return softcap * torch.tanh(logits / softcap) if softcap else logits


def sdpa(torch, backend_name):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backend = getattr(SDPBackend, backend_name)

    def make(query, batch):
        def call(copy):
            key, value = batch.caches[copy]
            with sdpa_kernel(backend):
                return torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=key.shape[1] != query.shape[1])

        return call

    return Peer(make)


def unfused(torch):
    def make(query, batch):
        count, heads, _, channels = query.shape
        kv_heads = batch.caches[0][0].shape[1]
        rows = query.reshape(count * kv_heads, heads // kv_heads, channels) * channels**-0.5

        def call(copy):
            key, value = (side.reshape(count * kv_heads, -1, channels) for side in batch.caches[copy])
            logits = capped(torch, torch.bmm(rows, key.transpose(1, 2)).float(), batch.softcap)
            return torch.bmm(torch.softmax(logits, -1).to(value.dtype), value).reshape(count, heads, 1, channels)

        return call

    return Peer(make, capped=True)


def flashinfer(torch):
    import flashinfer as library

    workspace = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")

    def make(query, batch):
        count, heads, _, channels = query.shape
        kv_heads = batch.caches[0][0].shape[1]
        # One page of all tokens per sequence, where all are of one length: the same memory as the others read. The decode wrapper, with tensor cores where
        # heads share keys.
        first = [0]
        for pages in batch.pages:
            first.append(first[-1] + len(pages))
        last = [length - (len(pages) - 1) * batch.page for length, pages in zip(batch.lengths, batch.pages)]
        tables = [torch.tensor(numbers, dtype=torch.int32, device="cuda") for numbers in (first, sum(batch.pages, []), last)]
        wrapper = library.BatchDecodeWithPagedKVCacheWrapper(
            workspace, "HND", use_cuda_graph=True, use_tensor_cores=heads != kv_heads, paged_kv_indptr_buffer=tables[0],
            paged_kv_indices_buffer=tables[1], paged_kv_last_page_len_buffer=tables[2])
        wrapper.plan(*tables, heads, kv_heads, channels, batch.page, logits_soft_cap=batch.softcap or None, q_data_type=query.dtype,
                     kv_data_type=query.dtype)
        rows = query.reshape(count, heads, channels)
        return lambda copy: wrapper.run(rows, batch.caches[copy]).reshape(count, heads, 1, channels)

    return Peer(make, capped=True, ragged=True)


def measure(torch, make, query, batch, rounds):
    call = make(query, batch)
    copies = len(batch.caches)
    calls = -(-CALLS // copies) * copies
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for copy in range(min(copies, 3)):
            call(copy)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for index in range(calls):
            call(index % copies)
    graph.replay()
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3 / calls)
    return statistics.median(times)


def check(torch, make, query, batch, softcap):
    """The largest difference from attention in f32; a fast wrong answer is no peer."""
    got, largest = make(query, batch)(0).float(), 0
    for sequence in range(len(batch.lengths)):
        key, value = (side.float().repeat_interleave(query.shape[1] // side.shape[0], 0) for side in batch.rows(0, sequence))
        logits = capped(torch, query[sequence].float() @ key.transpose(1, 2) * query.shape[3] ** -0.5, softcap)
        largest = max(largest, ((torch.softmax(logits, -1) @ value) - got[sequence]).abs().max().item())
    return largest


def peers_of(torch):
    found, absent = {}, {}
    for name, load in [("SDPA flash", lambda: sdpa(torch, "FLASH_ATTENTION")), ("SDPA cuDNN", lambda: sdpa(torch, "CUDNN_ATTENTION")),
                       ("cuBLAS unfused", lambda: unfused(torch)), ("FlashInfer", lambda: flashinfer(torch))]:
        try:
            found[name] = load()
        except Exception as error:  # whatever a library does when it is not whole
            absent[name] = reason_of(error)
    return found, absent


def make_batch(torch, arena, lengths, ragged, kv_heads, channels, softcap):
    """Views of the arena, or None where it is too small."""
    batch = Batch(torch, lengths, ragged, softcap, [])
    shape = (sum(len(pages) for pages in batch.pages), kv_heads, batch.page, channels)
    numbers = shape[0] * shape[1] * shape[2] * shape[3]
    if 2 * numbers > arena.numel():
        return None
    copies = max(1, min(256, -(-COLD_BYTES // (4 * numbers)), arena.numel() // (2 * numbers)))
    for i in range(copies):
        part = arena[2 * numbers * i:2 * numbers * (i + 1)]
        batch.caches.append((part[:numbers].view(shape), part[numbers:].view(shape)))
    return batch


def run_case(torch, peers, query, batch, row, rounds):
    """A row for each peer: what it does not know is left out (the soft cap, by name) or skipped (lengths that differ)."""
    kv_heads, channels = batch.caches[0][0].shape[1], query.shape[3]
    for name, peer in peers.items():
        own = dict(row, peer=name if peer.capped or not batch.softcap else name + ", no soft cap", bytes=4 * sum(batch.lengths) * kv_heads * channels)
        try:
            if batch.ragged and not peer.ragged:
                raise ValueError("one length for all sequences")
            if sum(batch.lengths) * kv_heads * channels <= 1 << 26:
                own["largest_error"] = check(torch, peer.make, query, batch, batch.softcap if peer.capped else 0)
            own["seconds"] = measure(torch, peer.make, query, batch, rounds)
        except Exception as error:
            own["skipped"] = reason_of(error)
            torch.cuda.synchronize()
        yield own


def run(options):
    report = {"attend": [], "absent": {}, "left_out": []}
    try:
        import torch
    except Exception as error:
        report["absent"]["torch"] = reason_of(error)
        return report
    if not torch.cuda.is_available():
        report["absent"]["torch"] = "torch finds no CUDA device"
        return report
    report.update(device=torch.cuda.get_device_name(0), torch=torch.__version__)
    peers, report["absent"] = peers_of(torch)
    began = time.monotonic()
    torch.manual_seed(1)
    arena = torch.empty(min(ARENA_BYTES, torch.cuda.mem_get_info()[0] // 10 * 6) // 2, dtype=torch.bfloat16, device="cuda")
    arena.normal_(std=0.3)
    for count, tokens in LOADS[:2] if options.quick else LOADS:
        ragged = isinstance(tokens, tuple)
        lengths = ragged_lengths(count, *tokens) if ragged else [tokens] * count
        shown = "-".join(map(str, tokens)) if ragged else tokens
        for model, (heads, kv_heads, channels, softcap) in MODELS.items():
            if ONLY.get((count, tokens), model) != model:
                continue
            if time.monotonic() - began > options.seconds:
                report["left_out"].append(f"{model} {count} x {shown}")
                continue
            batch = make_batch(torch, arena, lengths, ragged, kv_heads, channels, softcap)
            if batch is None:
                report["left_out"].append(f"{model} {count} x {shown}: larger than the arena")
                continue
            query = torch.randn(count, heads, 1, channels, dtype=torch.bfloat16, device="cuda")
            row = {"model": model, "batch": count, "tokens": shown}
            report["attend"].extend(run_case(torch, peers, query, batch, row, 3 if options.quick else 9))
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the report there instead of printing it")
    parser.add_argument("--seconds", type=float, default=120, help="take no new cases afterwards")
    parser.add_argument("--quick", action="store_true", help="two loads, three rounds")
    options = parser.parse_args()
    text = json.dumps(run(options), indent=1) + "\n"
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            file.write(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
