#!/usr/bin/env bash
# Measures whole bakes beside mkosi's, on this file system; JOURNAL=1: on new ones with a journal. Nothing here passes or
# fails by a time.
# shellcheck source=tests/scripts/common.sh
. "$(dirname "$0")/common.sh"

as_root python3 tests/bench/bake.py --binary "$bake" --mkosi "$cache/mkosi" ${JOURNAL:+--journal}
