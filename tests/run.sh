#!/usr/bin/env bash
# Sets up, builds and runs the tests. Closes with one line: N passed, N failed, N skipped.
#   tests/run.sh         tier 1: release build and one sanitizer build, every stage on every instruction set at hand, ABI gate, flow, examples' smoke,
#                        CUDA kernels in the emulator and compiled for sm_80 and sm_90
#   tests/run.sh --all   also the other sanitizers, the emulator under a sanitizer, the full sweeps, all CUDA architectures, the cross builds under qemu,
#                        a long generation and the fidelity table
#   tests/run.sh --help
# Logs and build trees: out/ in the repository. Idempotent; as root it installs missing Debian packages, otherwise it names them.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

all=0
for argument in "$@"; do
  case $argument in
    --all) all=1 ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "run.sh: unknown argument '$argument' (see --help)" >&2; exit 2 ;;
  esac
done

. tests/packages.sh
need_packages g++ make cmake ninja-build pkg-config libgtest-dev libeigen3-dev libcli11-dev nlohmann-json3-dev libopenblas-dev libboost-context-dev abigail-tools \
  binutils python3 python3-pip python3-venv ca-certificates || exit 1

jobs=$(nproc)
logs=$PWD/out/log
mkdir -p "$logs"
passed=0 failed=0 skipped=0
started=$SECONDS
step_started=$SECONDS

say() { printf '[%3d:%02d] %s\n' $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)) "$*"; }
count() { passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3)); }

# One command that counts as one test. Exit status 77 = skipped; the last line of the output then says why.
step() {
  local name=$1 log; shift
  log=$logs/${name//[^a-zA-Z0-9]/-}.log
  step_started=$SECONDS
  "$@" >"$log" 2>&1
  case $? in
    0) count 1 0 0; say "pass  $name ($((SECONDS - step_started)) s)" ;;
    77) count 0 0 1; say "skip  $name: $(tail -n 1 "$log")" ;;
    *) count 0 1 0; say "FAIL  $name ($log)"; tail -n 40 "$log" ;;
  esac
}

# Configure and build one preset; nothing of it is tested when that fails.
build() {
  local preset=$1 log=$logs/build-$1.log; shift
  say "build $preset"
  if ! { cmake --preset "$preset" "$@" && cmake --build "out/$preset" -j "$jobs"; } >"$log" 2>&1; then
    count 0 1 0
    say "FAIL  build $preset ($log)"
    grep -E 'error|Error|FAILED' "$log" | head -n 20
    tail -n 20 "$log"
    return 1
  fi
}

# All tests of a build tree, counted one by one from ctest's own report.
suite() {
  local preset=$1 name=$2 log junit numbers; shift 2
  log=$logs/ctest-$name.log junit=$logs/ctest-$name.xml
  step_started=$SECONDS
  rm -f "$junit"
  ctest --test-dir "out/$preset" -j "$jobs" --output-on-failure --output-junit "$junit" "$@" >"$log" 2>&1
  numbers=$(python3 - "$junit" $? <<'PY'
import sys, xml.etree.ElementTree as tree
try: suite = tree.parse(sys.argv[1]).getroot()
except Exception: print("0 1 0"); sys.exit()
total, failed, skipped = (int(suite.get(key, 0)) for key in ("tests", "failures", "skipped"))
skipped += int(suite.get("disabled", 0))
passed = total - failed - skipped
# A test whose program is missing counts as skipped there; only the exit status of ctest tells.
if not total or (sys.argv[2] != "0" and not failed): failed += 1
print(passed, failed, skipped)
PY
  )
  # shellcheck disable=SC2086
  set -- $numbers
  count "$1" "$2" "$3"
  say "$([ "$2" -eq 0 ] && echo pass || echo FAIL)  $name: $1 passed, $2 failed, $3 skipped ($((SECONDS - step_started)) s)"
  if [ "$2" -ne 0 ]; then sed -n '/The following tests FAILED/,$p' "$log"; grep -B2 -A12 -E 'Failure$|FAILED|\*\*\*Failed' "$log" | head -n 80; fi
  [ "$3" -eq 0 ] || grep -E 'Skipped|Not Run' "$log" | sed 's/^/        /' | sort -u | head -n 20
}

# The CUDA compiler, which some tests of the release build use as well. Where it cannot be had they say so.
if toolkit=$(libthink/cmake/cuda_toolkit.sh 2>"$logs/cuda-toolkit.log"); then
  eval "$(echo "$toolkit" | tail -n 1)"
  export CUDACXX
fi

built_release=
if build release; then
  built_release=1
  suite release release
  step "installed package" bash tests/abi/install_test.sh out/release
  step "packages" bash tests/abi/packages_test.sh out/release
  step "bindings: generated files" bash bindings/tools/regenerate.sh --check
  step "bindings: go" bash bindings/go/test.sh out/release
  step "bindings: rust" bash bindings/rust/test.sh out/release
  step "bindings: python" bash bindings/python/test.sh out/release
  step "bindings: java" bash bindings/java/test.sh out/release
  step "engine smoke" bash tests/engine/smoke.sh out/release
  # Compiled for real, which needs no GPU. The kernels' own tests ran in the emulator, as part of the suite above.
  step "CUDA backend" bash tests/backend/cuda.sh out/release "$([ "$all" = 1 ] || echo '80-real;90-real')"
fi
# One sanitizer build. The full sweeps of the stages are left to --all, they are slow there; so is the emulator, which checks every access of a kernel itself.
if build asan -DTHINK_EXAMPLES=OFF -DTHINK_EMULATOR="$([ "$all" = 1 ] && echo ON || echo OFF)"; then
  THINK_TEST_QUICK=1 suite asan asan -LE gate
fi

if [ "$all" = 1 ]; then
  need_packages g++-aarch64-linux-gnu qemu-user-static clang libclang-rt-14-dev || count 0 1 0
  [ -z "$built_release" ] || THINK_TEST_FULL=1 suite release release-full -L stage
  if build tsan; then THINK_TEST_QUICK=1 suite tsan tsan -LE gate; fi
  if build debug; then THINK_TEST_QUICK=1 suite debug debug -LE gate; fi
  step "AArch64 under qemu" bash tests/cross/aarch64.sh
  step "AVX2 and baseline under qemu" bash tests/cross/avx2.sh out/release
  step "fuzzing, a minute each" bash tests/fuzz/run.sh
  THINK_WHEEL_FROM_SOURCE=1 step "bindings: python, the wheel compiled from source" bash bindings/python/test.sh out/release
  step "bindings: cost of a call" bash bindings/tools/cost.sh out/release
  step "bindings: rust under miri" bash bindings/rust/miri.sh out/release
  step "long generation" bash tests/engine/long.sh out/release
  step "fidelity on the real model" bash examples/fidelity.sh
fi

say "all done"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
