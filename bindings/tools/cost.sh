#!/usr/bin/env bash
# cost.sh BUILD_DIR : what a call of BUILD_DIR/libthink.so.1 costs from each language, measured one after the other, as the table of the top README. A language
# that is not here is left out, and named.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$(realpath "$1")
[ -e "$build/libthink.so.1" ] || { echo "cost.sh: $build/libthink.so.1 is missing" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${CC:-cc}" -std=c11 -O2 -Wall -Wextra -Werror -I"$root/include" "$root/tests/bench/call_cost.c" "$build/libthink.so.1" "-Wl,-rpath,$build" -o "$work/c"

# One line of numbers from what each prints: language, ns of a trivial call, us over 1 token, us over 1024 tokens, share
line() { sed -nE '/^[A-Za-z]+: a trivial call takes/ { s/^([A-Za-z]+):.* takes ([0-9.]+) ns.* 1 token ([0-9.]+) us.* 1024 tokens ([0-9.]+) us/\1 \2 \3 \4/
  s/,.* ([0-9.]+) %$/ \1/p }'; }
printf '| from | a trivial call | attention over 1 token | over 1,024 tokens | of which a trivial call is |\n|---|---|---|---|---|\n'
for language in c rust go java python; do
  status=0
  command=("$root/bindings/$language/test.sh" "$build" cost)
  [ "$language" != c ] || command=("$work/c")
  "${command[@]}" >"$work/printed" 2>"$work/errors" || status=$?
  if [ "$status" = 77 ]; then
    echo "cost.sh: left out: $language: $(tail -n 1 "$work/printed")" >&2
    continue
  fi
  row=$(line <"$work/printed")
  [ "$status" = 0 ] && [ -n "$row" ] || { cat "$work/printed" "$work/errors" >&2; echo "FAIL: the cost of a call from $language" >&2; exit 1; }
  echo "$row" | awk '{ printf "| %s | %s ns | %s us | %s us | %s %% |\n", $1, $2, $3, $4, $5 }'
done
