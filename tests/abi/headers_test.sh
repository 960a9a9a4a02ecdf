#!/usr/bin/env bash
# headers_test.sh INCLUDE_DIR c99|cxx17 : every public header compiles alone, and twice, as strictly as a caller may want.
set -euo pipefail
include=$1 language=$2
case $language in
  c99) compiler=(${CC:-cc} -x c -std=c99) ;;
  cxx17) compiler=(${CXX:-c++} -x c++ -std=c++17 -Wold-style-cast) ;;
  *) echo "unknown language $language" >&2; exit 2 ;;
esac
count=0
for header in "$include"/think.h "$include"/think/*.h; do
  name=${header#"$include"/}
  for source in "#include <$name>" "#include <$name>
#include <$name>
#include <think.h>"; do
    # -Wundef and -Wstrict-prototypes (C) are what careful callers switch on
    printf '%s\nint main(void) { return 0; }\n' "$source" |
      "${compiler[@]}" -pedantic -Wall -Wextra -Wundef -Wshadow -Wconversion -Werror -I"$include" -c -o /dev/null - ||
      { echo "FAIL: $name ($language)" >&2; exit 1; }
  done
  count=$((count + 1))
done
# every initialiser macro, as a caller writes it
{
  echo '#include <think.h>'
  grep -hoE '^#define THINK_[A-Z_]+_INIT' "$include"/think/*.h | while read -r _ macro; do
    type=$(printf '%s' "${macro%_INIT}" | tr '[:upper:]' '[:lower:]')
    echo "uint32_t size_of_$type(void); uint32_t size_of_$type(void) { $type x = $macro; return x.struct_size; }"
  done
} | "${compiler[@]}" -pedantic -Wall -Wextra $([ "$language" = cxx17 ] && echo -Wno-old-style-cast) -Werror -I"$include" -c -o /dev/null - ||
  { echo "FAIL: an initialiser macro ($language)" >&2; exit 1; }
[ "$count" -ge 17 ] || { echo "FAIL: only $count headers found in $include" >&2; exit 1; }
echo "$count headers are clean $language"
