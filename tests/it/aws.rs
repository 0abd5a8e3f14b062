//! What tests do with the AWS API of a local cloud: connect, make a launch template and a group, see who serves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_autoscaling::operation::create_auto_scaling_group::builders::CreateAutoScalingGroupFluentBuilder;
use aws_sdk_autoscaling::types::{AutoScalingGroup, LaunchTemplateSpecification};
use aws_sdk_ec2::types::builders::RequestLaunchTemplateDataBuilder;
use aws_sdk_ec2::types::{InstanceStateName, RequestLaunchTemplateData};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use piaas_bake::aws::{Clients, Connection};
use piaas_bake::clock::{SharedClock, SystemClock};
use piaas_bake::localcloud::engine::Answer;
use piaas_bake::localcloud::faults::Faults;
use piaas_bake::localcloud::nspawn::NspawnDriver;
use piaas_bake::localcloud::s3::{self, Payload};
use piaas_bake::localcloud::{
    ACCESS_KEY, DEFAULT_REGION, LocalCloud, MACHINE_ENDPOINT, SECRET_KEY, base, connector,
};

use crate::support::{BIN, Sandbox, cache_dir};

/// Between two looks of a test that waits on the system's clock.
const LOOK: Duration = Duration::from_millis(50);

/// Clients of a local cloud in this process.
pub async fn connect(http_client: SharedHttpClient, clock: SharedClock) -> Clients {
    let connection = Connection::Local {
        http_client,
        region: DEFAULT_REGION.into(),
        access_key: ACCESS_KEY,
        secret_key: SECRET_KEY,
        machine_endpoint: MACHINE_ENDPOINT,
    };
    Clients::connect(connection, clock).await.unwrap()
}

/// Where the base image of real machines is, or will be.
pub fn base_dir() -> PathBuf {
    cache_dir().join("base").join(base::directory_name())
}

/// Clients of a local cloud with real machines, whose state is in `dir`.
pub async fn real(dir: &Path) -> Clients {
    real_with(dir, None).await
}

/// As [`real`], with faults.
pub async fn real_with(dir: &Path, faults: Option<Arc<Faults>>) -> Clients {
    let driver = NspawnDriver::new(dir.to_owned(), base_dir(), PathBuf::from(BIN));
    let clock = SystemClock::shared();
    let cloud = LocalCloud::open_with(dir, Arc::new(driver), clock.clone(), faults);
    connect(connector(cloud.unwrap()), clock).await
}

/// What a launch template of a worker says: this image on a small instance.
pub fn launches(image: &str) -> RequestLaunchTemplateDataBuilder {
    RequestLaunchTemplateData::builder()
        .image_id(image)
        .instance_type("t3.micro".into())
}

/// A launch template; gives its id.
pub async fn template(
    clients: &Clients,
    name: &str,
    data: RequestLaunchTemplateDataBuilder,
) -> String {
    let create = clients.ec2.create_launch_template();
    let create = create
        .launch_template_name(name)
        .launch_template_data(data.build());
    let made = create.send().await.unwrap().launch_template.unwrap();
    made.launch_template_id.unwrap()
}

/// Version 1 of a template, as a group has it.
pub fn first_version(template: &str) -> LaunchTemplateSpecification {
    LaunchTemplateSpecification::builder()
        .launch_template_id(template)
        .version("1")
        .build()
}

/// A group in one zone that launches version 1 of a template, to be completed and sent.
pub fn group(clients: &Clients, name: &str, template: &str) -> CreateAutoScalingGroupFluentBuilder {
    let create = clients.autoscaling.create_auto_scaling_group();
    create
        .auto_scaling_group_name(name)
        .launch_template(first_version(template))
        .availability_zones(format!("{DEFAULT_REGION}a"))
}

/// A group as the API gives it, if there is one.
pub async fn find_group(clients: &Clients, name: &str) -> Option<AutoScalingGroup> {
    let call = clients.autoscaling.describe_auto_scaling_groups();
    let answer = call.auto_scaling_group_names(name).send().await.unwrap();
    answer.auto_scaling_groups.unwrap_or_default().pop()
}

/// The instances of a group that are in service; none if there is no group.
pub async fn in_service(clients: &Clients, group: &str) -> Vec<String> {
    let group = find_group(clients, group).await;
    let members = group.and_then(|group| group.instances).unwrap_or_default();
    let serving = members.into_iter().filter(|one| {
        one.lifecycle_state()
            .is_some_and(|state| state.as_str() == "InService")
    });
    serving.filter_map(|one| one.instance_id).collect()
}

/// Images of instances, as EC2 says.
pub async fn images_of(clients: &Clients, instances: Vec<String>) -> Vec<String> {
    if instances.is_empty() {
        return Vec::new();
    }
    let call = clients.ec2.describe_instances();
    let answer = call.set_instance_ids(Some(instances)).send().await.unwrap();
    let found = answer.reservations().iter().flat_map(|one| one.instances());
    found
        .filter_map(|one| one.image_id().map(str::to_owned))
        .collect()
}

/// Deletes a group with its instances, and waits until nobody knows it.
pub async fn delete_group(clients: &Clients, name: &str) {
    let call = clients.autoscaling.delete_auto_scaling_group();
    let call = call.auto_scaling_group_name(name).force_delete(true);
    call.send().await.unwrap();
    until(&format!("group {name} to be gone"), async || {
        find_group(clients, name).await.is_none()
    })
    .await;
}

/// Waits until EC2 says of an instance that it is in this state, for a minute at most.
pub async fn in_state(clients: &Clients, instance: &str, wanted: InstanceStateName) {
    until(&format!("{instance} to be {wanted}"), async || {
        let call = clients.ec2.describe_instances();
        let seen = call.instance_ids(instance).send().await.unwrap();
        let state = seen.reservations()[0].instances()[0].state();
        state.and_then(|state| state.name()) == Some(&wanted)
    })
    .await;
}

/// Waits until something has happened, for a minute at most.
pub async fn until(what: &str, happened: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !happened().await {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// A server on loopback that answers so: its address, and what runs it.
pub async fn serve<A>(
    answer: impl Fn(http::Request<Incoming>) -> A + Clone + Send + 'static,
) -> (String, tokio::task::JoinHandle<()>)
where
    A: Future<Output = std::io::Result<http::Response<Full<Bytes>>>> + Send + 'static,
{
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer.clone()));
            // A connection that breaks is its client's affair.
            tokio::spawn(async move { drop(served.await) });
        }
    });
    (endpoint, server)
}

/// A verb that takes a server on loopback for AWS, without input, behind the words of what runs it, if there are any.
pub fn command(
    sandbox: &Sandbox,
    endpoint: &str,
    before: &[String],
    args: &[&str],
) -> tokio::process::Command {
    let plain = sandbox.command(args);
    let words = before.iter().map(String::as_str);
    let mut words = words.chain([BIN]).chain(args.iter().copied());
    let mut command = tokio::process::Command::new(words.next().unwrap());
    let own = plain.get_envs();
    command
        .args(words)
        .current_dir(sandbox.path())
        .env_clear()
        .envs(own.filter_map(|(key, value)| Some((key, value?))))
        .envs(way_to(endpoint))
        .env("PIAAS_CLOUD", "aws")
        .stdin(std::process::Stdio::null());
    command
}

/// The variables that lead the AWS SDK to a local cloud at this address.
pub fn way_to(endpoint: &str) -> [(&'static str, &str); 5] {
    [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ("AWS_REGION", DEFAULT_REGION),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ]
}

/// What a cloud answers; `None` if the connection just ends.
pub fn answered(
    cloud: &LocalCloud,
    request: &http::Request<Bytes>,
) -> Option<http::Response<Bytes>> {
    if s3::is_ours(request) {
        // There is nothing late about objects.
        return Some(cloud.handle(request));
    }
    match cloud.answer(request.clone().map(Payload::Held)) {
        Answer::Sent(response, _) => {
            let (parts, content) = response.into_parts();
            Some(http::Response::from_parts(parts, content.read().unwrap()))
        }
        Answer::Closed | Answer::Reset => None,
    }
}
