#!/usr/bin/env bash
# install_test.sh BUILD_DIR : install a built tree into a fresh prefix and use it as a stranger would: find_package, pkg-config, and the example of the
# top README, extracted and compiled as printed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix
fail() { echo "FAIL: $1" >&2; exit 1; }

cmake --install "$build" --prefix "$prefix" >"$work/install.log" 2>&1 || { cat "$work/install.log" >&2; fail "cmake --install"; }
libdir=$(dirname "$(find "$prefix" -name 'libthink.so.1' | head -n 1)")
[ -d "$libdir" ] || fail "no libthink.so.1 was installed"
export LD_LIBRARY_PATH=$libdir

# what is there: every public header and no other, the links of the library, both package files
diff <(cd "$root/include" && find . -name '*.h' | sort) <(cd "$prefix/include" && find . -type f | sort) || fail "installed headers differ from include/"
cmp -s "$root/bindings/think.json" "$prefix/share/think/think.json" || fail "think.json was not installed"
[ "$(readlink "$libdir/libthink.so")" = libthink.so.1 ] || fail "libthink.so is not a link to libthink.so.1"
[ -f "$libdir/pkgconfig/think.pc" ] && [ -f "$libdir/cmake/think/thinkConfig.cmake" ] || fail "think.pc or thinkConfig.cmake is missing"
grep -rlF -e "$root" -e "$build" "$prefix/include" "$libdir/pkgconfig" "$libdir/cmake" && fail "a package file names the build tree"

# CMake, C and C++
mkdir "$work/consumer"
cmake -S "$here/consumer" -B "$work/consumer" -DCMAKE_PREFIX_PATH="$prefix" >"$work/cmake.log" 2>&1 || { cat "$work/cmake.log" >&2; fail "find_package"; }
cmake --build "$work/consumer" >"$work/cmake.log" 2>&1 || { cat "$work/cmake.log" >&2; fail "building with find_package"; }
"$work/consumer/consumer_c" || fail "the C consumer"
"$work/consumer/consumer_cxx" || fail "the C++ consumer"
sed 's/0\.9 CONFIG/7.0 CONFIG/; s|\.\./frozen|'"$here"'/frozen|; s|consumer.cpp|'"$here"'/consumer/consumer.cpp|' "$here/consumer/CMakeLists.txt" >"$work/CMakeLists.txt"
if cmake -S "$work" -B "$work/newer" -DCMAKE_PREFIX_PATH="$prefix" >/dev/null 2>&1; then fail "version 7.0 was found"; fi

# the C examples that need nothing else, each alone
for example in cuda_graph paged; do
  cmake -S "$root/examples/$example" -B "$work/$example" -DCMAKE_PREFIX_PATH="$prefix" >"$work/cmake.log" 2>&1 && cmake --build "$work/$example" >>"$work/cmake.log" 2>&1 ||
    { cat "$work/cmake.log" >&2; fail "examples/$example does not build alone"; }
done
"$work/paged/paged" cpu || fail "examples/paged"
"$work/cuda_graph/cuda_graph" no_device >/dev/null && fail "examples/cuda_graph ran without a device"

# pkg-config
export PKG_CONFIG_PATH=$libdir/pkgconfig
flags=$(pkg-config --cflags --libs think) || fail "pkg-config does not know think"
[ "$(pkg-config --modversion think)" = "$(sed -nE 's/^project\(think VERSION ([0-9.]+).*/\1/p' "$root/CMakeLists.txt")" ] || fail "think.pc has another version"
# shellcheck disable=SC2086  # flags are words
${CC:-cc} -std=gnu11 -Wall -Wextra -Werror "$here/frozen/consumer.c" -o "$work/by_pkg_config" $flags -lm || fail "compiling with pkg-config"
"$work/by_pkg_config" || fail "the program compiled with pkg-config"

# the example of the README, as printed: its first block of C
python3 - "$root/README.md" "$work/example.c" <<'PY' || fail "README.md has no C example"
import re, sys
blocks = re.findall(r"^```c\n(.*?)^```", open(sys.argv[1], encoding="utf-8").read(), flags=re.S | re.M)
if not blocks or "main(" not in blocks[0]:
    sys.exit("the first block of C in README.md is not a program" if blocks else "README.md has no block of C")
lines = [line for line in blocks[0].splitlines() if line.strip()]
if len(lines) > 40:
    sys.exit(f"the example has {len(lines)} lines; it promises about 25")
open(sys.argv[2], "w", encoding="utf-8").write(blocks[0])
PY
# shellcheck disable=SC2086
${CC:-cc} -std=c99 -Wall -Wextra -Werror "$work/example.c" -o "$work/example" $flags -lm || fail "the README's example does not compile"
(cd "$work" && ./example >example.out) || fail "the README's example does not run"
[ -s "$work/example.out" ] || fail "the README's example prints nothing"
echo "the installed package works; the README's example printed:"
sed 's/^/  /' "$work/example.out"
