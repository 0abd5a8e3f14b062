//! A controller's life: it dies at any request that changes something, it stops when asked, it loses its lease, it is
//! refused.

use std::sync::atomic::{AtomicUsize, Ordering};

use piaas_bake::cancel::{self, Canceller};
use piaas_bake::fleet::demand::Source;
use piaas_bake::fleet::memory::{self, Memory};
use piaas_bake::fleet::peek;
use piaas_bake::lease::Lease;

use super::*;

/// Nothing goes wrong by itself.
fn calm(jobs: usize) -> Plan {
    Plan {
        weather: Weather::default(),
        agents: i64::MAX,
        controllers: i64::MAX,
        masters: i64::MAX,
        rolls: 0,
        interval: 30,
        ..Plan::stormy(jobs)
    }
}

async fn take(world: &World) -> Lease {
    let name = lease_name(GROUP);
    lease::take(&world.clients, &name, "a controller")
        .await
        .unwrap()
}

fn shell<'a>(world: &'a World, source: &'a dyn Source, sink: &'a dyn Sink<Event>) -> Shell<'a> {
    Shell {
        clients: &world.clients,
        group: GROUP.into(),
        policy: world.policy.clone(),
        source,
        brain: &Core,
        sink,
    }
}

/// Runs a fleet of a few jobs to its end; the controller dies at `death`, if that request comes.
async fn survive(death: Option<(usize, bool)>) -> (World, usize) {
    let plan = calm(3);
    let world = World::new(plan).await;
    world.wire.state.lock().unwrap().hang_at = death;
    let heard = Heard::default();
    let mut progress = Progress::default();
    while !progress.over && world.clock.now() < noon() + SignedDuration::from_hours(8) {
        progress.lives += 1;
        tokio::select! {
            () = live(&world, plan, &Core, &heard, &mut progress) => {}
            () = world.wire.hung.notified() => {}
        }
        world.wire.state.lock().unwrap().hang_at = None;
    }
    assert!(progress.over, "{death:?}");
    let changes = world.wire.state.lock().unwrap().changes;
    if death.is_some() {
        assert_eq!(progress.lives, 2, "{death:?}: it did not die");
    }
    (world, changes)
}

#[tokio::test]
async fn a_controller_that_dies_at_any_change_kills_nothing_and_launches_nothing_twice() {
    let (world, changes) = survive(None).await;
    let launched = world.ci.lock().unwrap().tally.launched;
    assert_eq!(world.faults(), Vec::<String>::new());
    assert!(changes > 12, "{changes}");
    for number in 0..changes {
        for carried_out in [false, true] {
            let death = (number, carried_out);
            let (world, _) = survive(Some(death)).await;
            assert_eq!(world.faults(), Vec::<String>::new(), "{death:?}");
            let tally = world.ci.lock().unwrap().tally.clone();
            assert_eq!(tally.done, 3, "{death:?}");
            // The minute until the next controller has the lease may cost a worker more; a launch done twice, several.
            assert!(tally.launched <= launched + 1, "{death:?}: {tally:?}");
        }
    }
}

#[tokio::test]
async fn new_work_gets_a_cordoned_worker_back_rather_than_a_new_machine() {
    let world = World::new(calm(1)).await;
    {
        // The CI agent takes its time to close, so the worker is cordoned and not drained for a while.
        let mut ci = world.ci.lock().unwrap();
        (ci.closes, ci.late_jobs) = (3_000_000, false);
    }
    let source = Asking(world.ci.clone(), world.clock.clone());
    let mut lease = take(&world).await;
    let mut controller = Controller::open(shell(&world, &source, &()), &lease)
        .await
        .unwrap();
    let mut tick = async || {
        world.clock.sleep(Duration::from_secs(30)).await;
        controller.tick(&mut lease).await.unwrap();
    };
    let tally = || world.ci.lock().unwrap().tally.clone();
    for _ in 0..60 {
        tick().await;
        if tally().cordons > 0 {
            break;
        }
    }
    let before = tally();
    assert!(before.cordons > 0 && before.drained == 0, "{before:?}");
    world.ci.lock().unwrap().submit(5);
    tick().await;
    assert_eq!(tally().uncordons, 1);
    assert_eq!(tally().launched, before.launched);
    tick().await;
    tick().await;
    assert_eq!(tally().done, 2);
    assert_eq!(world.faults(), Vec::<String>::new());
}

/// Stops the controller at its third look.
struct Stopper(AtomicUsize, Canceller);

impl Sink<Event> for Stopper {
    fn emit(&self, event: Stamped) {
        let looks = matches!(event.event, Event::Looked(_));
        if looks && self.0.fetch_add(1, Ordering::SeqCst) == 2 {
            self.1.cancel();
        }
    }
}

#[tokio::test]
async fn one_that_is_asked_to_stop_ends_and_the_next_goes_on_from_what_it_knew() {
    let world = World::new(calm(3)).await;
    let (canceller, cancel) = cancel::pair();
    let stopper = Stopper(AtomicUsize::new(0), canceller);
    let source = Asking(world.ci.clone(), world.clock.clone());
    let mut lease = take(&world).await;
    let mut controller = Controller::open(shell(&world, &source, &stopper), &lease)
        .await
        .unwrap();
    controller.run(&mut lease, cancel).await.unwrap();
    assert_eq!(stopper.0.load(Ordering::SeqCst), 3);
    drop(controller);
    let epoch = piaas_bake::lease::Hold::epoch(&lease);
    lease.release().await.unwrap();
    // Given back: the next one need not wait.
    let before = world.clock.now();
    let next = take(&world).await;
    assert_eq!(world.clock.now(), before);
    assert_eq!(piaas_bake::lease::Hold::epoch(&next), epoch + 1);
}

#[tokio::test]
async fn one_that_has_lost_its_lease_does_nothing() {
    let world = World::new(calm(3)).await;
    let source = Asking(world.ci.clone(), world.clock.clone());
    let mut first = take(&world).await;
    let mut controller = Controller::open(shell(&world, &source, &()), &first)
        .await
        .unwrap();
    // It sleeps through its term, and somebody else takes over.
    world.clock.advance(Duration::from_secs(120));
    let _second = take(&world).await;
    world.ci.lock().unwrap().advance(world.clock.now());
    let lost = controller.run(&mut first, cancel::Cancel::never()).await;
    assert!(matches!(lost, Err(FleetError::Lost(_))), "{lost:?}");
    assert_eq!(world.desired().await, 0);
}

#[tokio::test]
async fn a_group_that_rebalances_is_refused_and_nothing_is_changed() {
    let world = World::new(calm(3)).await;
    world
        .calm
        .autoscaling
        .resume_processes()
        .auto_scaling_group_name(GROUP)
        .scaling_processes("AZRebalance")
        .send()
        .await
        .unwrap();
    let source = Asking(world.ci.clone(), world.clock.clone());
    world.clock.advance(Duration::from_secs(600));
    let mut lease = take(&world).await;
    let mut controller = Controller::open(shell(&world, &source, &()), &lease)
        .await
        .unwrap();
    let refused = controller.run(&mut lease, cancel::Cancel::never()).await;
    assert!(
        matches!(refused, Err(FleetError::Refused(_))),
        "{refused:?}"
    );
    assert_eq!(world.desired().await, 0);
    // Whoever only looks sees the reason.
    let view = peek(&shell(&world, &source, &())).await.unwrap();
    assert_eq!(view.alarms[0].about, "refused");
    assert!(view.queued.unwrap() > 0);
}

#[tokio::test]
async fn a_look_changes_nothing_beside_a_controller_and_a_memory_of_another_version_is_refused() {
    let world = World::new(calm(3)).await;
    let source = Asking(world.ci.clone(), world.clock.clone());
    world.clock.advance(Duration::from_secs(600));
    let counted = || world.wire.state.lock().unwrap().changes;
    let before = counted();
    let view = peek(&shell(&world, &source, &())).await.unwrap();
    assert_eq!((view.desired, view.workers.len()), (0, 0));
    assert_eq!(counted(), before);
    let other = Memory {
        schema: "piaas-bake-fleet/v9".into(),
        ..Memory::default()
    };
    piaas_bake::aws::parameters::set(&world.calm, memory::parameter(GROUP), other.to_json())
        .await
        .unwrap();
    let error = peek(&shell(&world, &source, &())).await.unwrap_err();
    assert!(error.to_string().contains("delete-parameter"), "{error}");
}
