#!/usr/bin/env bash
# build.sh LIBRARY_DIR OUT_DIR : the jars, with nothing but a JDK (17 or newer) and a C compiler: OUT_DIR/libthink-VERSION.jar with the classes and both native
# libraries, and where LIBRARY_DIR has libthink_cuda.so.1, OUT_DIR/libthink-VERSION-linux-PROCESSOR-cuda.jar. pom.xml makes the same with Maven.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# = 2 ] || { echo "usage: build.sh LIBRARY_DIR OUT_DIR" >&2; exit 2; }
"$here/natives.sh" "$1" "$2"
version=$(sed -n 's/^project(think VERSION \([0-9.]*\).*/\1/p' "$here/../../CMakeLists.txt")
bin=${JAVA_HOME:+$JAVA_HOME/bin/}
# shellcheck disable=SC2046,SC2086  # names and flags are words
"${bin}javac" ${JAVACFLAGS:-} -Xpkginfo:always --release 17 -d "$2/classes" $(find "$here/src/main/java" -name '*.java')
"${bin}jar" --create --file "$2/libthink-$version.jar" --module-version "$version" -C "$2/classes" . -C "$2/core" natives
if [ -d "$2/cuda" ]; then
  printf 'Automatic-Module-Name: org.libthink.cuda\n' >"$2/manifest"
  "${bin}jar" --create --file "$2/libthink-$version-linux-$(uname -m)-cuda.jar" --manifest "$2/manifest" -C "$2/cuda" natives
fi
