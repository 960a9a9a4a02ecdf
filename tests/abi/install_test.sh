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

# each example that needs nothing but the package, alone; one that asks for a later version finds none
build_alone() {
  cmake -S "$1" -B "$work/$2" -DCMAKE_PREFIX_PATH="$prefix" >"$work/cmake.log" 2>&1 && cmake --build "$work/$2" >>"$work/cmake.log" 2>&1
}
for example in c_link c_dlopen cmake_consumer cuda_graph managed_cache paged; do
  build_alone "$root/examples/$example" "$example" || { cat "$work/cmake.log" >&2; fail "examples/$example does not build alone"; }
done
"$work/c_link/c_link" >"$work/printed" || fail "examples/c_link"
grep -q '77 key channels kept: .* become' "$work/printed" || { cat "$work/printed" >&2; fail "examples/c_link says nothing of 77 channels"; }
"$work/c_link/c_link" 8 12 8192 >/dev/null 2>"$work/printed" && fail "examples/c_link took heads of 12 channels"
grep -q 'problem->key_channels' "$work/printed" || fail "examples/c_link does not say what is wrong"
"$work/cmake_consumer/cmake_consumer" || fail "examples/cmake_consumer"
"$work/paged/paged" cpu || fail "examples/paged"
"$work/managed_cache/managed_cache" cpu || fail "examples/managed_cache"
"$work/cuda_graph/cuda_graph" no_device >/dev/null && fail "examples/cuda_graph ran without a device"
cp -r "$root/examples/cmake_consumer" "$work/later"
sed -i 's/think 0\.11 CONFIG/think 7.0 CONFIG/' "$work/later/CMakeLists.txt"
build_alone "$work/later" later.build && fail "version 7.0 was found"
grep -q 'requested version "7.0"' "$work/cmake.log" || { cat "$work/cmake.log" >&2; fail "version 7.0 is missed for another reason"; }

# a host that finds the library at run time: with it, without it, and with a library that is another one; the numbers are the same
dlopen=$work/c_dlopen/c_dlopen
objdump -p "$dlopen" | grep -q 'NEEDED.*think' && fail "examples/c_dlopen needs the library"
"$dlopen" >"$work/with" && grep -q '^attention by libthink' "$work/with" || fail "examples/c_dlopen does not find the library"
(unset LD_LIBRARY_PATH && "$dlopen" "$work/nothing.so") >"$work/without" || fail "examples/c_dlopen does not work without the library"
grep -q "^libthink is not here (.*nothing.so.*): attention in plain loops" "$work/without" ||
  { cat "$work/without" >&2; fail "examples/c_dlopen does not say why"; }
"$dlopen" libm.so.6 >"$work/other" && grep -q 'libm.so.6 has no think_get_api' "$work/other" || fail "examples/c_dlopen takes any library"
paste <(tail -n 1 "$work/with" | tr ' ' '\n') <(tail -n 1 "$work/without" | tr ' ' '\n') |
  awk '{ difference = $1 - $2; if (NF != 2 || difference * difference > 1e-9) exit 1; ++count } END { exit count != 4 }' ||
  { cat "$work/with" "$work/without" >&2; fail "examples/c_dlopen computes something else without the library"; }

# pkg-config
export PKG_CONFIG_PATH=$libdir/pkgconfig
flags=$(pkg-config --cflags --libs think) || fail "pkg-config does not know think"
[ "$(pkg-config --modversion think)" = "$(sed -nE 's/^project\(think VERSION ([0-9.]+).*/\1/p' "$root/CMakeLists.txt")" ] || fail "think.pc has another version"
# shellcheck disable=SC2086  # flags are words
${CC:-cc} -std=gnu11 -Wall -Wextra -Werror "$here/frozen/consumer.c" -o "$work/by_pkg_config" $flags -lm || fail "compiling with pkg-config"
"$work/by_pkg_config" || fail "the program compiled with pkg-config"
make -C "$root/examples/pkgconfig_consumer" O="$work" CFLAGS='-Wall -Wextra -Werror' >"$work/printed" 2>&1 &&
  (unset LD_LIBRARY_PATH && "$work/pkgconfig_consumer") >"$work/printed" 2>&1 ||
  { cat "$work/printed" >&2; fail "examples/pkgconfig_consumer"; }
grep -q '^KV head 0 keeps channels 0 1 2 ' "$work/printed" && grep -q '^KV head 1 keeps channels .* 13 14 15$' "$work/printed" ||
  { cat "$work/printed" >&2; fail "examples/pkgconfig_consumer keeps other channels"; }

# the example of the README, as printed: its first block of C; and with what its second block puts in the place of one call
python3 - "$root/README.md" "$work/example.c" "$work/chosen.c" <<'PY' || fail "README.md has no C example"
import re, sys
blocks = re.findall(r"^```c\n(.*?)^```", open(sys.argv[1], encoding="utf-8").read(), flags=re.S | re.M)
if not blocks or "main(" not in blocks[0]:
    sys.exit("the first block of C in README.md is not a program" if blocks else "README.md has no block of C")
lines = [line for line in blocks[0].splitlines() if line.strip()]
if len(lines) > 40:
    sys.exit(f"the example has {len(lines)} lines; it promises about 25")
default = "  TRY(think_cache_create(plan, NULL, &cache, &error));\n"
if len(blocks) < 2 or blocks[0].count(default) != 1:
    sys.exit("README.md does not say how to choose what is kept")
open(sys.argv[2], "w", encoding="utf-8").write(blocks[0])
open(sys.argv[3], "w", encoding="utf-8").write(blocks[0].replace(default, blocks[1]))
PY
for program in example chosen; do
  # shellcheck disable=SC2086
  ${CC:-cc} -std=c99 -Wall -Wextra -Werror "$work/$program.c" -o "$work/$program" $flags -lm || fail "the README's $program.c does not compile"
  (cd "$work" && "./$program" >"$program.out") || fail "the README's $program.c does not run"
done
grep -q ' take 3.22$' "$work/example.out" && grep -q ' take 0.82$' "$work/chosen.out" || fail "the README's examples print something else than it says"
echo "the installed package works; the README's example printed:"
sed 's/^/  /' "$work/example.out"
