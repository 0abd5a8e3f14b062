//! The requests: starting, showing, cancelling and rolling back.

use jiff::{SignedDuration, Timestamp};

use super::super::super::ec2::filters::Page;
use super::super::super::ec2::launch_templates::{self, Name, Reference};
use super::super::super::engine::Call;
use super::super::super::state::State;
use super::super::super::wire::error::ApiError;
use super::super::super::wire::query::Params;
use super::super::super::wire::xml::Xml;
use super::super::groups::{check_template, show_template};
use super::super::records::{Group, TemplateName};
use super::super::{invalid, texts, time, with_group};
use super::records::{OfProtected, OfStandby, Preferences, Refresh, Rollback, Status};

/// How long refreshes are kept (`DescribeInstanceRefreshes`).
const KEPT: SignedDuration = SignedDuration::from_hours(6 * 7 * 24);
/// Refreshes on a page by default, and at the most (`DescribeInstanceRefreshes`, `MaxRecords`).
const PAGE: usize = 50;
const MOST: usize = 100;
/// The longest `CheckpointDelay` and `BakeTime` in seconds.
const LONGEST: i64 = 172_800;
/// `CheckpointDelay` where percentages are given without one.
const DELAY: i64 = 3600;
/// `MinHealthyPercentage` without an instance maintenance policy, which groups here do not have.
const MIN_HEALTHY: usize = 90;

/// A number within its limits.
fn number<T>(params: &mut Params, name: &str, least: T, most: T) -> Result<Option<T>, ApiError>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display + Copy,
{
    let value: Option<T> = params.parsed(name)?;
    match value.filter(|value| *value < least || *value > most) {
        Some(value) => Err(invalid(format!(
            "Value ({value}) for parameter {name} is invalid. It must be from {least} to {most}."
        ))),
        None => Ok(value),
    }
}

/// One of a few words.
fn word<T: Copy>(
    params: &mut Params,
    name: &str,
    words: [(&str, T); 3],
) -> Result<Option<T>, ApiError> {
    let Some(value) = params.take(name) else {
        return Ok(None);
    };
    let found = words.iter().find(|(word, _)| *word == value);
    found.map(|(_, meaning)| Some(*meaning)).ok_or_else(|| {
        let allowed = words.map(|(word, _)| word).join(", ");
        invalid(format!(
            "Value '{value}' at '{name}' failed to satisfy constraint: Member must satisfy enum value set: [{allowed}]"
        ))
    })
}

fn take_checkpoints(params: &mut Params) -> Result<Vec<usize>, ApiError> {
    let texts = params.texts("CheckpointPercentages.member");
    let points: Vec<usize> = texts
        .iter()
        .filter_map(|text| text.parse().ok())
        .filter(|percent| (1..=100).contains(percent))
        .collect();
    let ascends = points.windows(2).all(|pair| pair[0] < pair[1]);
    if points.len() == texts.len() && ascends {
        Ok(points)
    } else {
        Err(invalid(format!(
            "CheckpointPercentages must be unique numbers from 1 to 100 in ascending order, not {}.",
            texts.join(", ")
        )))
    }
}

/// Takes `RefreshPreferences` for a group whose instances warm up in `warmup` seconds.
fn take_preferences(params: &mut Params, warmup: i64) -> Result<Preferences, ApiError> {
    let mut given = params.structure("Preferences");
    let alarms = given.structure("AlarmSpecification").into_map();
    if let Some(name) = alarms.into_values().next() {
        return Err(invalid(format!(
            "Preferences.AlarmSpecification names the alarm {name}; the local cloud has no CloudWatch alarms. Leave it \
             out."
        )));
    }
    let min_healthy = number(&mut given, "MinHealthyPercentage", 0, 100)?;
    let max_healthy = number(&mut given, "MaxHealthyPercentage", 100, 200)?;
    if let Some(max) = max_healthy {
        let Some(min) = min_healthy else {
            return Err(invalid(
                "If you specify MaxHealthyPercentage, you must also specify MinHealthyPercentage.",
            ));
        };
        if max - min > 100 {
            return Err(invalid(format!(
                "The difference between MaxHealthyPercentage ({max}) and MinHealthyPercentage ({min}) cannot be greater \
                 than 100."
            )));
        }
    }
    let checkpoints = take_checkpoints(&mut given)?;
    let delay = number(&mut given, "CheckpointDelay", 0, LONGEST)?;
    if delay.is_some() && checkpoints.is_empty() {
        return Err(invalid(
            "If you specify CheckpointDelay, you must also specify CheckpointPercentages.",
        ));
    }
    let protected = [OfProtected::Refresh, OfProtected::Ignore, OfProtected::Wait];
    let standby = [OfStandby::Terminate, OfStandby::Ignore, OfStandby::Wait];
    let preferences = Preferences {
        min_healthy: min_healthy.unwrap_or(MIN_HEALTHY),
        max_healthy,
        warmup: number(&mut given, "InstanceWarmup", 0, i64::from(i32::MAX))?.unwrap_or(warmup),
        checkpoints,
        checkpoint_delay: delay.unwrap_or(DELAY),
        skip_matching: given.flag("SkipMatching")?,
        auto_rollback: given.flag("AutoRollback")?,
        protected: word(
            &mut given,
            "ScaleInProtectedInstances",
            protected.map(|one| (one.name(), one)),
        )?
        .unwrap_or(OfProtected::Wait),
        standby: word(
            &mut given,
            "StandbyInstances",
            standby.map(|one| (one.name(), one)),
        )?
        .unwrap_or(OfStandby::Wait),
        bake: number(&mut given, "BakeTime", 0, LONGEST)?.unwrap_or(0),
    };
    given.finish("Preferences")?;
    Ok(preferences)
}

/// Takes `DesiredConfiguration`.
fn take_desired(call: &Call<'_>, params: &mut Params) -> Result<Option<TemplateName>, ApiError> {
    let mut given = params.structure("DesiredConfiguration");
    if !given
        .structure("MixedInstancesPolicy")
        .into_map()
        .is_empty()
    {
        return Err(invalid(
            "DesiredConfiguration.MixedInstancesPolicy: the local cloud has no mixed instances policies. Give \
             DesiredConfiguration.LaunchTemplate.",
        ));
    }
    let mut template = given.structure("LaunchTemplate");
    let reference = Reference::take(&mut template)?;
    template.finish("DesiredConfiguration.LaunchTemplate")?;
    given.finish("DesiredConfiguration")?;
    reference
        .map(|reference| check_template(call.state, call.region, &reference))
        .transpose()
}

fn check_strategy(params: &mut Params) -> Result<(), ApiError> {
    match params.take("Strategy").as_deref() {
        None | Some("Rolling") => Ok(()),
        Some("ReplaceRootVolume") => Err(invalid(
            "The strategy ReplaceRootVolume needs a mixed instances policy, which groups of the local cloud do not have. \
             It has Rolling.",
        )),
        Some(other) => Err(invalid(format!(
            "Value '{other}' at 'strategy' failed to satisfy constraint: Member must satisfy enum value set: \
             [Rolling, ReplaceRootVolume]"
        ))),
    }
}

/// Why a refresh of a group cannot be rolled back, if it cannot (`RollbackInstanceRefresh`).
fn irreversible(state: &State, group: &Group, desired: Option<&TemplateName>) -> Option<String> {
    if desired.is_none() {
        return Some("the instance refresh has no desired configuration".to_owned());
    }
    let version = &group.template.version;
    if version.starts_with('$') {
        return Some(format!(
            "the Auto Scaling group uses the {version} version of its launch template"
        ));
    }
    let reference = Reference {
        template: Name::Id(group.template.id.clone()),
        version: Some(version.clone()),
    };
    let found = launch_templates::resolve(state, &reference).ok();
    let image = found.and_then(|found| found.parameters.get("ImageId").cloned());
    image
        .filter(|image| !image.starts_with("ami-"))
        .map(|image| {
            format!(
                "the launch template of the Auto Scaling group has {image} instead of an AMI ID"
            )
        })
}

pub(in crate::localcloud::autoscaling) fn start(
    call: &mut Call<'_>,
    mut params: Params,
) -> Result<Xml, ApiError> {
    let name = params.require("AutoScalingGroupName")?;
    check_strategy(&mut params)?;
    let desired = take_desired(call, &mut params)?;
    let warmup = super::super::group(call.state, &name)?;
    let warmup = warmup.warmup.unwrap_or(warmup.health_grace);
    let preferences = take_preferences(&mut params, warmup)?;
    params.finish("")?;
    with_group(call, &name, |world, group| {
        if group.deleting {
            return Err(invalid(format!(
                "The Auto Scaling group {} is being deleted.",
                group.name
            )));
        }
        if group.refresh().is_some() {
            return Err(ApiError::new(
                "InstanceRefreshInProgress",
                "An Instance Refresh is already in progress and blocks the execution of this Instance Refresh.",
            ));
        }
        let refused = irreversible(world.state, group, desired.as_ref());
        if let Some(why) = refused.filter(|_| preferences.auto_rollback) {
            return Err(invalid(format!("AutoRollback is not supported: {why}.")));
        }
        let id = world.state.new_uuid();
        let stays = group
            .members
            .values()
            .filter(|member| !member.lifecycle.is_terminating());
        let refresh = Refresh {
            id: id.clone(),
            status: Status::Pending,
            created: world.now,
            started: None,
            ended: None,
            reason: None,
            preferences,
            desired,
            original: stays.map(|member| member.instance_id.clone()).collect(),
            percent: 0,
            remaining: group.desired,
            rollback: None,
            surge: 0,
            reached: 0,
            reached_of: 0,
            pause: None,
            blocked: None,
            failing: None,
            updated: 0,
        };
        let now = world.now;
        group.refreshes.retain(|one| is_kept(one, now));
        group.refreshes.push(refresh);
        try_again(group);
        Ok(answer(&id))
    })
}

fn is_kept(refresh: &Refresh, now: Timestamp) -> bool {
    refresh
        .ended
        .is_none_or(|ended| now.duration_since(ended) < KEPT)
}

/// Something else is launched from now on: what failed before may work.
fn try_again(group: &mut Group) {
    (group.failures, group.retry_at) = (0, None);
}

fn answer(id: &str) -> Xml {
    Xml::children([("InstanceRefreshId", Xml::text(id))])
}

fn not_found(group: &str) -> ApiError {
    ApiError::new(
        "ActiveInstanceRefreshNotFound",
        format!("No in progress or pending Instance Refresh found for Auto Scaling group {group}"),
    )
}

pub(in crate::localcloud::autoscaling) fn cancel(
    call: &mut Call<'_>,
    mut params: Params,
) -> Result<Xml, ApiError> {
    let name = params.require("AutoScalingGroupName")?;
    let patient = params
        .parsed("WaitForTransitioningInstances")?
        .unwrap_or(true);
    params.finish("")?;
    with_group(call, &name, |world, group| {
        let refresh = group.refresh_mut().ok_or_else(|| not_found(&name))?;
        let id = refresh.id.clone();
        if patient && refresh.status != Status::Cancelling {
            refresh.status = Status::Cancelling;
            refresh.reason = None;
            (refresh.pause, refresh.blocked, refresh.failing) = (None, None, None);
        }
        if !patient {
            let reason = "Cancelled due to user request.".to_owned();
            refresh.end(Status::Cancelled, Some(reason), world.now);
        }
        try_again(group);
        Ok(answer(&id))
    })
}

pub(in crate::localcloud::autoscaling) fn roll_back(
    call: &mut Call<'_>,
    mut params: Params,
) -> Result<Xml, ApiError> {
    let name = params.require("AutoScalingGroupName")?;
    params.finish("")?;
    with_group(call, &name, |world, group| {
        let refresh = group.refresh().ok_or_else(|| not_found(&name))?;
        let (id, status) = (refresh.id.clone(), refresh.status);
        match status {
            // Asked for again: it is on its way. The documentation does not speak of it.
            Status::RollbackInProgress => return Ok(answer(&id)),
            Status::Cancelling => return Err(not_found(&name)),
            _ => {}
        }
        if let Some(why) = irreversible(world.state, group, refresh.desired.as_ref()) {
            return Err(ApiError::new(
                "IrreversibleInstanceRefresh",
                format!("The instance refresh cannot be rolled back: {why}."),
            ));
        }
        let now = world.now;
        if let Some(refresh) = group.refresh_mut() {
            refresh.roll_back("A user request started the rollback.".to_owned(), now);
        }
        try_again(group);
        Ok(answer(&id))
    })
}

pub(in crate::localcloud::autoscaling) fn describe(
    call: &mut Call<'_>,
    mut params: Params,
) -> Result<Xml, ApiError> {
    let name = params.require("AutoScalingGroupName")?;
    let ids = texts(&mut params, "InstanceRefreshIds", 1..=255)?;
    let page = Page::of(
        "DescribeInstanceRefreshes",
        &mut params,
        "MaxRecords",
        PAGE,
        1..=MOST,
    )?;
    params.finish("")?;
    let group = super::super::group(call.state, &name)?;
    // The newest first.
    let rows: Vec<(String, &Refresh)> = group
        .refreshes
        .iter()
        .rev()
        .enumerate()
        .filter(|(_, refresh)| is_kept(refresh, call.now))
        .filter(|(_, refresh)| ids.is_empty() || ids.contains(&refresh.id))
        .map(|(index, refresh)| (format!("{index:010}"), refresh))
        .collect();
    let (rows, token) = page.cut(rows, |row| &row.0);
    let list = rows.into_iter().map(|(_, refresh)| show(&name, refresh));
    Ok(Xml::children([("InstanceRefreshes", Xml::members(list))]).with_some("NextToken", token))
}

/// `InstanceRefresh`. `ProgressDetails` is for groups with a warm pool, which there are none of here.
fn show(group: &str, refresh: &Refresh) -> Xml {
    let desired = refresh.desired.as_ref();
    let desired = desired.map(|one| Xml::children([("LaunchTemplate", show_template(one))]));
    Xml::children([
        ("InstanceRefreshId", Xml::text(&refresh.id)),
        ("AutoScalingGroupName", Xml::text(group)),
        ("Status", Xml::text(refresh.status.name())),
        ("PercentageComplete", Xml::text(refresh.percent)),
        ("InstancesToUpdate", Xml::text(refresh.remaining)),
        ("Preferences", show_preferences(&refresh.preferences)),
        ("Strategy", Xml::text("Rolling")),
    ])
    .with_some("StatusReason", refresh.reason.as_ref().map(Xml::text))
    .with_some("StartTime", refresh.started.map(time))
    .with_some("EndTime", refresh.ended.map(time))
    .with_some("DesiredConfiguration", desired)
    .with_some(
        "RollbackDetails",
        refresh.rollback.as_ref().map(show_rollback),
    )
}

fn show_preferences(preferences: &Preferences) -> Xml {
    let points = &preferences.checkpoints;
    let points = (!points.is_empty()).then(|| Xml::members(points.iter().map(Xml::text)));
    let delay = points
        .is_some()
        .then(|| Xml::text(preferences.checkpoint_delay));
    Xml::children([
        ("MinHealthyPercentage", Xml::text(preferences.min_healthy)),
        ("InstanceWarmup", Xml::text(preferences.warmup)),
        ("SkipMatching", Xml::text(preferences.skip_matching)),
        ("AutoRollback", Xml::text(preferences.auto_rollback)),
        (
            "ScaleInProtectedInstances",
            Xml::text(preferences.protected.name()),
        ),
        ("StandbyInstances", Xml::text(preferences.standby.name())),
        ("BakeTime", Xml::text(preferences.bake)),
    ])
    .with_some(
        "MaxHealthyPercentage",
        preferences.max_healthy.map(Xml::text),
    )
    .with_some("CheckpointPercentages", points)
    .with_some("CheckpointDelay", delay)
}

/// `RollbackDetails`.
fn show_rollback(rollback: &Rollback) -> Xml {
    Xml::children([
        ("RollbackReason", Xml::text(&rollback.reason)),
        ("RollbackStartTime", time(rollback.started)),
        ("PercentageCompleteOnRollback", Xml::text(rollback.percent)),
        ("InstancesToUpdateOnRollback", Xml::text(rollback.remaining)),
    ])
}
