# shellcheck shell=bash disable=SC2034
# Sourced by the scripts beside it: where things are, and how they speak.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
cache=${PIAAS_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/piaas-bake}
venv=$target/venv
buildbot=$target/buildbot
rival=$target/rival
bake=$target/debug/piaas-bake
mkdir -p "$target" "$cache"

say() { printf '\n== %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root and there is no sudo: $*"
    fi
}

# Installs Debian packages that are missing, and says which.
install_packages() {
    local package missing=()
    for package in "$@"; do
        [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] ||
            missing+=("$package")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "install these by hand, there is no apt-get here: ${missing[*]}"
    say "installing with apt-get: ${missing[*]}"
    as_root apt-get -q update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "${missing[@]}"
}

# Makes a Python environment from a list of pinned packages, again when the list changes.
python_environment() { # directory, requirements
    if [ -f "$1/requirements.txt" ] && cmp -s "$2" "$1/requirements.txt"; then
        return
    fi
    say "installing from PyPI into $1: $(grep -v '^#' "$2" | tr '\n' ' ')"
    rm -rf "$1"
    python3 -m venv "$1"
    "$1/bin/pip" install --quiet --disable-pip-version-check --requirement "$2"
    cp "$2" "$1/requirements.txt"
}
