//! A bake that fails and leaves its machine for somebody to look at.

use piaas_bake::bake::Resource;

use super::*;

/// Bakes with a script that fails, and keeps.
async fn failed(pick: fn(&mut Plan) -> &mut Vec<Script>) -> (World, BakeError) {
    let world = World::new().await;
    *world.keep.lock().unwrap() = true;
    let mut plan = world.plan(&world.target().await).await;
    pick(&mut plan)[0].text = "exit 3\n".into();
    let error = world.bake(&plan, Cancel::never(), &()).await.unwrap_err();
    (world, error)
}

async fn instances(world: &World) -> Vec<String> {
    let answer = world.clients.ec2.describe_instances().send().await.unwrap();
    let alive = answer
        .reservations()
        .iter()
        .flat_map(|reservation| reservation.instances())
        .filter(|instance| instance.state().unwrap().name().unwrap().as_str() == "running");
    alive
        .map(|instance| instance.instance_id().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn the_machine_it_failed_on_stays_until_the_next_clean_up() {
    type Pick = fn(&mut Plan) -> &mut Vec<Script>;
    let cases: [(Pick, Resource); 2] = [
        (|plan| &mut plan.steps, Resource::Builder),
        (|plan| &mut plan.test, Resource::Tester),
    ];
    for (pick, kind) in cases {
        let (world, error) = failed(pick).await;
        assert_eq!(error.exit_code(), 7);
        assert_eq!(error.left_over, []);
        let kept = error.kept.unwrap();
        assert_eq!(kept.kind, kind);
        // The time limit of the bake, and an hour.
        assert_eq!(kept.until, "2026-01-01T02:00:00Z".parse().unwrap());
        assert_eq!(instances(&world).await, [kept.instance]);
        // No image is left, nor the other machine.
        assert_eq!(images::list(&world.clients, None).await.unwrap(), []);
        assert_eq!(world.run_states(), [RunState::Dead]);

        assert_eq!(world.undo_dead_runs().await.len(), 1);
        assert_eq!(world.things().await, [] as [String; 0]);
        assert_eq!(world.run_states(), [RunState::Finished]);
    }
}

#[tokio::test]
async fn an_interrupted_bake_keeps_nothing() {
    let world = World::new().await;
    *world.keep.lock().unwrap() = true;
    let plan = world.plan(&world.target().await).await;
    let (canceller, cancel) = cancel_pair();
    let stop = StopAt(Phase::Provision, canceller);
    let error = world.bake(&plan, cancel, &stop).await.unwrap_err();
    assert_eq!((error.exit_code(), error.kept), (130, None));
    assert_eq!(world.things().await, [] as [String; 0]);
}
