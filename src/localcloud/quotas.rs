//! What the account may have in a region (Service Quotas). A script of faults sets other numbers.

use serde::Deserialize;

use super::ec2::settings::Settings;
use super::ec2::types;
use super::engine::Call;
use super::state::{Instance, InstanceState, State};
use super::wire::error::ApiError;

/// Something that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quota {
    /// Of running on-demand instances.
    Vcpus,
    /// Of running Spot Instances.
    SpotVcpus,
    Images,
    Snapshots,
    AutoScalingGroups,
    /// Standard parameters.
    Parameters,
}

impl Quota {
    /// What AWS gives every account (AWS General Reference, "Service endpoints and quotas"); nothing here for vCPUs, of
    /// which this host has what it has.
    #[must_use]
    pub const fn usual(self) -> Option<u64> {
        match self {
            Self::Vcpus | Self::SpotVcpus => None,
            Self::Images => Some(50_000),
            Self::Snapshots => Some(100_000),
            Self::AutoScalingGroups => Some(500),
            Self::Parameters => Some(10_000),
        }
    }
}

/// Refuses one more of something of which there are so many.
///
/// # Errors
/// As the service refuses it.
pub(super) fn check(call: &Call<'_>, quota: Quota, there: usize) -> Result<(), ApiError> {
    match call.driver.quota(quota) {
        Some(most) if there as u64 >= most => Err(error(quota, most)),
        Some(_) | None => Ok(()),
    }
}

fn error(quota: Quota, most: u64) -> ApiError {
    match quota {
        Quota::Vcpus => ApiError::new(
            "VcpuLimitExceeded",
            format!(
                "You have requested more vCPU capacity than your current vCPU limit of {most} allows for the instance \
                 bucket that the specified instance type belongs to. Please visit \
                 http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit."
            ),
        ),
        Quota::SpotVcpus => ApiError::new(
            "MaxSpotInstanceCountExceeded",
            "Max spot instance count exceeded",
        ),
        // "You have exceeded an Amazon EC2 resource limit" (EC2 API Reference, "Error codes").
        Quota::Images => ApiError::new(
            "ResourceLimitExceeded",
            format!(
                "You have reached your quota of {most} for the number of images allowed in this Region. Deregister \
                 unused images or request an increase in your AMIs quota."
            ),
        ),
        Quota::Snapshots => ApiError::new(
            "SnapshotLimitExceeded",
            "You've reached the limit on the number of Amazon EBS snapshots that you can create.",
        ),
        Quota::AutoScalingGroups => ApiError::new(
            "LimitExceeded",
            "You have already reached a limit for your Amazon EC2 Auto Scaling resources: Auto Scaling groups.",
        ),
        Quota::Parameters => ApiError::new(
            "ParameterLimitExceeded",
            "You have exceeded the number of parameters for this AWS account. Delete one or more parameters and try \
             again.",
        ),
    }
}

/// How many instances of these settings the account may still launch.
///
/// # Errors
/// The type does not exist.
pub(super) fn room(call: &Call<'_>, settings: &Settings) -> Result<usize, ApiError> {
    let each = types::find(&settings.instance_type)?.vcpus;
    let Some(most) = call.driver.quota(bucket(settings.spot)) else {
        return Ok(usize::MAX);
    };
    let left = most.saturating_sub(vcpus(call.state, settings.spot));
    Ok(usize::try_from(left / u64::from(each)).unwrap_or(usize::MAX))
}

/// Refuses to start instances that are off if the account has no vCPUs left for them.
///
/// # Errors
/// `VcpuLimitExceeded`.
pub(super) fn check_start(call: &Call<'_>, ids: &[String]) -> Result<(), ApiError> {
    let Some(most) = call.driver.quota(Quota::Vcpus) else {
        return Ok(());
    };
    let off = ids.iter().filter_map(|id| call.state.instances.get(id));
    let off = off.filter(|one| one.state == InstanceState::Stopped);
    let more: u64 = off.map(each).sum();
    if more > 0 && vcpus(call.state, false) + more > most {
        return Err(error(Quota::Vcpus, most));
    }
    Ok(())
}

/// The error of a launch that there is no room for.
pub(super) fn exceeded(call: &Call<'_>, spot: bool) -> ApiError {
    let quota = bucket(spot);
    error(quota, call.driver.quota(quota).unwrap_or(u64::MAX))
}

const fn bucket(spot: bool) -> Quota {
    if spot { Quota::SpotVcpus } else { Quota::Vcpus }
}

/// vCPUs of instances that are pending or running: those that are off do not count.
fn vcpus(state: &State, spot: bool) -> u64 {
    let live = state.instances.values().filter(|one| {
        one.spot.is_some() == spot
            && matches!(one.state, InstanceState::Pending | InstanceState::Running)
    });
    live.map(each).sum()
}

fn each(instance: &Instance) -> u64 {
    types::find(&instance.instance_type).map_or(0, |kind| kind.vcpus.into())
}
