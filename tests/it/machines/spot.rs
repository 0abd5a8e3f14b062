//! A Spot Instance that is a real machine reads its notice, and is terminated when it is time.

use aws_sdk_ec2::types::{InstanceMarketOptionsRequest, MarketType};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_real_spot_instance_is_told_and_taken_back() {
    let faults = "schema: piaas-bake/faults/v1\nfaults:\n  \
                  - { fault: spot-reclaim, delay: 20, seconds: 10 }\n";
    let faults = Some(Arc::new(Faults::parse(faults).unwrap()));
    let test = "a Spot Instance that is taken back, on a real machine";
    let Some(cloud) = Cloud::open_with(test, faults).await else {
        return;
    };
    let market = InstanceMarketOptionsRequest::builder().market_type(MarketType::Spot);
    let run = cloud.clients.ec2.run_instances().image_id(BASE_IMAGE);
    let run = run
        .instance_type(InstanceType::T3Micro)
        .min_count(1)
        .max_count(1);
    let made = run
        .instance_market_options(market.build())
        .send()
        .await
        .unwrap();
    let machine = made.instances()[0].instance_id().unwrap().to_owned();
    cloud.wait_online(&machine).await;

    let ask = "imds=http://169.254.169.254/latest/meta-data\n\
               ask() { curl -s -o /run/answer -w '%{http_code}' $imds/$1; }\n\
               echo $(ask instance-life-cycle) $(cat /run/answer)\n\
               echo $(ask spot/instance-action) $(ask spot/termination-time)\n\
               until [ \"$(ask spot/instance-action)\" = 200 ]; do sleep 0.2; done\n\
               cat /run/answer; echo; ask spot/termination-time; echo; cat /run/answer";
    let (status, _, out, err) = cloud.run(&machine, ask, 60).await;
    assert_eq!(status, "Success", "{out}{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["200 spot", "404 404"], "{out}");
    let notice: serde_json::Value = serde_json::from_str(lines[2]).unwrap();
    assert_eq!(notice["action"], "terminate");
    assert_eq!(
        lines[3..],
        ["200", notice["time"].as_str().unwrap()],
        "{out}"
    );

    // Nobody asks: the cloud itself ends it.
    let wait = Instant::now() + Duration::from_secs(60);
    while cloud.state().join("instances").join(&machine).exists() {
        assert!(Instant::now() < wait, "it is not taken back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seen = cloud
        .clients
        .ec2
        .describe_instances()
        .instance_ids(&machine);
    let seen = seen.send().await.unwrap();
    let reason = seen.reservations()[0].instances()[0]
        .state_reason()
        .unwrap();
    assert_eq!(reason.code(), Some("Server.SpotInstanceTermination"));
    cloud.assert_nothing_left();
}
