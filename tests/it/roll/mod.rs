//! Rolls through the official SDK, over the local cloud with scripted machines, on a clock that jumps: they end with one
//! version everywhere and nothing left, whatever is lost and whenever the process dies.

mod allowed;
mod cloud;
mod real;
mod wire;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloud::{GROUP, Stage};
use jiff::SignedDuration;
use piaas_bake::aws::Clients;
use piaas_bake::bake::Cancel;
use piaas_bake::clock::Clock as _;
use piaas_bake::events::Sink;
use piaas_bake::iam;
use piaas_bake::localcloud::BASE_IMAGE;
use piaas_bake::localcloud::faults::Faults;
use piaas_bake::roll::event::{Event, Stamped};
use piaas_bake::roll::preflight::{self, Image, Refusal, Verdict};
use piaas_bake::roll::record::{Options, Outcome, RollRecord, Side};
use piaas_bake::roll::world::Request;
use piaas_bake::roll::{self, Held, Hold as _, RollError, lease, lease_name, store};
use wire::{Fault, Wire};

use crate::aws;
use crate::iam::Judge;

struct World {
    judge: Arc<Judge>,
    clients: Clients,
    wire: Wire,
    stage: Arc<Stage>,
}

/// Keeps all events.
#[derive(Default)]
struct Heard(Mutex<Vec<Event>>);

impl Sink<Event> for Heard {
    fn emit(&self, event: Stamped) {
        self.0.lock().unwrap().push(event.event);
    }
}

impl World {
    /// A group with one instance for each number: minutes for which it is busy, and protected.
    async fn new(busy: &[i64]) -> Self {
        Self::over(Stage::new(busy).await).await
    }

    async fn over(stage: Stage) -> Self {
        let stage = Arc::new(stage);
        let wire = Wire::new(stage.clone());
        // Whatever happens to it: a roll needs its policy and no more.
        let policy = iam::roll(GROUP, Some(&stage.template), allowed::PLACE);
        let judge = Judge::new(&policy, stage.clients());
        let way = judge.before(wire.client());
        let clients = aws::connect(way, stage.clock.clone()).await;
        Self {
            clients,
            wire,
            stage,
            judge,
        }
    }

    fn record(&self, canary: bool) -> RollRecord {
        let old = Side {
            version: 1,
            image: BASE_IMAGE.into(),
        };
        let options = Options {
            canary,
            checks: vec!["test -e /etc/hostname".into()],
            warmup: 60,
            max_healthy: 120,
            checkpoints: vec![],
            checkpoint_delay: 0,
        };
        RollRecord::new(
            "20260101T120000-00000001".into(),
            GROUP.into(),
            self.stage.template.clone(),
            old,
            self.stage.new_image.clone(),
            options,
            self.stage.clock.now(),
        )
    }

    /// What every call of `roll` does: take the lease, read the record, go on with it.
    async fn go_on(
        &self,
        new: &RollRecord,
        sink: &dyn Sink<Event>,
    ) -> Result<RollRecord, RollError> {
        let mut lease = lease::take(&self.clients, &lease_name(GROUP), "test").await?;
        let record = store::load(&self.clients, GROUP).await?;
        let record = record.unwrap_or_else(|| new.clone());
        let result = roll::drive(&self.clients, record, &mut lease, Cancel::never(), sink).await?;
        lease.release().await?;
        Ok(result)
    }

    async fn roll(&self) -> RollRecord {
        self.go_on(&self.record(true), &()).await.unwrap()
    }

    /// Rolls until the wire hangs, and dies there. Whether it hung; if not, the roll ended first.
    async fn die_at(&self, fault: Fault, record: &RollRecord) -> bool {
        self.wire.fail(fault);
        tokio::select! {
            result = self.go_on(record, &()) => { result.unwrap(); false }
            () = self.wire.hung.notified() => true,
        }
    }
}

#[tokio::test]
async fn a_roll_survives_reads_that_are_late() {
    let mut stage = Stage::new(&[0, 0]).await;
    // EC2 shows what was ten seconds ago, so a new version or canary is not found at first.
    let late = "schema: piaas-bake/faults/v1\nfaults:\n  \
                - { fault: stale, on: 'ec2:Describe*', seconds: 10, times: always }\n";
    stage.meddle(Faults::parse(late).unwrap());
    let world = World::over(stage).await;
    let record = world.roll().await;
    assert_eq!(record.outcome, Some(Outcome::RolledOut));
    world.stage.assert_all_on(2).await;
}

#[tokio::test]
async fn a_good_roll_shows_the_difference_replaces_every_instance_and_proves_it() {
    let world = World::new(&[0, 0, 0]).await;
    world.stage.jobs().canary = SignedDuration::from_mins(10);
    let heard = Heard::default();
    let record = world.go_on(&world.record(true), &heard).await.unwrap();
    assert_eq!(record.outcome, Some(Outcome::RolledOut));
    world.stage.assert_all_on(2).await;
    let events = heard.0.into_inner().unwrap();
    let fields = events.iter().find_map(|event| match event {
        Event::Difference { fields, .. } => Some(fields.clone()),
        _ => None,
    });
    let fields = fields.expect("the difference is shown");
    assert_eq!(fields.len(), 1);
    assert_eq!(
        (fields[0].field.as_str(), fields[0].new.as_str()),
        ("ImageId", world.stage.new_image.as_str())
    );
    match events.last() {
        Some(Event::Ended {
            instances,
            group_version,
            ..
        }) => {
            assert_eq!((instances.len(), *group_version), (3, Some(2)));
            assert!(
                instances
                    .iter()
                    .all(|row| row.image.as_ref() == Some(&world.stage.new_image))
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(world.wire.count("StartInstanceRefresh"), 1);
    assert_eq!(world.wire.count("RunInstances"), 1);
}

#[tokio::test]
async fn a_failing_canary_leaves_the_group_alone_and_nothing_behind() {
    let world = World::new(&[0, 0]).await;
    {
        let mut jobs = world.stage.jobs();
        jobs.bad = Some(world.stage.new_image.clone());
        jobs.canary = SignedDuration::from_mins(30);
    }
    let record = world.roll().await;
    assert_eq!(record.outcome, Some(Outcome::RolledBack));
    assert_eq!(record.reason.as_deref(), Some("the canary failed: no good"));
    world.stage.assert_all_on(1).await;
    assert_eq!(world.wire.count("StartInstanceRefresh"), 0);
}

#[tokio::test]
async fn a_version_that_differs_in_more_than_the_image_is_removed_again() {
    let world = World::new(&[0]).await;
    world.wire.script().meddled = true;
    let record = world.roll().await;
    assert_eq!(record.outcome, Some(Outcome::RolledBack));
    let reason = record.reason.unwrap();
    assert!(reason.contains("UserData (none -> eA==)"), "{reason}");
    world.stage.assert_all_on(1).await;
    let count = |name| world.wire.count(name);
    assert_eq!(count("RunInstances") + count("StartInstanceRefresh"), 0);
}

#[tokio::test]
async fn a_bad_image_comes_back_by_itself() {
    for (dying, irreversible) in [(false, false), (true, false), (false, true)] {
        let world = World::new(&[0, 0, 0, 0]).await;
        let new = Some(world.stage.new_image.clone());
        {
            let mut jobs = world.stage.jobs();
            *if dying {
                &mut jobs.dying
            } else {
                &mut jobs.bad
            } = new;
        }
        world.wire.script().irreversible = irreversible;
        let record = world.go_on(&world.record(false), &()).await.unwrap();
        assert_eq!(record.outcome, Some(Outcome::RolledBack), "{record:?}");
        world.stage.assert_all_on(1).await;
        // What does not stay healthy long enough to be looked at is the refresh's own affair: it comes back by itself.
        let asked = world.wire.count("RollbackInstanceRefresh");
        assert_eq!(asked, usize::from(!dying));
        let first = world.stage.refreshes().await.pop().unwrap();
        assert_eq!(
            first,
            if irreversible {
                "Cancelled"
            } else {
                "RollbackSuccessful"
            }
        );
    }
}

#[tokio::test]
async fn a_machine_that_ends_amid_its_checks_says_nothing_against_its_image() {
    let world = World::new(&[0, 0, 0, 0]).await;
    world.stage.jobs().leaving = Some(world.stage.new_image.clone());
    let record = world.go_on(&world.record(false), &()).await.unwrap();
    assert_eq!(record.outcome, Some(Outcome::RolledOut), "{record:?}");
    world.stage.assert_all_on(2).await;
    let left = world.stage.jobs().left.clone().unwrap();
    assert!(!world.stage.driver.live_machines().contains(&left));
}

#[tokio::test]
async fn busy_workers_are_waited_for_over_hours_and_never_killed() {
    let world = World::new(&[140, 0, 95, 0]).await;
    let record = world.roll().await;
    assert_eq!(record.outcome, Some(Outcome::RolledOut));
    world.stage.assert_all_on(2).await;
    // One for each hour in which all that is left is busy; none ran into the hour after which Auto Scaling fails it.
    let mut ends = world.stage.refreshes().await;
    assert_eq!(ends.remove(0), "Successful");
    assert!((2..=4).contains(&ends.len()), "{ends:?}");
    assert!(ends.iter().all(|status| status == "Cancelled"), "{ends:?}");
    // Four in a minute ask how all of them stand that are busy; the others are checks.
    let sent = world.wire.count("SendCommand");
    assert!((400..=4 * 140 + 20).contains(&sent), "{sent}");
}

#[tokio::test]
async fn an_abort_from_another_process_turns_the_roll_back() {
    let world = World::new(&[0, 90, 0]).await;
    // The roll waits for the busy worker when its process dies.
    let record = world.record(true);
    assert!(
        world
            .die_at(Fault::HangAfterThe("StartInstanceRefresh"), &record)
            .await
    );
    world.wire.fail(Fault::None);
    let request = Request {
        roll: record.id.clone(),
        reason: "aborted by a test".into(),
    };
    store::ask(&world.clients, GROUP, &request).await.unwrap();
    let record = world.roll().await;
    assert_eq!(record.outcome, Some(Outcome::RolledBack));
    assert_eq!(record.reason.as_deref(), Some("aborted by a test"));
    world.stage.assert_all_on(1).await;
    assert_eq!(world.wire.count("RollbackInstanceRefresh"), 1);
}

#[tokio::test]
async fn a_finished_roll_is_rolled_back_by_a_refresh_to_the_version_before() {
    let world = World::new(&[0, 0]).await;
    let mut record = world.roll().await;
    world.stage.assert_all_on(2).await;
    record.turn_back("asked for");
    store::save(&world.clients, &record).await.unwrap();
    let record = world.roll().await;
    assert_eq!(record.outcome, Some(Outcome::RolledBack));
    world.stage.assert_all_on(1).await;
}

/// The requests of a roll that change something, by number. The clock is the test's, so they are the same each time;
/// a process that dies at a look leaves what one leaves that died after the change before.
async fn changes(bad: bool, canary: bool) -> Vec<usize> {
    let world = World::new(&[0, 0]).await;
    world.stage.jobs().bad = bad.then(|| world.stage.new_image.clone());
    world.go_on(&world.record(canary), &()).await.unwrap();
    let script = world.wire.script();
    let looks = |name: &String| name.starts_with("Describe") || name.starts_with("Get");
    let operations = script.operations.iter().enumerate();
    let changes: Vec<usize> = operations
        .filter(|(_, name)| !looks(name))
        .map(|(number, _)| number)
        .collect();
    assert!(changes.len() > 15, "{:?}", script.operations);
    changes
}

#[tokio::test]
async fn a_process_that_dies_at_any_request_loses_nothing_and_leaks_nothing() {
    // To die before one is to die after the one before it.
    let faults = changes(false, true).await.into_iter().map(Fault::HangAfter);
    for fault in std::iter::once(Fault::HangBefore(0)).chain(faults) {
        let world = World::new(&[0, 0]).await;
        assert!(world.die_at(fault, &world.record(true)).await, "{fault:?}");
        world.wire.fail(Fault::None);
        let record = world.roll().await;
        assert_eq!(record.outcome, Some(Outcome::RolledOut), "{fault:?}");
        world.stage.assert_all_on(2).await;
        assert_eq!(world.stage.refreshes().await.len(), 1, "{fault:?}");
        // The builder of the second image, two old ones, the canary, and two new ones.
        assert_eq!(world.stage.launches(), 6, "{fault:?}");
    }
}

#[tokio::test]
async fn a_roll_back_that_dies_at_any_request_comes_back_all_the_same() {
    for number in changes(true, false).await {
        let world = World::new(&[0, 0]).await;
        world.stage.jobs().bad = Some(world.stage.new_image.clone());
        let record = world.record(false);
        assert!(world.die_at(Fault::HangAfter(number), &record).await);
        world.wire.fail(Fault::None);
        let record = world.go_on(&record, &()).await.unwrap();
        assert_eq!(record.outcome, Some(Outcome::RolledBack), "{number}");
        world.stage.assert_all_on(1).await;
    }
}

#[tokio::test]
async fn a_lost_answer_to_any_request_changes_nothing() {
    for number in changes(false, true).await {
        let world = World::new(&[0, 0]).await;
        world.wire.fail(Fault::Lose(number));
        let record = world.roll().await;
        assert_eq!(record.outcome, Some(Outcome::RolledOut), "{number}");
        world.stage.assert_all_on(2).await;
        assert_eq!(world.stage.refreshes().await.len(), 1, "{number}");
    }
}

#[tokio::test]
async fn a_group_is_rolled_by_one_process_at_a_time() {
    let world = World::new(&[0]).await;
    let name = lease_name(GROUP);
    let mut first = lease::take(&world.clients, &name, "the first")
        .await
        .unwrap();
    // It lives: it renews its lease while the other one looks.
    let living = async {
        loop {
            first.keep().await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let held = tokio::select! {
        never = living => never,
        taken = lease::take(&world.clients, &name, "the second") => taken.unwrap_err(),
    };
    assert!(
        matches!(&held, Held::ByAnother(who) if who.contains("the first")),
        "{held}"
    );
    // It is dead: its lease runs out, and it is told so should it wake up.
    let before = world.stage.clock.now();
    let second = lease::take(&world.clients, &name, "the second")
        .await
        .unwrap();
    let watched = world.stage.clock.now().duration_since(before).as_secs();
    assert!((60..=62).contains(&watched), "{watched} s");
    assert_eq!((first.epoch(), second.epoch()), (1, 2));
    world.stage.clock.advance(Duration::from_secs(60));
    assert!(matches!(first.keep().await, Err(Held::ByAnother(_))));
    // It is given back: nobody waits.
    second.release().await.unwrap();
    let before = world.stage.clock.now();
    let third = lease::take(&world.clients, &name, "the third")
        .await
        .unwrap();
    assert_eq!(third.epoch(), 3);
    assert_eq!(world.stage.clock.now(), before);
    // It is given back while somebody waits for it: that one has it.
    world.wire.fail(Fault::None);
    let given_back = async {
        let looks = || world.wire.count("GetParametersByPath");
        while looks() < 2 {
            tokio::task::yield_now().await;
        }
        third.release().await.unwrap();
    };
    let taken = lease::take(&world.clients, &name, "the fourth");
    let (fourth, ()) = tokio::join!(taken, given_back);
    assert_eq!(fourth.unwrap().epoch(), 4);
}

#[tokio::test]
async fn the_look_before_a_roll_tells_numbered_moving_and_done_apart() {
    let world = World::new(&[0, 0]).await;
    let image = |id: &str| Image {
        id: id.into(),
        name: "n".into(),
        state: "available".into(),
        status: Some("ready".into()),
        architecture: "x86_64".into(),
    };
    let judge = async |id: &str| {
        let survey = roll::survey(&world.clients, GROUP, image(id))
            .await
            .unwrap();
        preflight::judge(&survey.unwrap())
    };
    let new = world.stage.new_image.clone();
    assert!(matches!(judge(&new).await, Ok(Verdict::Roll { .. })));
    assert_eq!(judge(BASE_IMAGE).await, Ok(Verdict::AlreadyThere));
    world.stage.point_group("$Latest").await;
    let refusal = judge(&new).await.unwrap_err();
    assert!(matches!(refusal, Refusal::NotNumbered { .. }));
    assert!(
        refusal.way_out().contains("Version=1'"),
        "{}",
        refusal.way_out()
    );
}
