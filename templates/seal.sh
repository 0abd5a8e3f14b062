#!/bin/sh
# Makes a builder fit to become an image.
#
#   seal.sh seal     stops what writes, cleans, and arms a last cleaning for the shutdown
#   seal.sh assert   fails and names what is still there
#   seal.sh late     the last cleaning, run by systemd when everything else has stopped
#
# The list is sealed-paths, beside this file. PIAAS_ROOT is the root to work on; empty but in tests.
set -u

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 2
root=${PIAAS_ROOT-}
armed=/run/piaas-bake-seal
agent_log=/var/log/amazon

# Calls "$1 ACTION PATH" for each path that matches an entry of the list; "$2" limits it to the entries of that time.
each() {
    while IFS="$(printf '\t')" read -r when action pattern <&3; do
        case $when in '#'* | '') continue ;; esac
        [ -z "$2" ] || [ "$when" = "$2" ] || continue
        # The pattern is meant to expand, and holds no blanks.
        # shellcheck disable=SC2086
        for path in $root$pattern; do
            if [ -e "$path" ] || [ -L "$path" ]; then "$1" "$action" "$path"; fi
        done
    done 3<"$here/sealed-paths"
}

# Logs that are a piece of the past: rotated, compressed, or the journal's.
old_logs() {
    find "$1" ! -path "$root$agent_log/*" \
        \( -name '*.gz' -o -name '*.xz' -o -name '*.old' -o -name '*.[0-9]' -o -name '*-[0-9]*' \
        -o -path "$root/var/log/journal/*" \) ! -type d "$2"
}

clean() {
    case $1 in
        gone) rm -rf -- "$2" ;;
        empty)
            if [ -d "$2" ]; then
                find "$2" -xdev -mindepth 1 -delete
            else
                : >"$2"
            fi
            ;;
        tree) find "$2" -xdev ! -type d -delete ;;
        logs)
            old_logs "$2" -delete
            if [ -d "$root/var/log/journal" ]; then find "$root/var/log/journal" -mindepth 1 -delete; fi
            find "$2" ! -path "$root$agent_log/*" -type f -size +0 -exec truncate -s 0 -- {} +
            ;;
        *) echo "sealed-paths: unknown action $1" >&2 && exit 2 ;;
    esac
}

remains() {
    case $1 in
        gone) echo "$2" ;;
        empty)
            if [ -d "$2" ]; then
                find "$2" -xdev -mindepth 1
            else
                find "$2" -size +0
            fi
            ;;
        tree) find "$2" -xdev ! -type d ;;
        logs)
            old_logs "$2" -print
            find "$2" ! -path "$root$agent_log/*" -type f -size +0 -print
            ;;
        *) echo "sealed-paths: unknown action $1" ;;
    esac
}

# What would write again between the cleaning and the shutdown. Stopping changes nothing that is enabled.
quiet() {
    systemctl stop '*.timer' cron.service rsyslog.service unattended-upgrades.service 2>/dev/null
    # auditd refuses systemctl, not a signal.
    if [ -s /run/auditd.pid ]; then kill "$(cat /run/auditd.pid)"; fi
    # From here on the journal is kept in memory.
    journalctl --relinquish-var 2>/dev/null
    if command -v cloud-init >/dev/null; then cloud-init clean --logs; fi
}

# Some services write when they stop (random seed, wtmp, agent). A unit that is ordered before all of them is stopped
# after all of them; it lives in /run, so it is not in the image.
arm() {
    mkdir -p /run/systemd/system
    cat >/run/systemd/system/piaas-bake-seal.service <<UNIT
[Unit]
Description=Last cleaning of the image, after everything else has stopped
DefaultDependencies=no
RequiresMountsFor=/etc /tmp /var/tmp /var/log /var/lib
Before=sysinit.target systemd-random-seed.service systemd-update-utmp.service systemd-timesyncd.service
Conflicts=shutdown.target
Before=shutdown.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/sh $armed/seal.sh late
TimeoutStopSec=60
UNIT
    systemctl daemon-reload && systemctl start piaas-bake-seal.service
}

case ${1-} in
    seal)
        if [ -z "$root" ]; then
            mkdir -p "$armed"
            # The bundle is on the list: go on from a copy in memory.
            if [ "$here" != "$armed" ]; then
                cp "$here/seal.sh" "$here/sealed-paths" "$armed/" && exec /bin/sh "$armed/seal.sh" seal
                exit 2
            fi
            quiet
            arm || { echo "systemd does not take the unit of the last cleaning" >&2 && exit 1; }
        fi
        each clean now
        sync
        ;;
    assert)
        left=$(each remains now)
        if [ -n "$left" ]; then
            echo "$left"
            exit 1
        fi
        ;;
    late) each clean '' ;;
    *)
        echo "usage: seal.sh seal|assert|late" >&2
        exit 2
        ;;
esac
