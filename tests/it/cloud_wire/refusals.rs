//! Who is let in, what is refused, and whose things are whose.

use aws_sdk_ec2::error::ProvideErrorMetadata as _;
use aws_sdk_ec2::types::InstanceStateName;
use piaas_bake::clock::JumpingClock;
use piaas_bake::localcloud::engine::LocalCloud;
use piaas_bake::localcloud::{BASE_IMAGE, SECRET_KEY, serve};

use super::{World, code, config, noon};

#[tokio::test]
async fn a_client_token_launches_once() {
    let world = World::new();
    let launch = |kind: &str| {
        let call = world
            .ec2
            .run_instances()
            .image_id(BASE_IMAGE)
            .instance_type(kind.into());
        call.min_count(1)
            .max_count(1)
            .client_token("token-1")
            .send()
    };
    let first = launch("t3.medium").await.unwrap();
    let second = launch("t3.medium").await.unwrap();
    assert_eq!(
        first.instances()[0].instance_id(),
        second.instances()[0].instance_id()
    );
    assert_eq!(world.driver.live_machines().len(), 1);
    assert_eq!(
        code(launch("t3.large").await),
        "IdempotentParameterMismatch"
    );
}

#[tokio::test]
async fn a_value_that_a_metadata_option_does_not_have_launches_nothing() {
    let world = World::new();
    let options = aws_sdk_ec2::types::InstanceMetadataOptionsRequest::builder();
    let launch = |options| {
        let call = world.ec2.run_instances().image_id(BASE_IMAGE);
        call.min_count(1)
            .max_count(1)
            .metadata_options(options)
            .send()
    };
    for wrong in [
        options.clone().http_tokens("requird".into()),
        options.clone().instance_metadata_tags("on".into()),
        options.clone().http_endpoint("off".into()),
        options.clone().http_put_response_hop_limit(65),
    ] {
        assert_eq!(code(launch(wrong.build()).await), "InvalidParameterValue");
    }
    assert_eq!(world.driver.live_machines().len(), 0);
}

#[tokio::test]
async fn signatures_are_checked() {
    let world = World::new();
    let forged = config(world.cloud.clone(), world.clock.clone(), "another secret");
    let refused = aws_sdk_ec2::Client::new(&forged)
        .describe_vpcs()
        .send()
        .await;
    assert_eq!(code(refused), "AuthFailure");
    let refused = aws_sdk_sts::Client::new(&forged)
        .get_caller_identity()
        .send()
        .await;
    assert_eq!(code(refused), "SignatureDoesNotMatch");
    let refused = aws_sdk_ssm::Client::new(&forged)
        .list_commands()
        .send()
        .await;
    assert_eq!(code(refused), "InvalidSignatureException");

    let behind = JumpingClock::starting_at(noon());
    world.pass(16 * 60);
    let stale = config(world.cloud.clone(), behind, SECRET_KEY);
    let refused = aws_sdk_ec2::Client::new(&stale)
        .describe_vpcs()
        .send()
        .await;
    assert_eq!(code(refused), "RequestExpired");
    let identity = config(world.cloud.clone(), world.clock.clone(), SECRET_KEY);
    let identity = aws_sdk_sts::Client::new(&identity)
        .get_caller_identity()
        .send()
        .await
        .unwrap();
    assert_eq!(identity.account(), Some("000000000000"));
}

/// The endpoint is on loopback, which everybody on this host reaches: who does not sign is told nothing.
#[tokio::test]
async fn a_request_without_a_signature_is_refused() {
    let world = World::new();
    let forms = [
        ("ec2", "", "Action=DescribeVpcs&Version=2016-11-15"),
        ("sts", "", "Action=GetCallerIdentity&Version=2011-06-15"),
        (
            "autoscaling",
            "",
            "Action=DescribeAutoScalingGroups&Version=2011-01-01",
        ),
        ("ssm", "AmazonSSM.DescribeParameters", "{}"),
        ("secretsmanager", "secretsmanager.ListSecrets", "{}"),
    ];
    for (service, target, body) in forms {
        let host = format!("{service}.us-east-1.amazonaws.com");
        let mut request = http::Request::post(format!("http://{host}/")).header("host", host);
        if target.is_empty() {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        } else {
            request = request
                .header("content-type", "application/x-amz-json-1.1")
                .header("x-amz-target", target);
        }
        let request = request
            .body(bytes::Bytes::from_static(body.as_bytes()))
            .unwrap();
        let answer = world.cloud.handle(&request);
        let said = String::from_utf8_lossy(answer.body()).into_owned();
        assert!(answer.status().is_client_error(), "{service}: {said}");
        assert!(
            [
                "MissingAuthenticationToken",
                "AuthFailure",
                "IncompleteSignature"
            ]
            .iter()
            .any(|code| said.contains(code)),
            "{service}: {said}"
        );
    }
    for (method, path) in [("GET", "/bucket/key"), ("PUT", "/bucket/key"), ("GET", "/")] {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("http://127.0.0.1:4599{path}"));
        let request = request
            .header("host", "127.0.0.1:4599")
            .body(bytes::Bytes::new())
            .unwrap();
        let answer = world.cloud.handle(&request);
        assert!(
            answer.status().is_client_error(),
            "{method} {path}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn what_is_not_there_is_refused_by_name() {
    let world = World::new();
    let action = world.ec2.describe_key_pairs().send().await.unwrap_err();
    assert_eq!(action.code(), Some("InvalidAction"));
    assert!(action.message().unwrap().contains("DescribeKeyPairs"));
    let parameter = world.ec2.describe_vpcs().dry_run(true).send().await;
    assert_eq!(code(parameter), "DryRunOperation");
    let options = aws_sdk_ec2::types::EnclaveOptionsRequest::builder()
        .enabled(true)
        .build();
    let launch = world
        .ec2
        .run_instances()
        .image_id(BASE_IMAGE)
        .min_count(1)
        .max_count(1);
    let refused = launch.enclave_options(options).send().await.unwrap_err();
    assert_eq!(refused.code(), Some("UnknownParameter"));
    assert!(
        refused
            .message()
            .unwrap()
            .contains("EnclaveOptions.Enabled")
    );
    assert_eq!(
        code(world.ssm.list_documents().send().await),
        "UnknownOperationException"
    );
    let extra = world.ssm.list_commands().filters(
        aws_sdk_ssm::types::CommandFilter::builder()
            .key(aws_sdk_ssm::types::CommandFilterKey::Status)
            .value("Success")
            .build()
            .unwrap(),
    );
    let refused = extra.send().await.unwrap_err();
    assert!(refused.message().unwrap().contains("Filters"));
}

#[tokio::test]
async fn two_openings_of_one_directory_are_one_cloud() {
    let world = World::new();
    let id = world.run().await;
    let other = LocalCloud::open(
        world.directory.path(),
        world.driver.clone(),
        world.clock.clone(),
    )
    .unwrap();
    let config = config(other, world.clock.clone(), SECRET_KEY);
    let ec2 = aws_sdk_ec2::Client::new(&config);
    ec2.terminate_instances()
        .instance_ids(&id)
        .send()
        .await
        .unwrap();
    assert_eq!(world.state(&id).await, InstanceStateName::Terminated);
}

#[tokio::test]
async fn orphans_are_removed_and_the_living_stay() {
    let world = World::new();
    let orphan = world.run_until_online().await;
    let image = world.create_image(&orphan, "half").await;
    let path = world.directory.path().join("state.json");
    let text = std::fs::read_to_string(&path).unwrap();
    // Pid 0 is the scheduler's: no process of ours has it.
    let pid = std::process::id();
    std::fs::write(
        &path,
        text.replace(&format!("\"pid\":{pid},"), "\"pid\":0,"),
    )
    .unwrap();
    let living = world.run().await;

    let reaped = world.cloud.reap_orphans().unwrap();
    assert_eq!(
        (reaped.instances, reaped.images),
        (vec![orphan.clone()], vec![image])
    );
    assert_eq!(world.state(&orphan).await, InstanceStateName::Terminated);
    assert_eq!(world.driver.live_machines(), [living]);
    assert!(world.driver.live_snapshots().is_empty());
    assert_eq!(
        world.cloud.reap_orphans().unwrap().instances,
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn the_socket_answers_until_it_is_shut_down() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let world = World::new();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(serve::serve(world.cloud.clone(), listener, async {
        drop(stopped.await)
    }));
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let body = "Action=DescribeVpcs&Version=2016-11-15";
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream
        .write_all(format!("{head}{body}").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(
        answer.contains("<Code>MissingAuthenticationToken</Code>"),
        "{answer}"
    );
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
}
