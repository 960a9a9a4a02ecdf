#!/usr/bin/env bash
# test.sh BUILD_DIR [cost] : build a wheel around BUILD_DIR/libthink.so.1, install it into an empty folder and run everything from there: the tests, bad
# guests, the types, the README's example; what a call costs, which is all with the word `cost`. The packages that this needs (requirements.txt, by hash) are
# fetched once into a folder of the user's cache.
#   THINK_WHEEL_FROM_SOURCE=1  the wheel compiles the library itself, as users do: minutes
# Exit status 77: no Python 3.10 or newer, or the packages could not be downloaded; the last line says which.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$(realpath "$1")
library=$build/libthink.so.1
[ -e "$library" ] || { echo "test.sh: $library is missing" >&2; exit 1; }
. "$root/bindings/tools/guests.sh"
. "$root/tests/abi/ceilings.sh"
python=${PYTHON:-python3}
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || { echo "there is no python3"; exit 77; }
case $version in 3.1[0-9]) ;; *) echo "Python 3.10 or newer is needed, found $version"; exit 77 ;; esac

cache=${XDG_CACHE_HOME:-$HOME/.cache}/libthink
environment=$cache/python-$version-$(sha256sum "$here/requirements.txt" | cut -c1-12)
if [ ! -e "$environment/complete" ]; then
  rm -rf "$environment"
  "$python" -m venv "$environment" || { echo "python3 -m venv does not work (Debian: python3-venv)"; exit 77; }
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r "$here/requirements.txt" ||
    { echo "the packages of bindings/python/requirements.txt could not be installed for Python $version"; exit 77; }
  touch "$environment/complete"
fi
python=$environment/bin/python
export PYTHONDONTWRITEBYTECODE=1
unset THINK_LIBRARY PYTHONPATH

[ "${2:-}" != cost ] || { PYTHONPATH=$here THINK_LIBRARY=$library "$python" "$here/tests/cost.py"; exit; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAIL: $1" >&2; exit 1; }
pip() { "$python" -m pip --disable-pip-version-check --quiet "$@"; }
prebuilt=(--config-settings=cmake.define.THINK_LIBRARY="$library")
inside=("${prebuilt[@]}")
[ "${THINK_WHEEL_FROM_SOURCE:-0}" = 0 ] || inside=()
pip wheel --no-deps --no-build-isolation "${inside[@]}" --wheel-dir "$work/wheel" "$here"
wheel=$(echo "$work"/wheel/libthink-*.whl)
"$python" - "$wheel" "$root" <<'PY'
import re, sys, zipfile, pathlib
wheel, root = zipfile.ZipFile(sys.argv[1]), pathlib.Path(sys.argv[2])
version = re.search(r"project\(think VERSION ([0-9.]+)", (root / "CMakeLists.txt").read_text())[1]
expected = {"libthink/" + path.name for path in (root / "bindings/python/libthink").iterdir() if path.is_file()} | {"libthink/libthink.so.1"}
found = {name for name in wheel.namelist() if not name.startswith(f"libthink-{version}.dist-info/")}
assert found == expected, found ^ expected
assert re.search(rf"libthink-{re.escape(version)}-py3-none-linux_\w+\.whl$", sys.argv[1]), sys.argv[1]
text = b"".join(wheel.read(name) for name in wheel.namelist() if not name.endswith(".so.1"))
assert str(root).encode() not in text, "the wheel names the source tree"
PY
"$python" -m auditwheel show "$wheel" | tr '\n' ' ' | tee "$work/audit" | fold -s -w 150
echo
tag=$(grep -oE 'platform tag: "manylinux_2_[0-9]+' "$work/audit" | grep -oE '[0-9]+$') || fail "auditwheel finds no platform tag for the wheel"
[ "$tag" -le "${glibc_ceiling#2.}" ] || fail "the wheel is manylinux_2_$tag, README.md says manylinux_2_${glibc_ceiling#2.}"
grep -qF "manylinux_2_${glibc_ceiling#2.}" "$here/README.md" || fail "README.md does not say manylinux_2_${glibc_ceiling#2.}"

# the wheel in an empty folder, and from the tree in one step, around the library that is there
pip install --no-deps --no-index --target "$work/site" "$wheel"
pip install --no-deps --no-build-isolation --no-index "${prebuilt[@]}" --target "$work/tree" "$here"
(cd "$work" && PYTHONPATH=$work/tree "$python" -c "import libthink; assert libthink.__file__.startswith('$work/tree'); libthink.Context()") ||
  fail "pip install from the tree"
within_ceilings "$work/site/libthink/libthink.so.1" || fail "the wheel needs a newer system than it says"
export PYTHONPATH=$work/site THINK_ROOT=$root
cd "$work"
"$python" -c "import libthink; assert libthink.__file__.startswith('$work/site') and '$work/site' in libthink.native.library_path"
"$python" -m pytest -q -c "$here/pyproject.toml" --rootdir "$here" "$here/tests"
OPENBLAS_NUM_THREADS=1 bad_guests "$build" "$work" "$python" "$here/tests/guest.py" || fail "guest certificate"
sed -n '/^```python/,/^```/p' "$here/README.md" | sed '/^```/d' >"$work/example.py"
"$python" -m mypy --strict --no-incremental --cache-dir /dev/null --no-error-summary "$work/example.py" "$work/site/libthink" || fail "mypy --strict"
"$python" "$here/tests/cost.py"
