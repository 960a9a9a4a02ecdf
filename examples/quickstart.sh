#!/usr/bin/env bash
# Builds libthink and a small inference engine on it, fetches a model of 135 million parameters, asks it a question about this project's own
# documentation, once over a dense key-value cache and once over a pruned one, and prints both answers and what was saved.
#   examples/quickstart.sh [--json] [--ratio R] [--value-ratio R] [--mode regressed|channels] [--tokens N] [--prompt-file FILE] [--question TEXT] ...
# Every argument goes to the program; its own --help, printed here once it is built, lists them all.
# As root it installs missing Debian packages, otherwise it names them.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

generate=$repository/out/quickstart/examples/generate/generate
for argument in "$@"; do
  case $argument in
    -h | --help)
      sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      if [ -x "$generate" ]; then echo && "$generate" --help; fi
      exit 0 ;;
  esac
done

start=$SECONDS
prepare_packages
build_generate "$repository/out/quickstart"

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
given --question "$@" || defaults+=(--question "Which programming languages can use libthink?")
given --next-question "$@" || given --question "$@" || defaults+=(--next-question "What does it make smaller?")

"$generate" "${defaults[@]}" "$@"
echo "$((SECONDS - start)) s in all" >&2
