//! Rolls through the official SDK, on a clock that jumps: they end with one version everywhere and nothing left,
//! whatever is lost and whenever the process dies.

mod cloud;
mod wire;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloud::{GROUP, TEMPLATE};
use jiff::SignedDuration;
use piaas_bake::aws::{Clients, Connection};
use piaas_bake::bake::Cancel;
use piaas_bake::clock::{JumpingClock, SharedClock};
use piaas_bake::localcloud::engine::LocalCloud;
use piaas_bake::localcloud::scripted::Scripted;
use piaas_bake::localcloud::{ACCESS_KEY, DEFAULT_REGION, SECRET_KEY};
use piaas_bake::roll::event::{Event, Sink, Stamped};
use piaas_bake::roll::preflight::{self, Image, Refusal, Verdict};
use piaas_bake::roll::record::{Options, Outcome, RollRecord, Side};
use piaas_bake::roll::world::Request;
use piaas_bake::roll::{self, Held, Hold as _, RollError, lease, lease_name, store};
use wire::{Fault, Wire};

struct World {
    clients: Clients,
    wire: Wire,
    clock: Arc<JumpingClock>,
    _dir: tempfile::TempDir,
}

/// Keeps all events.
#[derive(Default)]
struct Heard(Mutex<Vec<Event>>);

impl Sink for Heard {
    fn emit(&self, event: Stamped) {
        self.0.lock().unwrap().push(event.event);
    }
}

impl World {
    /// A group with one instance for each number: minutes for which it is busy, and protected.
    async fn new(busy: &[i64]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = JumpingClock::starting_at("2026-01-01T12:00:00Z".parse().unwrap());
        let shared: SharedClock = clock.clone();
        let driver = Arc::new(Scripted::new(shared.clone()));
        let cloud = LocalCloud::open(dir.path(), driver, shared.clone()).unwrap();
        let wire = Wire::new(cloud, shared.clone(), busy);
        let connection = Connection::Local {
            http_client: wire.client(),
            region: DEFAULT_REGION.into(),
            access_key: ACCESS_KEY,
            secret_key: SECRET_KEY,
        };
        let clients = Clients::connect(connection, shared).await.unwrap();
        Self {
            clients,
            wire,
            clock,
            _dir: dir,
        }
    }

    fn record(&self, canary: bool) -> RollRecord {
        let old = Side {
            version: 3,
            image: "ami-old".into(),
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
            TEMPLATE.into(),
            old,
            "ami-new".into(),
            options,
            "2026-01-01T12:00:00Z".parse().unwrap(),
        )
    }

    /// What every call of `roll` does: take the lease, read the record, go on with it.
    async fn go_on(&self, new: &RollRecord, sink: &dyn Sink) -> Result<RollRecord, RollError> {
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

    /// One version everywhere, the group launches it, nothing is left, no job was killed.
    fn assert_all_on(&self, version: u64) {
        let model = self.wire.model.lock().unwrap();
        assert_eq!(model.group_version, version.to_string());
        for (id, machine) in model.members() {
            assert_eq!(machine.version, version, "{id}");
        }
        assert_eq!(model.live_canaries(), Vec::<&String>::new());
        assert_eq!(model.killed, Vec::<String>::new());
        let kept: Vec<u64> = model.versions.keys().copied().collect();
        assert_eq!(kept, if version == 3 { vec![3] } else { vec![3, 4] });
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
async fn a_good_roll_shows_the_difference_replaces_every_instance_and_proves_it() {
    let world = World::new(&[0, 0, 0]).await;
    world.wire.model.lock().unwrap().canary_job = SignedDuration::from_mins(10);
    let heard = Heard::default();
    let record = world.go_on(&world.record(true), &heard).await.unwrap();
    assert_eq!(record.outcome, Some(Outcome::RolledOut));
    world.assert_all_on(4);
    let events = heard.0.into_inner().unwrap();
    let fields = events.iter().find_map(|event| match event {
        Event::Difference { fields, .. } => Some(fields.clone()),
        _ => None,
    });
    let fields = fields.expect("the difference is shown");
    assert_eq!(fields.len(), 1);
    assert_eq!(
        (fields[0].field.as_str(), fields[0].new.as_str()),
        ("ImageId", "ami-new")
    );
    match events.last() {
        Some(Event::Ended {
            instances,
            group_version,
            ..
        }) => {
            assert_eq!((instances.len(), *group_version), (3, Some(4)));
            assert!(
                instances
                    .iter()
                    .all(|row| row.image.as_deref() == Some("ami-new"))
            );
        }
        other => panic!("{other:?}"),
    }
    let model = world.wire.model.lock().unwrap();
    assert_eq!(model.count("StartInstanceRefresh"), 1);
    assert_eq!(model.count("RunInstances"), 1);
}

#[tokio::test]
async fn a_failing_canary_leaves_the_group_alone_and_nothing_behind() {
    let world = World::new(&[0, 0]).await;
    {
        let mut model = world.wire.model.lock().unwrap();
        model.bad = Some(4);
        model.canary_job = SignedDuration::from_mins(30);
    }
    let record = world.roll().await;
    assert_eq!(record.outcome, Some(Outcome::RolledBack));
    assert_eq!(record.reason.as_deref(), Some("the canary failed: no good"));
    world.assert_all_on(3);
    let model = world.wire.model.lock().unwrap();
    assert_eq!(model.count("StartInstanceRefresh"), 0);
}

#[tokio::test]
async fn a_version_that_differs_in_more_than_the_image_is_removed_again() {
    let world = World::new(&[0]).await;
    world.wire.model.lock().unwrap().meddled = true;
    let record = world.roll().await;
    assert_eq!(record.outcome, Some(Outcome::RolledBack));
    let reason = record.reason.unwrap();
    assert!(reason.contains("UserData (none -> eA==)"), "{reason}");
    world.assert_all_on(3);
    let model = world.wire.model.lock().unwrap();
    assert_eq!(
        model.count("RunInstances") + model.count("StartInstanceRefresh"),
        0
    );
}

#[tokio::test]
async fn a_bad_image_comes_back_by_itself() {
    for (bad, dying, irreversible) in [
        (Some(4), None, false),
        (None, Some(4), false),
        (Some(4), None, true),
    ] {
        let world = World::new(&[0, 0, 0, 0]).await;
        {
            let mut model = world.wire.model.lock().unwrap();
            (model.bad, model.dying, model.irreversible) = (bad, dying, irreversible);
        }
        let record = world.go_on(&world.record(false), &()).await.unwrap();
        assert_eq!(record.outcome, Some(Outcome::RolledBack), "{record:?}");
        world.assert_all_on(3);
        let model = world.wire.model.lock().unwrap();
        assert_eq!(model.count("RollbackInstanceRefresh"), 1);
        assert_eq!(
            model.count("StartInstanceRefresh"),
            1 + usize::from(irreversible)
        );
    }
}

#[tokio::test]
async fn busy_workers_are_waited_for_over_hours_and_never_killed() {
    let world = World::new(&[200, 0, 95, 0]).await;
    let record = world.roll().await;
    assert_eq!(record.outcome, Some(Outcome::RolledOut));
    world.assert_all_on(4);
    let model = world.wire.model.lock().unwrap();
    let starts = model.count("StartInstanceRefresh");
    assert!((4..=6).contains(&starts), "{starts}");
    assert!(model.refreshes.iter().all(|one| one.status != "Failed"));
}

#[tokio::test]
async fn an_abort_from_another_process_turns_the_roll_back() {
    let world = World::new(&[0, 90, 0]).await;
    // The roll waits for the busy worker when its process dies.
    let record = world.record(true);
    assert!(world.die_at(Fault::HangBefore(150), &record).await);
    world.wire.fail(Fault::None);
    let request = Request {
        roll: record.id.clone(),
        reason: "aborted by a test".into(),
    };
    store::ask(&world.clients, GROUP, &request).await.unwrap();
    let record = world.roll().await;
    assert_eq!(record.outcome, Some(Outcome::RolledBack));
    assert_eq!(record.reason.as_deref(), Some("aborted by a test"));
    world.assert_all_on(3);
    let model = world.wire.model.lock().unwrap();
    assert_eq!(model.count("RollbackInstanceRefresh"), 1);
}

#[tokio::test]
async fn a_finished_roll_is_rolled_back_by_a_refresh_to_the_version_before() {
    let world = World::new(&[0, 0]).await;
    let mut record = world.roll().await;
    world.assert_all_on(4);
    record.turn_back("asked for");
    store::save(&world.clients, &record).await.unwrap();
    let record = world.roll().await;
    assert_eq!(record.outcome, Some(Outcome::RolledBack));
    world.assert_all_on(3);
}

/// The requests of a roll that change something, by number. The clock is the test's, so they are the same each time;
/// a process that dies at a look leaves what one leaves that died after the change before.
async fn changes(bad: Option<u64>, canary: bool) -> Vec<usize> {
    let world = World::new(&[0, 0]).await;
    world.wire.model.lock().unwrap().bad = bad;
    world.go_on(&world.record(canary), &()).await.unwrap();
    let model = world.wire.model.lock().unwrap();
    let looks = |name: &String| name.starts_with("Describe") || name.starts_with("Get");
    let operations = model.operations.iter().enumerate();
    let changes: Vec<usize> = operations
        .filter(|(_, name)| !looks(name))
        .map(|(number, _)| number)
        .collect();
    assert!(changes.len() > 20, "{:?}", model.operations);
    changes
}

#[tokio::test]
async fn a_process_that_dies_at_any_request_loses_nothing_and_leaks_nothing() {
    for number in changes(None, true).await {
        for fault in [Fault::HangBefore(number), Fault::HangAfter(number)] {
            let world = World::new(&[0, 0]).await;
            assert!(world.die_at(fault, &world.record(true)).await, "{fault:?}");
            world.wire.fail(Fault::None);
            let record = world.roll().await;
            assert_eq!(record.outcome, Some(Outcome::RolledOut), "{fault:?}");
            world.assert_all_on(4);
            let model = world.wire.model.lock().unwrap();
            assert_eq!(model.refreshes.len(), 1, "{fault:?}");
            let canaries = model.machines.values().filter(|one| !one.in_group);
            assert_eq!(canaries.count(), 1, "{fault:?}");
        }
    }
}

#[tokio::test]
async fn a_roll_back_that_dies_at_any_request_comes_back_all_the_same() {
    for number in changes(Some(4), false).await {
        let world = World::new(&[0, 0]).await;
        world.wire.model.lock().unwrap().bad = Some(4);
        let record = world.record(false);
        assert!(world.die_at(Fault::HangAfter(number), &record).await);
        world.wire.fail(Fault::None);
        let record = world.go_on(&record, &()).await.unwrap();
        assert_eq!(record.outcome, Some(Outcome::RolledBack), "{number}");
        world.assert_all_on(3);
    }
}

#[tokio::test]
async fn a_lost_answer_to_any_request_changes_nothing() {
    for number in changes(None, true).await {
        let world = World::new(&[0, 0]).await;
        world.wire.fail(Fault::Lose(number));
        let record = world.roll().await;
        assert_eq!(record.outcome, Some(Outcome::RolledOut), "{number}");
        world.assert_all_on(4);
        let model = world.wire.model.lock().unwrap();
        assert_eq!(model.refreshes.len(), 1, "{number}");
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
    let second = lease::take(&world.clients, &name, "the second")
        .await
        .unwrap();
    assert_eq!((first.epoch(), second.epoch()), (1, 2));
    world.clock.advance(Duration::from_secs(60));
    assert!(matches!(first.keep().await, Err(Held::ByAnother(_))));
    // It is given back: nobody waits.
    second.release().await.unwrap();
    let before = piaas_bake::clock::Clock::now(&*world.clock);
    let third = lease::take(&world.clients, &name, "the third")
        .await
        .unwrap();
    assert_eq!(third.epoch(), 3);
    assert_eq!(piaas_bake::clock::Clock::now(&*world.clock), before);
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
    assert!(matches!(judge("ami-new").await, Ok(Verdict::Roll { .. })));
    assert_eq!(judge("ami-old").await, Ok(Verdict::AlreadyThere));
    world.wire.model.lock().unwrap().group_version = "$Latest".into();
    let refusal = judge("ami-new").await.unwrap_err();
    assert!(matches!(refusal, Refusal::NotNumbered { .. }));
    assert!(
        refusal.way_out().contains("Version=3'"),
        "{}",
        refusal.way_out()
    );
}

/// The launch template versions of a roll, on the local cloud itself.
#[tokio::test]
async fn the_local_cloud_makes_and_drops_versions_as_a_roll_asks() {
    use piaas_bake::localcloud::{BASE_IMAGE, connector};
    use piaas_bake::roll::act;
    use piaas_bake::roll::look::{self, Memory};
    use piaas_bake::roll::step::{Call, Reply};

    let dir = tempfile::tempdir().unwrap();
    let clock = JumpingClock::starting_at("2026-01-01T12:00:00Z".parse().unwrap());
    let driver = Arc::new(Scripted::new(clock.clone()));
    let cloud = LocalCloud::open(dir.path(), driver.clone(), clock.clone()).unwrap();
    let connection = Connection::Local {
        http_client: connector(cloud),
        region: DEFAULT_REGION.into(),
        access_key: ACCESS_KEY,
        secret_key: SECRET_KEY,
    };
    let clients = Clients::connect(connection, clock.clone()).await.unwrap();
    let data = aws_sdk_ec2::types::RequestLaunchTemplateData::builder()
        .image_id("ami-0123456789abcdef0")
        .instance_type("t3.micro".into())
        .user_data("eA==")
        .build();
    let template = clients
        .ec2
        .create_launch_template()
        .launch_template_name("workers")
        .launch_template_data(data)
        .send()
        .await
        .unwrap();
    let id = template
        .launch_template
        .unwrap()
        .launch_template_id
        .unwrap();
    let old = Side {
        version: 1,
        image: "ami-0123456789abcdef0".into(),
    };
    let options = World::new(&[]).await.record(true).options;
    let now = piaas_bake::clock::Clock::now(&*clock);
    let mut record = RollRecord::new(
        "r-1".into(),
        GROUP.into(),
        id.clone(),
        old,
        BASE_IMAGE.into(),
        options,
        now,
    );
    let mut memory = Memory::default();
    let mut make = async |record: &mut RollRecord, call: Call| {
        record.intend(&call, None, now);
        let reply = act::act(&clients, record, &mut memory, &call)
            .await
            .unwrap();
        record.learn(&call, &reply, now);
        reply
    };
    // Each call twice: the reply to the first one may have been lost.
    for _ in 0..2 {
        let reply = make(&mut record, Call::CreateVersion).await;
        assert_eq!(reply, Reply::Made("2".into()));
    }
    let data = async |version: &str| look::version(&clients, &id, version).await.unwrap();
    let (number, new) = data("$Latest").await.unwrap();
    assert_eq!((number, new.image_id()), (2, Some(BASE_IMAGE)));
    let (_, mut old) = data("1").await.unwrap();
    old.image_id = Some(BASE_IMAGE.into());
    assert_eq!(old, new);
    for _ in 0..2 {
        let reply = make(&mut record, Call::DropVersion(2)).await;
        assert_eq!(reply, Reply::Done);
    }
    assert_eq!(data("2").await, None);
}
