//! Bakes, their end and their clean-up by somebody who has the printed policies and no more. Every world's bakes are judged;
//! here it is seen that the policies have nothing that is not needed, and that what is not ours stays out of reach.

use std::collections::BTreeSet;

use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, HttpTokensState, InstanceMetadataOptionsRequest,
    InstanceType, ResourceType,
};
use piaas_bake::aws::objects::{self, Place as Object};
use piaas_bake::aws::{parameters, tags};
use piaas_bake::iam::{self, Place};
use piaas_bake::lifecycle;
use piaas_bake::localcloud::{BASE_IMAGE, DEFAULT_REGION};
use serde_json::Value;

use super::calls::{base, targets};
use super::*;
use crate::iam::Judge;

const PLACE: Place<'static> = Place {
    account: ACCOUNT_ID,
    region: DEFAULT_REGION,
};

impl World {
    pub(super) fn policy(&self, plan: &Plan) -> Value {
        iam::bake(plan, &base(), self.bundles.as_ref(), PLACE)
    }

    async fn judged(&self, policy: &Value) -> (Arc<Judge>, Clients) {
        let judge = Judge::new(policy, self.calm.clone());
        let way = judge.before(self.wire.client());
        let clients = aws::connect(way, self.clock.clone()).await;
        (judge, clients)
    }

    /// Somebody who acts by this policy. Layers are of the local cloud alone, where there are no policies.
    pub(super) async fn allowed(&self, policy: &Value) -> Clients {
        if self.layers.lock().unwrap().is_some() {
            return self.clients.clone();
        }
        self.judged(policy).await.1
    }

    /// Somebody who cleans up.
    pub(super) async fn cleaner(&self) -> Clients {
        let policy = iam::gc(self.bundles.as_ref(), PLACE);
        self.allowed(&policy).await
    }

    /// A bake by the policy of its plan: those parts of it that were not needed, and what was called.
    async fn unneeded(&self, plan: &Plan, fault: Fault) -> (BTreeSet<String>, Vec<String>) {
        let (judge, clients) = self.judged(&self.policy(plan)).await;
        clients.account(|_| ()).await.unwrap();
        bake::resolve(&clients, &base(), "x86_64").await.unwrap();
        survey(&clients, &self.target().await, &self.runs())
            .await
            .unwrap();
        self.wire.fail(fault);
        let runs = self.runs();
        let settings = Settings {
            runs: &runs,
            keep_on_failure: false,
            account: ACCOUNT_ID.into(),
            run: RunId::new(self.clock.now(), 77),
            bundles: self.bundles.clone(),
            cancel: Cancel::never(),
            layers: None,
            disks: Some(self),
        };
        let outcome = bake::bake(&clients, plan, settings, &()).await;
        let called = self.wire.operations();
        self.wire.fail(Fault::None);
        let goes_well = matches!(fault, Fault::None | Fault::Lose(_));
        assert_eq!(outcome.is_ok(), goes_well, "{outcome:?}");
        if let Some(store) = &self.bundles {
            // The URL that a machine is lent stands for a request of ours.
            let object = Object {
                bucket: store.bucket.clone(),
                key: store.below("of-a-run"),
            };
            let url = objects::lend(&clients, &object, Duration::from_secs(60)).await;
            let request = http::Request::get(url.unwrap().reveal());
            let request = request.body(bytes::Bytes::new()).unwrap();
            assert!(judge.refuse(&request).await.is_none());
        }
        (judge.unused(), called)
    }
}

/// A bake of each kind of target needs all of its policy: where it goes well, or where it fails.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_policy_of_a_bake_is_not_needed() {
    for number in 0..3 {
        let mut unneeded: Option<BTreeSet<String>> = None;
        let at = |operation: &str, all: &[String]| {
            all.iter()
                .rposition(|one| one == operation)
                .expect(operation)
        };
        let mut all = Vec::new();
        for step in 0..4 {
            let mut world = World::new().await;
            let target = targets(&world).await.swap_remove(number);
            let _ = bundles::through_bucket(&mut world).await;
            let plan = world.plan(&target).await;
            // One is refused as it publishes, where it has made everything; of one the answer to its first change is lost.
            let fault = match step {
                0 => Fault::None,
                1 => Fault::Refuse(at("CreateTags", &all)),
                2 if all.iter().any(|one| one == "CreateSecurityGroup") => {
                    Fault::Lose(at("CreateSecurityGroup", &all))
                }
                _ => Fault::Refuse(at("PutParameter", &all)),
            };
            let (found, called) = world.unneeded(&plan, fault).await;
            if step == 0 {
                all = called;
            }
            unneeded = Some(match unneeded {
                Some(before) => before.intersection(&found).cloned().collect(),
                None => found,
            });
        }
        assert_eq!(unneeded.unwrap(), BTreeSet::new(), "target {number}");
    }
}

/// Everything that a clean-up can find is removed by its policy, and all of that is needed.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_policy_of_a_clean_up_is_not_needed() {
    let mut world = World::new().await;
    let through_bucket = bundles::through_bucket(&mut world).await;
    let plan = world.plan(&world.target().await).await;
    let policy = iam::gc(world.bundles.as_ref(), PLACE);
    let (judge, cleaner) = world.judged(&policy).await;
    let clean = async || {
        let dead = bake::undo_dead_runs(&cleaner, ACCOUNT_ID, &world.runs(), &()).await;
        let [dead] = dead.unwrap().try_into().unwrap();
        assert_eq!(dead.left_over, []);
        dead.image
    };
    // An image is being made ready as its process dies.
    killed_at_last(&world, &plan, "CreateTags", None).await;
    assert!(clean().await.is_some());
    remove_images(&world).await;
    // Another one is the latest, and a second one is being made so.
    world.bake(&plan, Cancel::never(), &()).await.unwrap();
    let first = plan;
    let forced = Target {
        force: true,
        ..world.target().await
    };
    let plan = world.plan(&forced).await;
    killed_at_last(&world, &plan, "PutParameter", Some(&first)).await;
    assert!(clean().await.is_some());
    remove_images(&world).await;
    // The journals of others are lost.
    let other = Target {
        layers: world.target().await.layers[..1].to_vec(),
        ..world.target().await
    };
    for operation in ["CreateImage", "CreateTags", "PutObject"] {
        if operation == "PutObject" && !through_bucket {
            continue;
        }
        let plan = world.plan(&other).await;
        killed_at_last(&world, &plan, operation, None).await;
        std::fs::remove_dir_all(world.runs()).unwrap();
        world.clock.sleep(Duration::from_secs(9 * 24 * 3600)).await;
        let survey = lifecycle::survey(&cleaner, world.bundles.as_ref()).await;
        assert!(survey.unseen.is_empty(), "{operation}: {:?}", survey.unseen);
        let found = survey.found.into_iter();
        let found: Vec<_> = found
            .filter(|one| {
                let verdict = lifecycle::judge(one, lifecycle::Run::Unknown, world.clock.now());
                matches!(verdict, lifecycle::Verdict::Remove(_))
            })
            .collect();
        assert!(!found.is_empty(), "{operation}");
        let (_, stuck) = lifecycle::remove(&cleaner, &found, &()).await;
        assert_eq!(stuck, [], "{operation}");
    }
    assert_eq!(judge.unused(), BTreeSet::new());
}

/// Somebody removes all images of ours.
async fn remove_images(world: &World) {
    for image in images::list(&world.calm, None).await.unwrap() {
        let ec2 = &world.calm.ec2;
        let call = ec2.deregister_image().image_id(&image.id);
        let _ = call.send().await.unwrap();
        for snapshot in &image.snapshots {
            let call = ec2.delete_snapshot().snapshot_id(snapshot);
            let _ = call.send().await.unwrap();
        }
    }
}

/// A bake whose process dies as its last request of this kind has been carried out.
/// What was baked before is the same in its twin, which tells when that is.
async fn killed_at_last(world: &World, plan: &Plan, operation: &str, before: Option<&Plan>) {
    let twin = {
        let mut twin = World::new().await;
        let _ = bundles::through_bucket(&mut twin).await;
        twin
    };
    if let Some(before) = before {
        twin.bake(before, Cancel::never(), &()).await.unwrap();
    }
    twin.wire.fail(Fault::None);
    twin.bake(plan, Cancel::never(), &()).await.unwrap();
    let all = twin.wire.operations();
    let at = all.iter().rposition(|one| one == operation).unwrap();
    // The tag that publishes an image ends all doubt: its request does not arrive.
    let fault = match operation {
        "CreateTags" => Fault::HangBefore(at),
        _ => Fault::HangAfter(at),
    };
    killed(world, plan, fault, operation).await;
}

fn metadata(tokens: HttpTokensState, hops: i32) -> InstanceMetadataOptionsRequest {
    InstanceMetadataOptionsRequest::builder()
        .http_tokens(tokens)
        .http_put_response_hop_limit(hops)
        .build()
}

/// A machine as a bake launches it, but for what a test changes.
fn machine(
    clients: &Clients,
    encrypted: bool,
    marked: &[ResourceType],
    group: &str,
) -> aws_sdk_ec2::operation::run_instances::builders::RunInstancesFluentBuilder {
    let ebs = EbsBlockDevice::builder().encrypted(encrypted).build();
    let disk = BlockDeviceMapping::builder()
        .device_name("/dev/xvda")
        .ebs(ebs);
    let mut ours = tags::Tags::new();
    tags::put(&mut ours, tags::RUN, "r");
    let marks = marked
        .iter()
        .map(|kind| tags::specification(kind.clone(), &ours));
    clients
        .ec2
        .run_instances()
        .image_id(BASE_IMAGE)
        .instance_type(InstanceType::T3Medium)
        .min_count(1)
        .max_count(1)
        .security_group_ids(group)
        .block_device_mappings(disk.build())
        .metadata_options(metadata(HttpTokensState::Required, 1))
        .set_tag_specifications(Some(marks.collect()))
}

/// What the program never does, and what is not ours, IAM refuses to whoever has the policy of a bake.
#[tokio::test(flavor = "multi_thread")]
async fn the_policy_of_a_bake_gives_nothing_else() {
    let world = World::new().await;
    let plan = world.plan(&world.target().await).await;
    let (judge, clients) = world.judged(&world.policy(&plan)).await;
    let both = [ResourceType::Instance, ResourceType::Volume];
    let group = {
        let mut ours = tags::Tags::new();
        tags::put(&mut ours, tags::RUN, "r");
        let make = clients
            .ec2
            .create_security_group()
            .group_name("ours")
            .description("ours");
        let mark = tags::specification(ResourceType::SecurityGroup, &ours);
        let made = make.tag_specifications(mark).send().await.unwrap();
        made.group_id.unwrap()
    };
    // As it should be, it is allowed.
    machine(&clients, true, &both, &group).send().await.unwrap();
    assert_eq!(judge.take_denied(), [] as [String; 0]);
    let foreign = {
        let all = world
            .calm
            .ec2
            .describe_security_groups()
            .send()
            .await
            .unwrap();
        let foreign = all
            .security_groups()
            .iter()
            .find(|one| one.tags().is_empty());
        foreign.unwrap().group_id().unwrap().to_owned()
    };
    let launch = || machine(&clients, true, &both, &group);
    for (what, call) in [
        ("an open disk", machine(&clients, false, &both, &group)),
        (
            "no tag of a run",
            machine(&clients, true, &both[1..], &group),
        ),
        (
            "a disk without a tag",
            machine(&clients, true, &both[..1], &group),
        ),
        (
            "a group of others",
            machine(&clients, true, &both, &foreign),
        ),
        (
            "another type",
            launch().instance_type(InstanceType::C52xlarge),
        ),
        (
            "metadata without tokens",
            launch().metadata_options(metadata(HttpTokensState::Optional, 1)),
        ),
        (
            "metadata for containers",
            launch().metadata_options(metadata(HttpTokensState::Required, 2)),
        ),
        (
            "a role that is not the recipe's",
            launch().iam_instance_profile(
                aws_sdk_ec2::types::IamInstanceProfileSpecification::builder()
                    .name("admin")
                    .build(),
            ),
        ),
    ] {
        assert!(call.send().await.is_err(), "{what}");
        assert_eq!(judge.take_denied().len(), 1, "{what}");
    }

    // A machine and an image of somebody else.
    let calm = &world.calm.ec2;
    let run = calm
        .run_instances()
        .image_id(BASE_IMAGE)
        .min_count(1)
        .max_count(1);
    let run = run
        .instance_type(InstanceType::T3Micro)
        .send()
        .await
        .unwrap();
    let other = run.instances()[0].instance_id().unwrap().to_owned();
    world.clock.sleep(Duration::from_secs(60)).await;
    let image = calm
        .create_image()
        .instance_id(&other)
        .name("other")
        .send()
        .await;
    let image = image.unwrap().image_id.unwrap();
    let snapshots = calm
        .describe_snapshots()
        .owner_ids("self")
        .send()
        .await
        .unwrap();
    let snapshot = snapshots.snapshots()[0].snapshot_id().unwrap();
    let ec2 = &clients.ec2;
    let tag = aws_sdk_ec2::types::Tag::builder()
        .key(tags::RUN)
        .value("mine")
        .build();
    let ssm = clients
        .ssm
        .send_command()
        .document_name("AWS-RunShellScript");
    let refused = [
        ec2.stop_instances()
            .instance_ids(&other)
            .send()
            .await
            .is_err(),
        ec2.terminate_instances()
            .instance_ids(&other)
            .send()
            .await
            .is_err(),
        ec2.deregister_image()
            .image_id(&image)
            .send()
            .await
            .is_err(),
        ec2.delete_snapshot()
            .snapshot_id(snapshot)
            .send()
            .await
            .is_err(),
        ec2.delete_security_group()
            .group_id(&foreign)
            .send()
            .await
            .is_err(),
        // Nor is it made ours by a tag.
        ec2.create_tags()
            .resources(&other)
            .tags(tag)
            .send()
            .await
            .is_err(),
        ec2.create_image()
            .instance_id(&other)
            .name("x")
            .send()
            .await
            .is_err(),
        ssm.instance_ids(&other).send().await.is_err(),
        // The pointer of another recipe, and one that it does not move.
        parameters::set(&clients, "/piaas-bake/other/latest".into(), "x".into())
            .await
            .is_err(),
        parameters::set(&clients, "/piaas-bake/worker/candidate".into(), "x".into())
            .await
            .is_err(),
        parameters::set(&clients, "/else".into(), "x".into())
            .await
            .is_err(),
        parameters::values(&clients, vec!["/ci/token".into()])
            .await
            .is_err(),
        // What it never calls.
        ec2.describe_vpcs().send().await.is_err(),
    ];
    assert_eq!(refused, [true; 13], "{:#?}", judge.take_denied());
    assert_eq!(judge.take_denied().len(), 13);
}
