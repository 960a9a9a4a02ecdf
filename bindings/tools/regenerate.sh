#!/usr/bin/env bash
# regenerate.sh [--check] : everything that the bindings take from the public headers: think.json first, then what each language makes of it.
#   --check  write nothing; exit 1 if a file is out of date. The same input gives the same bytes, on every machine.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -eq 0 ] || [ "$*" = --check ] || { echo "usage: regenerate.sh [--check]" >&2; exit 2; }
export PYTHONDONTWRITEBYTECODE=1
failed=0
python3 libthink/abi/generate.py "$@" || failed=1
python3 bindings/tools/python.py "$@" || failed=1
[ "$failed" = 0 ] || exit 1
echo "all generated files are current"
