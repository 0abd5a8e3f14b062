//! The events of a roll on a screen, as plain lines, or as JSON lines.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedReceiver;

use super::progress::is_live;
use super::text::{self, by_heads, clock_time, first_that_fits, folded, short};
use crate::cli::output;
use crate::cli::style::Style;
use crate::clock::SharedClock;
use crate::roll::event::{Event, Row, Stamped, View};
use crate::roll::record::{Heading, Outcome, RollRecord, Side};
use crate::roll::step::Call;
use crate::roll::world::{Life, WorkerWord};

/// Cells of the bar.
const BAR: usize = 24;
/// Instances that are listed before the rest is counted.
const LISTED: usize = 20;
/// Between two drawings of a live view, for the times in it.
const REDRAW: Duration = Duration::from_secs(1);

/// Shows events until the stream ends: a live view on a terminal, a line for each change elsewhere.
pub async fn show(mut events: UnboundedReceiver<Stamped>, style: Style, clock: SharedClock) {
    if !is_live() {
        let mut before = None;
        while let Some(event) = events.recv().await {
            for line in paper(&event, &mut before, style) {
                output::note(&line);
            }
        }
        return;
    }
    let mut screen = Screen::on(MultiProgress::new(), style);
    loop {
        let width = || text::width(std::io::stderr());
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => screen.take(event, width()),
                None => break,
            },
            () = tokio::time::sleep(REDRAW) => {}
        }
        screen.draw(clock.now(), width());
    }
    screen.end();
}

/// An event in plain lines with their time.
pub(super) fn paper(
    Stamped { at, event }: &Stamped,
    before: &mut Option<View>,
    style: Style,
) -> Vec<String> {
    let time = clock_time(*at);
    let lines = plain(event, before, style).into_iter();
    lines.map(|line| format!("{time} {line}")).collect()
}

/// A side of a roll, with its image if there is room for it.
fn side(side: Option<&Side>, with_image: bool) -> String {
    match side {
        None => "a new version".to_owned(),
        Some(side) if with_image => format!("v{} {}", side.version, side.image),
        Some(side) => format!("v{}", side.version),
    }
}

/// How a group stands, in lines of at most `width` columns: a head line, a bar, then one line an instance.
#[must_use]
pub fn lines(view: &View, style: Style, now: Timestamp, width: usize) -> Vec<String> {
    let head = |with_image: bool| {
        let (old, new) = (
            side(Some(&view.old), with_image),
            side(view.new.as_ref(), with_image),
        );
        let (from, to) = match view.heading {
            Heading::Forward => (old, new),
            Heading::Back => (new, old),
        };
        format!("{}  {from} -> {to}", view.group)
    };
    let head = first_that_fits(&[head(true), head(false)], width);
    let mut out = vec![head.replacen(&view.group, &style.bold(&view.group), 1)];

    let all = view.there + view.others;
    let bar = |cells: usize| {
        let filled = (view.there * cells).checked_div(all).unwrap_or(cells);
        let bar = format!("[{}{}]", "#".repeat(filled), "-".repeat(cells - filled));
        format!("{bar} {} of {all} there", view.there)
    };
    let refresh = |long: bool| match &view.refresh {
        Some((_, status, percent)) if long => format!("  refresh {status} {percent} %"),
        Some((_, _, percent)) => format!("  refresh {percent} %"),
        None => String::new(),
    };
    let to_go = format!("{}, {} to go", bar(BAR), view.others);
    let fitting = [to_go.clone() + &refresh(true), to_go, bar(BAR / 3)];
    out.push(first_that_fits(&fitting, width));
    if let Some(reason) = &view.reason {
        let mark = "going back:";
        let reason = folded(&format!("{mark} {reason}"), "  ", width);
        out.extend(
            reason
                .iter()
                .map(|line| line.replacen(mark, &style.error(mark), 1)),
        );
    }
    out.extend(table(view, style, now, width));
    out
}

fn table(view: &View, style: Style, now: Timestamp, width: usize) -> Vec<String> {
    let ids = view.instances.iter().map(|row| row.id.as_str());
    let short_ids = by_heads(ids, width);
    let name = |id: &str| if short_ids { text::head(id) } else { id }.to_owned();
    let mut rows: Vec<Vec<String>> = Vec::new();
    if let Some((id, state)) = &view.canary {
        let mark = style.mark("◇", "o");
        let id = format!("{mark} {}", name(id));
        rows.push(vec![id, "canary".into(), state.clone()]);
    }
    let listed: Vec<&Row> = view.instances.iter().take(LISTED).collect();
    rows.extend(listed.iter().map(|row| {
        let mut cells = cells(row, Some(now));
        cells[0] = format!("{} {}", mark(row, style), name(&row.id));
        cells
    }));
    // What is left for the last column, where the others are as wide as they are.
    let widest = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count() + 2)
            .max()
            .unwrap_or(0)
    };
    let room = width.saturating_sub((0..3).map(widest).sum());
    let first = rows.len() - listed.len();
    for (cells, row) in rows[first..].iter_mut().zip(listed) {
        cells[3] = first_that_fits(&waits(row), room);
    }
    let mut out: Vec<String> = output::table(&rows)
        .lines()
        .map(|line| text::cut(line, width))
        .collect();
    if let Some(more) = view.instances.len().checked_sub(LISTED).filter(|n| *n > 0) {
        out.push(format!("  and {more} more"));
    }
    out
}

fn mark(row: &Row, style: Style) -> &'static str {
    let busy = row
        .worker
        .as_ref()
        .is_some_and(|worker| worker.state == "busy");
    match row.life {
        Life::Pending => style.mark("↑", "+"),
        Life::Standby => style.mark("·", "."),
        Life::Terminating => style.mark("×", "x"),
        Life::InService if row.there && row.waits_for.is_empty() => style.mark("✓", "="),
        Life::InService if busy => style.mark("●", "*"),
        Life::InService => style.mark("○", "o"),
    }
}

/// Id, version, state, and what is waited for until when. Without `now`, times instead of lengths.
fn cells(row: &Row, now: Option<Timestamp>) -> Vec<String> {
    let version = row
        .version
        .map_or_else(|| "v?".to_owned(), |version| format!("v{version}"));
    let state = match (row.life, &row.worker) {
        (Life::Pending, _) => "starting".to_owned(),
        (Life::Standby, _) => "standby".to_owned(),
        (Life::Terminating, _) => "ending".to_owned(),
        (Life::InService, Some(worker)) if !row.there => {
            format!("{}{}", worker.state, since(worker, now))
        }
        (Life::InService, _) => "in service".to_owned(),
    };
    let waits = waits(row).swap_remove(0);
    vec![row.id.clone(), version, state, waits]
}

/// What a row waits for and until when: in full first, then in fewer words.
fn waits(row: &Row) -> Vec<String> {
    match (row.waits_for.as_str(), row.until) {
        ("", _) if row.there => vec!["done".to_owned()],
        ("", _) => vec![String::new()],
        (what, Some(until)) => {
            let until = format!("until {}", clock_time(until));
            vec![
                format!("waits for {what}, {until}, then a new refresh"),
                format!("waits for {what}, {until}"),
                format!("{what}, {until}"),
                until,
                what.to_owned(),
            ]
        }
        (what, None) => vec![format!("waits for {what}"), what.to_owned()],
    }
}

fn since(worker: &WorkerWord, now: Option<Timestamp>) -> String {
    let since = worker.since.as_ref().and_then(|text| text.parse().ok());
    match (since, now) {
        (Some(since), Some(now)) => format!(" {}", short(now.duration_since(since).as_secs())),
        (Some(since), None) => format!(" since {}", clock_time(since)),
        (None, _) => String::new(),
    }
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
                    "  {} runs version {} with {}",
                    row.id,
                    row.version
                        .map_or_else(|| "?".to_owned(), |version| version.to_string()),
                    row.image
                        .as_deref()
                        .unwrap_or("an image that EC2 does not name")
                )
            }));
            // A command has a line of its own: it is there to be copied.
            lines.extend(
                left.iter()
                    .flat_map(|what| match what.split_once(": aws ") {
                        Some((what, command)) => {
                            vec![format!("left: {what}:"), format!("  aws {command}")]
                        }
                        None => vec![format!("left: {what}")],
                    }),
            );
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
                let target = match view.heading {
                    Heading::Forward => view.new.as_ref(),
                    Heading::Back => Some(&view.old),
                };
                let version = target.map_or_else(
                    || "the new version".to_owned(),
                    |side| format!("version {}", side.version),
                );
                let (there, all) = (view.there, view.there + view.others);
                lines.push(format!(
                    "{there} of {all} instances on {version}, {} to go",
                    view.others
                ));
            }
            for row in &view.instances {
                let same = old(&row.id).is_some_and(|one| {
                    (one.life, one.protected, &one.waits_for)
                        == (row.life, row.protected, &row.waits_for)
                });
                if !same {
                    let mut cells = cells(row, None);
                    let waits = cells.pop().filter(|waits| !waits.is_empty());
                    let waits = waits.map_or_else(String::new, |waits| format!(": {waits}"));
                    lines.push(format!("  {}{waits}", cells.join(" ")));
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
pub(super) struct Screen {
    style: Style,
    bars: MultiProgress,
    drawn: Vec<ProgressBar>,
    view: Option<View>,
    waiting: Option<String>,
}

impl Screen {
    pub fn on(bars: MultiProgress, style: Style) -> Self {
        Self {
            style,
            bars,
            drawn: Vec::new(),
            view: None,
            waiting: None,
        }
    }

    pub fn take(&mut self, Stamped { at, event }: Stamped, width: usize) {
        match event {
            Event::Looked(view) => self.view = Some(view),
            Event::Waiting { reason, .. } => self.waiting = Some(format!("waiting for {reason}")),
            Event::Again { reason } => self.waiting = Some(format!("trying again: {reason}")),
            other => {
                self.waiting = None;
                let time = clock_time(at);
                let below = " ".repeat(time.len() + 1);
                for line in told(&other, self.style) {
                    let is_command = line.starts_with("  aws ");
                    let width = if is_command { usize::MAX } else { width };
                    for line in folded(&format!("{time} {line}"), &below, width) {
                        let line = line.replacen(&time, &self.style.dim(&time), 1);
                        // A closed terminal is nobody's to tell.
                        let _ = self.bars.println(line);
                    }
                }
            }
        }
    }

    pub fn draw(&mut self, now: Timestamp, width: usize) {
        let Some(view) = &self.view else { return };
        let mut text = lines(view, self.style, now, width);
        if let Some(waiting) = &self.waiting {
            text.push(self.style.dim(&text::cut(waiting, width)));
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

    pub fn end(&mut self) {
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
                image: "ami-0123456789abcdef0".into(),
            },
            new: Some(Side {
                version: 4,
                image: "ami-0fedcba9876543210".into(),
            }),
            reason: None,
            there: 1,
            others: 1,
            desired: 2,
            refresh: Some(("r-1".into(), "InProgress".into(), 50)),
            canary: None,
            instances: vec![
                row("i-0aaaaaaaaaaaaaaa1", 4, true),
                row("i-0bbbbbbbbbbbbbbb2", 3, false),
            ],
        }
    }

    fn picture(width: usize) -> Vec<String> {
        let now = "2026-01-01T12:00:00Z".parse().unwrap();
        lines(&view(), Style::plain(), now, width)
    }

    #[test]
    fn a_person_sees_what_is_busy_what_it_waits_for_and_until_when() {
        assert_eq!(
            picture(120),
            [
                "workers  v3 ami-0123456789abcdef0 -> v4 ami-0fedcba9876543210",
                "[############------------] 1 of 2 there, 1 to go  refresh InProgress 50 %",
                "= i-0aaaaaaaaaaaaaaa1  v4  in service   done",
                "* i-0bbbbbbbbbbbbbbb2  v3  busy 12m00s  waits for its job, then its drain, until 12:45:00, then a new refresh",
            ]
        );
    }

    #[test]
    fn a_narrow_terminal_shows_who_is_busy_and_until_when() {
        assert_eq!(
            picture(40),
            [
                "workers  v3 -> v4",
                "[####----] 1 of 2 there",
                "= i-0aaaaaaaa  v4  in service   done",
                "* i-0bbbbbbbb  v3  busy 12m00s  its jo..",
            ]
        );
        let line =
            "* i-0bbbbbbbbbbbbbbb2  v3  busy 12m00s  its job, then its drain, until 12:45:00";
        assert_eq!(picture(80)[3], line);
        for width in 40..200 {
            for line in picture(width) {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
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
        assert!(lines[0].contains("i-0bbbbbbbbbbbbbbb2"), "{lines:?}");
    }
}
