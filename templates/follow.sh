# Waits until a log has grown past OFFSET, has ended or pauses, or WAIT seconds are over; then prints one line
# "size running|paused|ended" and, in base64, at most LIMIT bytes from OFFSET on.
log='@LOG@' offset=@OFFSET@ wait=@WAIT@ limit=@LIMIT@
left=$((wait * 20))
looks=0
while :; do
    # The end is looked at before the size: once it is there the log does not grow any more.
    state=running
    [ ! -e "$log.paused" ] || state=paused
    [ ! -e "$log.exit" ] || state=ended
    size=0
    [ ! -e "$log" ] || size=$(wc -c <"$log")
    if [ "$size" -gt "$offset" ] || [ "$state" != running ] || [ "$left" -le 0 ]; then break; fi
    looks=$((looks + 1))
    # Most scripts end at once; where one takes its time, a fifth of a second more is nothing.
    if [ "$looks" -le 10 ]; then
        left=$((left - 1))
        sleep 0.05
    else
        left=$((left - 4))
        sleep 0.2
    fi
done
echo "$((size)) $state"
[ "$size" -le "$offset" ] || tail -c +$((offset + 1)) "$log" | head -c "$limit" | base64
