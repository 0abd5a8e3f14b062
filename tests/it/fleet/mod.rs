//! A fleet over the local cloud through the official SDK, in simulated time: jobs arrive in batches, it is rolled to new
//! images, agents, controllers and rolls die, the master restarts, answers are lost and requests throttled. No job is
//! killed, every job is run, every roll ends with its proof, no machine is left; and the same simulation finds the known
//! bugs when they are put in.

mod allowed;
mod bugs;
mod buildbot;
pub mod chance;
mod ci;
mod lives;
mod machines;
mod rolls;
mod wire;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::SharedHttpClient;
use bugs::{Bug, Buggy};
use ci::{Ci, Tally};
use jiff::{SignedDuration, Timestamp};
use machines::Machines;
use piaas_bake::aws::Clients;
use piaas_bake::clock::{Clock, JumpingClock, SharedClock, Sleep};
use piaas_bake::events::Sink;
use piaas_bake::fleet::demand::{Asked, Source};
use piaas_bake::fleet::event::{Event, Stamped};
use piaas_bake::fleet::policy::Policy;
use piaas_bake::fleet::{Brain, Controller, Core, FleetError, Shell, lease_name};
use piaas_bake::iam::{self, Place};
use piaas_bake::lease;
use piaas_bake::localcloud::engine::LocalCloud;
use piaas_bake::localcloud::faults::Faults;
use piaas_bake::localcloud::{ACCOUNT_ID, BASE_IMAGE, DEFAULT_REGION};
use rolls::Rolls;
use tokio::sync::Notify;
use wire::{Weather, Wire};

use crate::aws;
use crate::iam::Judge;

const GROUP: &str = "workers";
const MOST: i32 = 40;
const PLACE: Place<'static> = Place {
    account: ACCOUNT_ID,
    region: DEFAULT_REGION,
};

/// How to simulate.
#[derive(Debug, Clone, Copy)]
struct Plan {
    seed: u64,
    jobs: usize,
    weather: Weather,
    /// Ticks between two kills of an agent, of the controller (in requests), of the master.
    agents: i64,
    controllers: i64,
    masters: i64,
    /// Rolls to new images, evenly spread over the jobs.
    rolls: usize,
    /// Requests within which a process that rolls dies.
    roll_deaths: i64,
    /// Seconds between two ticks.
    interval: u64,
    /// Seconds within which a CI agent closes its intake.
    closes: i64,
    /// One pause between batches of jobs in so many is long enough for the fleet to go.
    lulls: i64,
    /// Workers of one launch.
    launch_most: u32,
    /// Reads of EC2 show the past.
    late: bool,
    /// Controllers and rolls have their policies, and no more.
    judged: bool,
}

impl Plan {
    fn stormy(jobs: usize) -> Self {
        Self {
            seed: seed(),
            jobs,
            weather: Weather {
                lose: 60,
                throttle: 120,
            },
            agents: 4,
            controllers: 500,
            masters: 40,
            rolls: 2,
            roll_deaths: 600,
            interval: 50,
            closes: 4,
            lulls: 25,
            launch_most: 8,
            late: false,
            judged: false,
        }
    }

    /// Everything that a bug needs to show happens often.
    fn wild(jobs: usize) -> Self {
        Self {
            weather: Weather {
                lose: 8,
                throttle: 60,
            },
            masters: 15,
            interval: 15,
            closes: 40,
            // Fleets that come and go, a few at a time: launches, cordons and ends by the hundred.
            lulls: 5,
            launch_most: 3,
            ..Self::stormy(jobs)
        }
    }
}

/// The seed of this run: the same every time, unless somebody wants another.
pub fn seed() -> u64 {
    let seed = std::env::var("PIAAS_TEST_SEED").ok();
    seed.and_then(|text| text.parse().ok())
        .unwrap_or(20_260_101)
}

/// What came of a simulation.
#[derive(Debug)]
struct Outcome {
    faults: Vec<String>,
    tally: Tally,
    lives: usize,
    lost_answers: usize,
    rolls: rolls::Tally,
    /// Of the controllers' policy: what nothing has needed.
    unneeded: BTreeSet<String>,
    /// For people: ticks, ticks that failed, calls of `LaunchInstances`, simulated time.
    note: String,
}

/// The SDK's pauses before it tries again are random: here they are all the same, so that a seed is one story.
#[derive(Debug)]
struct Steady(Arc<JumpingClock>);

impl Clock for Steady {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        let whole = duration.subsec_nanos() == 0;
        self.0.sleep(if whole {
            duration
        } else {
            Duration::from_millis(1337)
        })
    }
}

struct Asking(Arc<Mutex<Ci>>, SharedClock);

impl Source for Asking {
    fn ask(&self) -> Asked<'_> {
        let demand = self.0.lock().unwrap().demand(self.1.now());
        Box::pin(std::future::ready(demand))
    }
}

/// Keeps the newest events, for people to read when a simulation fails.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>, bool);

impl Sink<Event> for Heard {
    fn emit(&self, event: Stamped) {
        self.hear(match event.event {
            Event::Looked(view) => format!(
                "{} desired {} queued {:?} {:?}",
                event.at, view.desired, view.queued, view.counts
            ),
            other => format!("{} {other:?}", event.at),
        });
    }
}

impl Heard {
    fn hear(&self, line: String) {
        let mut heard = self.0.lock().unwrap();
        if self.1 {
            eprintln!("{line}");
        }
        heard.push(line);
        let spare = heard.len().saturating_sub(60);
        heard.drain(..spare);
    }
}

struct World {
    clock: Arc<JumpingClock>,
    ci: Arc<Mutex<Ci>>,
    driver: Arc<Machines>,
    /// What the controller talks over, and what we do.
    wire: Wire,
    clients: Clients,
    calm: Clients,
    policy: Policy,
    rolls: Rolls,
    judge: Option<Arc<Judge>>,
    /// A tick of the controller is over.
    ticked: Notify,
    _dir: tempfile::TempDir,
}

/// The wire, behind a judge if there is one.
fn behind(judge: Option<&Arc<Judge>>, wire: &Wire) -> SharedHttpClient {
    match judge {
        Some(judge) => judge.before(wire.client()),
        None => wire.client(),
    }
}

/// A directory that need not survive a power cut, where there is one.
pub fn fast_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn noon() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

impl World {
    async fn new(plan: Plan) -> Self {
        let dir = fast_dir();
        let policy = Policy {
            idle_after: SignedDuration::from_mins(3),
            boot_deadline: SignedDuration::from_mins(5),
            leak_after: SignedDuration::from_mins(10),
            launch_most: plan.launch_most,
            cordon_most: 20,
            interval: Duration::from_secs(plan.interval),
            ..Policy::default()
        };
        let clock = JumpingClock::starting_at(noon());
        let shared: SharedClock = Arc::new(Steady(clock.clone()));
        let idle_after = policy.idle_after.as_secs();
        let mut ci = Ci::new(plan.seed, (plan.jobs, plan.lulls), noon(), idle_after);
        ci.closes = plan.closes;
        let ci = Arc::new(Mutex::new(ci));
        let driver = Arc::new(Machines::new(shared.clone(), ci.clone()));
        let cloud = LocalCloud::open(dir.path(), driver.clone(), shared.clone()).unwrap();
        // One look in four shows EC2 as it was half a minute ago.
        let late = "schema: piaas-bake/faults/v1\nfaults:\n  \
                    - { fault: stale, on: 'ec2:Describe*', seconds: 30, one_in: 4, times: always }\n";
        let late = plan.late.then(|| Arc::new(Faults::parse(late).unwrap()));
        let seen = LocalCloud::open_with(dir.path(), driver.clone(), shared.clone(), late).unwrap();
        let wire = Wire::new(seen.clone(), plan.seed);
        let calm = aws::connect(Wire::new(cloud.clone(), 0).client(), shared.clone()).await;
        let judged = |policy| plan.judged.then(|| Judge::new(policy, calm.clone()));
        let judge = judged(&iam::fleet(GROUP, PLACE));
        let way = behind(judge.as_ref(), &wire);
        let clients = aws::connect(way, shared.clone()).await;
        let rolls = Rolls::new(&seen, &calm, &shared, plan).await;
        let world = Self {
            clock,
            ci,
            driver,
            wire,
            clients,
            calm,
            policy,
            rolls,
            judge,
            ticked: Notify::new(),
            _dir: dir,
        };
        world.make_group().await;
        world
    }

    async fn make_group(&self) {
        let launches = aws::launches(BASE_IMAGE);
        let template = aws::template(&self.calm, "workers", launches).await;
        let zones = ["a", "b", "c"].map(|zone| format!("{DEFAULT_REGION}{zone}"));
        aws::group(&self.calm, GROUP, &template)
            .min_size(0)
            .max_size(MOST)
            .desired_capacity(0)
            .set_availability_zones(Some(zones.to_vec()))
            .new_instances_protected_from_scale_in(true)
            .send()
            .await
            .unwrap();
        self.calm
            .autoscaling
            .suspend_processes()
            .auto_scaling_group_name(GROUP)
            .scaling_processes("AZRebalance")
            .send()
            .await
            .unwrap();
    }

    /// The agents take the protection from their drained machines.
    async fn unprotect(&self) {
        let protections = self.ci.lock().unwrap().protections();
        for (id, _) in protections.into_iter().filter(|(_, wanted)| !wanted) {
            // Whatever is not in service any more refuses, and needs none.
            let _ = self
                .calm
                .autoscaling
                .set_instance_protection()
                .auto_scaling_group_name(GROUP)
                .instance_ids(id)
                .protected_from_scale_in(false)
                .send()
                .await;
        }
    }

    async fn desired(&self) -> i32 {
        let groups = self
            .calm
            .autoscaling
            .describe_auto_scaling_groups()
            .send()
            .await;
        let groups = groups.unwrap().auto_scaling_groups.unwrap();
        groups[0].desired_capacity.unwrap()
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = self.ci.lock().unwrap().faults.clone();
        faults.extend(self.wire.state.lock().unwrap().faults.iter().cloned());
        faults.extend(self.rolls.faults());
        faults
    }

    /// Whether all jobs are run, all images rolled out and all machines gone.
    async fn is_over(&self) -> bool {
        self.ci.lock().unwrap().is_done()
            && self.rolls.are_over()
            && self.driver.scripted.live_machines().is_empty()
            && self.desired().await == 0
    }
}

#[derive(Default)]
struct Progress {
    ticks: usize,
    failed: usize,
    lives: usize,
    over: bool,
}

/// One life of a controller: from its lease to its death, or to the end of all.
async fn live(world: &World, plan: Plan, brain: &dyn Brain, sink: &Heard, progress: &mut Progress) {
    let name = lease_name(GROUP);
    let mut lease = match lease::take(&world.clients, &name, "a controller").await {
        Ok(lease) => lease,
        Err(error) => {
            eprintln!("no lease: {error}");
            return;
        }
    };
    let source = Asking(world.ci.clone(), world.clock.clone());
    let shell = Shell {
        clients: &world.clients,
        group: GROUP.into(),
        policy: world.policy.clone(),
        source: &source,
        brain,
        sink,
    };
    let mut controller = match Controller::open(shell, &lease).await {
        Ok(controller) => controller,
        Err(error) => {
            eprintln!("cannot open: {error}");
            return;
        }
    };
    loop {
        progress.ticks += 1;
        match controller.tick(&mut lease).await {
            Ok(_) => {}
            Err(FleetError::Cloud(_)) => progress.failed += 1,
            Err(FleetError::Lost(_)) => return,
            Err(error) => {
                world.ci.lock().unwrap().faults.push(error.to_string());
                return;
            }
        }
        world.unprotect().await;
        {
            let mut ci = world.ci.lock().unwrap();
            if ci.chance.one_in(plan.agents) {
                ci.kill_an_agent();
            }
            if ci.chance.one_in(plan.masters) {
                ci.restart_master();
            }
        }
        world.clock.sleep(world.policy.interval).await;
        world.ci.lock().unwrap().advance(world.clock.now());
        world.ticked.notify_one();
        if !world.faults().is_empty() || world.is_over().await {
            progress.over = true;
            return;
        }
    }
}

/// Controllers, one after the other, to the end of all.
async fn run(world: &World, plan: Plan, brain: &dyn Brain, heard: &Heard, progress: &mut Progress) {
    let limit = noon() + SignedDuration::from_hours(72);
    while !progress.over && world.clock.now() < limit {
        let after = world.ci.lock().unwrap().chance.below(plan.controllers);
        let after = usize::try_from(after).unwrap();
        world.wire.state.lock().unwrap().hang_in = Some(after);
        progress.lives += 1;
        // The process dies at a request that hangs: everything it knew is dropped.
        tokio::select! {
            biased;
            () = live(world, plan, brain, heard, progress) => {}
            () = world.wire.hung.notified() => {}
        }
        world.wire.state.lock().unwrap().hang_in = None;
    }
}

async fn simulate(plan: Plan, bug: Option<Bug>) -> Outcome {
    let world = World::new(plan).await;
    let buggy = bug.map(Buggy::new);
    let brain: &dyn Brain = match &buggy {
        Some(buggy) => buggy,
        None => &Core,
    };
    let heard = Heard(
        Mutex::default(),
        std::env::var_os("PIAAS_TEST_TRACE").is_some(),
    );
    let mut progress = Progress::default();
    world.wire.state.lock().unwrap().weather = plan.weather;
    let rolls = async {
        rolls::run(&world, plan, &heard).await;
        // The fleet goes on after the last one.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // In the same order each time, here and below: a seed is one story.
        biased;
        () = run(&world, plan, brain, &heard, &mut progress) => {}
        () = rolls => {}
    }
    let mut faults = world.faults();
    if !progress.over {
        let done = world.ci.lock().unwrap().tally.done;
        let rolls = world.rolls.tally.lock().unwrap();
        faults.push(format!(
            "not over after 72 hours: {done} jobs are done, {rolls:?}"
        ));
    }
    if !faults.is_empty() && bug.is_none() {
        for line in heard.0.lock().unwrap().iter() {
            eprintln!("{line}");
        }
    }
    let state = world.wire.state.lock().unwrap();
    let tally = world.ci.lock().unwrap().tally.clone();
    Outcome {
        faults,
        tally,
        lives: progress.lives,
        lost_answers: state.lost + world.rolls.lost_answers(),
        rolls: world.rolls.tally.lock().unwrap().clone(),
        unneeded: world
            .judge
            .as_ref()
            .map(|judge| judge.unused())
            .unwrap_or_default(),
        note: format!(
            "{} ticks, {} failed, {:?} launches, {:#}",
            progress.ticks,
            progress.failed,
            state.counts.get("LaunchInstances"),
            world.clock.now().duration_since(noon()),
        ),
    }
}

#[tokio::test]
async fn ten_thousand_jobs_are_run_none_is_killed_and_no_machine_is_left() {
    let plan = Plan::stormy(10_000);
    eprintln!("seed {} (PIAAS_TEST_SEED)", plan.seed);
    let outcome = simulate(plan, None).await;
    eprintln!("{}: {:?} {:?}", outcome.note, outcome.tally, outcome.rolls);
    assert_eq!(outcome.faults, Vec::<String>::new(), "seed {}", plan.seed);
    assert_eq!(outcome.tally.done, 10_000);
    // A refresh launches before it terminates: the group has more than its maximum for a while. The canary is outside.
    let most = MOST.unsigned_abs() * rolls::MAX_HEALTHY / 100 + 1;
    let most = usize::try_from(most).unwrap();
    assert!(outcome.tally.most_machines <= most, "{outcome:?}");
    // The storm was one: each thing that is survived has happened.
    assert!(outcome.tally.most_machines > 20, "{outcome:?}");
    assert!(outcome.lives > 5, "{outcome:?}");
    assert!(outcome.lost_answers > 20, "{outcome:?}");
    assert!(outcome.tally.agent_kills > 20, "{outcome:?}");
    assert!(outcome.tally.master_restarts > 2, "{outcome:?}");
    assert_eq!(outcome.rolls.rolled_out, plan.rolls, "{outcome:?}");
    assert!(outcome.rolls.deaths > 2, "{outcome:?}");
    assert_eq!(outcome.tally.drained, outcome.tally.launched, "{outcome:?}");
}

#[tokio::test]
async fn reads_that_are_late_kill_no_job_and_leave_no_machine() {
    let plan = Plan {
        late: true,
        ..Plan::stormy(1_000)
    };
    let outcome = simulate(plan, None).await;
    eprintln!("{}: {:?} {:?}", outcome.note, outcome.tally, outcome.rolls);
    assert_eq!(outcome.faults, Vec::<String>::new(), "seed {}", plan.seed);
    assert_eq!(outcome.tally.done, 1_000);
    assert_eq!(outcome.rolls.rolled_out, plan.rolls, "{outcome:?}");
    assert_eq!(outcome.tally.drained, outcome.tally.launched, "{outcome:?}");
}

/// The storm that the bugs are found in: without them it finds nothing.
#[tokio::test]
async fn the_wildest_storm_finds_no_fault_without_a_bug() {
    let outcome = simulate(Plan::wild(300), None).await;
    eprintln!("{}: {:?} {:?}", outcome.note, outcome.tally, outcome.rolls);
    assert_eq!(outcome.faults, Vec::<String>::new());
    assert_eq!(outcome.tally.done, 300);
}

/// Each known bug, put in where the decision is made, is found.
async fn is_found(bug: Bug, words: &str) {
    let plan = Plan::wild(3_000);
    let outcome = simulate(plan, Some(bug)).await;
    let found = outcome.faults.iter().any(|fault| fault.contains(words));
    assert!(found, "seed {}: {outcome:?}", plan.seed);
}

#[tokio::test]
async fn unknown_treated_as_idle_is_found() {
    is_found(Bug::UnknownIsIdle, "was unknown").await;
}

#[tokio::test]
async fn no_second_look_after_the_cordon_is_found() {
    is_found(Bug::NoSecondLook, "was not drained").await;
}

#[tokio::test]
async fn a_decrement_done_twice_is_found() {
    is_found(Bug::DecrementTwice, "asked for twice").await;
}

#[tokio::test]
async fn a_worker_missing_from_the_list_treated_as_idle_is_found() {
    is_found(Bug::MissingIsIdle, "did not list it").await;
}

#[tokio::test]
async fn a_lost_launch_repeated_without_its_token_is_found() {
    is_found(Bug::NewToken, "is not answered").await;
}
