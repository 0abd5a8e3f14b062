//! What people see of a bake, kept as it is: one story of events, told to every reader.

use std::time::Duration;

use indicatif::InMemoryTerm;
use jiff::Timestamp;

use super::bake::one;
use super::progress::Progress;
use crate::bake::event::{Event, List, Phase, Resource};
use crate::cli::style::Style;
use crate::clock::JumpingClock;

fn phase(phase: Phase, inside: Vec<(u64, Event)>) -> Vec<(u64, Event)> {
    let milliseconds = inside.iter().map(|(after, _)| after).sum();
    let mut all = vec![(0, Event::PhaseStarted { phase })];
    all.extend(inside);
    all.push((
        0,
        Event::PhaseFinished {
            phase,
            milliseconds,
        },
    ));
    all
}

fn begun(number: u32, title: &str, attempt: u32) -> Event {
    Event::StepStarted {
        list: List::Steps,
        number,
        total: 3,
        title: title.into(),
        attempt,
    }
}

fn ended(number: u32, title: &str, exit_code: i32, seconds: u64) -> Event {
    Event::StepFinished {
        list: List::Steps,
        number,
        title: title.into(),
        exit_code,
        seconds,
    }
}

fn output(line: &str) -> Event {
    Event::Output { line: line.into() }
}

/// What happens and how many milliseconds after what was before, up to the middle of the provisioning.
fn beginning() -> Vec<(u64, Event)> {
    let mut all = vec![(
        0,
        Event::Started {
            run: "20260102T030405-1f2e3d4c".into(),
            recipe: "ci-worker".into(),
            version: "1.4.0".into(),
            digest: "c".repeat(64),
            image_name: "ci-worker-1.4.0-cccccccccccc".into(),
            start_image: "ami-0123456789abcdef0".into(),
            cloud: "aws".into(),
            account: "123456789012".into(),
            region: "eu-west-1".into(),
            log: "/state/runs/20260102T030405-1f2e3d4c.log".into(),
        },
    )];
    let made = |kind, id: &str| Event::Created {
        kind,
        id: id.into(),
    };
    all.extend(phase(
        Phase::Launch,
        vec![
            (400, made(Resource::SecurityGroup, "sg-0123456789abcdef0")),
            (900, made(Resource::Builder, "i-0123456789abcdef0")),
        ],
    ));
    let waiting = |state: &str| Event::Waiting {
        what: "i-0123456789abcdef0".into(),
        state: state.into(),
    };
    all.extend(phase(
        Phase::Boot,
        vec![
            (1000, waiting("pending")),
            (20_000, waiting("running, agent Inactive")),
            (12_000, waiting("running, agent Online")),
        ],
    ));
    all.push((
        10,
        Event::PhaseStarted {
            phase: Phase::Provision,
        },
    ));
    all.extend([
        (0, begun(1, "Install 12 packages", 1)),
        (2000, output("Get:1 https://deb.debian.org/debian bookworm/main amd64 git amd64 1:2.39.5-0+deb12u2 [7260 kB]")),
        (9000, ended(1, "Install 12 packages", 0, 11)),
        (0, begun(2, "Fetch the tool", 1)),
        (3000, output("curl: (28) Operation timed out")),
        (0, Event::StepRetried { list: List::Steps, number: 2, title: "Fetch the tool".into(), exit_code: 28 }),
        (0, begun(2, "Fetch the tool", 2)),
        (4000, output("\u{1b}[32mgrün\u{1b}[0m\tand wide 漢字")),
    ]);
    all
}

fn rest() -> Vec<(u64, Event)> {
    let mut all = vec![
        (1000, ended(2, "Fetch the tool", 0, 5)),
        (
            0,
            Event::StepSkipped {
                list: List::Steps,
                number: 3,
                title: "Reboot into the new kernel".into(),
            },
        ),
        (
            500,
            Event::PhaseFinished {
                phase: Phase::Provision,
                milliseconds: 19_500,
            },
        ),
    ];
    let percent = |percent| Event::Snapshot {
        id: "snap-0123456789abcdef0".into(),
        percent,
    };
    all.extend(phase(
        Phase::Image,
        vec![
            (1000, percent(0)),
            (90_000, percent(40)),
            (94_000, percent(100)),
        ],
    ));
    all.push((
        0,
        Event::Note {
            text: "the packages were not noted: the list has 50000 bytes".into(),
        },
    ));
    all.push((
        0,
        Event::Done {
            image: "ami-1".into(),
            name: "ci-worker".into(),
            milliseconds: 250_000,
        },
    ));
    all
}

fn failure() -> Vec<(u64, Event)> {
    let gone = |kind, id: &str| Event::Removed {
        kind,
        id: id.into(),
    };
    vec![
        (1000, ended(2, "Fetch the tool", 28, 5)),
        (0, Event::Undoing { reason: "`Fetch the tool` (ci-worker/step-002-fetch-the-tool) ended with exit code 28 after 2 attempts".into(), kept: None }),
        (30_000, gone(Resource::Builder, "i-0123456789abcdef0")),
        (2000, Event::LeftOver {
            kind: Resource::SecurityGroup,
            id: "sg-0123456789abcdef0".into(),
            command: "aws ec2 delete-security-group --region eu-west-1 --group-id sg-0123456789abcdef0".into(),
        }),
        (0, Event::Failed { error: "exit code 28".into() }),
    ]
}

fn tell(
    progress: &mut Progress,
    clock: &JumpingClock,
    story: Vec<(u64, Event)>,
    failing: &mut bool,
) {
    for (after, event) in story {
        clock.advance(Duration::from_millis(after));
        one(progress, event, failing);
    }
}

/// The whole story on paper: a log, a file, the log of GitHub Actions.
fn paper(style: Style, grouped: bool, end: fn() -> Vec<(u64, Event)>) -> String {
    let clock = JumpingClock::starting_at(Timestamp::UNIX_EPOCH);
    let (mut progress, kept) = Progress::kept(style, clock.clone(), grouped);
    let mut failing = false;
    tell(&mut progress, &clock, beginning(), &mut failing);
    tell(&mut progress, &clock, end(), &mut failing);
    drop(progress);
    kept.lock().unwrap().clone()
}

/// The terminal in the middle of a step and at the end.
fn terminal(width: u16, style: Style, end: fn() -> Vec<(u64, Event)>) -> String {
    let clock = JumpingClock::starting_at(Timestamp::UNIX_EPOCH);
    let term = InMemoryTerm::new(40, width);
    let mut progress = Progress::on(&term, style, clock.clone());
    let mut failing = false;
    tell(&mut progress, &clock, beginning(), &mut failing);
    let middle = term.contents();
    tell(&mut progress, &clock, end(), &mut failing);
    drop(progress);
    format!(
        "{middle}\n{}\n{}\n",
        "=".repeat(usize::from(width)),
        term.contents()
    )
}

#[test]
fn without_a_terminal() {
    insta::assert_snapshot!("paper_good", paper(Style::plain(), false, rest));
    insta::assert_snapshot!("paper_failed", paper(Style::plain(), false, failure));
}

#[test]
fn in_the_log_of_github_actions() {
    insta::assert_snapshot!("github_good", paper(Style::plain(), true, rest));
    insta::assert_snapshot!("github_failed", paper(Style::plain(), true, failure));
}

#[test]
fn on_terminals_of_many_widths() {
    for width in [40, 80, 200] {
        insta::assert_snapshot!(
            format!("terminal_{width}"),
            terminal(width, Style::rich(), rest)
        );
    }
    insta::assert_snapshot!("terminal_80_failed", terminal(80, Style::rich(), failure));
    insta::assert_snapshot!("terminal_80_ascii", terminal(80, Style::plain(), rest));
}

#[test]
fn nothing_but_ascii_where_there_is_no_utf_8() {
    // The lines of the machine's output are its own.
    let own = |text: &str| {
        let lines = text.lines().filter(|line| !line.contains("wide"));
        lines.map(str::to_owned).collect::<String>()
    };
    for text in [
        paper(Style::plain(), false, rest),
        paper(Style::plain(), false, failure),
        terminal(80, Style::plain(), rest),
        terminal(80, Style::plain(), failure),
    ] {
        assert!(own(&text).is_ascii(), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }
}

#[test]
fn the_moving_part_fits_every_width() {
    for width in 40..=200 {
        let clock = JumpingClock::starting_at(Timestamp::UNIX_EPOCH);
        let term = InMemoryTerm::new(60, width);
        let mut progress = Progress::on(&term, Style::rich(), clock.clone());
        tell(&mut progress, &clock, beginning(), &mut false);
        let shown = term.contents();
        let lines: Vec<&str> = shown.lines().collect();
        // The phase, and the three lines of output so far; none of them is broken in two.
        let phase = lines
            .iter()
            .position(|line| line.contains(" provision "))
            .unwrap();
        assert_eq!(lines.len() - phase, 3, "{width}: {shown}");
    }
}
