#!/usr/bin/env bash
# regenerate.sh [--check] : everything that the bindings take from the public headers: think.json first, then what each language makes of it.
#   --check  write nothing; exit 1 if a file is out of date. The same input gives the same bytes, on every machine.
# Exit status 77: the rest was done, but bindgen 0.60.1 (Debian 12: bindgen) or rustfmt is not here.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -eq 0 ] || [ "$*" = --check ] || { echo "usage: regenerate.sh [--check]" >&2; exit 2; }
export PYTHONDONTWRITEBYTECODE=1
failed=0 missing=0
python3 libthink/abi/generate.py "$@" || failed=1
python3 bindings/tools/python.py "$@" || failed=1
python3 bindings/tools/rust.py "$@" || failed=1
bindings/tools/bindgen.sh "$@" || { [ $? = 77 ] && missing=1 || failed=1; }
[ "$failed" = 0 ] || exit 1
if [ "$missing" = 1 ]; then
  echo "what bindgen makes for Rust was left out, the rest is current"
  exit 77
fi
echo "all generated files are current"
