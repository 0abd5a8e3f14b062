//! EC2 Auto Scaling, version 2011-01-01: a table of operations over the records, and the engine that moves them.
//!
//! Nothing runs in the background: groups go forward whenever somebody looks at the cloud ([`advance`]), from the
//! records, the clock and what became of the instances.

mod activities;
mod engine;
mod groups;
mod hooks;
mod instances;
mod plan;
mod processes;
pub mod records;
pub mod refresh;
mod tags;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;

use engine::World;
pub use engine::advance;
use records::Group;

use super::engine::Call;
use super::state::State;
use super::wire::constraint;
use super::wire::error::ApiError;
use super::wire::query::Params;
use super::wire::xml::{Xml, response, wrapped};

const NAMESPACE: &str = "http://autoscaling.amazonaws.com/doc/2011-01-01/";

/// Takes its parameters, ends the taking with [`Params::finish`], then acts. Gives the members of the result.
type Operation = fn(&mut Call<'_>, Params) -> Result<Xml, ApiError>;

/// Every operation there is, by name.
const OPERATIONS: &[(&str, Operation)] = &[
    ("AttachInstances", instances::attach),
    ("CancelInstanceRefresh", refresh::wire::cancel),
    ("CompleteLifecycleAction", hooks::complete),
    ("CreateAutoScalingGroup", groups::create),
    ("CreateOrUpdateTags", tags::create),
    ("DeleteAutoScalingGroup", groups::delete),
    ("DeleteLifecycleHook", hooks::delete),
    ("DeleteTags", tags::delete),
    ("DescribeAutoScalingGroups", groups::describe),
    ("DescribeAutoScalingInstances", instances::describe),
    ("DescribeInstanceRefreshes", refresh::wire::describe),
    ("DescribeLifecycleHooks", hooks::describe),
    ("DescribeScalingActivities", activities::describe),
    ("DescribeScalingProcessTypes", processes::describe),
    ("DescribeTags", tags::describe),
    ("DetachInstances", instances::detach),
    ("EnterStandby", instances::enter_standby),
    ("ExitStandby", instances::exit_standby),
    ("LaunchInstances", instances::launch),
    ("PutLifecycleHook", hooks::put),
    ("RecordLifecycleActionHeartbeat", hooks::heartbeat),
    ("ResumeProcesses", processes::resume),
    ("RollbackInstanceRefresh", refresh::wire::roll_back),
    ("SetDesiredCapacity", groups::set_desired),
    ("SetInstanceHealth", instances::set_health),
    ("SetInstanceProtection", instances::protect),
    ("StartInstanceRefresh", refresh::wire::start),
    ("SuspendProcesses", processes::suspend),
    ("TerminateInstanceInAutoScalingGroup", instances::terminate),
    ("UpdateAutoScalingGroup", groups::update),
];

/// Operations whose answer has no result, not even an empty one (botocore, the operations without `output`).
const WITHOUT_RESULT: &[&str] = &[
    "AttachInstances",
    "CreateAutoScalingGroup",
    "CreateOrUpdateTags",
    "DeleteAutoScalingGroup",
    "DeleteTags",
    "ResumeProcesses",
    "SetDesiredCapacity",
    "SetInstanceHealth",
    "SuspendProcesses",
    "UpdateAutoScalingGroup",
];

pub(super) fn handle(
    call: &mut Call<'_>,
    body: &[u8],
    request_id: &str,
) -> Result<Response<Bytes>, ApiError> {
    let mut params = Params::parse(body)?;
    let action = params.require("Action")?;
    params.take("Version");
    let operation = OPERATIONS
        .iter()
        .find(|(name, _)| *name == action)
        .map(|(_, run)| run)
        .ok_or_else(|| {
            ApiError::new(
                "InvalidAction",
                format!("The action {action} is not valid for this web service."),
            )
        })?;
    let result = operation(call, params).map_err(as_validation)?;
    // What was asked for begins at once, not with the next look.
    advance(call.state, call.driver, call.now, call.process);
    let metadata = Xml::children([("RequestId", Xml::text(request_id))]);
    let result = (!WITHOUT_RESULT.contains(&action.as_str())).then_some(&result);
    let text = wrapped(&action, NAMESPACE, result, &metadata);
    Ok(response(StatusCode::OK, request_id, &text))
}

/// Auto Scaling has one code for what is wrong with a request.
fn as_validation(error: ApiError) -> ApiError {
    match error.code.as_str() {
        "MissingParameter"
        | "InvalidParameterValue"
        | "InvalidParameterCombination"
        | "UnknownParameter" => ApiError::new("ValidationError", error.message),
        code if code.starts_with("InvalidLaunchTemplate") || code.starts_with("InvalidAMI") => {
            ApiError::new("ValidationError", error.message)
        }
        _ => error,
    }
}

/// Takes a list of texts, each within the length that its shape allows.
fn texts(
    params: &mut Params,
    name: &str,
    limits: std::ops::RangeInclusive<usize>,
) -> Result<Vec<String>, ApiError> {
    let found = params.texts(&format!("{name}.member"));
    constraint::lengths(name, &found, limits).map_err(invalid)?;
    Ok(found)
}

/// Takes a text that may be left out, within the length that its shape allows.
fn text(
    params: &mut Params,
    name: &str,
    limits: std::ops::RangeInclusive<usize>,
) -> Result<Option<String>, ApiError> {
    let found = params.take(name);
    if let Some(found) = &found {
        constraint::length(name, found, limits).map_err(invalid)?;
    }
    Ok(found)
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new("ValidationError", message)
}

/// A time as Auto Scaling writes it.
fn time(time: Timestamp) -> Xml {
    Xml::text(time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ"))
}

/// The result of an operation that has nothing to say.
fn nothing() -> Xml {
    Xml::children([])
}

/// A group that must be there.
fn group<'a>(state: &'a State, name: &str) -> Result<&'a Group, ApiError> {
    state.scaling.get(name).ok_or_else(|| not_found(name))
}

fn not_found(name: &str) -> ApiError {
    invalid(format!(
        "AutoScalingGroup name not found - AutoScalingGroup '{name}' not found"
    ))
}

/// Changes a group that must be there, with the rest of the cloud at hand. What it changed before an error stays.
fn with_group<T>(
    call: &mut Call<'_>,
    name: &str,
    change: impl FnOnce(&mut World<'_>, &mut Group) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    let mut group = call
        .state
        .scaling
        .remove(name)
        .ok_or_else(|| not_found(name))?;
    let mut world = World {
        state: call.state,
        driver: call.driver,
        now: call.now,
        process: call.process,
    };
    let outcome = change(&mut world, &mut group);
    call.state.scaling.insert(name.to_owned(), group);
    outcome
}

/// The name of the group that an instance is in.
fn group_of(state: &State, instance_id: &str) -> Result<String, ApiError> {
    let mut groups = state.scaling.values();
    groups
        .find(|group| group.members.contains_key(instance_id))
        .map(|group| group.name.clone())
        .ok_or_else(|| {
            invalid(format!(
                "Instance Id not found - No managed instance found for instance ID: {instance_id}"
            ))
        })
}
