//! Brings groups forward: sees what became of their instances, plans, and carries the plan out.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};

use super::super::driver::Driver;
use super::super::ec2::instances::{self, Order};
use super::super::ec2::launch_templates::{self, Name, Reference};
use super::super::ec2::lifecycle;
use super::super::ec2::settings::Settings;
use super::super::engine::Call;
use super::super::state::{InstanceState, Process, State, Tags};
use super::super::wire::error::ApiError;
use super::super::wire::query::Params;
use super::activities;
use super::plan::{Action, Seen, Why, plan};
use super::records::{
    ActivityStatus, Group, Lifecycle, LifecycleAction, Member, TemplateName, Transition,
};
use super::refresh::plan::Target;
use super::refresh::records::{Refresh, Status};

/// Rounds of planning in one go. A group settles in a handful; more is left to the next look.
const ROUNDS: usize = 32;
/// The pause after a launch that failed, doubled with each one more. AWS backs off too, but does not say how long.
const BACK_OFF: SignedDuration = SignedDuration::from_secs(10);
const LONGEST_BACK_OFF: SignedDuration = SignedDuration::from_mins(10);

/// What a group works on.
pub(super) struct World<'a> {
    pub state: &'a mut State,
    pub driver: &'a dyn Driver,
    pub now: Timestamp,
    pub process: Process,
}

/// Brings all groups forward. Repeating it changes nothing until time passes or an instance changes.
pub fn advance(state: &mut State, driver: &dyn Driver, now: Timestamp, process: Process) {
    let names: Vec<String> = state.scaling.keys().cloned().collect();
    for name in names {
        // Out of the records while it works on them.
        let Some(mut group) = state.scaling.remove(&name) else {
            continue;
        };
        let mut world = World {
            state,
            driver,
            now,
            process,
        };
        if settle(&mut world, &mut group) {
            state.scaling.insert(name, group);
        } else {
            state.deleted_groups.push(group);
        }
    }
    activities::prune_deleted(&mut state.deleted_groups, now);
}

/// Whether the group is still there afterwards.
fn settle(world: &mut World<'_>, group: &mut Group) -> bool {
    for _ in 0..ROUNDS {
        let target = target(world.state, group);
        let seen = look(world.state, group);
        let actions = plan(group, &seen, target.as_ref(), world.now);
        if actions.is_empty() {
            break;
        }
        for action in actions {
            if action == Action::Vanish {
                return false;
            }
            act(world, group, action);
        }
    }
    // During a refresh there may be more for a while; what is launched then is launched for it.
    if group.capacity() == group.desired || group.refresh().is_some() {
        group.reason = None;
    }
    activities::prune(group, world.now);
    true
}

/// What an instance refresh under way brings, as a number.
fn target(state: &State, group: &Group) -> Option<Target> {
    group.refresh()?;
    let found = launch_templates::resolve(state, &reference(group)).ok()?;
    Some(Target {
        id: found.id,
        version: found.version.to_string(),
    })
}

/// What the group launches now.
pub(super) fn reference(group: &Group) -> Reference {
    let template = group.launches();
    Reference {
        template: Name::Id(template.id.clone()),
        version: Some(template.version.clone()),
    }
}

fn look(state: &State, group: &Group) -> BTreeMap<String, Seen> {
    let one = |id: &String| {
        let seen = match state.instances.get(id).map(|instance| instance.state) {
            Some(InstanceState::Pending) => Seen::Starting,
            Some(InstanceState::Running) => Seen::Running,
            Some(
                InstanceState::Stopping | InstanceState::Stopped | InstanceState::ShuttingDown,
            ) => Seen::Failing,
            Some(InstanceState::Terminated) | None => Seen::Gone,
        };
        (id.clone(), seen)
    };
    group.members.keys().map(one).collect()
}

fn act(world: &mut World<'_>, group: &mut Group, action: Action) {
    match action {
        Action::Launch(count) => launch(world, group, count, DIFFERENCE),
        Action::Replace(count) => launch(world, group, count, REFRESH),
        Action::Refresh(refresh) => put_refresh(group, *refresh),
        Action::Hold(id, transition) => hold(world, group, &id, transition),
        Action::Expire(id, hook) => {
            if let Some(member) = group.members.get_mut(&id) {
                for action in &mut member.actions {
                    if action.hook == hook && action.result.is_none() {
                        action.result = Some(action.default_result);
                    }
                }
            }
        }
        Action::Enter(id, lifecycle) => enter(world, group, &id, lifecycle),
        Action::Retire(id, why) => retire(world, group, &id, why),
        Action::Terminate(id) => {
            let now = world.now;
            if let Some(instance) = world.state.instances.get_mut(&id)
                && let Err(error) = lifecycle::end(instance, world.driver, now)
            {
                // The next look tries again.
                activities::note(group, &id, &error.to_string());
                return;
            }
            if let Some(member) = group.members.get_mut(&id) {
                member.lifecycle = Lifecycle::TerminatingProceed;
                member.actions.clear();
            }
        }
        Action::Drop(id) => {
            if let Some(member) = group.members.remove(&id) {
                activities::end(group, &member, ActivityStatus::Successful, None, world.now);
            }
        }
        // Seen by the caller, which alone can drop the group.
        Action::Vanish => {}
    }
}

/// Instances that a group has launched, spread over its zones, or why it has none.
pub(super) fn launch_now(
    world: &mut World<'_>,
    group: &mut Group,
    count: usize,
    cause: &str,
) -> Result<Vec<String>, ApiError> {
    let mut made = Vec::new();
    for (zone, count) in spread(group, count) {
        match launch_in(world, group, &zone, count, cause) {
            Ok(ids) => made.extend(ids),
            // The next look launches what is missing.
            Err(_) if !made.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(made)
}

/// How many of `count` new instances go to each zone: each to the one that has the fewest (EC2 Auto Scaling User Guide,
/// "Distribute instances across Availability Zones").
fn spread(group: &Group, count: usize) -> BTreeMap<String, usize> {
    let mut there = group.by_zone();
    let mut new = BTreeMap::new();
    for _ in 0..count {
        let fewest = there.iter().min_by_key(|(_, count)| **count);
        let Some(zone) = fewest.map(|(zone, _)| zone.clone()) else {
            break;
        };
        *there.entry(zone.clone()).or_default() += 1;
        *new.entry(zone).or_default() += 1;
    }
    new
}

/// Instances that a group has launched in one of its zones, or why it has none.
pub(super) fn launch_in(
    world: &mut World<'_>,
    group: &mut Group,
    zone: &str,
    count: usize,
    cause: &str,
) -> Result<Vec<String>, ApiError> {
    let found = launch_templates::resolve(world.state, &reference(group))?;
    let mut params = Params::from(found.parameters.clone());
    let mut settings = Settings::take(&group.region, &mut params)?;
    settings.zone = Some(zone.to_owned());
    // The group's own subnets count (`CreateAutoScalingGroup`, `VPCZoneIdentifier`).
    settings.subnet = None;
    let mut tags: Tags = group
        .tags
        .iter()
        .filter(|(_, tag)| tag.propagate)
        .map(|(key, tag)| (key.clone(), tag.value.clone()))
        .collect();
    tags.extend(found.system_tags());
    tags.insert("aws:autoscaling:groupName".to_owned(), group.name.clone());
    let order = Order {
        settings,
        tags,
        min: 1,
        max: count,
        client_token: None,
        owner: None,
    };
    let mut call = Call {
        state: world.state,
        // Instances need nothing of it.
        directory: Path::new(""),
        driver: world.driver,
        now: world.now,
        region: &group.region,
        process: world.process,
        dry_run: false,
    };
    let reservation = instances::launch(&mut call, &order)?;
    let made = world.state.instances.values();
    let made = made.filter(|instance| instance.reservation_id == reservation);
    let mut made: Vec<_> = made
        .map(|one| {
            (
                one.launch_index,
                one.id.clone(),
                one.instance_type.clone(),
                one.availability_zone.clone(),
            )
        })
        .collect();
    made.sort();
    let mut ids = Vec::new();
    for (_, id, instance_type, zone) in made {
        let capacity = group.capacity();
        let cause = format!(
            "{cause}, increasing the capacity from {capacity} to {}.",
            capacity + 1
        );
        let description = format!("Launching a new EC2 instance: {id}");
        let activity = activities::begin(world, group, Some(zone.clone()), description, cause);
        let member = Member {
            instance_id: id.clone(),
            instance_type,
            zone,
            template: TemplateName {
                id: found.id.clone(),
                name: found.name.clone(),
                version: found.version.to_string(),
            },
            lifecycle: Lifecycle::Pending,
            healthy: true,
            protected: group.protect_new,
            joined: world.now,
            in_service: None,
            actions: Vec::new(),
            activity: Some(activity),
        };
        group.members.insert(id.clone(), member);
        ids.push(id);
    }
    Ok(ids)
}

/// The refresh goes on. The group's own settings change only when it has succeeded (User Guide, "How an instance
/// refresh works", "Desired configuration").
fn put_refresh(group: &mut Group, refresh: Refresh) {
    let turned = group
        .refresh()
        .is_some_and(|before| before.status.is_forward() && !refresh.status.is_forward());
    if turned {
        // Something else is launched now: what failed before may work.
        (group.failures, group.retry_at) = (0, None);
    }
    if let (Status::Successful, Some(desired)) = (refresh.status, &refresh.desired) {
        group.template = desired.clone();
    }
    if let Some(active) = group.refresh_mut() {
        *active = refresh;
    }
}

const DIFFERENCE: &str = "started in response to a difference between desired and actual capacity";
const REFRESH: &str = "launched in response to an instance refresh";

fn launch(world: &mut World<'_>, group: &mut Group, count: usize, why: &str) {
    let cause = format!(
        "{}At {} an instance was {why}",
        activities::reason(group),
        activities::stamp(world.now)
    );
    if let Err(error) = launch_now(world, group, count, &cause) {
        let description = format!(
            "Launching a new EC2 instance.  Status Reason: {} Launching EC2 instance failed.",
            error.message
        );
        let id = activities::begin(world, group, None, description, format!("{cause}."));
        let now = world.now;
        if let Some(activity) = group.activity(&id) {
            activity.status = ActivityStatus::Failed;
            activity.message = Some(error.message.chars().take(255).collect());
            activity.ended = Some(now);
            activity.progress = 100;
        }
        if let Some(refresh) = group.refresh_mut() {
            refresh.not_launched(error.message, now);
        }
        back_off(group, now);
    }
}

fn back_off(group: &mut Group, now: Timestamp) {
    let factor = 1 << group.failures.min(10);
    group.failures += 1;
    let pause = BACK_OFF
        .checked_mul(factor)
        .map_or(LONGEST_BACK_OFF, |pause| pause.min(LONGEST_BACK_OFF));
    group.retry_at = Some(now + pause);
}

/// Begins one lifecycle action for every hook of a transition.
fn hold(world: &mut World<'_>, group: &mut Group, id: &str, transition: Transition) {
    let mut held = Vec::new();
    for (name, hook) in &group.hooks {
        if hook.transition == transition {
            held.push(LifecycleAction {
                hook: name.clone(),
                token: world.state.new_uuid(),
                started: world.now,
                deadline: world.now + SignedDuration::from_secs(hook.heartbeat),
                end: world.now + SignedDuration::from_secs(hook.global_timeout()),
                default_result: hook.default_result,
                result: None,
            });
        }
    }
    let Some(member) = group.members.get_mut(id) else {
        return;
    };
    member.actions = held;
    member.lifecycle = match transition {
        Transition::Launching => Lifecycle::PendingWait,
        Transition::Terminating => Lifecycle::TerminatingWait,
    };
    let activity = member.activity.clone().unwrap_or_default();
    if let Some(activity) = group.activity(&activity) {
        activity.status = ActivityStatus::MidLifecycleAction;
        activity.progress = 60;
    }
}

fn enter(world: &mut World<'_>, group: &mut Group, id: &str, lifecycle: Lifecycle) {
    let Some(member) = group.members.get_mut(id) else {
        return;
    };
    member.lifecycle = lifecycle;
    if lifecycle != Lifecycle::InService {
        return;
    }
    member.actions.clear();
    member.in_service = Some(world.now);
    let member = member.clone();
    group.failures = 0;
    group.retry_at = None;
    activities::end(group, &member, ActivityStatus::Successful, None, world.now);
}

/// Begins to take an instance out.
fn retire(world: &mut World<'_>, group: &mut Group, id: &str, why: Why) {
    let at = activities::stamp(world.now);
    let capacity = group.capacity();
    let Some(member) = group.members.get(id).cloned() else {
        return;
    };
    let cause = match why {
        Why::ScaleIn => format!(
            "{}At {at} an instance was taken out of service in response to a difference between desired and actual \
             capacity, shrinking the capacity from {capacity} to {}.  At {at} instance {id} was selected for termination.",
            activities::reason(group),
            capacity.saturating_sub(1)
        ),
        Why::Failed => format!(
            "At {at} an instance was taken out of service in response to an EC2 health check indicating it has been \
             terminated or stopped."
        ),
        Why::Unhealthy => {
            format!(
                "At {at} an instance was taken out of service in response to a user health-check."
            )
        }
        Why::Abandoned => format!(
            "At {at} an instance was taken out of service in response to a lifecycle action that was abandoned."
        ),
        Why::Refresh => format!(
            "At {at} an instance was taken out of service in response to an instance refresh.  At {at} instance {id} was \
             selected for termination."
        ),
    };
    if let Some(failure) = complaint(world.state, &member, why)
        && let Some(refresh) = group.refresh_mut()
    {
        refresh.failed(id, member.in_service, failure, world.now);
    }
    if member.lifecycle.is_pending() {
        let message = match why {
            Why::Abandoned => "The lifecycle action was abandoned.".to_owned(),
            Why::ScaleIn => {
                "The desired capacity was lowered before the instance was in service.".to_owned()
            }
            Why::Refresh => {
                "An instance refresh was rolled back before the instance was in service.".to_owned()
            }
            Why::Failed | Why::Unhealthy => failure(world.state, id),
        };
        let status = if matches!(why, Why::ScaleIn | Why::Refresh) {
            ActivityStatus::Cancelled
        } else {
            back_off(group, world.now);
            ActivityStatus::Failed
        };
        activities::end(group, &member, status, Some(message), world.now);
    }
    take_out(world, group, id, cause);
}

/// What speaks against the configuration of an instance that is taken out, if anything does.
fn complaint(state: &State, member: &Member, why: Why) -> Option<String> {
    let id = &member.instance_id;
    match why {
        Why::ScaleIn | Why::Refresh => None,
        Why::Abandoned => Some(format!("{id}: its lifecycle action was abandoned.")),
        Why::Unhealthy => Some(format!("{id} is unhealthy.")),
        Why::Failed => Some(format!("{id}: {}", failure(state, id))),
    }
}

/// What EC2 says of an instance that failed.
fn failure(state: &State, id: &str) -> String {
    let reason = state
        .instances
        .get(id)
        .and_then(|instance| instance.state_reason.as_ref());
    let why = reason.map_or("it is gone", |reason| reason.message.as_str());
    format!("Instance failed to launch: {why}")
}

/// Begins the activity that takes an instance out; gives its id.
pub(super) fn take_out(
    world: &mut World<'_>,
    group: &mut Group,
    id: &str,
    cause: String,
) -> Option<String> {
    let description = format!("Terminating EC2 instance: {id}");
    let zone = group.members.get(id)?.zone.clone();
    let activity = activities::begin(world, group, Some(zone), description, cause);
    let member = group.members.get_mut(id)?;
    member.lifecycle = Lifecycle::Terminating;
    member.actions.clear();
    member.protected = false;
    member.activity = Some(activity.clone());
    if let Some(activity) = group.activity(&activity) {
        activity.status = ActivityStatus::InProgress;
    }
    Some(activity)
}
