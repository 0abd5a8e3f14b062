#!/bin/sh
# Fails unless every package that the lock file of a layer names is installed, and in that version.
set -eu

differ=0
while read -r _ _ name version architecture _; do
    installed=$(dpkg-query --show --showformat='${db:Status-Abbrev}${Version}\n' "$name:$architecture" 2>/dev/null |
        sed -n 's/^.i *//p') || installed=
    if [ "$installed" != "$version" ]; then
        echo "$name: ${installed:-not installed}, the lock file has $version"
        differ=1
    fi
done <<'END'
@LIST@
END
[ "$differ" -eq 0 ] || exit 4
