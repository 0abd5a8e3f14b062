//! Scaling activities: what a group did, and why.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};

use super::super::ec2::filters::Page;
use super::super::ec2::network::Place;
use super::super::engine::Call;
use super::super::wire::error::ApiError;
use super::super::wire::query::Params;
use super::super::wire::xml::Xml;
use super::engine::World;
use super::records::{Activity, ActivityStatus, Group, Member};
use super::time;

/// How long activities are kept (`DescribeScalingActivities`).
const KEPT: SignedDuration = SignedDuration::from_hours(6 * 7 * 24);
/// How many are kept of one group, so that the records of a busy one stay small. AWS states no such number.
const MOST: usize = 1000;

/// A time as the texts of activities have it.
pub(super) fn stamp(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The first sentence of a cause.
pub(super) fn reason(group: &Group) -> String {
    let reason = group.reason.as_ref();
    reason.map_or_else(String::new, |reason| format!("{reason}  "))
}

/// Begins an activity, of an instance in this zone if there is one yet; gives its id.
pub(super) fn begin(
    world: &mut World<'_>,
    group: &mut Group,
    zone: Option<String>,
    description: String,
    cause: String,
) -> String {
    let id = world.state.new_uuid();
    group.activities.push(Activity {
        id: id.clone(),
        description,
        cause: cause.chars().take(1023).collect(),
        zone,
        started: world.now,
        ended: None,
        status: ActivityStatus::PreInService,
        message: None,
        progress: 30,
    });
    id
}

/// Ends the activity that a member is in.
pub(super) fn end(
    group: &mut Group,
    member: &Member,
    status: ActivityStatus,
    message: Option<String>,
    now: Timestamp,
) {
    let id = member.activity.clone().unwrap_or_default();
    if let Some(activity) = group
        .activity(&id)
        .filter(|activity| !activity.status.is_over())
    {
        activity.status = status;
        activity.message = message.map(|message| message.chars().take(255).collect());
        activity.ended = Some(now);
        activity.progress = 100;
    }
}

/// Writes down what went wrong in the activity that a member is in, which goes on.
pub(super) fn note(group: &mut Group, member: &str, message: &str) {
    let id = group
        .members
        .get(member)
        .and_then(|member| member.activity.clone());
    if let Some(activity) = group.activity(&id.unwrap_or_default()) {
        activity.message = Some(message.chars().take(255).collect());
    }
}

/// Drops what is too old or too much; what goes on stays.
pub(super) fn prune(group: &mut Group, now: Timestamp) {
    group.activities.retain(|activity| {
        activity
            .ended
            .is_none_or(|ended| now.duration_since(ended) < KEPT)
    });
    let mut surplus = group.activities.len().saturating_sub(MOST);
    group.activities.retain(|activity| {
        let goes = surplus > 0 && activity.status.is_over();
        surplus -= usize::from(goes);
        !goes
    });
}

/// As [`prune`], for groups that are gone: as many activities in all as one group that is there has.
pub(super) fn prune_deleted(groups: &mut Vec<Group>, now: Timestamp) {
    let mut room = MOST;
    for group in groups.iter_mut().rev() {
        let activities = &mut group.activities;
        activities.retain(|activity| now.duration_since(activity.started) < KEPT);
        activities.drain(..activities.len().saturating_sub(room));
        room -= activities.len();
    }
    groups.retain(|group| !group.activities.is_empty());
}

/// `Activity`.
pub(super) fn show(group: &Group, activity: &Activity) -> Xml {
    let details = activity.zone.as_ref().map_or_else(
        || serde_json::json!({}),
        |zone| {
            let place = Place::of_zone(&group.region, zone);
            serde_json::json!({
                "Subnet ID": place.map(|place| place.subnet(&group.region)),
                "Availability Zone": zone,
            })
        },
    );
    Xml::children([
        ("ActivityId", Xml::text(&activity.id)),
        ("AutoScalingGroupName", Xml::text(&group.name)),
        ("AutoScalingGroupARN", Xml::text(&group.arn)),
        ("Description", Xml::text(&activity.description)),
        ("Cause", Xml::text(&activity.cause)),
        ("StartTime", time(activity.started)),
        ("StatusCode", Xml::text(activity.status.name())),
        ("Progress", Xml::text(activity.progress)),
        ("Details", Xml::text(details)),
    ])
    .with_some("EndTime", activity.ended.map(time))
    .with_some("StatusMessage", activity.message.as_ref().map(Xml::text))
}

pub(super) fn describe(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let ids = params.texts("ActivityIds.member");
    let name = params.take("AutoScalingGroupName");
    let deleted = params.flag("IncludeDeletedGroups")?;
    let page = Page::within(
        "DescribeScalingActivities",
        &mut params,
        "MaxRecords",
        false,
        1..=100,
    )?;
    params.finish("")?;
    let gone = call.state.deleted_groups.iter().filter(|_| deleted);
    let groups = call.state.scaling.values().chain(gone);
    let groups = groups.filter(|group| name.as_ref().is_none_or(|name| group.name == *name));
    let groups: Vec<_> = groups.collect();
    if let (Some(name), []) = (&name, groups.as_slice()) {
        return Err(super::not_found(name));
    }
    let mut rows: Vec<(String, &Group, &Activity)> = Vec::new();
    for group in groups {
        for (index, activity) in group.activities.iter().enumerate() {
            if ids.is_empty() || ids.contains(&activity.id) {
                // Those in progress first, then the newest first.
                let newest = u64::MAX - index as u64;
                let key = format!("{} {newest:020}", u8::from(activity.status.is_over()));
                let key = format!("{key} {}", URL_SAFE_NO_PAD.encode(&group.arn));
                rows.push((key, group, activity));
            }
        }
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    let (rows, token) = page.cut(rows, |row| &row.0);
    let list = Xml::members(
        rows.into_iter()
            .map(|(_, group, activity)| show(group, activity)),
    );
    Ok(Xml::children([("Activities", list)]).with_some("NextToken", token))
}
