//! A bake is killed anywhere and its journal is lost: what it has made says itself what it is, and when it may go.

use piaas_bake::lifecycle::{self, Found, Run, Verdict, judge};

use super::resumed::{Kind, assert_right_or_nothing, kills, known, target, world};
use super::*;
use crate::support::tell;

/// What may go at this time, on a host that knows of no run.
async fn may_go(world: &World, now: jiff::Timestamp) -> Vec<Found> {
    let bundles = world.bundles.as_ref();
    let survey = lifecycle::survey(&world.cleaner().await, bundles).await;
    assert!(survey.unseen.is_empty(), "{:?}", survey.unseen);
    let found = survey.found.into_iter();
    found
        .filter(|one| matches!(judge(one, Run::Unknown, now), Verdict::Remove(_)))
        .collect()
}

/// The parameters that tell of something, and the objects in the bucket.
async fn notes_and_objects(world: &World) -> Vec<String> {
    let parameters = world
        .clients
        .ssm
        .describe_parameters()
        .send()
        .await
        .unwrap();
    let names = parameters
        .parameters()
        .iter()
        .map(|one| one.name().unwrap().to_owned());
    let mut all: Vec<String> = names
        .filter(|name| name.starts_with("/piaas-bake/"))
        .collect();
    if let Some(store) = &world.bundles {
        let objects = world.clients.s3.list_objects_v2().bucket(&store.bucket);
        let objects = objects.send().await.unwrap();
        all.extend(
            objects
                .contents()
                .iter()
                .map(|one| one.key().unwrap().to_owned()),
        );
    }
    all
}

/// There is nothing, or exactly one whole image; and layers, which are for bakes to come, with what was noted on them.
async fn assert_whole_or_nothing(world: &World, kind: Kind, context: &str) {
    assert_right_or_nothing(world, kind, context).await;
    if images::list(&world.clients, None).await.unwrap().is_empty() {
        let layers = bake::layers::list(&world.clients).await.unwrap().len();
        let left = notes_and_objects(world).await;
        assert!(
            left.iter()
                .all(|name| layers > 0 && name.ends_with("/packages")),
            "{context}: {left:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_request_and_its_journal_lost_nothing_is_left_once_it_has_expired() {
    let mut points = 0;
    for kind in super::resumed::kinds() {
        for fault in kills(kind, &known(kind).await) {
            let context = format!("{kind:?}, {fault:?}");
            let world = world(kind).await;
            let plan = world.plan(&target(&world).await).await;
            let started = world.clock.now();
            killed(&world, &plan, fault, &context).await;
            std::fs::remove_dir_all(world.runs()).unwrap();

            // Whoever made it may be alive, but for one who has not renewed his lease for long.
            for minutes in [0, 119] {
                let early = started + jiff::SignedDuration::from_mins(minutes);
                let mut early = may_go(&world, early).await;
                early.retain(|one| minutes == 0 || one.kind != lifecycle::Kind::Lease);
                assert_eq!(early, [], "{context}");
            }
            let before = world.things().await;
            let late = started + jiff::SignedDuration::from_hours(8 * 24);
            let found = may_go(&world, late).await;
            // The time limit, and an hour; an object has no end of its own.
            let expired = started + jiff::SignedDuration::from_mins(150);
            let mut soon = found.clone();
            soon.retain(|one| one.kind != lifecycle::Kind::Bundle);
            assert_eq!(may_go(&world, expired).await, soon, "{context}");
            world.clock.sleep(Duration::from_secs(8 * 24 * 3600)).await;
            let (removed, stuck) = lifecycle::remove(&world.cleaner().await, &found, &()).await;
            assert_eq!(stuck, [], "{context}");
            assert_eq!(removed.len(), found.len(), "{context}");
            assert_whole_or_nothing(&world, kind, &format!("{context}, {before:?}")).await;
            assert_eq!(may_go(&world, late).await, [], "{context}");
            points += 1;
        }
    }
    tell(&format!(
        "killed: a bake, at {points} points, its journal lost: nothing left"
    ));
    assert!(points > 50, "{points}");
}
