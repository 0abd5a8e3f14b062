//! The policies that the program prints, against what it calls: a front before the local cloud judges each request as IAM
//! would, by the action, the resource and the conditions. Bakes, rolls and fleets are judged in their own tests; here are
//! the verbs of the command line.

mod asks;
pub mod front;
pub mod judge;
mod kept;

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_sdk_ec2::types::ResourceType;
use front::Front;
pub use judge::Judge;
use piaas_bake::aws::{Clients, parameters, tags};
use piaas_bake::bake::names::BundleStore;
use piaas_bake::iam::{self, Place};
use piaas_bake::localcloud::{ACCOUNT_ID, BASE_IMAGE, DEFAULT_REGION};
use serde_json::Value;

use crate::bake_flow::cloud::Directories;
use crate::support::{Run, Sandbox, machines_wanted};

pub const PLACE: Place<'static> = Place {
    account: ACCOUNT_ID,
    region: DEFAULT_REGION,
};

const RECIPE: &str = "schema: piaas-bake/v1
name: web
version: 1.0.0
description: An image.
from: { ami: BASE }
steps:
  - { name: Make it, run: 'echo made >\"$MACHINE/built\"' }
";

/// A cloud whose machines are directories, and who acts there on the command line.
struct World {
    sandbox: Sandbox,
    machines: Arc<Directories>,
    front: Front,
}

impl World {
    async fn new() -> Self {
        let sandbox = Sandbox::new();
        sandbox.write("recipes/web/recipe.yaml", &Self::recipe());
        let machines = Arc::new(Directories::new(&sandbox.path().join("machines")));
        let front = Front::new(&sandbox.path().join("cloud"), machines.clone()).await;
        Self {
            sandbox,
            machines,
            front,
        }
    }

    fn recipe() -> String {
        RECIPE.replace("BASE", BASE_IMAGE)
    }

    async fn run(&self, args: &[&str]) -> Run {
        self.front.run(&self.sandbox, args).await
    }

    /// The policy that the program prints for a verb, by somebody who may do everything.
    async fn printed(&self, of: &[&str]) -> Value {
        self.front.judge(None);
        let run = self.run(&[&["policy"], of].concat()).await.expect_code(0);
        serde_json::from_str(&run.stdout).unwrap()
    }

    /// From now on verbs act by what is printed for this one.
    async fn by(&self, of: &[&str]) -> Arc<Judge> {
        let judge = Judge::new(&self.printed(of).await, self.front.clients.clone());
        self.front.judge(Some(judge.clone()));
        judge
    }

    async fn done(&self, args: &[&str]) {
        let run = self.run(args).await;
        assert_eq!(run.code, Some(0), "{args:?}: {}", run.stderr);
    }
}

/// Something of a run that is over for long: a machine in a group.
async fn left_behind(clients: &Clients) {
    let mut ours = tags::Tags::new();
    tags::put(&mut ours, tags::RUN, "20200101T000000-00000001");
    tags::put(&mut ours, tags::EXPIRES, "2020-01-02T00:00:00Z");
    let mark = |kind| tags::specification(kind, &ours);
    let group = clients
        .ec2
        .create_security_group()
        .group_name("left")
        .description("left");
    let group = group.tag_specifications(mark(ResourceType::SecurityGroup));
    let group = group.send().await.unwrap().group_id.unwrap();
    let run = clients
        .ec2
        .run_instances()
        .image_id(BASE_IMAGE)
        .min_count(1)
        .max_count(1);
    let run = run
        .instance_type("t3.micro".into())
        .security_group_ids(group);
    run.tag_specifications(mark(ResourceType::Instance))
        .send()
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_does_with_the_policy_that_is_printed_for_it() {
    let world = World::new().await;
    let _judge = world.by(&["bake", "web"]).await;
    world.done(&["plan", "web"]).await;
    world.done(&["bake", "web"]).await;
    // It is there.
    world.done(&["bake", "web"]).await;
    world.done(&["runs"]).await;

    let _judge = world.by(&["bake", "web", "--candidate"]).await;
    world.done(&["rebake", "web", "--stale", "--dry-run"]).await;
    world.done(&["bake", "web", "--candidate", "--force"]).await;

    let judge = world.by(&["images"]).await;
    world.done(&["images", "list"]).await;
    world.done(&["images", "list", "web"]).await;
    world.done(&["images", "show", "web"]).await;
    world.done(&["why", "web", "web@candidate"]).await;
    world.done(&["images", "promote", "web@candidate"]).await;
    assert_eq!(judge.unused(), BTreeSet::new());

    let judge = world.by(&["run"]).await;
    world.done(&["cloud", "run", "web", "--", "true"]).await;
    assert_eq!(judge.unused(), BTreeSet::new());

    left_behind(&world.front.clients).await;
    let judge = world.by(&["gc"]).await;
    world.done(&["gc"]).await;
    world.done(&["gc", "--yes"]).await;
    let unneeded = judge.unused();
    // The other kinds are in the tests of clean-ups.
    for needed in ["TerminateInstances", "DeleteSecurityGroup"] {
        assert!(
            !unneeded.iter().any(|one| one.ends_with(needed)),
            "{unneeded:?}"
        );
    }
}

/// The policy of a bake is that of locking, verifying and comparing, too.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_bake_may_lock_and_verify() {
    if !machines_wanted("locks and verifications by the policy of a bake") {
        return;
    }
    let world = World::new().await;
    world.machines.set_apart();
    let _judge = world.by(&["bake", "web"]).await;
    world.done(&["lock", "web"]).await;
    world.done(&["lock", "web", "--update"]).await;
    world.done(&["bake", "web"]).await;
    world.done(&["verify", "web"]).await;
    world.done(&["diff", "web", "web"]).await;
}

/// What may not be looked at stays, and keeps nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_is_refused_does_not_keep_what_others_find() {
    let world = World::new().await;
    left_behind(&world.front.clients).await;
    let mut policy = world.printed(&["gc"]).await;
    for statement in policy["Statement"].as_array_mut().unwrap() {
        let actions = statement["Action"].as_array_mut().unwrap();
        actions.retain(|action| action != "ec2:DescribeSnapshots");
    }
    let judge = Judge::new(&policy, world.front.clients.clone());
    world.front.judge(Some(judge.clone()));
    for (args, removed) in [(&["gc"][..], false), (&["gc", "--yes"], true)] {
        let run = world.run(args).await;
        assert_eq!(run.code, Some(5), "{}", run.stderr);
        let unseen = "the snapshots could not be looked at";
        assert!(run.stderr.contains(unseen), "{}", run.stderr);
        assert!(
            run.stderr.contains("ec2:DescribeSnapshots"),
            "{}",
            run.stderr
        );
        assert!(
            run.stdout.contains("cannot be looked at: the snapshots"),
            "{}",
            run.stdout
        );
        let word = if removed {
            "removed the machine"
        } else {
            "machine  "
        };
        assert!(run.stdout.contains(word), "{}", run.stdout);
    }
    let json = world.run(&["gc", "--format", "json"]).await;
    let report: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(report["unseen"][0]["what"], "the snapshots");
    assert_eq!(report["remove"], serde_json::json!([]));
    let denied = judge.take_denied();
    assert!(
        denied
            .iter()
            .all(|one| one.starts_with("ec2:DescribeSnapshots")),
        "{denied:?}"
    );
}

/// A verb that calls something else fails, and says what is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_outside_of_the_policy_fails() {
    let world = World::new().await;
    let judge = world.by(&["gc"]).await;
    let run = world.run(&["bake", "web"]).await;
    assert_eq!(run.code, Some(5), "{}", run.stderr);
    let denied = judge.take_denied();
    assert!(denied[0].starts_with("ssm:GetParameters on "), "{denied:?}");
    assert!(run.stderr.contains("GetParameters"), "{}", run.stderr);
    // Policies of groups name them.
    parameters::set(&world.front.clients, "/else".into(), "x".into())
        .await
        .unwrap();
    let _judge = world.by(&["fleet", "workers"]).await;
    for verb in ["roll", "fleet"] {
        let policy = world.printed(&[verb, "workers"]).await.to_string();
        assert!(
            policy.contains("autoScalingGroupName/workers\""),
            "{policy}"
        );
    }
}

/// What is printed is about actions that there are, and about types of resources that these know.
#[test]
fn actions_and_resources_are_those_of_the_service_authorization_reference() {
    let store = BundleStore {
        bucket: "b".into(),
        prefix: String::new(),
    };
    for policy in [
        iam::images(PLACE),
        iam::gc(Some(&store), PLACE),
        iam::look_inside(PLACE),
        iam::roll("g", None, PLACE),
        iam::fleet("g", PLACE),
    ] {
        assert_known(&policy);
    }
}

/// Each action exists, and each resource of a statement is of a type that one of its actions knows.
pub fn assert_known(policy: &Value) {
    let mut ids = BTreeSet::new();
    for statement in policy["Statement"].as_array().unwrap() {
        let id = statement["Sid"].as_str().unwrap();
        assert!(ids.insert(id), "{id} is there twice");
        assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
        let arns = judge::texts(&statement["Resource"]);
        let mut known = BTreeSet::new();
        for action in judge::texts(&statement["Action"]) {
            let types = asks::types_of(action);
            let types = types.unwrap_or_else(|| panic!("{id}: no action {action}"));
            let of_arns = arns.iter().map(|arn| type_of(arn));
            let has_one = arns == ["*"] || of_arns.into_iter().any(|one| types.contains(one));
            assert!(has_one, "{id}: {action} on {arns:?}");
            known.extend(types);
        }
        for arn in arns.iter().filter(|arn| **arn != "*") {
            assert!(known.contains(type_of(arn)), "{id}: {arn}");
        }
    }
}

fn type_of(arn: &str) -> &str {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let [_, _, service, _, _, rest] = parts.as_slice() else {
        panic!("no ARN: {arn}");
    };
    match (*service, rest.contains('/')) {
        ("s3", true) => "object",
        ("s3", false) => "bucket",
        _ => rest.split([':', '/']).next().unwrap_or_default(),
    }
}
