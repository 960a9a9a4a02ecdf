#!/usr/bin/env bash
# streams_test.sh INCLUDE_DIR LIBRARY : no public header asks for a CUDA header, and streams.c, which calls everything that takes a stream, compiles as strict
# C99 against the headers alone and runs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
include=$1 library=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
! grep -nE '#[[:space:]]*include.*(cuda|cudart|driver_types)' -r "$include" || { echo "FAIL: a public header needs CUDA's" >&2; exit 1; }
calls=$(tr '\n' ' ' <"$here/streams.c")
count=0
for name in $(cat "$include"/think/*.h | tr '\n' ' ' | grep -oE 'THINK_API [a-z_ ]+\([^)]*think_launch \*launch[^)]*\)' | sed -E 's/.* (think_[a-z_]+)\(.*/\1/' | grep -v '_init$'); do
  case $calls in *"$name("*) count=$((count + 1)) ;; *) echo "FAIL: streams.c does not call $name" >&2; exit 1 ;; esac
done
[ "$count" -ge 14 ] || { echo "FAIL: only $count calls with a launch were found" >&2; exit 1; }
${CC:-cc} -std=c99 -pedantic -Wall -Wextra -Wconversion -Werror -I"$include" "$here/streams.c" -o "$work/streams" "$library" -Wl,-rpath,"$(dirname "$library")"
"$work/streams"
echo "$count calls take a stream as void *"
