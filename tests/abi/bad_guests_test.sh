#!/usr/bin/env bash
# bad_guests_test.sh BUILD_DIR GUEST_TEST : does the guest test in C notice a library that is a bad guest? On the emulator, where the build has it.
set -euo pipefail
. "$(dirname "$0")/../../bindings/tools/guests.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# It neither compares results nor measures memory.
GUESTS_EXCEPT="shared leak" bad_guests "$1" "$work" "$2"
