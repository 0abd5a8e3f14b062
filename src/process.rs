//! Processes of this host.

/// When a process started, in clock ticks since the boot; `None` if there is none, or only its body (proc(5),
/// `/proc/pid/stat`, fields 3 and 22).
#[must_use]
pub fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = fields(&stat)?;
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(started)
}

/// Field 3 and those after it.
fn fields(stat: &str) -> Option<impl Iterator<Item = &str>> {
    // The name, field 2, may hold anything, parentheses too: count from the last one.
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace())
}

/// Does work that must not take this thread longer on a processor (fields 14 and 15, hundredths of a second); how long it
/// takes by the clock is also up to what else runs.
#[cfg(test)]
#[track_caller]
pub(crate) fn within<T>(limit: std::time::Duration, what: &str, work: impl FnOnce() -> T) -> T {
    let now = || {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let ticks = fields(&stat).unwrap().skip(11).take(2);
        let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        std::time::Duration::from_millis(ticks * 10)
    };
    let begin = now();
    let done = work();
    let took = now().saturating_sub(begin);
    assert!(took < limit, "{what} took {took:?}");
    done
}
