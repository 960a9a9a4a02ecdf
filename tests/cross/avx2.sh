#!/usr/bin/env bash
# Run the stage tests and the flow tests of an x86-64 build under qemu, for hosts without AVX2 and for processors that are older than any host:
#   -cpu max      AVX2, FMA and F16C (qemu 7.2 has no AVX-512, that needs hardware): the library must choose the AVX2 kernels
#   -cpu Nehalem  SSE4.2 only: it must choose the portable kernels, and no other instruction may be reached anywhere
#
#   tests/cross/avx2.sh [build folder with the tests, default out/release]
#
# Environment: THINK_CROSS_BUDGET  seconds that one program (one shard of it) may take, default 1800
#              THINK_CROSS_FILTER  a --gtest_filter, default *
# Exit status: 0 passed, 1 failed, 77 skipped (it says why).
set -euo pipefail
source_folder=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:-$source_folder/out/release}
budget=${THINK_CROSS_BUDGET:-1800}

if [ "$(uname -m)" != x86_64 ]; then
  echo "skipped: this host is not x86-64, its build has no AVX2 kernels"
  exit 77
fi
if ! command -v qemu-x86_64-static >/dev/null; then
  echo "skipped: qemu-x86_64-static is missing (Debian package qemu-user-static)"
  exit 77
fi
build=$(cd "$build" && pwd)
mapfile -t programs < <(find "$build/tests" -type f -perm -u+x \( -name 'stage_*' -o -name flow \) | sort)
if [ ${#programs[@]} -eq 0 ]; then
  echo "failed: no test programs in $build; build them first: cmake --preset release && cmake --build --preset release"
  exit 1
fi
if readelf -d "${programs[0]}" | grep -q -E 'lib(a|t|ub)san'; then
  echo "skipped: $build is a sanitizer build, which does not run under qemu"
  exit 77
fi

grep -q -w avx2 /proc/cpuinfo && echo "this host has AVX2, so what follows repeats on an emulator what the host has run itself"
echo "skipped: AVX-512 (not in qemu), ABI, command line and engine tests; reduced sweeps, as qemu is some fifty times slower"
export THINK_TEST_QUICK=1
logs=$build/cross-logs
mkdir -p "$logs"
. "$source_folder/tests/cross/run_programs.sh"
cd "$build"

echo "-cpu max"
export THINK_TEST_EXPECT_ISA=avx2
run_programs "qemu-x86_64-static -cpu max" "$budget" 4 "${THINK_CROSS_FILTER:-*}" "${programs[@]}"
echo "-cpu Nehalem"
export THINK_TEST_EXPECT_ISA=portable
run_programs "qemu-x86_64-static -cpu Nehalem" "$budget" 4 "${THINK_CROSS_FILTER:-*}" "${programs[@]}"
echo "avx2: passed"
