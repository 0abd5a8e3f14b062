//! Long work on a screen: finished phases stay as lines, the running one shows its time and the last lines of its
//! output. On anything but a terminal every event is one plain line, with the time since the start.

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use jiff::Timestamp;

use crate::cli::config::variable;
use crate::cli::style::{Style, elapsed};
use crate::cli::{github, output};
use crate::clock::SharedClock;

/// How many lines of a running step's output are shown.
const TAIL: usize = 5;

/// A view of one piece of long work on stderr.
pub struct Progress {
    style: Style,
    clock: SharedClock,
    start: Timestamp,
    paper: Paper,
    screen: Option<Screen>,
    /// Phases are groups of the log of GitHub Actions.
    grouped: bool,
    /// The name of this work, where others go on beside it.
    lane: Option<String>,
    /// The small print of a work beside others in the log of GitHub Actions: a group that is written at its end, for
    /// groups cannot go on at the same time.
    gathered: Option<Vec<String>>,
}

/// The views of several pieces of work that go on at the same time: one line each, and what is to stay above them.
pub struct Lanes {
    style: Style,
    clock: SharedClock,
    start: Timestamp,
    paper: Paper,
    bars: Option<MultiProgress>,
    /// Characters in the longest name.
    width: usize,
    grouped: bool,
}

impl Lanes {
    /// Views for works of these names.
    #[must_use]
    pub fn new<'n>(style: Style, clock: SharedClock, names: impl Iterator<Item = &'n str>) -> Self {
        Self {
            style,
            start: clock.now(),
            clock,
            paper: Paper::Stderr,
            bars: is_live().then(MultiProgress::new),
            width: names.map(|name| name.chars().count()).max().unwrap_or(0),
            grouped: false,
        }
    }

    /// Views for the log of GitHub Actions: the small print of each work is a group that a reader can open.
    #[must_use]
    pub fn grouped(mut self, grouped: bool) -> Self {
        self.grouped = grouped;
        self.bars = self.bars.filter(|_| !grouped);
        self
    }

    /// The view of one of them.
    #[must_use]
    pub fn lane(&self, name: &str) -> Progress {
        Progress {
            style: self.style,
            clock: self.clock.clone(),
            start: self.start,
            paper: self.paper.clone(),
            screen: self
                .bars
                .as_ref()
                .map(|bars| Screen::new(bars.clone(), self.style, self.clock.clone())),
            grouped: false,
            lane: Some(format!("{name:<width$}", width = self.width)),
            gathered: self.grouped.then(Vec::new),
        }
    }
}

#[cfg(test)]
impl Progress {
    /// What is written on anything but a terminal, kept.
    pub fn kept(style: Style, clock: SharedClock, grouped: bool) -> (Self, Kept) {
        let kept = Kept::default();
        let mut progress = Self::plain_lines(style, clock);
        progress.grouped = grouped;
        progress.paper = Paper::Kept(kept.clone());
        (progress, kept)
    }

    /// The view on a terminal in memory, drawn at every event and at no other time.
    pub fn on(term: &indicatif::InMemoryTerm, style: Style, clock: SharedClock) -> Self {
        let target = indicatif::ProgressDrawTarget::term_like(Box::new(term.clone()));
        let bars = MultiProgress::with_draw_target(target);
        let mut screen = Screen::new(bars, style, clock.clone());
        screen.ticks = false;
        let mut progress = Self::plain_lines(style, clock);
        progress.screen = Some(screen);
        progress
    }
}

/// What a test reads.
#[cfg(test)]
pub type Kept = std::sync::Arc<std::sync::Mutex<String>>;

/// Where lines go that are not on a screen.
#[derive(Clone)]
enum Paper {
    Stderr,
    /// A test reads it.
    #[cfg(test)]
    Kept(Kept),
}

impl Paper {
    /// A line as people read it.
    fn note(&self, text: &str) {
        match self {
            Self::Stderr => output::note(text),
            #[cfg(test)]
            Self::Kept(kept) => kept.lock().unwrap().push_str(&format!("{text}\n")),
        }
    }

    /// A group with all its lines: nobody else's come between.
    fn group(&self, title: &str, lines: &str) {
        let lines = github::inert(lines);
        let group = github::group(title);
        self.command(&format!("{group}\n{lines}\n{}", github::END_GROUP));
    }

    /// A workflow command.
    fn command(&self, text: &str) {
        match self {
            Self::Stderr => output::command(text),
            #[cfg(test)]
            Self::Kept(_) => self.note(text),
        }
    }
}

/// The moving part at the bottom of a terminal.
struct Screen {
    bars: MultiProgress,
    clock: SharedClock,
    /// The marks that turn while work goes on.
    turning: &'static str,
    /// They turn by themselves, and not only when something happens.
    ticks: bool,
    phase: Option<ProgressBar>,
    lines: Vec<ProgressBar>,
    tail: VecDeque<String>,
}

impl Progress {
    /// A live view if stderr is a terminal that can move its cursor, plain lines otherwise.
    #[must_use]
    pub fn new(style: Style, clock: SharedClock) -> Self {
        let screen = is_live().then(|| Screen::new(MultiProgress::new(), style, clock.clone()));
        let mut progress = Self::plain_lines(style, clock);
        progress.screen = screen;
        progress
    }

    /// Plain lines on stderr.
    fn plain_lines(style: Style, clock: SharedClock) -> Self {
        Self {
            style,
            start: clock.now(),
            clock,
            paper: Paper::Stderr,
            screen: None,
            grouped: false,
            lane: None,
            gathered: None,
        }
    }

    /// A view for the log of GitHub Actions: each phase is a group that a reader can open.
    #[must_use]
    pub fn grouped(style: Style, clock: SharedClock) -> Self {
        let mut progress = Self::plain_lines(style, clock);
        progress.grouped = true;
        progress
    }

    /// A phase begins.
    pub fn begin(&mut self, title: &str) {
        match &mut self.screen {
            Some(screen) => screen.begin(&in_lane(self.lane.as_deref(), title)),
            None if self.grouped => self.paper.command(&github::group(title)),
            None => self.plain(title),
        }
    }

    /// What the running phase is at, such as `snapshot 40 %`.
    pub fn at(&mut self, note: &str) {
        match &mut self.screen {
            Some(screen) => screen.at(note),
            None => self.small(&format!("  {note}")),
        }
    }

    /// A script of the running phase begins.
    pub fn script(&mut self, number: u32, total: u32, title: &str, attempt: u32) {
        let again = if attempt > 1 {
            format!(" (attempt {attempt})")
        } else {
            String::new()
        };
        self.at(&format!("{number}/{total} {title}{again}"));
    }

    /// A line of the running step's output.
    pub fn output(&mut self, line: &str) {
        let line = printable(line);
        match &mut self.screen {
            // Its one line has room for the last of them.
            Some(screen) if self.lane.is_some() => screen.at(&line),
            Some(screen) => screen.output(&line),
            None => self.small(&format!("  | {line}")),
        }
    }

    /// A step of the running phase ended well; its output makes room for the next one's.
    pub fn step(&mut self, title: &str, seconds: u64) {
        let took = elapsed(Duration::from_secs(seconds));
        let line = format!("    {title} {}", self.style.dim(&format!("({took})")));
        match &mut self.screen {
            Some(_) if self.lane.is_some() => {}
            Some(screen) => {
                screen.forget_output();
                screen.keep(&line);
            }
            None => self.small(&line),
        }
    }

    /// A phase ended well.
    pub fn done(&mut self, title: &str, took: Duration) {
        if self.lane.is_some() && self.screen.is_some() {
            // What stays of a work among others is how it ended.
            return;
        }
        let line = format!(
            "{} {title} {}",
            self.style.tick(),
            self.style.dim(&format!("({})", elapsed(took)))
        );
        self.end(&line);
    }

    /// A phase failed.
    pub fn failed(&mut self, title: &str) {
        let line = format!("{} {title}", self.style.cross());
        self.end(&line);
    }

    /// The running phase is over, and there is no more to say about it.
    pub fn close(&mut self) {
        match &mut self.screen {
            Some(screen) => screen.clear(),
            None if self.grouped => self.paper.command(github::END_GROUP),
            None => {}
        }
    }

    /// A line that stays.
    pub fn note(&mut self, text: &str) {
        match &mut self.screen {
            Some(screen) => screen.keep(&in_lane(self.lane.as_deref(), text)),
            None => self.plain(text),
        }
    }

    fn end(&mut self, line: &str) {
        match &mut self.screen {
            Some(screen) => screen.end(&in_lane(self.lane.as_deref(), line)),
            None => {
                if self.grouped {
                    self.paper.command(github::END_GROUP);
                }
                self.plain(line);
            }
        }
    }

    fn plain(&self, text: &str) {
        self.paper.note(&self.timed(text));
    }

    fn timed(&self, text: &str) -> String {
        let text = in_lane(self.lane.as_deref(), text);
        let seconds = self.clock.now().duration_since(self.start).as_secs().max(0);
        format!("[{seconds:>4} s] {text}")
    }

    /// Small print: at once, or in the group at the end.
    fn small(&mut self, text: &str) {
        let line = self.timed(text);
        match &mut self.gathered {
            Some(lines) => lines.push(line),
            None => self.paper.note(&line),
        }
    }
}

/// A text behind the name of its lane.
fn in_lane(lane: Option<&str>, text: &str) -> String {
    lane.map_or_else(|| text.to_owned(), |lane| format!("{lane}  {text}"))
}

/// Whether stderr is a terminal that can move its cursor.
pub(super) fn is_live() -> bool {
    let dumb = variable("TERM").is_none_or(|term| term == "dumb");
    std::io::stderr().is_terminal() && !dumb && variable("PIAAS_NO_PROGRESS").is_none()
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(screen) = &mut self.screen {
            screen.clear();
        }
        if let Some(lines) = self.gathered.take().filter(|lines| !lines.is_empty()) {
            let name = self.lane.as_deref().unwrap_or_default().trim_end();
            self.paper.group(name, &lines.join("\n"));
        }
    }
}

impl Screen {
    fn new(bars: MultiProgress, style: Style, clock: SharedClock) -> Self {
        Self {
            bars,
            clock,
            turning: style.mark("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ", "-\\|/ "),
            ticks: true,
            phase: None,
            lines: Vec::new(),
            tail: VecDeque::new(),
        }
    }

    fn begin(&mut self, title: &str) {
        self.clear();
        let bar = self.bars.add(ProgressBar::new_spinner());
        let (clock, start) = (self.clock.clone(), self.clock.now());
        let took = move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
            let took = clock.now().duration_since(start).as_secs().max(0);
            // A bar is drawn into memory first.
            let _ = write!(out, "{took}s");
        };
        let style = template("{spinner} {prefix} {took:.dim} {wide_msg:.dim}")
            .tick_chars(self.turning)
            .with_key("took", took);
        bar.set_style(style);
        bar.set_prefix(title.to_owned());
        if self.ticks {
            bar.enable_steady_tick(Duration::from_millis(120));
        } else {
            bar.tick();
        }
        self.phase = Some(bar);
    }

    fn at(&mut self, note: &str) {
        if let Some(bar) = &self.phase {
            bar.set_message(note.to_owned());
        }
    }

    fn output(&mut self, line: &str) {
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line.to_owned());
        if self.lines.len() < self.tail.len() {
            let bar = self.bars.add(ProgressBar::new_spinner());
            bar.set_style(template("    {wide_msg:.dim}"));
            self.lines.push(bar);
        }
        for (bar, text) in self.lines.iter().zip(&self.tail) {
            bar.set_message(text.clone());
        }
    }

    fn end(&mut self, line: &str) {
        self.clear();
        self.keep(line);
    }

    /// A closed terminal is nobody's to tell.
    fn keep(&mut self, line: &str) {
        let _ = self.bars.println(line);
    }

    fn forget_output(&mut self) {
        for bar in self.lines.drain(..) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        self.tail.clear();
    }

    fn clear(&mut self) {
        for bar in self.phase.take().into_iter().chain(self.lines.drain(..)) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        self.tail.clear();
    }
}

fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).expect("the template is a constant that parses")
}

/// A line without what would move a terminal's cursor or change its colours.
fn printable(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\x1b' => {
                // A control sequence ends with its first letter (ECMA-48, 5.4).
                if chars.next_if_eq(&'[').is_some() {
                    while chars.next().is_some_and(|part| !part.is_ascii_alphabetic()) {}
                }
            }
            '\t' => out.push(' '),
            char if char.is_control() => {}
            char => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_cannot_move_the_cursor() {
        assert_eq!(printable("\x1b[31mred\x1b[0m\ta\rb\x07"), "red ab");
        assert_eq!(printable("plain é"), "plain é");
    }

    #[test]
    fn works_at_the_same_time_have_a_group_each_in_the_log_of_github_actions() {
        let clock = crate::clock::JumpingClock::starting_at(Timestamp::UNIX_EPOCH);
        let names = ["web", "tools"];
        let mut lanes = Lanes::new(Style::plain(), clock, names.into_iter()).grouped(true);
        let kept = Kept::default();
        lanes.paper = Paper::Kept(kept.clone());
        let [mut web, mut tools] = names.map(|name| lanes.lane(name));
        web.begin("provision");
        tools.begin("provision");
        web.output("one");
        tools.output("of tools");
        web.output("::error::two");
        drop(web);
        assert_eq!(
            *kept.lock().unwrap(),
            "[   0 s] web    provision\n\
             [   0 s] tools  provision\n\
             ::group::web\n\
             [   0 s] web      | one\n\
             [   0 s] web      | ::error::two\n\
             ::endgroup::\n"
        );
    }
}
