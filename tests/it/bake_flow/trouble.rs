//! What becomes of machines while they are needed: there is no room for them, EC2 takes them back, their agents are away; a
//! snapshot stands still; clocks differ.

use std::collections::BTreeSet;

use piaas_bake::clock::{Clock, Sleep};
use piaas_bake::journal::State;
use piaas_bake::lifecycle;

use super::cloud::Trouble;
use super::resumed::{Kind, assert_right, target};
use super::*;
use crate::support::tell;

/// A world with these faults, and the plan of a bake there: of two types of machine, in two zones.
async fn placed(faults: &str) -> (World, Plan) {
    let script = format!("schema: piaas-bake/faults/v1\nfaults:\n{faults}");
    let mut world = World::with(Arc::new(Faults::parse(&script).unwrap())).await;
    world.types.push("t3.large".into());
    world.wire.calm(true);
    let all = world.calm.ec2.describe_subnets().send().await.unwrap();
    let mut target = target(&world).await;
    let subnets = all.subnets()[..2].iter();
    target.build.subnets = subnets
        .map(|one| one.subnet_id().unwrap().to_owned())
        .collect();
    let plan = world.plan(&target).await;
    world.wire.calm(false);
    world.wire.fail(Fault::None);
    (world, plan)
}

/// Where the machines were launched: the zone's letter, and the type.
async fn places(world: &World) -> Vec<String> {
    let answer = world.calm.ec2.describe_instances().send().await.unwrap();
    let all = answer.reservations().iter().flat_map(|one| one.instances());
    let mut all: Vec<String> = all
        .map(|one| {
            let zone = one.placement().unwrap().availability_zone().unwrap();
            let zone = &zone[zone.len() - 1..];
            format!("{zone} {}", one.instance_type().unwrap().as_str())
        })
        .collect();
    all.sort();
    all
}

fn launches(world: &World) -> usize {
    let all = world.wire.operations().into_iter();
    all.filter(|one| one == "RunInstances").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_launched_in_the_first_listed_place_that_has_room() {
    let cases: [(&str, [&str; 2], usize); 5] = [
        ("  []\n", ["a t3.medium", "a t3.medium"], 2),
        (
            "  - { fault: capacity, zone: '*a', type: '*', times: always }\n",
            ["b t3.medium", "b t3.medium"],
            4,
        ),
        (
            "  - { fault: capacity, zone: '*', type: t3.medium, times: always }\n",
            ["a t3.large", "a t3.large"],
            6,
        ),
        // The tester finds room where the builder did not.
        (
            "  - { fault: capacity, zone: '*', type: '*', times: 3 }\n",
            ["a t3.medium", "b t3.large"],
            5,
        ),
        // A quota is the type's.
        (
            "  - { fault: error, on: 'ec2:RunInstances', status: 400, code: VcpuLimitExceeded, message: none, times: 2 }\n",
            ["a t3.large", "a t3.medium"],
            4,
        ),
    ];
    for (faults, wanted, asked) in cases {
        let (world, plan) = placed(faults).await;
        let heard = Heard::default();
        let baked = world.bake(&plan, Cancel::never(), &heard).await;
        let baked = baked.unwrap_or_else(|error| panic!("{faults}: {error}"));
        assert_eq!(launches(&world), asked, "{faults}");
        world.wire.calm(true);
        assert_right(&world, Kind::Plain, &baked, faults).await;
        assert_eq!(places(&world).await, wanted, "{faults}");
        let heard = heard.0.lock().unwrap();
        let told = heard.iter().filter(
            |event| matches!(event, Event::Waiting { state, .. } if state.starts_with("no room: ")),
        );
        assert_eq!(told.count(), asked - 2, "{faults}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_full_everywhere_is_asked_again_for_a_quarter_of_an_hour() {
    let (world, plan) = placed("  - { fault: capacity, zone: '*', type: '*', times: 14 }\n").await;
    let baked = world.bake(&plan, Cancel::never(), &()).await.unwrap();
    world.wire.calm(true);
    assert_right(&world, Kind::Plain, &baked, "full for a while").await;
    assert_eq!(places(&world).await, ["a t3.large", "a t3.medium"]);

    let (world, plan) =
        placed("  - { fault: capacity, zone: '*', type: '*', times: always }\n").await;
    let before = world.clock.now();
    let error = world.bake(&plan, Cancel::never(), &()).await.unwrap_err();
    let waited = world.clock.now().duration_since(before).as_secs();
    assert!((900..1500).contains(&waited), "{waited}");
    assert_eq!(error.exit_code(), 5);
    let text = error.to_string();
    assert!(text.contains("InsufficientInstanceCapacity"), "{text}");
    let asked = launches(&world);
    assert!((40..200).contains(&asked), "{asked}");
    world.wire.calm(true);
    assert_eq!(world.things().await, [] as [String; 0]);
    // Of each it is known that nothing was made.
    let path = journal::runs(&world.runs()).unwrap()[0].path.clone();
    let ledger = journal::read(&path).unwrap();
    let builders = ledger.entries().filter(|one| one.kind == "builder");
    let builders: Vec<&State> = builders.map(|one| &one.state).collect();
    assert!(
        builders.len() == asked && builders.iter().all(|one| **one == State::Failed),
        "{asked}: {builders:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_listed_place_will_ever_have_is_refused_at_once() {
    let (world, plan) = placed(
        "  - { fault: error, on: 'ec2:RunInstances', status: 400, code: Unsupported, message: not in this zone, times: always }\n",
    )
    .await;
    let error = world.bake(&plan, Cancel::never(), &()).await.unwrap_err();
    assert_eq!(error.exit_code(), 6);
    assert!(error.to_string().contains("not in this zone"), "{error}");
    assert_eq!(launches(&world), 4);
    world.wire.calm(true);
    assert_eq!(world.things().await, [] as [String; 0]);
}

impl World {
    /// A bake of which EC2 takes all machines back when this fault holds a request; then that goes on.
    pub(super) async fn bake_until(&self, plan: &Plan, held: Fault) -> Result<Baked, BakeError> {
        self.wire.fail(held);
        let taken_back = async {
            loop {
                self.wire.hung.notified().await;
                self.machines.take_away();
                self.wire.fail(Fault::None);
                self.wire.arrive();
            }
        };
        tokio::select! {
            outcome = self.bake(plan, Cancel::never(), &()) => {
                self.wire.fail(Fault::None);
                outcome
            }
            () = taken_back => unreachable!("it has no end"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_ec2_takes_back_at_any_time_fails_the_bake_and_leaves_nothing() {
    let all = requests().await;
    let launched = all
        .iter()
        .position(|(_, operation)| operation == "RunInstances");
    let mut phases = BTreeSet::new();
    let mut count = 0;
    for (number, operation) in &all[launched.unwrap()..] {
        let context = format!("machines are gone before {operation} (request {number})");
        let world = World::new().await;
        let plan = world.plan(&target(&world).await).await;
        let outcome = world.bake_until(&plan, Fault::Hold(*number)).await;
        match outcome {
            // They were not needed any more.
            Ok(baked) => assert_right(&world, Kind::Plain, &baked, &context).await,
            Err(error) => {
                assert_eq!(error.left_over, [], "{context}");
                assert_eq!(error.exit_code(), 6, "{context}: {error}");
                let things = world.things().await;
                assert_eq!(things, [] as [String; 0], "{context}: {error}");
                phases.insert(error.phase.unwrap());
                count += 1;
            }
        }
    }
    for phase in [
        Phase::Provision,
        Phase::Validate,
        Phase::Seal,
        Phase::Stop,
        Phase::Test,
    ] {
        assert!(phases.contains(&phase), "{phase:?} of {phases:?}");
    }
    tell(&format!(
        "machines: taken back at {count} requests of a bake, in {} phases: nothing left",
        phases.len()
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_away_for_minutes_amid_any_command_fails_nothing() {
    // Until there are no more commands to be away after.
    for after in 1..100 {
        let context = format!("agents are away after {after} commands");
        let world = World::new().await;
        world.machines.trouble(Trouble {
            away_after: Some(after),
            away: 60,
            stuck: 0,
        });
        let plan = world.plan(&target(&world).await).await;
        let baked = world.bake(&plan, Cancel::never(), &()).await;
        let baked = baked.unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_right(&world, Kind::Plain, &baked, &context).await;
        if !world.machines.was_away() {
            assert!(after > 5, "{after}");
            return;
        }
    }
    panic!("a bake has no hundred commands");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_does_not_come_back_ends_the_bake_and_leaves_nothing() {
    for after in [2, 8] {
        let world = World::new().await;
        world.machines.trouble(Trouble {
            away_after: Some(after),
            away: u32::MAX,
            stuck: 0,
        });
        let plan = world.plan(&target(&world).await).await;
        let error = world.bake(&plan, Cancel::never(), &()).await.unwrap_err();
        assert!([6, 9].contains(&error.exit_code()), "{error}");
        assert_eq!(world.things().await, [] as [String; 0], "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_stands_still_for_half_an_hour_is_waited_for() {
    let world = World::new().await;
    let plan = world.plan(&target(&world).await).await;
    world.machines.trouble(Trouble {
        stuck: 600,
        ..Trouble::default()
    });
    let before = world.clock.now();
    let baked = world.bake(&plan, Cancel::never(), &()).await.unwrap();
    let waited = world.clock.now().duration_since(before).as_secs();
    assert!((1200..3600).contains(&waited), "{waited}");
    assert_right(&world, Kind::Plain, &baked, "a snapshot stood still").await;
}

/// A clock that is wrong.
#[derive(Debug)]
struct Wrong {
    right: SharedClock,
    seconds: i64,
}

/// A clock that is wrong by so many seconds.
pub(super) fn wrong(right: SharedClock, seconds: i64) -> SharedClock {
    Arc::new(Wrong { right, seconds })
}

impl Clock for Wrong {
    fn now(&self) -> jiff::Timestamp {
        self.right.now() + jiff::SignedDuration::from_secs(self.seconds)
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        self.right.sleep(duration)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_clock_is_wrong_bakes_and_what_it_has_is_nobodys_leftover() {
    for seconds in [-290, -60, 60, 290] {
        let context = format!("a clock that is {seconds} s wrong");
        let mut world = World::new().await;
        let right = world.clock.clone();
        world.set_wrong(seconds);
        let plan = world.plan(&target(&world).await).await;
        world.wire.fail(Fault::HoldThe("CreateTags"));
        // Somebody whose clock is right, on another host, looks for what is left over.
        let judged = async {
            world.wire.hung.notified().await;
            world.wire.fail(Fault::None);
            let found = lifecycle::survey(&world.calm, None).await.found;
            assert!(found.len() > 2, "{context}: {found:?}");
            let last = right.now() + plan.build.timeout;
            // Its lease is renewed, but not while it is held here.
            let lasts = |one: &&lifecycle::Found| one.kind != lifecycle::Kind::Lease;
            for one in found.iter().filter(lasts) {
                let verdict = lifecycle::judge(one, lifecycle::Run::Unknown, last);
                let stays = matches!(verdict, lifecycle::Verdict::Keep(_));
                assert!(stays, "{context}: {one:?}: {verdict:?}");
            }
            world.wire.arrive();
        };
        let mut bake = std::pin::pin!(world.bake(&plan, Cancel::never(), &()));
        tokio::select! {
            outcome = &mut bake => panic!("{context}: {outcome:?}"),
            () = judged => {}
        }
        let baked = bake.await;
        let baked = baked.unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_right(&world, Kind::Plain, &baked, &context).await;
    }
    // SSM believes no request that is more than five minutes old, or from the future.
    for seconds in [-600, 600] {
        let mut world = World::new().await;
        let plan = world.plan(&target(&world).await).await;
        world.set_wrong(seconds);
        let error = world.bake(&plan, Cancel::never(), &()).await.unwrap_err();
        assert_eq!(error.exit_code(), 5, "{error}");
        let text = error.to_string();
        assert!(text.contains("set the clock of this host"), "{text}");
        assert_eq!(error.left_over, [], "{text}");
        assert_eq!(world.machines.left(), [] as [String; 0], "{text}");
    }
}
