//! Faults on purpose: each kind of the script, as the official SDK sees it in process and as a client on a socket does.

mod quotas;
mod spot;
mod stale;

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_ec2::error::ProvideErrorMetadata as _;
use aws_sdk_ec2::operation::RequestId as _;
use aws_sdk_ec2::types::Placement;
use piaas_bake::aws::Clients;
use piaas_bake::clock::{Clock as _, JumpingClock, SystemClock};
use piaas_bake::localcloud::faults::Faults;
use piaas_bake::localcloud::scripted::{Launch, Scripted};
use piaas_bake::localcloud::serve::serve;
use piaas_bake::localcloud::{BASE_IMAGE, DEFAULT_REGION, LocalCloud, connector};

use crate::aws;
use crate::support::Sandbox;

struct World {
    clients: Clients,
    clock: Arc<JumpingClock>,
    driver: Arc<Scripted>,
    dir: tempfile::TempDir,
}

fn script(rules: &str) -> Option<Arc<Faults>> {
    let text = format!("schema: piaas-bake/faults/v1\nfaults:\n{rules}\n");
    Some(Arc::new(Faults::parse(&text).unwrap()))
}

impl World {
    async fn new(rules: &str) -> Self {
        Self::with(script(rules)).await
    }

    async fn with(faults: Option<Arc<Faults>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = JumpingClock::starting_at("2026-01-01T12:00:00Z".parse().unwrap());
        let driver = Arc::new(Scripted::new(clock.clone()));
        driver.set_launch(Launch::Boots(Duration::ZERO));
        driver.set_agent(Some(Duration::ZERO));
        let cloud = LocalCloud::open_with(dir.path(), driver.clone(), clock.clone(), faults);
        let clients = aws::connect(connector(cloud.unwrap()), clock.clone()).await;
        Self {
            clients,
            clock,
            driver,
            dir,
        }
    }

    async fn run(&self, token: &str) -> Result<String, aws_sdk_ec2::Error> {
        self.run_in("a", token).await
    }

    /// Launches one machine in a zone; the SDK tries again as it does.
    async fn run_in(&self, zone: &str, token: &str) -> Result<String, aws_sdk_ec2::Error> {
        let place = Placement::builder().availability_zone(format!("{DEFAULT_REGION}{zone}"));
        let run = self.clients.ec2.run_instances().image_id(BASE_IMAGE);
        let run = run
            .instance_type("t3.micro".into())
            .min_count(1)
            .max_count(1)
            .placement(place.build())
            .client_token(token);
        let made = run.send().await?;
        Ok(made.instances()[0].instance_id().unwrap().to_owned())
    }

    async fn states(&self) -> Vec<String> {
        let answer = self.clients.ec2.describe_instances().send().await.unwrap();
        let found = answer.reservations().iter().flat_map(|one| one.instances());
        found
            .map(|one| one.state().unwrap().name().unwrap().as_str().to_owned())
            .collect()
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_or_a_request_that_comes_twice_launches_one_machine() {
    for fault in [
        "drop-reply",
        "reset",
        "duplicate",
        "drop-request",
        "throttle",
    ] {
        let world = World::new(&format!("  - {{ fault: {fault}, on: 'ec2:RunInstances' }}")).await;
        world.run("one").await.unwrap();
        assert_eq!(world.driver.live_machines().len(), 1, "{fault}");
    }
}

/// Objects are large: an answer comes from the disk piece by piece, a body that comes twice is there twice.
#[tokio::test]
async fn faults_meddle_with_objects_too() {
    let bytes = vec![7u8; 300_000];
    for fault in [
        "throttle",
        "drop-request",
        "drop-reply",
        "duplicate",
        "reset",
    ] {
        let world = World::new(&format!("  - {{ fault: {fault}, on: 's3:PutObject' }}")).await;
        let s3 = &world.clients.s3;
        s3.create_bucket().bucket("web").send().await.unwrap();
        let put = s3.put_object().bucket("web").key("a");
        put.body(bytes.clone().into()).send().await.unwrap();
        let got = s3.get_object().bucket("web").key("a").send().await.unwrap();
        assert!(
            got.body.collect().await.unwrap().to_vec() == bytes,
            "{fault}"
        );
    }
    let world = World::new("  - { fault: slow, on: 's3:GetObject', seconds: 30 }").await;
    let s3 = &world.clients.s3;
    s3.create_bucket().bucket("web").send().await.unwrap();
    let put = s3.put_object().bucket("web").key("a");
    put.body(bytes.clone().into()).send().await.unwrap();
    let got = s3.get_object().bucket("web").key("a").send().await.unwrap();
    let before = world.clock.now();
    assert!(got.body.collect().await.unwrap().to_vec() == bytes);
    assert_eq!(world.clock.now().duration_since(before).as_secs(), 30);
}

#[tokio::test]
async fn an_error_has_the_code_that_the_script_says_and_nothing_is_done() {
    let rule = "  - { fault: error, on: 'ec2:RunInstances', status: 403, code: UnauthorizedOperation, message: no }";
    let world = World::new(rule).await;
    let error = world.run("one").await.unwrap_err();
    assert_eq!(error.code(), Some("UnauthorizedOperation"));
    assert_eq!(error.message(), Some("no"));
    assert!(error.request_id().is_some());
    assert_eq!(world.driver.live_machines(), [""; 0]);
    world.run("one").await.unwrap();
}

#[tokio::test]
async fn a_service_that_fails_has_its_own_code() {
    let world = World::new("  - { fault: error, status: 500, times: always }").await;
    let ec2 = world.clients.ec2.describe_regions().send().await;
    assert_eq!(ec2.unwrap_err().code(), Some("InternalError"));
    let ssm = world.clients.ssm.list_commands().send().await;
    assert_eq!(ssm.unwrap_err().code(), Some("InternalServerError"));
    let groups = world.clients.autoscaling.describe_auto_scaling_groups();
    let groups = groups.send().await;
    assert_eq!(groups.unwrap_err().code(), Some("InternalFailure"));
}

#[tokio::test]
async fn a_stale_read_shows_the_past_and_then_the_present() {
    let rule = "  - { fault: stale, on: 'ec2:Describe*', seconds: 60, after: 1, times: always }";
    let world = World::new(rule).await;
    assert_eq!(world.states().await, [""; 0]);
    world.clock.sleep(Duration::from_secs(1)).await;
    world.run("one").await.unwrap();
    assert_eq!(world.states().await, [""; 0], "it is not visible yet");
    world.clock.sleep(Duration::from_secs(61)).await;
    assert_eq!(world.states().await.len(), 1);
    assert_eq!(world.driver.live_machines().len(), 1);
}

#[tokio::test]
async fn machines_have_the_troubles_of_the_script() {
    let rules = "  - { fault: capacity, zone: '*a', type: 't3.*', times: always }\n  \
                 - { fault: launch-failure, reason: 'the disk is on fire', after: 1 }\n  \
                 - { fault: no-agent }";
    let world = World::new(rules).await;
    // The SDK tries a server error again, and in the end says it. Another zone has room.
    let error = world.run("one").await.unwrap_err();
    assert_eq!(error.code(), Some("InsufficientInstanceCapacity"));
    let silent = world.run_in("b", "one").await.unwrap();
    let burnt = world.run_in("b", "two").await.unwrap();
    let well = world.run_in("c", "three").await.unwrap();
    let answer = world.clients.ec2.describe_instances();
    let answer = answer.instance_ids(&burnt).send().await.unwrap();
    let one = &answer.reservations()[0].instances()[0];
    assert_eq!(one.state().unwrap().name().unwrap().as_str(), "terminated");
    let reason = one.state_reason().unwrap();
    assert_eq!(reason.code(), Some("Server.InternalError"));
    let reason = reason.message().unwrap();
    assert!(reason.contains("the disk is on fire"), "{reason}");
    world.clock.sleep(Duration::from_secs(600)).await;
    let known = world.clients.ssm.describe_instance_information();
    let known = known.send().await.unwrap();
    let online: Vec<_> = known
        .instance_information_list()
        .iter()
        .filter_map(|one| one.instance_id())
        .collect();
    assert_eq!(online, [well.as_str()], "{silent} has no agent");
}

/// Every process moves the whole cloud on, the machines' own endpoint once a second.
#[tokio::test]
async fn no_other_process_launches_what_the_script_lets_fail() {
    let rule = format!("  - {{ fault: capacity, zone: {DEFAULT_REGION}a, times: always }}");
    let world = World::new(&rule).await;
    let template = aws::template(&world.clients, "workers", aws::launches(BASE_IMAGE)).await;
    let group = aws::group(&world.clients, "workers", &template);
    let group = group.min_size(0).max_size(1).desired_capacity(1);
    group.send().await.unwrap();
    let other = LocalCloud::open(world.dir.path(), world.driver.clone(), world.clock.clone());
    let other = other.unwrap();
    for _ in 0..30 {
        world.clock.sleep(Duration::from_secs(10)).await;
        other.tick(|| ()).unwrap();
        let none = aws::in_service(&world.clients, "workers").await;
        assert_eq!(none, [""; 0]);
    }
    // With the script goes its hold on the group.
    drop(world.clients);
    world.clock.sleep(Duration::from_secs(600)).await;
    for _ in 0..3 {
        other.tick(|| ()).unwrap();
        world.clock.sleep(Duration::from_secs(10)).await;
    }
    assert_eq!(world.driver.live_machines().len(), 1);
}

/// The raw bytes of an answer on a socket, and how the connection ended.
fn talk(address: std::net::SocketAddr) -> (Vec<u8>, Option<std::io::ErrorKind>) {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let body = "Action=GetCallerIdentity&Version=2011-06-15";
    let head = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (got, None),
            Ok(length) => got.extend_from_slice(&buffer[..length]),
            Err(error) => return (got, Some(error.kind())),
        }
        // Without a signature it is refused: the last bytes are known.
        if got.ends_with(b"</ErrorResponse>") {
            return (got, None);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_socket_connections_end_are_reset_or_take_their_time() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SystemClock::shared();
    let driver = Arc::new(Scripted::new(clock.clone()));
    let rules = "  - { fault: drop-reply }\n  - { fault: reset }\n  - { fault: slow, seconds: 1 }";
    let cloud = LocalCloud::open_with(dir.path(), driver, clock, script(rules)).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(cloud, listener, std::future::pending()));
    let told = tokio::task::spawn_blocking(move || {
        let (closed, reset) = (talk(address), talk(address));
        let started = std::time::Instant::now();
        let slow = talk(address);
        (closed, reset, slow, started.elapsed())
    });
    let (closed, reset, slow, time) = told.await.unwrap();
    assert_eq!(closed, (Vec::new(), None));
    assert_eq!(
        reset,
        (Vec::new(), Some(std::io::ErrorKind::ConnectionReset))
    );
    assert!(slow.0.ends_with(b"</ErrorResponse>"), "{slow:?}");
    assert!(time >= Duration::from_secs(1), "{time:?}");
}

#[test]
fn a_script_that_means_nothing_is_refused_before_anything_is_served() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "faults.yaml",
        "schema: piaas-bake/faults/v1\nfaults:\n  - { fault: slow }\n",
    );
    let run = sandbox.run(&["cloud", "serve", "--faults", "faults.yaml"]);
    let run = run.expect_code(2);
    assert!(
        run.stderr.contains("fault 1 (`slow`)") && run.stderr.contains("seconds"),
        "{}",
        run.stderr
    );
    assert!(!sandbox.state().exists());
}
