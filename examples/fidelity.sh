#!/usr/bin/env bash
# Measures what every way of pruning costs on a real model, through the library's own attention, and writes examples/FIDELITY.md.
#   examples/fidelity.sh            all rows on prose (six segments, f32 and f16 cache) and program text (four, f32), and stacks with eviction and quantized
#                                   formats on the same prose (f16); about 20 minutes on 2 cores
#   examples/fidelity.sh --smoke    five rows on two segments of prose, f32, nothing is written; about a minute
#   examples/fidelity.sh --build FOLDER   use the programs of this build tree instead of out/quickstart
# Compares with tests/engine/oracle.json (tests/engine/oracle.py: the same in torch) and fails when a required figure is missed.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

smoke= build=
while [ $# -gt 0 ]; do
  case $1 in
    --smoke) smoke=1 ;;
    --build) build=${2:?--build needs a folder}; shift ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "fidelity.sh: unknown argument '$1' (see --help)" >&2; exit 2 ;;
  esac
  shift
done

prepare_packages
if [ -z "$build" ]; then
  build=$repository/out/quickstart
  build_programs "$build" generate
fi
fetch_model
generate=$build/examples/generate/generate
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

# measure CACHE ROWS TEXT SEGMENTS [FOLDER [OPTION ...]]
measure() {
  local cache=$1 rows=$2 name=$3 segments=$4 folder=$results/${5:-rows}
  shift $(($# < 5 ? 4 : 5))
  fetch_text "$name"
  mkdir -p "$folder"
  echo "$name, $segments segments, $cache cache" >&2
  "$generate" --model "$model" --evaluate "$text" --segments "$segments" --cache "$cache" --rows "$rows" "$@" --json >"$folder/$cache-$name.json"
}

stacks=keys:adaptive:64:int8,keys:adaptive:64:int4,values:adaptive:64:int4,keys:adaptive:64:int4+values:adaptive:64:int4,keys:think:39:int4+values:think:64:int4
stacks+=,keys:adaptive:32:int4+values:adaptive:64:int4,keys:adaptive:24:int4+values:adaptive:64:int4,keys:adaptive:24:int4+values:adaptive:44:int4
stacks+=,keys:adaptive:20:int4+values:adaptive:40:int4,keys:adaptive:16:int4+values:adaptive:32:int4,keys:adaptive:24+values:adaptive:44,keys:adaptive:16+values:adaptive:32
stacks+=,evict:snapkv:50%,evict:snapkv:50%+keys:think:32,evict:snapkv:50%+keys:adaptive:32

if [ -n "$smoke" ]; then
  rows=keys:think:32,keys:regressed:32,keys:adaptive:32,keys:adaptive:16,values:adaptive:44
  for speech in speech1862 speech1961; do measure f32 "$rows" "$speech" 1; done
  python3 "$repository/examples/fidelity.py" --oracle "$repository/tests/engine/oracle.json" --results "$results/rows"
  exit
fi

rows=
for method in think regressed adaptive; do for kept in 48 40 32 24 16; do rows+=keys:$method:$kept,; done; done
rows+=values:think:44,values:think:32,values:adaptive:44,values:adaptive:32
for cache in f32 f16; do
  measure $cache "$rows" moby 4
  measure $cache "$rows" speech1862 1
  measure $cache "$rows" speech1961 1
  [ $cache = f16 ] || measure $cache "$rows" program 4
done
measure f16 "$stacks" moby 4 stacks
for speech in speech1862 speech1961; do measure f16 "$stacks" "$speech" 1 stacks; done
# Only the bytes of this one count: what is held after a longer prompt.
measure f16 "$stacks" moby 1 long --prefill 4096 --scored 2
python3 "$repository/examples/fidelity.py" --oracle "$repository/tests/engine/oracle.json" --results "$results/rows" --stacks "$results/stacks" --long "$results/long" \
  --table "$repository/examples/FIDELITY.md"
