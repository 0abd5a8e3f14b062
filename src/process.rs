//! Processes of this host.

/// When a process started, in clock ticks since the boot; `None` if there is none, or only its body (proc(5),
/// `/proc/pid/stat`, fields 3 and 22).
#[must_use]
pub fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, field 2, may hold anything, parentheses too: count from the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(started)
}

/// What this thread has taken of a processor, in hundredths of a second (proc_pid_stat(5), `utime` and `stime`): how long
/// work takes by the clock is also up to what else runs.
#[cfg(test)]
pub(crate) fn processor_time() -> std::time::Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // The name before them may hold anything, also blanks and parentheses.
    let (_, numbers) = stat.rsplit_once(") ").unwrap();
    let ticks = numbers.split(' ').skip(11).take(2);
    let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    std::time::Duration::from_millis(ticks * 10)
}
