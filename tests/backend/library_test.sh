#!/usr/bin/env bash
# library_test.sh LIBRARY : what libthink_cuda.so.1 asks of the process that loads it, and what it shows.
set -euo pipefail
library=$1
dynamic=$(readelf -dW "$library")
fail() { echo "FAIL: $1" >&2; echo "$dynamic" >&2; exit 1; }
needed=$(echo "$dynamic" | sed -nE 's/.*\(NEEDED\).*\[(.*)\]/\1/p')
for name in $needed; do
  case $name in
    # Before glibc 2.34 the runtime's threads, timers and dlopen() are libraries of their own.
    libc.so.6 | libm.so.6 | libdl.so.2 | librt.so.1 | libpthread.so.0 | ld-linux-x86-64.so.2 | ld-linux-aarch64.so.1) ;;
    *) fail "needs $name" ;;
  esac
done
# No pipes: grep -q leaves early, and pipefail then takes the echo's broken pipe for an answer.
grep -q 'SONAME.*\[libthink_cuda.so.1\]' <<<"$dynamic" || fail "SONAME is not libthink_cuda.so.1"
grep -q 'FLAGS_1.*NODELETE' <<<"$dynamic" || fail "not linked with -z nodelete"
grep -qE 'TEXTREL|\(RPATH\)|\(RUNPATH\)' <<<"$dynamic" && fail "text relocations or a library path"
exported=$(nm -D --defined-only --with-symbol-versions "$library" | awk '$2 != "A" { print $2, $3 }')
[ "$exported" = 'T think_cuda_backend@@THINK_CUDA_PRIVATE' ] || fail "exports: $exported"
readelf -SW "$library" | grep '\.nv_fatbin' >/dev/null || fail "contains no kernels"
echo "needs: $(echo $needed); $(stat -Lc %s "$library") bytes"
