//! Instances of groups: asking after them, launching, protecting, attaching, and taking them out.

use sha2::{Digest, Sha256};

use super::super::ec2::filters::Page;
use super::super::ec2::is_id;
use super::super::ec2::launch_templates;
use super::super::ec2::network::Place;
use super::super::engine::Call;
use super::super::state::{InstanceState, Token};
use super::super::wire::error::ApiError;
use super::super::wire::query::Params;
use super::super::wire::xml::Xml;
use super::engine::World;
use super::groups::{is_settled, show_member};
use super::records::{ActivityStatus, Group, Lifecycle, Member, TemplateName};
use super::{activities, engine, group_of, invalid, nothing, texts, with_group};

/// Instances in one `SetInstanceProtection` and in one `DescribeAutoScalingInstances` page.
const MOST: usize = 50;
/// Instances in one `AttachInstances`, `DetachInstances` or `…Standby`.
const MOVED: usize = 20;

pub(super) fn describe(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let ids = texts(&mut params, "InstanceIds", 1..=19)?;
    let page = Page::within(
        "DescribeAutoScalingInstances",
        &mut params,
        "MaxRecords",
        false,
        1..=MOST,
    )?;
    params.finish("")?;
    let groups = call.state.scaling.values();
    let mut rows: Vec<(&Group, &Member)> = groups
        .flat_map(|group| group.members.values().map(move |member| (group, member)))
        .filter(|(_, member)| ids.is_empty() || ids.contains(&member.instance_id))
        .collect();
    rows.sort_by(|a, b| a.1.instance_id.cmp(&b.1.instance_id));
    let (rows, token) = page.cut(rows, |(_, member)| &member.instance_id);
    let list = rows.into_iter().map(|(group, member)| {
        // This operation writes the health in capitals, `DescribeAutoScalingGroups` does not.
        let health = if member.healthy {
            "HEALTHY"
        } else {
            "UNHEALTHY"
        };
        let Xml::Children(mut children) = show_member(member) else {
            return nothing();
        };
        for (name, value) in &mut children {
            if *name == "HealthStatus" {
                *value = Xml::text(health);
            }
        }
        Xml::Children(children).with("AutoScalingGroupName", Xml::text(&group.name))
    });
    Ok(Xml::children([("AutoScalingInstances", Xml::members(list))]).with_some("NextToken", token))
}

/// The instance ids of a request, all of them of this group.
fn take_ids(params: &mut Params, most: usize) -> Result<Vec<String>, ApiError> {
    let ids = params.texts("InstanceIds.member");
    if ids.is_empty() {
        return Err(invalid(
            "The request must contain the parameter InstanceIds",
        ));
    }
    if ids.len() > most {
        return Err(invalid(format!(
            "The number of instance IDs ({}) exceeds the limit of {most}.",
            ids.len()
        )));
    }
    if let Some(odd) = ids.iter().find(|id| !is_id("i", id)) {
        return Err(invalid(format!("Invalid Instance ID: {odd}")));
    }
    Ok(ids)
}

fn check_members(group: &Group, ids: &[String]) -> Result<(), ApiError> {
    match ids.iter().find(|id| !group.members.contains_key(*id)) {
        Some(id) => Err(invalid(format!(
            "The instance {id} is not part of Auto Scaling group {}.",
            group.name
        ))),
        None => Ok(()),
    }
}

pub(super) fn protect(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let name = params.require("AutoScalingGroupName")?;
    let protected: bool = params
        .parsed("ProtectedFromScaleIn")?
        .ok_or_else(|| invalid("The request must contain the parameter ProtectedFromScaleIn"))?;
    let ids = take_ids(&mut params, MOST)?;
    params.finish("")?;
    with_group(call, &name, |_, group| {
        check_members(group, &ids)?;
        let mut members = ids.iter().filter_map(|id| group.members.get(id));
        if let Some(member) = members.find(|member| !is_settled(member)) {
            return Err(invalid(format!(
                "The instance {} is not in InService or EnteringStandby or Standby.",
                member.instance_id
            )));
        }
        for id in &ids {
            if let Some(member) = group.members.get_mut(id) {
                member.protected = protected;
            }
        }
        Ok(nothing())
    })
}

pub(super) fn set_health(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let id = params.require("InstanceId")?;
    let health = params.require("HealthStatus")?;
    let respect = params.parsed("ShouldRespectGracePeriod")?.unwrap_or(true);
    params.finish("")?;
    let healthy = match health.as_str() {
        "Healthy" => true,
        "Unhealthy" => false,
        other => {
            return Err(invalid(format!(
                "Value ({other}) for parameter HealthStatus is invalid. It must be Healthy or Unhealthy."
            )));
        }
    };
    let name = group_of(call.state, &id)?;
    with_group(call, &name, |world, group| {
        let grace = group.health_grace;
        if let Some(member) = group.members.get_mut(&id) {
            let age = world
                .now
                .duration_since(member.in_service.unwrap_or(world.now));
            let in_grace = respect && age.as_secs() < grace;
            if healthy || !in_grace {
                member.healthy = healthy;
            }
        }
        Ok(nothing())
    })
}

pub(super) fn terminate(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let id = params.require("InstanceId")?;
    let decrement: bool = params
        .parsed("ShouldDecrementDesiredCapacity")?
        .ok_or_else(|| {
            invalid("The request must contain the parameter ShouldDecrementDesiredCapacity")
        })?;
    let named = params.take("AutoScalingGroupName");
    params.finish("")?;
    let name = group_of(call.state, &id)?;
    if let Some(other) = named.filter(|named| *named != name) {
        return Err(invalid(format!(
            "The instance {id} is not part of Auto Scaling group {other}."
        )));
    }
    with_group(call, &name, |world, group| {
        let member = member(group, &id)?;
        if member.lifecycle.is_terminating() {
            return Err(ApiError::new(
                "ScalingActivityInProgress",
                format!("The instance {id} is being terminated by a scaling activity already."),
            ));
        }
        let counted = member.lifecycle.counts();
        let capacity = group.capacity();
        let at = activities::stamp(world.now);
        let mut cause =
            format!("At {at} instance {id} was taken out of service in response to a user request");
        if decrement && counted {
            decrease(group, 1)?;
            cause += &format!(
                ", shrinking the capacity from {capacity} to {}",
                capacity - 1
            );
        }
        abandon_launch(world, group, &id);
        let activity = engine::take_out(world, group, &id, cause + ".");
        let shown = activity
            .and_then(|activity| {
                let group = &*group;
                let mut all = group.activities.iter();
                all.find(|one| one.id == activity)
                    .map(|activity| activities::show(group, activity))
            })
            .ok_or_else(|| ApiError::internal(format!("the instance {id} vanished")))?;
        Ok(Xml::children([("Activity", shown)]))
    })
}

fn member<'a>(group: &'a Group, id: &str) -> Result<&'a Member, ApiError> {
    group
        .members
        .get(id)
        .ok_or_else(|| ApiError::internal(format!("the instance {id} vanished")))
}

/// An instance that is taken out before it is in service ends the activity that launches it.
fn abandon_launch(world: &World<'_>, group: &mut Group, id: &str) {
    if let Some(member) = group.members.get(id).cloned()
        && member.lifecycle.is_pending()
    {
        let message = "The instance was taken out before it was in service.".to_owned();
        let status = ActivityStatus::Cancelled;
        activities::end(group, &member, status, Some(message), world.now);
    }
}

/// Lowers the desired capacity, not below the minimum.
fn decrease(group: &mut Group, by: usize) -> Result<(), ApiError> {
    if group.desired < group.min + by {
        return Err(invalid(format!(
            "Currently, desiredSize equals minSize ({}). Terminating instance without replacement will violate group's \
             min size constraint. Either set shouldDecrementDesiredCapacity flag to false or lower group's min size.",
            group.min
        )));
    }
    group.desired -= by;
    Ok(())
}

pub(super) fn launch(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let request = hex::encode(Sha256::digest(format!("{params:?}")));
    let name = params.require("AutoScalingGroupName")?;
    let token = params.require("ClientToken")?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_/".contains(c);
    if token.len() > 64 || !token.chars().all(allowed) {
        return Err(invalid(format!(
            "Value ({token}) for parameter ClientToken is invalid. It has at most 64 letters, digits, -, _ and /."
        )));
    }
    let count: usize = params
        .parsed("RequestedCapacity")?
        .filter(|count| (1..=100).contains(count))
        .ok_or_else(|| invalid("RequestedCapacity must be from 1 to 100."))?;
    let zone = take_zone(call.region, &mut params)?;
    if let Some(other) = params
        .take("RetryStrategy")
        .filter(|strategy| strategy != "none")
    {
        return Err(invalid(format!(
            "Value ({other}) for parameter RetryStrategy is invalid. The local cloud has none."
        )));
    }
    params.finish("")?;
    let zone = launch_zone(super::group(call.state, &name)?, zone)?;
    let place = Place::of_zone(call.region, &zone).ok_or_else(|| {
        invalid(format!(
            "The zone {zone} is not in the region {}.",
            call.region
        ))
    })?;
    let key = format!("LaunchInstances/{name}/{token}");
    if let Some(known) = call.state.tokens.get(&key) {
        if known.request != request {
            return Err(ApiError::new(
                "IdempotentParameterMismatch",
                "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
            ));
        }
        let ids: Vec<String> = known.made.split(' ').map(str::to_owned).collect();
        return Ok(launched(call, &name, &token, place, Ok(&ids)));
    }
    let outcome = with_group(call, &name, |world, group| {
        if group.desired + count > group.max {
            return Err(invalid(format!(
                "Launching {count} instances would bring the group to {}, above its max size of {}.",
                group.desired + count,
                group.max
            )));
        }
        if !group.runs("Launch") {
            return Err(invalid("The Launch process of the group is suspended."));
        }
        let cause = format!(
            "At {} an instance was started in response to a LaunchInstances request",
            activities::stamp(world.now)
        );
        let made = engine::launch_in(world, group, &zone, count, &cause);
        group.desired += made.as_ref().map_or(0, Vec::len);
        Ok(made)
    })?;
    if let Ok(ids) = &outcome {
        let made = ids.join(" ");
        call.state.tokens.insert(key, Token { request, made });
    }
    let outcome = outcome.as_deref();
    Ok(launched(call, &name, &token, place, outcome))
}

/// The zone that `LaunchInstances` names, by itself or by its subnet; each list has one at most (botocore,
/// `AvailabilityZonesLimit1`, `SubnetIdsLimit1`).
fn take_zone(region: &str, params: &mut Params) -> Result<Option<String>, ApiError> {
    let zones = params.texts("AvailabilityZones.member");
    let subnets = params.texts("SubnetIds.member");
    if zones.len() > 1 || subnets.len() > 1 {
        return Err(invalid(
            "AvailabilityZones and SubnetIds have one member at most.",
        ));
    }
    let by_subnet = match subnets.first() {
        None => None,
        Some(subnet) => {
            let place = Place::of_subnet(region, subnet).map_err(|error| invalid(error.message))?;
            Some(place.zone(region))
        }
    };
    match (zones.into_iter().next(), by_subnet) {
        (Some(zone), Some(other)) if zone != other => {
            Err(invalid(format!("The subnet is in {other}, not in {zone}.")))
        }
        (zone, by_subnet) => Ok(zone.or(by_subnet)),
    }
}

/// A group with several zones must be told which (botocore, `LaunchInstancesRequest`).
fn launch_zone(group: &Group, asked: Option<String>) -> Result<String, ApiError> {
    let has = group.zones.join(", ");
    match asked {
        Some(zone) if group.zones.contains(&zone) => Ok(zone),
        Some(zone) => Err(invalid(format!(
            "The zone {zone} is not one of the group's; it has {has}."
        ))),
        None => match group.zones.as_slice() {
            [zone] => Ok(zone.clone()),
            _ => Err(invalid(format!(
                "Either AvailabilityZones or SubnetIds must be specified: the group has {has}."
            ))),
        },
    }
}

/// `LaunchInstancesResult`.
fn launched(
    call: &Call<'_>,
    group: &str,
    token: &str,
    place: &Place,
    outcome: Result<&[String], &ApiError>,
) -> Xml {
    let market = call.state.scaling.get(group).map(engine::reference);
    let market = market.and_then(|one| launch_templates::resolve(call.state, &one).ok());
    let market = market.and_then(|found| {
        let name = "InstanceMarketOptions.MarketType";
        found.parameters.get(name).cloned()
    });
    let market = match market.as_deref() {
        Some("spot") => "Spot",
        _ => "OnDemand",
    };
    let place = || {
        Xml::children([
            ("SubnetId", Xml::text(place.subnet(call.region))),
            ("AvailabilityZone", Xml::text(place.zone(call.region))),
            ("MarketType", Xml::text(market)),
        ])
    };
    let (mut instances, mut errors) = (Vec::new(), Vec::new());
    match outcome {
        Ok(ids) => {
            let kind = ids.first().and_then(|id| call.state.instances.get(id));
            instances.push(
                place()
                    .with_some(
                        "InstanceType",
                        kind.map(|instance| Xml::text(&instance.instance_type)),
                    )
                    .with("InstanceIds", Xml::members(ids.iter().map(Xml::text))),
            );
        }
        Err(error) => errors.push(
            place()
                .with("ErrorCode", Xml::text(&error.code))
                .with("ErrorMessage", Xml::text(&error.message)),
        ),
    }
    Xml::children([
        ("AutoScalingGroupName", Xml::text(group)),
        ("ClientToken", Xml::text(token)),
        ("Instances", Xml::members(instances)),
        ("Errors", Xml::members(errors)),
    ])
}

pub(super) fn attach(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let name = params.require("AutoScalingGroupName")?;
    let ids = take_ids(&mut params, MOVED)?;
    params.finish("")?;
    for id in &ids {
        if let Ok(other) = group_of(call.state, id) {
            return Err(invalid(format!(
                "The instance {id} is already part of AutoScalingGroup:{other}"
            )));
        }
        match call.state.instances.get(id).map(|instance| instance.state) {
            Some(InstanceState::Running) => {}
            Some(_) => {
                return Err(invalid(format!(
                    "The instance {id} is not in correct state. Instance(s) must be in 'running' state."
                )));
            }
            None => return Err(invalid(format!("Invalid Instance ID(s): [{id}] specified"))),
        }
    }
    with_group(call, &name, |world, group| {
        if group.desired + ids.len() > group.max {
            return Err(invalid(format!(
                "AutoScalingGroup: {name}'s desired size {} plus {} would exceed its max size {}.",
                group.desired,
                ids.len(),
                group.max
            )));
        }
        for id in ids {
            let Some(instance) = world.state.instances.get_mut(&id) else {
                continue;
            };
            // From now on the group looks after it.
            instance.owner = None;
            instance
                .tags
                .insert("aws:autoscaling:groupName".to_owned(), name.clone());
            let tag = |key: &str| instance.tags.get(key).cloned();
            let template = TemplateName {
                id: tag("aws:ec2launchtemplate:id").unwrap_or_else(|| group.template.id.clone()),
                name: group.template.name.clone(),
                version: tag("aws:ec2launchtemplate:version").unwrap_or_default(),
            };
            let (kind, zone) = (
                instance.instance_type.clone(),
                instance.availability_zone.clone(),
            );
            let cause = format!(
                "At {} an instance was added in response to user request. Keeping the capacity at the new {}.",
                activities::stamp(world.now),
                group.desired + 1
            );
            let description = format!("Attaching an existing EC2 instance: {id}");
            let activity = activities::begin(world, group, Some(zone.clone()), description, cause);
            group.desired += 1;
            let member = Member {
                instance_id: id.clone(),
                instance_type: kind,
                zone,
                template,
                lifecycle: Lifecycle::Pending,
                healthy: true,
                protected: group.protect_new,
                joined: world.now,
                in_service: None,
                actions: Vec::new(),
                activity: Some(activity),
            };
            group.members.insert(id, member);
        }
        Ok(nothing())
    })
}

/// What `DetachInstances`, `EnterStandby` and `ExitStandby` take.
struct Move {
    name: String,
    ids: Vec<String>,
    decrement: bool,
}

impl Move {
    fn take(params: &mut Params, with_decrement: bool) -> Result<Self, ApiError> {
        let name = params.require("AutoScalingGroupName")?;
        let ids = take_ids(params, MOVED)?;
        let decrement = if with_decrement {
            params
                .parsed("ShouldDecrementDesiredCapacity")?
                .ok_or_else(|| {
                    invalid("The request must contain the parameter ShouldDecrementDesiredCapacity")
                })?
        } else {
            false
        };
        params.finish("")?;
        Ok(Self {
            name,
            ids,
            decrement,
        })
    }

    fn check(&self, group: &Group, from: Lifecycle) -> Result<(), ApiError> {
        check_members(group, &self.ids)?;
        for id in &self.ids {
            let state = member(group, id)?.lifecycle;
            if state != from {
                return Err(invalid(format!(
                    "The instance {id} is not in {}; it is {}.",
                    from.name(),
                    state.name()
                )));
            }
        }
        Ok(())
    }
}

/// Does something to every instance and shows the activities of it.
fn each(
    world: &mut World<'_>,
    group: &mut Group,
    moved: &Move,
    what: (&str, &str),
    act: impl Fn(&mut World<'_>, &mut Group, &str),
) -> Xml {
    let mut shown = Vec::new();
    for id in &moved.ids {
        let (doing, cause) = what;
        let cause = format!(
            "At {} instance {id} was {cause} in response to a user request.",
            activities::stamp(world.now)
        );
        let zone = group.members.get(id).map(|member| member.zone.clone());
        let activity = activities::begin(world, group, zone, format!("{doing}: {id}"), cause);
        act(world, group, id);
        let now = world.now;
        if let Some(record) = group.activity(&activity) {
            record.status = ActivityStatus::Successful;
            record.ended = Some(now);
            record.progress = 100;
            let record = record.clone();
            shown.push(activities::show(group, &record));
        }
    }
    Xml::children([("Activities", Xml::members(shown))])
}

pub(super) fn detach(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let moved = Move::take(&mut params, true)?;
    with_group(call, &moved.name.clone(), |world, group| {
        moved.check(group, Lifecycle::InService)?;
        if moved.decrement {
            decrease(group, moved.ids.len())?;
        }
        let what = ("Detaching EC2 instance", "detached");
        Ok(each(world, group, &moved, what, |world, group, id| {
            group.members.remove(id);
            if let Some(instance) = world.state.instances.get_mut(id) {
                instance.tags.remove("aws:autoscaling:groupName");
                // Whoever detached it looks after it.
                instance.owner = Some(world.process);
            }
        }))
    })
}

pub(super) fn enter_standby(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let moved = Move::take(&mut params, true)?;
    with_group(call, &moved.name.clone(), |world, group| {
        moved.check(group, Lifecycle::InService)?;
        if moved.decrement {
            decrease(group, moved.ids.len())?;
        }
        let what = ("Moving EC2 instance to Standby", "moved to standby");
        Ok(each(world, group, &moved, what, |_, group, id| {
            if let Some(member) = group.members.get_mut(id) {
                member.lifecycle = Lifecycle::Standby;
            }
        }))
    })
}

pub(super) fn exit_standby(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let moved = Move::take(&mut params, false)?;
    with_group(call, &moved.name.clone(), |world, group| {
        moved.check(group, Lifecycle::Standby)?;
        if group.desired + moved.ids.len() > group.max {
            return Err(invalid(format!(
                "AutoScalingGroup: {}'s desired size {} plus {} would exceed its max size {}.",
                group.name,
                group.desired,
                moved.ids.len(),
                group.max
            )));
        }
        let what = ("Moving EC2 instance out of Standby", "moved out of standby");
        Ok(each(world, group, &moved, what, |_, group, id| {
            group.desired += 1;
            if let Some(member) = group.members.get_mut(id) {
                member.lifecycle = Lifecycle::InService;
            }
        }))
    })
}
