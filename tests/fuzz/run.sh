#!/usr/bin/env bash
# Fuzzes the parsers, and the loading of saved sequences, with libFuzzer under the address and undefined behaviour sanitizers.
#   tests/fuzz/run.sh [SECONDS per target, default 60] [FOLDER for builds and corpora]
# Needs clang with compiler-rt (Debian: clang libclang-rt-14-dev) and what the `think` program needs (cmake ninja-build libeigen3-dev libcli11-dev
# nlohmann-json3-dev). Exit code 77: there is no such compiler.
set -euo pipefail
seconds=${1:-60}
root=$(cd "$(dirname "$0")/../.." && pwd)
work=${2:-$(mktemp -d)}
mkdir -p "$work"

compiler=
for candidate in "${CXX:-}" clang++ clang++-19 clang++-16 clang++-15 clang++-14; do
  if [ -n "$candidate" ] && command -v "$candidate" > /dev/null && "$candidate" --version | grep -q clang; then
    compiler=$candidate
    break
  fi
done
if [ -z "$compiler" ]; then
  echo "fuzz: no clang++ found, nothing was fuzzed" >&2
  exit 77
fi

# The library is linked object by object: with sanitizers a shared one has symbols that only the program brings.
build=$work/build sanitizers=address,undefined,fuzzer-no-link
built() {
  CXX=$compiler CC=${compiler/clang++/clang} cmake -G Ninja -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DTHINK_SANITIZE=$sanitizers \
    -DTHINK_CLI=ON &&
    cmake --build "$build" --target think_objects think_cli_files
}
built > "$work/log_build" 2>&1 || { tail -n 60 "$work/log_build" >&2; exit 1; }
flags=(-std=c++20 -O1 -g -fno-omit-frame-pointer -fsanitize=$sanitizers -fno-sanitize-recover=undefined
  -I"$root/libthink/cli" -I"$root/include" -I"$root/tests/fuzz" -I"$root")
objects=()
for source in "$root"/tests/fuzz/{seeds,targets,sequence}.cpp; do
  object=$work/$(basename "$source" .cpp).o
  "$compiler" "${flags[@]}" -c "$source" -o "$object"
  objects+=("$object")
done
mapfile -t -O "${#objects[@]}" objects < <(find "$build/CMakeFiles/think_objects.dir" -name '*.o')
objects+=("$build/libthink/cli/libthink_cli_files.a" -pthread -ldl)
"$compiler" "${flags[@]}" "$root/tests/fuzz/write_seeds.cpp" "${objects[@]}" -o "$work/write_seeds"
for target in npy safetensors layer sequence; do
  "$compiler" "${flags[@]}" -fsanitize=fuzzer -DTHINK_FUZZ_TARGET=$target "$root/tests/fuzz/libfuzzer.cpp" "${objects[@]}" -o "$work/fuzz_$target"
  mkdir -p "$work/corpus_$target"
  "$work/write_seeds" $target "$work/corpus_$target"
  # libFuzzer prints a page of hints; only its counts are of interest unless it finds something.
  if ! "$work/fuzz_$target" -max_total_time="$seconds" -max_len=16384 -rss_limit_mb=1024 -timeout=10 -print_final_stats=1 -verbosity=0 \
    -artifact_prefix="$work/found_${target}_" "$work/corpus_$target" > "$work/log_$target" 2>&1; then
    tail -n 60 "$work/log_$target" >&2
    echo "fuzz: $target failed; the input is in $work" >&2
    exit 1
  fi
  echo "fuzz: $target, $(sed -n 's/^stat::number_of_executed_units: *//p' "$work/log_$target") inputs in $seconds s"
done
echo "fuzz: nothing found"
