//! The local cloud through the official SDK, with scripted machines and a clock that jumps.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ec2::config::{Credentials, IdentityCache, SharedCredentialsProvider};
use aws_sdk_ec2::error::ProvideErrorMetadata;
use aws_sdk_ec2::types::{
    Filter, Instance, InstanceStateName, ResourceType, ShutdownBehavior, Tag, TagSpecification,
};
use aws_smithy_async::time::TimeSource;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use jiff::Timestamp;
use piaas_bake::clock::{Clock as _, JumpingClock};
use piaas_bake::localcloud::engine::LocalCloud;
use piaas_bake::localcloud::scripted::{Launch, Outcome, Scripted, SnapshotPlay};
use piaas_bake::localcloud::{
    ACCESS_KEY, BASE_IMAGE, BASE_PARAMETER, DEFAULT_REGION, SECRET_KEY, connector,
};

mod refusals;
mod roles;
mod s3;
mod templates;

#[derive(Debug)]
struct Time(Arc<JumpingClock>);

impl TimeSource for Time {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::try_from(self.0.now().as_duration()).unwrap()
    }
}

pub struct World {
    directory: tempfile::TempDir,
    clock: Arc<JumpingClock>,
    driver: Arc<Scripted>,
    cloud: Arc<LocalCloud>,
    ec2: aws_sdk_ec2::Client,
    ssm: aws_sdk_ssm::Client,
}

fn noon() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn config(cloud: Arc<LocalCloud>, clock: Arc<JumpingClock>, secret: &str) -> SdkConfig {
    let credentials = Credentials::new(ACCESS_KEY, secret, None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(DEFAULT_REGION))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .identity_cache(IdentityCache::no_cache())
        .http_client(connector::connector(cloud))
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .time_source(Time(clock))
        .build()
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = JumpingClock::starting_at(noon());
        let driver = Arc::new(Scripted::new(clock.clone()));
        let cloud = LocalCloud::open(directory.path(), driver.clone(), clock.clone()).unwrap();
        let config = config(cloud.clone(), clock.clone(), SECRET_KEY);
        let (ec2, ssm) = (
            aws_sdk_ec2::Client::new(&config),
            aws_sdk_ssm::Client::new(&config),
        );
        Self {
            directory,
            clock,
            driver,
            cloud,
            ec2,
            ssm,
        }
    }

    fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    async fn run(&self) -> String {
        let answer = self
            .ec2
            .run_instances()
            .image_id(BASE_IMAGE)
            .instance_type("t3.medium".into())
            .min_count(1)
            .max_count(1)
            .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
            .tag_specifications(tagged(ResourceType::Instance))
            .send()
            .await
            .unwrap();
        answer.instances()[0].instance_id().unwrap().to_owned()
    }

    async fn run_until_online(&self) -> String {
        let id = self.run().await;
        self.pass(10);
        id
    }

    async fn instance(&self, id: &str) -> Instance {
        let answer = self
            .ec2
            .describe_instances()
            .instance_ids(id)
            .send()
            .await
            .unwrap();
        answer.reservations()[0].instances()[0].clone()
    }

    async fn state(&self, id: &str) -> InstanceStateName {
        self.instance(id)
            .await
            .state()
            .unwrap()
            .name()
            .unwrap()
            .clone()
    }

    async fn send(&self, id: &str, script: &str) -> String {
        let sent = self
            .ssm
            .send_command()
            .document_name("AWS-RunShellScript")
            .instance_ids(id)
            .parameters("commands", script.lines().map(str::to_owned).collect())
            .parameters("executionTimeout", vec!["60".to_owned()])
            .send()
            .await
            .unwrap();
        sent.command().unwrap().command_id().unwrap().to_owned()
    }

    async fn create_image(&self, id: &str, name: &str) -> String {
        let image = self
            .ec2
            .create_image()
            .instance_id(id)
            .name(name)
            .send()
            .await
            .unwrap();
        image.image_id().unwrap().to_owned()
    }

    async fn image_state(&self, id: &str) -> (String, Option<String>) {
        let answer = self
            .ec2
            .describe_images()
            .image_ids(id)
            .send()
            .await
            .unwrap();
        let image = &answer.images()[0];
        let why = image
            .state_reason()
            .and_then(|reason| reason.message())
            .map(str::to_owned);
        (image.state().unwrap().as_str().to_owned(), why)
    }
}

fn tagged(kind: ResourceType) -> TagSpecification {
    let tag = Tag::builder()
        .key("piaas-bake:run")
        .value("r & <1>")
        .build();
    TagSpecification::builder()
        .resource_type(kind)
        .tags(tag)
        .build()
}

fn code<T: std::fmt::Debug, E: ProvideErrorMetadata>(answer: Result<T, E>) -> String {
    answer.unwrap_err().code().unwrap_or("no code").to_owned()
}

#[tokio::test]
async fn an_image_is_made_from_the_public_parameter_to_its_deletion() {
    let world = World::new();
    let base = world
        .ssm
        .get_parameter()
        .name(BASE_PARAMETER)
        .send()
        .await
        .unwrap();
    assert_eq!(base.parameter().unwrap().value(), Some(BASE_IMAGE));

    let id = world.run().await;
    assert_eq!(world.state(&id).await, InstanceStateName::Pending);
    world.pass(5);
    assert_eq!(world.state(&id).await, InstanceStateName::Running);
    let refused = world
        .ssm
        .send_command()
        .document_name("AWS-RunShellScript")
        .instance_ids(&id);
    let refused = refused
        .parameters("commands", vec!["true".to_owned()])
        .send()
        .await;
    assert_eq!(code(refused), "InvalidInstanceId");
    world.pass(5);
    let agents = world
        .ssm
        .describe_instance_information()
        .send()
        .await
        .unwrap();
    assert_eq!(
        agents.instance_information_list()[0].instance_id(),
        Some(id.as_str())
    );

    world
        .ec2
        .stop_instances()
        .instance_ids(&id)
        .send()
        .await
        .unwrap();
    assert_eq!(world.state(&id).await, InstanceStateName::Stopping);
    world.pass(2);
    // Stopped by the API: what a shutdown from inside would do does not matter.
    assert_eq!(world.state(&id).await, InstanceStateName::Stopped);

    let image = world.create_image(&id, "image-1").await;
    let again = world
        .ec2
        .create_image()
        .instance_id(&id)
        .name("image-1")
        .send()
        .await;
    assert_eq!(code(again), "InvalidAMIName.Duplicate");
    world.pass(15);
    assert_eq!(world.image_state(&image).await.0, "pending");
    let snapshots = world
        .ec2
        .describe_snapshots()
        .owner_ids("self")
        .send()
        .await
        .unwrap();
    assert_eq!(snapshots.snapshots()[0].progress(), Some("50%"));
    let snapshot = snapshots.snapshots()[0].snapshot_id().unwrap().to_owned();
    world.pass(15);
    assert_eq!(world.image_state(&image).await.0, "available");

    let in_use = world
        .ec2
        .delete_snapshot()
        .snapshot_id(&snapshot)
        .send()
        .await;
    assert_eq!(code(in_use), "InvalidSnapshot.InUse");
    world
        .ec2
        .deregister_image()
        .image_id(&image)
        .send()
        .await
        .unwrap();
    world
        .ec2
        .delete_snapshot()
        .snapshot_id(&snapshot)
        .send()
        .await
        .unwrap();
    world
        .ec2
        .terminate_instances()
        .instance_ids(&id)
        .send()
        .await
        .unwrap();
    assert_eq!(world.state(&id).await, InstanceStateName::Terminated);
    assert_eq!(world.cloud.inventory().unwrap(), []);
    assert!(world.driver.live_machines().is_empty() && world.driver.live_snapshots().is_empty());

    world.pass(3601);
    let gone = world
        .ec2
        .describe_instances()
        .instance_ids(&id)
        .send()
        .await;
    assert_eq!(code(gone), "InvalidInstanceID.NotFound");
}

#[tokio::test]
async fn tags_and_filters_survive_the_wire() {
    let world = World::new();
    let id = world.run().await;
    world.run().await;
    let filter = |name: &str, value: &str| Filter::builder().name(name).values(value).build();
    let find = |filter: Filter| {
        let call = world.ec2.describe_instances().filters(filter);
        async move { call.send().await.map(|found| found.reservations().len()) }
    };
    assert_eq!(
        find(filter("tag:piaas-bake:run", "r & <*")).await.unwrap(),
        2
    );
    assert_eq!(find(filter("tag:piaas-bake:run", "s*")).await.unwrap(), 0);
    assert_eq!(find(filter("instance-id", &id)).await.unwrap(), 1);
    assert_eq!(
        code(find(filter("colour", "red")).await),
        "InvalidParameterValue"
    );
    let addresses = world.ec2.describe_instances().send().await.unwrap();
    let mut addresses: Vec<_> = addresses
        .reservations()
        .iter()
        .map(|one| one.instances()[0].private_ip_address().unwrap().to_owned())
        .collect();
    addresses.sort();
    assert_eq!(addresses, ["172.31.1.100", "172.31.2.100"]);
}

#[tokio::test]
async fn commands_come_late_run_and_end() {
    let world = World::new();
    world.driver.on_command(
        "slow",
        Outcome {
            duration: Duration::from_secs(90),
            ..Outcome::default()
        },
    );
    world.driver.on_command(
        "make",
        Outcome {
            duration: Duration::from_secs(4),
            stderr: "bad".into(),
            ..Outcome::exit(2)
        },
    );
    let id = world.run_until_online().await;
    let command = world.send(&id, "cd /src\nmake").await;
    let look = |command: &str| {
        world
            .ssm
            .get_command_invocation()
            .command_id(command)
            .instance_id(&id)
            .send()
    };
    assert_eq!(code(look(&command).await), "InvocationDoesNotExist");
    world.clock.advance(Duration::from_millis(300));
    let early = look(&command).await.unwrap();
    assert_eq!(early.status_details(), Some("InProgress"));
    assert_eq!(
        (early.response_code(), early.standard_error_content()),
        (-1, Some(""))
    );
    world.pass(4);
    let late = look(&command).await.unwrap();
    assert_eq!(late.status_details(), Some("Failed"));
    assert_eq!(
        (late.response_code(), late.standard_error_content()),
        (2, Some("bad"))
    );

    let slow = world.send(&id, "slow").await;
    world.pass(60);
    assert_eq!(
        look(&slow).await.unwrap().status_details(),
        Some("ExecutionTimedOut")
    );
    let slow = world.send(&id, "slow").await;
    world.pass(1);
    world
        .ssm
        .cancel_command()
        .command_id(&slow)
        .send()
        .await
        .unwrap();
    assert_eq!(
        look(&slow).await.unwrap().status_details(),
        Some("Cancelled")
    );
}

#[tokio::test]
async fn failures_show_as_on_aws() {
    let world = World::new();
    world
        .driver
        .set_launch(Launch::Fails(Duration::from_secs(1), "no kernel".into()));
    let id = world.run().await;
    world.pass(1);
    let failed = world.instance(&id).await;
    assert_eq!(
        failed.state().unwrap().name(),
        Some(&InstanceStateName::Terminated)
    );
    let reason = failed.state_reason().unwrap();
    assert_eq!(reason.message(), Some("Server.InternalError: no kernel"));

    world.driver.set_launch(Launch::Boots(Duration::ZERO));
    world.driver.set_snapshot(SnapshotPlay::Fails(
        Duration::from_secs(1),
        "the disk is full".into(),
    ));
    let id = world.run_until_online().await;
    let image = world.create_image(&id, "doomed").await;
    world.pass(1);
    let (state, why) = world.image_state(&image).await;
    assert_eq!(state, "failed");
    assert!(why.unwrap().contains("the disk is full"));
}

#[tokio::test]
async fn a_shutdown_from_inside_terminates_what_was_launched_so() {
    let world = World::new();
    let id = world.run_until_online().await;
    assert_eq!(world.state(&id).await, InstanceStateName::Running);
    world.driver.shut_down_from_inside(&id);
    let ended = world.instance(&id).await;
    assert_eq!(
        ended.state().unwrap().name(),
        Some(&InstanceStateName::Terminated)
    );
    assert_eq!(
        ended.state_reason().unwrap().code(),
        Some("Client.InstanceInitiatedShutdown")
    );
}
