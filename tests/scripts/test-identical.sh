#!/usr/bin/env bash
# Bakes the shipped recipes cold, ROUNDS=20 times in all, with everything around them varied: one disk each, or it fails.
# The last of each are in QEMU, 400 days ahead; without KVM (PIAAS_VM_ACCEL=kvm) these take half an hour.
# shellcheck source=tests/scripts/common.sh
. "$(dirname "$0")/common.sh"

[ "$(id -u)" -eq 0 ] || die "real machines need root: run \`sudo -E make test-identical\`"
"$bake" doctor --fix
install_packages disorderfs e2fsprogs python3 qemu-system-x86
work=$(mktemp -d "${TMPDIR:-/var/tmp}/piaas-identical-XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 tests/story/identical.py --binary "$bake" --work "$work" --cache "$cache" --rounds "${ROUNDS:-20}"
