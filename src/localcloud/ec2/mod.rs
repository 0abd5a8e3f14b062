//! EC2, version 2016-11-15: a table of operations over the records.

mod describe;
pub(super) mod filters;
mod images;
pub(super) mod instances;
pub(super) mod launch_templates;
pub(super) mod lifecycle;
pub(super) mod network;
mod power;
pub(super) mod settings;
mod snapshots;
mod spot;
mod tags;
mod template_data;
pub(super) mod types;

use bytes::Bytes;
use http::{Response, StatusCode};

use super::engine::Call;
use super::wire::error::ApiError;
use super::wire::query::Params;
use super::wire::xml::{Xml, document, response};

pub(super) use images::{resolve as resolve_image, state_name as image_state};
pub(super) use snapshots::state_name as snapshot_state;

const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

/// Takes its parameters, ends the taking with [`Call::accept`], then acts.
type Operation = fn(&mut Call<'_>, Params) -> Result<Xml, ApiError>;

/// Every operation there is, by name.
const OPERATIONS: &[(&str, Operation)] = &[
    ("CreateImage", images::create),
    ("CreateLaunchTemplate", launch_templates::create),
    (
        "CreateLaunchTemplateVersion",
        launch_templates::create_version,
    ),
    ("CreateSecurityGroup", network::create_group),
    ("CreateTags", tags::create),
    ("DeleteLaunchTemplate", launch_templates::delete),
    (
        "DeleteLaunchTemplateVersions",
        launch_templates::delete_versions,
    ),
    ("DeleteSecurityGroup", network::delete_group),
    ("DeleteSnapshot", snapshots::delete),
    ("DeleteTags", tags::delete),
    ("DeregisterImage", images::deregister),
    ("DescribeAvailabilityZones", network::describe_zones),
    ("DescribeImages", images::describe),
    ("DescribeInstanceStatus", describe::status),
    ("DescribeInstanceTypes", types::describe),
    ("DescribeInstances", describe::instances),
    (
        "DescribeLaunchTemplateVersions",
        launch_templates::describe_versions,
    ),
    ("DescribeLaunchTemplates", launch_templates::describe),
    ("DescribeRegions", network::describe_regions),
    ("DescribeSecurityGroups", network::describe_groups),
    ("DescribeSnapshots", snapshots::describe),
    ("DescribeSpotInstanceRequests", spot::describe),
    ("DescribeSubnets", network::describe_subnets),
    ("DescribeTags", tags::describe),
    ("DescribeVolumes", snapshots::describe_volumes),
    ("DescribeVpcs", network::describe_vpcs),
    ("GetConsoleOutput", power::console),
    ("GetEbsDefaultKmsKeyId", snapshots::default_key),
    ("ModifyLaunchTemplate", launch_templates::modify),
    ("RebootInstances", power::reboot),
    ("RunInstances", instances::run),
    ("StartInstances", power::start),
    ("StopInstances", power::stop),
    ("TerminateInstances", power::terminate),
];

impl Call<'_> {
    /// Ends the taking of parameters: refuses what is left, and goes no further in a dry run.
    fn accept(&self, params: &Params) -> Result<(), ApiError> {
        params.finish("")?;
        self.unless_dry()
    }

    /// Goes no further in a dry run.
    fn unless_dry(&self) -> Result<(), ApiError> {
        if self.dry_run {
            return Err(ApiError::new(
                "DryRunOperation",
                "Request would have succeeded, but DryRun flag is set.",
            )
            .with_status(StatusCode::PRECONDITION_FAILED));
        }
        Ok(())
    }
}

pub(super) fn handle(
    call: &mut Call<'_>,
    body: &[u8],
    request_id: &str,
) -> Result<Response<Bytes>, ApiError> {
    let mut params = Params::parse(body)?;
    let action = params.take("Action").ok_or_else(|| {
        ApiError::new(
            "MissingAction",
            "The request must contain the parameter Action",
        )
    })?;
    params.take("Version");
    call.dry_run = params.flag("DryRun")?;
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
    let answer = operation(call, params)?;
    let mut children = vec![("requestId", Xml::text(request_id))];
    if let Xml::Children(rest) = answer {
        children.extend(rest);
    }
    let text = document(
        &format!("{action}Response"),
        Some(NAMESPACE),
        &Xml::Children(children),
    );
    Ok(response(StatusCode::OK, request_id, &text))
}

/// What an operation without results answers.
fn done() -> Xml {
    Xml::children([("return", Xml::text(true))])
}

/// A time as EC2 writes it.
fn time(time: jiff::Timestamp) -> Xml {
    Xml::text(time.strftime("%Y-%m-%dT%H:%M:%S.000Z"))
}

fn invalid_value(parameter: &str, value: &str, why: &str) -> ApiError {
    ApiError::new(
        "InvalidParameterValue",
        format!("Value ({value}) for parameter {parameter} is invalid. {why}"),
    )
}

/// `<prefix>-` and 8 or 17 hex digits.
pub(super) fn is_id(prefix: &str, id: &str) -> bool {
    id.strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|digits| {
            matches!(digits.len(), 8 | 17) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_without_doubles() {
        assert!(OPERATIONS.is_sorted_by(|a, b| a.0 < b.0));
    }
}
