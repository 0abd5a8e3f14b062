#!/bin/sh
# Notes what a layer installs, for its lock file.
#
#   before   which packages are there
#   after    which were installed since, or in another version, as apt would fetch them again:
#              package SHA256 BYTES NAME VERSION ARCHITECTURE URL
#            those that no archive has, which a step installed from a file of its own or which are pinned (locked.pin.sh):
#              local NAME VERSION ARCHITECTURE
#            and the indexes that apt has read, and when their suites were released:
#              index SUITE PATH SHA256
#              released SUITE DATE
set -eu
export LC_ALL=C

when='@WHEN@'
here=/var/lib/piaas-bake-lock
mkdir -p "$here"
cd "$here"

installed() {
    dpkg-query --show --showformat='${db:Status-Abbrev}${Package} ${Version} ${Architecture}\n' |
        sed -n 's/^.i *//p' | sort
}

if [ "$when" = before ]; then
    installed >before
    exit
fi
installed >now
comm -13 before now >new
: >'@LAYER@'
[ -s new ] || exit 0
# A step may have removed the indexes to save room.
if [ -z "$(find /var/lib/apt/lists -name '*_Packages*' -print -quit)" ]; then
    apt-get --quiet --quiet --option Acquire::Retries=5 update
fi
set --
while read -r name version architecture; do
    # One for every architecture has none in its name.
    [ "$architecture" = all ] || name=$name:$architecture
    set -- "$@" "$name=$version"
done <new
# What a step installed from a file of its own is in no archive: all at once fails then, and each is asked for.
if ! apt-get download --print-uris "$@" >uris 2>errors; then
    : >uris
    for package; do apt-get download --print-uris "$package" >>uris 2>>errors || echo "$package is in no archive"; done
fi
# 'URL' FILE BYTES SHA256:HEX; the name of the file is made of the other three.
awk -v out='@LAYER@' '
    NR == FNR { uri = $1; gsub(/\047/, "", uri); sub(/^SHA256:/, "", $4); found[$2] = $4 " " $3; from[$2] = uri; next }
    {
        file = $1 "_" $2 "_" $3 ".deb"
        gsub(/:/, "%3a", file)
        if (file in found && from[file] ~ /^http/) print "package", found[file], $1, $2, $3, from[file] >out
        else print "local", $1, $2, $3 >out
    }' uris new
# shellcheck disable=SC2016 # for apt, not for the shell
apt-get indextargets --format '$(URI) $(METAKEY) $(FILENAME)' 'Created-By: Packages' |
    while read -r uri key file; do
        # The files of a suite lie side by side, named by their URLs with "_" for "/".
        release=${file%"$(echo "$key" | tr / _)"*}InRelease
        [ -r "$release" ] || continue
        sum=$(awk -v key="$key" '/^[^ ]/ { on = /^SHA256:/ } on && $3 == key { print $1 }' "$release")
        [ -z "$sum" ] || echo "index ${uri%"$key"} $key $sum"
        sed -n "s|^Date:|released ${uri%"$key"}|p" "$release"
    done >>'@LAYER@'
