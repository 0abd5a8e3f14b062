//! Every step of a bake, whatever it is: carried out twice, refused, cut off before and after it, its answer lost; and the way
//! back cut off and begun again. The steps are those of bakes that go well, and a phase or a kind of thing that none of these
//! has fails the test: a new step is covered from its first day.

use std::collections::BTreeSet;

use piaas_bake::bake::event::Resource;

use super::resumed::{Kind, assert_right, kinds, target, world};
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
    let all = all.filter(|(_, operation)| {
        changes(operation) && (kind != Kind::Bucket || operation.ends_with("Object"))
    });
    let all = all.collect();
    assert_right(&world, kind, &baked, "it went well").await;
    all
}

/// Cleans up, cut off a request later each time, until there is nothing to do.
async fn undo_bit_by_bit(world: &World, cut: fn(usize) -> Fault, context: &str) -> usize {
    for attempt in 0..200 {
        world.wire.fail(cut(attempt));
        let dead = bake::undo_dead_runs(&world.clients, ACCOUNT_ID, &world.runs(), &()).await;
        world.wire.fail(Fault::None);
        let is_over = world
            .run_states()
            .iter()
            .all(|one| *one == RunState::Finished);
        let left: usize = dead.unwrap().iter().map(|run| run.left_over.len()).sum();
        if is_over {
            return attempt;
        }
        // What is left is named, or the process that is about to start has our lock.
        assert!(left > 0 || attempt < 199, "{context}");
    }
    panic!("{context}: the clean-up does not come to its end");
}

/// The image is right, or nothing is there; of a finished image whose bake came to no good end, the pointer may be missing.
async fn assert_right_or_nothing(world: &World, kind: Kind, context: &str) {
    let kept = bake::layers::list(&world.clients).await.unwrap();
    let snapshots = world.machines.snapshots_left();
    for layer in &kept {
        assert_eq!(layer.state, "available", "{context}");
        assert!(snapshots.contains(&layer.snapshots[0]), "{context}");
    }
    let layers = kept.len();
    assert!(kind == Kind::Layers || layers == 0, "{context}");
    assert_eq!(world.machines.left(), [] as [String; 0], "{context}");
    let images = images::list(&world.clients, None).await.unwrap();
    let things = world.things().await;
    match images.as_slice() {
        [] => assert_eq!(things.len(), layers, "{context}: {things:?}"),
        [image] => {
            assert!(image.is_ready(), "{context}");
            let pointers = things.iter().filter(|one| one.starts_with("latest"));
            assert_eq!(
                things.len(),
                3 + layers + pointers.count(),
                "{context}: {things:?}"
            );
            let packages = images::packages(&world.clients, &image.id).await.unwrap();
            assert!(packages.is_some(), "{context}: the packages are not noted");
        }
        more => panic!("{context}: {more:?}"),
    }
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
