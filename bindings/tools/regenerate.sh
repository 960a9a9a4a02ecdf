#!/usr/bin/env bash
# regenerate.sh [--check] : everything that the bindings take from the public headers: think.json first, then what each language makes of it.
#   --check  write nothing; exit 1 if a file is out of date. The same input gives the same bytes, on every machine.
# Exit status 77: the rest was done, but bindgen 0.60.1 (Debian 12: bindgen), rustfmt or SWIG 4.1.0 (Debian 12: swig) is not here.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -eq 0 ] || [ "$*" = --check ] || { echo "usage: regenerate.sh [--check]" >&2; exit 2; }
export PYTHONDONTWRITEBYTECODE=1
failed=0 missing=
python3 libthink/abi/generate.py "$@" || failed=1
python3 bindings/tools/python.py "$@" || failed=1
python3 bindings/tools/rust.py "$@" || failed=1
python3 bindings/tools/table.py "$@" || failed=1
python3 bindings/tools/java.py "$@" || failed=1
python3 bindings/tools/go.py "$@" || failed=1
for tool in bindgen swig; do
  bindings/tools/$tool.sh "$@" || { [ $? = 77 ] && missing+=" $tool" || failed=1; }
done
[ "$failed" = 0 ] || exit 1
if [ -n "$missing" ]; then
  echo "what is made by$missing was left out, the rest is current"
  exit 77
fi
echo "all generated files are current"
