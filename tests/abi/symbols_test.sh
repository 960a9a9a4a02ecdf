#!/usr/bin/env bash
# symbols_test.sh LIBRARY FUNCTIONS_DEF : the library exports the functions of functions.def and think_get_api, all of node THINK_1, and nothing else.
set -euo pipefail
library=$1 list=$2
wanted=$({ sed -nE 's/^THINK_FUNCTION\((\w+), .*/\1/p' "$list"; echo think_get_api; } | sed 's/$/@@THINK_1/' | sort)
exported=$(nm -D --defined-only --with-symbol-versions "$library" | awk '$2 != "A" { print $3 }' | sort)
if [ "$wanted" != "$exported" ]; then
  echo "FAIL: < wanted, > exported by $library" >&2
  diff <(echo "$wanted") <(echo "$exported") >&2
  exit 1
fi
kinds=$(nm -D --defined-only "$library" | awk '$2 != "A" { print $2 }' | sort -u)
[ "$kinds" = T ] || { echo "FAIL: exported symbols of other kinds than functions: $kinds" >&2; exit 1; }
echo "$(echo "$wanted" | wc -l) symbols"
