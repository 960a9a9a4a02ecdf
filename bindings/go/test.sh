#!/usr/bin/env bash
# test.sh BUILD_DIR [cost] : vet and tests of the Go module on BUILD_DIR/libthink.so.1, opened at run time and linked, with the race detector, with cgo's
# checks and with a collection at every turn; bad guests; the README's example from a module of its own, through `replace` and from a vendored copy; what a call
# costs. With the word `cost` the last of these alone.
# Exit status 77: no Go 1.19 or newer, or no cgo; the last line says which.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$(realpath "$1")
[ -e "$build/libthink.so.1" ] || { echo "test.sh: $build/libthink.so.1 is missing" >&2; exit 1; }
. "$root/tests/packages.sh"
. "$root/bindings/tools/guests.sh"
command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
command -v go >/dev/null || need_packages golang-go || true
export GOTOOLCHAIN=local GOPROXY=off GOFLAGS= GOWORK=off CGO_ENABLED=1
version=$(go env GOVERSION 2>/dev/null | sed 's/^go//; s/[^0-9.].*//') || true
[ -n "$version" ] || { echo "there is no Go"; exit 77; }
printf '%s\n' 1.19 "$version" | sort -VC || { echo "Go 1.19 or newer is needed, found $version"; exit 77; }
command -v "$(go env CC | cut -d' ' -f1)" >/dev/null || { echo "cgo needs a C compiler, $(go env CC) is not here"; exit 77; }
unset THINK_LIBRARY PKG_CONFIG_PATH LD_LIBRARY_PATH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAIL: $1" >&2; exit 1; }
cost() {
  THINK_LIBRARY=$library go test -run '^$' -bench . -benchtime 3ms -count 100 . | tee "$work/log" | awk '
    /^Benchmark/ { sub(/-[0-9]+$/, "", $1); if (!($1 in best) || $3 < best[$1]) best[$1] = $3 }
    END {
      call = best["BenchmarkTrivialCall"]; one = best["BenchmarkAttend1Token"]; many = best["BenchmarkAttend1024Tokens"]
      if (!call || !one || !many) exit 1
      printf "Go: a trivial call takes %.1f ns, attention over 1 token %.1f us, over 1024 tokens %.1f us, of which a trivial call is %.3f %%\n",
        call, one / 1e3, many / 1e3, 100 * call / many
    }' || { cat "$work/log" >&2; fail "the benchmarks"; }
}
cd "$here"
library=$build/libthink.so.1
[ "${2:-}" != cost ] || { cost; exit 0; }
[ -z "$(gofmt -l . | grep -vx native/think.go)" ] || fail "gofmt would change $(gofmt -l . | grep -vx native/think.go | tr '\n' ' ')"
go vet ./...
go vet -tags think_calls ./...

# every function called, and again with each detector
THINK_LIBRARY=$library go test -timeout 120s -count=1 -tags think_calls .
THINK_LIBRARY=$library go test -timeout 120s -count=1 -race .
if printf '%s\n' 1.21 "$version" | sort -VC; then
  THINK_LIBRARY=$library GOEXPERIMENT=cgocheck2 go test -timeout 120s -count=1 .
else
  THINK_LIBRARY=$library GODEBUG=cgocheck=2 go test -timeout 120s -count=1 .
fi
go test -c -o "$work/guest.test" .
GUESTS_EXCEPT="shared leak unloaded" bad_guests "$build" "$work" "$work/guest.test" -test.v -test.run '^TestGuest$' || fail "guest certificate"
GUESTS_ONLY=shared bad_guests "$build" "$work" "$work/guest.test" -test.run '^TestManyGoroutines$' || fail "many goroutines"
THINK_LIBRARY=$library GOGC=1 go test -timeout 120s -count=2 .

# linked, against an installed tree
cmake --install "$build" --prefix "$work/prefix" --component devel >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "cmake --install"; }
cp -P "$build"/libthink.so.1* "$(dirname "$(find "$work/prefix" -name libthink.so)")"
libdir=$(dirname "$(find "$work/prefix" -name libthink.so)")
# Go keeps what pkg-config said of an earlier folder, unless a flag is new as well.
CGO_LDFLAGS=-Wl,-rpath,$libdir PKG_CONFIG_PATH=$libdir/pkgconfig go test -c -tags think_link -o "$work/linked.test" .
objdump -p "$work/linked.test" | grep -q 'NEEDED *libthink.so.1' || fail "the build tag think_link links nothing"
"$work/linked.test" || fail "the tests of the linked module"

# the README's example in a module of its own: through replace, and vendored, when the original is gone
cp -r "$here" "$work/libthink"
mkdir "$work/app"
sed -n '/^```go$/,/^```$/p' README.md | sed '/^```/d' >"$work/app/main.go"
cd "$work/app"
[ -z "$(gofmt -l .)" ] || fail "gofmt would change the README's example"
printf 'module app\n\ngo 1.19\n\nrequire libthink/think v0.0.0\n\nreplace libthink/think => ../libthink\n' >go.mod
go vet . && go build -o app .
THINK_LIBRARY=$library ./app | tee "$work/printed"
grep -qE '^[0-9]+ bytes of dense keys and values take [0-9]+$' "$work/printed" || fail "the README's example printed something else"
THINK_LIBRARY=$work/nothing.so ./app 2>"$work/log" && fail "there is no library, but the example ran"
grep -q "cannot load $work/nothing.so" "$work/log" || { cat "$work/log" >&2; fail "a missing library is not explained"; }
THINK_LIBRARY=libm.so.6 ./app 2>"$work/log" && fail "the example ran on another library"
grep -q 'libm.so.6 is no libthink' "$work/log" || { cat "$work/log" >&2; fail "another library is not told apart"; }
go mod vendor
rm -rf "$work/libthink" app
go build -mod=vendor -o app . && THINK_LIBRARY=$library ./app | cmp - "$work/printed" || fail "the README's example from a vendored copy"

cd "$here"
cost
