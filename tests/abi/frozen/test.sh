#!/usr/bin/env bash
# test.sh ROOT LIBRARY_DIR : programs compiled against frozen headers run with the library of today, linked and by the table, as C and as C++.
# Until there is a release in tests/abi/v*_*, the headers of today are frozen for the time of the test.
set -euo pipefail
root=$(realpath "$1") library=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
runs=0

compile() {  # compile FROZEN NAME c|cxx link|table
  local compiler=(${CC:-cc} -std=gnu11 -x c)
  [ "$3" = c ] || compiler=(${CXX:-c++} -std=c++17 -x c++)
  local extra=(-x none -L"$library" -lthink "-Wl,-rpath,$library")
  [ "$4" = link ] || extra=(-DBY_TABLE -x none -ldl)
  "${compiler[@]}" -O1 -Wall -Wextra -I"$1/include" "$1/consumer.c" "${extra[@]}" -lm -o "$work/$2"
}
runs_with() {  # runs_with NAME link|table
  if [ "$2" = link ]; then "$work/$1" >"$work/out" 2>&1; else "$work/$1" "$library/libthink.so.1" >"$work/out" 2>&1; fi
}
all_ways() {  # all_ways FROZEN NAME : every way to compile it works
  local language way
  for language in c cxx; do
    for way in link table; do
      compile "$1" program "$language" "$way"
      runs_with program "$way" || { echo "FAIL: $2, $language, by $way" >&2; cat "$work/out" >&2; exit 1; }
      runs=$((runs + 1))
    done
  done
}
edit() {  # edit FILE SED
  cp "$1" "$work/before"
  sed -i -E "$2" "$1"
  if cmp -s "$1" "$work/before"; then echo "FAIL: '$2' changes nothing in $1" >&2; exit 1; fi
}
breaks() {  # breaks FROZEN NAME : at least one way does not work
  local way
  for way in link table; do
    compile "$1" program c "$way"
    if ! runs_with program "$way"; then return 0; fi
  done
  echo "FAIL: $2 was not noticed" >&2
  exit 1
}

for frozen in "$root"/tests/abi/v[0-9]*_[0-9]*; do
  [ -d "$frozen" ] || continue
  all_ways "$frozen" "$(basename "$frozen")"
done

"$root/tests/abi/frozen/freeze.sh" "$root" "$work/today" >/dev/null
all_ways "$work/today" "the headers of today"
if "$root/tests/abi/frozen/freeze.sh" "$root" "$work/today" 2>/dev/null; then echo "FAIL: freeze.sh overwrote a frozen release" >&2; exit 1; fi

# A newer caller: structs with fields and a table with a function that this library does not have.
cp -r "$work/today" "$work/newer"
edit "$work/newer/include/think/segment.h" 's/^(  const think_basis \*value_basis;.*)/\1\n  int64_t more[3];/; s/NULL, NULL, NULL\}$/NULL, NULL, NULL, {0, 0, 0}}/'
edit "$work/newer/include/think/plan.h" 's/^(  float softcap;.*)/\1\n  int64_t more;/; s/0\.0f, 0\.0f\}$/0.0f, 0.0f, 0}/'
edit "$work/newer/include/think/api.h" 's/^\} think_api;/  void (*more)(void);\n} think_api;/'
all_ways "$work/newer" "newer headers"

# The consumer can fail: headers that do not belong to this library.
cp -r "$work/today" "$work/swapped"
edit "$work/swapped/include/think/segment.h" 's/^  int32_t key_layout;.*/  int32_t swap;/; s/^  int32_t value_layout; .*THINK_ROWS.*/  int32_t key_layout;/'
edit "$work/swapped/include/think/segment.h" 's/^  int32_t swap;/  int32_t value_layout;/'
breaks "$work/swapped" "two swapped fields"
cp -r "$work/today" "$work/major"
edit "$work/major/include/think/version.h" 's/THINK_ABI_MAJOR 1/THINK_ABI_MAJOR 2/'
breaks "$work/major" "another ABI generation"
cp -r "$work/today" "$work/constant"
edit "$work/constant/include/think/prune.h" 's/THINK_MODE_REGRESSED 0/THINK_MODE_REGRESSED 1/; s/THINK_MODE_CHANNELS 1/THINK_MODE_CHANNELS 0/'
breaks "$work/constant" "two swapped constants"
echo "$runs programs ran, 3 wrong ones were noticed"
