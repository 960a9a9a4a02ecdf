#!/usr/bin/env bash
# assemble_test.sh [NVCC] : compiles every function of kernels/common/ptx.cuh for sm_80 and sm_90, so that its PTX is known to assemble, without spills.
# NVCC, $CUDACXX or nvcc in PATH; skipped (77) where there is none.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
for nvcc in "${1:-}" "${CUDACXX:-}" nvcc; do
  [ -n "$nvcc" ] && command -v "$nvcc" >/dev/null && break
  nvcc=
done
[ -n "$nvcc" ] || { echo "no nvcc: give its path, set CUDACXX or PATH"; exit 77; }
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
status=0
for architecture in 80 90; do
  if ! "$nvcc" -std=c++20 -arch=sm_$architecture -Xptxas -v,-warn-spills,-Werror -I. -Iinclude \
    -c tests/simt/every_function.cu -o "$work/$architecture.o" >"$work/log" 2>&1; then
    cat "$work/log"
    status=1
  elif grep -E '[1-9][0-9]* bytes spill' "$work/log"; then
    status=1
  else
    echo "sm_$architecture: $(grep -o 'Used [0-9]* registers' "$work/log")"
  fi
done
exit $status
