#!/bin/sh
# Lets apt move some packages of a lock file: the files of the others are a source beside the archives, and apt takes no
# other version of them. Then asks apt whether what the layer installs goes together so.
#
# A line of the list: recipe, name, version, architecture. The builder becomes no image, so all of it is written where
# apt keeps its own: what steps add there counts as ever.
#
# Exit code 4: what is locked stands in the way; each line that begins with "move it too: " has a command that moves it.
set -eu
export LC_ALL=C

here=/var/cache/piaas-bake
etc=/etc/apt
cd "$here"
rm -f apt.conf
unset APT_CONFIG
cat >pinned <<'END'
@LIST@
END
mkdir -p "$etc/sources.list.d" "$etc/preferences.d"
echo "deb [trusted=yes] file:$here/debs ./" >"$etc/sources.list.d/00-piaas-bake.list"
apt-get --quiet --quiet --error-on=any \
    --option Acquire::Retries=5 --option DPkg::Lock::Timeout=300 update

# What a step installs from an archive of its own is not known yet: it is free then, too.
set --
while read -r name; do
    if apt-cache policy -- "$name" | grep -q '^  Candidate: [^(]'; then set -- "$@" "$name"; fi
done <<'END'
@MOVED@
END
set -- "$@" @ASKED@

goes() {
    # Above 1000 a version is taken although a newer one is installed (apt_preferences(5)).
    awk '{ print "Package: " $2 ($4 == "all" ? "" : ":" $4) "\nPin: version " $3 "\nPin-Priority: 1001\n" }' pinned \
        >"$etc/preferences.d/00-piaas-bake"
    apt-get --quiet --simulate --no-install-recommends install -- "$@" >said 2>&1
}

# Pinned packages that apt names where it says what does not fit: those whose version is the reason, else all.
in_the_way() {
    awk '
        NR == FNR { line[$2] = $0; next }
        /unmet dependencies:$/ { on = 1; next }
        /^[^ ]/ { on = 0 }
        on {
            reason = / but [^ ]+ is (to be )?installed/
            for (i = 1; i <= NF; i++) {
                name = $i
                sub(/:.*/, "", name)
                if (name in line) { all[name]; if (reason) strict[name]; found += reason }
            }
        }
        END {
            if (found) { for (name in strict) print line[name] } else { for (name in all) print line[name] }
        }' pinned said | sort
}

: >way
until goes "$@"; do
    in_the_way >found
    if [ ! -s found ]; then
        cat said
        exit 1
    fi
    cat found >>way
    # With that free, too, there may be more.
    awk 'NR == FNR { free[$2]; next } !($2 in free)' found pinned >rest
    mv rest pinned
done
[ -s way ] || exit 0
sort -u way | awk -v recipe='@RECIPE@' -v moved='@NAMES@' '
    { names[$1] = names[$1] " " $2; print $2 " is locked at " $3 " for " $1 }
    END {
        for (other in names) if (other != recipe) print "move it too: piaas-bake lock " other " --update" names[other]
        if (recipe in names) print "move it too: piaas-bake lock " recipe " --update " moved names[recipe]
    }'
exit 4
