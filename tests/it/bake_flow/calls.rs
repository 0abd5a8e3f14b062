//! What a plan says that a bake calls, against what it calls.

use std::collections::BTreeSet;

use piaas_bake::bake::calls::{When, calls};

use super::*;

pub(super) fn base() -> BaseRef {
    BaseRef::Ssm {
        parameter: BASE_PARAMETER.into(),
    }
}

/// The operations that a plan lists: those of a bake that goes well, and all.
fn listed(plan: &Plan) -> (BTreeSet<String>, BTreeSet<String>) {
    let all = calls(plan, &base(), None);
    let names = |undo: bool| {
        all.iter()
            .filter(|call| undo || call.when != When::Undo)
            .map(|call| call.operation.to_owned())
            .collect()
    };
    (names(false), names(true))
}

/// The targets that are called for in different ways.
pub(super) async fn targets(world: &World) -> Vec<Target> {
    let plain = world.target().await;
    let subnets = world.clients.ec2.describe_subnets().send().await.unwrap();
    let mut placed = plain.clone();
    placed.build.subnets = vec![subnets.subnets()[0].subnet_id().unwrap().to_owned()];
    placed.build.instance_profile = Some("builder".into());
    let vpc = subnets.subnets()[0].vpc_id().unwrap();
    let group = world
        .clients
        .ec2
        .create_security_group()
        .group_name("given")
        .description("given")
        .vpc_id(vpc)
        .send()
        .await
        .unwrap();
    let mut given = plain.clone();
    given.build.security_groups = vec![group.group_id.unwrap()];
    vec![plain, placed, given]
}

#[tokio::test]
async fn a_bake_calls_what_its_plan_lists_and_nothing_else() {
    for number in 0..3 {
        let world = World::new().await;
        let target = targets(&world).await.swap_remove(number);
        world.wire.fail(Fault::None);
        world.clients.account(|_| ()).await.unwrap();
        world.target().await;
        let plan = world.plan(&target).await;
        world.bake(&plan, Cancel::never(), &()).await.unwrap();
        let called: BTreeSet<String> = world.wire.operations().into_iter().collect();
        let (well, _) = listed(&plan);
        assert_eq!(called, well, "target {number}");
    }
}

#[tokio::test]
async fn a_bake_that_fails_calls_nothing_else_either() {
    for (number, operation) in requests().await {
        for fault in [Fault::Refuse(number), Fault::Lose(number)] {
            let world = World::new().await;
            let plan = world.plan(&world.target().await).await;
            world.wire.fail(fault);
            let _whatever_comes_of_it = world.bake(&plan, Cancel::never(), &()).await;
            let called: BTreeSet<String> = world.wire.operations().into_iter().collect();
            let (_, all) = listed(&plan);
            let unlisted: Vec<_> = called.difference(&all).collect();
            assert!(unlisted.is_empty(), "{operation}, {fault:?}: {unlisted:?}");
        }
    }
}
