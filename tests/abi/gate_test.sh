#!/usr/bin/env bash
# gate_test.sh CHECK_SH OPAQUE_SUPP : the ABI gate on small libraries whose right verdict is known. Each case edits one thing of the first version.
set -euo pipefail
check=$(realpath "$1") supp=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export CCACHE_DISABLE=1

cat >first.h <<'H'
#include <stddef.h>
#include <stdint.h>
typedef int32_t think_status;
#define THINK_OK 0
typedef struct think_plan think_plan;
typedef void (*think_task)(void *arg, int64_t index);
typedef struct think_options {
  uint32_t struct_size;
  uint32_t flags;
  int32_t threads;
  int32_t reserved;
  int64_t extent[4];
  void *data;
  think_task task;
} think_options;
typedef struct think_result {
  uint32_t struct_size;
  uint32_t flags;
  int64_t rows;
  int32_t width;
} think_result;
typedef enum think_mode { THINK_A = 0, THINK_B = 1 } think_mode;
struct think_range { int32_t first, count; };
#define PLAN_BODY struct think_private { int32_t a; } p; int32_t rows;
think_status think_run(const think_plan *plan, const think_options *options, int64_t rows, size_t bytes);
int32_t think_count(const think_plan *plan, struct think_range *range, think_result *result, think_mode mode);
H
cat >first.c <<'C'
#include "lib.h"
struct think_plan { PLAN_BODY };
think_status think_run(const think_plan *plan, const think_options *options, int64_t rows, size_t bytes) {
  return plan->rows + options->threads > rows + (int64_t)bytes;
}
int32_t think_count(const think_plan *plan, struct think_range *range, think_result *result, think_mode mode) {
  return plan->rows + range->first + result->width + (int32_t)mode;
}
C

# Another unit that is linked first and takes a function's address, as the function table does: abidw then loses the link from function to symbol.
cat >table.c <<'C'
#include "lib.h"
typedef think_status (*think_run_function)(const think_plan *, const think_options *, int64_t, size_t);
think_run_function think_table(void);
think_run_function think_table(void) { return (think_run_function)&think_run; }
C

build() {  # build NAME SED_FOR_HEADER [SED_FOR_SOURCE]
  sed -E "$2" first.h >lib.h
  sed -E "${3:-}" first.c >lib.c
  if [ -n "$2" ] && cmp -s first.h lib.h; then echo "FAIL: case $1 changes nothing in the header" >&2; exit 1; fi
  if [ -n "${3:-}" ] && cmp -s first.c lib.c; then echo "FAIL: case $1 changes nothing in the source" >&2; exit 1; fi
  ${CC:-gcc} ${flags:--g} -O1 -fPIC -shared -o "$1.so" table.c lib.c 2>"$1.log" || { cat "$1.log" >&2; exit 1; }
}

cases=0
expect() {  # expect pass|fail|error NAME SED_FOR_HEADER [SED_FOR_SOURCE]
  local want=$1 name=$2 rc=0
  build "$name" "$3" "${4:-}"
  for base in base.so base.abi; do
    rc=0
    "$check" "$base" "$name.so" "$supp" >"$name.out" 2>&1 || rc=$?
    case $want:$rc in
      pass:0 | fail:1 | error:2) ;;
      *) echo "FAIL: $name against $base: wanted $want, check.sh exited $rc" >&2; cat "$name.out" >&2; exit 1 ;;
    esac
  done
  cases=$((cases + 1))
}

build base ""
"$check" --write base.so "$supp" base.abi
grep -q "$work" base.abi && { echo "FAIL: the surface file holds a path" >&2; exit 1; }
grep -q think_private base.abi && { echo "FAIL: the surface file holds a private type" >&2; exit 1; }

run='think_status think_run\(const think_plan \*plan, const think_options \*options, int64_t rows, size_t bytes\)'
expect pass same ""
expect pass function_added 's/^(think_status think_run)/int32_t think_new(void);\n\1/' 's/^(think_status think_run)/int32_t think_new(void) { return 1; }\n\1/'
expect pass field_appended 's/^(  think_task task;)/\1\n  int64_t more;/'
expect pass two_fields_appended 's/^(  think_task task;)/\1\n  int64_t more;\n  float share[2];/'
expect pass constant_added 's/^(#define THINK_OK 0)/\1\n#define THINK_E_NEW 1/'
expect pass enumerator_added 's/THINK_B = 1 \}/THINK_B = 1, THINK_C = 2 }/'
expect pass private_changed 's/PLAN_BODY struct think_private \{ int32_t a; \} p;/PLAN_BODY struct think_private { double x; char y[7]; } p; void *q;/'
expect pass parameter_renamed 's/size_t bytes/size_t length/' 's/bytes/length/g'

expect fail field_in_middle 's/^(  void \*data;)/  int64_t more;\n\1/'
expect fail field_in_front 's/^(  uint32_t struct_size;)/  int64_t more;\n\1/'
expect fail field_type 's/int32_t threads;/float threads;/'
expect fail field_sign 's/int32_t threads;/uint32_t threads;/'
expect fail field_pointee 's/void \*data;/int32_t *data;/'
expect fail field_type_and_append 's/int32_t threads;/float threads;/; s/^(  think_task task;)/\1\n  int64_t more;/'
expect fail field_in_padding 's/^  int32_t width;/  int32_t width;\n  int32_t more;/'
expect fail field_in_padding_and_append 's/^  int32_t width;/  int32_t width;\n  int32_t more;\n  int64_t extra;/'
expect fail field_deleted 's/^  think_task task;//'
expect fail field_swapped 's/^  int32_t threads;/  int32_t swap;/; s/^  int32_t reserved;/  int16_t threads, reserved;/'
expect fail array_shrunk 's/extent\[4\]/extent[3]/'
expect fail array_grown 's/extent\[4\]/extent[5]/'
expect fail unsized_struct_grown 's/first, count; /first, count, step; /'
expect fail callback_changed 's/void \*arg, int64_t index/void *arg, int32_t index/'
expect fail parameter_narrowed 's/int64_t rows/int32_t rows/' 's/int64_t rows/int32_t rows/'
expect fail parameter_size_t 's/size_t bytes/uint32_t bytes/' 's/size_t bytes/uint32_t bytes/'
expect fail parameter_sign 's/int64_t rows/uint64_t rows/' 's/int64_t rows/uint64_t rows/'
expect fail parameter_added "s/size_t bytes\)/size_t bytes, int32_t more)/" 's/size_t bytes\)/size_t bytes, int32_t more)/'
expect fail parameter_removed "s/, size_t bytes\)/)/" 's/, size_t bytes\)/)/; s/ \+ \(int64_t\)bytes//'
expect fail return_type 's/^int32_t think_count/int64_t think_count/' 's/^int32_t think_count/int64_t think_count/'
expect fail status_type 's/typedef int32_t think_status/typedef int64_t think_status/'
expect fail function_removed '/^int32_t think_count/d' '/^int32_t think_count/,/^}/d'
expect fail enumerator_value 's/THINK_B = 1/THINK_B = 2/'
expect fail enumerator_removed 's/, THINK_B = 1//'

# Without debug information abidiff would pass everything.
flags=-g0 expect error no_debug_information 's/int32_t threads;/float threads;/'
rc=0
"$check" base.so missing.so "$supp" 2>/dev/null || rc=$?
[ $rc -eq 2 ] || { echo "FAIL: a missing library gave $rc" >&2; exit 1; }
echo "$cases cases right, each against a library and against a surface file"
