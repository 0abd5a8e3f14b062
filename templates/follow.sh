# Waits until a log has grown past OFFSET, has ended or pauses, or WAIT fifths of a second are over; then prints one line
# "size running|paused|ended" and, in base64, at most LIMIT bytes from OFFSET on.
log='@LOG@' offset=@OFFSET@ left=@WAIT@ limit=@LIMIT@
size() { if [ -e "$log" ]; then wc -c <"$log"; else echo 0; fi; }
while [ "$(size)" -le "$offset" ] && [ ! -e "$log.exit" ] && [ ! -e "$log.paused" ] && [ "$left" -gt 0 ]; do
    left=$((left - 1))
    sleep 0.2
done
# The end is looked at before the size: once it is there the log does not grow any more.
state=running
[ ! -e "$log.paused" ] || state=paused
[ ! -e "$log.exit" ] || state=ended
size=$(size)
echo "$((size)) $state"
[ "$size" -le "$offset" ] || tail -c +$((offset + 1)) "$log" | head -c "$limit" | base64
