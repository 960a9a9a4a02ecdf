#!/usr/bin/env bash
# cuda_toolkit.sh : finds or fetches the CUDA compiler that builds libthink_cuda.so.1. Needs no GPU, no driver and no root.
#   $CUDACXX, else nvcc in PATH, else the toolkit below /usr/local/cuda: taken when it is CUDA 13.0 or newer.
#   Otherwise CUDA 13.0 comes from pinned wheels (105 MB to fetch, 280 MB on disk) into a folder of the user's cache, once.
# Progress goes to stderr. The last line on stdout is CUDACXX=...: use it as  eval "$(libthink/cmake/cuda_toolkit.sh)"; export CUDACXX
# Exit status 3: the wheels could not be downloaded. THINK_CUDA_FETCH=1 fetches even where a toolkit is installed.
set -euo pipefail

# nvcc asks for its parts without a version, and the newest parts do not fit it: all are pinned, and pip follows no dependencies.
requirements() {
  cat <<'REQUIREMENTS'
nvidia-cuda-nvcc==13.0.88 --hash=sha256:56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03 --hash=sha256:c7ff28f86a24effdc6c034fa15230c549a273e4771b10a7fec14996f8cf3307f
nvidia-nvvm==13.0.88 --hash=sha256:c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0 --hash=sha256:c4376a291d72d22a315d9d2f69bdae8f8cd83a627f75bad395cee49a0fe65dc1
nvidia-cuda-crt==13.0.88 --hash=sha256:2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4 --hash=sha256:ee2ea2a97073e02ee62bb27841f437332be2c248e3eac013df07997ada39c003
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548 --hash=sha256:ef9bcbe90493a2b9d810e43d249adb3d02e98dd30200d86607d8d02687c43f55
nvidia-cuda-cccl==13.0.85 --hash=sha256:e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649 --hash=sha256:6f0203e29fed809ee2b7fe9b1344df66ecab990c37d6a2e0e189b26d6c97ed7c
REQUIREMENTS
}

release_of() { "$1" --version 2>/dev/null | sed -nE 's/.*release ([0-9]+\.[0-9]+),.*/\1/p'; }

# is_usable NVCC : 13.0 or newer?
is_usable() {
  local release
  command -v "$1" >/dev/null || return 1
  release=$(release_of "$1")
  [ -n "$release" ] && [ "${release%.*}" -ge 13 ]
}

answer() {
  echo "using $1 (CUDA $(release_of "$1"))" >&2
  echo "CUDACXX=$1"
  exit 0
}

if [ "${THINK_CUDA_FETCH:-0}" != 1 ]; then
  for candidate in "${CUDACXX:-}" nvcc /usr/local/cuda/bin/nvcc; do
    if [ -n "$candidate" ] && is_usable "$candidate"; then answer "$(command -v "$candidate")"; fi
  done
fi

cache=${XDG_CACHE_HOME:-$HOME/.cache}/libthink
folder=$cache/cuda-13.0.88
nvcc=$folder/nvidia/cu13/bin/nvcc
# The folder gets its name when it is complete, so one that exists is whole.
if is_usable "$nvcc"; then answer "$nvcc"; fi

python=${PYTHON:-python3}
mkdir -p "$cache"
scratch=$(mktemp -d "$cache/cuda.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
requirements >"$scratch/requirements.txt"
echo "fetching CUDA 13.0 (compiler and runtime, 105 MB) into $folder" >&2
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes --dest "$scratch/wheels" \
  -r "$scratch/requirements.txt" >&2 || { echo "the CUDA wheels could not be downloaded" >&2; exit 3; }
echo "unpacking" >&2
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-index --no-compile --target "$scratch/toolkit" "$scratch"/wheels/*.whl >&2
top=$scratch/toolkit/nvidia/cu13
# nvcc.profile looks into <top>/lib64, where the wheels have lib, and CMake knows libcudart.so by its plain name only.
[ -e "$top/lib64" ] || ln -s lib "$top/lib64"
[ -e "$top/lib/libcudart.so" ] || ln -s libcudart.so.13 "$top/lib/libcudart.so"
chmod -R u+rwX "$top"
chmod +x "$top"/bin/* "$top"/nvvm/bin/*
is_usable "$top/bin/nvcc" || { echo "the fetched nvcc does not run" >&2; "$top/bin/nvcc" --version >&2; exit 1; }
rm -rf "$folder"
mv "$scratch/toolkit" "$folder"
answer "$nvcc"
