//! Spot Instances that are taken back: told two minutes before, then terminated; a group replaces its own.

use aws_sdk_ec2::types::{
    Instance, InstanceMarketOptionsRequest, LaunchTemplateInstanceMarketOptionsRequest, MarketType,
    SpotInstanceRequest,
};
use piaas_bake::localcloud::scripted::Recorded;

use super::*;

impl World {
    async fn spot(&self) -> String {
        let market = InstanceMarketOptionsRequest::builder().market_type(MarketType::Spot);
        let run = self.clients.ec2.run_instances().image_id(BASE_IMAGE);
        let run = run.instance_type("t3.micro".into());
        let run = run.instance_market_options(market.build());
        let made = run.min_count(1).max_count(1).send().await.unwrap();
        made.instances()[0].instance_id().unwrap().to_owned()
    }

    async fn look(&self, id: &str) -> Instance {
        let call = self.clients.ec2.describe_instances().instance_ids(id);
        let mut answer = call.send().await.unwrap();
        let mut reservation = answer.reservations.take().unwrap().remove(0);
        reservation.instances.take().unwrap().remove(0)
    }

    async fn request(&self, instance: &Instance) -> SpotInstanceRequest {
        let call = self.clients.ec2.describe_spot_instance_requests();
        let id = instance.spot_instance_request_id().unwrap();
        let answer = call.spot_instance_request_ids(id).send().await.unwrap();
        answer.spot_instance_requests.unwrap().remove(0)
    }

    /// Moves the clock on in small steps, with a look at each.
    async fn pass(&self, seconds: u64) {
        for _ in 0..seconds {
            self.clock.sleep(Duration::from_secs(1)).await;
            self.states().await;
        }
    }

    fn notices(&self) -> Vec<(String, jiff::Timestamp)> {
        let calls = self.driver.calls().into_iter();
        calls
            .filter_map(|call| match call {
                Recorded::Notice { instance, ends_at } => Some((instance, ends_at)),
                _ => None,
            })
            .collect()
    }
}

#[tokio::test]
async fn a_spot_instance_is_told_two_minutes_before_it_is_taken_back() {
    let world = World::new("  - { fault: spot-reclaim, delay: 30, type: 't3.*' }").await;
    // The rule is about Spot Instances: this one is none, and takes no turn of it.
    let plain = world.run("plain").await.unwrap();
    let (taken, left) = (world.spot().await, world.spot().await);
    let launched = world.clock.now();
    world.pass(29).await;
    assert_eq!(world.notices(), []);
    world.pass(1).await;
    let ends_at = launched + jiff::SignedDuration::from_secs(150);
    assert_eq!(world.notices(), [(taken.clone(), ends_at)]);
    let instance = world.look(&taken).await;
    assert_eq!(instance.instance_lifecycle().unwrap().as_str(), "spot");
    assert_eq!(instance.state().unwrap().code(), Some(16));
    let request = world.request(&instance).await;
    assert_eq!(
        request.status().unwrap().code(),
        Some("marked-for-termination")
    );

    world.pass(119).await;
    assert_eq!(world.look(&taken).await.state().unwrap().code(), Some(16));
    world.pass(1).await;
    let instance = world.look(&taken).await;
    assert_eq!(
        instance.state().unwrap().name().unwrap().as_str(),
        "terminated"
    );
    let reason = instance.state_reason().unwrap();
    assert_eq!(reason.code(), Some("Server.SpotInstanceTermination"));
    assert_eq!(instance.state_transition_reason(), Some(""));
    let request = world.request(&instance).await;
    assert_eq!(request.state().unwrap().as_str(), "closed");
    let status = request.status().unwrap().code();
    assert_eq!(status, Some("instance-terminated-no-capacity"));
    for other in [plain, left] {
        assert_eq!(world.look(&other).await.state().unwrap().code(), Some(16));
    }
    assert_eq!(world.notices().len(), 1);
}

#[tokio::test]
async fn a_group_replaces_a_worker_that_is_taken_back() {
    let world = World::new("  - { fault: spot-reclaim, delay: 60, seconds: 10 }").await;
    let market =
        LaunchTemplateInstanceMarketOptionsRequest::builder().market_type(MarketType::Spot);
    let data = aws::launches(BASE_IMAGE).instance_market_options(market.build());
    let template = aws::template(&world.clients, "spot-workers", data).await;
    let group = aws::group(&world.clients, "workers", &template);
    let group = group.min_size(0).max_size(3).desired_capacity(2);
    group.send().await.unwrap();
    world.pass(30).await;
    let before = aws::in_service(&world.clients, "workers").await;
    assert_eq!(before.len(), 2);
    for id in &before {
        assert!(world.look(id).await.spot_instance_request_id().is_some());
    }
    world.pass(60).await;
    let after = aws::in_service(&world.clients, "workers").await;
    assert_eq!(after.len(), 2, "{after:?}");
    let [(taken, _)] = world.notices().try_into().unwrap();
    assert!(before.contains(&taken) && !after.contains(&taken));
    assert_eq!(before.iter().filter(|id| after.contains(id)).count(), 1);
    let answer = world.clients.autoscaling.describe_scaling_activities();
    let answer = answer
        .auto_scaling_group_name("workers")
        .send()
        .await
        .unwrap();
    assert!(answer.activities().iter().any(|one| {
        one.description() == Some(&format!("Terminating EC2 instance: {taken}"))
            && one.cause().unwrap().contains("EC2 health check")
    }));
}
