#!/usr/bin/env python3
"""What pruning should cost: masks, budgets, regressions and their KL on the example's model, in plain torch (f32 on the CPU, fits in f64).

    python3 tests/engine/oracle.py --program build/release/examples/generate/generate --model SmolLM2-135M-Instruct.Q4_1.gguf \\
        --text moby:4:moby.txt --text speech1862:1:speech1862.txt --text speech1961:1:speech1961.txt --text program:4:program.txt --out tests/engine/oracle.json

Needs torch, numpy and gguf. Nothing of libthink is used: a key or value row of full width, changed as the method changes it, stands for the compact
row, and attention is torch's. The tokens come from the example's own tokenizer, the rows that are changed are those that think_prune() moves, so the
figures compare one to one with `generate --evaluate`. examples/fidelity.sh does that.

Protocol: prefill 1,536 tokens, change their cache, feed the next 512 tokens in one pass, compare the predictions with those of the unchanged cache.
Rows that are moved: [sinks, sinks + 32 * floor((1536 - sinks - 32) / 32)), without sinks for the paper's method and with 4 for the regressed ones.
"""
import argparse
import json
import math
import subprocess
import time

import gguf
import numpy as np
import torch

torch.set_grad_enabled(False)
PREFILL, SCORED, WINDOW = 1536, 512, 32
F64 = torch.float64


class Llama:
    """Forward pass that hands out queries, keys and values after RoPE and takes a changed cache back."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        field = lambda key: reader.fields[key].parts[-1][0].item()
        self.layers = field("llama.block_count")
        self.query_heads = field("llama.attention.head_count")
        self.heads = field("llama.attention.head_count_kv")
        self.group = self.query_heads // self.heads
        self.epsilon = field("llama.attention.layer_norm_rms_epsilon")
        self.base = field("llama.rope.freq_base")
        self.hidden = field("llama.embedding_length")
        self.channels = self.hidden // self.query_heads
        self.weights = {t.name: torch.from_numpy(gguf.dequantize(t.data, t.tensor_type).astype(np.float32)) for t in reader.tensors}
        # The file keeps RoPE pairs side by side; here channel i is rotated with i + channels / 2.
        for layer in range(self.layers):
            for name, heads in (("attn_q", self.query_heads), ("attn_k", self.heads)):
                key = f"blk.{layer}.{name}.weight"
                rows = self.weights[key].reshape(heads, self.channels // 2, 2, self.hidden)
                self.weights[key] = rows.permute(0, 2, 1, 3).reshape(heads * self.channels, self.hidden).contiguous()

    def normalise(self, x, name):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.epsilon) * self.weights[name]

    def rotate(self, x, position):
        half = self.channels // 2
        angle = torch.outer(torch.arange(position, position + x.shape[1], dtype=F64), self.base ** (-torch.arange(half, dtype=F64) / half))
        cosine, sine = angle.cos().float(), angle.sin().float()
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1)

    def __call__(self, tokens, cache=None):
        """Logits [n][vocabulary] and lists over layers of queries [query_heads][n][D], keys and values [heads][n][D]. cache: (keys, values) before."""
        n, before = len(tokens), 0 if cache is None else cache[0][0].shape[1]
        visible = torch.ones(n, before + n, dtype=torch.bool).tril(before)
        x, queries, keys, values = self.weights["token_embd.weight"][tokens], [], [], []
        for layer in range(self.layers):
            part = lambda name: self.weights[f"blk.{layer}.{name}.weight"].T
            split = lambda rows: rows.reshape(n, -1, self.channels).transpose(0, 1)
            y = self.normalise(x, f"blk.{layer}.attn_norm.weight")
            q, k, v = self.rotate(split(y @ part("attn_q")), before), self.rotate(split(y @ part("attn_k")), before), split(y @ part("attn_v"))
            queries.append(q), keys.append(k), values.append(v)
            if cache is not None:
                k, v = torch.cat([cache[0][layer], k], 1), torch.cat([cache[1][layer], v], 1)
            repeat = lambda rows: rows.repeat_interleave(self.group, 0)
            out = torch.nn.functional.scaled_dot_product_attention(q, repeat(k), repeat(v), attn_mask=visible)
            x = x + out.transpose(0, 1).reshape(n, -1) @ part("attn_output")
            y = self.normalise(x, f"blk.{layer}.ffn_norm.weight")
            x = x + (torch.nn.functional.silu(y @ part("ffn_gate")) * (y @ part("ffn_up"))) @ part("ffn_down")
        return self.normalise(x, "output_norm.weight") @ self.weights["token_embd.weight"].T, queries, keys, values


# ---- one layer: queries [heads][group][n][D], keys and values [heads][n][D] ---------------------------------------------------------------------


def window_weights(q, k):
    """Softmax weights of the last WINDOW queries over all rows: [heads][group][WINDOW][n]."""
    n = k.shape[1]
    logits = q[:, :, -WINDOW:] @ k[:, None].transpose(-1, -2) / math.sqrt(k.shape[2])
    return logits.masked_fill(~torch.ones(WINDOW, n, dtype=torch.bool).tril(n - WINDOW), -math.inf).softmax(-1)


def moments(rows, mass, share=0.9):
    """Weighted mean [heads][D] and covariance [heads][D][D]; weights: (1 - share) / n + share * mass / sum of mass."""
    weight = (1 - share) / rows.shape[1] + share * mass / mass.sum(1, keepdim=True)
    mean = torch.einsum("hn,hnd->hd", weight, rows)
    centred = rows - mean[:, None]
    return mean, torch.einsum("hn,hni,hnj->hij", weight, centred, centred)


def ranking(score):
    """Channels from best to worst; equal scores: the lower channel first."""
    return torch.argsort(score, dim=-1, descending=True, stable=True)


def elimination(metric, covariance, order=None):
    """Gain of every step when channels are taken in `order` (None: the best one first) and the rest is regressed on them. -> order, gains [heads][D]."""
    heads, channels, _ = covariance.shape
    orders, gains = torch.zeros(heads, channels, dtype=torch.long), torch.zeros(heads, channels, dtype=F64)
    for h in range(heads):
        left, taken = covariance[h].clone(), torch.zeros(channels, dtype=torch.bool)
        threshold = 1e-6 * torch.diagonal(left).clone()
        for step in range(channels):
            variance = torch.diagonal(left)
            alive = variance > threshold
            gain = torch.where(alive, ((left @ metric[h]) * left).sum(1) / variance.clamp_min(1e-300), torch.zeros((), dtype=F64)).clamp_min(0)
            i = int(order[h, step]) if order is not None else int(torch.where(taken, torch.full((), -1.0, dtype=F64), gain).argmax())
            orders[h, step], gains[h, step], taken[i] = i, gain[i], True
            if alive[i]:
                left = left - torch.outer(left[i], left[i]) / left[i, i]
    return orders, gains


def budgets(gains, kept, step=8):
    """Widths of the heads: heads * kept channels in blocks of `step`, one block for each head, the others to the largest gains made non-increasing."""
    heads, channels = gains.shape
    blocks = gains.reshape(heads, channels // step, step).sum(-1).cummin(-1).values
    offers = sorted((-blocks[h, b].item(), h, b) for h in range(heads) for b in range(1, channels // step))
    widths = [step] * heads
    for _, h, _ in offers[: heads * kept // step - heads]:
        widths[h] += step
    return widths


def first_of(order, widths):
    """Mask [heads][D] of the first widths[h] channels of each order."""
    mask = torch.zeros(order.shape, dtype=torch.bool)
    for h, width in enumerate(widths):
        mask[h, order[h, :width]] = True
    return mask


def predicted(rows, mean, covariance, mask, ridge=1e-3):
    """Rows whose dropped channels are predicted from the kept ones by ridge regression."""
    out = rows.clone()
    for h in range(len(rows)):
        i, p = mask[h], ~mask[h]
        inner = covariance[h][i][:, i] + ridge * torch.diagonal(covariance[h]).mean() * torch.eye(int(i.sum()), dtype=F64)
        weight = torch.linalg.solve(inner, covariance[h][i][:, p])
        out[h][:, p] = mean[h, p] + (rows[h][:, i] - mean[h, i]) @ weight
    return out


# ---- the table ----------------------------------------------------------------------------------------------------------------------------------


class Segment:
    """One prefill, and the changed caches of every row of the table."""

    def __init__(self, model, tokens):
        self.model, self.next = model, tokens[PREFILL:]
        _, queries, self.keys, self.values = model(tokens[:PREFILL])
        self.queries = [q.reshape(model.heads, model.group, PREFILL, model.channels) for q in queries]
        self.fits = {}
        self.dense = self.predict(self.keys, self.values)

    def predict(self, keys, values):
        return self.model(self.next, (keys, values))[0].log_softmax(-1)

    def statistics(self, layer):
        """Scores, moments and eliminations of a layer for the rows that move with 4 sinks; f64."""
        if layer not in self.fits:
            sinks, rows = 4, (PREFILL - 4 - WINDOW) // 32 * 32
            q, k, v = (x[layer].to(F64) for x in (self.queries, self.keys, self.values))
            weights = window_weights(q, k)
            mass = weights.sum((1, 2))[:, sinks : sinks + rows]
            last = q[:, :, -WINDOW:]
            score = (last**2).sum((1, 2)) * (k**2).sum(1)
            value_score = ((weights @ v[:, None]) ** 2).sum((1, 2))
            key_moments, value_moments = moments(k[:, sinks : sinks + rows], mass), moments(v[:, sinks : sinks + rows], mass)
            flat = last.flatten(1, 2)
            _, gains = elimination(flat.transpose(1, 2) @ flat / flat.shape[1], key_moments[1], ranking(score))
            value_order, value_gains = elimination(torch.eye(k.shape[2], dtype=F64).expand(len(k), -1, -1), value_moments[1])
            self.fits[layer] = dict(score=score, value_score=value_score, key=key_moments, value=value_moments, gains=gains, value_order=value_order, value_gains=value_gains)
        return self.fits[layer]

    def changed(self, side, method, kept):
        out = []
        for layer, rows in enumerate(self.keys if side == "keys" else self.values):
            s = self.statistics(layer)
            heads = len(rows)
            sinks = 0 if method == "think" else 4
            end = sinks + (PREFILL - sinks - WINDOW) // 32 * 32
            part = rows[:, sinks:end].to(F64)
            order = ranking(s["score"] if side == "keys" else s["value_score"])
            if method == "think":
                part = part * first_of(order, [kept] * heads)[:, None]
            else:
                if side == "values":
                    order = s["value_order"]
                widths = budgets(s["gains" if side == "keys" else "value_gains"], kept) if method == "adaptive" else [kept] * heads
                part = predicted(part, *s["key" if side == "keys" else "value"], first_of(order, widths))
            out.append(torch.cat([rows[:, :sinks], part.float(), rows[:, end:]], 1))
        return out

    def measure(self, side, method, kept):
        changed = self.changed(side, method, kept)
        pruned = self.predict(changed if side == "keys" else self.keys, changed if side == "values" else self.values)
        kl = (self.dense.exp() * (self.dense - pruned)).sum(-1).mean().item()
        right = self.next[1:, None]
        delta = (self.dense[:-1].gather(1, right) - pruned[:-1].gather(1, right)).mean().item()
        return {"kl": kl, "delta_nll": delta, "top1": (self.dense.argmax(-1) == pruned.argmax(-1)).float().mean().item()}


KEPT = (48, 40, 32, 24, 16)
# 48 value channels without regression: what the library stores for 44, as value widths are multiples of 8.
ROWS = [("keys", method, kept) for method in ("think", "regressed", "adaptive") for kept in KEPT]
ROWS += [("values", "think", kept) for kept in (48, 44, 32)] + [("values", "adaptive", kept) for kept in (44, 32)]


def token_digest(tokens):
    """FNV-1a over the tokens as little-endian int32, as `generate --evaluate` gives it."""
    digest = 0xCBF29CE484222325
    for byte in np.array(tokens, dtype="<i4").tobytes():
        digest = (digest ^ byte) * 0x100000001B3 % 2**64
    return f"{digest:016x}"


def row_name(side, method, kept):
    return f"{side}:{method}:{kept}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="the built example")
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--text", action="append", required=True, metavar="NAME:SEGMENTS:PATH")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, texts = Llama(options.model), {}
    for text in options.text:
        name, segments, path = text.split(":", 2)
        tokens = json.loads(subprocess.run([options.program, "--model", options.model, "--tokenize", path], check=True, capture_output=True).stdout)
        texts[name] = {"tokens": len(tokens), "segments": []}
        for i in range(int(segments)):
            start = int((i + 0.5) / int(segments) * (len(tokens) - PREFILL - SCORED))
            part, began = tokens[start : start + PREFILL + SCORED], time.time()
            segment = Segment(model, torch.tensor(part))
            rows = {row_name(*row): {key: round(x, 6) for key, x in segment.measure(*row).items()} for row in ROWS}
            texts[name]["segments"].append({"start": start, "digest": token_digest(part), "rows": rows})
            shown = ", ".join(f"{key} {rows[key]['kl']:.4f}" for key in ("keys:think:32", "keys:regressed:32", "keys:adaptive:32", "values:adaptive:44"))
            print(f"{name} segment {i} from token {start}, {time.time() - began:.0f} s: {shown}", flush=True)
            with open(options.out, "w") as out:
                json.dump({"prefill": PREFILL, "scored": SCORED, "texts": texts}, out, indent=1)


if __name__ == "__main__":
    main()
