#!/usr/bin/env bash
# Fuzzes the parsers with libFuzzer under the address and undefined behaviour sanitizers.
#   tests/fuzz/run.sh [SECONDS per target, default 60] [FOLDER for builds and corpora]
# Needs clang with compiler-rt (Debian: clang-14 libclang-rt-14-dev nlohmann-json3-dev). Exit code 77: there is no such compiler.
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

cli=$root/libthink/cli
flags=(-std=c++20 -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=undefined
  -I"$cli" -I"$root/include" -I"$root/tests/fuzz")
objects=()
# What reads and writes files, as the build lists it.
files=$(tr '\n' ' ' < "$cli/CMakeLists.txt" | sed -n 's/.*add_library(think_cli_files STATIC \([^)]*\)).*/\1/p')
[ -n "$files" ] || { echo "fuzz: no think_cli_files in $cli/CMakeLists.txt" >&2; exit 1; }
for source in $(printf "$cli/%s " $files) "$root"/tests/fuzz/{seeds,targets}.cpp; do
  object=$work/$(basename "$source" .cpp).o
  "$compiler" "${flags[@]}" -c "$source" -o "$object"
  objects+=("$object")
done
"$compiler" "${flags[@]}" "$root/tests/fuzz/write_seeds.cpp" "${objects[@]}" -o "$work/write_seeds"
for target in npy safetensors layer; do
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
