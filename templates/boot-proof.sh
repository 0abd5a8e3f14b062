#!/bin/sh
# Runs once in a virtual machine that boots an image for its proof (`piaas-bake test --vm`): says what the first boot has
# made, lists the root file system, runs the recipe's tests, and ends the machine with a chosen exit status.
#
#   sh boot-proof.sh DISK          in the directory that DISK, an archive, was unpacked to
#
# `bundle.tar.gz` is a bundle with the list `test`; where there is none, this is a boot only to see who the machine is.
# What is told while it goes on goes to the second serial line: lines `fact NAME VALUE` behind an ASCII record separator,
# and the log of the runner. The lists (`paths`, `sums/*`) are written to DISK, as an archive. `end-machine CHARACTER` ends
# the machine with that status: P all is done, F a test has failed.
set -u

disk=${1:?which disk}
line=/dev/ttyS1
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
export PATH LC_ALL
stty -F "$line" raw -echo || exit 1
exec >"$line" 2>&1

frame=$(printf '\036')
fact() { printf '%sfact %s %s\n' "$frame" "$1" "$2"; }

fact begun yes
fact state "$(timeout 600 systemctl is-system-running --wait)"
fact failed "$(systemctl list-units --state=failed --plain --no-legend | cut -d ' ' -f 1 | tr '\n' ' ')"
fact machine-id "$(cat /etc/machine-id)"
for key in /etc/ssh/ssh_host_*_key.pub; do
    [ ! -s "$key" ] || fact host-key "$(cut -d ' ' -f 1,2 "$key")"
done

if [ -e bundle.tar.gz ]; then
    # Without what is mounted over it. Sectors of a disk have 512 bytes, whatever it says.
    mkdir root sums
    mount --bind / root || exit 1
    root=$(readlink -f "/sys/dev/block/$(stat -c %Hd:%Ld root)")
    [ ! -e "$root/partition" ] || root=${root%/*}
    fact disk-bytes "$(($(cat "$root/size") * 512))"
    fact root-bytes "$(stat -f -c '%b %S' root | (read -r blocks size && echo $((blocks * size))))"
    (cd root && find . -xdev -printf '%P\0%y\0%m\0%U\0%G\0%s\0%l\0') >paths
    # shellcheck disable=SC2016 # The inner shell expands it: a file of its own for each process.
    (cd root && find . -xdev -type f -print0 |
        xargs -0 -r -n 500 -P "$(nproc)" sh -c 'exec sha256sum -z -- "$@" >"../sums/$$"' sh) || exit 1
    umount root
    fact files listed

    mkdir bundle
    tar -C bundle --no-same-owner -xzf bundle.tar.gz || exit 1
    mkdir -p bundle/log
    : >bundle/log/test
    sh bundle/runner.sh test >/dev/null 2>&1 &
    runner=$!
    tail --pid="$runner" --sleep-interval=0.2 -n +1 -f bundle/log/test
    wait "$runner"
    tests=$?
    fact tests "$tests"
    tar -cf - paths sums | dd of="$disk" bs=1M conv=fsync status=none || exit 1
else
    tests=0
fi
fact ended yes
sync
if [ "$tests" -eq 0 ]; then ./end-machine P; else ./end-machine F; fi
