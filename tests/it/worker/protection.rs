//! Protection from scale-in, against the local cloud's Auto Scaling and a metadata service of the test's own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use piaas_bake::aws::Clients;
use piaas_bake::clock::SystemClock;
use piaas_bake::localcloud::engine::LocalCloud;
use piaas_bake::localcloud::scripted::{Launch, Scripted};
use piaas_bake::localcloud::serve::serve;
use piaas_bake::localcloud::{BASE_IMAGE, connector};

use super::Machine;
use crate::aws;
use crate::metadata::Metadata;

const GROUP: &str = "workers & <co>";

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
