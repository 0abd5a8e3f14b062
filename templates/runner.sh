#!/bin/sh
# Runs the scripts of a list, one after the other, and remembers which are done.
#
#   sh runner.sh LIST [SECONDS]     LIST is a file of this directory: steps, validate or test
#
# A line of a list: number TAB file TAB time-out in seconds TAB retries TAB reboot (0 or 1) TAB title.
# Output goes to log/LIST, with a frame (a line that starts with the ASCII record separator) at each beginning and end:
#   begin N ATTEMPT | end N EXIT SECONDS | skip N | retry N EXIT
# log/LIST.exit appears when the list is over, log/LIST.paused while it pauses. Standard output stays short; its last
# line is the result:
#   ok COUNT | failed N EXIT ATTEMPTS | paused N
# It pauses after a script when SECONDS have passed since it began; run again, it goes on with the next.
# Exit: 0 all done, 1 a script failed, 2 the bundle is not usable, 194 reboot and run this again (SSM's rule).
set -u

# What the shell can do itself is not worth a program each time.
case $0 in */*) CDPATH='' cd -- "${0%/*}" || exit 2 ;; esac
dir=$(pwd)
list=${1:?which list}
patience=${2-}

# Seconds since the machine began, as `now`: no clock that is set meanwhile changes what a script took (proc_uptime(5)).
look_at_the_time() {
    read -r now _ </proc/uptime
    now=${now%.*}
}
# What waits for another runner has begun as well.
look_at_the_time
began=$now
[ -r "$list" ] || { echo "no list $list in $dir"; exit 2; }

umask 022
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
HOME=/root LC_ALL=C.UTF-8 TZ=UTC DEBIAN_FRONTEND=noninteractive PIAAS_BUNDLE=$dir
# Tools that write a date write this one (https://reproducible-builds.org/specs/source-date-epoch/).
read -r SOURCE_DATE_EPOCH <source-date || exit 2
# An import of Python would write the time of its source beside it; what compiles on purpose goes by the date above.
PYTHONDONTWRITEBYTECODE=1
export PATH HOME LC_ALL TZ DEBIAN_FRONTEND PIAAS_BUNDLE SOURCE_DATE_EPOCH PYTHONDONTWRITEBYTECODE

apt_conf=/var/cache/piaas-bake/apt.conf
tab=$(printf '\t')
frame=$(printf '\036')
log=$dir/log/$list
mkdir -p "$dir/log" "$dir/done" || exit 2

# A command whose answer is lost is sent again: the second runner waits for the first, then finds its work done.
exec 9>lock && flock 9 || exit 2
[ ! -e "$log.exit" ] || rm -f "$log.exit" || exit 2
# Where a pause was, nobody is told once more of what came before.
told=0
if [ -e "$log.paused" ]; then
    read -r told <"$log.paused" || exit 2
    rm -f "$log.paused"
fi

finish() { # exit code, result
    sync
    echo "$1" >"$log.exit"
    echo "$2"
    exit "$1"
}

# A subshell of its own: what a script exports ends with it. Input is closed, so that nothing waits for a person; the
# list and the lock are closed, so that a service that a script starts does not hold them.
attempt() { # number, file, time-out
    (
        # shellcheck source=/dev/null
        . "./env/$1" || exit 125
        # What apt may see, where packages are locked (locked.fetch.sh).
        if [ -e "$apt_conf" ]; then export APT_CONFIG="$apt_conf"; fi
        cd / || exit 125
        IFS= read -r first <"$dir/scripts/$2"
        case $first in
            '#!'*) exec timeout -k 10 "$3" "$dir/scripts/$2" ;;
            *) exec timeout -k 10 "$3" /bin/sh -eu "$dir/scripts/$2" ;;
        esac
    ) </dev/null >>"$log" 2>&1 3<&- 9<&-
}

count=0
while IFS=$tab read -r number file limit retries reboot title <&3; do
    count=$((count + 1))
    if [ -e "done/$number" ]; then
        [ "$count" -le "$told" ] || echo "${frame}skip $number" >>"$log"
        continue
    fi
    tries=0
    while :; do
        tries=$((tries + 1))
        echo "${frame}begin $number $tries" >>"$log"
        look_at_the_time
        before=$now
        attempt "$number" "$file" "$limit"
        code=$?
        # A script that ends without a newline must not swallow the frame.
        [ -z "$(tail -c 1 "$log")" ] || echo >>"$log"
        if [ "$code" -eq 0 ] || [ "$tries" -gt "$retries" ]; then break; fi
        echo "${frame}retry $number $code" >>"$log"
        sleep "$tries"
    done
    look_at_the_time
    echo "${frame}end $number $code $((now - before))" >>"$log"
    if [ "$code" -ne 0 ]; then
        echo "script $number ($title) failed with exit code $code"
        finish 1 "failed $number $code $tries"
    fi
    : >"done/$number"
    if [ "$reboot" = 1 ]; then
        sync
        echo "script $number asked for a reboot"
        exit 194
    fi
    if [ -n "$patience" ] && [ $((now - began)) -ge "$patience" ]; then
        echo "$count" >"$log.paused"
        echo "paused $number"
        exit 0
    fi
done 3<"$list"
finish 0 "ok $count"
