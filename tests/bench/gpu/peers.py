#!/usr/bin/env python3
"""Decode attention of other libraries on the shapes of gpu_bench: dense bf16 caches, cold L2, graph replay, median.

    peers.py [--json FILE] [--seconds S] [--quick]

torch SDPA (flash, cuDNN), FlashInfer, and torch.bmm as cuBLAS unfused. What cannot be imported or refuses a shape is named with its reason. Exits 0 also
where there is nothing to measure: the JSON then says why.
"""
import argparse
import json
import statistics
import sys
import time

MODELS = {"Llama-3-8B": (32, 8, 128), "Llama-2-7B": (32, 32, 128), "Qwen2.5-7B": (28, 4, 128), "Qwen2.5-0.5B": (14, 2, 64), "Gemma-2-9B": (16, 8, 256)}
LOADS = [(32, 8192), (8, 4096), (1, 16384), (1, 4096), (8, 32768), (32, 2048), (128, 2048), (1, 65536), (1, 131072), (128, 8192), (32, 32768)]
COLD_BYTES = 180 << 20
ARENA_BYTES = 20 << 30
CALLS = 12


def reason_of(error):
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}" if str(error).strip() else type(error).__name__


def sdpa(torch, backend_name):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backend = getattr(SDPBackend, backend_name)

    def make(query, caches):
        def call(copy):
            key, value = caches[copy]
            with sdpa_kernel(backend):
                return torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=key.shape[1] != query.shape[1])

        return call

    return make


def unfused(torch):
    def make(query, caches):
        batch, heads, _, channels = query.shape
        kv_heads = caches[0][0].shape[1]
        rows = query.reshape(batch * kv_heads, heads // kv_heads, channels) * channels**-0.5

        def call(copy):
            key, value = (side.reshape(batch * kv_heads, -1, channels) for side in caches[copy])
            logits = torch.bmm(rows, key.transpose(1, 2))
            return torch.bmm(torch.softmax(logits.float(), -1).to(value.dtype), value).reshape(batch, heads, 1, channels)

        return call

    return make


def flashinfer(torch):
    import flashinfer as library

    workspace = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")

    def make(query, caches):
        batch, heads, _, channels = query.shape
        kv_heads, tokens = caches[0][0].shape[1:3]
        # One page of all tokens per sequence: the same memory as the others read. The decode wrapper, with tensor cores where heads share keys.
        tables = [torch.arange(batch + 1, dtype=torch.int32, device="cuda"), torch.arange(batch, dtype=torch.int32, device="cuda"),
                  torch.full((batch,), tokens, dtype=torch.int32, device="cuda")]
        wrapper = library.BatchDecodeWithPagedKVCacheWrapper(
            workspace, "HND", use_cuda_graph=True, use_tensor_cores=heads != kv_heads, paged_kv_indptr_buffer=tables[0],
            paged_kv_indices_buffer=tables[1], paged_kv_last_page_len_buffer=tables[2])
        wrapper.plan(*tables, heads, kv_heads, channels, tokens, q_data_type=query.dtype, kv_data_type=query.dtype)
        rows = query.reshape(batch, heads, channels)
        return lambda copy: wrapper.run(rows, caches[copy]).reshape(batch, heads, 1, channels)

    return make


def measure(torch, make, query, caches, rounds):
    call = make(query, caches)
    copies = len(caches)
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


def check(torch, make, query, caches):
    """The largest difference from attention in f32; a fast wrong answer is no peer."""
    key, value = (side.float().repeat_interleave(query.shape[1] // side.shape[1], 1) for side in caches[0])
    logits = query.float() @ key.transpose(2, 3) * query.shape[3] ** -0.5
    return ((torch.softmax(logits, -1) @ value) - make(query, caches)(0).float()).abs().max().item()


def peers_of(torch):
    found, absent = {}, {}
    for name, load in [("SDPA flash", lambda: sdpa(torch, "FLASH_ATTENTION")), ("SDPA cuDNN", lambda: sdpa(torch, "CUDNN_ATTENTION")),
                       ("cuBLAS unfused", lambda: unfused(torch)), ("FlashInfer", lambda: flashinfer(torch))]:
        try:
            found[name] = load()
        except Exception as error:  # whatever a library does when it is not whole
            absent[name] = reason_of(error)
    return found, absent


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
    for batch, tokens in LOADS[:2] if options.quick else LOADS:
        for model, (heads, kv_heads, channels) in MODELS.items():
            if time.monotonic() - began > options.seconds:
                report["left_out"].append(f"{model} {batch} x {tokens}")
                continue
            numbers = batch * kv_heads * tokens * channels
            if 2 * numbers > arena.numel():
                report["left_out"].append(f"{model} {batch} x {tokens}: larger than the arena")
                continue
            copies = max(1, min(256, -(-COLD_BYTES // (4 * numbers)), arena.numel() // (2 * numbers)))
            # [batch][key and value][head][token][channel]: FlashInfer's pages; for the others views of it.
            whole = [arena[2 * numbers * i:2 * numbers * (i + 1)] for i in range(copies)]
            split = [(part[:numbers].view(batch, kv_heads, tokens, channels), part[numbers:].view(batch, kv_heads, tokens, channels)) for part in whole]
            query = torch.randn(batch, heads, 1, channels, dtype=torch.bfloat16, device="cuda")
            for name, make in peers.items():
                row = {"peer": name, "model": model, "batch": batch, "tokens": tokens, "bytes": 4 * numbers}
                try:
                    if numbers <= 1 << 26:
                        row["largest_error"] = check(torch, make, query, split)
                    row["seconds"] = measure(torch, make, query, split, 3 if options.quick else 9)
                except Exception as error:
                    row["skipped"] = reason_of(error)
                    torch.cuda.synchronize()
                report["attend"].append(row)
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
