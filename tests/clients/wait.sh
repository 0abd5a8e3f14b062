# What the scripts share; they read it.
# shellcheck shell=sh

wait_for() { # wait_for <what> <expected> <command…>: asks until the answer is the expected one
    what=$1 expected=$2
    shift 2
    for _ in $(seq 180); do
        answer=$("$@" 2>&1) || true
        if [ "$answer" = "$expected" ]; then return 0; fi
        sleep 0.5
    done
    echo "waited for $what to be $expected, it is: $answer" >&2
    exit 1
}
