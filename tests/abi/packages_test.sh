#!/usr/bin/env bash
# packages_test.sh BUILD_DIR : what cpack makes of a built tree: a tarball that works wherever it is unpacked, and Debian packages with the right files and
# dependencies, that work unpacked together into an empty folder.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAIL: $1" >&2; exit 1; }
. "$root/tests/abi/ceilings.sh"
command -v dpkg-deb >/dev/null || { echo "Debian packages need dpkg"; exit 77; }

version=$(sed -nE 's/^project\(think VERSION ([0-9.]+).*/\1/p' "$root/CMakeLists.txt")
(cd "$work" && cpack --config "$build/CPackConfig.cmake" -B "$work/packages" >"$work/cpack.log" 2>&1) || { cat "$work/cpack.log" >&2; fail "cpack"; }
built() { grep -q "^THINK_$1:BOOL=ON" "$build/CMakeCache.txt"; }
names=(libthink1 libthink-dev)
! built CLI || names+=(think-tools)
! built CUDA || names+=(libthink-cuda1)
architecture=$(dpkg --print-architecture)
[ "$(cd "$work/packages" && echo *.deb)" = "$(printf '%s\n' "${names[@]/%/_${version}_$architecture.deb}" | LC_ALL=C sort | xargs)" ] ||
  fail "other packages: $(cd "$work/packages" && echo *.deb)"

field() { dpkg-deb --field "$work/packages/$1_${version}_$architecture.deb" "$2"; }
files() { dpkg-deb --fsys-tarfile "$work/packages/$1_${version}_$architecture.deb" | tar -t | grep -v '/$' | sed 's/^\.//'; }
for name in "${names[@]}"; do
  [ "$(field "$name" Version)" = "$version" ] || fail "$name has version $(field "$name" Version)"
  [ "$name" = libthink1 ] || field "$name" Depends | grep -qF "libthink1 (= $version)" || fail "$name does not depend on libthink1: $(field "$name" Depends)"
  dpkg-deb -x "$work/packages/${name}_${version}_$architecture.deb" "$work/installed"
done
field libthink1 Depends | grep -q '^libc6 (>= [0-9.]*)$' || fail "libthink1 needs more than libc: $(field libthink1 Depends)"
dpkg-deb --info "$work/packages/libthink1_${version}_$architecture.deb" triggers | grep -q ldconfig || fail "libthink1 does not have the linker's cache renewed"
files libthink1 | grep -q '/libthink\.so\.1$' || fail "libthink1 has no libthink.so.1"
files libthink1 | grep -qE '\.h$|\.pc$|/libthink\.so$' && fail "libthink1 has files of libthink-dev"
files libthink-dev | grep -q '/libthink\.so$' && files libthink-dev | grep -q '/think/api\.h$' || fail "libthink-dev lacks files"
! built CUDA || [ "$(files libthink-cuda1 | grep -c '/libthink_cuda\.so\.1')" = 2 ] || fail "libthink-cuda1: $(files libthink-cuda1)"

# programs FOLDER : what is ELF there
programs() { find "$1" -type f -exec sh -c 'head -c 4 "$1" | grep -q ELF' _ {} \; -print; }
mapfile -t installed < <(programs "$work/installed")
within_ceilings "${installed[@]}" || fail "the Debian packages need a newer system than they say"

# use PREFIX WHAT: a consumer builds against it, by CMake and by pkg-config, and runs
use() {
  local libdir; libdir=$(dirname "$(find "$1" -name libthink.so.1 | head -n 1)")
  cmake -S "$root/examples/cmake_consumer" -B "$work/$2" -DCMAKE_PREFIX_PATH="$1" >"$work/use.log" 2>&1 && cmake --build "$work/$2" >>"$work/use.log" 2>&1 &&
    LD_LIBRARY_PATH=$libdir "$work/$2/cmake_consumer" >>"$work/use.log" 2>&1 || { cat "$work/use.log" >&2; fail "examples/cmake_consumer against $2"; }
  mkdir "$work/$2-make"
  PKG_CONFIG_PATH=$libdir/pkgconfig make -C "$root/examples/pkgconfig_consumer" O="$work/$2-make" >"$work/use.log" 2>&1 &&
    LD_LIBRARY_PATH=$libdir "$work/$2-make/pkgconfig_consumer" >>"$work/use.log" 2>&1 || { cat "$work/use.log" >&2; fail "examples/pkgconfig_consumer against $2"; }
  [ ! -x "$1/bin/think" ] || LD_LIBRARY_PATH=$libdir "$1/bin/think" info >/dev/null || fail "think info of $2"
}
use "$work/installed/usr" packages
mkdir "$work/unpacked"
tar -xzf "$work"/packages/*.tar.gz -C "$work/unpacked" --strip-components=1
find "$work/unpacked" -name libthink.so.1 | grep -q . || fail "the tarball has no libthink.so.1"
use "$(dirname "$(dirname "$(find "$work/unpacked" -name libthink.so.1)")")" tarball
du -k "$work"/packages/*.deb "$work"/packages/*.tar.gz | awk '{ sub(".*/", "", $2); print $2 ": " $1 " KB" }'
