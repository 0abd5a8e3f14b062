//! Instance refreshes: the plan as a table; whole refreshes on scripted machines; random histories.

mod histories;
mod whole;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::super::plan::{Action, Seen, Why};
use super::super::records::{Group, Lifecycle, Member};
use super::super::tests::{group, member, noon, suspended, template};
use super::plan::{Target, plan};
use super::records::{OfProtected, OfStandby, Preferences, Refresh, Status};

fn preferences(min: usize, max: Option<usize>) -> Preferences {
    Preferences {
        min_healthy: min,
        max_healthy: max,
        warmup: 60,
        checkpoints: Vec::new(),
        checkpoint_delay: 600,
        skip_matching: true,
        auto_rollback: false,
        protected: OfProtected::Wait,
        standby: OfStandby::Wait,
        bake: 0,
    }
}

fn refresh(status: Status, preferences: Preferences) -> Refresh {
    Refresh {
        id: "refresh".into(),
        status,
        created: noon(),
        started: Some(noon()),
        ended: None,
        reason: None,
        preferences,
        desired: Some(template("2")),
        original: ["o-1", "o-2", "o-3", "o-4"].map(str::to_owned).into(),
        percent: 0,
        remaining: 0,
        rollback: None,
        surge: 0,
        reached: 0,
        reached_of: 4,
        pause: None,
        blocked: None,
        failing: None,
        updated: 0,
    }
}

/// An instance of the template's version with its number, in service long enough to be warm.
fn one(id: &str, version: &str) -> Member {
    Member {
        template: template(version),
        in_service: Some(noon() - SignedDuration::from_hours(1)),
        joined: noon() - SignedDuration::from_hours(1),
        ..member(id, Lifecycle::InService)
    }
}

fn old(number: usize) -> Member {
    one(&format!("o-{number}"), "1")
}

fn new(number: usize) -> Member {
    one(&format!("n-{number}"), "2")
}

fn cold(number: usize) -> Member {
    Member {
        in_service: Some(noon() - SignedDuration::from_secs(59)),
        ..new(number)
    }
}

fn starting(number: usize) -> Member {
    Member {
        lifecycle: Lifecycle::Pending,
        in_service: None,
        ..new(number)
    }
}

fn guarded(member: Member) -> Member {
    Member {
        protected: true,
        ..member
    }
}

fn aside(member: Member) -> Member {
    Member {
        lifecycle: Lifecycle::Standby,
        ..member
    }
}

/// What is decided: the refresh as it is then, and the other actions.
fn decided(group: &Group, after: i64) -> (Refresh, Vec<Action>) {
    let seen: BTreeMap<String, Seen> = group
        .members
        .values()
        .map(|member| {
            let starting = member.lifecycle == Lifecycle::Pending;
            let seen = if starting {
                Seen::Starting
            } else {
                Seen::Running
            };
            (member.instance_id.clone(), seen)
        })
        .collect();
    let refresh = group.refresh().unwrap();
    let back = refresh.status == Status::RollbackInProgress;
    let target = Target {
        id: "lt-1".into(),
        version: if back { "1" } else { "2" }.into(),
    };
    let now = noon() + SignedDuration::from_secs(after);
    let mut actions = plan(group, refresh, &seen, Some(&target), now);
    match actions.first() {
        Some(Action::Refresh(next)) => {
            let next = (**next).clone();
            actions.remove(0);
            (next, actions)
        }
        _ => (refresh.clone(), actions),
    }
}

fn ends(ids: &[&str]) -> Vec<Action> {
    let retire = |id: &&str| Action::Retire((*id).to_owned(), Why::Refresh);
    ids.iter().map(retire).collect()
}

#[test]
fn bounds_are_rounded_for_the_safe_side_and_leave_room_for_one() {
    // Desired, minimum, maximum: least in service, most at once.
    let cases = [
        ((10, 90, None), (9, 10)),
        ((10, 90, Some(120)), (9, 12)),
        ((100, 90, Some(120)), (90, 120)),
        // Launch before terminate.
        ((4, 100, Some(125)), (4, 5)),
        ((2, 100, Some(110)), (2, 3)),
        ((1, 100, Some(200)), (1, 2)),
        // Both bounds in one place: one more for a while.
        ((4, 100, Some(100)), (4, 5)),
        ((2, 90, Some(100)), (2, 3)),
        ((4, 100, None), (4, 5)),
        // Without a maximum one ends in any case.
        ((1, 90, None), (0, 1)),
        ((4, 90, None), (3, 4)),
        ((4, 50, None), (2, 4)),
        ((4, 0, None), (0, 4)),
        ((0, 100, Some(200)), (0, 1)),
    ];
    for ((desired, min, max), expected) in cases {
        let found = preferences(min, max).bounds(desired);
        assert_eq!(found, expected, "{desired}, {min}, {max:?}");
    }
}

#[test]
fn a_situation_has_its_actions() {
    let launch = |count| vec![Action::Replace(count)];
    let first = |max| preferences(100, Some(max));
    let cases = [
        (
            "one more is launched before one ends",
            first(125),
            vec![old(1), old(2), old(3), old(4)],
            0,
            launch(1),
        ),
        (
            "as many as the maximum lets",
            first(150),
            vec![old(1), old(2), old(3), old(4)],
            0,
            launch(2),
        ),
        (
            "nothing ends while the new one starts",
            first(125),
            vec![old(1), old(2), old(3), old(4), starting(1)],
            1,
            vec![],
        ),
        (
            "nor while it warms up",
            first(125),
            vec![old(1), old(2), old(3), old(4), cold(1)],
            1,
            vec![],
        ),
        (
            "then one ends, and the next is launched",
            first(125),
            vec![old(1), old(2), old(3), old(4), new(1)],
            1,
            [ends(&["o-1"]), launch(1)].concat(),
        ),
        (
            "without a maximum one ends while its successor starts",
            preferences(90, None),
            vec![old(1), old(2), old(3), old(4)],
            0,
            [ends(&["o-1"]), launch(1)].concat(),
        ),
        (
            "as many as the minimum spares",
            preferences(50, None),
            vec![old(1), old(2), old(3), old(4)],
            0,
            [ends(&["o-1", "o-2"]), launch(2)].concat(),
        ),
        (
            "all at once",
            preferences(0, None),
            vec![old(1), old(2), old(3), old(4)],
            0,
            [ends(&["o-1", "o-2", "o-3", "o-4"]), launch(4)].concat(),
        ),
        (
            "both: some end, and more start than ended",
            preferences(75, Some(125)),
            vec![old(1), old(2), old(3), old(4)],
            0,
            [ends(&["o-1"]), launch(2)].concat(),
        ),
        (
            "what does not serve costs nothing and goes first",
            preferences(100, Some(125)),
            vec![
                old(1),
                old(2),
                old(3),
                Member {
                    healthy: false,
                    ..old(4)
                },
            ],
            0,
            // Its successor, and one that is launched first.
            [ends(&["o-4"]), launch(2)].concat(),
        ),
        (
            "protected instances get no successor before they may go",
            first(150),
            vec![guarded(old(1)), guarded(old(2)), guarded(old(3)), old(4)],
            0,
            launch(1),
        ),
        (
            "and nothing ends them",
            preferences(0, None),
            vec![guarded(old(1)), guarded(old(2)), guarded(old(3)), old(4)],
            0,
            [ends(&["o-4"]), launch(1)].concat(),
        ),
        (
            "unless they are to be refreshed",
            Preferences {
                protected: OfProtected::Refresh,
                ..preferences(50, None)
            },
            vec![guarded(old(1)), guarded(old(2)), guarded(old(3)), old(4)],
            0,
            [ends(&["o-1", "o-2"]), launch(2)].concat(),
        ),
        (
            "instances in standby are ended where they are to be",
            Preferences {
                standby: OfStandby::Terminate,
                ..first(125)
            },
            vec![
                new(1),
                new(2),
                new(3),
                new(4),
                aside(old(1)),
                guarded(aside(old(2))),
            ],
            0,
            ends(&["o-1"]),
        ),
    ];
    for (what, preferences, members, surge, expected) in cases {
        let mut group = group(4, members);
        let mut refresh = refresh(Status::InProgress, preferences);
        refresh.surge = surge;
        group.refreshes.push(refresh);
        let (next, actions) = decided(&group, 0);
        assert_eq!(actions, expected, "{what}");
        assert_eq!(next.status, Status::InProgress, "{what}");
    }
}

#[test]
fn its_end_and_its_progress() {
    let all = |make: fn(usize) -> Member| (1..5).map(make).collect::<Vec<_>>();
    let ignoring = Preferences {
        protected: OfProtected::Ignore,
        standby: OfStandby::Ignore,
        ..preferences(100, Some(125))
    };
    let plain = || preferences(100, Some(125));
    let baking = || Preferences {
        bake: 300,
        ..plain()
    };
    let partial = || Preferences {
        checkpoints: vec![10, 50],
        ..plain()
    };
    // Members, what is asked: status, percent, instances to update.
    let cases = [
        (all(new), plain(), (Status::Successful, 100, 0)),
        (all(new), baking(), (Status::Baking, 100, 0)),
        (
            vec![new(1), new(2), new(3), cold(4)],
            plain(),
            (Status::InProgress, 75, 1),
        ),
        (
            vec![new(1), new(2), new(3), guarded(old(4))],
            plain(),
            (Status::InProgress, 75, 1),
        ),
        (
            vec![new(1), new(2), new(3), guarded(old(4))],
            ignoring.clone(),
            (Status::Successful, 100, 0),
        ),
        (
            vec![new(1), new(2), new(3), new(4), aside(old(1))],
            plain(),
            (Status::InProgress, 80, 1),
        ),
        (
            vec![new(1), new(2), new(3), new(4), aside(old(1))],
            ignoring,
            (Status::Successful, 100, 0),
        ),
        (
            vec![new(1), new(2), old(3), old(4)],
            partial(),
            (Status::Successful, 100, 0),
        ),
        (
            vec![new(1), old(2), old(3), old(4)],
            partial(),
            (Status::InProgress, 25, 3),
        ),
    ];
    for (members, preferences, expected) in cases {
        let mut group = group(4, members);
        group
            .refreshes
            .push(refresh(Status::InProgress, preferences));
        let (next, _) = decided(&group, 0);
        let found = (next.status, next.percent, next.remaining);
        assert_eq!(found, expected, "{group:?}");
    }
}

#[test]
fn it_waits_for_an_hour_and_says_for_what() {
    let blocked = |member: Member| {
        let mut group = group(4, [new(1), new(2), new(3), member]);
        group
            .refreshes
            .push(refresh(Status::InProgress, preferences(100, Some(125))));
        group
    };
    let mut one = blocked(guarded(old(4)));
    let (next, actions) = decided(&one, 0);
    assert_eq!(actions, []);
    let reason = next.reason.as_deref();
    assert_eq!(
        reason,
        Some(
            "Waiting for remaining instances to be available. For example: o-4 is protected from scale in."
        )
    );
    assert_eq!(next.blocked, Some(noon()));
    *one.refresh_mut().unwrap() = next;
    assert_eq!(decided(&one, 3599).0.status, Status::InProgress);
    let (failed, _) = decided(&one, 3600);
    assert_eq!(failed.status, Status::Failed);
    assert!(failed.reason.unwrap().contains("protected from scale in"));
    one.refresh_mut().unwrap().preferences.auto_rollback = true;
    let (back, _) = decided(&one, 3600);
    assert_eq!(back.status, Status::RollbackInProgress);
    let rollback = back.rollback.unwrap();
    assert_eq!((rollback.percent, rollback.remaining), (75, 1));
    assert!(rollback.reason.contains("protected from scale in"));
    // Somebody takes the protection away: the hour begins anew the next time.
    one.members.get_mut("o-4").unwrap().protected = false;
    let (on, actions) = decided(&one, 3599);
    assert_eq!((on.blocked, actions), (None, vec![Action::Replace(1)]));

    let reasons = [
        (
            cold(4),
            "Waiting for instances to warm up before continuing. For example: n-4 is warming up.",
        ),
        (
            starting(4),
            "Waiting for remaining instances to be available. For example: n-4 has insufficient data to evaluate its \
             health with Amazon EC2.",
        ),
    ];
    for (member, expected) in reasons {
        let (next, _) = decided(&blocked(member), 0);
        assert_eq!(
            (next.reason.as_deref(), next.blocked),
            (Some(expected), None)
        );
    }
}

#[test]
fn suspended_processes_pause_it() {
    for process in ["InstanceRefresh", "Launch", "Terminate"] {
        let mut group = suspended(group(4, [old(1), old(2), old(3), old(4)]), process);
        group
            .refreshes
            .push(refresh(Status::InProgress, preferences(50, Some(150))));
        let (next, actions) = decided(&group, 7200);
        assert_eq!((next.status, actions), (Status::InProgress, vec![]));
        assert!(next.reason.unwrap().contains(process));
        group.refresh_mut().unwrap().status = Status::Pending;
        assert_eq!(decided(&group, 0).0.status, Status::Pending);
    }
}

#[test]
fn checkpoints_hold_it_up_and_come_again_when_the_group_grows() {
    let points = Preferences {
        checkpoints: vec![25, 50, 100],
        ..preferences(0, Some(100))
    };
    let mut one = group(4, [old(1), old(2), old(3), old(4)]);
    one.refreshes.push(refresh(Status::InProgress, points));
    // A quarter, although the minimum would let all go.
    let (_, actions) = decided(&one, 0);
    assert_eq!(actions, [ends(&["o-1"]), vec![Action::Replace(1)]].concat());
    one = Group {
        members: group(4, [new(1), old(2), old(3), old(4)]).members,
        ..one
    };
    let (paused, actions) = decided(&one, 0);
    assert_eq!((paused.reached, actions), (25, vec![]));
    assert_eq!(paused.pause, Some(noon() + SignedDuration::from_secs(600)));
    *one.refresh_mut().unwrap() = paused;
    assert_eq!(decided(&one, 599).1, []);
    let (_, actions) = decided(&one, 600);
    assert_eq!(actions, [ends(&["o-2"]), vec![Action::Replace(1)]].concat());
    // Twelve instances more than half of which are old: back below the first checkpoint.
    one.refresh_mut().unwrap().pause = None;
    one.desired = 9;
    let (grown, actions) = decided(&one, 600);
    assert_eq!((grown.reached, actions[0].clone()), (0, Action::Replace(5)));
    // Two checkpoints at one time: the later one counts.
    let mut two = group(2, [new(1), old(2)]);
    let points = Preferences {
        checkpoints: vec![10, 40, 100],
        ..preferences(50, Some(100))
    };
    two.refreshes.push(refresh(Status::InProgress, points));
    assert_eq!(decided(&two, 0).0.reached, 40);
}

#[test]
fn a_rollback_replaces_what_the_refresh_has_replaced_and_nothing_else() {
    // One of the originals had the new version before; it stays.
    let matching = one("o-1", "2");
    let mut group = group(4, [matching, old(2), new(1), new(2)]);
    let mut back = refresh(Status::InProgress, preferences(50, Some(100)));
    (back.percent, back.remaining) = (75, 1);
    back.roll_back("asked for".into(), noon());
    group.refreshes.push(back);
    let (next, actions) = decided(&group, 0);
    assert_eq!(
        actions,
        [ends(&["n-1", "n-2"]), vec![Action::Replace(2)]].concat()
    );
    assert_eq!((next.percent, next.remaining), (50, 2));
    let again = |id: &str| one(id, "1");
    group.members =
        super::super::tests::group(4, [one("o-1", "2"), old(2), again("b-1"), again("b-2")])
            .members;
    let (next, _) = decided(&group, 0);
    let found = (next.status, next.percent, next.remaining);
    assert_eq!(found, (Status::RollbackSuccessful, 0, 4));
}

#[test]
fn a_cancellation_waits_for_what_is_under_way() {
    let mut group = group(4, [old(1), old(2), old(3), old(4), starting(1)]);
    let mut cancelling = refresh(Status::Cancelling, preferences(100, Some(125)));
    cancelling.surge = 1;
    group.refreshes.push(cancelling);
    let (next, actions) = decided(&group, 0);
    assert_eq!((next.status, actions), (Status::Cancelling, vec![]));
    group.members.insert("n-1".into(), new(1));
    let (next, _) = decided(&group, 0);
    assert_eq!(next.status, Status::Cancelled);
    assert_eq!(
        next.reason.as_deref(),
        Some("Cancelled due to user request.")
    );
}

#[test]
fn a_time_in_the_future_is_no_warm_up() {
    let refresh = refresh(Status::InProgress, preferences(100, Some(125)));
    let at = |seconds| -> Timestamp { noon() + SignedDuration::from_secs(seconds) };
    assert!(!refresh.is_warm(at(1), at(0)));
    assert!(!refresh.is_warm(at(0), at(59)));
    assert!(refresh.is_warm(at(0), at(60)));
}
