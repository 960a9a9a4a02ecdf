#!/usr/bin/env bash
# swig.sh [--check] : what SWIG 4.1.0 (Debian 12: swig) makes of bindings/swig. Exit status 77: it is not here.
set -euo pipefail
cd "$(dirname "$0")/../swig"
. ../../tests/packages.sh
command -v swig >/dev/null || need_packages swig || true
[ "$(swig -version 2>/dev/null | sed -n 's/^SWIG Version //p')" = 4.1.0 ] || { echo "SWIG 4.1.0 is not here (Debian 12: swig)"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
stale=0
# FILE FOLDER: a file that SWIG wrote, and its place below bindings/
place() {
  if cmp -s "$work/$1" "../$2/$1"; then return; fi
  if [ "$check" = 1 ]; then
    echo "bindings/$2/$1 is out of date; run bindings/tools/regenerate.sh" >&2
    stale=1
  else
    cp "$work/$1" "../$2/$1"
    echo "wrote bindings/$2/$1"
  fi
}
check=0
[ "${1:-}" != --check ] || check=1

swig -Wall -Werror -I../../include -java -package org.libthink -module Native -outdir "$work" -o "$work/native.c" think.i
sed -i 's/[[:space:]]*$//' "$work"/*
# A type that java.i does not know becomes a class of SWIG's own.
written=$(cd "$work" && echo *)
[ "$written" = "Native.java NativeJNI.java native.c" ] || { echo "bindings/swig/java.i does not know a type: $written" >&2; exit 1; }
place native.c java/src/main/c
for file in Native.java NativeJNI.java; do place $file java/src/main/java/org/libthink; done
exit "$stale"
