#!/usr/bin/env bash
# bindgen.sh [--check] : think-sys/src/types.rs and functions.rs from the C headers, by bindgen 0.60.1 (Debian: bindgen) and rustfmt.
# Exit status 77: one of them is not here.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/packages.sh
command -v bindgen >/dev/null || need_packages bindgen || true
# bindgen opens libclang, but its package does not ask for it.
[ -n "${LIBCLANG_PATH:-}" ] || ldconfig -p | grep -q 'libclang[-.0-9]*\.so' || need_packages libclang1-14 libclang-common-14-dev ||
  { echo "bindgen needs libclang (Debian 12: libclang1-14 libclang-common-14-dev)"; exit 77; }
[ "$(bindgen --version 2>/dev/null)" = "bindgen 0.60.1" ] || { echo "bindgen 0.60.1 is not here (Debian 12: bindgen)"; exit 77; }
command -v rustfmt >/dev/null || { echo "rustfmt is not here"; exit 77; }
sys=bindings/rust/think-sys/src
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '#include "think/api.h"\n' >"$work/all.h"
common=(--no-layout-tests --no-doc-comments --size_t-is-usize --no-prepend-enum-name --default-macro-constant-type signed --rust-target 1.47
  --ctypes-prefix core::ffi --disable-header-comment --no-rustfmt-bindings --allowlist-function 'think_.*')
note="// Written by bindings/tools/regenerate.sh with bindgen from the C headers: do not edit."
bindgen "${common[@]}" --generate types,vars --allowlist-type 'think_.*' --allowlist-var 'THINK_.*' --raw-line "$note" \
  -o "$work/types.rs" "$work/all.h" -- -std=c11 -Iinclude
bindgen "${common[@]}" --generate functions --raw-line "$note" --raw-line 'use crate::types::*;' -o "$work/functions.rs" "$work/all.h" -- -std=c11 -Iinclude
rustfmt --edition 2021 --config max_width=120 "$work/types.rs" "$work/functions.rs"
stale=0
for file in types functions; do
  if cmp -s "$work/$file.rs" "$sys/$file.rs"; then continue; fi
  if [ "${1:-}" = --check ]; then
    echo "$sys/$file.rs is out of date; run bindings/tools/regenerate.sh" >&2
    stale=1
  else
    cp "$work/$file.rs" "$sys/$file.rs"
    echo "wrote $sys/$file.rs"
  fi
done
exit "$stale"
