#!/usr/bin/env bash
# A long generation over a pruned cache: what is held must go on growing at the rate of the folded rows, and what folding costs is printed.
#   tests/engine/long.sh BUILD [TOKENS]     BUILD = build tree with examples (out/release); 4,000 tokens, about ten minutes on 2 cores, where nothing is said
# Status 77 = skipped: the model cannot be downloaded here.
set -uo pipefail
build=${1:?the build tree} tokens=${2:-4000}
build=$(cd "$build" && pwd) || exit 1
. "$(dirname "${BASH_SOURCE[0]}")/../../examples/prepare.sh"
fetch_model
case $? in 0) ;; 3) echo "the model cannot be downloaded here"; exit 77 ;; *) exit 1 ;; esac
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The dense cache decides on every token; the others are fed the same ones.
cat "$repository/include/think/prune.h" "$repository/include/think/attend.h" | head -c 6500 >"$scratch/prompt"
stacks=keys:adaptive:32,keys:adaptive:32+fold:block,keys:adaptive:24:int4+values:adaptive:44:int4+fold:block
"$build/examples/generate/generate" --model "$model" --prompt-file "$scratch/prompt" --question "Explain every function in detail." --tokens "$tokens" --never-ends --rows "$stacks" --json \
  >"$scratch/table.json" || exit 1
python3 - "$scratch/table.json" "$tokens" <<'PY'
import json, math, sys
table, tokens = json.load(open(sys.argv[1])), int(sys.argv[2])
dense, never, block, small = table["rows"]
failures = 0
def expect(condition, what):
    global failures
    if not condition: failures += 1; print("FAIL: " + what)

expect(table["tokens_generated"] == tokens, "the dense cache generates all tokens")
row = dense["kv_bytes_dense"] / dense["tokens"]  # bytes of a dense token
# Least and most bytes of a compact one. 16 bits: the kept channels. int4: half a byte per channel; scale and zero per key channel and 32 tokens, and per
# token and group of value channels, of which a head has one or two.
half = row * (block["key_channels"] + block["value_channels"]) / 384
rates = {id(never): (row, row), id(block): (half, half), id(small): tuple(row * (72 * 20 / 32 + 128 / 2 + 3 * groups * 4) / 768 for groups in (1, 2))}
print(f"{table['tokens_prefill']} tokens in the prompt, {tokens} generated\n{'cache':70} {'held':>22} {'per token':>10} {'of dense':>9} {'KL':>8} {'dNLL':>8} {'top-1':>6}")
for stack in (dense, never, block, small):
    end, rate = stack["end"], (stack["end"]["kv_bytes_held"] - stack["kv_bytes_held"]) / tokens
    print(f"{stack['name']:70} {stack['kv_bytes_held'] / 2**20:8.2f} ->{end['kv_bytes_held'] / 2**20:7.2f} MiB {rate:10.0f} {rate / row:9.3f} {stack['kl']:8.4f} {stack['delta_nll']:+8.4f} {stack['top1']:6.3f}")
    expect(end["tokens"] == stack["tokens"] + tokens and end["tokens_compact"] + end["tokens_dense"] == end["tokens"], stack["name"] + ": every token is held once")
    expect(math.isfinite(stack["kl"]) and stack["kl"] < 0.5, stack["name"] + ": the predictions stay close to the dense cache's")
for stack in (never, block, small):
    # Dense pages are whole: the recent rows are some more or some fewer at the end.
    grown, folded = stack["end"]["kv_bytes_held"] - stack["kv_bytes_held"], stack["end"]["tokens_compact"] - stack["tokens_compact"]
    least, most = (rate * tokens for rate in rates[id(stack)])
    expect(0.98 * least - 64 * row <= grown <= 1.02 * most + 64 * row, f"{stack['name']}: {grown} bytes more, {least:.0f} to {most:.0f} expected")
    expect(folded == 0 if stack is never else tokens - 32 <= folded <= tokens + 32, f"{stack['name']}: {folded} tokens were folded")
for stack in (block, small):
    expect(stack["end"]["tokens_dense"] <= 4 + 2 * 32 + 32, f"{stack['name']}: {stack['end']['tokens_dense']} rows are dense at the end")
print(f"KL over the {tokens} tokens: fold never {never['kl']:.4f}, fold block {block['kl']:.4f}, folded 24/64 int4 keys with 44/64 int4 values {small['kl']:.4f}")
print(f"{failures} failures")
sys.exit(1 if failures else 0)
PY
