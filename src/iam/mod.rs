//! The IAM policies that verbs need: what they call, on what, and under which conditions. Pure.
//!
//! Actions, types of resources and condition keys are those of the Service Authorization Reference ("Actions, resources,
//! and condition keys for Amazon EC2", "… for AWS Systems Manager", "… for Amazon EC2 Auto Scaling", "… for Amazon S3").

mod bake;
mod key;
mod verbs;

pub use bake::{bake, builder};
pub use key::{own_key, with_key};
pub use verbs::{fleet, gc, images, look_inside, roll};

use serde_json::{Value, json};

use crate::aws::tags;

/// Where a policy is for.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// 12 digits.
    pub account: &'a str,
    pub region: &'a str,
}

impl Place<'_> {
    /// A resource of EC2. Images and snapshots are named without an account.
    fn ec2(self, kind: &str, id: &str) -> String {
        let account = match kind {
            "image" | "snapshot" => "",
            _ => self.account,
        };
        format!("arn:aws:ec2:{}:{account}:{kind}/{id}", self.region)
    }

    fn all(self, kinds: &[&str]) -> Vec<String> {
        kinds.iter().map(|kind| self.ec2(kind, "*")).collect()
    }

    /// A parameter. Its name begins with a slash, or it has none (IAM writes `parameter/name` for both).
    fn parameter(self, name: &str) -> String {
        // Parameters of AWS itself belong to no account that a policy could name.
        let account = if name.starts_with("/aws/") {
            "*"
        } else {
            self.account
        };
        let name = name.strip_prefix('/').unwrap_or(name);
        format!("arn:aws:ssm:{}:{account}:parameter/{name}", self.region)
    }

    fn parameters<N: AsRef<str>>(self, names: &[N]) -> Vec<String> {
        let arns = names.iter().map(|name| self.parameter(name.as_ref()));
        arns.collect()
    }

    /// The document of all commands.
    fn shell(self) -> String {
        format!("arn:aws:ssm:{}::document/AWS-RunShellScript", self.region)
    }

    /// Roles that an instance may get by its profile, whose role only IAM knows.
    fn roles(self) -> String {
        format!("arn:aws:iam::{}:role/*", self.account)
    }
}

/// A policy as it grows.
#[derive(Debug, Default)]
struct Policy(Vec<Value>);

impl Policy {
    /// Allows actions on resources. Nothing is stated of no actions or no resources.
    fn allow<A: AsRef<str>, R: AsRef<str>>(&mut self, id: &str, actions: &[A], on: &[R]) {
        self.allow_if(id, actions, on, &Value::Null);
    }

    /// The same under a condition.
    fn allow_if<A: AsRef<str>, R: AsRef<str>>(
        &mut self,
        id: &str,
        actions: &[A],
        on: &[R],
        condition: &Value,
    ) {
        if actions.is_empty() || on.is_empty() {
            return;
        }
        let mut statement = json!({
            "Sid": id,
            "Effect": "Allow",
            "Action": actions.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
            "Resource": on.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
        });
        if !condition.is_null() {
            statement["Condition"] = condition.clone();
        }
        self.0.push(statement);
    }

    /// Looks at what cannot be named: these actions know no resources.
    fn look(&mut self, actions: &[&str]) {
        self.allow("Look", actions, &["*"]);
    }

    /// Commands on machines that a condition tells.
    fn command(&mut self, place: Place<'_>, machines: &Value) {
        let send = ["ssm:SendCommand"];
        self.allow("RunTheShell", &send, &[place.shell()]);
        let on = [place.ec2("instance", "*")];
        self.allow_if("OnOurMachines", &send, &on, machines);
    }

    fn finish(self) -> Value {
        json!({ "Version": "2012-10-17", "Statement": self.0 })
    }
}

/// Something has this tag, whatever its value.
fn tagged(tag: &str) -> Value {
    json!({ "Null": { format!("aws:ResourceTag/{tag}"): "false" } })
}

/// Something that a run has made.
fn ours() -> Value {
    tagged(tags::RUN)
}

/// Something gets the tag of a run as it is made.
fn made_as_ours() -> Value {
    json!({ "Null": { format!("aws:RequestTag/{}", tags::RUN): "false" } })
}

/// Tags may be set by these calls as they make something, and by no others.
fn as_it_is_made(calls: &[&str]) -> Value {
    json!({ "StringEquals": { "ec2:CreateAction": calls } })
}

/// What a machine is launched with: a tag of its run, and metadata that only it can read.
fn sealed_off() -> Value {
    let mut condition = made_as_ours();
    condition["StringEquals"] = json!({ "ec2:MetadataHttpTokens": "required" });
    condition["NumericLessThanEquals"] = json!({ "ec2:MetadataHttpPutResponseHopLimit": "1" });
    condition
}

/// A volume of ours that nobody reads on the disk.
fn encrypted() -> Value {
    let mut condition = made_as_ours();
    condition["Bool"] = json!({ "ec2:Encrypted": "true" });
    condition
}

/// Roles are for machines.
fn for_machines() -> Value {
    json!({ "StringEquals": { "iam:PassedToService": "ec2.amazonaws.com" } })
}
