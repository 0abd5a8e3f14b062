//! What a bake needs, and its builder.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Place, Policy, as_it_is_made, encrypted, for_machines, made_as_ours, ours, sealed_off,
};
use crate::bake::LEASES;
use crate::bake::calls::calls;
use crate::bake::names::{BundleStore, Channel, manifest_parameter};
use crate::bake::plan::Plan;
use crate::lease;
use crate::recipe::model::BaseRef;
use crate::recipe::secret::Reference;

/// Where manifests and notes on images are.
pub(super) fn notes() -> [String; 2] {
    [manifest_parameter("*"), "/piaas-bake/images/*".to_owned()]
}

/// The policy that makes exactly the calls of a bake possible, and of whatever does what a bake does: going on with it,
/// undoing it, comparing its images. What no run of ours made may not be changed: machines, groups, images and snapshots
/// are told by the tag of their run, which IAM lets be set only as they are made. `bundles` is the bucket that bundles go
/// through, if there is one.
#[must_use]
pub fn bake(plan: &Plan, base: &BaseRef, bundles: Option<&BundleStore>, place: Place<'_>) -> Value {
    let calls = calls(plan, base, bundles);
    let asked: BTreeSet<String> = calls
        .iter()
        .map(|call| format!("{}:{}", call.service, call.operation))
        .collect();
    let is_look = |action: &&String| {
        let operation = action
            .split_once(':')
            .map_or("", |(_, operation)| operation);
        (operation.starts_with("Describe") || operation.starts_with("Get"))
            // Parameters have names. Anyone may ask who they are.
            && !operation.starts_with("GetParameter")
            && operation != "GetCallerIdentity"
            && operation != "GetImage"
    };
    let looks: Vec<&String> = asked.iter().filter(is_look).collect();
    let mut policy = Policy::default();
    policy.allow("Look", &looks, &["*"]);
    if let BaseRef::ImageBuilder { arn } = base {
        policy.allow("LookUpTheBase", &["imagebuilder:GetImage"], &[arn]);
    }
    launch(&mut policy, plan, place);
    make(&mut policy, plan, place);
    let on_instances = ["ec2:StopInstances", "ec2:TerminateInstances"];
    policy.allow_if(
        "EndMachines",
        &on_instances,
        &[place.ec2("instance", "*")],
        &ours(),
    );
    policy.allow_if(
        "UnmakeImages",
        &["ec2:DeregisterImage", "ec2:DeleteSnapshot"],
        &place.all(&["image", "snapshot"]),
        &ours(),
    );
    policy.command(place, &ours());
    parameters(&mut policy, plan, base, place);
    leases(&mut policy, place);
    if let Some(store) = bundles {
        // The URL that a machine is lent stands for a GetObject of ours.
        let actions = ["s3:PutObject", "s3:GetObject", "s3:DeleteObject"];
        let objects = format!("arn:aws:s3:::{}/{}", store.bucket, store.below("*"));
        policy.allow("LendBundles", &actions, &[objects]);
    }
    if plan.build.instance_profile.is_some() {
        policy.allow_if(
            "GiveTheBuilderItsRole",
            &["iam:PassRole"],
            &[place.roles()],
            &for_machines(),
        );
    }
    policy.finish()
}

/// Machines: of the plan's types, sealed off, on encrypted volumes, in the groups and the subnets of the recipe.
fn launch(policy: &mut Policy, plan: &Plan, place: Place<'_>) {
    let run = ["ec2:RunInstances"];
    let build = &plan.build;
    let mut machine = sealed_off();
    machine["StringEquals"]["ec2:InstanceType"] = json!(build.instance_types);
    if let Some(profile) = &build.instance_profile {
        // Its path is not in its name.
        let arn = |name: &str| format!("arn:aws:iam::{}:instance-profile/{name}", place.account);
        let arns = [arn(profile), arn(&format!("*/{profile}"))];
        machine["ArnLike"] = json!({ "ec2:InstanceProfile": arns });
    }
    let on = [place.ec2("instance", "*")];
    policy.allow_if("LaunchMachines", &run, &on, &machine);
    let on = [place.ec2("volume", "*")];
    policy.allow_if("OnEncryptedVolumes", &run, &on, &encrypted());
    let mut from = place.all(&["image", "network-interface"]);
    if build.subnets.is_empty() {
        from.push(place.ec2("subnet", "*"));
    }
    let subnets = build.subnets.iter();
    from.extend(subnets.map(|subnet| place.ec2("subnet", subnet)));
    let groups = build.security_groups.iter();
    from.extend(groups.map(|group| place.ec2("security-group", group)));
    policy.allow("LaunchFrom", &run, &from);
}

/// The group, the images, and the tags of all that is made.
fn make(policy: &mut Policy, plan: &Plan, place: Place<'_>) {
    let mut made = vec!["instance", "volume", "image", "snapshot"];
    let mut by = vec!["RunInstances", "CreateImage"];
    if plan.build.security_groups.is_empty() {
        let group = [place.ec2("security-group", "*")];
        let call = ["ec2:CreateSecurityGroup"];
        policy.allow_if("MakeAGroup", &call, &group, &made_as_ours());
        policy.allow("MakeItInANetwork", &call, &[place.ec2("vpc", "*")]);
        let uses = ["ec2:DeleteSecurityGroup", "ec2:RunInstances"];
        policy.allow_if("UseOurGroup", &uses, &group, &ours());
        made.push("security-group");
        by.push("CreateSecurityGroup");
    }
    let call = ["ec2:CreateImage"];
    let of = [place.ec2("instance", "*")];
    policy.allow_if("ImageOurMachines", &call, &of, &ours());
    let images = place.all(&["image", "snapshot"]);
    policy.allow_if("MakeImages", &call, &images, &made_as_ours());
    let tag = ["ec2:CreateTags"];
    policy.allow_if(
        "TagWhatIsMade",
        &tag,
        &place.all(&made),
        &as_it_is_made(&by),
    );
    policy.allow_if("PublishImage", &tag, &images, &ours());
}

/// The leases of digests: what says which run bakes one.
fn leases(policy: &mut Policy, place: Place<'_>) {
    let path = lease::path(LEASES);
    policy.allow(
        "TakeTurns",
        &[
            "ssm:GetParametersByPath",
            "ssm:PutParameter",
            "ssm:DeleteParameters",
        ],
        &[place.parameter(&format!("{path}/*"))],
    );
}

/// What is written: the pointer of the plan's channel, and notes. What is read: the pointers of both.
fn parameters(policy: &mut Policy, plan: &Plan, base: &BaseRef, place: Place<'_>) {
    let mut own = place.parameters(&notes());
    own.push(place.parameter(&plan.channel.parameter(&plan.recipe)));
    policy.allow(
        "KeepNotes",
        &[
            "ssm:GetParameter",
            "ssm:PutParameter",
            "ssm:DeleteParameter",
        ],
        &own,
    );
    let mut read = place.parameters(&notes());
    let channels = Channel::ALL.iter();
    read.extend(channels.map(|channel| place.parameter(&channel.parameter(&plan.recipe))));
    policy.allow("ReadNotes", &["ssm:GetParameters"], &read);
    if let BaseRef::Ssm { parameter } = base {
        let on = [place.parameter(parameter)];
        policy.allow("LookUpTheBase", &["ssm:GetParameter"], &on);
    }
}

/// What the role of the builder's instance profile needs besides the managed policy `AmazonSSMManagedInstanceCore`: the
/// secrets of the recipe. `None` if that is nothing.
#[must_use]
pub fn builder(plan: &Plan, place: Place<'_>) -> Option<Value> {
    let mut parameters = BTreeSet::new();
    let mut secrets = BTreeSet::new();
    for reference in plan.secrets.values() {
        match reference.parse::<Reference>() {
            Ok(Reference::Ssm(name)) => {
                parameters.insert(place.parameter(&name));
            }
            Ok(Reference::SecretsManager(arn)) => {
                secrets.insert(arn);
            }
            Ok(Reference::Env(_)) | Err(_) => {}
        }
    }
    let mut policy = Policy::default();
    let all = |set: BTreeSet<String>| Vec::from_iter(set);
    policy.allow("ReadParameters", &["ssm:GetParameter"], &all(parameters));
    let read = ["secretsmanager:GetSecretValue"];
    policy.allow("ReadSecrets", &read, &all(secrets));
    (!policy.0.is_empty()).then(|| policy.finish())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::bake::plan::Survey;
    use crate::bake::plan::tests::{bake as planned, target};

    const PLACE: Place<'static> = Place {
        account: "123456789012",
        region: "eu-west-1",
    };

    fn ami() -> BaseRef {
        BaseRef::Ami { id: "ami-1".into() }
    }

    fn statement<'v>(policy: &'v Value, id: &str) -> &'v Value {
        let all = policy["Statement"].as_array().unwrap();
        let found = all.iter().find(|one| one["Sid"] == id);
        found.unwrap_or_else(|| panic!("no {id}"))
    }

    #[test]
    fn the_policy_has_every_call_and_changes_only_what_is_ours() {
        let plan = planned(&target(), &Survey::default());
        let parameter = "/aws/service/debian/release/12/latest/amd64".to_owned();
        let base = BaseRef::Ssm { parameter };
        let store = BundleStore {
            bucket: "bundles".into(),
            prefix: "bakes".into(),
        };
        let policy = bake(&plan, &base, Some(&store), PLACE);
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
        assert_eq!(
            statement(&policy, "LendBundles")["Resource"],
            json!(["arn:aws:s3:::bundles/bakes/*"])
        );
        let tag = "aws:ResourceTag/piaas-bake:run";
        for id in ["EndMachines", "UnmakeImages", "UseOurGroup", "PublishImage"] {
            assert_eq!(statement(&policy, id)["Condition"]["Null"][tag], "false");
        }
        let launch = &statement(&policy, "LaunchMachines")["Condition"];
        assert_eq!(launch["StringEquals"]["ec2:MetadataHttpTokens"], "required");
        assert_eq!(
            statement(&policy, "TagWhatIsMade")["Condition"]["StringEquals"]["ec2:CreateAction"],
            json!(["RunInstances", "CreateImage", "CreateSecurityGroup"])
        );
        assert_eq!(
            statement(&policy, "KeepNotes")["Resource"],
            json!([
                "arn:aws:ssm:eu-west-1:123456789012:parameter/piaas-bake/manifests/*",
                "arn:aws:ssm:eu-west-1:123456789012:parameter/piaas-bake/images/*",
                "arn:aws:ssm:eu-west-1:123456789012:parameter/piaas-bake/ci-worker/latest",
            ])
        );
        assert_eq!(
            statement(&policy, "LookUpTheBase")["Resource"],
            json!(["arn:aws:ssm:eu-west-1:*:parameter/aws/service/debian/release/12/latest/amd64"])
        );
    }

    #[test]
    fn groups_and_a_subnet_that_the_recipe_names_are_the_only_ones() {
        let mut plan = planned(&target(), &Survey::default());
        plan.build.security_groups = vec!["sg-1".into()];
        plan.build.subnets = vec!["subnet-1".into()];
        let policy = bake(&plan, &ami(), None, PLACE);
        assert!(!policy.to_string().contains("SecurityGroup"), "{policy}");
        assert_eq!(
            statement(&policy, "LaunchFrom")["Resource"],
            json!([
                "arn:aws:ec2:eu-west-1::image/*",
                "arn:aws:ec2:eu-west-1:123456789012:network-interface/*",
                "arn:aws:ec2:eu-west-1:123456789012:subnet/subnet-1",
                "arn:aws:ec2:eu-west-1:123456789012:security-group/sg-1",
            ])
        );
    }

    #[test]
    fn a_profile_is_passed_and_reads_the_secrets() {
        let mut plan = planned(&target(), &Survey::default());
        assert_eq!(builder(&plan, PLACE), None);
        plan.build.instance_profile = Some("builder".into());
        let arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:ci/token-AbCdEf";
        plan.secrets = BTreeMap::from([
            ("a".into(), "ssm:/ci/token".into()),
            ("b".into(), format!("secretsmanager:{arn}")),
        ]);
        let policy = bake(&plan, &ami(), None, PLACE);
        assert_eq!(
            statement(&policy, "GiveTheBuilderItsRole")["Resource"],
            json!(["arn:aws:iam::123456789012:role/*"])
        );
        let reads = builder(&plan, PLACE).unwrap();
        assert_eq!(
            statement(&reads, "ReadParameters")["Resource"],
            json!(["arn:aws:ssm:eu-west-1:123456789012:parameter/ci/token"])
        );
        assert_eq!(statement(&reads, "ReadSecrets")["Resource"], json!([arn]));
    }
}
