#!/usr/bin/env bash
# miri.sh BUILD_DIR : the tests of both crates under Miri, which calls BUILD_DIR/libthink.so.1 natively and looks at everything that Rust does around it:
# slices, pointers, lifetimes, what is freed. Left out is what Miri does not support: calls back (log, files), and text in memory of the library.
# Exit status 77: no nightly toolchain with Miri, and rustup could not fetch it; the last line says which.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$(realpath "$1")
[ -e "$build/libthink.so.1" ] || { echo "miri.sh: $build/libthink.so.1 is missing" >&2; exit 1; }
command -v rustup >/dev/null || { echo "Miri comes with a nightly toolchain of rustup, which is not here"; exit 77; }
cargo +nightly --version >/dev/null 2>&1 || { echo "rustup has no nightly toolchain, which Miri belongs to"; exit 77; }
cargo +nightly miri --version >/dev/null 2>&1 || rustup component add --toolchain nightly miri rust-src >/dev/null 2>&1 ||
  { echo "rustup could not fetch Miri for the nightly toolchain"; exit 77; }

export CARGO_TARGET_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/libthink/rust-target-miri CARGO_TERM_COLOR=never THINK_LIB_DIR=$build
export MIRIFLAGS="-Zmiri-native-lib=$build/libthink.so.1 -Zmiri-disable-isolation -Zmiri-permissive-provenance"
unset THINK_LIBRARY RUSTFLAGS
cd "$here"
cargo fetch --quiet --offline 2>/dev/null || cargo fetch --quiet || { echo "the crates that these need could not be downloaded"; exit 77; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo +nightly miri test -q --offline -p think-sys --test declarations -p think --test reach >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
grep '^test result' "$log"
