//! Bakes on bad days: faults of all kinds in random order, each day by its seed. Whatever comes, there is one right image or
//! none, and nothing else; and what is to be waited for or asked again never ends a bake.
//!
//! `PIAAS_TEST_DAYS` says how many (`make soak`), `PIAAS_TEST_SEED` which is the first.

use std::fmt::Write as _;

use super::cloud::Trouble;
use super::resumed::target;
use super::*;
use crate::fleet::chance::Chance;
use crate::fleet::seed;
use crate::support::{machines_wanted, tell};

/// Days in `make test`, and where nobody asks for all.
const DAYS: u64 = 1000;
const FEW: u64 = 60;

/// After so many days that went wrong no further ones are begun.
const ENOUGH: usize = 10;

/// What machines may be besides what they are in every world; it comes first.
const FIRST_TYPE: &str = "t3.large";

/// The SDK asks sixteen times, and what hits one request adds up.
const REFUSALS: i64 = 12;

/// Nothing is installed on these days, and to list what this host has takes a sixth of each.
const DPKG_QUERY: &str = "#!/bin/sh\necho 'ii base 1'\n";

/// What a bake asks for.
const OPERATIONS: [&str; 22] = [
    "*",
    "ec2:*",
    "ssm:*",
    "ec2:Describe*",
    "ec2:CreateSecurityGroup",
    "ec2:RunInstances",
    "ec2:DescribeInstances",
    "ec2:StopInstances",
    "ec2:CreateImage",
    "ec2:DescribeImages",
    "ec2:DescribeSnapshots",
    "ec2:CreateTags",
    "ec2:TerminateInstances",
    "ec2:DeleteSecurityGroup",
    "ec2:DeregisterImage",
    "ec2:DeleteSnapshot",
    "ssm:DescribeInstanceInformation",
    "ssm:SendCommand",
    "ssm:GetCommandInvocation",
    "ssm:GetParameter*",
    "ssm:PutParameter",
    "ssm:DeleteParameter",
];

/// A day: its script, and whether a bake has to come through it.
struct Day {
    script: String,
    is_harmless: bool,
    /// What becomes of machines and snapshots.
    trouble: Trouble,
    /// EC2 takes all machines back at the request with this number.
    taken: Option<usize>,
    /// By how many seconds the clock of this host is wrong.
    wrong: i64,
}

/// What happens on the day with this seed.
fn day(seed: u64) -> Day {
    let mut chance = Chance::new(seed);
    let mut script = format!("schema: piaas-bake/faults/v1\nseed: {seed}\nfaults:\n");
    let mut is_harmless = true;
    let mut refusals = REFUSALS;
    let mut trouble = Trouble::default();
    let mut taken = None;
    let mut wrong = 0;
    for _ in 0..=chance.below(4) {
        let on = *chance.pick(&OPERATIONS).unwrap();
        let after = chance.below(30);
        let few = 1 + chance.below(3);
        let rule = match chance.below(20) {
            0 => {
                // Of sixteen attempts in a row hardly all fail, unless something else adds to it.
                is_harmless &= refusals == REFUSALS;
                refusals = 0;
                let one_in = 3 + chance.below(6);
                format!("fault: throttle, on: '{on}', one_in: {one_in}, times: always")
            }
            1 | 2 => {
                let burst = (1 + chance.below(8)).min(refusals);
                refusals -= burst;
                format!("fault: throttle, on: '{on}', after: {after}, times: {burst}")
            }
            3 => {
                let count = few.min(refusals);
                refusals -= count;
                let status = *chance.pick(&[500, 503]).unwrap();
                format!(
                    "fault: error, on: '{on}', status: {status}, after: {after}, times: {count}"
                )
            }
            kind @ 4..=6 => {
                let name =
                    ["drop-request", "drop-reply", "reset"][usize::try_from(kind - 4).unwrap()];
                let count = few.min(refusals);
                refusals -= count;
                format!("fault: {name}, on: '{on}', after: {after}, times: {count}")
            }
            7 => format!("fault: duplicate, on: '{on}', after: {after}, times: {few}"),
            8 => format!(
                "fault: slow, on: '{on}', seconds: {}, after: {after}, times: {few}",
                1 + chance.below(5)
            ),
            9 => {
                let seconds = 1 + chance.below(60);
                format!(
                    "fault: stale, on: '{on}', seconds: {seconds}, after: {after}, times: {few}"
                )
            }
            10 => {
                is_harmless = false;
                let code = *chance
                    .pick(&["UnauthorizedOperation", "ExpiredToken", "RequestExpired"])
                    .unwrap();
                format!(
                    "fault: error, on: '{on}', status: 403, code: {code}, message: refused, after: {after}, times: always"
                )
            }
            11 => {
                is_harmless = false;
                let times = *chance.pick(&["3", "always"]).unwrap();
                format!("fault: capacity, zone: '*', type: '*', times: {times}")
            }
            // Another type has room.
            13 | 14 => {
                let times = *chance.pick(&["1", "2", "always"]).unwrap();
                format!("fault: capacity, zone: '*', type: {FIRST_TYPE}, times: {times}")
            }
            15 => {
                trouble.away_after = Some(1 + to_usize(chance.below(20)));
                trouble.away = 1 + u32::try_from(chance.below(60)).unwrap();
                continue;
            }
            16 => {
                trouble.stuck = u32::try_from(chance.below(200)).unwrap();
                continue;
            }
            17 => {
                is_harmless = false;
                taken = Some(to_usize(chance.below(90)));
                continue;
            }
            18 => {
                wrong = chance.below(580) - 290;
                continue;
            }
            12 => {
                is_harmless = false;
                "fault: launch-failure, reason: the host died".to_owned()
            }
            _ => {
                is_harmless = false;
                "fault: no-agent".to_owned()
            }
        };
        if !rule.ends_with("times: 0") {
            let _infallible = writeln!(script, "  - {{ {rule} }}");
        }
    }
    if script.ends_with("faults:\n") {
        script.push_str("  []\n");
    }
    Day {
        script,
        is_harmless,
        trouble,
        taken,
        wrong,
    }
}

fn to_usize(number: i64) -> usize {
    usize::try_from(number).unwrap()
}

/// How a day ended.
#[derive(Debug)]
enum End {
    Baked,
    /// Its image is finished, and its pointer was refused.
    Finished,
    Failed,
}

/// How days ended that were lived through.
#[derive(Default)]
struct Lived {
    baked: u64,
    finished: u64,
    failed: u64,
    /// Seeds of those on which something was not as it has to be.
    wrong: Vec<u64>,
}

impl Lived {
    fn days(&self) -> u64 {
        self.baked + self.finished + self.failed + self.wrong.len() as u64
    }
}

async fn live_through(seed: u64) -> End {
    let Day {
        script,
        is_harmless,
        trouble,
        taken,
        wrong,
    } = day(seed);
    let faults = Arc::new(Faults::parse(&script).unwrap_or_else(|error| panic!("{script}{error}")));
    let mut world = World::with(faults).await;
    world.types.insert(0, FIRST_TYPE.into());
    world.machines.provide("dpkg-query", DPKG_QUERY);
    world.set_wrong(wrong);
    // The day begins with the bake.
    world.wire.calm(true);
    let plan = world.plan(&target(&world).await).await;
    world.wire.calm(false);
    let more = format!("{trouble:?}, taken back at {taken:?}, clock wrong by {wrong} s");
    world.machines.trouble(trouble);
    let held = taken.map_or(Fault::None, Fault::Hold);
    let outcome = world.bake_until(&plan, held).await;
    world.wire.calm(true);
    world.machines.trouble(Trouble::default());
    let context = format!("day {seed}: {outcome:?}\n{script}{more}");
    let dead = world.undo_dead_runs().await;
    assert!(
        dead.iter().all(|run| run.left_over.is_empty()),
        "{dead:?}\n{context}"
    );
    assert_all_or_nothing(&world, &context).await;
    assert_eq!(world.run_states(), [RunState::Finished], "{context}");
    let images = images::list(&world.clients, None).await.unwrap();
    match outcome {
        Ok(baked) => {
            let [image] = images.as_slice() else {
                panic!("{images:?}\n{context}");
            };
            assert!(image.is_ready() && image.id == baked.image, "{context}");
            let ran = world.machines.texts("ran");
            assert_eq!(ran, ["base/step-001\nworker/step-001\n"], "{context}");
            End::Baked
        }
        Err(error) => {
            assert!(!is_harmless, "this ends no bake\n{context}");
            assert!([5, 6, 7, 9].contains(&error.exit_code()), "{context}");
            let Some(finished) = error.finished else {
                assert_eq!(images, [], "{context}");
                return End::Failed;
            };
            // Only its pointer comes after that.
            assert_eq!(error.phase, Some(Phase::Publish), "{context}");
            match world.decide(&target(&world).await).await.unwrap() {
                Decision::AlreadyBaked(image) => assert_eq!(image.id, finished, "{context}"),
                Decision::Bake(_) => panic!("{finished} is not taken\n{context}"),
            }
            End::Finished
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_any_day_there_is_one_right_image_or_none_and_nothing_else() {
    let days = std::env::var("PIAAS_TEST_DAYS").ok();
    let days = days.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        if machines_wanted("most of a thousand bakes on bad days") {
            DAYS
        } else {
            FEW
        }
    });
    let first = seed();
    let next = Arc::new(Mutex::new(first..first + days));
    let started = std::time::Instant::now();
    let lived: Arc<Mutex<Lived>> = Arc::default();
    let lives = (0..4).map(|_| {
        let (next, lived) = (next.clone(), lived.clone());
        tokio::spawn(async move {
            // What is wrong on one day is said by then, and no reason not to look at the others.
            while lived.lock().unwrap().wrong.len() < ENOUGH {
                let Some(seed) = next.lock().unwrap().next() else {
                    return;
                };
                let end = tokio::spawn(live_through(seed)).await;
                let mut lived = lived.lock().unwrap();
                match end {
                    Ok(End::Baked) => lived.baked += 1,
                    Ok(End::Finished) => lived.finished += 1,
                    Ok(End::Failed) => lived.failed += 1,
                    Err(_) => lived.wrong.push(seed),
                }
                let count = lived.days();
                if count % DAYS == 0 && count < days {
                    let took = started.elapsed().as_secs();
                    tell(&format!(
                        "days: {count} of {days}, seeds from {first}, lived through ({took} s)"
                    ));
                }
            }
        })
    });
    for life in lives.collect::<Vec<_>>() {
        life.await.unwrap();
    }
    let lived = lived.lock().unwrap();
    let wrong = &lived.wrong;
    assert!(wrong.is_empty(), "these days went wrong: {wrong:?}");
    let baked = lived.baked;
    tell(&format!(
        "days: {days} bakes on bad ones, seeds from {first}: {baked} images, {} that no channel names, {} ended without \
         one, nothing left ({} s)",
        lived.finished,
        lived.failed,
        started.elapsed().as_secs()
    ));
    assert_eq!(lived.days(), days);
    assert!(days < FEW || (baked > days / 4 && baked < days), "{baked}");
}
