#!/usr/bin/env python3
"""Vectors for the stages moments, select and fit: small problems, solved in float64 with numpy. Writes stats.json beside this file.

    python3 tests/vectors/stats.py [--out FILE]

Needs numpy only, and nothing of libthink. Inputs are f16 numbers, stored as 4 hexadecimal digits each, so that every reader has the same
bits.

One problem is one layer: key and value rows x_t of `heads` KV heads, T tokens, the last min(32, T) queries of `group` query heads per KV
head. Formulas:

  moved rows   M = [sinks, sinks + 32 * floor((T - sinks - recent) / 32)), N of them
  mass         a_t = sum over the group's queries q_i of softmax_t(scale * q_i . k_t); query i of n sees the tokens t < T - n + i + 1
  weights      w_t = (1 - share) / N + share * a_t / sum_M a   for t in M, 0 elsewhere
  mean, C      mu = sum w_t x_t,  C = sum w_t (x_t - mu)(x_t - mu)^T
  S            mean of q q^T over the group's window queries, without the scale
  score_j      sum_i q_ij^2 * sum_t k_tj^2
  gains        R = C; at each step a channel i: gain = (R S R)_ii / R_ii, then R -= R_:i R_i: / R_ii. A channel with R_ii <= 1e-6 C_ii
               gains 0 and is not taken out. Keys: in the order of the score. Values: S = 1, and always the channel that gains most
  widths       8 for each head; then one block of 8 after the other to the head whose next block gains most, where a block counts no more
               than the blocks before it
  W, offset    kept I, dropped P:  W = C_PI (C_II + ridge * mean(diag C) 1)^-1,  offset = mu_P - W mu_I
"""
import argparse
import json
import os

import numpy as np

SINKS, RECENT, WINDOW, SHARE, RIDGE = 4, 32, 32, 0.9, 1e-3


def moved_rows(tokens):
    return SINKS, SINKS + max(0, (tokens - SINKS - RECENT) // 32 * 32)


def attention_mass(queries, keys):
    """queries [group, n, D], keys [T, D] -> [T]"""
    group, n, channels = queries.shape
    tokens = len(keys)
    mass = np.zeros(tokens)
    for g in range(group):
        for i in range(n):
            seen = tokens - n + i + 1
            z = keys[:seen] @ queries[g, i] / np.sqrt(channels)
            e = np.exp(z - z.max())
            mass[:seen] += e / e.sum()
    return mass


def weigh(mass, tokens):
    begin, end = moved_rows(tokens)
    w = np.zeros(tokens)
    w[begin:end] = (1 - SHARE) / (end - begin) + SHARE * mass[begin:end] / mass[begin:end].sum()
    return w


def moments(rows, w):
    mean = w @ rows
    centred = rows - mean
    return mean, centred.T @ (centred * w[:, None])


def ranking(score):
    return sorted(range(len(score)), key=lambda j: (-score[j], j))


def worth(metric, covariance, order=None):
    """-> order, gains"""
    left, channels = covariance.copy(), len(covariance)
    taken, gains = [], []
    for step in range(channels):
        def gain(i):
            if left[i, i] <= 1e-6 * covariance[i, i]:
                return 0.0
            return max(0.0, left[i] @ metric @ left[i] / left[i, i])
        if order is not None:
            best = order[step]
        else:
            best = max((i for i in range(channels) if i not in taken), key=lambda i: (gain(i), -i))
        gains.append(gain(best))
        taken.append(best)
        if left[best, best] > 1e-6 * covariance[best, best]:
            left = left - np.outer(left[best], left[best]) / left[best, best]
    return taken, np.array(gains)


def widths(gains, total):
    """gains [heads, D] -> [heads]"""
    heads, channels = gains.shape
    blocks = np.minimum.accumulate(gains.reshape(heads, channels // 8, 8).sum(-1), axis=1)
    width = [8] * heads
    for _ in range(total // 8 - heads):
        offers = [blocks[h, width[h] // 8] if width[h] < channels else -1 for h in range(heads)]
        width[int(np.argmax(offers))] += 8
    return width


def regress(mean, covariance, kept):
    channels = len(mean)
    dropped = [j for j in range(channels) if j not in kept]
    system = covariance[np.ix_(kept, kept)] + RIDGE * np.trace(covariance) / channels * np.eye(len(kept))
    weight = np.linalg.solve(system, covariance[np.ix_(kept, dropped)]).T
    return weight, mean[dropped] - weight @ mean[kept]


def problem(name, seed, heads, group, channels, tokens, key_total, value_total, bias=0.0, zero=(), copies=(), rank=None, outliers=()):
    """Random rows: a few common factors, one slope per channel, noise. zero: channels that are 0; copies: (from, to) equal channels;
    rank: so many factors and no noise; outliers: tokens whose rows are eight times as large."""
    random = np.random.default_rng(seed)
    factors = rank or max(3, channels // 4)

    def rows():
        x = random.standard_normal((heads, tokens, factors)) @ random.standard_normal((heads, factors, channels)) / np.sqrt(factors)
        x *= np.exp(random.uniform(-1.5, 0.7, (heads, 1, channels)))
        if rank is None:
            x += 0.3 * random.standard_normal(x.shape)
        if len(outliers):
            x[:, list(outliers)] *= 8
        x += bias
        x[..., list(zero)] = 0
        x = x.astype(np.float16)
        for source, target in copies:
            x[..., target] = x[..., source]
        return x

    key, value = rows(), rows()
    n = min(WINDOW, tokens)
    query = random.standard_normal((heads * group, n, channels)) * np.exp(random.uniform(-1, 1, (heads * group, 1, channels)))
    query = query.astype(np.float16)
    k, v, q = key.astype(float), value.astype(float), query.astype(float).reshape(heads, group, n, channels)

    result = []
    for h in range(heads):
        mass = attention_mass(q[h], k[h])
        w = weigh(mass, tokens)
        key_mean, key_covariance = moments(k[h], w)
        value_mean, value_covariance = moments(v[h], w)
        window = q[h].reshape(-1, channels)
        metric = window.T @ window / len(window)
        score = (q[h] ** 2).sum((0, 1)) * (k[h] ** 2).sum(0)
        order, gains = worth(metric, key_covariance, ranking(score))
        value_order, value_gains = worth(np.eye(channels), value_covariance)
        result.append(dict(mass=mass, score=score, key_mean=key_mean, key_covariance=key_covariance, key_order=order, key_gains=gains,
                           value_mean=value_mean, value_covariance=value_covariance, value_order=value_order, value_gains=value_gains))
    key_width = widths(np.array([r["key_gains"] for r in result]), key_total)
    value_width = widths(np.array([r["value_gains"] for r in result]), value_total)

    def digits(array, significant=6):
        return [float(f"{x:.{significant}g}") for x in np.asarray(array).ravel()]

    def bits(array):
        return "".join(f"{b:04x}" for b in array.view(np.uint16).ravel())

    out = dict(name=name, heads=heads, group=group, channels=channels, tokens=tokens, window=n, sinks=SINKS, recent=RECENT, share=SHARE,
               ridge=RIDGE, key_total=key_total, value_total=value_total, query=bits(query), key=bits(key), value=bits(value), solution=[])
    for h, r in enumerate(result):
        key_kept = sorted(r["key_order"][:key_width[h]])
        value_kept = sorted(r["value_order"][:value_width[h]])
        key_weight, key_offset = regress(r["key_mean"], r["key_covariance"], key_kept)
        value_weight, value_offset = regress(r["value_mean"], r["value_covariance"], value_kept)
        out["solution"].append(dict(
            mass=digits(r["mass"]), score=digits(r["score"], 9), key_mean=digits(r["key_mean"], 8), value_mean=digits(r["value_mean"], 8),
            key_variance=digits(np.diag(r["key_covariance"])), value_variance=digits(np.diag(r["value_covariance"])),
            key_order=r["key_order"], key_gains=digits(r["key_gains"]),
            value_order=r["value_order"], value_gains=digits(r["value_gains"]),
            key_kept=key_kept, value_kept=value_kept, key_weight=digits(key_weight), key_offset=digits(key_offset, 8),
            value_weight=digits(value_weight), value_offset=digits(value_offset, 8)))
    return out


def problems():
    return [
        problem("plain", 1, heads=2, group=1, channels=16, tokens=100, key_total=16, value_total=16),
        problem("biased, zero channels", 2, heads=2, group=3, channels=16, tokens=107, key_total=24, value_total=24, bias=50.0,
                zero=(3, 11)),
        problem("copied channels, outlier rows", 3, heads=3, group=3, channels=16, tokens=100, key_total=24, value_total=32,
                copies=((2, 9), (5, 6)), outliers=(0, 1, 2, 40)),
        problem("fewer factors than channels", 4, heads=2, group=1, channels=16, tokens=70, key_total=16, value_total=16, rank=5),
        problem("head size 64", 5, heads=2, group=3, channels=64, tokens=102, key_total=72, value_total=88),
    ]


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "stats.json"))
    path = arguments.parse_args().out
    with open(path, "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(p, separators=(",", ":")) for p in problems()) + "\n]\n")
