//! Protection from scale-in, against the local cloud's Auto Scaling and a metadata service of the test's own.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use piaas_bake::aws::Clients;
use piaas_bake::clock::SystemClock;
use piaas_bake::localcloud::engine::LocalCloud;
use piaas_bake::localcloud::scripted::{Launch, Scripted};
use piaas_bake::localcloud::serve::serve;
use piaas_bake::localcloud::{ACCESS_KEY, BASE_IMAGE, SECRET_KEY, connector};

use super::Machine;
use crate::aws;

const GROUP: &str = "workers & <co>";

/// A metadata service of version 2 for one instance. The role can be taken away and given back.
struct Metadata {
    address: String,
    role: Arc<AtomicBool>,
}

impl Metadata {
    fn start(instance: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let role = Arc::new(AtomicBool::new(true));
        let (has_role, instance) = (Arc::clone(&role), instance.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &instance, has_role.load(Ordering::SeqCst));
            }
        });
        Self { address, role }
    }
}

fn answer(mut stream: TcpStream, instance: &str, role: bool) {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(length) => request.extend_from_slice(&buffer[..length]),
        }
    }
    let text = String::from_utf8_lossy(&request).to_lowercase();
    let keys = format!(
        r#"{{"Code":"Success","AccessKeyId":"{ACCESS_KEY}","SecretAccessKey":"{SECRET_KEY}","Token":"t"}}"#
    );
    let line = text.lines().next().unwrap_or_default().to_owned();
    let body = match line.split(' ').take(2).collect::<Vec<_>>()[..] {
        ["put", "/latest/api/token"] if text.contains("ttl-seconds: ") => Some("secret"),
        _ if !text.contains("x-aws-ec2-metadata-token: secret") => None,
        ["get", "/latest/meta-data/instance-id"] => Some(instance),
        ["get", "/latest/meta-data/placement/region"] => Some("us-east-1"),
        ["get", "/latest/meta-data/services/domain"] => Some("amazonaws.com"),
        ["get", "/latest/meta-data/iam/security-credentials/"] if role => Some("worker"),
        ["get", "/latest/meta-data/iam/security-credentials/worker"] if role => Some(&*keys),
        _ => None,
    };
    let (status, body) = body.map_or(("404 Not Found", ""), |body| ("200 OK", body));
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
}

async fn protected(clients: &Clients, instance: &str) -> bool {
    let found = clients
        .autoscaling
        .describe_auto_scaling_instances()
        .instance_ids(instance)
        .send()
        .await
        .unwrap();
    found.auto_scaling_instances()[0]
        .protected_from_scale_in()
        .unwrap()
}

/// A group with one instance in service, which is not protected.
async fn instance_in_service(clients: &Clients) -> String {
    let template = aws::template(clients, "workers", aws::launches(BASE_IMAGE)).await;
    let create = aws::group(clients, GROUP, &template);
    create.min_size(1).max_size(1).send().await.unwrap();
    aws::until("an instance in service", async || {
        !aws::in_service(clients, GROUP).await.is_empty()
    })
    .await;
    aws::in_service(clients, GROUP).await.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_protected_until_it_is_drained() {
    let home = tempfile::tempdir().unwrap();
    let clock = SystemClock::shared();
    let driver = Scripted::new(clock.clone());
    driver.set_launch(Launch::Boots(Duration::ZERO));
    let cloud = LocalCloud::open(home.path(), Arc::new(driver), clock.clone()).unwrap();
    let clients = aws::connect(connector(Arc::clone(&cloud)), clock).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(serve(cloud, listener, std::future::pending()));
    let instance = instance_in_service(&clients).await;
    assert!(!protected(&clients, &instance).await);

    let metadata = Metadata::start(&instance);
    let mut machine = Machine::new();
    machine.env = vec![
        (
            "AWS_EC2_METADATA_SERVICE_ENDPOINT".into(),
            metadata.address.clone(),
        ),
        ("AWS_ENDPOINT_URL".into(), endpoint),
    ];
    machine.put("job", "compile\n");
    machine.start();
    let status = machine.wait("protected", |status| status.protected == Some(true));
    assert_eq!(status.instance.as_deref(), Some(&*instance));
    assert!(protected(&clients, &instance).await);

    // A call that fails changes nothing, is told, and is made again.
    metadata.role.store(false, Ordering::SeqCst);
    assert_eq!(machine.cordon("1").0, Some(0));
    machine.remove("job");
    let status = machine.wait("drained", |status| {
        status.drained.is_some() && status.why.is_some()
    });
    assert!(status.why.unwrap().contains("no role"));
    assert_eq!(status.protected, Some(true));
    assert!(protected(&clients, &instance).await);
    metadata.role.store(true, Ordering::SeqCst);
    let status = machine.wait("not protected", |status| status.protected == Some(false));
    assert_eq!(status.why, None);
    assert!(!protected(&clients, &instance).await);
}
