#!/bin/sh
# Fails unless every package that the lock file of a layer names is installed, and in that version.
set -eu

# Not at the head of a pipe: what becomes of it there is nobody's concern.
there=$(dpkg-query --show --showformat='there ${db:Status-Abbrev} ${Package} ${Architecture} ${Version}\n')
{
    printf '%s\n' "$there"
    sed 's/^/locked /' <<'END'
@LIST@
END
} | awk '
    $1 == "there" { if ($2 ~ /^.i/) there[$3 ":" $4] = $5; next }
    {
        package = $4 ":" $6
        version = package in there ? there[package] : "not installed"
        # As text: 1.10 is not 1.1.
        if (version "" != $5 "") { print $4 ": " version ", the lock file has " $5; differ = 4 }
    }
    END { exit differ }'
