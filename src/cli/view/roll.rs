//! The events of a roll on a screen, as plain lines, or as JSON lines.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::cli::output;
use crate::cli::style::Style;
use crate::clock::SharedClock;
use crate::roll::event::{Event, Row, Stamped, View};
use crate::roll::record::{Heading, Outcome, RollRecord};
use crate::roll::step::Call;
use crate::roll::world::Life;

/// Cells of the bar.
const BAR: usize = 24;
/// Instances that are listed before the rest is counted.
const LISTED: usize = 20;
/// Between two drawings of a live view, for the times in it.
const REDRAW: Duration = Duration::from_secs(1);

/// Shows events until the stream ends: a live view on a terminal, a line for each change elsewhere.
pub async fn show(mut events: UnboundedReceiver<Stamped>, style: Style, clock: SharedClock) {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    let live =
        std::io::stderr().is_terminal() && !dumb && std::env::var_os("PIAAS_NO_PROGRESS").is_none();
    if !live {
        let mut before = None;
        while let Some(Stamped { at, event }) = events.recv().await {
            for line in plain(&event, &mut before, style) {
                let _ = writeln!(std::io::stderr().lock(), "{} {line}", clock_time(at));
            }
        }
        return;
    }
    let mut screen = Screen::new(style);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(Stamped { at, event }) => screen.take(at, event),
                None => break,
            },
            () = tokio::time::sleep(REDRAW) => {}
        }
        screen.draw(clock.now());
    }
    screen.end();
}

fn clock_time(at: Timestamp) -> String {
    at.strftime("%H:%M:%S").to_string()
}

/// How a group stands: a head line with a bar, then one line an instance.
#[must_use]
pub fn lines(view: &View, style: Style, now: Timestamp) -> Vec<String> {
    let all = view.there + view.others;
    let filled = (view.there * BAR).checked_div(all).unwrap_or(BAR);
    let bar = format!("[{}{}]", "#".repeat(filled), "-".repeat(BAR - filled));
    let old = format!("v{} {}", view.old.version, view.old.image);
    let new = view.new.as_ref().map_or_else(
        || "a new version".to_owned(),
        |new| format!("v{} {}", new.version, new.image),
    );
    let (from, to) = match view.heading {
        Heading::Forward => (old, new),
        Heading::Back => (new, old),
    };
    let refresh = view
        .refresh
        .as_ref()
        .map(|(_, status, percent)| format!("  refresh {status} {percent} %"))
        .unwrap_or_default();
    let mut out = vec![
        format!("{}  {from} -> {to}", style.bold(&view.group)),
        format!(
            "{bar} {} of {all} there, {} to go{refresh}",
            view.there, view.others
        ),
    ];
    if let Some(reason) = &view.reason {
        out.push(format!("{} {reason}", style.error("going back:")));
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    if let Some((id, state)) = &view.canary {
        rows.push(vec![id.clone(), "canary".into(), state.clone()]);
    }
    rows.extend(
        view.instances
            .iter()
            .take(LISTED)
            .map(|row| cells(row, now)),
    );
    out.extend(output::table(&rows).lines().map(|line| format!("  {line}")));
    if let Some(more) = view.instances.len().checked_sub(LISTED).filter(|n| *n > 0) {
        out.push(format!("  and {more} more"));
    }
    out
}

fn cells(row: &Row, now: Timestamp) -> Vec<String> {
    let version = row
        .version
        .map_or_else(|| "no version".to_owned(), |version| format!("v{version}"));
    let life = match row.life {
        Life::Pending => "starting",
        Life::InService => "in service",
        Life::Standby => "standby",
        Life::Terminating => "ending",
    };
    let worker = row.worker.as_ref().map(|worker| match &worker.since {
        Some(since) => format!("{} {}", worker.state, ago(since, now)),
        None => worker.state.clone(),
    });
    let protected = row.protected.then(|| "protected".to_owned());
    let state: Vec<String> = worker.into_iter().chain(protected).collect();
    let waits = match (row.waits_for.as_str(), row.until) {
        ("", _) if row.there => "done".to_owned(),
        (what, Some(until)) => {
            format!("waits for {what}, refresh anew at {}", clock_time(until))
        }
        (what, None) => format!("waits for {what}"),
    };
    vec![
        row.id.clone(),
        version,
        life.to_owned(),
        state.join(", "),
        waits,
    ]
}

fn ago(since: &str, now: Timestamp) -> String {
    since.parse::<Timestamp>().map_or_else(
        |_| String::new(),
        |since| {
            let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
            format!("for {}", crate::cli::style::elapsed(passed))
        },
    )
}

/// How a roll ended, in a sentence.
#[must_use]
pub fn outcome(outcome: Outcome, record: &RollRecord) -> String {
    let group = &record.group;
    let reason = record
        .given_up
        .as_ref()
        .or(record.reason.as_ref())
        .map_or_else(String::new, |reason| format!(": {reason}"));
    match outcome {
        Outcome::RolledOut => format!("{group} is rolled out to {}", record.new_image),
        Outcome::RolledBack => format!("{group} is back on {}{reason}", record.old.image),
        Outcome::Halted => format!("the roll of {group} is halted{reason}"),
    }
}

fn calling(call: &Call) -> String {
    match call {
        Call::CreateVersion => "making a launch template version".into(),
        Call::LaunchCanary => "launching the canary".into(),
        Call::CheckCanary(id) => format!("checking canary {id}"),
        Call::CordonCanary(id) => format!("asking canary {id} to take no more jobs"),
        Call::TerminateCanary(id) => format!("terminating canary {id}"),
        Call::CheckMembers(ids) => format!("checking {}", ids.join(", ")),
        Call::StartRefresh(side) => format!("starting a refresh to version {}", side.version),
        Call::CancelRefresh { id, busy: true } => {
            format!("cancelling refresh {id} before busy workers time it out; the next one goes on")
        }
        Call::CancelRefresh { id, .. } => format!("cancelling refresh {id}"),
        Call::RollbackRefresh(id) => format!("rolling refresh {id} back"),
        Call::PointGroup(side) => format!("pointing the group at version {}", side.version),
        Call::DropVersion(version) => format!("deleting version {version}"),
        Call::Note(_) => String::new(),
    }
}

/// An event that is no picture, as lines for people.
fn told(event: &Event, style: Style) -> Vec<String> {
    match event {
        Event::Begun {
            roll,
            group,
            picked_up,
            old,
            new_image,
        } => {
            let verb = if *picked_up {
                "going on with"
            } else {
                "beginning"
            };
            vec![format!(
                "{verb} roll {roll} of {group}: {} (version {}) -> {new_image}",
                old.image, old.version
            )]
        }
        Event::Difference { version, fields } => fields
            .iter()
            .map(|one| {
                format!(
                    "version {version} differs in {}: {} -> {}",
                    one.field, one.old, one.new
                )
            })
            .chain(["nothing else differs".to_owned()])
            .collect(),
        Event::Calling { call } => vec![calling(call)],
        Event::TurnedBack { reason } => vec![format!("{} {reason}", style.error("going back:"))],
        Event::Ended {
            outcome,
            reason,
            instances,
            group_version,
            left,
        } => {
            let mark = match outcome {
                Outcome::RolledOut => format!("{} rolled out", style.tick()),
                Outcome::RolledBack => format!("{} rolled back", style.cross()),
                Outcome::Halted => format!("{} halted", style.cross()),
            };
            let why = reason
                .as_ref()
                .filter(|_| *outcome != Outcome::RolledOut)
                .map_or_else(String::new, |reason| format!(": {reason}"));
            let version =
                group_version.map_or_else(|| "none".to_owned(), |version| version.to_string());
            let mut lines = vec![
                format!("{mark}{why}"),
                format!("the group launches version {version}"),
            ];
            lines.extend(instances.iter().map(|row| {
                format!(
                    "  {} runs version {} and {}",
                    row.id,
                    row.version
                        .map_or_else(|| "?".to_owned(), |version| version.to_string()),
                    row.image
                        .as_deref()
                        .unwrap_or("an image that EC2 does not name")
                )
            }));
            lines.extend(left.iter().map(|what| format!("left: {what}")));
            lines
        }
        Event::Looked(_) | Event::Again { .. } | Event::Waiting { .. } => Vec::new(),
    }
}

/// An event as plain lines: of a picture, only what has changed since the one before.
fn plain(event: &Event, before: &mut Option<View>, style: Style) -> Vec<String> {
    match event {
        Event::Looked(view) => {
            let known = before.replace(view.clone());
            let old = |id: &str| {
                known
                    .as_ref()
                    .and_then(|known| known.instances.iter().find(|row| row.id == id))
            };
            let mut lines = Vec::new();
            if known.as_ref().map(|known| (known.there, known.others))
                != Some((view.there, view.others))
            {
                lines.push(format!("{} there, {} to go", view.there, view.others));
            }
            for row in &view.instances {
                let same = old(&row.id).is_some_and(|one| {
                    (one.life, one.protected, &one.waits_for)
                        == (row.life, row.protected, &row.waits_for)
                });
                if !same {
                    lines.push(format!("  {}", cells(row, Timestamp::UNIX_EPOCH).join(" ")));
                }
            }
            lines
        }
        Event::Waiting { reason, .. } => vec![format!("waiting for {reason}")],
        Event::Again { reason } => vec![format!("trying again: {reason}")],
        other => told(other, style),
    }
}

/// The picture at the bottom of a terminal, with what has happened above it.
struct Screen {
    style: Style,
    bars: MultiProgress,
    drawn: Vec<ProgressBar>,
    view: Option<View>,
    waiting: Option<String>,
}

impl Screen {
    fn new(style: Style) -> Self {
        Self {
            style,
            bars: MultiProgress::new(),
            drawn: Vec::new(),
            view: None,
            waiting: None,
        }
    }

    fn take(&mut self, at: Timestamp, event: Event) {
        match event {
            Event::Looked(view) => self.view = Some(view),
            Event::Waiting { reason, .. } => self.waiting = Some(format!("waiting for {reason}")),
            Event::Again { reason } => self.waiting = Some(format!("trying again: {reason}")),
            other => {
                self.waiting = None;
                for line in told(&other, self.style) {
                    let time = self.style.dim(&clock_time(at));
                    // A closed terminal is nobody's to tell.
                    let _ = self.bars.println(format!("{time} {line}"));
                }
            }
        }
    }

    fn draw(&mut self, now: Timestamp) {
        let Some(view) = &self.view else { return };
        let mut text = lines(view, self.style, now);
        if let Some(waiting) = &self.waiting {
            text.push(self.style.dim(waiting));
        }
        while self.drawn.len() > text.len() {
            if let Some(bar) = self.drawn.pop() {
                bar.finish_and_clear();
                self.bars.remove(&bar);
            }
        }
        while self.drawn.len() < text.len() {
            let bar = self.bars.add(ProgressBar::new_spinner());
            bar.set_style(
                ProgressStyle::with_template("{wide_msg}")
                    .expect("the template is a constant that parses"),
            );
            self.drawn.push(bar);
        }
        for (bar, line) in self.drawn.iter().zip(text) {
            bar.set_message(line);
        }
    }

    fn end(&mut self) {
        for bar in self.drawn.drain(..) {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roll::record::Side;
    use crate::roll::world::WorkerWord;

    fn row(id: &str, version: u64, there: bool) -> Row {
        Row {
            id: id.into(),
            version: Some(version),
            image: None,
            life: Life::InService,
            protected: !there,
            worker: (!there).then(|| WorkerWord {
                state: "busy".into(),
                since: Some("2026-01-01T11:48:00Z".into()),
                cordoned: false,
            }),
            there,
            waits_for: if there { "" } else { "its job, then its drain" }.into(),
            until: (!there).then(|| "2026-01-01T12:45:00Z".parse().unwrap()),
        }
    }

    fn view() -> View {
        View {
            group: "workers".into(),
            roll: "r".into(),
            heading: Heading::Forward,
            old: Side {
                version: 3,
                image: "ami-old".into(),
            },
            new: Some(Side {
                version: 4,
                image: "ami-new".into(),
            }),
            reason: None,
            there: 1,
            others: 1,
            desired: 2,
            refresh: Some(("r-1".into(), "InProgress".into(), 50)),
            canary: None,
            instances: vec![row("i-1", 4, true), row("i-2", 3, false)],
        }
    }

    #[test]
    fn a_person_sees_what_is_busy_what_it_waits_for_and_until_when() {
        let now = "2026-01-01T12:00:00Z".parse().unwrap();
        assert_eq!(
            lines(&view(), Style::plain(), now),
            [
                "workers  v3 ami-old -> v4 ami-new",
                "[############------------] 1 of 2 there, 1 to go  refresh InProgress 50 %",
                "  i-1  v4  in service                                   done",
                "  i-2  v3  in service  busy for 12 min 00 s, protected  waits for its job, then its drain, refresh anew at 12:45:00",
            ]
        );
    }

    #[test]
    fn plain_lines_tell_changes_once() {
        let mut before = None;
        let event = Event::Looked(view());
        assert_eq!(plain(&event, &mut before, Style::plain()).len(), 3);
        assert!(plain(&event, &mut before, Style::plain()).is_empty());
        let mut next = view();
        next.instances[1].protected = false;
        let lines = plain(&Event::Looked(next), &mut before, Style::plain());
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("i-2"), "{lines:?}");
    }
}
