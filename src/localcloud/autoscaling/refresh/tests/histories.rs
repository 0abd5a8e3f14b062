//! Random histories of a group during a refresh.

use std::time::Duration;

use proptest::prelude::*;

use super::super::super::records::Lifecycle;
use super::super::super::tests::World;
use super::super::records::Status;
use crate::localcloud::driver::Driver as _;
use crate::localcloud::scripted::Launch;
use crate::localcloud::state::InstanceState;

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
