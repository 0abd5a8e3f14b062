#!/usr/bin/env bash
# Cargo calls this for the crates of this package instead of rustc (RUSTC_WORKSPACE_WRAPPER), and for no dependency. It
# adds the counters that libFuzzer steers by, and links libFuzzer to the program that runs the targets. A stable
# compiler has all that; the sanitizers, which it lacks, are for unsafe code.
set -euo pipefail

rustc=$1
shift
crate=
previous=
for argument in "$@"; do
    [ "$previous" = --crate-name ] && crate=$argument
    previous=$argument
done
coverage=(
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
)
case $crate in
    # The library is what is watched. 
    piaas_bake) exec "$rustc" "$@" "${coverage[@]}" ;;
    fuzz) exec "$rustc" "$@" "-Clink-arg=${PIAAS_LIBFUZZER:?}" -Clink-arg=-lstdc++ ;;
    *) exec "$rustc" "$@" ;;
esac
