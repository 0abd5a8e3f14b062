#!/usr/bin/env bash
# Runs every fuzz target (`src/fuzz`) for FUZZ_SECONDS, one on each core. What breaks one is written down, and this fails.
# With FUZZ_SEED it begins with the inputs that are kept, and takes the same way each time; else it goes on from the last run.
# With FUZZ_KEEP=1 what is worth keeping goes to tests/fuzz/corpus, made as small as it can be. Names of targets: only these.
# shellcheck source=tests/scripts/common.sh
. "$(dirname "$0")/common.sh"

seconds=${FUZZ_SECONDS:-60}
work=$target/fuzz
if [ -n "${FUZZ_SEED:-}" ]; then
    work=$target/fuzz-$FUZZ_SEED
    rm -rf "$work"
fi
seed=${FUZZ_SEED:-$SRANDOM}
export PIAAS_LIBFUZZER=${PIAAS_LIBFUZZER:-$cache/libfuzzer/usr/lib/llvm-14/lib/libFuzzer.a}
[ -f "$PIAAS_LIBFUZZER" ] || die "there is no $PIAAS_LIBFUZZER: run \`bash tests/scripts/setup.sh fuzz\`"

mkdir -p "$work"
say "building with counters"
# The wrapper is a part of what cargo knows the crate by: dependencies are shared, and nothing is built twice.
RUSTC_WORKSPACE_WRAPPER=$PWD/tests/fuzz/rustc.sh cargo build --locked --features fuzz --bin fuzz
fuzz=$target/debug/fuzz
if [ "$#" -gt 0 ]; then
    targets=("$@")
else
    mapfile -t targets < <(cd tests/fuzz/corpus && ls)
fi

one() { # target
    local seeds=$PWD/tests/fuzz/corpus/$1 log=$work/$1.log
    mkdir -p "$work/$1" "$work/findings"
    if ! FUZZ_TARGET=$1 "$fuzz" -seed="$seed" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=8192 -print_final_stats=1 \
        -artifact_prefix="$work/findings/$1-" "$work/$1" "$seeds" >"$log" 2>&1; then
        grep -A 30 -m 1 -E 'panicked at|ERROR: libFuzzer' "$log" || tail -n 30 "$log"
        sed -n 's/.*Test unit written to /found: /p' "$log"
        return 1
    fi
    # Without counters it would be a blind search.
    grep -q 'INITED cov: [1-9]' "$log" || { echo "$1: no counters"; return 1; }
    printf '%-9s %s runs, %s\n' "$1" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" \
        "$(grep -oE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$log" | tail -n 1)"
}

say "fuzzing for $seconds s each, seed $seed: ${targets[*]}"
rm -f "$work/failed"
for name in "${targets[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do
        wait -n || true
    done
    { one "$name" || echo "$name" >>"$work/failed"; } &
done
wait
[ ! -e "$work/failed" ] ||
    die "an input breaks a target: mend it, and put the input into tests/fuzz/corpus/TARGET, where \`cargo test\` runs it"

if [ -n "${FUZZ_KEEP:-}" ]; then
    for name in "${targets[@]}"; do
        kept=$(mktemp -d "$work/kept.XXXXXX")
        FUZZ_TARGET=$name "$fuzz" -merge=1 -use_counters=0 -max_len=8192 "$kept" "tests/fuzz/corpus/$name" "$work/$name" 2>/dev/null
        rm -rf "tests/fuzz/corpus/$name"
        mv "$kept" "tests/fuzz/corpus/$name"
        chmod 755 "tests/fuzz/corpus/$name"
        say "$name: kept $(find "tests/fuzz/corpus/$name" -type f | wc -l) inputs"
    done
fi
