//! Processes of groups, which can be suspended (User Guide, "Suspend and resume processes").

use super::super::engine::Call;
use super::super::wire::error::ApiError;
use super::super::wire::query::Params;
use super::super::wire::xml::Xml;
use super::records::Group;
use super::{activities, invalid, nothing, with_group};

const PROCESSES: &[&str] = &[
    "AZRebalance",
    "AddToLoadBalancer",
    "AlarmNotification",
    "HealthCheck",
    "InstanceRefresh",
    "Launch",
    "ReplaceUnhealthy",
    "ScheduledActions",
    "Terminate",
];

fn change(
    call: &mut Call<'_>,
    mut params: Params,
    change: impl Fn(&mut Group, &str, String),
) -> Result<Xml, ApiError> {
    let name = params.require("AutoScalingGroupName")?;
    let mut processes = params.texts("ScalingProcesses.member");
    params.finish("")?;
    if let Some(odd) = processes
        .iter()
        .find(|process| !PROCESSES.contains(&process.as_str()))
    {
        return Err(invalid(format!(
            "{odd} is not a valid process type; there are {}",
            PROCESSES.join(", ")
        )));
    }
    if processes.is_empty() {
        processes = PROCESSES
            .iter()
            .map(|&process| process.to_owned())
            .collect();
    }
    with_group(call, &name, |world, group| {
        let at = activities::stamp(world.now);
        for process in &processes {
            change(group, process, format!("User suspended at {at}"));
        }
        Ok(nothing())
    })
}

pub(super) fn suspend(call: &mut Call<'_>, params: Params) -> Result<Xml, ApiError> {
    change(call, params, |group, process, why| {
        group.suspended.entry(process.to_owned()).or_insert(why);
    })
}

pub(super) fn resume(call: &mut Call<'_>, params: Params) -> Result<Xml, ApiError> {
    change(call, params, |group, process, _| {
        group.suspended.remove(process);
    })
}

pub(super) fn describe(_: &mut Call<'_>, params: Params) -> Result<Xml, ApiError> {
    params.finish("")?;
    let list = PROCESSES
        .iter()
        .map(|process| Xml::children([("ProcessName", Xml::text(process))]));
    Ok(Xml::children([("Processes", Xml::members(list))]))
}
