//! Whole refreshes on scripted machines.

use std::time::Duration;

use super::super::super::records::Lifecycle;
use super::super::super::tests::World;
use super::super::records::{Refresh, Status};
use crate::localcloud::ec2;
use crate::localcloud::scripted::Launch;

impl World {
    /// A group of version 1, in service, and a version 2 of its template.
    pub(super) fn with_version_2(desired: usize) -> Self {
        let mut world = Self::new(desired);
        let body = "Action=CreateLaunchTemplateVersion&LaunchTemplateName=workers&SourceVersion=1\
                    &LaunchTemplateData.InstanceType=t3.large";
        ec2::handle(&mut world.call(), body.as_bytes(), "request").unwrap();
        world.pass(10);
        world
    }

    pub(super) fn start(&mut self, more: &str) -> Result<(), String> {
        self.ask(&format!(
            "StartInstanceRefresh&AutoScalingGroupName=g&DesiredConfiguration.LaunchTemplate.LaunchTemplateName=workers\
             &DesiredConfiguration.LaunchTemplate.Version=2{more}"
        ))
    }

    pub(super) fn refresh(&self) -> &Refresh {
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
