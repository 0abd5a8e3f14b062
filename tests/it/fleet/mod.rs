//! A fleet over the local cloud through the official SDK, in simulated time: jobs arrive in batches, agents and
//! controllers die, the master restarts, answers are lost and requests throttled. No job is killed, every job is run, no
//! machine is left; and the same simulation finds the known bugs when they are put in.

mod bugs;
mod buildbot;
mod chance;
mod ci;
mod lives;
mod machines;
mod wire;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_autoscaling::types::{
    DesiredConfiguration, LaunchTemplateSpecification, RefreshPreferences,
    ScaleInProtectedInstances,
};
use aws_sdk_ec2::types::RequestLaunchTemplateData;
use bugs::{Bug, Buggy};
use ci::{Ci, Tally};
use jiff::{SignedDuration, Timestamp};
use machines::Machines;
use piaas_bake::aws::{Clients, Connection};
use piaas_bake::clock::{Clock, JumpingClock, SharedClock, Sleep};
use piaas_bake::events::Sink;
use piaas_bake::fleet::demand::{Asked, Source};
use piaas_bake::fleet::event::{Event, Stamped};
use piaas_bake::fleet::policy::Policy;
use piaas_bake::fleet::{Brain, Controller, Core, FleetError, Shell, lease_name};
use piaas_bake::lease;
use piaas_bake::localcloud::engine::LocalCloud;
use piaas_bake::localcloud::{ACCESS_KEY, BASE_IMAGE, DEFAULT_REGION, SECRET_KEY};
use wire::{Weather, Wire};

const GROUP: &str = "workers";
const MOST: i32 = 40;

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
    /// Refreshes to new versions, evenly spread over the jobs.
    rolls: usize,
    /// Seconds between two ticks.
    interval: u64,
    /// Seconds within which a CI agent closes its intake.
    closes: i64,
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
            interval: 50,
            closes: 4,
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
            ..Self::stormy(jobs)
        }
    }
}

/// The seed of this run: the same every time, unless somebody wants another.
fn seed() -> u64 {
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
    /// Refreshes that succeeded.
    rolls: usize,
    /// For people: ticks, ticks that failed, calls of `LaunchInstances`, refreshes started, simulated time.
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
        let mut heard = self.0.lock().unwrap();
        let line = match event.event {
            Event::Looked(view) => format!(
                "{} desired {} queued {:?} {:?}",
                event.at, view.desired, view.queued, view.counts
            ),
            other => format!("{} {other:?}", event.at),
        };
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
    _dir: tempfile::TempDir,
}

async fn connect(wire: &Wire, clock: SharedClock) -> Clients {
    let connection = Connection::Local {
        http_client: wire.client(),
        region: DEFAULT_REGION.into(),
        access_key: ACCESS_KEY,
        secret_key: SECRET_KEY,
    };
    Clients::connect(connection, clock).await.unwrap()
}

/// A directory that need not survive a power cut, where there is one.
fn fast_dir() -> tempfile::TempDir {
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
            launch_most: 8,
            cordon_most: 20,
            interval: Duration::from_secs(plan.interval),
            ..Policy::default()
        };
        let clock = JumpingClock::starting_at(noon());
        let shared: SharedClock = Arc::new(Steady(clock.clone()));
        let idle_after = policy.idle_after.as_secs();
        let mut ci = Ci::new(plan.seed, plan.jobs, noon(), idle_after);
        ci.closes = plan.closes;
        let ci = Arc::new(Mutex::new(ci));
        let driver = Arc::new(Machines::new(shared.clone(), ci.clone()));
        let cloud = LocalCloud::open(dir.path(), driver.clone(), shared.clone()).unwrap();
        let wire = Wire::new(cloud.clone(), plan.seed);
        let clients = connect(&wire, shared.clone()).await;
        let calm = connect(&Wire::new(cloud, 0), shared).await;
        let world = Self {
            clock,
            ci,
            driver,
            wire,
            clients,
            calm,
            policy,
            _dir: dir,
        };
        world.make_group().await;
        world
    }

    async fn make_group(&self) {
        let data = RequestLaunchTemplateData::builder()
            .image_id(BASE_IMAGE)
            .instance_type("t3.micro".into())
            .build();
        let template = self
            .calm
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
        let specification = LaunchTemplateSpecification::builder()
            .launch_template_id(id)
            .version("1")
            .build();
        let zones = ["a", "b", "c"].map(|zone| format!("{DEFAULT_REGION}{zone}"));
        self.calm
            .autoscaling
            .create_auto_scaling_group()
            .auto_scaling_group_name(GROUP)
            .launch_template(specification)
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

    /// Begins a refresh to this version of the template, which is made if it is not there.
    async fn refresh(&self, version: usize) {
        let description = format!("roll {version}");
        self.calm
            .ec2
            .create_launch_template_version()
            .launch_template_name("workers")
            .client_token(&description)
            .source_version("1")
            .version_description(description)
            .launch_template_data(RequestLaunchTemplateData::builder().build())
            .send()
            .await
            .unwrap();
        let specification = LaunchTemplateSpecification::builder()
            .launch_template_name("workers")
            .version(version.to_string())
            .build();
        let desired = DesiredConfiguration::builder()
            .launch_template(specification)
            .build();
        let preferences = RefreshPreferences::builder()
            .min_healthy_percentage(100)
            .max_healthy_percentage(120)
            .instance_warmup(60)
            .skip_matching(true)
            .scale_in_protected_instances(ScaleInProtectedInstances::Wait)
            .build();
        self.calm
            .autoscaling
            .start_instance_refresh()
            .auto_scaling_group_name(GROUP)
            .desired_configuration(desired)
            .preferences(preferences)
            .send()
            .await
            .unwrap();
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
        faults
    }

    /// Whether all jobs are run and all machines gone.
    async fn is_over(&self) -> bool {
        self.ci.lock().unwrap().is_done()
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
    rolls: Rolls,
}

/// Rolls as Auto Scaling carries them out: each is begun once enough jobs are done, and anew as long as it fails.
#[derive(Default)]
struct Rolls {
    started: usize,
    succeeded: usize,
    under_way: bool,
}

impl Rolls {
    async fn go_on(&mut self, world: &World, plan: Plan) {
        if self.under_way {
            let answer = world
                .calm
                .autoscaling
                .describe_instance_refreshes()
                .auto_scaling_group_name(GROUP)
                .max_records(1)
                .send()
                .await
                .unwrap();
            let newest = answer.instance_refreshes().first().unwrap();
            let status = newest.status().unwrap().as_str();
            match status {
                "Successful" => self.succeeded += 1,
                "Failed" | "Cancelled" => {}
                _ => return,
            }
            self.under_way = false;
        }
        let done = world.ci.lock().unwrap().tally.done;
        let due = (self.succeeded + 1) * plan.jobs / (plan.rolls + 1);
        if self.succeeded < plan.rolls && done >= due {
            world.refresh(self.succeeded + 2).await;
            self.started += 1;
            self.under_way = true;
        }
    }
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
        progress.rolls.go_on(world, plan).await;
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
        if !world.faults().is_empty() || world.is_over().await {
            progress.over = true;
            return;
        }
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
    let limit = noon() + SignedDuration::from_hours(72);
    while !progress.over && world.clock.now() < limit {
        let after = world.ci.lock().unwrap().chance.below(plan.controllers);
        let after = usize::try_from(after).unwrap();
        world.wire.state.lock().unwrap().hang_in = Some(after);
        progress.lives += 1;
        // The process dies at a request that hangs: everything it knew is dropped.
        tokio::select! {
            () = live(&world, plan, brain, &heard, &mut progress) => {}
            () = world.wire.hung.notified() => {}
        }
        world.wire.state.lock().unwrap().hang_in = None;
    }
    let mut faults = world.faults();
    if !progress.over {
        let done = world.ci.lock().unwrap().tally.done;
        faults.push(format!("not over after 72 hours: {done} jobs are done"));
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
        lost_answers: state.lost,
        rolls: progress.rolls.succeeded,
        note: format!(
            "{} ticks, {} failed, {:?} launches, {} refreshes, {:#}",
            progress.ticks,
            progress.failed,
            state.counts.get("LaunchInstances"),
            progress.rolls.started,
            world.clock.now().duration_since(noon()),
        ),
    }
}

#[tokio::test]
async fn ten_thousand_jobs_are_run_none_is_killed_and_no_machine_is_left() {
    let plan = Plan::stormy(10_000);
    eprintln!("seed {} (PIAAS_TEST_SEED)", plan.seed);
    let outcome = simulate(plan, None).await;
    eprintln!("{}: {:?}", outcome.note, outcome.tally);
    assert_eq!(outcome.faults, Vec::<String>::new(), "seed {}", plan.seed);
    assert_eq!(outcome.tally.done, 10_000);
    // The storm was one: each thing that is survived has happened.
    // A refresh launches before it terminates: the group has more than its maximum for a while.
    assert!(outcome.tally.most_machines <= 60, "{outcome:?}");
    assert!(outcome.tally.most_machines > 20, "{outcome:?}");
    assert!(outcome.lives > 5, "{outcome:?}");
    assert!(outcome.lost_answers > 20, "{outcome:?}");
    assert!(outcome.tally.agent_kills > 20, "{outcome:?}");
    assert!(outcome.tally.master_restarts > 2, "{outcome:?}");
    assert_eq!(outcome.rolls, 2, "{outcome:?}");
    assert_eq!(outcome.tally.drained, outcome.tally.launched, "{outcome:?}");
}

/// The storm that the bugs are found in: without them it finds nothing.
#[tokio::test]
async fn the_wildest_storm_finds_no_fault_without_a_bug() {
    let outcome = simulate(Plan::wild(600), None).await;
    eprintln!("{}: {:?}", outcome.note, outcome.tally);
    assert_eq!(outcome.faults, Vec::<String>::new());
    assert_eq!(outcome.tally.done, 600);
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
