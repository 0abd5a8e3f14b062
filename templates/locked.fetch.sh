#!/bin/sh
# Fetches the packages that a lock file names, checks each by its sha256, and lets apt see these and no others.
#
# A line of the list: sha256, bytes, name, version, architecture, URL. What the layers below have locked is kept: the
# archive that apt sees grows. Nothing of it is written where apt keeps its own: the runner names apt.conf to every
# script (APT_CONFIG, apt.conf(5)), and the seal removes the directory.
#
# The local cloud shows its machines the packages that its host has, by sha256; elsewhere there is nothing at that place.
set -eu

kept=/run/piaas-bake/debs
here=/var/cache/piaas-bake
mkdir -p "$here/debs" "$here/lists/partial" "$here/none"
cd "$here"
cat >list <<'END'
@LIST@
END

missing() {
    while read -r sha256 rest; do
        if [ ! -e "debs/$sha256.deb" ]; then echo "$sha256 $rest"; fi
    done <list >missing
}
missing
# Checked as it is here: what somebody has written there since is nothing to us.
rm -rf part
mkdir part
while read -r sha256 _; do
    if [ -e "$kept/$sha256.deb" ]; then echo "$kept/$sha256.deb"; fi
done <missing | xargs -r cp -t part -- || echo "not all of them can be read"
(
    cd part
    while read -r sha256 _; do
        if [ -e "$sha256.deb" ]; then echo "$sha256  $sha256.deb"; fi
    done <../missing >sums
    if [ -s sums ]; then sha256sum --check sums 2>/dev/null | sed -n 's/: OK$//p' | xargs -r mv -t ../debs --; fi
)
rm -r part
missing

if [ -s missing ]; then
    # apt's own fetcher: it knows the proxy, tries again, and fetches side by side.
    set --
    while read -r sha256 _ _ _ _ url; do
        set -- "$@" "$url" "$here/debs/$sha256.deb.part"
    done <missing
    /usr/lib/apt/apt-helper --option Acquire::Retries=5 --option APT::Sandbox::User=root \
        download-file "$@" >fetched 2>&1 || {
        cat fetched
        echo "an archive drops old versions; move the lock file with \`piaas-bake lock RECIPE --update\`"
        exit 1
    }
    # Nothing is unpacked, or read as an archive, that is not what the lock names.
    while read -r sha256 _ name version _ url; do
        if echo "$sha256  debs/$sha256.deb.part" | sha256sum --check --status; then
            mv "debs/$sha256.deb.part" "debs/$sha256.deb"
        else
            echo "$name $version is not what the lock file names: $url has another sha256"
            exit 4
        fi
    done <missing
fi

# An index of its own for each file, so that nothing is read twice; and an empty one, for a lock file without packages.
# One that this was writing when it was killed is not whole.
[ -e indexed ] || rm -f debs/*.index
rm -f indexed
: >debs/none.index
while read -r sha256 bytes _; do
    [ -e "debs/$sha256.index" ] || {
        dpkg-deb --field "debs/$sha256.deb"
        printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$sha256.deb" "$bytes" "$sha256"
    } >"debs/$sha256.index"
done <list
: >indexed
cat debs/*.index >debs/Packages

echo "deb [trusted=yes] file:$here/debs ./" >sources.list
cat >apt.conf <<END
Dir::Etc::SourceList "$here/sources.list";
Dir::Etc::SourceParts "$here/none";
Dir::State::Lists "$here/lists";
END
APT_CONFIG=$here/apt.conf apt-get --quiet --quiet update
echo "$(wc -l <list) packages are as the lock file names them, $(wc -l <missing) of them fetched"
