# Sourced by the tests of what is packaged: does it run where we say it does, on a system as old as this?
#   within_ceilings FILE ...   every program and library asks for symbol versions of Debian 12 at most; otherwise names what is newer and fails
glibc_ceiling=2.36
within_ceilings() {
  local file name version status=0 any=
  local -A ceiling=([GLIBC]=$glibc_ceiling [GLIBCXX]=3.4.30 [CXXABI]=1.3.13 [GCC]=12.0.0)
  for file in "$@"; do
    # Versions that a library defines itself are not asked of anybody.
    while IFS=_ read -r name version; do
      any=1
      printf '%s\n' "$version" "${ceiling[$name]}" | sort -VC ||
        { echo "${file##*/} needs ${name}_$version, newer than ${name}_${ceiling[$name]} of Debian 12" >&2; status=1; }
    done < <(readelf -VW "$file" | sed -n '/^Version needs section/,$p' | grep -oE '\b(GLIBC|GLIBCXX|CXXABI|GCC)_[0-9.]*[0-9]' | sort -u)
  done
  [ -n "$any" ] || { echo "no symbol versions were found in $*" >&2; status=1; }
  return $status
}
