#!/usr/bin/env bash
# freeze.sh ROOT TARGET : copy the public headers and the consumer of today to TARGET, for example tests/abi/v1_0. Refuses to touch what is frozen already.
set -euo pipefail
root=$1 target=$2
[ ! -e "$target" ] || { echo "freeze.sh: $target exists; what is frozen stays as it is" >&2; exit 1; }
mkdir -p "$target"
cp -r "$root/include" "$target/include"
cp "$root/tests/abi/frozen/consumer.c" "$target/consumer.c"
echo "froze $(find "$target/include" -name '*.h' | wc -l) headers in $target"
