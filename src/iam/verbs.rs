//! What the other verbs need.

use serde_json::{Value, json};

use super::bake::notes;
use super::{Place, Policy, as_it_is_made, encrypted, for_machines, ours, sealed_off};
use crate::bake::LEASES;
use crate::bake::names::{BundleStore, Channel};
use crate::roll::look::CANARY_TAG;
use crate::{fleet as fleets, lease, roll as rolls};

/// The pointers of all recipes.
fn pointers() -> [String; 2] {
    Channel::ALL.map(|channel| channel.parameter("*"))
}

/// Listing, showing and promoting images, and saying why two differ.
#[must_use]
pub fn images(place: Place<'_>) -> Value {
    let mut policy = Policy::default();
    policy.look(&["ec2:DescribeImages"]);
    let mut read = place.parameters(&notes());
    read.extend(place.parameters(&pointers()));
    policy.allow("ReadNotes", &["ssm:GetParameters"], &read);
    policy.allow(
        "Promote",
        &["ssm:GetParameter", "ssm:PutParameter"],
        &[place.parameter(&Channel::Latest.parameter("*"))],
    );
    policy.finish()
}

/// Finding and removing what runs have left, in the bucket of bundles too, and finishing what was about to be.
#[must_use]
pub fn gc(bundles: Option<&BundleStore>, place: Place<'_>) -> Value {
    let mut policy = Policy::default();
    policy.look(&[
        "ec2:DescribeImages",
        "ec2:DescribeInstances",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSnapshots",
        "ssm:DescribeParameters",
    ]);
    policy.allow_if(
        "RemoveWhatIsOurs",
        &[
            "ec2:TerminateInstances",
            "ec2:DeregisterImage",
            "ec2:DeleteSnapshot",
            "ec2:DeleteSecurityGroup",
        ],
        &place.all(&["instance", "image", "snapshot", "security-group"]),
        &ours(),
    );
    // What died while it published is made ready.
    policy.allow_if(
        "FinishImages",
        &["ec2:CreateTags"],
        &place.all(&["image", "snapshot"]),
        &ours(),
    );
    policy.allow(
        "RemoveNotes",
        &["ssm:DeleteParameter"],
        &place.parameters(&notes()),
    );
    let leases = lease::path(LEASES);
    let under = format!("{leases}/*");
    let see = ["ssm:GetParameter"];
    policy.allow("SeePointers", &see, &place.parameters(&pointers()));
    policy.allow(
        "EndLeases",
        &[
            "ssm:GetParameters",
            "ssm:GetParametersByPath",
            "ssm:DeleteParameters",
        ],
        &place.parameters(&[leases, under]),
    );
    if let Some(store) = bundles {
        let bucket = format!("arn:aws:s3:::{}", store.bucket);
        let objects = format!("{bucket}/{}", store.below("*"));
        let below = json!({ "StringLike": { "s3:prefix": store.below("*") } });
        policy.allow_if("ListBundles", &["s3:ListBucket"], &[bucket], &below);
        policy.allow("RemoveBundles", &["s3:DeleteObject"], &[objects]);
    }
    policy.finish()
}

/// Running a command on a machine that is gone afterwards.
#[must_use]
pub fn look_inside(place: Place<'_>) -> Value {
    let mut policy = Policy::default();
    policy.look(&[
        "ec2:DescribeImages",
        "ec2:DescribeInstances",
        "ssm:DescribeInstanceInformation",
        "ssm:GetCommandInvocation",
    ]);
    policy.allow(
        "FindTheImage",
        &["ssm:GetParameters"],
        &place.parameters(&pointers()),
    );
    let run = ["ec2:RunInstances"];
    let machine = [place.ec2("instance", "*")];
    policy.allow_if("LaunchMachines", &run, &machine, &sealed_off());
    let volume = [place.ec2("volume", "*")];
    policy.allow_if("OnEncryptedVolumes", &run, &volume, &encrypted());
    let from = place.all(&["image", "network-interface", "subnet", "security-group"]);
    policy.allow("LaunchFrom", &run, &from);
    policy.allow_if(
        "TagWhatIsMade",
        &["ec2:CreateTags"],
        &place.all(&["instance", "volume"]),
        &as_it_is_made(&["RunInstances"]),
    );
    let end = ["ec2:TerminateInstances"];
    policy.allow_if("EndMachines", &end, &machine, &ours());
    policy.command(place, &ours());
    policy.finish()
}

/// What belongs to a group: it is named, its template may be known.
struct Group<'a> {
    name: &'a str,
    place: Place<'a>,
}

impl Group<'_> {
    /// The id in its ARN is chance.
    fn arn(&self) -> String {
        format!(
            "arn:aws:autoscaling:{}:{}:autoScalingGroup:*:autoScalingGroupName/{}",
            self.place.region, self.place.account, self.name
        )
    }

    /// Its instances, which Auto Scaling tags.
    fn members(&self) -> Value {
        json!({ "StringEquals": { "aws:ResourceTag/aws:autoscaling:groupName": self.name } })
    }

    /// Commands on its members.
    fn command(&self, policy: &mut Policy) {
        policy.command(self.place, &self.members());
    }

    /// A lease, and what is kept under these names.
    fn keep(&self, policy: &mut Policy, lease: &str, kept: &str) {
        let lease = lease::path(lease);
        let all = [
            lease.clone(),
            format!("{lease}/*"),
            kept.to_owned(),
            format!("{kept}/*"),
        ];
        policy.allow(
            "KeepRecords",
            &[
                "ssm:GetParameters",
                "ssm:GetParametersByPath",
                "ssm:PutParameter",
                "ssm:DeleteParameters",
            ],
            &self.place.parameters(&all),
        );
    }
}

/// Rolling a group to another image, and back. `template` is the id of its launch template, if that is known.
#[must_use]
pub fn roll(group: &str, template: Option<&str>, place: Place<'_>) -> Value {
    let group = Group { name: group, place };
    let mut policy = Policy::default();
    policy.look(&[
        "autoscaling:DescribeAutoScalingGroups",
        "autoscaling:DescribeInstanceRefreshes",
        "ec2:DescribeImages",
        "ec2:DescribeInstances",
        "ec2:DescribeLaunchTemplateVersions",
        "ssm:DescribeInstanceInformation",
        "ssm:GetCommandInvocation",
    ]);
    policy.allow(
        "FindTheImage",
        &["ssm:GetParameters"],
        &place.parameters(&pointers()),
    );
    group.keep(
        &mut policy,
        &rolls::lease_name(group.name),
        &rolls::record::parameter(group.name),
    );
    policy.allow(
        "Roll",
        &[
            "autoscaling:StartInstanceRefresh",
            "autoscaling:CancelInstanceRefresh",
            "autoscaling:RollbackInstanceRefresh",
            "autoscaling:UpdateAutoScalingGroup",
        ],
        &[group.arn()],
    );
    let template = place.ec2("launch-template", template.unwrap_or("*"));
    policy.allow(
        "MakeVersions",
        &[
            "ec2:CreateLaunchTemplateVersion",
            "ec2:DeleteLaunchTemplateVersions",
        ],
        std::slice::from_ref(&template),
    );
    // Whoever gives a group a template has to be allowed to launch from it, as the canary is (Auto Scaling User Guide,
    // "Control Amazon EC2 launch template usage in Auto Scaling groups").
    let by_template = json!({ "ArnLike": { "ec2:LaunchTemplate": template } });
    policy.allow_if(
        "LaunchByTheTemplate",
        &["ec2:RunInstances"],
        &["*"],
        &by_template,
    );
    policy.allow_if(
        "GiveRoles",
        &["iam:PassRole"],
        &[place.roles()],
        &for_machines(),
    );
    // The template may have tags for more than the canary itself.
    policy.allow_if(
        "TagTheCanary",
        &["ec2:CreateTags"],
        &place.all(&["instance", "volume", "network-interface"]),
        &as_it_is_made(&["RunInstances"]),
    );
    let canary =
        json!({ "StringEquals": { format!("aws:ResourceTag/{}", CANARY_TAG): group.name } });
    let machine = [place.ec2("instance", "*")];
    let end = ["ec2:TerminateInstances"];
    policy.allow_if("EndTheCanary", &end, &machine, &canary);
    let send = ["ssm:SendCommand"];
    policy.allow_if("AskTheCanary", &send, &machine, &canary);
    group.command(&mut policy);
    policy.finish()
}

/// Running the fleet of a group.
#[must_use]
pub fn fleet(group: &str, place: Place<'_>) -> Value {
    let name = group;
    let group = Group { name, place };
    let mut policy = Policy::default();
    policy.look(&[
        "autoscaling:DescribeAutoScalingGroups",
        "autoscaling:DescribeInstanceRefreshes",
        "ec2:DescribeInstances",
        "ec2:DescribeLaunchTemplateVersions",
        "ssm:DescribeInstanceInformation",
        "ssm:GetCommandInvocation",
        "ssm:ListCommandInvocations",
    ]);
    group.keep(
        &mut policy,
        &fleets::lease_name(name),
        &fleets::memory::parameter(name),
    );
    // What a roll under way goes to.
    let of_roll = [place.parameter(&rolls::record::parameter(name))];
    policy.allow("SeeItsRoll", &["ssm:GetParameters"], &of_roll);
    policy.allow(
        "Scale",
        &[
            "autoscaling:LaunchInstances",
            "autoscaling:TerminateInstanceInAutoScalingGroup",
        ],
        &[group.arn()],
    );
    group.command(&mut policy);
    policy.finish()
}
