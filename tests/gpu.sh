#!/usr/bin/env bash
# Tests and measures libthink on a real GPU; needs no network. One clear line per part.
#   tests/gpu.sh                       build, test, sanitize, bench, in under ten minutes
#   tests/gpu.sh --only test,bench     some of the parts
#   tests/gpu.sh --build DIR           take the binaries of a build tree that was made elsewhere (with -DTHINK_CUDA=ON, tests, benchmarks), build nothing
#   tests/gpu.sh --allow-missing       without a device: say "skipped: ..." and exit 0
#   tests/gpu.sh --quick               fewer cases in the benchmark
#   tests/gpu.sh --filter PATTERN      of the part `test` only what GoogleTest selects by it
#   tests/gpu.sh --results DIR         where JSON and RESULTS-gpu.md go; default out/gpu-results (the Markdown: tests/bench/RESULTS-gpu.md)
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

parts=build,test,sanitize,bench tree='' allow_missing=0 quick=() results='' filter='*'
while [ $# -gt 0 ]; do
  case $1 in
    --only) parts=${2:?--only needs a list}; shift ;;
    --build) tree=$(realpath "${2:?--build needs a folder}") || exit 2; shift ;;
    --results) results=${2:?--results needs a folder}; shift ;;
    --allow-missing) allow_missing=1 ;;
    --quick) quick=(--quick) ;;
    --filter) filter=${2:?--filter needs a pattern}; shift ;;
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "gpu.sh: unknown argument '$1' (see --help)" >&2; exit 2 ;;
  esac
  shift
done
for part in ${parts//,/ }; do
  case $part in build | test | sanitize | bench) ;; *) echo "gpu.sh: unknown part '$part'" >&2; exit 2 ;; esac
done
wants() { case ,$parts, in *,"$1",*) return 0 ;; esac; return 1; }

started=$SECONDS failed=0
markdown=${results:+$results/RESULTS-gpu.md}
markdown=${markdown:-tests/bench/RESULTS-gpu.md}
results=${results:-out/gpu-results}
mkdir -p "$results" || exit 1
say() { printf '[%2d:%02d] %s\n' $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)) "$*"; }
fail() { failed=1; say "FAIL  $*"; }

if [ -n "$tree" ]; then
  ! wants build || say "skip  build: --build $tree"
else
  tree=$PWD/out/gpu
  if wants build; then
    answer=$(libthink/cmake/cuda_toolkit.sh 2>"$results/toolkit.log") && eval "$(echo "$answer" | tail -n 1)" && export CUDACXX
    architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
    if cmake --preset cuda -B "$tree" -DTHINK_BENCH=ON -DTHINK_CLI=OFF "-DTHINK_CUDA_ARCHITECTURES=${architecture:-90}-real" >"$results/build.log" 2>&1 &&
      cmake --build "$tree" --target think think_cuda gpu gpu_bench -j "$(nproc)" >>"$results/build.log" 2>&1; then
      say "pass  build for sm_${architecture:-90}"
    else
      tail -n 5 "$results/build.log"
      fail "build: $results/build.log (needs CUDA 13, g++, cmake, ninja, GoogleTest, nlohmann json and Eigen; or build elsewhere and use --build)"
      exit 1
    fi
  fi
fi

export LD_LIBRARY_PATH=$tree${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export THINK_BACKEND_PATH=${THINK_BACKEND_PATH:-$tree}
tests=$tree/tests/gpu/gpu bench=$tree/tests/bench/gpu/gpu_bench
for program in "$tests" "$bench"; do
  [ -x "$program" ] || { fail "$program does not exist: build it, or name the tree with --build"; exit 1; }
done
if ! device=$("$bench" --check 2>&1); then
  reason=${device#gpu_bench: }
  case $reason in
    *"no NVIDIA driver"* | *"no CUDA device"* | *"NVIDIA driver does not start"*) [ "$allow_missing" = 0 ] || { say "skipped: $reason"; exit 0; } ;;
  esac
  fail "no device: $reason"
  exit 1
fi
say "device $device"

# counts "[  PASSED  ] 5 tests." and its like
count() { sed -nE "s/^\[  $1  ?\] ([0-9]+) tests?.*/\1/p" "$2" | head -n 1; }

if wants test; then
  log=$results/test.log
  if timeout 240 "$tests" --gtest_filter="$filter" >"$log" 2>&1; then
    skipped=$(count SKIPPED "$log")
    say "pass  test: $(count PASSED "$log") passed, ${skipped:-0} skipped"
    [ -z "$skipped" ] || grep -hE 'has no CUDA kernels|no CUDA' "$log" | sed 's/^ */        /' | sort -u | head -n 8
  else
    grep -E 'Failure|FAILED|CUDA error|terminate' "$log" | head -n 20
    fail "test: $log"
  fi
fi

if wants sanitize; then
  tool=$(command -v compute-sanitizer || { [ -n "${CUDACXX:-}" ] && ls "$(dirname "$CUDACXX")/compute-sanitizer"; } 2>/dev/null || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | tail -n 1)
  if [ -z "$tool" ]; then
    say "skip  sanitize: compute-sanitizer is not installed"
  else
    for kind in memcheck racecheck initcheck synccheck; do
      log=$results/$kind.log
      if timeout 100 "$tool" --tool "$kind" --error-exitcode 99 "$tests" --gtest_filter='Flow.*:Stages*/short:Shapes/*short:OnDevice.Forks*' >"$log" 2>&1; then
        say "pass  $kind"
      else
        code=$?
        grep -E '=========|Failure|FAILED' "$log" | head -n 10
        fail "$kind (exit code $code): $log"
      fi
    done
  fi
fi

if wants bench; then
  if timeout 280 "$bench" --seconds 150 "${quick[@]}" >"$results/bench.json" 2>"$results/bench.log"; then
    say "pass  bench: $results/bench.json"
    python3 tests/bench/gpu/peers.py --seconds 70 "${quick[@]}" --json "$results/peers.json" 2>"$results/peers.log" &&
      say "pass  peers: $results/peers.json" || fail "peers: $results/peers.log"
    kernels=()
    [ ! -f "$tree/kernels.txt" ] || kernels=(--kernels "$tree/kernels.txt")
    peers=()
    [ ! -s "$results/peers.json" ] || peers=(--peers "$results/peers.json")
    python3 tests/bench/gpu/results.py --markdown "$markdown" --bench "$results/bench.json" "${peers[@]}" "${kernels[@]}" && say "wrote $markdown" ||
      fail "results.py"
  else
    tail -n 5 "$results/bench.log"
    fail "bench: $results/bench.log"
  fi
fi
exit "$failed"
