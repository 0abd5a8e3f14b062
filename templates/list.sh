#!/bin/sh
# Lists the root file system of this machine, and no other, into the file @DIR@/list, packed; then prints one line
# "list BYTES SHA256 gzip|xz". It is a tar archive of these files:
#
#   head        words: how sums are written (plain|named), and what tells extended attributes (getfattr|getcap|none)
#   names       TYPE MODE UID GID SIZE MTIME LINK PATH, each ended by NUL: type and times as of find, LINK is the device and
#               the inode of a file with more than one name, else -. The target of a symbolic link follows: >TARGET NUL
#   sums        SHA-256 of the regular files, in the order of their names; plain: nothing but hex digits, named: as of
#               sha256sum --zero, for files that went away in between
#   devices     MAJOR MINOR PATH NUL, in hex
#   mounts      mountinfo, of proc(5)
#   attributes  as of what tells them
#   status      as of dpkg: name, architecture and version of each package
#   lists       NAME NUL CONTENT NUL: the paths of each package of dpkg
#
# While it works, @DIR@/count has the number of regular files, and the files @DIR@/sums.* what is done of them.
# PIAAS_ROOT is the root to list; empty but in tests.
set -eu
export LC_ALL=C
umask 077
dir='@DIR@'
rm -rf "$dir"
mkdir -p "$dir"
cd "${PIAAS_ROOT:-}/"
# What a first boot writes is there when it is over, as well as it goes.
[ -n "${PIAAS_ROOT:-}" ] || timeout 180 systemctl is-system-running --wait >/dev/null 2>&1 || :

# Fails unless all that these files complain about is a path that is not there any more.
only_gone() {
    if grep -v ': No such file or directory$' "$@" >"$dir/complaints"; then
        head -n 20 "$dir/complaints" >&2
        exit 1
    fi
}

cat /proc/self/mountinfo >"$dir/mounts"
find . -ignore_readdir_race -xdev ! -type s \
    -fprint0 "$dir/paths" \
    -printf '%y %m %U %G %s %T@ ' \( ! -type d -links +1 -printf '%D:%i' -o -printf '-' \) -printf ' %P\0' \
    \( -type l -printf '>%l\0' -o -type f -fprint0 "$dir/files" -o \( -type b -o -type c \) -fprint0 "$dir/special" -o -true \) \
    2>"$dir/errors" | sed -z 's/^\([a-z] [0-7]* [0-9]* [0-9]* [0-9]* -\{0,1\}[0-9]*\)\.[0-9]* /\1 /' >"$dir/names"
only_gone "$dir/errors"
tr -cd '\0' <"$dir/files" | wc -c >"$dir/count"

# A few at a time: what comes from a snapshot for the first time is waited for.
split -t '\0' -n l/4 "$dir/files" "$dir/part."
for part in "$dir"/part.*; do
    xargs -0 -r -n 100 sha256sum --zero -- <"$part" >"$dir/sums.${part##*.}" 2>"$dir/errors.${part##*.}" &
done
wait
only_gone "$dir"/errors.*
cat "$dir"/sums.* >"$dir/named"
sums=plain
if cut -z -c 67- "$dir/named" | cmp -s - "$dir/files"; then
    cut -z -c -64 "$dir/named" | tr -d '\0' >"$dir/sums"
else
    sums=named
    mv "$dir/named" "$dir/sums"
fi
xargs -0 -r stat --printf '%t %T %n\0' -- <"$dir/special" >"$dir/devices" 2>"$dir/errors" || only_gone "$dir/errors"

attributes=none
: >"$dir/attributes"
if command -v getfattr >/dev/null; then
    attributes=getfattr
    xargs -0 -r getfattr -h -d -m - -e hex -- <"$dir/paths" >"$dir/attributes" 2>"$dir/errors" || only_gone "$dir/errors"
elif command -v getcap >/dev/null; then
    attributes=getcap
    # It writes a line for each file.
    sed -z '/\n/d' "$dir/files" | xargs -0 -r getcap >"$dir/attributes" 2>"$dir/errors" || only_gone "$dir/errors"
fi
echo "$sums $attributes" >"$dir/head"

: >"$dir/status"
: >"$dir/lists"
if command -v dpkg-query >/dev/null && [ -e var/lib/dpkg/status ]; then
    # shellcheck disable=SC2016 # for dpkg-query, not for the shell
    dpkg-query --admindir="$PWD/var/lib/dpkg" --show --showformat \
        'Package: ${Package}\nStatus: ${Status}\nArchitecture: ${Architecture}\nVersion: ${Version}\n\n' >"$dir/status"
    for list in var/lib/dpkg/info/*.list; do
        [ -e "$list" ] || continue
        printf '%s\0' "${list##*/}"
        cat "$list"
        printf '\0'
    done >"$dir/lists"
fi

pack=gzip
if command -v xz >/dev/null; then pack=xz; fi
cd "$dir"
tar -cf all.tar head names sums devices mounts attributes status lists
case $pack in
    xz) xz -6c all.tar >list ;;
    gzip) gzip -9nc all.tar >list ;;
esac
sum=$(sha256sum <list)
rm -f all.tar named part.* sums.* names paths files
echo "list $(wc -c <list) ${sum%% *} $pack"
