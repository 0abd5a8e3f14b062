//! Which calls a bake makes to the cloud. Pure: a function of the plan. What IAM has to allow for them is in
//! [`crate::iam`].

use serde::Serialize;

use super::event::Phase;
use super::names::BundleStore;
use super::plan::Plan;
use crate::recipe::model::BaseRef;

/// When a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// Before anything is made: who acts, what exists.
    Look,
    Phase(Phase),
    /// Only after a failure, an interruption or an answer that was lost.
    Undo,
}

impl When {
    /// In words.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Look => "look at what exists",
            Self::Phase(phase) => phase.title(),
            Self::Undo => "only if something fails",
        }
    }
}

/// An operation of an AWS service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Call {
    pub when: When,
    /// As IAM writes the service: `ec2`, `ssm`, `imagebuilder`, `sts`.
    pub service: &'static str,
    pub operation: &'static str,
}

/// What the bake of a recipe calls, in order, each operation once a phase. `bundles` is the bucket that bundles go
/// through, if there is one.
#[must_use]
pub fn calls(plan: &Plan, base: &BaseRef, bundles: Option<&BundleStore>) -> Vec<Call> {
    let mut all = Vec::new();
    let mut add = |when, service, operations: &[&'static str]| {
        all.extend(operations.iter().map(|operation| Call {
            when,
            service,
            operation,
        }));
    };
    add(When::Look, "sts", &["GetCallerIdentity"]);
    match base {
        BaseRef::Ssm { .. } => add(When::Look, "ssm", &["GetParameter"]),
        BaseRef::ImageBuilder { .. } => add(When::Look, "imagebuilder", &["GetImage"]),
        BaseRef::Ami { .. } | BaseRef::Filter { .. } => {}
    }
    add(When::Look, "ec2", &["DescribeImages"]);
    add(When::Look, "ssm", &["GetParameters"]);
    for phase in Phase::ALL {
        let when = When::Phase(phase);
        match phase {
            Phase::Launch => {
                add(when, "ssm", &["GetParametersByPath", "PutParameter"]);
                add(when, "ec2", &["DescribeImages"]);
                if !plan.stale.is_empty() {
                    add(when, "ec2", &UNMAKE_IMAGE);
                }
                if bundles.is_some() {
                    add(when, "s3", &["PutObject"]);
                }
                if plan.build.security_groups.is_empty() {
                    if !plan.build.subnets.is_empty() {
                        add(when, "ec2", &["DescribeSubnets"]);
                    }
                    add(when, "ec2", &["CreateSecurityGroup"]);
                }
                add(when, "ec2", &["RunInstances"]);
            }
            Phase::Boot => {
                add(when, "ec2", &["DescribeInstances"]);
                add(when, "ssm", &["DescribeInstanceInformation"]);
            }
            Phase::Send => {
                add(when, "ssm", &["SendCommand", "GetCommandInvocation"]);
                if bundles.is_some() {
                    add(when, "s3", &["DeleteObject"]);
                }
            }
            Phase::Provision | Phase::Validate | Phase::Seal => {
                add(when, "ssm", &["SendCommand", "GetCommandInvocation"]);
            }
            Phase::Stop => add(when, "ec2", &["StopInstances", "DescribeInstances"]),
            Phase::Image => add(
                when,
                "ec2",
                &["CreateImage", "DescribeImages", "DescribeSnapshots"],
            ),
            Phase::Test => {
                add(
                    when,
                    "ec2",
                    &["RunInstances", "DescribeInstances", "TerminateInstances"],
                );
                if bundles.is_some() {
                    add(when, "s3", &["PutObject", "DeleteObject"]);
                }
                add(
                    when,
                    "ssm",
                    &[
                        "DescribeInstanceInformation",
                        "SendCommand",
                        "GetCommandInvocation",
                    ],
                );
            }
            Phase::Publish => {
                add(when, "ssm", &["GetParameter", "PutParameter"]);
                add(when, "ec2", &["CreateTags"]);
            }
            Phase::Release => {
                add(when, "ec2", &["TerminateInstances", "DescribeInstances"]);
                add(when, "ssm", &["DeleteParameters"]);
                if plan.build.security_groups.is_empty() {
                    add(when, "ec2", &["DeleteSecurityGroup"]);
                }
            }
            // Of no bake; it calls what launching and testing call.
            Phase::List => {}
        }
    }
    if plan.build.security_groups.is_empty() {
        add(When::Undo, "ec2", &["DescribeSecurityGroups"]);
    }
    add(When::Undo, "ec2", &UNMAKE_IMAGE);
    add(When::Undo, "ssm", &["DeleteParameter"]);
    all
}

/// What removing an image takes.
const UNMAKE_IMAGE: [&str; 4] = [
    "DescribeImages",
    "DeregisterImage",
    "DescribeSnapshots",
    "DeleteSnapshot",
];

#[cfg(test)]
mod tests {
    use super::super::plan::Survey;
    use super::super::plan::tests::{bake, target};
    use super::*;

    fn ami() -> BaseRef {
        BaseRef::Ami { id: "ami-1".into() }
    }

    #[test]
    fn the_plan_decides_what_is_called() {
        let mut plan = bake(&target(), &Survey::default());
        let names = |plan: &Plan, base: &BaseRef| -> Vec<String> {
            let all = calls(plan, base, None);
            let names = all.iter().map(|call| call.operation.to_owned());
            names.collect()
        };
        let own_group = names(&plan, &ami());
        assert!(own_group.contains(&"CreateSecurityGroup".to_owned()));
        assert!(!own_group.contains(&"DescribeSubnets".to_owned()));
        plan.build.subnets = vec!["subnet-1".into()];
        assert!(names(&plan, &ami()).contains(&"DescribeSubnets".to_owned()));
        plan.build.security_groups = vec!["sg-1".into()];
        let given = names(&plan, &ami());
        assert!(!given.iter().any(|name| name.contains("SecurityGroup")));
        assert!(!given.contains(&"DescribeSubnets".to_owned()));
        let arn = "arn".to_owned();
        let builder = BaseRef::ImageBuilder { arn };
        assert!(names(&plan, &builder).contains(&"GetImage".to_owned()));
    }
}
