# Sourced by the tests of the bindings: does a language's guest certificate notice a bad guest?
#   bad_guests BUILD_DIR WORK_DIR COMMAND ...   runs COMMAND with THINK_LIBRARY naming tests/abi/bad_guest.c around BUILD_DIR/libthink.so.1: COMMAND must
#                                               succeed while that behaves, and fail with every bad manner
# GUESTS_EXCEPT names manners that COMMAND does not ask about, GUESTS_ONLY the only ones that it does.
bad_guests() {
  local build=$1 work=$2 root manner good=$2/good_guest.so unloaded=$2/unloaded_guest.so; shift 2
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
  local compile=("${CC:-cc}" -O1 -Wall -Wextra -Werror -fPIC -shared -I"$root/include" "$root/tests/abi/bad_guest.c" -Wl,--no-as-needed
    "$build/libthink.so.1" "-Wl,-rpath,$build" -lm -lpthread)
  "${compile[@]}" -Wl,-z,nodelete -o "$good" || return 1
  # That one stays for ever, because the real library would find its functions in it. One that has none goes when it is closed.
  echo 'int think_unloaded;' | "${CC:-cc}" -fPIC -shared -x c - -Wl,--no-as-needed -x none "$build/libthink.so.1" "-Wl,-rpath,$build" -o "$unloaded" || return 1
  THINK_LIBRARY=$good "$@" >"$work/guests" 2>&1 || { cat "$work/guests" >&2; echo "a good guest is refused" >&2; return 1; }
  local noticed=()
  for manner in $(sed -n 's/.*strcmp(manner, "\([a-z]*\)").*/\1/p' "$root/tests/abi/bad_guest.c") unloaded; do
    case " ${GUESTS_EXCEPT:-} " in *" $manner "*) continue ;; esac
    case " ${GUESTS_ONLY:-$manner} " in *" $manner "*) ;; *) continue ;; esac
    case $(uname -m) in x86_64) ;; *) [ "$manner" != flush ] || continue ;; esac
    if [ "$manner" = unloaded ]; then
      THINK_LIBRARY=$unloaded "$@" >"$work/guests" 2>&1
    else
      THINK_BAD_MANNER=$manner THINK_LIBRARY=$good "$@" >"$work/guests" 2>&1
    fi && { echo "nobody notices the bad manner '$manner'" >&2; return 1; }
    noticed+=("$manner")
  done
  echo "bad guests that were noticed: ${noticed[*]}"
}
