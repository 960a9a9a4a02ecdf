#!/usr/bin/env bash
# natives.sh LIBRARY_DIR OUT_DIR : what the jars hold besides classes. OUT_DIR/core/natives/SYSTEM-PROCESSOR gets libthink_jni.so, compiled here, and
# LIBRARY_DIR/libthink.so.1 without its debug information; OUT_DIR/cuda/... gets libthink_cuda.so.1 where LIBRARY_DIR has one. JAVA_HOME names the JDK.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# = 2 ] || { echo "usage: natives.sh LIBRARY_DIR OUT_DIR" >&2; exit 2; }
[ -e "$1/libthink.so.1" ] || { echo "natives.sh: $1/libthink.so.1 is missing" >&2; exit 1; }
jdk=${JAVA_HOME:-$(dirname "$(dirname "$(realpath "$(command -v javac)")")")}
platform=linux-$(uname -m)
core=$2/core/natives/$platform cuda=$2/cuda/natives/$platform
mkdir -p "$core"
# SWIG's code reads memory through pointers of several types.
# shellcheck disable=SC2086  # flags are words
"${CC:-cc}" -std=c11 -O2 -Wall -Wextra ${CFLAGS:-} -fPIC -fvisibility=hidden -fno-strict-aliasing -shared -Wl,-z,defs -Wl,--as-needed -s \
  -I"$jdk/include" -I"$jdk/include/linux" -I"$here/../../include" -I"$here/../swig" "$here/src/main/c/native.c" -o "$core/libthink_jni.so" -ldl
strip --strip-debug -o "$core/libthink.so.1" "$(realpath "$1/libthink.so.1")"
if [ -e "$1/libthink_cuda.so.1" ]; then
  mkdir -p "$cuda"
  strip --strip-debug -o "$cuda/libthink_cuda.so.1" "$(realpath "$1/libthink_cuda.so.1")"
fi
