#!/usr/bin/env bash
# Builds libthink and a small inference engine on it, fetches a model of 135 million parameters, asks it a question about this project's own
# documentation, once over a dense key-value cache and once over a pruned one, and prints both answers and what was saved.
#   examples/quickstart.sh [--json] [--ratio R] [--value-ratio R] [--mode regressed|channels] [--tokens N] [--prompt-file FILE] [--question TEXT] ...
#   examples/quickstart.sh --table [--json] [--tokens N] ...   a table of ways to shrink the cache and of stacks of them instead of answers; some minutes
# Every other argument goes to the program; its own --help, printed here once it is built, lists them all.
# As root it installs missing Debian packages, otherwise it names them.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

generate=$repository/out/quickstart/examples/generate/generate
table= arguments=()
for argument in "$@"; do
  case $argument in
    --table) table=1; continue ;;
    -h | --help)
      sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      if [ -x "$generate" ]; then echo && "$generate" --help; fi
      exit 0 ;;
  esac
  arguments+=("$argument")
done
set -- "${arguments[@]}"

start=$SECONDS
prepare_packages
build_programs "$repository/out/quickstart" generate

defaults=()
given() { local name=$1 argument; shift; for argument in "$@"; do case $argument in "$name" | "$name"=*) return 0 ;; esac; done; return 1; }
if ! given --model "$@"; then
  fetch_model
  defaults+=(--model "$model")
fi
if ! given --prompt-file "$@" && ! given --evaluate "$@"; then
  prompt=$(mktemp)
  trap 'rm -f "$prompt"' EXIT
  cat "$repository/include/think/prune.h" "$repository/README.md" >"$prompt"
  defaults+=(--prompt-file "$prompt")
fi
if [ -n "$table" ] && ! given --rows "$@"; then
  # Kept of 64 channels: 39 = ThinK at 0.4, 32 at 0.5, 16 at 0.75. Token eviction goes on top of each.
  stacks=(keys:think:39 keys:think:32 keys:adaptive:32 keys:adaptive:16 keys:adaptive:32+values:adaptive:44 keys:adaptive:64:int4+values:adaptive:64:int4
    keys:adaptive:24:int4+values:adaptive:44:int4)
  rows=$(IFS=,; echo "${stacks[*]}"),evict:snapkv:50%
  for stack in "${stacks[@]}"; do rows+=,evict:snapkv:50%+$stack; done
  defaults+=(--rows "$rows")
fi
given --question "$@" || defaults+=(--question "Which programming languages can use libthink?")
given --next-question "$@" || given --question "$@" || defaults+=(--next-question "What does it make smaller?")

"$generate" "${defaults[@]}" "$@"
echo "$((SECONDS - start)) s in all" >&2
