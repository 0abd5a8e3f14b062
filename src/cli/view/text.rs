//! Text that has to fit: cut, folded, shortened.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use jiff::Timestamp;

/// Terminals narrower than this get short names of instances.
pub const SHORT_NAMES: usize = 80;
/// The narrowest line that anything is cut to.
const NARROWEST: usize = 40;

/// Columns and rows of the terminal that this stream is, if it is one.
#[must_use]
pub fn terminal(stream: impl AsFd + IsTerminal) -> Option<(usize, usize)> {
    if !stream.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(stream).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}

/// Columns for one line of this stream; `usize::MAX` where it is no terminal.
#[must_use]
pub fn width(stream: impl AsFd + IsTerminal) -> usize {
    terminal(stream).map_or(usize::MAX, |(width, _)| width.max(NARROWEST))
}

/// The time of day, UTC.
#[must_use]
pub fn clock_time(at: Timestamp) -> String {
    at.strftime("%H:%M:%S").to_string()
}

/// How long something lasts: `40s`, `3m12s`, `2h05m`.
#[must_use]
pub fn short(secs: i64) -> String {
    match secs.max(0) {
        secs @ ..60 => format!("{secs}s"),
        secs @ 60..3600 => format!("{}m{:02}s", secs / 60, secs % 60),
        secs => format!("{}h{:02}m", secs / 3600, secs % 3600 / 60),
    }
}

/// A number of bytes in the largest unit that it has one of: `812 B`, `1.5 MiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut shown = format!("{count} B");
    for (unit, power) in units.into_iter().zip(1..) {
        let one = 1_u64 << (10 * power);
        if count >= one {
            shown = format!("{:.1} {unit}", count as f64 / one as f64);
        }
    }
    shown
}

/// The beginning of an instance id.
#[must_use]
pub fn head(id: &str) -> &str {
    id.get(..11).unwrap_or(id)
}

/// Whether instances go by the beginning of their ids on a screen this wide: what becomes of one is worth more than the
/// whole of its name, if that stays its own.
pub fn by_heads<'a>(ids: impl Iterator<Item = &'a str> + Clone, width: usize) -> bool {
    let heads: std::collections::BTreeSet<&str> = ids.clone().map(head).collect();
    width < SHORT_NAMES && heads.len() == ids.count()
}

/// The line, cut to `width` columns.
#[must_use]
pub fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    let kept: String = line.chars().take(width.saturating_sub(2)).collect();
    format!("{}..", kept.trim_end())
}

/// The first of these lines that fits, or the last one, cut.
#[must_use]
pub fn first_that_fits(lines: &[String], width: usize) -> String {
    let fits = lines.iter().find(|line| line.chars().count() <= width);
    fits.cloned()
        .unwrap_or_else(|| cut(lines.last().map_or("", String::as_str), width))
}

/// Columns of a text that may be coloured.
fn columns(text: &str) -> usize {
    let mut escaped = false;
    let shown = text.chars().filter(|one| {
        let counts = !escaped && *one != '\x1b';
        escaped = !counts && *one != 'm';
        counts
    });
    shown.count()
}

/// Lines of at most `width` columns, broken between words; those after the first are indented.
#[must_use]
pub fn folded(text: &str, indent: &str, width: usize) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let room = columns(&line) + 1 + columns(word) <= width;
        if !line.trim().is_empty() && !room {
            out.push(std::mem::replace(&mut line, indent.to_owned()));
        } else if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    out.push(line);
    out
}
