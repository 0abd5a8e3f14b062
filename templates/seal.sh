#!/bin/sh
# Makes a builder fit to become an image.
#
#   seal.sh seal     stops what writes, cleans, and arms a last cleaning for the shutdown
#   seal.sh assert   fails and names what is still there
#   seal.sh late     the last cleaning, run by systemd when everything else has stopped
#
# The table is sealed-paths, beside this file, with what the recipe adds to it: paths to remove or to empty, and `keep`
# for what is refused otherwise. So is source-date: the time, in seconds since the epoch, of what must have one.
# PIAAS_ROOT is the root to work on; empty but in tests.
set -u

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 2
root=${PIAAS_ROOT-}
armed=/run/piaas-bake-seal
agent_log=/var/log/amazon
tab=$(printf '\t')

# Calls "$1 ACTION PATH" for each path that matches an entry of the table; "$2" limits it to the entries of that time.
each() {
    while IFS=$tab read -r when action pattern _why <&3; do
        case $when in '#'* | '' | -) continue ;; esac
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

# Whether the recipe keeps a path, or a directory above it.
kept() {
    while IFS=$tab read -r _when action pattern _why <&4; do
        [ "$action" = keep ] || continue
        # shellcheck disable=SC2086
        for whole in $root$pattern; do
            case $1/ in "$whole"/*) return 0 ;; esac
        done
    done 4<"$here/sealed-paths"
    return 1
}

# Links of a directory to names that it does not have.
dangling() {
    # What a link leads to has no slash in it, so it comes first on a line whatever the link is called.
    find "$1" -maxdepth 1 -type l ! -lname '*/*' -printf '%l/%p\n' | while IFS= read -r line; do
        name=$1/${line%%/*}
        if [ ! -e "$name" ] && [ ! -L "$name" ]; then echo "${line#*/}"; fi
    done
}

# The directory of Info is a head up to its menu, then sections: a title and entries, which install-info keeps sorted,
# and a blank line. "clean" sorts the sections and "remains" prints the file if they are not. Debian's update-info-dir
# brings them out of order, and Debian has perl.
menu() { # clean|remains, file
    command -v perl >/dev/null || return 0
    perl -0777 -e '
        use strict;
        use warnings;
        my ($mode, $file) = @ARGV;
        open(my $in, "<:raw", $file) or die("$file: $!\n");
        my ($head, $menu) = <$in> =~ /\A(.*?^\* Menu:[^\n]*\n+)(.*)\z/ms or exit(0);
        my $sorted = join("\n\n", sort(split(/\n{2,}/, $menu =~ s/\A\n+|\n+\z//gr))) . "\n";
        exit(0) if $sorted eq $menu;
        if ($mode eq "remains") { print("$file\n"); exit(0) }
        # In place: owner and mode stay.
        open(my $out, ">:raw", $file) or die("$file: $!\n");
        print({$out} $head . $sorted) && close($out) or die("$file: $!\n");
    ' "$1" "$2"
}

# A keystore of Java (JKS) has the time at which each entry came into it, and ends with a SHA-1 over everything and the
# password, which is "changeit" in one that belongs to the system. "clean" sets the times and "remains" prints the file
# if one is another; of a file of another form or password nothing is known, and nothing is done.
keystore() { # clean|remains, file
    perl -e '
        use strict;
        use warnings;
        my ($mode, $date, $file) = @ARGV;
        sub put {
            my ($how, $name, $bytes) = @_;
            open(my $out, $how, $name) or die("$name: $!\n");
            print({$out} $bytes) && close($out) or die("$name: $!\n");
        }
        sub signature {
            my ($text) = @_;
            my $key = join("", map { "\0$_" } split(//, "changeit")) . "Mighty Aphrodite";
            put(">:raw", "$file.new", $key . $text);
            my ($hex) = `sha1sum <"$file.new"` =~ /^([0-9a-f]{40})/ or die("sha1sum failed\n");
            unlink("$file.new");
            return pack("H*", $hex);
        }
        open(my $in, "<:raw", $file) or die("$file: $!\n");
        my $store = do { local $/; <$in> };
        exit(0) unless length($store) >= 32 && substr($store, 0, 8) eq pack("NN", 0xfeedfeed, 2);
        my $text = substr($store, 0, -20);
        exit(0) unless substr($store, -20) eq signature($text);
        my $time = pack("Q>", $date * 1000);
        my ($at, $other) = (12, 0);
        my $skip = sub { my ($form, $size) = @_; $at += $size + unpack($form, substr($text, $at, $size)) };
        for (1 .. unpack("N", substr($text, 8, 4))) {
            my $kind = unpack("N", substr($text, $at, 4));
            $at += 4;
            $skip->("n", 2);
            $other++ if substr($text, $at, 8) ne $time;
            substr($text, $at, 8) = $time;
            $at += 8;
            my $certificates = 1;
            if ($kind == 1) {
                $skip->("N", 4);
                $certificates = unpack("N", substr($text, $at, 4));
                $at += 4;
            }
            for (1 .. $certificates) { $skip->("n", 2); $skip->("N", 4) }
        }
        die("$file: not a whole keystore\n") if $at != length($text);
        exit(0) unless $other;
        if ($mode eq "remains") { print("$file\n"); exit(0) }
        my $signed = $text . signature($text);
        # In place: owner and mode stay.
        put("+<:raw", $file, $signed);
    ' "$1" "$(cat "$here/source-date")" "$2"
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
        dangling) dangling "$2" | while IFS= read -r one; do rm -f -- "$one"; done ;;
        sorted) LC_ALL=C sort -o "$2" -- "$2" ;;
        menu) menu clean "$2" ;;
        keystore) keystore clean "$2" ;;
        refused | keep) ;;
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
        dangling) dangling "$2" ;;
        sorted) LC_ALL=C sort -c -- "$2" 2>/dev/null || echo "$2" ;;
        menu) menu remains "$2" || echo "$2" ;;
        keystore) keystore remains "$2" || echo "$2" ;;
        refused) find "$2" -xdev ! -type d | while IFS= read -r one; do kept "$one" || echo "$one"; done ;;
        keep) ;;
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
    # `cloud-init clean` would also remove scripts for each boot, which a recipe may have put there. What it calls besides
    # belongs to others, who count on it; its own traces are in the table.
    for one in /etc/cloud/clean.d/*; do
        if [ -f "$one" ] && [ -x "$one" ]; then "$one"; fi
    done
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
    # systemd reads a unit that it does not know yet; reading all units anew takes it longer than all of this.
    systemctl start piaas-bake-seal.service || {
        systemctl daemon-reload && systemctl start piaas-bake-seal.service
    }
}

case ${1-} in
    seal)
        if [ -z "$root" ]; then
            mkdir -p "$armed"
            # The bundle is on the list: go on from a copy in memory.
            if [ "$here" != "$armed" ]; then
                cp "$here/seal.sh" "$here/sealed-paths" "$here/source-date" "$armed/" && exec /bin/sh "$armed/seal.sh" seal
                exit 2
            fi
            quiet
            arm || { echo "systemd does not take the unit of the last cleaning" >&2 && exit 1; }
        fi
        each clean now
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
