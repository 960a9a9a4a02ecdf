#!/usr/bin/env bash
# needed_test.sh LIBRARY : what the library asks of the process that loads it.
set -euo pipefail
library=$1
dynamic=$(readelf -dW "$library")
fail() { echo "FAIL: $1" >&2; echo "$dynamic" >&2; exit 1; }
needed=$(echo "$dynamic" | sed -nE 's/.*\(NEEDED\).*\[(.*)\]/\1/p')
[ -n "$needed" ] || fail "no NEEDED entry at all"
for name in $needed; do
  case $name in
    libc.so.6 | libm.so.6 | ld-linux-x86-64.so.2 | ld-linux-aarch64.so.1) ;;
    *) fail "needs $name" ;;
  esac
done
echo "$dynamic" | grep -q 'SONAME.*\[libthink.so.1\]' || fail "SONAME is not libthink.so.1"
echo "$dynamic" | grep -q 'FLAGS_1.*NODELETE' || fail "not linked with -z nodelete"
echo "$dynamic" | grep -qE 'TEXTREL|\(RPATH\)|\(RUNPATH\)' && fail "text relocations or a library path"
readelf -lW "$library" | grep 'GNU_STACK' | grep -q RWE && fail "asks for an executable stack"
# crtfastmath.o (from -ffast-math on a link line) would flip denormals for the whole process
readelf -sW "$library" | grep -q set_fast_math && fail "contains set_fast_math"
newest=$(readelf -VW "$library" | grep -oE 'GLIBC_2\.[0-9]+' | sort -uV | tail -1)
echo "needs: $(echo $needed); newest symbol version: $newest"
