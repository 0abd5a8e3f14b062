//! Groups: making, changing, showing and deleting them.

use std::collections::BTreeMap;

use super::super::ACCOUNT_ID;
use super::super::ec2::filters::{self, Page};
use super::super::ec2::launch_templates::{self, Reference, Resolved};
use super::super::ec2::network::{self, Place};
use super::super::ec2::resolve_image;
use super::super::ec2::settings::Settings;
use super::super::engine::Call;
use super::super::quotas::{self, Quota};
use super::super::state::State;
use super::super::wire::error::ApiError;
use super::super::wire::query::Params;
use super::super::wire::xml::Xml;
use super::records::{Group, GroupTag, Lifecycle, Member, TemplateName};
use super::{activities, engine, hooks, invalid, nothing, tags, texts, time, with_group};

/// Termination policies that groups here have; the user guide lists them under "Termination policies".
const POLICIES: &[&str] = &[
    "Default",
    "OldestInstance",
    "NewestInstance",
    "OldestLaunchTemplate",
    "ClosestToNextInstanceHour",
];
/// `DefaultCooldown` of a group that names none.
const COOLDOWN: i64 = 300;

/// What `CreateAutoScalingGroup` and `UpdateAutoScalingGroup` share.
#[derive(Debug, Default)]
struct Settled {
    min: Option<usize>,
    max: Option<usize>,
    desired: Option<usize>,
    template: Option<TemplateName>,
    zones: Vec<String>,
    subnets: Option<String>,
    cooldown: Option<i64>,
    health_grace: Option<i64>,
    /// The inner `None`: -1 takes it back.
    warmup: Option<Option<i64>>,
    protect_new: Option<bool>,
    policies: Vec<String>,
    context: Option<String>,
}

impl Settled {
    fn take(call: &Call<'_>, params: &mut Params) -> Result<Self, ApiError> {
        let mut template = params.structure("LaunchTemplate");
        let reference = Reference::take(&mut template)?;
        template.finish("LaunchTemplate")?;
        let zones = params.texts("AvailabilityZones.member");
        let subnets = params.take("VPCZoneIdentifier");
        let zones = settle_zones(call.region, zones, subnets.as_deref())?;
        if let Some(kind) = params.take("HealthCheckType").filter(|kind| kind != "EC2") {
            return Err(invalid(format!(
                "Value ({kind}) for parameter HealthCheckType is invalid. The local cloud has EC2."
            )));
        }
        let policies = params.texts("TerminationPolicies.member");
        if let Some(other) = policies
            .iter()
            .find(|policy| !POLICIES.contains(&policy.as_str()))
        {
            return Err(invalid(format!(
                "Invalid termination policy: {other}; the local cloud has {}",
                POLICIES.join(", ")
            )));
        }
        let seconds = |params: &mut Params, name: &str, least: i64| {
            let value: Option<i64> = params.parsed(name)?;
            match value.filter(|value| *value < least) {
                Some(value) => Err(invalid(format!(
                    "Value ({value}) for parameter {name} is invalid. It must be at least {least}."
                ))),
                None => Ok(value),
            }
        };
        let warmup = seconds(params, "DefaultInstanceWarmup", -1)?;
        Ok(Self {
            min: params.parsed("MinSize")?,
            max: params.parsed("MaxSize")?,
            desired: params.parsed("DesiredCapacity")?,
            template: reference
                .map(|reference| check_template(call.state, call.region, &reference))
                .transpose()?,
            zones,
            subnets,
            cooldown: seconds(params, "DefaultCooldown", 0)?,
            health_grace: seconds(params, "HealthCheckGracePeriod", 0)?,
            warmup: warmup.map(|seconds| Some(seconds).filter(|seconds| *seconds >= 0)),
            protect_new: params.parsed("NewInstancesProtectedFromScaleIn")?,
            policies,
            context: params.take("Context"),
        })
    }
}

/// The zones of a group: those named, which must be the zones of its subnets if it names both; empty if neither is.
fn settle_zones(
    region: &str,
    named: Vec<String>,
    subnets: Option<&str>,
) -> Result<Vec<String>, ApiError> {
    if let Some(other) = named
        .iter()
        .find(|name| Place::of_zone(region, name).is_none())
    {
        return Err(invalid(format!(
            "Invalid availability zones: {other}; the local cloud has {}",
            network::zones(region).join(", ")
        )));
    }
    let mut zones = Vec::new();
    for subnet in subnets.into_iter().flat_map(|subnets| subnets.split(',')) {
        let place =
            Place::of_subnet(region, subnet.trim()).map_err(|error| invalid(error.message))?;
        zones.push(place.zone(region));
    }
    if zones.is_empty() {
        zones = named;
    } else if let Some(other) = named.iter().find(|name| !zones.contains(name)) {
        return Err(invalid(format!(
            "The availability zones of the specified subnets and the Auto Scaling group do not match: {other}"
        )));
    }
    zones.sort();
    zones.dedup();
    Ok(zones)
}

/// The template as a group keeps it, once something could be launched from it.
pub(super) fn check_template(
    state: &State,
    region: &str,
    reference: &Reference,
) -> Result<TemplateName, ApiError> {
    let found = launch_templates::resolve(state, reference)?;
    check_launchable(state, region, &found)?;
    Ok(TemplateName {
        id: found.id,
        name: found.name,
        version: reference
            .version
            .clone()
            .unwrap_or_else(|| "$Default".to_owned()),
    })
}

/// Refuses a template whose image is missing, as Auto Scaling does when a group is made.
fn check_launchable(state: &State, region: &str, found: &Resolved) -> Result<(), ApiError> {
    let mut params = Params::from(found.parameters.clone());
    let settings = Settings::take(region, &mut params)?;
    let image = settings.image_id;
    let image = image.and_then(|id| resolve_image(state, &id).ok());
    let image = image.filter(|id| state.images.contains_key(id));
    match image {
        Some(_) => Ok(()),
        None => Err(invalid(
            "You must use a valid fully-formed launch template. The template names no image, or one that does not exist.",
        )),
    }
}

fn check_sizes(min: usize, max: usize, desired: usize) -> Result<(), ApiError> {
    if max < min {
        return Err(invalid(format!(
            "Max bound, {max}, must be greater than or equal to min bound, {min}"
        )));
    }
    if !(min..=max).contains(&desired) {
        return Err(invalid(format!(
            "Desired capacity:{desired} must be between the specified min size:{min} and max size:{max}"
        )));
    }
    Ok(())
}

/// Names have 1 to 255 characters, without control characters (botocore, `XmlStringMaxLen255`), and no colon.
fn check_name(name: &str) -> Result<(), ApiError> {
    let fine = |c: char| !c.is_control() && c != ':';
    if (1..=255).contains(&name.chars().count()) && name.chars().all(fine) {
        Ok(())
    } else {
        Err(invalid(format!(
            "Value ({name}) for parameter AutoScalingGroupName is invalid. It has 1 to 255 characters without colons."
        )))
    }
}

pub(super) fn create(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let name = params.require("AutoScalingGroupName")?;
    check_name(&name)?;
    let settled = Settled::take(call, &mut params)?;
    let hooks = hooks::take_specifications(&mut params)?;
    let tags: BTreeMap<String, GroupTag> = tags::take(&mut params, Some(&name))?
        .into_iter()
        .map(|(_, key, tag)| (key, tag))
        .collect();
    params.finish("")?;
    if call.state.scaling.contains_key(&name) {
        return Err(ApiError::new(
            "AlreadyExists",
            format!(
                "AutoScalingGroup by this name already exists - A group with the name {name} already exists"
            ),
        ));
    }
    quotas::check(call, Quota::AutoScalingGroups, call.state.scaling.len())?;
    let (Some(min), Some(max)) = (settled.min, settled.max) else {
        return Err(invalid(
            "The request must contain the parameters MinSize and MaxSize",
        ));
    };
    let desired = settled.desired.unwrap_or(min);
    check_sizes(min, max, desired)?;
    let template = settled.template.ok_or_else(|| {
        invalid(
            "Valid requests must contain either LaunchTemplate, LaunchConfigurationName, InstanceId or \
             MixedInstancesPolicy parameter; the local cloud takes LaunchTemplate.",
        )
    })?;
    if settled.zones.is_empty() {
        return Err(invalid(
            "At least one Availability Zone or VPC Subnet is required.",
        ));
    }
    let id = call.state.new_uuid();
    let region = call.region.to_owned();
    let group = Group {
        arn: format!(
            "arn:aws:autoscaling:{region}:{ACCOUNT_ID}:autoScalingGroup:{id}:autoScalingGroupName/{name}"
        ),
        created: call.now,
        min,
        max,
        desired,
        template,
        zones: settled.zones,
        subnets: settled.subnets,
        region,
        cooldown: settled.cooldown.unwrap_or(COOLDOWN),
        health_grace: settled.health_grace.unwrap_or(0),
        warmup: settled.warmup.flatten(),
        protect_new: settled.protect_new.unwrap_or(false),
        termination_policies: if settled.policies.is_empty() {
            vec!["Default".to_owned()]
        } else {
            settled.policies
        },
        tags,
        context: settled.context,
        suspended: BTreeMap::new(),
        hooks,
        members: BTreeMap::new(),
        activities: Vec::new(),
        deleting: false,
        reason: Some(format!(
            "At {} a user request created an AutoScalingGroup changing the desired capacity from 0 to {desired}.",
            activities::stamp(call.now)
        )),
        failures: 0,
        retry_at: None,
        scaled_at: None,
        refreshes: Vec::new(),
        name: name.clone(),
    };
    call.state.scaling.insert(name, group);
    Ok(nothing())
}

pub(super) fn update(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let name = params.require("AutoScalingGroupName")?;
    let settled = Settled::take(call, &mut params)?;
    params.finish("")?;
    with_group(call, &name, |world, group| {
        let min = settled.min.unwrap_or(group.min);
        let max = settled.max.unwrap_or(group.max);
        // A capacity that is not asked for follows the bounds (`UpdateAutoScalingGroup`).
        let follows = group.desired.max(min).min(max.max(min));
        let desired = settled.desired.unwrap_or(follows);
        check_sizes(min, max, desired)?;
        if desired != group.desired {
            group.reason = Some(format!(
                "At {} a user request update of AutoScalingGroup constraints to min: {min}, max: {max}, desired: \
                 {desired} changing the desired capacity from {} to {desired}.",
                activities::stamp(world.now),
                group.desired
            ));
        }
        (group.min, group.max, group.desired) = (min, max, desired);
        if let Some(template) = settled.template {
            check_unrefreshed(group)?;
            group.template = template;
            // What failed before may work now.
            group.retry_at = None;
        }
        if !settled.zones.is_empty() {
            group.zones = settled.zones;
            group.subnets = settled.subnets;
        }
        group.cooldown = settled.cooldown.unwrap_or(group.cooldown);
        group.health_grace = settled.health_grace.unwrap_or(group.health_grace);
        group.warmup = settled.warmup.unwrap_or(group.warmup);
        group.protect_new = settled.protect_new.unwrap_or(group.protect_new);
        if !settled.policies.is_empty() {
            group.termination_policies = settled.policies;
        }
        if settled.context.is_some() {
            group.context = settled.context;
        }
        Ok(nothing())
    })
}

/// Refuses a new template while a refresh is on its way to another one (User Guide, "How an instance refresh works",
/// "Update restriction").
fn check_unrefreshed(group: &Group) -> Result<(), ApiError> {
    match group.refresh().and_then(|refresh| refresh.desired.as_ref()) {
        Some(_) => Err(invalid(
            "An active instance refresh with a desired configuration exists. All configuration options derived from the \
             desired configuration are not available for update while the instance refresh is active.",
        )),
        None => Ok(()),
    }
}

pub(super) fn set_desired(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let name = params.require("AutoScalingGroupName")?;
    let desired: usize = params
        .parsed("DesiredCapacity")?
        .ok_or_else(|| invalid("The request must contain the parameter DesiredCapacity"))?;
    let honor_cooldown = params.flag("HonorCooldown")?;
    params.finish("")?;
    with_group(call, &name, |world, group| {
        if desired > group.max {
            return Err(invalid(format!(
                "New SetDesiredCapacity value {desired} is above max value {} for the AutoScalingGroup.",
                group.max
            )));
        }
        if desired < group.min {
            return Err(invalid(format!(
                "New SetDesiredCapacity value {desired} is below min value {} for the AutoScalingGroup.",
                group.min
            )));
        }
        let cooling = group
            .scaled_at
            .filter(|at| world.now.duration_since(*at).as_secs() < group.cooldown);
        if honor_cooldown && cooling.is_some() {
            return Err(ApiError::new(
                "ScalingActivityInProgress",
                "Scaling activity is in progress: the cooldown period of the group has not ended",
            ));
        }
        if desired != group.desired {
            group.reason = Some(format!(
                "At {} a user request explicitly set group desired capacity changing the desired capacity from {} to \
                 {desired}.",
                activities::stamp(world.now),
                group.desired
            ));
            group.scaled_at = Some(world.now);
        }
        group.desired = desired;
        Ok(nothing())
    })
}

pub(super) fn delete(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let name = params.require("AutoScalingGroupName")?;
    let force = params.flag("ForceDelete")?;
    params.finish("")?;
    with_group(call, &name, |world, group| {
        if !group.members.is_empty() && !force {
            return Err(ApiError::new(
                "ResourceInUse",
                "You cannot delete an AutoScalingGroup while there are instances or pending Spot instance request(s) \
                 still in the group.",
            ));
        }
        // Without waiting for lifecycle actions (`DeleteAutoScalingGroup`, `ForceDelete`).
        group.hooks.clear();
        group.deleting = true;
        (group.min, group.desired) = (0, 0);
        group.suspended.clear();
        let cause = format!(
            "At {} a user request force deleted the AutoScalingGroup.",
            activities::stamp(world.now)
        );
        let ids: Vec<String> = group
            .members
            .values_mut()
            .filter_map(|member| {
                if member.lifecycle.is_terminating() {
                    for action in &mut member.actions {
                        action.result.get_or_insert(action.default_result);
                    }
                    return None;
                }
                Some(member.instance_id.clone())
            })
            .collect();
        for id in ids {
            engine::take_out(world, group, &id, cause.clone());
        }
        Ok(nothing())
    })
}

/// `LaunchTemplateSpecification`.
pub(super) fn show_template(template: &TemplateName) -> Xml {
    Xml::children([
        ("LaunchTemplateId", Xml::text(&template.id)),
        ("LaunchTemplateName", Xml::text(&template.name)),
        ("Version", Xml::text(&template.version)),
    ])
}

/// The members that `Instance` and `AutoScalingInstanceDetails` share.
pub(super) fn show_member(member: &Member) -> Xml {
    let health = if member.healthy {
        "Healthy"
    } else {
        "Unhealthy"
    };
    Xml::children([
        ("InstanceId", Xml::text(&member.instance_id)),
        ("InstanceType", Xml::text(&member.instance_type)),
        ("AvailabilityZone", Xml::text(&member.zone)),
        ("LifecycleState", Xml::text(member.lifecycle.name())),
        ("HealthStatus", Xml::text(health)),
        ("LaunchTemplate", show_template(&member.template)),
        ("ProtectedFromScaleIn", Xml::text(member.protected)),
    ])
}

fn show(group: &Group, with_instances: bool) -> Xml {
    let texts = |texts: &[String]| Xml::members(texts.iter().map(Xml::text));
    let instances = group.members.values().filter(|_| with_instances);
    let suspended = group.suspended.iter().map(|(process, reason)| {
        Xml::children([
            ("ProcessName", Xml::text(process)),
            ("SuspensionReason", Xml::text(reason)),
        ])
    });
    let tags = group
        .tags
        .iter()
        .map(|(key, tag)| tags::show(&group.name, key, tag));
    Xml::children([
        ("AutoScalingGroupName", Xml::text(&group.name)),
        ("AutoScalingGroupARN", Xml::text(&group.arn)),
        ("LaunchTemplate", show_template(&group.template)),
        ("MinSize", Xml::text(group.min)),
        ("MaxSize", Xml::text(group.max)),
        ("DesiredCapacity", Xml::text(group.desired)),
        ("DefaultCooldown", Xml::text(group.cooldown)),
        ("AvailabilityZones", texts(&group.zones)),
        ("LoadBalancerNames", texts(&[])),
        ("TargetGroupARNs", texts(&[])),
        ("HealthCheckType", Xml::text("EC2")),
        ("HealthCheckGracePeriod", Xml::text(group.health_grace)),
        ("Instances", Xml::members(instances.map(show_member))),
        ("CreatedTime", time(group.created)),
        ("SuspendedProcesses", Xml::members(suspended)),
        (
            "VPCZoneIdentifier",
            Xml::text(group.subnets.as_deref().unwrap_or("")),
        ),
        ("EnabledMetrics", texts(&[])),
        ("Tags", Xml::members(tags)),
        ("TerminationPolicies", texts(&group.termination_policies)),
        (
            "NewInstancesProtectedFromScaleIn",
            Xml::text(group.protect_new),
        ),
        (
            "ServiceLinkedRoleARN",
            Xml::text(format!(
                "arn:aws:iam::{ACCOUNT_ID}:role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling"
            )),
        ),
        ("TrafficSources", texts(&[])),
    ])
    .with_some(
        "Status",
        group.deleting.then(|| Xml::text("Delete in progress")),
    )
    .with_some("DefaultInstanceWarmup", group.warmup.map(Xml::text))
    .with_some("Context", group.context.as_ref().map(Xml::text))
}

/// Whether a group's tags match `Filters` (`DescribeAutoScalingGroups`): `tag-key`, `tag-value`, `tag:<key>`.
fn matches(group: &Group, filter: &(String, Vec<String>)) -> bool {
    let (name, values) = filter;
    let any = |text: &str| values.iter().any(|value| filters::matches(value, text));
    match name.strip_prefix("tag:") {
        Some(key) => group.tags.get(key).is_some_and(|tag| any(&tag.value)),
        None if name == "tag-key" => group.tags.keys().any(|key| any(key)),
        None => group.tags.values().any(|tag| any(&tag.value)),
    }
}

pub(super) fn describe(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let names = texts(&mut params, "AutoScalingGroupNames", 1..=255)?;
    let with_instances = params.parsed("IncludeInstances")?.unwrap_or(true);
    let filters = tags::take_filters(&mut params, &["tag-key", "tag-value"], true)?;
    let page = Page::within(
        "DescribeAutoScalingGroups",
        &mut params,
        "MaxRecords",
        false,
        1..=100,
    )?;
    params.finish("")?;
    // Names that are not there are passed over, without an error.
    let groups = call.state.scaling.values().filter(|group| {
        (names.is_empty() || names.contains(&group.name))
            && filters.iter().all(|filter| matches(group, filter))
    });
    let (groups, token) = page.cut(groups.collect(), |group| &group.name);
    let list = Xml::members(groups.into_iter().map(|group| show(group, with_instances)));
    Ok(Xml::children([("AutoScalingGroups", list)]).with_some("NextToken", token))
}

/// Whether a member serves, or is on standby.
pub(super) fn is_settled(member: &Member) -> bool {
    matches!(member.lifecycle, Lifecycle::InService | Lifecycle::Standby)
}
