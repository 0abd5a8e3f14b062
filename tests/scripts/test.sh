#!/usr/bin/env bash
# Every test there is, the ones on real machines too; ends with what ran and what was left out.
# shellcheck source=tests/scripts/common.sh
. "$(dirname "$0")/common.sh"

[ "$(id -u)" -eq 0 ] || die "real machines need root: run \`sudo -E make test\`, or \`cargo test\` for the tests that do not"
export PIAAS_TEST_MACHINES=1 PIAAS_TEST_VENV="$venv" PIAAS_CACHE_DIR="$cache"
export PIAAS_TEST_BUILDBOT="$buildbot"

"$bake" doctor --fix

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --locked --no-fail-fast "$@" 2>&1 | tee "$log" || status=$?

say "summary"
awk '/^(left out|soak|conformance|killed|days|steps): / && !told[$0]++' "$log"
# Cargo's own lines: "test result: ok. 3 passed; 0 failed; 1 ignored; …"
awk '/^test result: / { passed += $4; failed += $6; skipped += $8 }
     END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped; exit passed == 0 }' "$log" ||
    die "no test ran"
exit "$status"
