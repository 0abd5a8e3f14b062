//! Instance refreshes: the plan as a table, whole refreshes on scripted machines, and random histories.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::super::plan::{Action, Seen, Why};
use super::super::records::{Group, Lifecycle, Member};
use super::super::tests::{World, group, member, noon, suspended, template};
use super::plan::{Target, plan};
use super::records::{OfProtected, OfStandby, Preferences, Refresh, Status};
use crate::localcloud::driver::Driver as _;
use crate::localcloud::ec2;
use crate::localcloud::scripted::Launch;
use crate::localcloud::state::InstanceState;

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

impl World {
    /// A group of version 1, in service, and a version 2 of its template.
    fn with_version_2(desired: usize) -> Self {
        let mut world = Self::new(desired);
        let body = "Action=CreateLaunchTemplateVersion&LaunchTemplateName=workers&SourceVersion=1\
                    &LaunchTemplateData.InstanceType=t3.large";
        ec2::handle(&mut world.call(), body.as_bytes(), "request").unwrap();
        world.pass(10);
        world
    }

    fn start(&mut self, more: &str) -> Result<(), String> {
        self.ask(&format!(
            "StartInstanceRefresh&AutoScalingGroupName=g&DesiredConfiguration.LaunchTemplate.LaunchTemplateName=workers\
             &DesiredConfiguration.LaunchTemplate.Version=2{more}"
        ))
    }

    fn refresh(&self) -> &Refresh {
        self.group().refreshes.last().unwrap()
    }

    fn versions(&self) -> Vec<&str> {
        let members = self.group().members.values();
        let mut all: Vec<&str> = members
            .map(|member| member.template.version.as_str())
            .collect();
        all.sort_unstable();
        all
    }

    fn pass_until(&mut self, status: Status, seconds: u64) {
        for _ in 0..seconds {
            if self.refresh().status == status {
                return;
            }
            self.pass(1);
        }
        panic!("not {status:?} but {:?}", self.refresh());
    }
}

const FIRST: &str = "&Preferences.MinHealthyPercentage=100&Preferences.MaxHealthyPercentage=150\
                     &Preferences.InstanceWarmup=5&Preferences.SkipMatching=true";

#[test]
fn a_refresh_replaces_the_group_and_then_changes_its_template() {
    let mut world = World::with_version_2(4);
    world.start(FIRST).unwrap();
    let again = world.start(FIRST).unwrap_err();
    assert!(again.starts_with("InstanceRefreshInProgress"), "{again}");
    assert_eq!(world.refresh().status, Status::InProgress);
    assert_eq!(world.group().capacity(), 6);
    let update = "UpdateAutoScalingGroup&AutoScalingGroupName=g&LaunchTemplate.LaunchTemplateName=workers\
                  &LaunchTemplate.Version=2";
    let refused = world.ask(update).unwrap_err();
    assert!(refused.contains("An active instance refresh"), "{refused}");
    assert_eq!(world.group().template.version, "1");
    let mut percents = vec![0];
    while world.refresh().status == Status::InProgress {
        world.pass(1);
        let percent = world.refresh().percent;
        if percents.last() != Some(&percent) {
            percents.push(percent);
        }
    }
    assert_eq!(percents, [0, 50, 100]);
    assert_eq!(world.refresh().status, Status::Successful);
    assert_eq!(world.group().template.version, "2");
    assert_eq!(world.versions(), ["2"; 4]);
    let causes: Vec<&str> = world
        .group()
        .activities
        .iter()
        .map(|activity| activity.cause.as_str())
        .collect();
    let count = |text: &str| causes.iter().filter(|cause| cause.contains(text)).count();
    let ended = "an instance was taken out of service in response to an instance refresh.";
    let launched = "an instance was launched in response to an instance refresh";
    assert_eq!((count(ended), count(launched)), (4, 4));
    // Nothing differs any more: at once, and without a replacement.
    world.start(FIRST).unwrap();
    let refresh = world.refresh();
    assert_eq!((refresh.status, refresh.percent), (Status::Successful, 100));
    // Without skipping, every instance that was there is replaced once.
    let before = world.ids();
    world.start("&Preferences.MinHealthyPercentage=0").unwrap();
    world.pass_until(Status::Successful, 60);
    assert!(world.ids().iter().all(|id| !before.contains(id)));
}

#[test]
fn scale_outs_during_it_launch_what_it_brings_and_scale_ins_are_not_held_up() {
    let mut world = World::with_version_2(2);
    world
        .start(&format!(
            "{FIRST}&Preferences.CheckpointPercentages.member.1=50&Preferences.CheckpointPercentages.member.2=100"
        ))
        .unwrap();
    for _ in 0..30 {
        world.pass(1);
    }
    assert_eq!(world.versions(), ["1", "2"]);
    assert!(world.refresh().pause.is_some());
    world
        .ask("SetDesiredCapacity&AutoScalingGroupName=g&DesiredCapacity=4")
        .unwrap();
    assert_eq!(world.versions(), ["1", "2", "2", "2"]);
    let cause = &world.group().activities.last().unwrap().cause;
    assert!(cause.contains("a user request explicitly set"), "{cause}");
    world
        .ask("SetDesiredCapacity&AutoScalingGroupName=g&DesiredCapacity=1")
        .unwrap();
    world.pass(1);
    assert_eq!(world.group().capacity(), 1);
}

#[test]
fn new_instances_that_fail_for_an_hour_end_it_and_it_comes_back() {
    for (back, expected, versions) in [
        (false, Status::Failed, ["1"; 2]),
        (true, Status::RollbackSuccessful, ["1"; 2]),
    ] {
        let mut world = World::with_version_2(2);
        world.driver.set_launch(Launch::Fails(
            Duration::from_secs(20),
            "kernel panic".into(),
        ));
        world
            .start(&format!("{FIRST}&Preferences.AutoRollback={back}"))
            .unwrap();
        let mut least = 2;
        for _ in 0..4000 {
            world.pass(1);
            let serving = world.group().members.values();
            let serving = serving.filter(|one| one.lifecycle == Lifecycle::InService);
            least = serving.count().min(least);
            if world.refresh().status == Status::RollbackInProgress {
                world.driver.set_launch(Launch::Boots(Duration::ZERO));
            }
        }
        let refresh = world.refresh();
        assert_eq!((refresh.status, least), (expected, 2));
        let reason = match &refresh.rollback {
            Some(rollback) => rollback.reason.clone(),
            None => refresh.reason.clone().unwrap(),
        };
        assert!(reason.contains("kernel panic"), "{reason}");
        assert_eq!(world.versions(), versions);
        assert_eq!(world.group().template.version, "1");
    }
}

#[test]
fn terminating_hooks_run() {
    let mut world = World::with_version_2(1);
    world
        .ask(
            "PutLifecycleHook&AutoScalingGroupName=g&LifecycleHookName=h&HeartbeatTimeout=60&DefaultResult=CONTINUE\
             &LifecycleTransition=autoscaling%3AEC2_INSTANCE_TERMINATING",
        )
        .unwrap();
    let first = world.ids()[0].clone();
    world.start(FIRST).unwrap();
    world.pass_until(Status::Successful, 30);
    let leaving = world.group().members[&first].lifecycle;
    assert_eq!(leaving, Lifecycle::TerminatingWait);
    world.pass(60);
    assert_eq!(world.ids().len(), 1);
}

#[test]
fn it_bakes_and_may_be_rolled_back_until_it_is_over() {
    let mut world = World::with_version_2(2);
    let bake = format!("{FIRST}&Preferences.BakeTime=600");
    world.start(&bake).unwrap();
    world.pass_until(Status::Baking, 60);
    assert_eq!(world.group().template.version, "1");
    world
        .ask("RollbackInstanceRefresh&AutoScalingGroupName=g")
        .unwrap();
    world.pass_until(Status::RollbackSuccessful, 60);
    assert_eq!(world.versions(), ["1", "1"]);
    assert_eq!((world.refresh().percent, world.refresh().remaining), (0, 2));
    world.start(&bake).unwrap();
    world.pass_until(Status::Baking, 60);
    world.pass(599);
    assert_eq!(world.refresh().status, Status::Baking);
    world.pass(1);
    assert_eq!(world.refresh().status, Status::Successful);
    let over = world
        .ask("RollbackInstanceRefresh&AutoScalingGroupName=g")
        .unwrap_err();
    assert!(over.starts_with("ActiveInstanceRefreshNotFound"), "{over}");
}

#[test]
fn a_rollback_does_not_wait_for_instances_that_never_came_into_service() {
    let mut world = World::with_version_2(2);
    world
        .driver
        .set_launch(Launch::Boots(Duration::from_hours(9)));
    world.start(FIRST).unwrap();
    assert_eq!(world.versions(), ["1", "1", "2"]);
    world
        .ask("RollbackInstanceRefresh&AutoScalingGroupName=g")
        .unwrap();
    world.pass(1);
    assert_eq!(world.refresh().status, Status::RollbackSuccessful);
    assert_eq!(world.versions(), ["1", "1"]);
}

/// Something that happens to a group during a refresh.
#[derive(Debug, Clone)]
enum Event {
    Pass(u64),
    Die(usize),
    Protect(usize, bool),
    Desire(usize),
    Terminate(usize, bool),
    Standby(usize, bool),
    Suspend(&'static str),
    Resume,
    Cancel(bool),
    RollBack,
    Start,
    Break(bool),
}

fn event() -> impl Strategy<Value = Event> {
    let process = prop::sample::select(vec!["Launch", "Terminate", "InstanceRefresh"]);
    prop_oneof![
        6 => (0..40_u64).prop_map(Event::Pass),
        1 => (1000..4000_u64).prop_map(Event::Pass),
        1 => (0..8_usize).prop_map(Event::Die),
        3 => (0..8_usize, any::<bool>()).prop_map(|(index, on)| Event::Protect(index, on)),
        1 => (0..7_usize).prop_map(Event::Desire),
        1 => (0..8_usize, any::<bool>()).prop_map(|(index, down)| Event::Terminate(index, down)),
        1 => (0..8_usize, any::<bool>()).prop_map(|(index, on)| Event::Standby(index, on)),
        1 => process.prop_map(Event::Suspend),
        2 => Just(Event::Resume),
        1 => any::<bool>().prop_map(Event::Cancel),
        1 => Just(Event::RollBack),
        2 => Just(Event::Start),
        1 => any::<bool>().prop_map(Event::Break),
    ]
}

/// What a refresh is started with.
#[derive(Debug, Clone)]
struct Wish {
    min: usize,
    max: Option<usize>,
    skip: bool,
    back: bool,
    protected: &'static str,
    standby: &'static str,
    points: Vec<usize>,
}

fn wish() -> impl Strategy<Value = Wish> {
    let protected = prop::sample::select(vec!["Wait", "Ignore", "Refresh"]);
    let standby = prop::sample::select(vec!["Wait", "Ignore", "Terminate"]);
    let points = prop::collection::btree_set(1..100_usize, 0..3);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (
        0..=100_usize,
        100..=200_usize,
        flags,
        protected,
        standby,
        points,
    )
        .prop_map(
            |(min, max, (with_max, skip, back), protected, standby, points)| Wish {
                min,
                max: with_max.then_some(max.min(min + 100)),
                skip,
                back,
                protected,
                standby,
                points: points.into_iter().chain([100]).collect(),
            },
        )
}

impl Wish {
    fn query(&self) -> String {
        let mut text = format!(
            "&Preferences.MinHealthyPercentage={}&Preferences.SkipMatching={}&Preferences.AutoRollback={}\
             &Preferences.ScaleInProtectedInstances={}&Preferences.StandbyInstances={}&Preferences.InstanceWarmup=5\
             &Preferences.CheckpointDelay=30",
            self.min, self.skip, self.back, self.protected, self.standby
        );
        for (number, point) in self.points.iter().enumerate() {
            text += &format!(
                "&Preferences.CheckpointPercentages.member.{}={point}",
                number + 1
            );
        }
        if let Some(max) = self.max {
            text += &format!("&Preferences.MaxHealthyPercentage={max}");
        }
        text
    }
}

impl World {
    /// Does it; gives the instances that may be ended because of it.
    fn undergo(&mut self, event: &Event, wish: &Wish) -> Vec<String> {
        let ids = self.ids();
        let pick = |index: &usize| ids.get(index % ids.len().max(1)).cloned();
        let mut touched = Vec::new();
        let ask = match event {
            Event::Pass(seconds) => {
                self.pass(*seconds);
                return touched;
            }
            Event::Break(on) => {
                self.driver.set_launch(if *on {
                    Launch::Fails(Duration::from_secs(3), "broken".into())
                } else {
                    Launch::Boots(Duration::from_secs(2))
                });
                return touched;
            }
            Event::Die(index) => {
                let Some(id) = pick(index) else {
                    return touched;
                };
                self.driver.terminate(&id).unwrap();
                self.look();
                return vec![id];
            }
            Event::Protect(index, on) => {
                let Some(id) = pick(index) else {
                    return touched;
                };
                touched.push(id.clone());
                format!(
                    "SetInstanceProtection&AutoScalingGroupName=g&ProtectedFromScaleIn={on}&InstanceIds.member.1={id}"
                )
            }
            Event::Terminate(index, down) => {
                let Some(id) = pick(index) else {
                    return touched;
                };
                touched.push(id.clone());
                format!(
                    "TerminateInstanceInAutoScalingGroup&InstanceId={id}&ShouldDecrementDesiredCapacity={down}"
                )
            }
            Event::Standby(index, on) => {
                let Some(id) = pick(index) else {
                    return touched;
                };
                touched.push(id.clone());
                if *on {
                    format!(
                        "EnterStandby&AutoScalingGroupName=g&ShouldDecrementDesiredCapacity=true&InstanceIds.member.1={id}"
                    )
                } else {
                    format!("ExitStandby&AutoScalingGroupName=g&InstanceIds.member.1={id}")
                }
            }
            Event::Desire(count) => {
                format!("SetDesiredCapacity&AutoScalingGroupName=g&DesiredCapacity={count}")
            }
            Event::Suspend(process) => format!(
                "SuspendProcesses&AutoScalingGroupName=g&ScalingProcesses.member.1={process}"
            ),
            Event::Resume => "ResumeProcesses&AutoScalingGroupName=g".to_owned(),
            Event::Cancel(patient) => format!(
                "CancelInstanceRefresh&AutoScalingGroupName=g&WaitForTransitioningInstances={patient}"
            ),
            Event::RollBack => "RollbackInstanceRefresh&AutoScalingGroupName=g".to_owned(),
            Event::Start => {
                let _ = self.start(&wish.query());
                return touched;
            }
        };
        // Refused where it does not fit.
        let _ = self.ask(&ask);
        touched
    }

    /// In service and healthy.
    fn serving(&self) -> usize {
        let members = self.group().members.values();
        members
            .filter(|member| {
                member.lifecycle == Lifecycle::InService
                    && member.healthy
                    && self.state.instances[&member.instance_id].state == InstanceState::Running
            })
            .count()
    }

    fn guarded(&self) -> Vec<String> {
        let members = self.group().members.values();
        members
            .filter(|member| {
                member.protected
                    && matches!(member.lifecycle, Lifecycle::InService | Lifecycle::Standby)
                    && self.state.instances[&member.instance_id].state == InstanceState::Running
            })
            .map(|member| member.instance_id.clone())
            .collect()
    }

    /// Instances that a refresh has begun to end, ever.
    fn refreshed(&self) -> usize {
        let activities = self.group().activities.iter();
        let text = "out of service in response to an instance refresh";
        activities
            .filter(|activity| activity.cause.contains(text))
            .count()
    }

    fn check_finished(&self, wish: &Wish) -> Result<(), TestCaseError> {
        if self.refresh().status != Status::Successful {
            return Ok(());
        }
        prop_assert_eq!(&self.group().template.version, "2");
        for member in self.group().members.values() {
            let ignored = member.protected && wish.protected == "Ignore"
                || member.lifecycle == Lifecycle::Standby && wish.standby == "Ignore";
            let fine = member.template.version == "2" || member.lifecycle.is_terminating();
            prop_assert!(ignored || fine, "{member:?}");
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_a_refresh_keeps_its_promises(
        desired in 0..6_usize,
        wish in wish(),
        events in prop::collection::vec(event(), 1..50),
    ) {
        let mut world = World::with_version_2(desired);
        world.start(&wish.query()).unwrap();
        for event in &events {
            let (guarded, serving, refreshed) = (world.guarded(), world.serving(), world.refreshed());
            let was_over = !world.refresh().status.is_active();
            let (wanted, capacity) = (world.group().desired, world.group().capacity());
            let touched = world.undergo(event, &wish);
            // Protected instances stay, but for what somebody does to them.
            if wish.protected != "Refresh" {
                for id in guarded {
                    let lifecycle = world.group().members.get(&id).map(|member| member.lifecycle);
                    let stays = lifecycle.is_some_and(|lifecycle| !lifecycle.is_terminating());
                    prop_assert!(stays || touched.contains(&id), "{event:?} ended {id}");
                }
            }
            // The refresh by itself never leaves fewer than its minimum, nor ends anything when there are fewer.
            let ended = world.refreshed() - refreshed;
            if ended > 0 && touched.is_empty() && wanted == world.group().desired {
                let (least, _) = world.refresh().preferences.bounds(wanted);
                let left = world.serving();
                prop_assert!(left >= least.min(serving), "{event:?}: {left} of {serving} serve, {least} must");
            }
            let refresh = world.refresh();
            // Nor launches more than its maximum. What is there may be kept from going, and one may come from standby.
            let (_, most) = refresh.preferences.bounds(world.group().desired.max(wanted));
            let back = usize::from(matches!(event, Event::Standby(_, false)));
            prop_assert!(world.group().capacity() <= most.max(capacity + back));
            prop_assert!(refresh.percent <= 100);
            prop_assert!(refresh.status.is_active() == refresh.ended.is_none());
            if !was_over {
                world.check_finished(&wish)?;
            }
        }
        // Once nobody interferes it comes to its end, and the group to its size.
        world.undergo(&Event::Resume, &wish);
        world.undergo(&Event::Break(false), &wish);
        for id in world.ids() {
            let _ = world.ask(&format!(
                "SetInstanceProtection&AutoScalingGroupName=g&ProtectedFromScaleIn=false&InstanceIds.member.1={id}"
            ));
            let _ = world.ask(&format!("ExitStandby&AutoScalingGroupName=g&InstanceIds.member.1={id}"));
        }
        for _ in 0..60 {
            world.pass(20);
        }
        let active = world.refresh().status.is_active();
        for _ in 0..100 {
            world.pass(120);
        }
        prop_assert!(!world.refresh().status.is_active(), "{active} {:?}", world.refresh());
        let group = world.group();
        let standby = group.members.values().filter(|member| member.lifecycle == Lifecycle::Standby).count();
        prop_assert_eq!(group.members.len(), group.desired + standby);
        prop_assert_eq!(world.driver.live_machines().len(), group.desired + standby);
        prop_assert!(group.activities.iter().all(|activity| activity.status.is_over()));
    }
}

/// The clock of a refresh never depends on how often somebody looks.
#[test]
fn seldom_looks_lead_to_the_same_end() {
    for step in [1, 7, 60, 1000] {
        let mut world = World::with_version_2(3);
        world.start(FIRST).unwrap();
        let mut passed = 0;
        while world.refresh().status.is_active() && passed < 100_000 {
            world.pass(step);
            passed += step;
        }
        assert_eq!(world.refresh().status, Status::Successful, "{step}");
        assert_eq!(world.versions(), ["2"; 3]);
    }
}

#[test]
fn a_time_in_the_future_is_no_warm_up() {
    let refresh = refresh(Status::InProgress, preferences(100, Some(125)));
    let at = |seconds| -> Timestamp { noon() + SignedDuration::from_secs(seconds) };
    assert!(!refresh.is_warm(at(1), at(0)));
    assert!(!refresh.is_warm(at(0), at(59)));
    assert!(refresh.is_warm(at(0), at(60)));
}
