//! Which calls a bake makes to the cloud, and the IAM permissions that they need. Pure: a function of the plan.
//!
//! Actions, resources and condition keys are those of the Service Authorization Reference ("Actions, resources, and
//! condition keys for Amazon EC2", "… for AWS Systems Manager").

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Value, json};

use super::event::Phase;
use super::names::{BundleStore, Channel, manifest_parameter};
use super::plan::Plan;
use crate::aws::tags;
use crate::recipe::model::BaseRef;
use crate::recipe::secret::Reference;

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
                if !plan.stale.is_empty() {
                    add(when, "ec2", &UNMAKE_IMAGE);
                }
                if bundles.is_some() {
                    add(when, "s3", &["PutObject"]);
                }
                if plan.build.security_groups.is_empty() {
                    if plan.build.subnet.is_some() {
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

/// Who makes a bake, where.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub account: &'a str,
    pub region: &'a str,
}

/// The IAM policy that makes exactly these calls possible: what a bake did not make, it may not change. Instances and
/// images are told by the tag of their run; IAM lets a group, an instance or an image be tagged only as it is made.
#[must_use]
pub fn policy(
    plan: &Plan,
    base: &BaseRef,
    bundles: Option<&BundleStore>,
    place: Place<'_>,
) -> Value {
    let calls = calls(plan, base, bundles);
    let mut looks = BTreeSet::new();
    let mut makes = BTreeSet::new();
    let mut ends = BTreeSet::new();
    let mut parameters: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let own = |path: &str| parameter_arn(place, path);
    for call in &calls {
        let action = format!("{}:{}", call.service, call.operation);
        match call.operation {
            // Anyone may ask who they are.
            "GetCallerIdentity" | "SendCommand" | "CreateTags" => {}
            _ if call.service == "s3" => {}
            "RunInstances" | "CreateImage" | "CreateSecurityGroup" => {
                makes.insert(action);
            }
            "GetParameter" | "GetParameters" | "PutParameter" | "DeleteParameter" => {
                let names = parameters.entry(call.operation).or_default();
                for channel in Channel::ALL {
                    names.insert(own(&channel.parameter(&plan.recipe)));
                }
                names.insert(own(&manifest_parameter("*")));
                names.insert(own("/piaas-bake/images/*"));
            }
            operation if operation.starts_with("Describe") || operation.starts_with("Get") => {
                looks.insert(action);
            }
            _ => {
                ends.insert(action);
            }
        }
    }
    if let BaseRef::Ssm { parameter } = base {
        let names = parameters.entry("GetParameter").or_default();
        names.insert(parameter_arn(place, parameter));
    }
    let ours = json!({ "Null": { format!("aws:ResourceTag/{}", tags::RUN): "false" } });
    let mut statements = vec![
        allow("Look", &looks, json!("*")),
        allow("Make", &makes, json!("*")),
        with(
            allow("TagWhatIsMade", &one("ec2:CreateTags"), json!("*")),
            json!({ "StringEquals": { "ec2:CreateAction": makes
                .iter()
                .filter_map(|action| action.strip_prefix("ec2:"))
                .collect::<Vec<_>>() } }),
        ),
        with(
            allow(
                "PublishImage",
                &one("ec2:CreateTags"),
                json!(
                    ["image", "snapshot"].map(|of| format!("arn:aws:ec2:{}::{of}/*", place.region))
                ),
            ),
            ours.clone(),
        ),
        with(allow("EndWhatIsOurs", &ends, json!("*")), ours.clone()),
        allow(
            "RunTheShell",
            &one("ssm:SendCommand"),
            json!(format!(
                "arn:aws:ssm:{}::document/AWS-RunShellScript",
                place.region
            )),
        ),
        with(
            allow(
                "OnOurMachines",
                &one("ssm:SendCommand"),
                json!(format!(
                    "arn:aws:ec2:{}:{}:instance/*",
                    place.region, place.account
                )),
            ),
            ours,
        ),
    ];
    for (operation, names) in parameters {
        let action = one(&format!("ssm:{operation}"));
        statements.push(allow(operation, &action, json!(names)));
    }
    if let Some(store) = bundles {
        // The URL that a machine is lent stands for a GetObject of ours.
        let actions = ["s3:PutObject", "s3:GetObject", "s3:DeleteObject"];
        statements.push(allow(
            "LendBundles",
            &actions.map(str::to_owned).into(),
            json!(format!(
                "arn:aws:s3:::{}/{}",
                store.bucket,
                store.below("*")
            )),
        ));
    }
    if plan.build.instance_profile.is_some() {
        statements.push(with(
            allow("GiveTheBuilderItsRole", &one("iam:PassRole"), json!("*")),
            json!({ "StringEquals": { "iam:PassedToService": "ec2.amazonaws.com" } }),
        ));
    }
    json!({ "Version": "2012-10-17", "Statement": statements })
}

/// What the role of the builder's instance profile needs besides the managed policy `AmazonSSMManagedInstanceCore`: the
/// secrets of the recipe. `None` if that is nothing.
#[must_use]
pub fn builder_policy(plan: &Plan, place: Place<'_>) -> Option<Value> {
    let mut statements = Vec::new();
    let mut parameters = BTreeSet::new();
    let mut secrets = BTreeSet::new();
    for reference in plan.secrets.values() {
        match reference.parse::<Reference>() {
            Ok(Reference::Ssm(name)) => {
                parameters.insert(parameter_arn(place, &name));
            }
            Ok(Reference::SecretsManager(arn)) => {
                secrets.insert(arn);
            }
            Ok(Reference::Env(_)) | Err(_) => {}
        }
    }
    if !parameters.is_empty() {
        let action = one("ssm:GetParameter");
        statements.push(allow("ReadParameters", &action, json!(parameters)));
    }
    if !secrets.is_empty() {
        let action = one("secretsmanager:GetSecretValue");
        statements.push(allow("ReadSecrets", &action, json!(secrets)));
    }
    (!statements.is_empty()).then(|| json!({ "Version": "2012-10-17", "Statement": statements }))
}

/// A parameter's name begins with a slash, or it has none (IAM writes `parameter/name` for both).
fn parameter_arn(place: Place<'_>, name: &str) -> String {
    // Parameters of AWS itself belong to no account that a policy could name.
    let account = if name.starts_with("/aws/") {
        "*"
    } else {
        place.account
    };
    let name = name.strip_prefix('/').unwrap_or(name);
    format!("arn:aws:ssm:{}:{account}:parameter/{name}", place.region)
}

fn one(action: &str) -> BTreeSet<String> {
    BTreeSet::from([action.to_owned()])
}

fn allow(id: &str, actions: &BTreeSet<String>, resource: Value) -> Value {
    json!({ "Sid": id, "Effect": "Allow", "Action": actions, "Resource": resource })
}

fn with(mut statement: Value, condition: Value) -> Value {
    statement["Condition"] = condition;
    statement
}

#[cfg(test)]
mod tests {
    use super::super::plan::Survey;
    use super::super::plan::tests::{bake, target};
    use super::*;

    const PLACE: Place<'static> = Place {
        account: "123456789012",
        region: "eu-west-1",
    };

    fn ami() -> BaseRef {
        BaseRef::Ami { id: "ami-1".into() }
    }

    fn statement<'v>(policy: &'v Value, id: &str) -> &'v Value {
        let all = policy["Statement"].as_array().unwrap();
        all.iter().find(|one| one["Sid"] == id).unwrap()
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
        plan.build.subnet = Some("subnet-1".into());
        assert!(names(&plan, &ami()).contains(&"DescribeSubnets".to_owned()));
        plan.build.security_groups = vec!["sg-1".into()];
        let given = names(&plan, &ami());
        assert!(!given.iter().any(|name| name.contains("SecurityGroup")));
        assert!(!given.contains(&"DescribeSubnets".to_owned()));
        let arn = "arn".to_owned();
        let builder = BaseRef::ImageBuilder { arn };
        assert!(names(&plan, &builder).contains(&"GetImage".to_owned()));
    }

    #[test]
    fn the_policy_allows_every_call_and_changes_only_what_is_ours() {
        let plan = bake(&target(), &Survey::default());
        let parameter = "/aws/service/debian/release/12/latest/amd64".to_owned();
        let base = BaseRef::Ssm { parameter };
        let store = BundleStore {
            bucket: "bundles".into(),
            prefix: "bakes".into(),
        };
        let policy = policy(&plan, &base, Some(&store), PLACE);
        let statements = policy["Statement"].as_array().unwrap();
        let actions: BTreeSet<&str> = statements
            .iter()
            .flat_map(|statement| statement["Action"].as_array().unwrap())
            .map(|action| action.as_str().unwrap())
            .collect();
        for call in calls(&plan, &base, Some(&store)) {
            let action = format!("{}:{}", call.service, call.operation);
            assert!(
                actions.contains(action.as_str()) || call.operation == "GetCallerIdentity",
                "{action}"
            );
        }
        assert!(!actions.contains("iam:PassRole"));
        let lend = statement(&policy, "LendBundles");
        assert_eq!(lend["Resource"], "arn:aws:s3:::bundles/bakes/*");
        assert!(actions.contains("s3:GetObject"));
        let tag = "aws:ResourceTag/piaas-bake:run";
        let end = statement(&policy, "EndWhatIsOurs");
        assert_eq!(
            end["Action"],
            json!([
                "ec2:DeleteSecurityGroup",
                "ec2:DeleteSnapshot",
                "ec2:DeregisterImage",
                "ec2:StopInstances",
                "ec2:TerminateInstances"
            ])
        );
        assert_eq!(end["Condition"]["Null"][tag], "false");
        assert_eq!(
            statement(&policy, "TagWhatIsMade")["Condition"]["StringEquals"]["ec2:CreateAction"],
            json!(["CreateImage", "CreateSecurityGroup", "RunInstances"])
        );
        assert_eq!(
            statement(&policy, "GetParameter")["Resource"],
            json!([
                "arn:aws:ssm:eu-west-1:*:parameter/aws/service/debian/release/12/latest/amd64",
                "arn:aws:ssm:eu-west-1:123456789012:parameter/piaas-bake/ci-worker/candidate",
                "arn:aws:ssm:eu-west-1:123456789012:parameter/piaas-bake/ci-worker/latest",
                "arn:aws:ssm:eu-west-1:123456789012:parameter/piaas-bake/images/*",
                "arn:aws:ssm:eu-west-1:123456789012:parameter/piaas-bake/manifests/*",
            ])
        );
    }

    #[test]
    fn a_profile_is_passed_and_reads_the_secrets() {
        let mut plan = bake(&target(), &Survey::default());
        assert_eq!(builder_policy(&plan, PLACE), None);
        plan.build.instance_profile = Some("builder".into());
        let arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:ci/token-AbCdEf";
        plan.secrets = BTreeMap::from([
            ("a".into(), "ssm:/ci/token".into()),
            ("b".into(), format!("secretsmanager:{arn}")),
        ]);
        let policy = policy(&plan, &ami(), None, PLACE);
        assert_eq!(
            statement(&policy, "GiveTheBuilderItsRole")["Action"],
            json!(["iam:PassRole"])
        );
        let reads = builder_policy(&plan, PLACE).unwrap();
        assert_eq!(
            statement(&reads, "ReadParameters")["Resource"],
            json!(["arn:aws:ssm:eu-west-1:123456789012:parameter/ci/token"])
        );
        assert_eq!(statement(&reads, "ReadSecrets")["Resource"], json!([arn]));
    }
}
