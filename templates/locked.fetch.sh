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

while read -r sha256 bytes name version architecture url; do
    file=debs/$sha256.deb
    if [ -e "$file" ]; then
        continue
    fi
    # Checked as it is here: what somebody has written there since is nothing to us.
    if cp "$kept/$sha256.deb" "$file.part" 2>/dev/null &&
        echo "$sha256  $file.part" | sha256sum --check --status; then
        mv "$file.part" "$file"
    else
        echo "$sha256 $bytes $name $version $architecture $url"
    fi
done <list >missing

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
: >debs/none.index
for file in debs/*.deb; do
    [ -e "$file" ] || continue
    sha256=$(basename "$file" .deb)
    [ -e "debs/$sha256.index" ] || {
        dpkg-deb --field "$file"
        printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$sha256.deb" "$(stat -c %s "$file")" "$sha256"
    } >"debs/$sha256.index"
done
cat debs/*.index >debs/Packages

echo "deb [trusted=yes] file:$here/debs ./" >sources.list
cat >apt.conf <<END
Dir::Etc::SourceList "$here/sources.list";
Dir::Etc::SourceParts "$here/none";
Dir::State::Lists "$here/lists";
END
APT_CONFIG=$here/apt.conf apt-get --quiet --quiet update
echo "$(wc -l <list) packages are as the lock file names them, $(wc -l <missing) of them fetched"
