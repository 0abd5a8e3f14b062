//! A fleet on a screen, as plain lines, or as JSON lines.

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedReceiver;

use super::text::{by_heads, clock_time, cut, first_that_fits, folded, head, short, terminal};
use crate::cli::error::CliError;
use crate::cli::output;
use crate::cli::style::Style;
use crate::fleet::decide::{Counts, Row};
use crate::fleet::event::{Event, Stamped, View, told};
use crate::fleet::memory::Reply;
use crate::fleet::standing::Standing;

/// Rows of a picture without a screen to fit in.
const LISTED: usize = 200;
/// Lines of the log in a picture.
const LOGGED: usize = 5;

/// Tells what happens, one line each, until the stream ends.
pub async fn tell(mut events: UnboundedReceiver<Stamped>, style: Style) {
    let mut before = None;
    while let Some(event) = events.recv().await {
        for line in paper(&event, &mut before, style) {
            output::note(&line);
        }
    }
}

/// An event in lines with their time.
pub(super) fn paper(
    Stamped { at, event }: &Stamped,
    before: &mut Option<Seen>,
    style: Style,
) -> Vec<String> {
    let time = style.dim(&clock_time(*at));
    let lines = event_lines(event, before, style).into_iter();
    lines.map(|line| format!("{time} {line}")).collect()
}

/// What a look has to say; the next one is told if it differs.
pub(super) type Seen = (Counts, u32, Option<u32>, Option<(String, Option<u64>)>);

/// An event in lines; of a look, only what has changed since the one before.
fn event_lines(event: &Event, before: &mut Option<Seen>, style: Style) -> Vec<String> {
    match event {
        Event::Begun { group, epoch } => vec![format!("running the fleet {group} (epoch {epoch})")],
        Event::Looked(view) => {
            let refresh = view
                .refresh
                .clone()
                .map(|(_, target)| (String::new(), target));
            let seen = (view.counts, view.desired, view.queued, refresh);
            if before.as_ref() == Some(&seen) {
                return Vec::new();
            }
            *before = Some(seen);
            vec![format!("{}; {}", size(view), summary(view))]
        }
        Event::Deciding { decision } => vec![told(decision)],
        Event::Decided { decision, reply } => match reply {
            Reply::Launched { ids, errors } => {
                let made = (!ids.is_empty()).then(|| format!("launched {}", ids.join(", ")));
                let errors = errors
                    .iter()
                    .map(|error| format!("{} not launched: {error}", style.cross()));
                made.into_iter().chain(errors).collect()
            }
            Reply::Done => Vec::new(),
            Reply::Refused(why) => {
                let what = decision.instance().unwrap_or("the launch");
                vec![format!("{} {what}: refused: {why}", style.cross())]
            }
            Reply::Later(why) | Reply::Lost(why) => {
                let what = decision.instance().unwrap_or("the launch");
                vec![format!("{what}: asked again later: {why}")]
            }
        },
        Event::Gone { id } => vec![format!("{id} is gone")],
        Event::Alarm { alarm } => {
            let mut lines = vec![format!("{} {}", style.error("alarm:"), alarm.text)];
            let way_out = alarm.way_out.as_ref();
            lines.extend(way_out.map(|way| format!("  {} {way}", style.hint("hint:"))));
            lines
        }
        Event::Cleared { about } => vec![format!("alarm over: {about}")],
        Event::Failed { error } => vec![format!("{} this look failed: {error}", style.cross())],
    }
}

/// A picture that is drawn over itself on a terminal, and appended elsewhere.
#[derive(Debug, Default)]
pub struct Screen {
    drawn: bool,
}

impl Screen {
    /// Whether there is a terminal to draw on.
    #[must_use]
    pub fn is_live(&self) -> bool {
        terminal(std::io::stdout()).is_some()
    }

    /// Draws it.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn draw(&mut self, lines: &[String]) -> Result<(), CliError> {
        let Some((_, height)) = terminal(std::io::stdout()) else {
            return output::data(&(lines.join("\n") + "\n\n"));
        };
        // The last row stays free, so that nothing scrolls.
        let shown = lines.len().min(height.saturating_sub(1));
        let first = if self.drawn {
            "\x1b[H"
        } else {
            "\x1b[2J\x1b[H"
        };
        self.drawn = true;
        let body: Vec<String> = lines[..shown]
            .iter()
            .map(|line| format!("{line}\x1b[K\n"))
            .collect();
        output::data(&format!("{first}{}\x1b[J", body.concat()))
    }
}

/// A number of workers, or of something else, in words.
fn some(count: u32, what: &str) -> Option<String> {
    (count > 0).then(|| format!("{count} {what}"))
}

fn size(view: &View) -> String {
    let workers = if view.desired == 1 {
        "worker"
    } else {
        "workers"
    };
    let (desired, min, max) = (view.desired, view.min, view.max);
    format!("{desired} {workers} (min {min}, max {max})")
}

fn summary(view: &View) -> String {
    let counts = view.counts;
    let queue = match (view.queued, &view.unreachable) {
        (Some(1), _) => "1 job waits".to_owned(),
        (Some(jobs), _) => format!("{jobs} jobs wait"),
        (None, Some(_)) => "the queue is not known".to_owned(),
        (None, None) => String::new(),
    };
    let parts = [
        Some(queue).filter(|queue| !queue.is_empty()),
        some(counts.busy, "busy"),
        some(counts.idle, "idle"),
        some(counts.booting, "booting"),
        some(counts.draining, "draining"),
        some(counts.drained, "drained"),
        some(counts.ending, "ending"),
        some(counts.unknown, "unknown"),
        some(counts.other, "out of service"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() {
        "no workers".to_owned()
    } else {
        parts.join(", ")
    }
}

/// How a fleet stands, in lines of at most `width` columns.
#[must_use]
pub fn lines(view: &View, style: Style, now: Timestamp, width: usize) -> Vec<String> {
    let version = view
        .version
        .as_ref()
        .map_or_else(String::new, |version| format!("  launches v{version}"));
    let head = format!("{}  {}", view.group, size(view));
    let head = first_that_fits(&[head.clone() + &version, head], width);
    let mut out = vec![head.replacen(&view.group, &style.bold(&view.group), 1)];
    if let Some((what, target)) = &view.refresh {
        let target = target.map_or_else(String::new, |target| format!(" to v{target}"));
        out.extend(folded(&format!("{what}{target}"), "", width));
    }
    let free = match view.required {
        0 => String::new(),
        1 => "; 1 should be free".to_owned(),
        required => format!("; {required} should be free"),
    };
    out.extend(folded(&format!("{}{free}", summary(view)), "", width));
    out.extend(table(view, style, now, width));
    for alarm in &view.alarms {
        let mut first = true;
        for line in folded(&format!("! {}", alarm.text), "  ", width) {
            out.push(if first { style.error(&line) } else { line });
            first = false;
        }
        // A command stays in one line: it is there to be copied.
        out.extend(
            alarm
                .way_out
                .iter()
                .map(|way| format!("  {} {way}", style.hint("hint:"))),
        );
    }
    let from = view.log.0.len().saturating_sub(LOGGED);
    for (at, line) in &view.log.0[from..] {
        let line = cut(&format!("{} {line}", clock_time(*at)), width);
        out.push(style.dim(&line));
    }
    out
}

/// What matters most stands first.
fn rank(standing: &Standing) -> u8 {
    match standing {
        Standing::Unknown { .. } => 0,
        Standing::Busy { .. } => 1,
        Standing::Idle { .. } => 2,
        Standing::Booting { .. } => 3,
        Standing::Draining { .. } => 4,
        Standing::Drained => 5,
        Standing::Leaving { .. } | Standing::Ending => 6,
        Standing::Standby | Standing::Unhealthy => 7,
    }
}

fn table(view: &View, style: Style, now: Timestamp, width: usize) -> Vec<String> {
    let mut rows: Vec<&Row> = view.workers.iter().collect();
    rows.sort_by_key(|row| (rank(&row.standing), row.id.clone()));
    let passed = now.duration_since(view.at).as_secs().max(0);
    let listed = match terminal(std::io::stdout()) {
        // Room for the head, the log and an alarm.
        Some((_, height)) => height.saturating_sub(12).max(5),
        None => LISTED,
    };
    let more = rows.len().saturating_sub(listed);
    // The version is in the head; it is worth a column where workers differ in it.
    let launches = view
        .version
        .as_ref()
        .and_then(|version| version.parse().ok());
    let mixed = rows.iter().any(|row| row.version != launches);
    let is_cut = by_heads(rows.iter().map(|row| row.id.as_str()), width);
    let name = |id: &str| if is_cut { head(id) } else { id }.to_owned();
    let texts: Vec<[String; 4]> = rows
        .iter()
        .take(listed)
        .map(|row| {
            let version = row
                .version
                .map_or_else(|| "v?".to_owned(), |v| format!("v{v}"));
            let version = if mixed { version } else { String::new() };
            [name(&row.id), version, state(row, passed), next(row, now)]
        })
        .collect();
    let widest = |column: usize| texts.iter().map(|row| row[column].chars().count()).max();
    let widths = [0, 1, 2].map(|column| widest(column).unwrap_or(0));
    let mut out = Vec::new();
    for (row, text) in rows.iter().zip(&texts) {
        let mut line = format!(
            "{} {:<w$}",
            mark(&row.standing, style),
            text[0],
            w = widths[0]
        );
        if mixed {
            line.push_str(&format!("  {:<w$}", text[1], w = widths[1]));
        }
        line.push_str(&format!("  {:<w$}  {}", text[2], text[3], w = widths[2]));
        let line = cut(line.trim_end(), width);
        out.push(match row.standing {
            Standing::Unknown { .. } | Standing::Unhealthy => style.error(&line),
            Standing::Busy { .. } => style.good(&line),
            Standing::Leaving { .. } | Standing::Ending => style.dim(&line),
            _ => line,
        });
    }
    if more > 0 {
        out.push(format!("  and {more} more"));
    }
    out
}

fn mark(standing: &Standing, style: Style) -> &'static str {
    let (mark, ascii) = match standing {
        Standing::Unknown { .. } | Standing::Unhealthy => ("?", "?"),
        Standing::Busy { .. } => ("●", "*"),
        Standing::Idle { .. } => ("○", "o"),
        Standing::Booting { .. } => ("↑", "+"),
        Standing::Draining { .. } | Standing::Drained => ("↓", "-"),
        Standing::Leaving { .. } | Standing::Ending => ("×", "x"),
        Standing::Standby => ("·", "."),
    };
    style.mark(mark, ascii)
}

/// State and since when; `passed` seconds ago it was seen.
fn state(row: &Row, passed: i64) -> String {
    match &row.standing {
        Standing::Booting { .. } => "booting".to_owned(),
        Standing::Busy {
            secs: Some(secs), ..
        } => format!("busy {}", short(secs + passed)),
        Standing::Busy { secs: None, .. } => "busy".to_owned(),
        Standing::Idle { secs } => format!("idle {}", short(secs + passed)),
        Standing::Draining { busy: true, .. } => "draining, busy".to_owned(),
        Standing::Draining { .. } => "draining".to_owned(),
        Standing::Drained => "drained".to_owned(),
        Standing::Unknown { .. } => "unknown".to_owned(),
        Standing::Leaving { .. } => "leaving".to_owned(),
        Standing::Ending => "ending".to_owned(),
        Standing::Standby => "standby".to_owned(),
        Standing::Unhealthy => "unhealthy".to_owned(),
    }
}

/// What becomes of it, and when.
fn next(row: &Row, now: Timestamp) -> String {
    let left = row.until.map(|until| until.duration_since(now).as_secs());
    let jobs = match &row.standing {
        Standing::Busy { jobs, .. } => jobs.join(", "),
        _ => String::new(),
    };
    let note = match (&row.standing, left) {
        (Standing::Unknown { .. }, Some(left)) if left > 0 => {
            format!("alarm in {}: {}", short(left), row.note)
        }
        (Standing::Booting { .. }, Some(left)) => format!("{} left to answer", short(left)),
        (Standing::Idle { .. } | Standing::Drained, Some(left)) if left > 0 => {
            format!("{} in {}", row.note, short(left))
        }
        (Standing::Idle { .. } | Standing::Drained, Some(_)) => format!("{} now", row.note),
        _ => row.note.clone(),
    };
    match (jobs.is_empty(), note.is_empty()) {
        (true, _) => note,
        (false, true) => jobs,
        (false, false) => format!("{jobs}; {note}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::alarm::Alarm;
    use crate::fleet::memory::Log;

    fn at(text: &str) -> Timestamp {
        format!("2026-01-01T{text}Z").parse().unwrap()
    }

    fn row(id: &str, version: u64, standing: Standing, note: &str, until: Option<&str>) -> Row {
        Row {
            id: id.into(),
            version: Some(version),
            standing,
            note: note.into(),
            until: until.map(at),
        }
    }

    fn view() -> View {
        let busy = Standing::Busy {
            secs: Some(192),
            jobs: vec!["build 42".into()],
        };
        let unknown = Standing::Unknown {
            why: "the worker agent does not answer".into(),
            since: at("11:58:00"),
        };
        View {
            group: "ci-workers".into(),
            at: at("12:00:00"),
            min: 0,
            desired: 5,
            max: 8,
            version: Some("7".into()),
            refresh: Some(("refresh r-1 InProgress 40 %".into(), Some(8))),
            queued: Some(1),
            unreachable: None,
            counts: Counts {
                busy: 1,
                idle: 1,
                booting: 1,
                drained: 1,
                unknown: 1,
                ..Counts::default()
            },
            required: 1,
            workers: vec![
                row(
                    "i-1",
                    7,
                    Standing::Idle { secs: 40 },
                    "goes",
                    Some("12:00:20"),
                ),
                row("i-2", 7, busy, "drained when its job ends", None),
                row(
                    "i-3",
                    8,
                    Standing::Booting {
                        deadline: at("12:04:00"),
                    },
                    "counts as capacity",
                    Some("12:04:00"),
                ),
                row("i-4", 7, Standing::Drained, "the refresh replaces it", None),
                row(
                    "i-5",
                    7,
                    unknown,
                    "the worker agent does not answer",
                    Some("12:13:00"),
                ),
            ],
            alarms: vec![Alarm {
                about: "maximum".into(),
                text: "3 more workers are needed, and the group is at its maximum of 8".into(),
                way_out: Some("aws autoscaling update-auto-scaling-group --max-size 11".into()),
            }],
            log: Log(vec![(
                at("11:59:30"),
                "launch 1: all 4 workers are busy".into(),
            )]),
        }
    }

    #[test]
    fn a_person_sees_what_is_busy_what_goes_why_and_until_when() {
        let lines = lines(&view(), Style::plain(), at("12:00:05"), 100);
        assert_eq!(
            lines,
            [
                "ci-workers  5 workers (min 0, max 8)  launches v7",
                "refresh r-1 InProgress 40 % to v8",
                "1 job waits, 1 busy, 1 idle, 1 booting, 1 drained, 1 unknown; 1 should be free",
                "? i-5  v7  unknown     alarm in 12m55s: the worker agent does not answer",
                "* i-2  v7  busy 3m17s  build 42; drained when its job ends",
                "o i-1  v7  idle 45s    goes in 15s",
                "+ i-3  v8  booting     3m55s left to answer",
                "- i-4  v7  drained     the refresh replaces it",
                "! 3 more workers are needed, and the group is at its maximum of 8",
                "  hint: aws autoscaling update-auto-scaling-group --max-size 11",
                "11:59:30 launch 1: all 4 workers are busy",
            ]
        );
    }

    #[test]
    fn it_fits_into_a_narrow_terminal() {
        for line in lines(&view(), Style::plain(), at("12:00:05"), 60) {
            assert!(
                line.chars().count() <= 60 || line.contains("hint:"),
                "{line}"
            );
        }
        let mut long = view();
        for (row, id) in long.workers.iter_mut().zip(["a", "b", "c", "d", "e"]) {
            row.id = format!("i-0123456789{id}cdef0{id}");
        }
        let whole = lines(&long, Style::plain(), at("12:00:05"), 60);
        assert!(
            whole.iter().any(|line| line.contains("i-0123456789b")),
            "{whole:?}"
        );
        for (row, id) in long.workers.iter_mut().zip(["a", "b", "c", "d", "e"]) {
            row.id = format!("i-0{id}23456789abcdef0");
        }
        let cut = lines(&long, Style::plain(), at("12:00:05"), 60);
        let booting = cut.iter().find(|line| line.starts_with("+ "));
        assert_eq!(
            booting.map(String::as_str),
            Some("+ i-0c2345678  v8  booting     3m55s left to answer")
        );
        assert_eq!(folded("a bb ccc", "  ", 5), ["a bb", "  ccc"]);
        assert_eq!(folded("abcdefgh", "  ", 5), ["abcdefgh"]);
    }

    #[test]
    fn lengths_are_short() {
        for (secs, text) in [
            (0, "0s"),
            (59, "59s"),
            (192, "3m12s"),
            (7500, "2h05m"),
            (-3, "0s"),
        ] {
            assert_eq!(short(secs), text);
        }
    }
}
