//! Every step of a bake, whatever it is: carried out twice, refused, cut off before and after it, its answer lost; and the way
//! back cut off and begun again. The steps are those of bakes that go well, and a phase or a kind of thing that none of these
//! has fails the test: a new step is covered from its first day.

use std::collections::BTreeSet;

use piaas_bake::bake::event::Resource;

use super::resumed::{Kind, assert_right, assert_right_or_nothing, kinds, target, world};
use super::*;
use crate::support::tell;

/// What bakes do, step by step.
#[derive(Default)]
struct Seen(Mutex<(BTreeSet<Phase>, BTreeSet<&'static str>)>);

impl Sink<Event> for Seen {
    fn emit(&self, event: Stamped) {
        let mut seen = self.0.lock().unwrap();
        match event.event {
            Event::PhaseStarted { phase } => drop(seen.0.insert(phase)),
            Event::Created { kind, .. } => drop(seen.1.insert(kind.as_str())),
            _ => {}
        }
    }
}

/// The requests of a bake that goes well and that change something, with their numbers; of a bucket those about objects.
async fn steps(kind: Kind, seen: &Seen) -> Vec<(usize, String)> {
    let world = world(kind).await;
    let plan = world.plan(&target(&world).await).await;
    world.wire.fail(Fault::None);
    let baked = world.bake(&plan, Cancel::never(), seen).await.unwrap();
    let all = world.wire.operations().into_iter().enumerate();
    let all = all.filter(|(_, operation)| kind.tries(operation)).collect();
    assert_right(&world, kind, &baked, "it went well").await;
    all
}

/// Cleans up, cut off a request later each time, until there is nothing to do.
async fn undo_bit_by_bit(world: &World, cut: fn(usize) -> Fault, context: &str) {
    for attempt in 0..200 {
        world.wire.fail(cut(attempt));
        let dead = bake::undo_dead_runs(&world.clients, ACCOUNT_ID, &world.runs(), &()).await;
        world.wire.fail(Fault::None);
        let states = world.run_states();
        if states.iter().all(|one| *one == RunState::Finished) {
            return;
        }
        // There is none as long as a process that is about to start has our lock.
        for run in dead.unwrap() {
            let is_said = !run.left_over.is_empty() || run.image.is_some();
            assert!(is_said, "{context}, cut off at {attempt}: {run:?}");
        }
    }
    panic!("{context}: the clean-up does not come to its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_may_be_repeated_refused_cut_off_or_lost_and_its_undo_repeated() {
    let seen = Seen::default();
    let (mut count, mut tried) = (0, 0);
    for kind in kinds() {
        for (number, operation) in steps(kind, &seen).await {
            count += 1;
            for fault in [
                Fault::Twice(number),
                Fault::Lose(number),
                Fault::Refuse(number),
                Fault::CutOff(number),
                Fault::CutOffAfter(number),
            ] {
                let context = format!("{kind:?}, {operation} (request {number}): {fault:?}");
                let world = world(kind).await;
                let plan = world.plan(&target(&world).await).await;
                world.wire.fail(fault);
                let outcome = world.bake(&plan, Cancel::never(), &()).await;
                world.wire.fail(Fault::None);
                if matches!(fault, Fault::Twice(_) | Fault::Lose(_)) {
                    let baked = outcome.unwrap_or_else(|error| panic!("{context}: {error}"));
                    assert_right(&world, kind, &baked, &context).await;
                } else {
                    if let (Kind::Plain, Err(error)) = (kind, &outcome) {
                        let things = world.things().await;
                        let is_finished = error.left_over.is_empty() && things.len() == 3;
                        assert!(
                            things.is_empty() == error.left_over.is_empty() || is_finished,
                            "{context}: what is left is named: {things:?}, {:?}",
                            error.left_over
                        );
                    }
                    let cut = match fault {
                        Fault::CutOffAfter(_) => Fault::CutOffAfter,
                        _ => Fault::CutOff,
                    };
                    undo_bit_by_bit(&world, cut, &context).await;
                    assert_right_or_nothing(&world, kind, &context).await;
                }
                tried += 1;
            }
        }
    }
    let (phases, made) = &*seen.0.lock().unwrap();
    let every: BTreeSet<Phase> = Phase::ALL.into();
    assert_eq!(*phases, every, "a phase that no bake of these enters");
    let bundles = bundles::can_fetch();
    let every = Resource::ALL.map(Resource::as_str).into_iter();
    let every: BTreeSet<&str> = every.filter(|kind| bundles || *kind != "bundle").collect();
    assert_eq!(*made, every, "a kind of thing that no bake of these makes");
    tell(&format!(
        "steps: {count} of a bake, each repeated, refused, cut off and lost ({tried} bakes): the image is right or nothing is left"
    ));
}
