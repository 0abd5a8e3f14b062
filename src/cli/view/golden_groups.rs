//! What people see of rolls and fleets, kept as it is: one story of events each, told to every reader.

use std::time::Duration;

use indicatif::{InMemoryTerm, MultiProgress, ProgressDrawTarget};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{fleet, roll};
use crate::cli::lines::Told;
use crate::cli::style::Style;
use crate::events::Stamped;
use crate::fleet::alarm::Alarm;
use crate::fleet::decide::{Counts, Decision, Purpose, Row as Worker};
use crate::fleet::event::{Event as FleetEvent, View as Fleet};
use crate::fleet::memory::{Log, Reply};
use crate::fleet::standing::Standing;
use crate::roll::event::{Event, Row, View};
use crate::roll::record::{Heading, Outcome, Side};
use crate::roll::step::Call;
use crate::roll::world::{Difference, Life, WorkerWord};

const OLD: &str = "ami-0123456789abcdef0";
const NEW: &str = "ami-0fedcba9876543210";
const FIRST: &str = "i-0aaaaaaaaaaaaaaa1";
const SECOND: &str = "i-0bbbbbbbbbbbbbbb2";
const THIRD: &str = "i-0ccccccccccccccc3";
const CANARY: &str = "i-0ddddddddddddddd4";

/// What happens, and how many seconds after what was before.
type Story<E> = Vec<(u64, E)>;

fn start() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn stamped<E>(story: Story<E>) -> Vec<Stamped<E>> {
    let mut at = start();
    let events = story.into_iter().map(|(after, event)| {
        at += Duration::from_secs(after);
        Stamped { at, event }
    });
    events.collect()
}

fn side(version: u64, image: &str) -> Side {
    Side {
        version,
        image: image.into(),
    }
}

/// An instance: its life, its version, the state of its worker, what it waits for.
fn row(id: &str, life: Life, version: u64, worker: Option<&str>, waits_for: &str) -> Row {
    let busy = worker == Some("busy");
    Row {
        id: id.into(),
        version: Some(version),
        image: Some(if version == 7 { OLD } else { NEW }.into()),
        life,
        protected: busy,
        worker: worker.map(|state| WorkerWord {
            state: state.into(),
            since: Some("2026-01-02T02:50:00Z".into()),
            cordoned: busy,
        }),
        there: version == 8,
        waits_for: waits_for.into(),
        until: busy.then(|| start() + SignedDuration::from_mins(70)),
    }
}

fn looked(percent: Option<u32>, canary: Option<&str>, instances: Vec<Row>) -> View {
    View {
        group: "ci-workers".into(),
        roll: "20260102T030405-1f2e3d4c".into(),
        heading: Heading::Forward,
        old: side(7, OLD),
        new: Some(side(8, NEW)),
        reason: None,
        there: instances.iter().filter(|row| row.there).count(),
        others: instances.iter().filter(|row| !row.there).count(),
        desired: 2,
        refresh: percent.map(|percent| ("r-1".into(), "InProgress".into(), percent)),
        canary: canary.map(|state| (CANARY.into(), state.into())),
        instances,
    }
}

fn waiting(reason: &str) -> Event {
    Event::Waiting {
        reason: reason.into(),
        until: start() + SignedDuration::from_hours(1),
    }
}

fn calling(call: Call) -> Event {
    Event::Calling { call }
}

/// Up to the middle of the refresh.
fn roll_begins() -> Story<Event> {
    let old = |id| row(id, Life::InService, 7, None, "the refresh to begin");
    let changed = Difference {
        field: "ImageId".into(),
        old: OLD.into(),
        new: NEW.into(),
    };
    let begun = Event::Begun {
        roll: "20260102T030405-1f2e3d4c".into(),
        group: "ci-workers".into(),
        picked_up: false,
        old: side(7, OLD),
        new_image: NEW.into(),
    };
    let busy = row(
        FIRST,
        Life::InService,
        7,
        Some("busy"),
        "its job, then its drain",
    );
    vec![
        (0, begun),
        (1, calling(Call::CreateVersion)),
        (
            1,
            Event::Difference {
                version: 8,
                fields: vec![changed],
            },
        ),
        (1, calling(Call::LaunchCanary)),
        (
            5,
            Event::Looked(looked(None, Some("running"), vec![old(FIRST), old(SECOND)])),
        ),
        (
            0,
            waiting(&format!(
                "the SSM agent of canary {CANARY} to be online; the machine is running"
            )),
        ),
        (40, calling(Call::CheckCanary(CANARY.into()))),
        (0, waiting(&format!("the checks on canary {CANARY}"))),
        (20, calling(Call::TerminateCanary(CANARY.into()))),
        (30, calling(Call::StartRefresh(side(8, NEW)))),
        (
            20,
            Event::Again {
                reason: "autoscaling DescribeInstanceRefreshes failed (Throttling): Rate exceeded"
                    .into(),
            },
        ),
        (
            10,
            Event::Looked(looked(
                Some(50),
                None,
                vec![
                    busy,
                    row(SECOND, Life::Terminating, 7, None, "its end"),
                    row(THIRD, Life::Pending, 8, None, "its boot and hooks"),
                ],
            )),
        ),
        (
            0,
            waiting("1 protected worker to be drained (busy workers are not touched)"),
        ),
    ]
}

fn roll_succeeds() -> Story<Event> {
    let done = |id| row(id, Life::InService, 8, Some("idle"), "");
    vec![
        (60, calling(Call::CheckMembers(vec![THIRD.into()]))),
        (
            600,
            Event::Looked(looked(None, None, vec![done(SECOND), done(THIRD)])),
        ),
        (1, calling(Call::PointGroup(side(8, NEW)))),
        (
            1,
            Event::Ended {
                outcome: Outcome::RolledOut,
                reason: None,
                instances: vec![done(SECOND), done(THIRD)],
                group_version: Some(8),
                left: Vec::new(),
            },
        ),
    ]
}

fn roll_goes_back() -> Story<Event> {
    let reason = format!("{THIRD} failed its checks (`systemctl is-active buildbot`): inactive");
    let busy = row(
        FIRST,
        Life::InService,
        7,
        Some("busy"),
        "its job, then its drain",
    );
    let mut back = looked(
        Some(10),
        None,
        vec![
            Row {
                there: true,
                waits_for: String::new(),
                until: None,
                ..busy
            },
            Row {
                there: false,
                ..row(THIRD, Life::InService, 8, None, "its replacement")
            },
        ],
    );
    back.heading = Heading::Back;
    back.reason = Some(reason.clone());
    back.refresh = Some(("r-1".into(), "RollbackInProgress".into(), 10));
    let old = |id| Row {
        there: true,
        ..row(id, Life::InService, 7, Some("idle"), "")
    };
    vec![
        (
            60,
            Event::TurnedBack {
                reason: reason.clone(),
            },
        ),
        (1, calling(Call::RollbackRefresh("r-1".into()))),
        (20, Event::Looked(back)),
        (0, waiting("refresh r-1 at 10 %")),
        (
            300,
            Event::Ended {
                outcome: Outcome::RolledBack,
                reason: Some(reason),
                instances: vec![old(FIRST), old(SECOND)],
                group_version: Some(7),
                left: vec![
                    "launch template version 8 (an instance still runs from it); once nothing uses it: aws ec2 \
                     delete-launch-template-versions --region eu-west-1 --launch-template-id lt-0123456789abcdef0 \
                     --versions 8"
                        .into(),
                ],
            },
        ),
    ]
}

fn worker(id: &str, standing: Standing, note: &str, until: Option<u64>) -> Worker {
    Worker {
        id: id.into(),
        version: Some(7),
        standing,
        note: note.into(),
        until: until.map(|secs| start() + Duration::from_secs(secs)),
    }
}

fn stands(after: u64, desired: u32, queued: u32, workers: Vec<Worker>) -> Fleet {
    let mut counts = Counts::default();
    for one in &workers {
        match one.standing {
            Standing::Busy { .. } => counts.busy += 1,
            Standing::Idle { .. } => counts.idle += 1,
            Standing::Booting { .. } => counts.booting += 1,
            Standing::Unknown { .. } => counts.unknown += 1,
            _ => counts.drained += 1,
        }
    }
    Fleet {
        group: "ci-workers".into(),
        at: start() + Duration::from_secs(after),
        min: 1,
        desired,
        max: 4,
        version: Some("7".into()),
        refresh: None,
        queued: Some(queued),
        unreachable: None,
        counts,
        required: 1,
        workers,
        alarms: Vec::new(),
        log: Log::default(),
    }
}

fn busy(id: &str) -> Worker {
    let standing = Standing::Busy {
        secs: Some(840),
        jobs: vec!["linux-amd64 build 1041".into()],
    };
    worker(id, standing, "", None)
}

fn silent() -> Worker {
    let standing = Standing::Unknown {
        why: "the worker agent does not answer".into(),
        since: start() + Duration::from_secs(30),
    };
    let note = "the worker agent does not answer";
    worker(SECOND, standing, note, Some(930))
}

fn alarm() -> Alarm {
    Alarm {
        about: format!("unknown {SECOND}"),
        text: format!(
            "{SECOND} has been unknown for 15 min: the worker agent does not answer. A job may run on it, so it is left for \
             you"
        ),
        way_out: Some(format!(
            "once you know that no job runs on it: aws autoscaling terminate-instance-in-auto-scaling-group \
             --region eu-west-1 --instance-id {SECOND} --no-should-decrement-desired-capacity"
        )),
    }
}

/// The fleet when a worker has been launched and another one is silent, and at the end.
fn pictures() -> [Fleet; 2] {
    let boots = Standing::Booting {
        deadline: start() + Duration::from_secs(300),
    };
    let boots = worker(THIRD, boots, "counts as capacity", Some(300));
    let middle = stands(60, 3, 2, vec![busy(FIRST), silent(), boots]);
    let idle = Standing::Idle { secs: 610 };
    let idle = worker(THIRD, idle, "is cordoned: idle for 10 min", None);
    let mut end = stands(960, 3, 0, vec![busy(FIRST), silent(), idle]);
    end.alarms.push(alarm());
    let line = format!("cordon {THIRD}: idle for 10 min, more than 10 min");
    end.log
        .push(start() + Duration::from_secs(30), "launch 1: 2 jobs wait");
    end.log.push(start() + Duration::from_secs(960), &line);
    [middle, end]
}

fn fleet_runs() -> Story<FleetEvent> {
    let [middle, end] = pictures();
    let launch = |why: &str| Decision::Launch {
        count: 2,
        token: "token".into(),
        zone: Some("eu-west-1a".into()),
        why: why.into(),
    };
    let cordon = Decision::Cordon {
        id: THIRD.into(),
        generation: 1_000_001,
        purpose: Purpose::ScaleIn,
        why: "idle for 10 min, more than 10 min".into(),
    };
    let end_it = Decision::Terminate {
        id: THIRD.into(),
        decrement: true,
        why: "it is drained".into(),
    };
    let deciding = |decision: &Decision| FleetEvent::Deciding {
        decision: decision.clone(),
    };
    let decided = |decision: Decision, reply| FleetEvent::Decided { decision, reply };
    let launched = Reply::Launched {
        ids: vec![THIRD.into()],
        errors: vec!["InsufficientInstanceCapacity: we do not have sufficient capacity".into()],
    };
    let more = launch("2 jobs wait, and all 2 workers are busy");
    vec![
        (
            0,
            FleetEvent::Begun {
                group: "ci-workers".into(),
                epoch: 4,
            },
        ),
        (
            1,
            FleetEvent::Looked(stands(1, 2, 2, vec![busy(FIRST), busy(SECOND)]).into()),
        ),
        (0, deciding(&more)),
        (2, decided(more, launched)),
        (57, FleetEvent::Looked(middle.into())),
        (
            10,
            FleetEvent::Failed {
                error: "ec2 DescribeInstances failed: no answer arrived".into(),
            },
        ),
        (890, FleetEvent::Looked(end.into())),
        (0, FleetEvent::Alarm { alarm: alarm() }),
        (0, deciding(&cordon)),
        (
            1,
            decided(cordon, Reply::Later("it took a job meanwhile".into())),
        ),
        (60, deciding(&end_it)),
        (1, decided(end_it, Reply::Done)),
        (60, FleetEvent::Gone { id: THIRD.into() }),
        (
            0,
            FleetEvent::Cleared {
                about: format!("unknown {SECOND}"),
            },
        ),
        (
            0,
            FleetEvent::Looked(stands(1082, 2, 0, vec![busy(FIRST), busy(SECOND)]).into()),
        ),
    ]
}

fn roll_on_paper(end: fn() -> Story<Event>) -> String {
    let mut before = None;
    let story = stamped([roll_begins(), end()].concat());
    let lines = story
        .iter()
        .flat_map(|one| roll::paper(one, &mut before, Style::plain()));
    lines.map(|line| line + "\n").collect()
}

fn fleet_on_paper(style: Style) -> String {
    let mut before = None;
    let story = stamped(fleet_runs());
    let lines = story
        .iter()
        .flat_map(|one| fleet::paper(one, &mut before, style));
    lines.map(|line| line + "\n").collect()
}

/// The terminal in the middle of a roll and at its end.
fn roll_on_terminal(width: u16, style: Style, end: fn() -> Story<Event>) -> String {
    let term = InMemoryTerm::new(60, width);
    let target = ProgressDrawTarget::term_like(Box::new(term.clone()));
    let mut screen = roll::Screen::on(MultiProgress::with_draw_target(target), style);
    let middle = roll_begins().len();
    let mut shown = String::new();
    let columns = usize::from(width);
    for (number, one) in stamped([roll_begins(), end()].concat())
        .into_iter()
        .enumerate()
    {
        let at = one.at;
        screen.take(one, columns);
        screen.draw(at, columns);
        if number + 1 == middle {
            shown = format!("{}\n{}\n", term.contents(), "=".repeat(columns));
        }
    }
    screen.end();
    shown + &term.contents() + "\n"
}

fn fleet_on_terminal(width: usize, style: Style) -> String {
    let pictures = pictures().map(|view| {
        let lines = fleet::lines(&view, style, view.at + SignedDuration::from_secs(5), width);
        lines.join("\n")
    });
    format!("{}\n{}\n{}\n", pictures[0], "=".repeat(width), pictures[1])
}

fn ndjson<E: Serialize>(story: Story<E>, told: impl Fn(E) -> Told) -> String {
    let lines = stamped(story).into_iter().map(|one| {
        let line = serde_json::to_string(&Told::line(one, &told)).unwrap();
        line + "\n"
    });
    lines.collect()
}

#[test]
fn without_a_terminal() {
    insta::assert_snapshot!("roll_paper_good", roll_on_paper(roll_succeeds));
    insta::assert_snapshot!("roll_paper_back", roll_on_paper(roll_goes_back));
    insta::assert_snapshot!("fleet_paper", fleet_on_paper(Style::plain()));
}

#[test]
fn on_terminals_of_many_widths() {
    for width in [40, 80, 200] {
        let told = roll_on_terminal(width, Style::rich(), roll_succeeds);
        insta::assert_snapshot!(format!("roll_terminal_{width}"), told);
        let told = roll_on_terminal(width, Style::rich(), roll_goes_back);
        insta::assert_snapshot!(format!("roll_terminal_{width}_back"), told);
        let told = fleet_on_terminal(width.into(), Style::plain());
        insta::assert_snapshot!(format!("fleet_terminal_{width}"), told);
    }
    let told = roll_on_terminal(80, Style::plain(), roll_goes_back);
    insta::assert_snapshot!("roll_terminal_80_ascii", told);
}

#[test]
fn nothing_but_ascii_where_there_is_no_utf_8() {
    for text in [
        roll_on_paper(roll_succeeds),
        roll_on_paper(roll_goes_back),
        roll_on_terminal(80, Style::plain(), roll_goes_back),
        fleet_on_paper(Style::plain()),
        fleet_on_terminal(80, Style::plain()),
    ] {
        assert!(text.is_ascii() && !text.contains('\x1b'), "{text}");
    }
}

#[test]
fn machines_read_one_object_a_line() {
    let roll = [roll_begins(), roll_goes_back()].concat();
    insta::assert_snapshot!("roll_ndjson", ndjson(roll, |event| Told::Roll { event }));
    let told = ndjson(fleet_runs(), |event| Told::Fleet { event });
    insta::assert_snapshot!("fleet_ndjson", told);
}

/// Commands stay in one line: they are there to be copied.
#[test]
fn a_picture_of_a_fleet_fits_every_width() {
    for width in 40..=200 {
        for line in fleet_on_terminal(width, Style::plain()).lines() {
            let fits = line.chars().count() <= width;
            assert!(fits || line.contains("hint:"), "{width}: {line}");
        }
    }
}
