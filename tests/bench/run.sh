#!/usr/bin/env bash
# Builds the release preset and measures. Prints tables; ratios count, see README.md.
#   tests/bench/run.sh [--quick] [--json FILE] [--markdown FILE] [--only STAGE] [--match TEXT] [--threads N,N] [--rounds N] [--footprint MIB] [--cpu-time]
set -euo pipefail
start=$PWD
cd "$(dirname "$0")/../.."

. tests/packages.sh
need_packages g++ cmake ninja-build libeigen3-dev nlohmann-json3-dev >&2

# Files are named from where the caller stands.
arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --json | --markdown)
      [ $# -ge 2 ] || { echo "run.sh: $1 needs a file" >&2; exit 2; }
      case $2 in /*) file=$2 ;; *) file=$start/$2 ;; esac
      arguments+=("$1" "$file"); shift 2 ;;
    *) arguments+=("$1"); shift ;;
  esac
done

build=out/bench
{
  cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DTHINK_BENCH=ON -DTHINK_TESTS=OFF -DTHINK_CLI=OFF
  cmake --build "$build" --target think_bench
} >&2
exec "$build/tests/bench/think_bench" "${arguments[@]}"
