# Sourced by tests/run.sh and examples/quickstart.sh: makes sure that Debian packages are there.
#   need_packages PACKAGE ...   installs what is missing when root, otherwise names it and fails
need_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  if ! command -v apt-get >/dev/null; then
    echo "missing packages: ${missing[*]} (this script knows Debian's names; install what corresponds to them)" >&2
    return 1
  fi
  if [ "$(id -u)" -ne 0 ]; then
    echo "missing packages; as root: apt-get update && apt-get install ${missing[*]}" >&2
    return 1
  fi
  echo "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  # Names are looked up in the list at hand first: an update is slow, and needless on most machines.
  apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null 2>&1 && return 0
  apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
}
