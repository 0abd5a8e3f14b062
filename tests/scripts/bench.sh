#!/usr/bin/env bash
# Measures, side by side with rivals in the same run. Nothing here passes or fails by a time.
# shellcheck source=tests/scripts/common.sh
. "$(dirname "$0")/common.sh"

say "digests, lint and plan, start-up"
cargo bench --locked --profile dev --bench speed

say "the engine's own time in a bake, beside Packer"
"$rival/bin/python" tests/bench/engine.py
