# Sourced by the tests of the bindings: does a language's guest certificate notice a bad guest?
#   bad_guests BUILD_DIR WORK_DIR COMMAND ...   runs COMMAND with THINK_LIBRARY naming tests/abi/bad_guest.c around BUILD_DIR/libthink.so.1: COMMAND must
#                                               succeed while that behaves, and fail with every bad manner
# GUESTS_EXCEPT names manners that COMMAND does not ask about, GUESTS_ONLY the only ones that it does.
# The manner `device` takes one: COMMAND runs on the emulator of BUILD_DIR, or on the device behind THINK_BACKEND_PATH, if that is set. THINK_DEVICE_HOST names
# tests/abi/device_host.c, compiled: a host that uses the device as well. COMMAND says that the current context is as it was, or why that was left out.
bad_guests() {
  local build=$1 work=$2 root manner good=$2/good_guest.so unloaded=$2/unloaded_guest.so; shift 2
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
  local host=(env "THINK_DEVICE_HOST=$work/device_host.so") emulator=$build/tests/simt/stages device=
  "${CC:-cc}" -O1 -Wall -Wextra -Werror -fPIC -shared "$root/tests/abi/device_host.c" -o "$work/device_host.so" || return 1
  if [ -n "${THINK_BACKEND_PATH:-}" ]; then
    device=$THINK_BACKEND_PATH
  elif [ -e "$emulator/driver/libcuda.so.1" ] && [ -e "$emulator/libemulated_backend.so" ]; then
    device=emulator
    host+=("LD_LIBRARY_PATH=$emulator/driver${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "THINK_BACKEND_PATH=$emulator/libemulated_backend.so")
  fi
  local compile=("${CC:-cc}" -O1 -Wall -Wextra -Werror -fPIC -shared -I"$root/include" "$root/tests/abi/bad_guest.c" -Wl,--no-as-needed
    "$build/libthink.so.1" "-Wl,-rpath,$build" -lm -lpthread)
  "${compile[@]}" -Wl,-z,nodelete -o "$good" || return 1
  # That one stays for ever, because the real library would find its functions in it. One that has none goes when it is closed.
  echo 'int think_unloaded;' | "${CC:-cc}" -fPIC -shared -x c - -Wl,--no-as-needed -x none "$build/libthink.so.1" "-Wl,-rpath,$build" -o "$unloaded" || return 1
  THINK_LIBRARY=$good "${host[@]}" "$@" >"$work/guests" 2>&1 || { cat "$work/guests" >&2; echo "a good guest is refused" >&2; return 1; }
  local noticed=() except=" ${GUESTS_EXCEPT:-} "
  if asked device && [ -z "$device" ]; then
    echo "left out: the current context of a device, as $build has no emulator"
    except+="device "
  elif asked device && ! grep -q 'the current context of the device is as it was' "$work/guests"; then
    cat "$work/guests" >&2
    echo "nobody has looked at the current context of a device" >&2
    return 1
  fi
  for manner in $(sed -n 's/.*strcmp(manner, "\([a-z]*\)").*/\1/p' "$root/tests/abi/bad_guest.c") unloaded; do
    asked "$manner" || continue
    case $(uname -m) in x86_64) ;; *) [ "$manner" != flush ] || continue ;; esac
    if [ "$manner" = unloaded ]; then
      THINK_LIBRARY=$unloaded "${host[@]}" "$@" >"$work/guests" 2>&1
    else
      THINK_BAD_MANNER=$manner THINK_LIBRARY=$good "${host[@]}" "$@" >"$work/guests" 2>&1
    fi && { echo "nobody notices the bad manner '$manner'" >&2; return 1; }
    if [ "$manner" = device ] && ! grep -q 'changed the current context' "$work/guests"; then
      cat "$work/guests" >&2
      echo "something else than the current context is noticed" >&2
      return 1
    fi
    noticed+=("$manner")
  done
  echo "bad guests that were noticed: ${noticed[*]}"
}

# Is COMMAND to be tried with this manner?
asked() {
  case "$except" in *" $1 "*) return 1 ;; esac
  case " ${GUESTS_ONLY:-$1} " in *" $1 "*) ;; *) return 1 ;; esac
}
