#!/usr/bin/env bash
# test.sh BUILD_DIR [cost] : clippy, tests and documentation tests of both crates, linked against BUILD_DIR/libthink.so and loaded at run time, the example, and
# the packages that cargo would publish; bad guests; what a call costs, which is all with the word `cost`. Build products go to a folder of the user's cache,
# so a second run is quick.
# Exit status 77: no Rust 1.82 or newer, or the crates that these need could not be downloaded; the last line says which.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$(realpath "$1")
[ -e "$build/libthink.so" ] || { echo "test.sh: $build/libthink.so is missing" >&2; exit 1; }
# Debian 12 keeps a Rust of today beside its old one.
. "$root/tests/packages.sh"
. "$root/bindings/tools/guests.sh"
command -v rustc >/dev/null || need_packages rustc-web cargo-web rust-web-clippy || true
version=$(rustc --version 2>/dev/null | cut -d' ' -f2) || true
[ -n "$version" ] && command -v cargo >/dev/null || { echo "there is no Rust (rustc, cargo)"; exit 77; }
printf '%s\n' 1.82.0 "$version" | sort -VC || { echo "Rust 1.82 or newer is needed, found $version"; exit 77; }
command -v cargo-clippy >/dev/null || need_packages rust-web-clippy || true
command -v cargo-clippy >/dev/null || { echo "FAIL: there is no cargo-clippy (Debian 12: rust-web-clippy)" >&2; exit 1; }

export CARGO_TARGET_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/libthink/rust-target CARGO_TERM_COLOR=never
unset THINK_LIBRARY THINK_LIB_DIR RUSTFLAGS
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAIL: $1" >&2; exit 1; }
cd "$here"
# No lock file is committed: these are libraries. What was there before is used again.
cargo fetch --quiet --offline 2>/dev/null || cargo fetch --quiet || { echo "the crates that these need could not be downloaded"; exit 77; }
cargo() { command cargo "$1" --offline "${@:2}"; }

cost() { THINK_LIB_DIR=$build cargo bench -q -p think --bench cost; }
[ "${2:-}" != cost ] || { cost; exit 0; }

# what is said when there is no library
if (export PKG_CONFIG_PATH=$work PKG_CONFIG_LIBDIR=$work && cargo build -q -p think-sys) >"$work/log" 2>&1; then
  fail "think-sys was built without a library"
fi
grep -q 'set THINK_LIB_DIR' "$work/log" || { cat "$work/log" >&2; fail "a missing library is not explained"; }

export THINK_LIB_DIR=$build
cargo clippy -q --workspace --all-targets -- -D warnings
grep -rn unsafe think/examples think/README.md && fail "an example is unsafe"
cargo test -q --workspace
cargo run -q --example decode

# the same without a library when compiling; every call counted
unset THINK_LIB_DIR
export THINK_LIBRARY=$build/libthink.so.1
cargo clippy -q --workspace --all-targets --features think/calls -- -D warnings
cargo test -q --workspace --features think/calls --tests
bad_guests "$build" "$work" cargo test -q -p think --features calls --test guest || fail "guest certificate"
THINK_LIBRARY=$work/nothing.so cargo test -q -p think --features calls --test guest >"$work/log" 2>&1 && fail "there is no library, but the tests passed"
grep -q "cannot load $work/nothing.so" "$work/log" || { cat "$work/log" >&2; fail "a missing library is not explained at run time"; }
unset THINK_LIBRARY

# with pkg-config, from an installed tree, whose library is found by the rpath
cmake --install "$build" --prefix "$work/prefix" --component devel >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "cmake --install"; }
cp -P "$build"/libthink.so.1* "$(dirname "$(find "$work/prefix" -name libthink.so)")"
export PKG_CONFIG_PATH=$(dirname "$(find "$work/prefix" -name think.pc)")
cargo test -q -p think-sys
unset PKG_CONFIG_PATH

# what would be published, built from the packages alone
for crate in think-sys think; do
  (cd "$crate" && find . -type f ! -path './tests/*' | sed 's|^\./||' | sort) >"$work/there"
  cargo package -q --allow-dirty --list -p "$crate" | grep -vE '^(Cargo.lock|Cargo.toml.orig|\.cargo_vcs_info.json)$' | sort >"$work/packaged"
  diff "$work/there" "$work/packaged" || fail "the package of $crate is not complete"
done
export THINK_LIB_DIR=$build
# Cargo keeps what it unpacked and compiled of a package, and would build against an earlier think-sys of the same version.
rm -rf "${CARGO_HOME:-$HOME/.cargo}"/registry/src/-*/think-sys-*
CARGO_TARGET_DIR=$work/target cargo package -q --allow-dirty --workspace

cost
