#!/usr/bin/env bash
# check.sh BASE NEW OPAQUE.supp : may NEW replace BASE under programs that are already compiled?
#   BASE, NEW  a shared library with debug information, or a surface file (.abi) that check.sh --write made of one
#   exit 0: same, or only growth (new functions, fields behind the old end of a sized struct); 1: broken; 2: could not compare
# check.sh --write NEW OPAQUE.supp OUT.abi : store the surface of NEW, for later comparisons
set -u
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT

# The verdict reads abidiff's text, which changes from version to version.
version=$(abidiff --version 2>/dev/null) || { echo "check.sh: abidiff is missing (Debian: abigail-tools)" >&2; exit 2; }
case $version in *' 2.2'*) ;; *) echo "check.sh: written for abidiff 2.2, found: $version" >&2; exit 2 ;; esac

surface() {  # surface FILE SUPP OUT
  case $1 in *.abi) [ -s "$1" ] && cp "$1" "$3"; return ;; esac
  # without debug information abidiff is silently blind to types
  readelf -SW "$1" 2>/dev/null | grep -q '\.debug_info' || { echo "check.sh: $1 is missing or was built without -g" >&2; return 1; }
  abidw --no-corpus-path --no-comp-dir-path --out-file "$work/full.abi" "$1" >&2 && python3 "$here/surface.py" "$work/full.abi" "$2" "$3"
}

if [ "${1:-}" = --write ]; then
  [ $# -eq 4 ] || { echo "usage: check.sh --write NEW OPAQUE.supp OUT.abi" >&2; exit 2; }
  surface "$2" "$3" "$4" || exit 2
  exit 0
fi
[ $# -eq 3 ] || { echo "usage: check.sh BASE NEW OPAQUE.supp" >&2; exit 2; }
surface "$1" "$3" "$work/base.abi" || { echo "check.sh: cannot read $1" >&2; exit 2; }
surface "$2" "$3" "$work/new.abi" || { echo "check.sh: cannot read $2" >&2; exit 2; }

out=$(abidiff --no-added-syms --leaf-changes-only --suppr "$3" "$work/base.abi" "$work/new.abi")
rc=$?
(( rc & 3 )) && { echo "check.sh: abidiff failed with $rc: $out" >&2; exit 2; }
(( rc & 8 )) && { printf '%s\n' "$out"; exit 1; }
(( rc & 4 )) || exit 0

# abidiff saw changes. Tolerated: members inserted at or behind the old end of a struct that carries struct_size. Not through a suppression
# (has_data_member_inserted_at): that one also hides changes of a member's type.
sized=$(python3 - "$work/base.abi" <<'PY'
import sys, xml.etree.ElementTree as xml
for item in xml.parse(sys.argv[1]).iter("class-decl"):
    first = item.find("data-member/var-decl")
    if first is not None and first.get("name") == "struct_size":
        print(item.get("name"))
PY
)
bad=$(printf '%s\n' "$out" | grep -E \
  "data member (change|deletion|replace)|offset changed|size of .* changed|type of '|type name changed|[0-9]+ enumerator (change|deletion)|enumerator .*(from value|deletion)|parameter [0-9]+ |return type|\[[CD]\] '")
unsized=$(printf '%s\n' "$out" | sed -nE "s/^'(struct|enum|union|class) ([A-Za-z0-9_:]*).* changed:$/\2/p" | grep -vxF "$sized")
inside=$(printf '%s\n' "$out" | awk '
  /^\x27/ { old = -1; size = 0 }
  /type size hasn.t changed/ { old = -1 }
  /type size changed from/ { for (i = 1; i < NF; ++i) if ($i == "from") old = $(i + 1) }
  /at offset [0-9]+ \(in bits\)/ { for (i = 1; i < NF; ++i) if ($i == "offset" && (old < 0 || $(i + 1) < old)) print }')
others=$(printf '%s\n' "$out" | grep -E "^'" | grep -vE "^'struct [A-Za-z0-9_]*.* changed:$")
if [ -n "$bad$unsized$inside$others" ]; then
  printf '%s\n' "$out"
  exit 1
fi
echo "only growth at the end:"
printf '%s\n' "$out" | grep -A2 insertion
