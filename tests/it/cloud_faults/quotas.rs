//! Quotas of the script: each is reached, refused with AWS's code, and free again when something goes.

use aws_sdk_ec2::types::{InstanceMarketOptionsRequest, MarketType};

use super::*;

async fn limited(quotas: &str) -> World {
    let text = format!("schema: piaas-bake/faults/v1\nquotas: {{ {quotas} }}\n");
    World::with(Some(Arc::new(Faults::parse(&text).unwrap()))).await
}

#[tokio::test]
async fn vcpus_that_run_are_counted_and_more_are_refused() {
    // A t3.micro has two.
    let world = limited("vcpus: 5").await;
    let run = |least, most| {
        let run = world.clients.ec2.run_instances().image_id(BASE_IMAGE);
        let run = run.instance_type("t3.micro".into());
        run.min_count(least).max_count(most).send()
    };
    assert_eq!(
        run(3, 3).await.unwrap_err().code(),
        Some("VcpuLimitExceeded")
    );
    assert_eq!(world.driver.live_machines(), [""; 0]);
    let made = run(1, 9).await.unwrap();
    let ids: Vec<_> = made
        .instances()
        .iter()
        .filter_map(|one| one.instance_id())
        .collect();
    assert_eq!(ids.len(), 2, "as many as there is room for");
    assert_eq!(
        run(1, 1).await.unwrap_err().code(),
        Some("VcpuLimitExceeded")
    );
    let stop = world.clients.ec2.stop_instances().instance_ids(ids[0]);
    stop.send().await.unwrap();
    run(1, 1).await.unwrap();
    let start = world.clients.ec2.start_instances().instance_ids(ids[0]);
    world.clock.sleep(Duration::from_secs(60)).await;
    assert_eq!(
        start.send().await.unwrap_err().code(),
        Some("VcpuLimitExceeded")
    );
    // Spot Instances have a quota of their own.
    let spot = |world: &World| {
        let market = InstanceMarketOptionsRequest::builder().market_type(MarketType::Spot);
        let run = world.clients.ec2.run_instances().image_id(BASE_IMAGE);
        let run = run.instance_market_options(market.build());
        run.min_count(1).max_count(1).send()
    };
    spot(&world).await.unwrap();
    let none = limited("spot-vcpus: 1").await;
    let error = spot(&none).await.unwrap_err();
    assert_eq!(error.code(), Some("MaxSpotInstanceCountExceeded"));
}

#[tokio::test]
async fn images_and_snapshots_are_counted() {
    for (quota, code) in [
        ("images: 1", "ResourceLimitExceeded"),
        ("snapshots: 1", "SnapshotLimitExceeded"),
    ] {
        let world = limited(quota).await;
        let machine = world.run("one").await.unwrap();
        let image = |name: &str| {
            let call = world.clients.ec2.create_image().instance_id(&machine);
            call.name(name).no_reboot(true).send()
        };
        let first = image("first").await.unwrap().image_id.unwrap();
        let error = image("second").await.unwrap_err();
        assert_eq!(error.code(), Some(code));
        let snapshots = world.clients.ec2.describe_snapshots().owner_ids("self");
        let snapshots = snapshots.send().await.unwrap().snapshots.unwrap();
        assert_eq!(snapshots.len(), 1, "what is refused leaves nothing");
        world.clock.sleep(Duration::from_secs(60)).await;
        let gone = world.clients.ec2.deregister_image().image_id(first);
        gone.send().await.unwrap();
        let gone = world.clients.ec2.delete_snapshot();
        let gone = gone.snapshot_id(snapshots[0].snapshot_id().unwrap());
        gone.send().await.unwrap();
        image("second").await.unwrap();
    }
}

#[tokio::test]
async fn groups_and_parameters_are_counted() {
    let world = limited("auto-scaling-groups: 1, parameters: 1").await;
    let template = aws::template(&world.clients, "workers", aws::launches(BASE_IMAGE)).await;
    let make = |name: &str| {
        let group = aws::group(&world.clients, name, &template);
        group.min_size(0).max_size(1).send()
    };
    make("one").await.unwrap();
    assert_eq!(make("two").await.unwrap_err().code(), Some("LimitExceeded"));
    aws::find_group(&world.clients, "one").await.unwrap();

    let put = |name: &str| {
        let call = world.clients.ssm.put_parameter().name(name).value("x");
        call.r#type(aws_sdk_ssm::types::ParameterType::String)
            .overwrite(true)
            .send()
    };
    put("/one").await.unwrap();
    assert_eq!(
        put("/two").await.unwrap_err().code(),
        Some("ParameterLimitExceeded")
    );
    put("/one").await.unwrap();
    let gone = world.clients.ssm.delete_parameter().name("/one");
    gone.send().await.unwrap();
    put("/two").await.unwrap();
}

#[test]
fn a_quota_that_there_is_not_is_refused() {
    let text = "schema: piaas-bake/faults/v1\nquotas: { coffee: 3 }\n";
    let error = Faults::parse(text).unwrap_err().to_string();
    assert!(
        error.contains("coffee") && error.contains("auto-scaling-groups"),
        "{error}"
    );
}
