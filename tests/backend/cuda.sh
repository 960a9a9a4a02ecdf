#!/usr/bin/env bash
# cuda.sh RELEASE_TREE [ARCHITECTURES] : builds the CUDA backend for real and lets the release build find it. Needs no GPU; fetches the compiler where
# there is none. ARCHITECTURES as CMAKE_CUDA_ARCHITECTURES, empty = all. Exit status 77: the compiler cannot be had, the last line says why.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
release=$PWD/$1 tree=$PWD/out/cuda-backend
architectures=${2:-}

answer=$(libthink/cmake/cuda_toolkit.sh)
case $? in
  0) eval "$(echo "$answer" | tail -n 1)" && export CUDACXX ;;
  3) echo "CUDA 13 is not installed and its wheels could not be downloaded"; exit 77 ;;
  *) exit 1 ;;
esac

options=(-DTHINK_TESTS=OFF -DTHINK_CLI=OFF)
if [ -n "$architectures" ]; then options+=("-DTHINK_CUDA_ARCHITECTURES=$architectures"); else options+=(-UTHINK_CUDA_ARCHITECTURES); fi
cmake --preset cuda -B "$tree" "${options[@]}" && cmake --build "$tree" --target think_cuda -j "$(nproc)" || exit 1

library=$tree/libthink_cuda.so.1
bash tests/backend/library_test.sh "$library" || exit 1

# With all architectures, as it is handed out: its own package, beside the others.
[ -n "$architectures" ] || { cmake --build "$tree" -j "$(nproc)" && bash tests/abi/packages_test.sh "$tree"; } || exit 1

# Run calls only launch: what would allocate, wait, copy or clear an error is not even linked to. (cudaMemsetAsync is a launch as well.)
allowed='cudaLaunchKernelExC|cudaMemsetAsync|cudaFuncGetAttributes|cudaFuncSetAttribute|cudaOccupancyMaxActiveBlocksPerMultiprocessor'
allowed+='|cudaGetDevice|cudaDeviceGetAttribute|cudaGetErrorString'
# The managed cache copies its tables and files, and waits for that: in the one file that has functions for it.
cache='cudaMemcpyAsync|cudaMemcpy2DAsync|cudaStreamSynchronize|cudaHostAlloc|cudaFreeHost|cudaEventCreateWithFlags|cudaEventDestroy|cudaEventRecord'
cache+='|cudaEventSynchronize|cudaStreamIsCapturing'
calls_of() { find "$tree/CMakeFiles/think_cuda.dir" -name '*.o' "$@" -exec nm -u {} + | awk '{ print $2 }' | grep -E '^cu' | sort -u; }
called=$(calls_of ! -path '*/backend/cuda/backend.cpp.o')
forbidden=$(echo "$called" | grep -vxE "$allowed"; calls_of -path '*/backend/cuda/backend.cpp.o' | grep -vxE "$allowed|$cache")
[ -n "$called" ] && [ -z "$forbidden" ] || { echo "FAIL: calls of the CUDA runtime: $forbidden of $called" >&2; exit 1; }

# Every kernel was compiled for every architecture, and none spilled: that would have failed the build.
kernels=$tree/kernels.txt
cat "$kernels"
for kernel in score_slab score_complete select_channels compact_rows_to_tiles; do
  grep -q "^  $kernel" "$kernels" || { echo "FAIL: $kernels does not know $kernel" >&2; exit 1; }
done
grep -qE ' -$| - ' "$kernels" && { echo "FAIL: a kernel is missing for an architecture" >&2; exit 1; }

# The core of another build tree of the same version takes it: the next thing that can be missing is the driver, or nothing is.
reason_of() { "$release/libthink/cli/think" info | sed -n 's/^backend *cuda *//p'; }
if [ -x "$release/libthink/cli/think" ]; then
  absent=$(reason_of)
  found=$(THINK_BACKEND_PATH=$library reason_of)
  echo "without: $absent"
  echo "with: $found"
  # Installed together, it is found beside the core without a word.
  together=$(mktemp -d) && trap 'rm -rf "$together"' EXIT
  cp -L "$release/libthink.so.1" "$library" "$together"
  beside=$(LD_LIBRARY_PATH=$together reason_of)
  echo "beside: $beside"
  [ "$beside" = "$found" ] || { echo "FAIL: not found beside the core" >&2; exit 1; }
  case $absent in *"not installed"*) ;; *) echo "FAIL: a backend was found beside the release build" >&2; exit 1 ;; esac
  case $found in
    "available: "* | "no NVIDIA driver"* | "the NVIDIA driver"* | "no CUDA device"*) ;;
    *) echo "FAIL: the core does not take the backend" >&2; exit 1 ;;
  esac
fi

# The smallest symbol versions that it asks for decide on which systems it loads.
echo "newest symbol version: $(readelf -VW "$library" | grep -oE 'GLIBC_2\.[0-9]+' | sort -uV | tail -n 1)"
