#!/usr/bin/env python3
"""Record the channels that kvpress' ThinKPress drops, as an oracle that shares no line with libthink: writes kvpress.json
next to this file (which cannot be called kvpress.py: it would hide the package).

    python3 -m venv venv && venv/bin/pip install kvpress==0.5.4
    venv/bin/python tests/vectors/kvpress_record.py

kvpress brings torch (a large download; the CPU is enough). No model is fetched: each case is one random Llama layer made from a configuration.
The queries and keys are caught where the model itself rotates them, the dropped channels are read from the zeros that the press leaves in the cache.

The tensors are rounded to DIGITS decimals to keep the file small. A case is refused when a score at the edge between kept and dropped is so close to
the next one that the rounding, or f32 sums in another order, could change the choice; then choose another seed.
"""

import json
import pathlib
import sys
from importlib import metadata

import torch
from kvpress import ThinKPress
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

DIGITS = 3
RATIOS = (0.2, 0.4, 0.5, 0.7)
EDGE = 0.004  # smallest relative gap of scores between the last dropped and the first kept channel

# More tokens than the window, fewer, and exactly as many; a group of one, two and three query heads.
CASES = (
    {"name": "two heads of a group, longer than the window", "query_heads": 4, "kv_heads": 2, "channels": 16, "tokens": 48, "window": 32},
    {"name": "wider heads", "query_heads": 4, "kv_heads": 2, "channels": 32, "tokens": 48, "window": 32},
    {"name": "shorter than the window, groups of three", "query_heads": 6, "kv_heads": 2, "channels": 16, "tokens": 20, "window": 32},
    {"name": "one query head per KV head, window of eight", "query_heads": 2, "kv_heads": 2, "channels": 24, "tokens": 33, "window": 8},
)


def make_model(case, seed):
    """One Llama layer whose channels differ in size, as those of trained models do."""
    torch.manual_seed(seed)
    heads, width = case["query_heads"], case["channels"]
    config = LlamaConfig(
        vocab_size=64, hidden_size=heads * width, intermediate_size=32, num_hidden_layers=1, num_attention_heads=heads,
        num_key_value_heads=case["kv_heads"], head_dim=width, max_position_embeddings=64, attn_implementation="eager")
    model = LlamaForCausalLM(config).eval().float()
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        for projection in (attention.q_proj, attention.k_proj):
            size = torch.exp(torch.randn(projection.weight.shape[0], 1))
            projection.weight.copy_(size * torch.randn_like(projection.weight) / projection.weight.shape[1] ** 0.5)
    return model


def run_press(model, tokens, ratio, window):
    """Queries, keys as they were before the press, and keys after it; each (heads, tokens, channels)."""
    caught = []
    original = modeling_llama.apply_rotary_pos_emb

    def catch(*arguments, **named):
        rotated = original(*arguments, **named)
        caught.append([tensor[0].clone() for tensor in rotated])
        return rotated

    modeling_llama.apply_rotary_pos_emb = catch
    try:
        cache = DynamicCache()
        with torch.no_grad(), ThinKPress(key_channel_compression_ratio=ratio, window_size=window)(model):
            model(tokens, past_key_values=cache)
    finally:
        modeling_llama.apply_rotary_pos_emb = original
    query, key = caught[0]
    return query, key, cache.layers[0].keys[0]


def edge_is_clear(query, key, case, dropped):
    """Whether the rounded tensors lead to the same choice with a margin. In double, from the definition and not from the press."""
    group = case["query_heads"] // case["kv_heads"]
    for head in range(case["kv_heads"]):
        last = query[head * group:(head + 1) * group, -case["window"]:].double()
        score = (last ** 2).sum((0, 1)) * (key[head].double() ** 2).sum(0)
        out = set(dropped[head])
        kept = min(score[channel].item() for channel in range(case["channels"]) if channel not in out)
        lost = max((score[channel].item() for channel in out), default=0.0)
        if lost * (1 + EDGE) > kept:
            return False
    return True


def record(case):
    for seed in range(1, 200):
        model = make_model(case, seed)
        tokens = torch.randint(0, 64, (1, case["tokens"]))
        dropped = {}
        for ratio in RATIOS:
            query, key, pruned = run_press(model, tokens, ratio, case["window"])
            # Seen in a real cache, so also a check that the press zeroes a channel at every position, the recent ones included.
            zero = (pruned == 0).all(1)
            assert torch.equal(torch.where(zero.unsqueeze(1), 0, key), pruned), "the press changed more than whole channels"
            dropped[str(ratio)] = [torch.nonzero(head).flatten().tolist() for head in zero]
        query = torch.round(query, decimals=DIGITS)
        key = torch.round(key, decimals=DIGITS)
        if all(edge_is_clear(query, key, case, dropped[str(ratio)]) for ratio in RATIOS):
            numbers = {name: [round(value, DIGITS) for value in tensor.flatten().tolist()] for name, tensor in (("query", query), ("key", key))}
            return case | {"seed": seed, "dropped": dropped} | numbers
    sys.exit(f"no seed gives clear edges for: {case['name']}")


def main():
    vectors = {
        "what": "channels that kvpress' ThinKPress sets to zero, per ratio and KV head; query [query_heads][tokens][channels] and "
                "key [kv_heads][tokens][channels] after RoPE",
        "made_by": "tests/vectors/kvpress_record.py",
        "versions": {name: metadata.version(name).split("+")[0] for name in ("kvpress", "transformers", "torch")},
        "cases": [record(case) for case in CASES],
    }
    path = pathlib.Path(__file__).with_name("kvpress.json")
    path.write_text(json.dumps(vectors, separators=(",", ":")).replace('{"name"', '\n{"name"') + "\n")
    print(f"{path.name}: {path.stat().st_size} bytes, seeds {[case['seed'] for case in vectors['cases']]}")


if __name__ == "__main__":
    main()
