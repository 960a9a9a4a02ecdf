#!/usr/bin/env bash
# Build the library, the stage tests and the flow tests for 64-bit ARM and run them under qemu: the NEON kernels on any host.
#
#   tests/cross/aarch64.sh [build folder]
#
# Environment: THINK_CROSS_BUDGET  seconds that one program (one shard of it) may take, default 1800
#              THINK_CROSS_FILTER  a --gtest_filter, default *
# Exit status: 0 passed, 1 failed, 77 skipped because a package is missing (it says which).
set -euo pipefail
source_folder=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:-$source_folder/out/aarch64}
budget=${THINK_CROSS_BUDGET:-1800}

missing=()
command -v aarch64-linux-gnu-g++ >/dev/null || missing+=(g++-aarch64-linux-gnu)
command -v qemu-aarch64-static >/dev/null || missing+=(qemu-user-static)
command -v cmake >/dev/null || missing+=(cmake)
command -v ninja >/dev/null || missing+=(ninja-build)
[ -e /usr/src/googletest/CMakeLists.txt ] || missing+=(libgtest-dev)
[ -e /usr/include/eigen3/Eigen/Cholesky ] || missing+=(libeigen3-dev)
[ -e /usr/include/nlohmann/json.hpp ] || missing+=(nlohmann-json3-dev)
if [ ${#missing[@]} -gt 0 ]; then
  echo "skipped: the ARM tests need the Debian packages ${missing[*]}"
  exit 77
fi
mkdir -p "$build"
build=$(cd "$build" && pwd)
toolchain=$source_folder/tests/cross/aarch64.cmake

# GoogleTest for the target; the package brings its sources. The host's other headers must not come along, so the ones needed get a folder of links.
if [ ! -e "$build/prefix/lib/cmake/GTest/GTestConfig.cmake" ]; then
  cmake -S /usr/src/googletest -B "$build/googletest" -G Ninja -DCMAKE_TOOLCHAIN_FILE="$toolchain" -DCMAKE_BUILD_TYPE=Release -DBUILD_GMOCK=OFF \
    -DCMAKE_INSTALL_PREFIX="$build/prefix" -DCMAKE_INSTALL_LIBDIR=lib >"$build/googletest.log"
  cmake --build "$build/googletest" --target install >>"$build/googletest.log"
fi
mkdir -p "$build/headers"
ln -sfn /usr/include/nlohmann "$build/headers/nlohmann"

cmake -S "$source_folder" -B "$build" -G Ninja -DCMAKE_TOOLCHAIN_FILE="$toolchain" -DCMAKE_PREFIX_PATH="$build/prefix" \
  -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_FLAGS="-isystem $build/headers" -DTHINK_TESTS=ON -DTHINK_CLI=OFF -DTHINK_BENCH=OFF -DTHINK_EXAMPLES=OFF >"$build/configure.log"
mapfile -t programs < <(cmake --build "$build" --target help | sed -nE 's/^(stage_[a-z]+|flow): phony$/\1/p' | sort)
if [ ${#programs[@]} -eq 0 ]; then
  echo "failed: the build has no stage or flow tests"
  exit 1
fi
echo "building for aarch64: ${programs[*]}"
cmake --build "$build" --target "${programs[@]}" | tail -1

echo "skipped: the tests of ABI, command line and engine (they look at the host's own build); reduced sweeps, as qemu is some fifty times slower"
export THINK_TEST_QUICK=1
logs=$build/logs
mkdir -p "$logs"
. "$source_folder/tests/cross/run_programs.sh"
cd "$build"
mapfile -t programs < <(find "$build/tests" -type f -perm -u+x \( -name 'stage_*' -o -name flow \) | sort)
run_programs "qemu-aarch64-static -L /usr/aarch64-linux-gnu" "$budget" 4 "${THINK_CROSS_FILTER:-*}" "${programs[@]}"
echo "aarch64: passed"
