//! A bake is killed, or told to end; so is a clean-up.

use std::time::Instant;

use super::errand::{Errand, sweep};
use super::{Context, GITHUB, INTERRUPT, Point, Request, World, all, killed, points, report};
use crate::support::machines_wanted;

pub(super) const BAKE: [&str; 2] = ["bake", "web"];

struct Bake;

impl Errand for Bake {
    const WHAT: &'static str = "a bake";
    const ARGS: &'static [&'static str] = &BAKE;

    async fn prepared() -> World {
        World::new().await
    }

    async fn gone_on_with(world: &World, context: &str) {
        match world.states().await.as_slice() {
            // It had not begun, or is over; a bake is idempotent.
            [] => assert_eq!(world.things().await, [] as [String; 0], "{context}"),
            [state] if state == "over" => {}
            [state] => {
                assert_eq!(state, "died", "{context}");
                let _ = world.run(&["bake", "--resume"]).await.expect_code(0);
                assert_eq!(world.states().await, ["over"], "{context}");
            }
            more => panic!("{context}: {more:?}"),
        }
        let _ = world.run(&BAKE).await.expect_code(0);
        world.assert_whole(Some(true), context).await;
        assert_eq!(
            world.machines.texts("ran"),
            ["first\nsecond\n"],
            "{context}"
        );
    }

    async fn assert_removed(world: &World, context: &str) {
        world.assert_whole(None, context).await;
    }
}

/// The requests of a bake that nobody kills, and its writes.
async fn recorded() -> (Vec<Request>, Vec<Point>) {
    let world = World::new().await;
    let recorded = world.recorded(&BAKE).await;
    world.assert_whole(Some(true), "never killed").await;
    recorded
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bake_that_is_killed_at_any_request_is_gone_on_with_or_removed() {
    if !machines_wanted("a bake that is killed at any request") {
        return;
    }
    let (requests, _) = recorded().await;
    let killed = sweep::<Bake>(World::new().await, points(&requests), "requests").await;
    assert!(killed > 50, "{killed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bake_that_is_killed_at_any_record_of_its_journal_is_gone_on_with_or_removed() {
    if !machines_wanted("a bake that is killed at any record") {
        return;
    }
    let (_, writes) = recorded().await;
    let killed = sweep::<Bake>(World::new().await, writes, "writes").await;
    assert!(killed > 30, "{killed}");
}

/// Where a bake can be told to end: at each request that changes something, and at the first look after it.
async fn tellable() -> Vec<Request> {
    let (requests, _) = recorded().await;
    let mut after = Vec::new();
    for pair in requests.windows(2) {
        if pair[0].changes_something() {
            after.extend(pair.iter().filter(|one| one.first).cloned());
        }
    }
    after.dedup();
    after
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bake_that_is_interrupted_at_any_request_leaves_nothing_by_itself() {
    if !machines_wanted("a bake that is interrupted at any request") {
        return;
    }
    let started = Instant::now();
    let points = tellable().await;
    let count = all(points.into_iter().map(|request| async move {
        let point = Point::Told(request, INTERRUPT);
        let context = Context("bake", &point).to_string();
        let world = World::new().await;
        let (status, run) = world.until(point.clone(), &BAKE).await;
        let was_told = *world.gate.since.lock().unwrap() > 0;
        // One that comes when all is done comes too late.
        let code = status.code();
        assert!(
            matches!(code, Some(0 | 130)),
            "{context}: {status}\n{}",
            run.stderr
        );
        world.assert_whole(Some(code == Some(0)), &context).await;
        assert!(
            !world.states().await.iter().any(|state| state != "over"),
            "{context}"
        );
        was_told
    }))
    .await;
    report(&format!("a bake, interrupted at {count} requests"), started);
    assert!(count > 30, "{count}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bake_whose_job_is_cancelled_on_github_leaves_nothing_that_gc_does_not_remove() {
    if !machines_wanted("a bake whose job is cancelled") {
        return;
    }
    let started = Instant::now();
    let points = tellable().await;
    let count = all(points.into_iter().map(|request| async move {
        let point = Point::Told(request, GITHUB);
        let context = Context("bake", &point).to_string();
        let world = World::new().await;
        let _ = world.until(point.clone(), &BAKE).await;
        let was_told = *world.gate.since.lock().unwrap() > 0;
        let _ = world.run(&["gc", "--yes"]).await.expect_code(0);
        world.assert_whole(None, &context).await;
        was_told
    }))
    .await;
    report(
        &format!("a bake, as GitHub's runner does, at {count} requests"),
        started,
    );
    assert!(count > 30, "{count}");
}

/// What removes, by tags and names or by the journals of this host, is killed as well, and then removes the rest.
struct CleanUp<const BY_JOURNAL: bool>;

impl<const BY_JOURNAL: bool> Errand for CleanUp<BY_JOURNAL> {
    const WHAT: &'static str = if BY_JOURNAL {
        "a clean-up by the journal"
    } else {
        "a clean-up"
    };
    const ARGS: &'static [&'static str] = if BY_JOURNAL {
        &["cloud", "gc"]
    } else {
        &["gc", "--yes"]
    };

    async fn prepared() -> World {
        dead_before_it_is_ready().await
    }

    async fn gone_on_with(world: &World, context: &str) {
        let _ = world.run(Self::ARGS).await.expect_code(0);
        world.assert_whole(Some(false), context).await;
    }

    async fn assert_removed(world: &World, context: &str) {
        world.assert_whole(Some(false), context).await;
    }
}

/// All is there but the last note on the image, and who made it is dead; of one that dies later the image is finished.
async fn dead_before_it_is_ready() -> World {
    let (requests, _) = recorded().await;
    let before = requests
        .iter()
        .take_while(|one| one.operation != "CreateTags");
    let noted = before.filter(|one| one.operation == "PutParameter").last();
    let dies = Point::Before(noted.unwrap().clone());
    let world = World::new().await;
    assert!(killed(&world, &dies, &BAKE, "before it is ready").await);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_up_that_is_killed_at_any_request_or_record_is_begun_anew() {
    if !machines_wanted("a clean-up that is killed at any request") {
        return;
    }
    let count = super::errand::swept::<CleanUp<false>>().await;
    assert!(count > 25, "{count}");
    let count = super::errand::swept::<CleanUp<true>>().await;
    assert!(count > 25, "{count}");
}
