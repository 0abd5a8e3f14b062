//! A bake that is killed anywhere is gone on with: its image is right, nothing is done twice, nothing is left.

use piaas_bake::bake::plan::again;
use piaas_bake::bake::{NotResumable, resumable};
use piaas_bake::journal::{Journal, State};

use super::*;

/// What a world is for in these tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    /// With the layer of each script.
    Layers,
    /// Bundles go through a bucket.
    Bucket,
    /// There is no room for the first type of machine.
    Full,
}

impl Kind {
    /// Whether bakes like this are for trying what becomes of this operation: it changes something, and what this kind is for.
    pub(super) fn tries(self, operation: &str) -> bool {
        match self {
            Self::Plain | Self::Layers => changes(operation),
            Self::Bucket => changes(operation) && operation.ends_with("Object"),
            Self::Full => operation == "RunInstances",
        }
    }
}

/// Those that this host has all for.
pub(super) fn kinds() -> Vec<Kind> {
    let all = [Kind::Plain, Kind::Layers, Kind::Bucket, Kind::Full];
    let fetches = bundles::can_fetch();
    all.into_iter()
        .filter(|kind| fetches || *kind != Kind::Bucket)
        .collect()
}

pub(super) async fn world(kind: Kind) -> World {
    let mut world = World::new().await;
    noted::with_packages(&world);
    match kind {
        Kind::Plain => {}
        Kind::Layers => *world.layers.lock().unwrap() = Some(Duration::ZERO),
        Kind::Bucket => assert!(bundles::through_bucket(&mut world).await),
        Kind::Full => {
            world.types.insert(0, "t3.large".into());
            world.wire.fill("t3.large");
        }
    }
    world
}

/// Each script notes that it has run.
pub(super) async fn target(world: &World) -> Target {
    let mut target = world.target().await;
    for layer in &mut target.layers {
        let layer = &mut layer.layer;
        for script in layer.provision.iter_mut() {
            let note = format!("echo {} >>\"$MACHINE/ran\"\n", script.id);
            script.text.push_str(&note);
        }
    }
    target
}

/// What the one run of this world has written.
fn journal_of(world: &World) -> std::path::PathBuf {
    let [one] = journal::runs(&world.runs()).unwrap().try_into().unwrap();
    one.path
}

impl World {
    /// Goes on with the run that has died; `None` if it died before it wrote a word.
    async fn resume(
        &self,
        plan: &Plan,
        sink: &dyn Sink<Event>,
    ) -> Option<Result<Baked, BakeError>> {
        self.resume_in(&journal_of(self), plan, sink).await
    }

    /// As `resume`, the run of this journal.
    async fn resume_in(
        &self,
        path: &std::path::Path,
        plan: &Plan,
        sink: &dyn Sink<Event>,
    ) -> Option<Result<Baked, BakeError>> {
        let journal = self.adopted(path).await;
        resumable(journal.ledger(), &self.clients, ACCOUNT_ID).unwrap();
        let target = target(self).await;
        let start = images::get(&self.clients, &plan.start.image.id)
            .await
            .unwrap()
            .unwrap();
        let plan = again(&target, plan.image_name.clone(), start, plan.stale.clone()).unwrap();
        let runs = self.runs();
        let settings = Settings {
            runs: &runs,
            keep_on_failure: false,
            account: ACCOUNT_ID.into(),
            run: RunId::of(journal.ledger().header()?),
            bundles: self.bundles.clone(),
            cancel: Cancel::never(),
            layers: *self.layers.lock().unwrap(),
            disks: Some(self),
        };
        let clients = self.allowed(&self.policy(&plan)).await;
        Some(bake::resume(&clients, &plan, journal, settings, sink).await)
    }

    /// A process that another test starts at this moment has our open files until it becomes the program that it runs.
    async fn adopted(&self, path: &std::path::Path) -> Journal {
        let patience = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            match Journal::adopt(path) {
                Err(journal::Error::Alive { .. }) if std::time::Instant::now() < patience => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                journal => return journal.unwrap(),
            }
        }
    }
}

/// The one image is whole, its scripts have run once each, and nothing else is there.
pub(super) async fn assert_right(world: &World, kind: Kind, baked: &Baked, context: &str) {
    assert_eq!(baked.left_over, [], "{context}");
    assert_eq!(world.run_states(), [RunState::Finished], "{context}");
    assert_eq!(world.machines.left(), [] as [String; 0], "{context}");
    let all = images::list(&world.clients, None).await.unwrap();
    let [image] = all.as_slice() else {
        panic!("{context}: {all:?}");
    };
    assert!(image.is_ready(), "{context}");
    assert_eq!(
        (&image.id, image.name.as_str()),
        (&baked.image, "worker-1.0.0-bbbbbbbbbbbb")
    );
    let packages = images::packages(&world.clients, &image.id).await.unwrap();
    assert!(packages.is_some(), "{context}: the packages are not noted");
    let layers = bake::layers::list(&world.clients).await.unwrap();
    // A layer is kept for the next bake. Where the machine went on before that was known, there is one less.
    let kept = layers.len();
    let expected = if kind == Kind::Layers { 1..=2 } else { 0..=0 };
    assert!(expected.contains(&kept), "{context}: {layers:?}");
    // The image with its snapshot, the manifest and the pointer; and the layers' snapshots.
    assert_eq!(world.things().await.len(), 4 + kept, "{context}");
    let ran = world.machines.texts("ran");
    assert_eq!(ran, ["base/step-001\nworker/step-001\n"], "{context}");
}

/// The image is right, or nothing is there; of a finished image whose bake came to no good end, the pointer may be missing.
pub(super) async fn assert_right_or_nothing(world: &World, kind: Kind, context: &str) {
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

/// Bakes until a request hangs, and dies there.
async fn dead(kind: Kind, fault: Fault, context: &str) -> (World, Plan) {
    let world = world(kind).await;
    let plan = world.plan(&target(&world).await).await;
    killed(&world, &plan, fault, context).await;
    (world, plan)
}

/// Its image is there, and untested.
async fn dead_before_its_tester() -> (World, Plan) {
    dead(
        Kind::Plain,
        Fault::HangAt("RunInstances", 1),
        "before the tester",
    )
    .await
}

/// Requests of a bake that is never killed, each with the number of records that were written before it.
pub(super) async fn known(kind: Kind) -> Vec<(String, usize)> {
    let world = world(kind).await;
    let plan = world.plan(&target(&world).await).await;
    world.wire.watch(world.runs());
    let baked = world.bake(&plan, Cancel::never(), &()).await.unwrap();
    let requests = world.wire.operations().into_iter();
    let requests = requests.zip(world.wire.records()).collect();
    assert_right(&world, kind, &baked, "never killed").await;
    requests
}

/// Where it is killed: before and after each request that changes something, and before the first one after that. Of a bucket
/// only what has to do with objects.
pub(super) fn kills(kind: Kind, all: &[(String, usize)]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (number, (operation, _)) in all.iter().enumerate() {
        if kind.tries(operation) {
            faults.extend([Fault::HangBefore(number), Fault::HangAfter(number)]);
        } else if number > 0 && kind.tries(&all[number - 1].0) {
            faults.push(Fault::HangBefore(number));
        }
    }
    faults
}

async fn gone_on_with(world: &World, plan: &Plan, kind: Kind, context: &str) {
    let baked = world.resume(plan, &()).await.unwrap();
    let baked = baked.unwrap_or_else(|error| panic!("{context}: {error:?}"));
    assert_right(world, kind, &baked, context).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_request_it_is_gone_on_with() {
    for kind in kinds() {
        for fault in kills(kind, &known(kind).await) {
            let context = format!("{kind:?}, {fault:?}");
            let (world, plan) = dead(kind, fault, &context).await;
            gone_on_with(&world, &plan, kind, &context).await;
        }
    }
}

/// Between two requests more than one record may be written: it dies amid each of them.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_record_it_is_gone_on_with() {
    let kind = Kind::Layers;
    let all = known(kind).await;
    for (number, pair) in all.windows(2).enumerate() {
        for keep in pair[0].1.max(1)..pair[1].1 {
            let fault = Fault::HangBefore(number + 1);
            let context = format!("{fault:?} ({}), with {keep} records", pair[1].0);
            let (world, plan) = dead(kind, fault, &context).await;
            let path = journal_of(&world);
            let bytes = std::fs::read(&path).unwrap();
            let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
            assert_eq!(lines.len(), pair[1].1, "{context}");
            let mut torn = lines[..keep].concat();
            torn.extend(&lines[keep][..lines[keep].len() / 2]);
            std::fs::write(&path, torn).unwrap();
            gone_on_with(&world, &plan, kind, &context).await;
        }
    }
}

/// Whoever goes on with it is killed as well; and then it is gone on with, or undone.
#[tokio::test(flavor = "multi_thread")]
async fn killed_twice_it_is_gone_on_with_or_undone() {
    let kind = Kind::Layers;
    let first = known(kind).await.len() / 2;
    let mut killed = 0;
    loop {
        let context = format!("killed at {first}, then at {killed}");
        let (world, plan) = dead(kind, Fault::HangAfter(first), &context).await;
        world.wire.fail(Fault::HangAfter(killed));
        tokio::select! {
            baked = world.resume(&plan, &()) => {
                // What looks at the world is not killed.
                world.wire.fail(Fault::None);
                assert_right(&world, kind, &baked.unwrap().unwrap(), &context).await;
                break;
            }
            () = world.wire.hung.notified() => {}
        }
        world.wire.fail(Fault::None);
        if killed % 2 == 0 {
            gone_on_with(&world, &plan, kind, &context).await;
        } else {
            assert_eq!(world.undo_dead_runs().await.len(), 1, "{context}");
            assert_eq!(world.machines.left(), [] as [String; 0], "{context}");
            assert_eq!(world.run_states(), [RunState::Finished], "{context}");
        }
        killed += 3;
    }
    assert!(killed > 9, "{killed}");
}

/// Another bake finds the manifest that a dead one had stored, and makes none of its own.
#[tokio::test]
async fn what_a_later_bake_has_taken_over_is_not_removed_with_the_dead_one() {
    let at = Fault::HangAt("PutParameter", 1);
    let (world, _) = dead(Kind::Plain, at, "manifest stored").await;
    let plan = world.plan(&target(&world).await).await;
    world.bake(&plan, Cancel::never(), &()).await.unwrap();
    assert_eq!(world.undo_dead_runs().await.len(), 1);
    assert_all_or_nothing(&world, "two runs").await;
    assert!(
        images::manifest(&world.clients, &"b".repeat(64))
            .await
            .unwrap()
            .is_some()
    );
}

/// The pointer has gone on to the image of a later bake meanwhile: whoever goes on with the dead one leaves it there, and
/// says so. Where it still names an older one, it is moved.
#[tokio::test]
async fn a_bake_that_is_gone_on_with_late_leaves_the_pointer_at_a_newer_image() {
    let puts = known(Kind::Plain).await.into_iter();
    let puts = puts
        .filter(|(operation, _)| operation == "PutParameter")
        .count();
    for is_overtaken in [true, false] {
        let world = world(Kind::Plain).await;
        let mut other = target(&world).await;
        other.layers[1].digest = "c".repeat(64);
        let bake_other = || async {
            // No two images are made at the same moment.
            world.clock.sleep(Duration::from_secs(60)).await;
            let plan = world.plan(&other).await;
            let image = world.bake(&plan, Cancel::never(), &()).await.unwrap().image;
            world.clock.sleep(Duration::from_secs(60)).await;
            image
        };
        let older = if is_overtaken {
            None
        } else {
            Some(bake_other().await)
        };
        let plan = world.plan(&target(&world).await).await;
        let before = journal::runs(&world.runs()).unwrap().len();
        let last = Fault::HangAt("PutParameter", puts - 1);
        killed(&world, &plan, last, "before its pointer").await;
        let dead = journal::runs(&world.runs()).unwrap().remove(before).path;
        let newer = if is_overtaken {
            Some(bake_other().await)
        } else {
            None
        };
        let heard = Heard::default();
        let own = world.resume_in(&dead, &plan, &heard).await.unwrap();
        let own = own.unwrap().image;
        let named = raced::latest(&world).await;
        assert_eq!(named.as_deref(), newer.as_deref().or(Some(&*own)));
        let told = heard.0.into_inner().unwrap();
        let told = told.iter().any(|event| {
            matches!(event, Event::Note { text } if newer.as_ref().is_some_and(|newer| text.contains(newer)))
        });
        assert_eq!(told, is_overtaken);
        let all = images::list(&world.clients, None).await.unwrap();
        assert!(all.iter().all(|image| image.is_ready()), "{all:?}");
        let mut ids: Vec<_> = all.into_iter().map(|image| image.id).collect();
        ids.sort();
        let mut both: Vec<_> = older.into_iter().chain(newer).chain([own]).collect();
        both.sort();
        assert_eq!(ids, both);
        assert_eq!(world.machines.left(), [] as [String; 0]);
    }
}

/// A clean-up that does not come to its end has removed something: nobody goes on with the rest.
#[tokio::test]
async fn a_run_whose_clean_up_was_begun_is_not_gone_on_with() {
    let middle = requests().await.len() / 2;
    let (world, _) = dead(Kind::Plain, Fault::HangBefore(middle), "in the middle").await;
    world.wire.fail(Fault::CutOff(1));
    let [undone] = world.undo_dead_runs().await.try_into().unwrap();
    assert_ne!(undone.left_over, []);
    let ledger = journal::read(&journal_of(&world)).unwrap();
    let why = resumable(&ledger, &world.clients, ACCOUNT_ID).unwrap_err();
    assert!(
        matches!(&why, NotResumable::Undoing { reason, .. } if reason.contains("clean-up")),
        "{why}"
    );
    world.wire.fail(Fault::None);
    world.undo_dead_runs().await;
    assert_eq!(world.things().await, [] as [String; 0]);
}

/// An unfinished image of a run of which nothing else is known, as another host may have left it.
#[tokio::test]
async fn what_it_was_to_remove_first_is_removed_by_who_goes_on() {
    let (world, _) = dead_before_its_tester().await;
    std::fs::remove_file(journal_of(&world)).unwrap();
    world.clock.sleep(Duration::from_secs(7200)).await;
    let plan = world.plan(&target(&world).await).await;
    assert_eq!(plan.stale.len(), 1);
    killed(
        &world,
        &plan,
        Fault::HangBefore(0),
        "before its first request",
    )
    .await;
    let baked = world.resume(&plan, &()).await.unwrap().unwrap();
    let all = images::list(&world.clients, None).await.unwrap();
    let ids: Vec<_> = all.iter().map(|image| &image.id).collect();
    assert_eq!(ids, [&baked.image]);
}

/// Whoever goes on with it after its time gives the machines that he makes a time of their own.
#[tokio::test]
async fn a_machine_of_a_run_that_is_gone_on_with_late_lives_as_long_as_any() {
    let (world, plan) = dead_before_its_tester().await;
    // Its intent is written, and says how long the machine is to live: it is as if that had not come to pass.
    let path = journal_of(&world);
    let text = std::fs::read_to_string(&path).unwrap();
    let kept = text.trim_end().rfind('\n').unwrap() + 1;
    assert!(text[kept..].contains("\"tester\""), "{}", &text[kept..]);
    std::fs::write(&path, &text[..kept]).unwrap();
    world.clock.sleep(Duration::from_secs(24 * 3600)).await;
    let baked = world.resume(&plan, &()).await.unwrap().unwrap();
    assert_right(&world, Kind::Plain, &baked, "a day later").await;
    let ledger = journal::read(&path).unwrap();
    let minutes = ledger
        .entries()
        .filter_map(|entry| entry.facts.get("minutes"));
    assert_eq!(minutes.collect::<Vec<_>>(), ["120", "120"]);
}

#[tokio::test]
async fn what_is_over_or_being_undone_is_not_gone_on_with() {
    let why = |world: &World| {
        let ledger = journal::read(&journal_of(world)).unwrap();
        resumable(&ledger, &world.clients, ACCOUNT_ID).unwrap_err()
    };
    let done = world(Kind::Plain).await;
    let plan = done.plan(&target(&done).await).await;
    done.bake(&plan, Cancel::never(), &()).await.unwrap();
    assert!(matches!(why(&done), NotResumable::Over { result, .. } if result == "baked"));

    // It fails, and dies as it removes what it has made.
    let failing = world(Kind::Plain).await;
    let mut failed = target(&failing).await;
    failed.layers[1].layer.provision[0].text = "exit 3\n".into();
    let plan = failing.plan(&failed).await;
    failing.wire.fail(Fault::None);
    failing.bake(&plan, Cancel::never(), &()).await.unwrap_err();
    let last = failing.wire.operations().len() - 1;
    let failing = world(Kind::Plain).await;
    let plan = failing.plan(&failed).await;
    killed(&failing, &plan, Fault::HangBefore(last), "at its undo").await;
    let reason = why(&failing);
    assert!(
        matches!(&reason, NotResumable::Undoing { reason, .. } if reason.contains("do worker/step-001")),
        "{reason}"
    );
    failing.undo_dead_runs().await;
    assert_eq!(failing.things().await, [] as [String; 0]);
}

#[tokio::test]
async fn an_image_that_was_removed_meanwhile_is_not_waited_for_for_long() {
    let (world, plan) = dead_before_its_tester().await;
    let ledger = journal::read(&journal_of(&world)).unwrap();
    let image = ledger.standing("image", &plan.image_name).unwrap();
    assert_eq!(image.state, State::Done);
    let removed = world.clients.ec2.deregister_image().image_id(&image.ids[0]);
    removed.send().await.unwrap();
    let began = world.clock.now();
    let error = world.resume(&plan, &()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("visible"), "{error}");
    let waited = world.clock.now().duration_since(began);
    assert!(waited.as_secs() < 900, "{waited:?}");
    assert_eq!(world.machines.left(), [] as [String; 0]);
}
