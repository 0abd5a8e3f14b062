//! How records follow what becomes of machines and snapshots.

use jiff::{SignedDuration, Timestamp};

use super::super::driver::{Driver, DriverError, Observation, Power};
use super::super::state::{Image, Instance, InstanceState, Progress, Reason, Snapshot, State};

/// How long a terminated instance stays visible (EC2 User Guide, "Terminate your instance").
const VISIBLE: SignedDuration = SignedDuration::from_hours(1);

/// What an observation makes of an instance's state, and why. `None`: nothing has changed.
fn follow(instance: &Instance, seen: &Observation) -> Option<(InstanceState, Option<Reason>)> {
    use InstanceState as S;
    let reason = |code: &str, message: &str| {
        Some(Reason {
            code: code.to_owned(),
            message: format!("{code}: {message}"),
        })
    };
    let inside = || {
        reason(
            "Client.InstanceInitiatedShutdown",
            "Instance initiated shutdown",
        )
    };
    let failed = || {
        let why = seen.reason.as_deref().unwrap_or("the machine failed");
        reason("Server.InternalError", why)
    };
    let (to, why) = match (instance.state, seen.power) {
        (S::ShuttingDown, Power::Gone) => (S::Terminated, instance.state_reason.clone()),
        (S::Terminated | S::ShuttingDown, _) => return None,
        (_, Power::Failed) => (S::ShuttingDown, failed()),
        (_, Power::Gone) if seen.shut_down_from_inside => (S::Terminated, inside()),
        (_, Power::Gone) => (S::Terminated, instance.state_reason.clone().or_else(failed)),
        (S::Pending, Power::Running) => (S::Running, None),
        (S::Pending | S::Running, Power::Stopping) if !instance.terminate_on_shutdown => (
            S::Stopping,
            seen.shut_down_from_inside.then(inside).flatten(),
        ),
        (S::Pending | S::Running, Power::Off) => {
            let to = if instance.terminate_on_shutdown {
                S::ShuttingDown
            } else {
                S::Stopped
            };
            (to, seen.shut_down_from_inside.then(inside).flatten())
        }
        (S::Stopping, Power::Off) => (S::Stopped, instance.state_reason.clone()),
        (S::Pending | S::Running | S::Stopping | S::Stopped, _) => return None,
    };
    (to != instance.state).then_some((to, why))
}

/// Brings all records up to date.
pub fn refresh(state: &mut State, driver: &dyn Driver, now: Timestamp) {
    let is_there = |instance: &Instance| instance.state != InstanceState::Terminated;
    state.instances.change(is_there, |instance| {
        super::spot::interrupt(instance, driver, now);
        refresh_instance(instance, driver, now);
    });
    state.instances.retain(|instance| {
        instance
            .terminated_at
            .is_none_or(|at| now.duration_since(at) < VISIBLE)
    });
    let is_under_way = |snapshot: &Snapshot| snapshot.state == Progress::Pending;
    state.snapshots.change(is_under_way, |snapshot| {
        let progress = driver.snapshot_progress(&snapshot.id);
        snapshot.percent = progress.percent.min(100);
        if let Some(error) = progress.error {
            snapshot.state = Progress::Failed;
            snapshot.state_message = error;
        } else if progress.done {
            snapshot.state = Progress::Done;
            snapshot.percent = 100;
            snapshot.completed = Some(now);
        }
    });
    let is_under_way = |image: &Image| image.state == Progress::Pending;
    state.images.change(is_under_way, |image| {
        let Some(snapshot) = state.snapshots.get(&image.snapshot_id) else {
            return;
        };
        image.state = snapshot.state;
        if snapshot.state == Progress::Failed {
            image.state_reason = Some(Reason {
                code: "Client.SnapshotError".to_owned(),
                message: format!(
                    "The snapshot {} failed: {}",
                    snapshot.id, snapshot.state_message
                ),
            });
        }
    });
}

/// Takes the effects of one observation; ends what failed or shut itself down to be terminated.
fn refresh_instance(instance: &mut Instance, driver: &dyn Driver, now: Timestamp) {
    let seen = driver.observe(&instance.id);
    instance.agent_online_since = seen.agent_online_since;
    instance.agent_registered |= seen.agent_online_since.is_some();
    let Some((to, why)) = follow(instance, &seen) else {
        return;
    };
    set_state(instance, to, why, now);
    if to == InstanceState::ShuttingDown && driver.terminate(&instance.id).is_ok() {
        let seen = driver.observe(&instance.id);
        if let Some((to, why)) = follow(instance, &seen) {
            set_state(instance, to, why, now);
        }
    }
}

/// Terminates an instance for a service that launched it.
///
/// # Errors
/// The driver refuses; nothing has changed then.
pub fn end(
    instance: &mut Instance,
    driver: &dyn Driver,
    now: Timestamp,
) -> Result<(), DriverError> {
    if instance.state == InstanceState::Terminated {
        return Ok(());
    }
    driver.shut_down(&instance.id)?;
    if instance.state != InstanceState::ShuttingDown {
        by_user(instance, InstanceState::ShuttingDown, now);
    }
    refresh_instance(instance, driver, now);
    Ok(())
}

/// As somebody has asked for it: `StateReason` and `StateTransitionReason` of the EC2 API Reference, `Instance`. A service
/// that ends its instances asks as a user does.
pub fn by_user(instance: &mut Instance, to: InstanceState, now: Timestamp) {
    let code = "Client.UserInitiatedShutdown";
    let why = Reason {
        code: code.to_owned(),
        message: format!("{code}: User initiated shutdown"),
    };
    let stamp = now.strftime("%Y-%m-%d %H:%M:%S GMT");
    instance.transition_reason = format!("User initiated ({stamp})");
    set_state(instance, to, Some(why), now);
}

/// Changes the state of an instance and what hangs on it.
pub fn set_state(instance: &mut Instance, to: InstanceState, why: Option<Reason>, now: Timestamp) {
    instance.state = to;
    instance.state_reason = why;
    if to == InstanceState::Terminated {
        instance.terminated_at = Some(now);
    }
    if matches!(to, InstanceState::Stopped | InstanceState::Terminated) {
        instance.agent_online_since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::state::{MetadataOptions, Process, Tags, Volume};
    use super::*;

    fn instance(state: InstanceState) -> Instance {
        Instance {
            id: "i-00000000000000001".into(),
            reservation_id: "r-00000000000000001".into(),
            launch_index: 0,
            image_id: "ami-00000000".into(),
            instance_type: "t3.medium".into(),
            launch_time: Timestamp::UNIX_EPOCH,
            first_launch: None,
            state,
            state_reason: None,
            transition_reason: String::new(),
            private_ip: "172.31.1.100".into(),
            availability_zone: "us-east-1a".into(),
            region: "us-east-1".into(),
            group_ids: vec![],
            instance_profile: None,
            client_token: None,
            metadata: MetadataOptions {
                tokens_required: true,
                hop_limit: 1,
                tags_enabled: false,
            },
            terminate_on_shutdown: false,
            disable_api_termination: false,
            interface_id: "eni-00000000".into(),
            interface_tags: Tags::new(),
            monitored: false,
            ebs_optimized: false,
            volume: Volume {
                id: "vol-00000000".into(),
                size: 8,
                kind: "gp3".into(),
                encrypted: false,
                delete_on_termination: true,
                tags: Tags::new(),
            },
            tags: Tags::new(),
            agent_registered: false,
            agent_online_since: None,
            terminated_at: None,
            spot: None,
            owner: Some(Process { pid: 1, start: 1 }),
        }
    }

    fn seen(power: Power, inside: bool) -> Observation {
        Observation {
            power,
            agent_online_since: None,
            reason: None,
            shut_down_from_inside: inside,
        }
    }

    fn next(state: InstanceState, power: Power, inside: bool) -> InstanceState {
        follow(&instance(state), &seen(power, inside)).map_or(state, |(to, _)| to)
    }

    #[test]
    fn records_follow_machines() {
        use InstanceState as S;
        for (from, power, to) in [
            (S::Pending, Power::Starting, S::Pending),
            (S::Pending, Power::Running, S::Running),
            (S::Pending, Power::Failed, S::ShuttingDown),
            (S::Running, Power::Starting, S::Running),
            (S::Running, Power::Stopping, S::Stopping),
            (S::Running, Power::Off, S::Stopped),
            (S::Stopping, Power::Running, S::Stopping),
            (S::Stopping, Power::Off, S::Stopped),
            (S::Stopped, Power::Off, S::Stopped),
            (S::ShuttingDown, Power::Running, S::ShuttingDown),
            (S::ShuttingDown, Power::Gone, S::Terminated),
            (S::Running, Power::Gone, S::Terminated),
            (S::Terminated, Power::Running, S::Terminated),
        ] {
            assert_eq!(next(from, power, false), to, "{from:?} and {power:?}");
        }
    }

    #[test]
    fn a_shutdown_from_inside_does_what_the_instance_was_launched_for() {
        let mut instance = instance(InstanceState::Running);
        let (to, why) = follow(&instance, &seen(Power::Off, true)).unwrap();
        assert_eq!(to, InstanceState::Stopped);
        assert_eq!(why.unwrap().code, "Client.InstanceInitiatedShutdown");
        instance.terminate_on_shutdown = true;
        assert_eq!(
            follow(&instance, &seen(Power::Off, true)).unwrap().0,
            InstanceState::ShuttingDown
        );
    }
}
