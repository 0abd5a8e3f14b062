//! Auto Scaling groups and EC2 instances as the API gives them.

use aws_sdk_autoscaling::types::{AutoScalingGroup, LaunchTemplateSpecification};
use aws_sdk_ec2::types::{Filter, Instance};

use serde::Serialize;

use super::error::Context as _;
use super::{Clients, Error};

/// How many values one filter may have (`DescribeInstances`).
pub const FILTER_VALUES: usize = 200;

/// Where an instance is in its life in the group; the sub-states of hooks are folded in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Life {
    Pending,
    InService,
    Standby,
    Terminating,
}

impl Life {
    /// Reads a `LifecycleState` (Auto Scaling API, `Instance`). What is not named here is on its way in or out of
    /// Standby, or is having its root volume replaced: not in service.
    #[must_use]
    pub fn read(state: &str) -> Self {
        match state {
            "InService" => Self::InService,
            _ if state.starts_with("Terminat") || state.starts_with("Detach") => Self::Terminating,
            _ if state.contains("Standby") => Self::Standby,
            _ => Self::Pending,
        }
    }
}

/// A filter of EC2.
#[must_use]
pub fn filter(name: &str, values: impl IntoIterator<Item = String>) -> Filter {
    Filter::builder()
        .name(name)
        .set_values(Some(values.into_iter().collect()))
        .build()
}

/// A group as the API gives it.
///
/// # Errors
/// [`Error`] of `DescribeAutoScalingGroups`.
pub async fn raw_group(clients: &Clients, name: &str) -> Result<Option<AutoScalingGroup>, Error> {
    let answer = clients
        .autoscaling
        .describe_auto_scaling_groups()
        .auto_scaling_group_names(name)
        .send()
        .await
        .call("autoscaling", "DescribeAutoScalingGroups")?;
    let groups = answer.auto_scaling_groups.unwrap_or_default();
    // A group that is being deleted is still listed, with a status.
    Ok(groups
        .into_iter()
        .find(|group| group.auto_scaling_group_name() == Some(name) && group.status().is_none()))
}

/// The number of a version of this template; `None` for another template or for `$Latest` and `$Default`.
#[must_use]
pub fn number(specification: Option<&LaunchTemplateSpecification>, template: &str) -> Option<u64> {
    let specification = specification?;
    let ours = specification
        .launch_template_id()
        .is_none_or(|id| id == template);
    specification.version()?.parse().ok().filter(|_| ours)
}

/// All instances that match.
///
/// # Errors
/// [`Error`] of `DescribeInstances`.
pub async fn instances(clients: &Clients, filters: Vec<Filter>) -> Result<Vec<Instance>, Error> {
    let mut found = Vec::new();
    let mut token = None;
    loop {
        let page = clients
            .ec2
            .describe_instances()
            .set_filters(Some(filters.clone()))
            .set_next_token(token)
            .send()
            .await
            .call("ec2", "DescribeInstances")?;
        for reservation in page.reservations.unwrap_or_default() {
            found.extend(reservation.instances.unwrap_or_default());
        }
        token = page.next_token.filter(|token| !token.is_empty());
        if token.is_none() {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_read() {
        for (state, expected) in [
            ("InService", Life::InService),
            ("Pending:Wait", Life::Pending),
            ("Terminating:Proceed", Life::Terminating),
            ("Detached", Life::Terminating),
            ("EnteringStandby", Life::Standby),
            ("ReplacingRootVolume", Life::Pending),
        ] {
            assert_eq!(Life::read(state), expected, "{state}");
        }
    }
}
