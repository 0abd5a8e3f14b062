//! The plan of a group: as a table, and over random histories on scripted machines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use super::plan::{Action, Seen, Why, plan, victims};
use super::records::{
    ActionResult, Group, Hook, Lifecycle, LifecycleAction, Member, TemplateName, Transition,
};
use super::{advance, handle};
use crate::clock::{Clock as _, JumpingClock};
use crate::localcloud::driver::Driver as _;
use crate::localcloud::engine::Call;
use crate::localcloud::scripted::{Launch, Scripted};
use crate::localcloud::state::{InstanceState, Process, State};
use crate::localcloud::{BASE_IMAGE, ec2};

pub(super) fn noon() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

pub(super) fn template(version: &str) -> TemplateName {
    TemplateName {
        id: "lt-1".into(),
        name: "workers".into(),
        version: version.into(),
    }
}

pub(super) fn member(id: &str, lifecycle: Lifecycle) -> Member {
    Member {
        instance_id: id.into(),
        instance_type: "t3.medium".into(),
        zone: "us-east-1a".into(),
        template: template("1"),
        lifecycle,
        healthy: true,
        protected: false,
        joined: noon(),
        in_service: None,
        actions: Vec::new(),
        activity: None,
    }
}

pub(super) fn group(desired: usize, members: impl IntoIterator<Item = Member>) -> Group {
    let members = members.into_iter();
    Group {
        name: "workers".into(),
        arn: String::new(),
        region: "us-east-1".into(),
        created: noon(),
        min: 0,
        max: 9,
        desired,
        template: template("1"),
        zones: Vec::new(),
        subnets: None,
        cooldown: 300,
        health_grace: 0,
        warmup: None,
        protect_new: false,
        termination_policies: vec!["Default".into()],
        tags: BTreeMap::new(),
        context: None,
        suspended: BTreeMap::new(),
        hooks: BTreeMap::new(),
        members: members.map(|one| (one.instance_id.clone(), one)).collect(),
        activities: Vec::new(),
        deleting: false,
        reason: None,
        failures: 0,
        retry_at: None,
        scaled_at: None,
        refreshes: Vec::new(),
    }
}

pub(super) fn suspended(mut group: Group, process: &str) -> Group {
    group
        .suspended
        .insert(process.to_owned(), "a test".to_owned());
    group
}

fn hooked(mut group: Group, transition: Transition) -> Group {
    let hook = Hook {
        transition,
        heartbeat: 60,
        default_result: ActionResult::Abandon,
        metadata: None,
    };
    group.hooks.insert("hook".to_owned(), hook);
    group
}

fn held(lifecycle: Lifecycle, result: Option<ActionResult>) -> Member {
    let action = LifecycleAction {
        hook: "hook".into(),
        token: "token".into(),
        started: noon(),
        deadline: noon() + jiff::SignedDuration::from_secs(60),
        end: noon() + jiff::SignedDuration::from_secs(6000),
        default_result: ActionResult::Abandon,
        result,
    };
    Member {
        actions: vec![action],
        ..member("i-1", lifecycle)
    }
}

fn planned(group: &Group, seen: Seen, after: i64) -> Vec<Action> {
    let seen = group.members.keys().map(|id| (id.clone(), seen)).collect();
    let now = noon() + jiff::SignedDuration::from_secs(after);
    plan(group, &seen, None, now)
}

#[test]
fn one_member_at_a_time_goes_through_its_life() {
    use Lifecycle as L;
    let id = || "i-1".to_owned();
    let plain = |lifecycle| group(1, [member("i-1", lifecycle)]);
    let enter = |to| vec![Action::Enter(id(), to)];
    let retire = |why| vec![Action::Retire(id(), why)];
    let cases = [
        (plain(L::Pending), Seen::Starting, vec![]),
        (plain(L::Pending), Seen::Running, enter(L::InService)),
        (plain(L::Pending), Seen::Gone, retire(Why::Failed)),
        (
            hooked(plain(L::Pending), Transition::Launching),
            Seen::Running,
            vec![Action::Hold(id(), Transition::Launching)],
        ),
        (
            hooked(plain(L::Pending), Transition::Terminating),
            Seen::Running,
            enter(L::InService),
        ),
        (plain(L::PendingProceed), Seen::Running, enter(L::InService)),
        (plain(L::InService), Seen::Running, vec![]),
        (plain(L::InService), Seen::Failing, retire(Why::Failed)),
        (
            suspended(plain(L::InService), "HealthCheck"),
            Seen::Failing,
            vec![],
        ),
        (
            suspended(plain(L::InService), "ReplaceUnhealthy"),
            Seen::Failing,
            vec![],
        ),
        (plain(L::Standby), Seen::Failing, vec![Action::Launch(1)]),
        (
            plain(L::Terminating),
            Seen::Running,
            vec![Action::Terminate(id())],
        ),
        (
            hooked(plain(L::Terminating), Transition::Terminating),
            Seen::Running,
            vec![Action::Hold(id(), Transition::Terminating)],
        ),
        (
            hooked(plain(L::Terminating), Transition::Terminating),
            Seen::Gone,
            vec![Action::Terminate(id())],
        ),
        (
            suspended(plain(L::TerminatingProceed), "Launch"),
            Seen::Failing,
            vec![],
        ),
        (
            plain(L::TerminatingProceed),
            Seen::Gone,
            vec![Action::Drop(id())],
        ),
    ];
    for (group, seen, expected) in cases {
        let state = group.members["i-1"].lifecycle;
        assert_eq!(planned(&group, seen, 0), expected, "{state:?} and {seen:?}");
    }
}

#[test]
fn an_action_waits_for_its_result_and_no_longer_than_its_time() {
    use Lifecycle as L;
    let id = || "i-1".to_owned();
    let of = |lifecycle, result| group(1, [held(lifecycle, result)]);
    let abandoned = vec![Action::Retire(id(), Why::Abandoned)];
    let ended = vec![Action::Terminate(id())];
    let expired = vec![Action::Expire(id(), "hook".to_owned())];
    let on = |result| Some(result);
    let cases = [
        (L::PendingWait, None, 59, vec![]),
        (L::PendingWait, None, 60, expired.clone()),
        (
            L::PendingWait,
            on(ActionResult::Continue),
            1,
            vec![Action::Enter(id(), L::PendingProceed)],
        ),
        (L::PendingWait, on(ActionResult::Abandon), 1, abandoned),
        (L::TerminatingWait, None, 60, expired),
        (
            L::TerminatingWait,
            on(ActionResult::Continue),
            1,
            ended.clone(),
        ),
        (L::TerminatingWait, on(ActionResult::Abandon), 1, ended),
    ];
    for (lifecycle, result, after, expected) in cases {
        let group = of(lifecycle, result);
        let planned = planned(&group, Seen::Running, after);
        assert_eq!(planned, expected, "{lifecycle:?}, {result:?}, {after} s");
    }
    let waiting = suspended(of(L::TerminatingWait, None), "Launch");
    assert_eq!(planned(&waiting, Seen::Running, 59), []);
}

#[test]
fn capacity_is_made_equal_to_what_is_desired_as_far_as_it_may_be() {
    use Lifecycle as L;
    let two = || [member("i-1", L::InService), member("i-2", L::InService)];
    assert_eq!(
        planned(&group(5, two()), Seen::Running, 0),
        [Action::Launch(3)]
    );
    let none = suspended(group(5, two()), "Launch");
    assert_eq!(planned(&none, Seen::Running, 0), []);
    let down = planned(&group(1, two()), Seen::Running, 0);
    assert_eq!(down, [Action::Retire("i-1".to_owned(), Why::ScaleIn)]);
    let none = suspended(group(1, two()), "Terminate");
    assert_eq!(planned(&none, Seen::Running, 0), []);
    let mut later = group(5, two());
    later.retry_at = Some(noon() + jiff::SignedDuration::from_secs(10));
    assert_eq!(planned(&later, Seen::Running, 9), []);
    assert_eq!(planned(&later, Seen::Running, 10), [Action::Launch(3)]);
    let mut last = group(0, []);
    last.deleting = true;
    assert_eq!(planned(&last, Seen::Running, 0), [Action::Vanish]);
}

#[test]
fn policies_choose_and_protection_forbids() {
    let at = |id: &str, seconds, version: &str, protected| Member {
        joined: noon() + jiff::SignedDuration::from_secs(seconds),
        template: template(version),
        protected,
        ..member(id, Lifecycle::InService)
    };
    let with = |policies: &[&str]| {
        let members = [
            at("i-1", 0, "2", false),
            at("i-2", 20, "1", false),
            at("i-3", 10, "2", false),
            at("i-4", 30, "1", true),
            member("i-5", Lifecycle::Pending),
        ];
        let mut group = group(0, members);
        group.termination_policies = policies.iter().map(|&name| name.to_owned()).collect();
        victims(&group)
    };
    assert_eq!(with(&["OldestInstance"]), ["i-5", "i-1", "i-3", "i-2"]);
    assert_eq!(with(&["NewestInstance"]), ["i-5", "i-2", "i-3", "i-1"]);
    assert_eq!(with(&["Default"]), ["i-5", "i-2", "i-1", "i-3"]);
    assert_eq!(
        with(&["OldestLaunchTemplate", "NewestInstance"]),
        ["i-5", "i-2", "i-3", "i-1"]
    );
}

/// A cloud of scripted machines with one group.
pub(super) struct World {
    pub state: State,
    pub driver: Scripted,
    clock: Arc<JumpingClock>,
}

impl World {
    pub fn new(desired: usize) -> Self {
        let clock = JumpingClock::starting_at(noon());
        let mut world = Self {
            state: State::new(noon(), "us-east-1"),
            driver: Scripted::new(clock.clone()),
            clock,
        };
        let body = format!(
            "Action=CreateLaunchTemplate&LaunchTemplateName=workers&LaunchTemplateData.ImageId={BASE_IMAGE}\
             &LaunchTemplateData.InstanceType=t3.medium"
        );
        let mut call = world.call();
        ec2::handle(&mut call, body.as_bytes(), "request").unwrap();
        world
            .ask(&format!(
                "CreateAutoScalingGroup&AutoScalingGroupName=g&MinSize=0&MaxSize=6&DesiredCapacity={desired}\
                 &LaunchTemplate.LaunchTemplateName=workers&LaunchTemplate.Version=1\
                 &AvailabilityZones.member.1=us-east-1a"
            ))
            .unwrap();
        world
    }

    pub fn call(&mut self) -> Call<'_> {
        Call {
            now: self.clock.now(),
            state: &mut self.state,
            directory: std::path::Path::new(""),
            driver: &self.driver,
            region: "us-east-1",
            process: Process { pid: 1, start: 1 },
            dry_run: false,
        }
    }

    pub fn ask(&mut self, action: &str) -> Result<(), String> {
        let body = format!("Action={action}");
        let answer = handle(&mut self.call(), body.as_bytes(), "request");
        answer.map(|_| ()).map_err(|error| error.to_string())
    }

    pub fn look(&mut self) {
        let now = self.clock.now();
        ec2::lifecycle::refresh(&mut self.state, &self.driver, now);
        let process = Process { pid: 1, start: 1 };
        advance(&mut self.state, &self.driver, now, process);
    }

    pub fn pass(&mut self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        self.look();
    }

    pub fn group(&self) -> &Group {
        &self.state.scaling["g"]
    }

    pub fn ids(&self) -> Vec<String> {
        self.group().members.keys().cloned().collect()
    }
}

#[test]
fn a_launch_that_fails_is_tried_again_ever_less_often() {
    let mut world = World::new(0);
    world
        .driver
        .set_launch(Launch::Refused("no room".to_owned()));
    world
        .ask("SetDesiredCapacity&AutoScalingGroupName=g&DesiredCapacity=1")
        .unwrap();
    let failed = |world: &World| {
        let all = world.group().activities.iter();
        all.filter(|activity| activity.status.name() == "Failed")
            .count()
    };
    assert_eq!(failed(&world), 1);
    for _ in 0..300 {
        world.pass(1);
    }
    // After 10, 20, 40, 80 and 160 s; not every second.
    assert_eq!(failed(&world), 5);
    assert!(world.driver.live_machines().is_empty());
    world.driver.set_launch(Launch::Boots(Duration::ZERO));
    world.pass(600);
    world.pass(1);
    assert_eq!(world.group().capacity(), 1);
    assert_eq!(world.group().failures, 0);
}

#[test]
fn a_group_that_is_deleted_by_force_leaves_nothing() {
    let mut world = World::new(3);
    world
        .ask(
            "PutLifecycleHook&AutoScalingGroupName=g&LifecycleHookName=h\
             &LifecycleTransition=autoscaling%3AEC2_INSTANCE_TERMINATING",
        )
        .unwrap();
    world.pass(10);
    let refused = world
        .ask("DeleteAutoScalingGroup&AutoScalingGroupName=g")
        .unwrap_err();
    assert!(refused.starts_with("ResourceInUse"), "{refused}");
    world
        .ask("DeleteAutoScalingGroup&AutoScalingGroupName=g&ForceDelete=true")
        .unwrap();
    world.look();
    assert!(world.state.scaling.is_empty());
    assert!(world.driver.live_machines().is_empty());
}

#[test]
fn activities_of_a_deleted_group_are_there_for_six_weeks_for_who_asks_for_them() {
    let mut world = World::new(2);
    world.pass(10);
    world
        .ask("DeleteAutoScalingGroup&AutoScalingGroupName=g&ForceDelete=true")
        .unwrap();
    world.look();
    let list = |world: &mut World, more: &str| {
        let body = format!("Action=DescribeScalingActivities{more}");
        let answer = handle(&mut world.call(), body.as_bytes(), "request");
        let answer = answer.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        Ok::<_, String>(text.matches("<ActivityId>").count())
    };
    let named = "&AutoScalingGroupName=g";
    assert_eq!(list(&mut world, ""), Ok(0));
    assert!(list(&mut world, named).unwrap_err().contains("not found"));
    let with_deleted = format!("{named}&IncludeDeletedGroups=true");
    // Two launches and two terminations.
    assert_eq!(list(&mut world, &with_deleted), Ok(4));
    assert_eq!(list(&mut world, "&IncludeDeletedGroups=true"), Ok(4));
    let other = with_deleted.replace("=g", "=h");
    assert!(list(&mut world, &other).unwrap_err().contains("not found"));
    world.pass(6 * 7 * 24 * 3600 - 10);
    assert_eq!(list(&mut world, &with_deleted), Ok(2));
    world.pass(10);
    assert_eq!(world.state.deleted_groups, []);
}

/// Something that happens to a group.
#[derive(Debug, Clone)]
enum Event {
    Desire(usize),
    Protect(usize, bool),
    Die(usize),
    Terminate(usize, bool),
    Suspend(&'static str),
    Resume,
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let process = prop::sample::select(vec!["Launch", "Terminate", "HealthCheck"]);
    prop_oneof![
        (0..8_usize).prop_map(Event::Desire),
        (0..6_usize, any::<bool>()).prop_map(|(index, on)| Event::Protect(index, on)),
        (0..6_usize).prop_map(Event::Die),
        (0..6_usize, any::<bool>()).prop_map(|(index, down)| Event::Terminate(index, down)),
        process.prop_map(Event::Suspend),
        Just(Event::Resume),
        (0..120_u64).prop_map(Event::Pass),
    ]
}

impl World {
    /// Does it; gives the instance that may go because of it, if any.
    fn happen(&mut self, event: &Event) -> Option<String> {
        let ids = self.ids();
        let pick = |index: usize| ids.get(index % ids.len().max(1)).cloned();
        let ask = match event {
            Event::Desire(count) => {
                format!("SetDesiredCapacity&AutoScalingGroupName=g&DesiredCapacity={count}")
            }
            Event::Protect(index, on) => {
                let id = pick(*index)?;
                // Refused while it is not in service.
                let _ = self.ask(&format!(
                    "SetInstanceProtection&AutoScalingGroupName=g&ProtectedFromScaleIn={on}&InstanceIds.member.1={id}"
                ));
                // A scale-in that waited takes it at once.
                return (!on).then_some(id);
            }
            Event::Die(index) => {
                let id = pick(*index)?;
                self.driver.terminate(&id).unwrap();
                self.look();
                return Some(id);
            }
            Event::Terminate(index, down) => {
                let id = pick(*index)?;
                // Refused where it would go below the minimum or is going already.
                let _ = self.ask(&format!(
                    "TerminateInstanceInAutoScalingGroup&InstanceId={id}&ShouldDecrementDesiredCapacity={down}"
                ));
                return Some(id);
            }
            Event::Suspend(process) => format!(
                "SuspendProcesses&AutoScalingGroupName=g&ScalingProcesses.member.1={process}"
            ),
            Event::Resume => "ResumeProcesses&AutoScalingGroupName=g".to_owned(),
            Event::Pass(seconds) => {
                self.pass(*seconds);
                return None;
            }
        };
        // Refused where it is more than the maximum.
        let _ = self.ask(&ask);
        None
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn groups_settle_and_scale_in_spares_what_is_protected(
        desired in 0..6_usize,
        events in prop::collection::vec(event(), 1..40),
    ) {
        let mut world = World::new(desired);
        for event in &events {
            let protected: Vec<String> = world
                .group()
                .members
                .values()
                .filter(|member| member.protected && member.lifecycle == Lifecycle::InService)
                // One that is dead may be replaced.
                .filter(|member| {
                    let instance = &world.state.instances[&member.instance_id];
                    instance.state == InstanceState::Running
                })
                .map(|member| member.instance_id.clone())
                .collect();
            let taken = world.happen(event);
            for id in protected {
                let state = world.group().members.get(&id).map(|member| member.lifecycle);
                prop_assert!(state == Some(Lifecycle::InService) || taken.as_ref() == Some(&id), "{event:?}: {id} {state:?}");
            }
            prop_assert!(world.group().capacity() <= world.group().max);
            prop_assert!(world.group().desired <= world.group().max);
        }
        world.ask("ResumeProcesses&AutoScalingGroupName=g").unwrap();
        for id in world.ids() {
            let _ = world.ask(&format!(
                "SetInstanceProtection&AutoScalingGroupName=g&ProtectedFromScaleIn=false&InstanceIds.member.1={id}"
            ));
        }
        for _ in 0..5 {
            world.pass(600);
        }
        let group = world.group();
        prop_assert_eq!(group.members.len(), group.desired);
        prop_assert!(group.members.values().all(|member| member.lifecycle == Lifecycle::InService));
        let running = world.state.instances.values().filter(|one| one.state == InstanceState::Running).count();
        prop_assert_eq!(running, group.desired);
        prop_assert_eq!(world.driver.live_machines().len(), group.desired);
        prop_assert!(group.activities.iter().all(|activity| activity.status.is_over()));
    }
}
