#!/usr/bin/env bash
# generate_test.sh ROOT : generate.py refuses what breaks compiled programs, accepts growth, and notices files that are out of date.
set -euo pipefail
root=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cases=0

copy() {
  rm -rf "$work/tree"
  mkdir -p "$work/tree/libthink/abi" "$work/tree/tests/abi" "$work/tree/bindings"
  cp -rL "$root/include" "$work/tree/"
  cp "$root"/libthink/abi/* "$work/tree/libthink/abi/"
  cp "$root/tests/abi/lock.c" "$work/tree/tests/abi/"
  cp "$root/bindings/think.json" "$work/tree/bindings/"
}
edit() {  # edit FILE SED
  cp "$work/tree/$1" "$work/before"
  sed -i -E "$2" "$work/tree/$1"
  if cmp -s "$work/before" "$work/tree/$1"; then echo "FAIL: the edit '$2' of $1 changes nothing" >&2; exit 1; fi
}
generate() { python3 "$root/libthink/abi/generate.py" --root "$work/tree" "$@" >"$work/out" 2>&1; }
fail() { echo "FAIL: $1" >&2; cat "$work/out" >&2; exit 1; }

refused() {  # refused NAME TEXT : neither --check nor writing passes, the message says TEXT, nothing is written
  cp -rL "$work/tree" "$work/saved"
  generate --check && fail "$1: --check passed"
  generate && fail "$1: writing passed"
  grep -qE "$2" "$work/out" || fail "$1: the message does not match '$2'"
  diff -r "$work/tree" "$work/saved" >/dev/null || fail "$1: something was written"
  rm -rf "$work/saved"
  cases=$((cases + 1))
}
accepted() {  # accepted NAME : out of date for --check, then written, then clean, and the lock compiles
  generate --check && fail "$1: --check did not notice"
  generate || fail "$1: refused"
  generate --check || fail "$1: still out of date"
  compiles || fail "$1: lock.c does not compile"
  cases=$((cases + 1))
}
compiles() {
  ${CC:-cc} -std=c11 -pedantic -Wall -Wextra -Werror -I"$work/tree/include" -c -o /dev/null "$work/tree/tests/abi/lock.c" >>"$work/out" 2>&1 &&
    ${CXX:-c++} -x c++ -std=c++17 -Wall -Wextra -Werror -I"$work/tree/include" -c -o /dev/null "$work/tree/tests/abi/lock.c" >>"$work/out" 2>&1
}
lock_breaks() {  # lock_breaks NAME : the committed lock.c no longer compiles against the edited headers, as C and as C++
  ${CC:-cc} -std=c11 -I"$work/tree/include" -c -o /dev/null "$work/tree/tests/abi/lock.c" >"$work/out" 2>&1 && fail "$1: lock.c compiles as C"
  ${CXX:-c++} -x c++ -std=c++17 -I"$work/tree/include" -c -o /dev/null "$work/tree/tests/abi/lock.c" >"$work/out" 2>&1 && fail "$1: lock.c compiles as C++"
  cases=$((cases + 1))
}

copy; generate --check || fail "the committed files are out of date"
compiles || fail "lock.c does not compile"

# broken
copy; edit include/think/tensor.h 's/THINK_F16 0x00011002/THINK_F16 0x00011003/'; lock_breaks constant; refused constant 'constant THINK_F16 changed'
copy; edit include/think/status.h 's/^#define THINK_E_IO 8.*//'; lock_breaks constant_gone; refused constant_gone 'constant THINK_E_IO is gone'
copy; edit include/think/tensor.h 's/^  int32_t count;  .*/  int64_t count;/'; lock_breaks field_type; refused field_type 'think_batch.count changed'
copy; edit include/think/tensor.h 's/^  int32_t count;  .*/  uint32_t count;/'; lock_breaks field_sign; refused field_sign 'think_batch.count changed'
copy; edit include/think/plan.h 's/^(  void \*stream;)/  int64_t more;\n\1/'; lock_breaks middle; refused middle 'think_launch.stream changed'
copy; edit include/think/plan.h 's/^  int32_t slices; /  int32_t parts; /'; lock_breaks renamed; refused renamed 'think_launch.slices is gone'
copy; edit include/think/tensor.h 's/int64_t extent\[4\]/int64_t extent[3]/'; lock_breaks array; refused array 'think_tensor.extent changed'
copy; edit include/think/tensor.h 's/typedef int32_t think_dtype/typedef int64_t think_dtype/'; lock_breaks alias; refused alias 'alias think_dtype changed'
copy; edit include/think/context.h 's/void \*arg, int64_t index/void *arg, int32_t index/'; lock_breaks callback; refused callback 'callback think_task changed'
copy; edit include/think/plan.h 's/think_kept_channels\(int32_t channels/think_kept_channels(int64_t channels/'; lock_breaks parameter
refused parameter 'function think_kept_channels changed'
copy; edit include/think/version.h 's/int32_t think_version\(void\)/int64_t think_version(void)/'; lock_breaks result; refused result 'function think_version changed'
copy; edit libthink/abi/functions.def '/think_attend/d'; edit include/think/attend.h '/think_attend\(const/d'; lock_breaks removed
refused removed 'function think_attend is gone'
copy; edit libthink/abi/functions.def '/think_merge/d'; sed -i -E 's/^(THINK_FUNCTION\(think_version, .*)/THINK_FUNCTION(think_merge, 0.9)\n\1/' "$work/tree/libthink/abi/functions.def"
refused order 'field think_api.version changed'
copy; edit include/think/tensor.h 's/^  int32_t reserved;     (.*0 \*\/)$//'; refused reserved_gone 'reserved is gone'

# unreadable or contradictory
copy; edit libthink/abi/functions.def '/think_merge/d'; refused unlisted "disagree about \['think_merge'\]"
copy; edit libthink/abi/functions.def 's/think_merge, 0.9/think_merge, 1.0/'; refused since 'think_merge: since 1.0'
copy; edit include/think/tensor.h 's/^  int32_t count;  .*/  long count;/'; refused type 'not a type that the ABI rules allow'
copy; edit include/think/tensor.h 's/^(#define THINK_BF16) .*/\1 (THINK_F16 + 2)/'; refused expression 'not a plain literal'
copy; printf '#include "version.h"\n' >"$work/tree/include/think/extra.h"; refused header "disagree about \['extra.h'\]"
copy; edit include/think/plan.h 's/^ \* @param stage      THINK/ * @param stages     THINK/'; refused described "describes \['stages'\], which are no parameters"

# growth
copy; edit include/think/plan.h 's/^(  int32_t slices; .*)/  int32_t slices; \/*/; s/(Elsewhere THINK_E_UNSUPPORTED \*\/)/\1\n  int64_t more;/'; accepted appended
copy; edit include/think/status.h 's/^(#define THINK_E_IO .*)/\1\n#define THINK_E_NEW 10/'; accepted constant_added
copy; edit include/think/version.h 's/^(THINK_API int32_t think_version.*)/\1\n\/** New. @since 1.1 *\/\nTHINK_API int32_t think_more(int32_t n);/'
edit libthink/abi/functions.def '$ a THINK_FUNCTION(think_more, 1.1)'; accepted function_added
copy; edit include/think/version.h 's/THINK_VERSION_MINOR 11/THINK_VERSION_MINOR 12/'; accepted version

# drift and the way out before 1.0
copy; edit libthink/abi/think.map 's/^    think_attend;$//'; generate --check && fail "a changed map passed"; generate; generate --check || fail "the map was not rewritten"
copy; edit include/think/api.h 's/\(\*merge\)/(*unite)/'; generate --check && fail "a changed table passed"
copy; edit bindings/think.json 's/"name": "think_merge"/"name": "think_join"/'; generate --check && fail "a changed think.json passed"
copy; edit include/think/attend.h 's/may be one of the outputs/may be one of them/'; generate --check && fail "think.json is behind a comment"
copy; edit include/think/tensor.h 's/THINK_F16 0x00011002/THINK_F16 0x00011003/'; generate --break-abi || fail "--break-abi refused"; compiles || fail "lock after --break-abi"
echo "$cases cases right"
