#!/usr/bin/env bash
# Cargo calls this for the crates of this package instead of rustc (RUSTC_WORKSPACE_WRAPPER): clippy looks at them, and no
# code is made. `cargo clippy` would first read every dependency once more, as `cargo check` does, for minutes; here they
# are taken as they are built for everything else.
set -euo pipefail

arguments=()
for argument in "$@"; do
    case $argument in
        # It runs.
        build_script_build) exec clippy-driver "$@" ;;
        --emit=*) argument=--emit=dep-info,metadata ;;
        # The library, which has no code either.
        piaas_bake=*.rlib) argument=${argument%.rlib}.rmeta ;;
    esac
    arguments+=("$argument")
done
exec clippy-driver "${arguments[@]}"
