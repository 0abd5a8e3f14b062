#!/usr/bin/env bash
# Boots the disk of the newest ci-worker image in QEMU, by UEFI, runs the recipe's tests in it and looks at what its first
# boot makes and leaves.
# shellcheck source=tests/scripts/common.sh
. "$(dirname "$0")/common.sh"

export PIAAS_CLOUD=local
"$bake" test --vm ci-worker
