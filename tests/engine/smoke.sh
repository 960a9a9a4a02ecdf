#!/usr/bin/env bash
# The example engine on the real model: recorded vectors, one conversation, the two-segment version of the fidelity table, and what must be refused.
#   tests/engine/smoke.sh BUILD     BUILD = build tree with examples (out/release)
# Status 77 = skipped: the model or the texts cannot be downloaded here.
set -uo pipefail
build=${1:?the build tree}
build=$(cd "$build" && pwd) || exit 1
. "$(dirname "${BASH_SOURCE[0]}")/../../examples/prepare.sh"
generate=$build/examples/generate/generate
[ -x "$generate" ] || { echo "$generate is missing" >&2; exit 1; }

prepare_packages || exit 1
fetch_model
case $? in 0) ;; 3) echo "the model cannot be downloaded here"; exit 77 ;; *) exit 1 ;; esac
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failures=0
fail() { echo "FAIL: $*" >&2; failures=$((failures + 1)); }

"$generate" --model "$model" --check-vectors "$repository/tests/engine/vectors.json" || fail "token ids and logits recorded from Hugging Face"

# A conversation of the default mode: the figures must be those of a cache that is really smaller and close to the dense one.
cat "$repository/include/think/prune.h" "$repository/include/think/attend.h" >"$scratch/prompt"
if "$generate" --model "$model" --prompt-file "$scratch/prompt" --question "What is this?" --next-question "Who uses it?" --tokens 24 --json >"$scratch/answer.json"; then
  python3 - "$scratch/answer.json" <<'PY' || fail "the figures of a conversation"
import json, sys
answer = json.load(open(sys.argv[1]))
def expect(condition, what):
    if not condition: sys.exit(f"{what}: {answer}")
expect(answer["pruned"] and answer["tokens_prefill"] >= 1500, "a prompt of 1,500 tokens is pruned")
expect(answer["tokens_compact"] + answer["tokens_dense"] == answer["tokens_prefill"] and answer["tokens_compact"] % 32 == 0, "every token is in one of the parts")
expect(36 <= answer["tokens_dense"] <= 4 + 63, "sinks and window stay dense")
expect(answer["key_channels"] == 96 and answer["value_channels"] == 192, "half of the key channels")
saved = 1 - answer["kv_bytes_held"] / answer["kv_bytes_dense"]
expect(0.15 < saved < 0.25, "about a quarter of all bytes is saved, less bases and padding")
expect(0 < answer["kl"] < 0.1 and abs(answer["delta_nll"]) < 0.1, "the predictions hardly change")
expect(answer["attention_ms_dense"] > 0 and answer["attention_ms_pruned"] > 0 and answer["tokens_generated"] > 0, "both answers were measured")
expect(answer["next"]["answer"] and answer["next"]["usage"]["tokens_compact"] == answer["tokens_compact"], "the next turn uses the same compact prefix")
PY
else
  fail "a conversation"
fi

# Nothing pruned is exactly nothing changed.
if "$generate" --model "$model" --prompt-file "$scratch/prompt" --question "What is this?" --ratio 0 --tokens 8 --json >"$scratch/same.json"; then
  python3 -c 'import json, sys; a = json.load(open(sys.argv[1])); sys.exit(0 if abs(a["kl"]) < 1e-5 and a["answer_dense"] == a["answer_pruned"] and a["key_channels"] == 192 else str(a))' \
    "$scratch/same.json" || fail "ratio 0 must change nothing"
else
  fail "ratio 0"
fi

# Every way of shrinking goes with every other: cases that differ in kind, on a short prompt. And the same through options.
head -c 3000 "$repository/include/think/prune.h" >"$scratch/short"
rows= count=0
for eviction in '' snapkv:400 h2o:50% tova:300 recent:256; do
  for channels in keys:think:39:int8+values:think:64:int4 keys:adaptive:24:int2+values:adaptive:44:int2 \
    keys:regressed:32:fp8+values:regressed:40:fp8+fold:block; do
    rows+=${rows:+,}${eviction:+evict:$eviction+}$channels count=$((count + 1))
  done
done
rows+=,keys:adaptive:24:int4+values:adaptive:44:int4,keys:adaptive:24:int4+values:adaptive:44:int4+layers:2 count=$((count + 2))
if "$generate" --model "$model" --prompt-file "$scratch/short" --question "What is this?" --tokens 3 --rows "$rows" --json >"$scratch/table.json"; then
  python3 - "$scratch/table.json" $count <<'PY' || fail "the figures of stacks"
import json, math, sys
table = json.load(open(sys.argv[1]))
def expect(condition, row, what):
    if not condition: sys.exit(f"{what}: {row}")
dense, *rows = table["rows"]
expect(len(rows) == int(sys.argv[2]), table, "all stacks were measured")
for row in rows:
    evicts = row["name"].startswith("evict")
    left = {"evict:snapkv:400": 400, "evict:tova:300": 300, "evict:recent:256": 256, "evict:h2o:50%": (row["tokens"] + 1) // 2}.get(row["name"].split("+")[0], row["tokens"])
    expect(row["tokens"] == table["tokens_prefill"] and row["tokens_evicted"] == row["tokens"] - left, row, "so many rows are left")
    expect(row["tokens_compact"] > 0 and row["tokens_compact"] + row["tokens_dense"] == left, row, "they are compact or dense")
    expect(row["kv_bytes_held"] < 0.95 * dense["kv_bytes_held"], row, "it is smaller")
    expect("layers" not in row["name"] or last["kv_bytes_held"] < row["kv_bytes_held"] < 1.5 * last["kv_bytes_held"], row, "four of thirty layers are larger")
    last = row
    expect(math.isfinite(row["kl"]) and row["kl"] < (5 if evicts else 1) and row["attention_ms"] > 0, row, "it predicts")
PY
else
  fail "stacks"
fi
if "$generate" --model "$model" --prompt-file "$scratch/short" --question "What is this?" --next-question "Who uses it?" --tokens 40 --never-ends --evict snapkv:50% --evict-pooling mean --ratio 0.4 \
  --key-format int8 --value-format int4 --fold block --json >"$scratch/options.json"; then
  python3 - "$scratch/options.json" <<'PY' || fail "the figures of a conversation with every option"
import json, sys
a = json.load(open(sys.argv[1]))
end = a["next"]["usage"]
good = a["pruned"] and a["tokens_evicted"] == a["tokens_prefill"] // 2 and a["tokens_compact"] + a["tokens_dense"] + a["tokens_evicted"] == a["tokens_prefill"]
good = good and a["kv_bytes_held"] < 0.35 * a["kv_bytes_dense"] and end["tokens_compact"] >= a["tokens_compact"] + 64 and a["next"]["answer"]
sys.exit(0 if good else str(a))
PY
else
  fail "a conversation with every option"
fi
bash "$repository/tests/engine/long.sh" "$build" 96 || fail "a long generation, in short"

# What must be refused, with a message and without a crash.
refuse() {
  local what=$1 message=$2; shift 2
  "$generate" "$@" >"$scratch/out" 2>"$scratch/error"
  local status=$?
  [ $status -ne 0 ] && [ $status -lt 126 ] && grep -q "$message" "$scratch/error" || fail "$what: status $status, $(head -c 300 "$scratch/error")"
}
head -c 5000000 "$model" >"$scratch/cut.gguf"
head -c 1000000 "$model" >"$scratch/short.gguf"
printf 'GGUX....................' >"$scratch/magic.gguf"
{ printf 'GGUF\003\000\000\000'; printf '\377%.0s' {1..64}; } >"$scratch/huge.gguf"
refuse "a cut model" "past the end\|behind the end" --model "$scratch/cut.gguf" --question x
refuse "cut metadata" "truncated\|does not fit" --model "$scratch/short.gguf" --question x
refuse "wrong magic" "not a GGUF" --model "$scratch/magic.gguf" --question x
refuse "impossible counts" "truncated" --model "$scratch/huge.gguf" --question x
refuse "a missing model" "cannot open" --model "$scratch/none.gguf" --question x
refuse "an unknown row" "SIDE:METHOD:KEPT" --model "$model" --evaluate "$scratch/prompt" --rows keys:best:32
refuse "two methods" "one method" --model "$model" --evaluate "$scratch/prompt" --rows keys:think:32+values:adaptive:44
refuse "an eviction without a budget" "METHOD:BUDGET" --model "$model" --question x --evict snapkv
refuse "an unknown eviction" "METHOD:BUDGET" --model "$model" --question x --evict best:9
refuse "pooling of nothing" "only snapkv" --model "$model" --question x --evict tova:64 --evict-pooling mean
refuse "folds of nothing" "folded as the prompt" --model "$model" --question x --ratio 0 --fold block
refuse "an unknown format" "int8" --model "$model" --question x --key-format int3
refuse "a short text" "are needed" --model "$model" --evaluate "$scratch/answer.json"
refuse "no question" "required" --model "$model"

# Two segments against the oracle.
bash "$repository/examples/fidelity.sh" --smoke --build "$build"
case $? in 0) ;; 3) echo "the texts cannot be downloaded here"; [ $failures -eq 0 ] && exit 77 ;; *) fail "fidelity on two segments" ;; esac

echo "$failures failures"
[ $failures -eq 0 ]
