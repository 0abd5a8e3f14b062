//! The whole bake on a local cloud whose machines are directories, in no time on a clock that jumps; and everything
//! that can go wrong with it.

mod allowed;
mod bench;
mod bundles;
mod calls;
pub mod cloud;
mod full_disk;
mod kept;
mod layers;
mod lost;
mod noted;
mod raced;
mod resumed;
mod sealed;
mod secrets;
mod steps;
mod storm;
mod trouble;
mod twins;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloud::{Directories, Fault, Wire};
use piaas_bake::aws::Clients;
use piaas_bake::bake::event::{Event, Phase, Stamped};
use piaas_bake::bake::names::{BundleStore, Channel, RunId};
use piaas_bake::bake::plan::{Decision, LayerPlan, Plan, PlanError, Target, plan};
use piaas_bake::bake::{
    self, BakeError, Baked, Cancel, DeadRun, DiskTree, Disks, Failure, Settings, cancel_pair,
    images, survey,
};
use piaas_bake::clock::{JumpingClock, SharedClock};
use piaas_bake::events::Sink;
use piaas_bake::image::tree::TreeManifest;
use piaas_bake::journal::{self, RunState};
use piaas_bake::localcloud::driver::Driver;
use piaas_bake::localcloud::engine::LocalCloud;
use piaas_bake::localcloud::faults::Faults;
use piaas_bake::localcloud::{ACCOUNT_ID, BASE_PARAMETER, connector};
use piaas_bake::recipe::model::{BaseRef, BuildSpec, ImageSpec};
use piaas_bake::render::script::{Layer, Script};

use crate::aws;
use crate::fleet::fast_dir;

/// A cloud, its wire, its clock, and a directory of runs.
struct World {
    clients: Clients,
    /// Of whoever judges, over a wire without faults.
    calm: Clients,
    wire: Wire,
    machines: Arc<Directories>,
    clock: SharedClock,
    dir: tempfile::TempDir,
    runs: Mutex<u32>,
    keep: Mutex<bool>,
    layers: Mutex<Option<Duration>>,
    bundles: Option<BundleStore>,
    /// What machines may be, in order.
    types: Vec<String>,
    /// What is on every finished disk, if disks can be read here.
    tree: Option<TreeManifest>,
    looks: Mutex<u32>,
    /// Its cloud is on loopback as long as this is here.
    served: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Disks for World {
    fn tree(&self, _: &images::Image) -> Result<DiskTree, String> {
        let Some(tree) = &self.tree else {
            return Ok(DiskTree::Elsewhere);
        };
        // As if it were written meanwhile.
        let mut looks = self.looks.lock().unwrap();
        *looks += 1;
        Ok(match *looks % 2 {
            1 => DiskTree::NotYet,
            _ => DiskTree::Here(tree.clone()),
        })
    }
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
    async fn new() -> Self {
        let clock = JumpingClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
        Self::on(clock, None, |machines, _| machines).await
    }

    async fn with(faults: Arc<Faults>) -> Self {
        let clock = JumpingClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
        Self::on(clock, Some(faults), |machines, _| machines).await
    }

    /// A world on a clock, its machines behind what `outside` puts before them.
    async fn on<D: Driver + 'static>(
        clock: SharedClock,
        faults: Option<Arc<Faults>>,
        outside: impl FnOnce(Arc<Directories>, SharedClock) -> Arc<D>,
    ) -> Self {
        let dir = fast_dir();
        let machines = Arc::new(Directories::new(&dir.path().join("machines")));
        let driver = outside(machines.clone(), clock.clone());
        let directory = dir.path().join("cloud");
        let calm = LocalCloud::open(&directory, driver.clone(), clock.clone()).unwrap();
        // Two that are open look at each other's changes, which takes its time.
        let cloud = match faults {
            None => calm.clone(),
            faults => LocalCloud::open_with(&directory, driver, clock.clone(), faults).unwrap(),
        };
        let calm = aws::connect(connector(calm), clock.clone()).await;
        let wire = Wire::new(cloud);
        let clients = aws::connect(wire.client(), clock.clone()).await;
        Self {
            clients,
            calm,
            wire,
            machines,
            clock,
            dir,
            runs: Mutex::new(0),
            keep: Mutex::new(false),
            layers: Mutex::new(None),
            bundles: None,
            types: vec!["t3.medium".into()],
            tree: None,
            looks: Mutex::default(),
            served: None,
        }
    }

    /// From now on the clock of this host is wrong by so many seconds; that of the cloud is right.
    fn set_wrong(&mut self, seconds: i64) {
        self.clock = trouble::wrong(self.clock.clone(), seconds);
        self.clients.clock = self.clock.clone();
    }

    fn runs(&self) -> std::path::PathBuf {
        self.dir.path().join("runs")
    }

    async fn target(&self) -> Target {
        let base = BaseRef::Ssm {
            parameter: BASE_PARAMETER.into(),
        };
        let base = bake::resolve(&self.clients, &base, "x86_64").await.unwrap();
        Target {
            description: "A test.".into(),
            base,
            layers: vec![layer("base", 'a'), layer("worker", 'b')],
            image: ImageSpec {
                size_gib: 8,
                filesystem: "ext4".into(),
                architecture: "x86_64".into(),
                boot_mode: "uefi".into(),
            },
            build: BuildSpec {
                instance_types: self.types.clone(),
                subnets: Vec::new(),
                security_groups: vec![],
                instance_profile: None,
                timeout: Duration::from_secs(3600),
                max_age: Duration::from_secs(14 * 24 * 3600),
            },
            force: false,
            channel: Channel::Latest,
            by_step: true,
        }
    }

    async fn decide(&self, target: &Target) -> Result<Decision, PlanError> {
        let survey = survey(&self.clients, target, &self.runs()).await.unwrap();
        plan(target, &survey, self.clock.now())
    }

    async fn plan(&self, target: &Target) -> Plan {
        match self.decide(target).await.unwrap() {
            Decision::Bake(plan) => *plan,
            Decision::AlreadyBaked(image) => panic!("already baked: {}", image.id),
        }
    }

    async fn bake(
        &self,
        plan: &Plan,
        cancel: Cancel,
        sink: &dyn Sink<Event>,
    ) -> Result<Baked, BakeError> {
        let run = {
            let mut runs = self.runs.lock().unwrap();
            *runs += 1;
            RunId::new(self.clock.now(), *runs)
        };
        let runs = self.runs();
        let settings = Settings {
            runs: &runs,
            keep_on_failure: *self.keep.lock().unwrap(),
            account: ACCOUNT_ID.into(),
            run,
            bundles: self.bundles.clone(),
            cancel,
            layers: *self.layers.lock().unwrap(),
            disks: Some(self),
        };
        let clients = self.allowed(&self.policy(plan)).await;
        bake::bake(&clients, plan, settings, sink).await
    }

    /// Cleans up once. A process that another test starts at this moment has our open files until it becomes the
    /// program that it runs, and with them the lock of a run that is over: then there is nothing to clean up yet.
    async fn undo_dead_runs(&self) -> Vec<DeadRun> {
        let patience = std::time::Instant::now() + Duration::from_secs(30);
        let clients = self.cleaner().await;
        loop {
            let dead = bake::undo_dead_runs(&clients, ACCOUNT_ID, &self.runs(), &())
                .await
                .unwrap();
            let held = self
                .run_states()
                .iter()
                .any(|state| *state != RunState::Finished);
            if !dead.is_empty() || !held {
                return dead;
            }
            assert!(std::time::Instant::now() < patience, "a run is still held");
        }
    }

    /// Everything that exists and that a bake could have made.
    async fn things(&self) -> Vec<String> {
        let mut things = self.machines.left();
        let clients = &self.clients;
        things.extend(
            images::list(clients, None)
                .await
                .unwrap()
                .into_iter()
                .map(|image| image.id),
        );
        let answer = clients
            .ec2
            .describe_snapshots()
            .owner_ids("self")
            .send()
            .await
            .unwrap();
        let snapshots: Vec<String> = answer
            .snapshots()
            .iter()
            .map(|one| one.snapshot_id().unwrap().to_owned())
            .collect();
        assert_eq!(self.machines.snapshots_left(), snapshots);
        things.extend(snapshots);
        let groups = clients.ec2.describe_security_groups().send().await.unwrap();
        let names = groups
            .security_groups()
            .iter()
            .map(|group| group.group_name().unwrap().to_owned());
        things.extend(names.filter(|name| name.starts_with("piaas-bake")));
        for digest in ['a', 'b'] {
            if images::manifest(clients, &digest.to_string().repeat(64))
                .await
                .unwrap()
                .is_some()
            {
                things.push(format!("manifest {digest}"));
            }
        }
        for recipe in ["base", "worker"] {
            let name = Channel::Latest.parameter(recipe);
            if clients.ssm.get_parameter().name(name).send().await.is_ok() {
                things.push(format!("latest {recipe}"));
            }
        }
        let leases = clients.ssm.get_parameters_by_path();
        let leases = leases.path("/piaas-bake/leases").recursive(true);
        let leases = leases.send().await.unwrap();
        let names = leases.parameters().iter().map(|one| one.name().unwrap());
        things.extend(names.map(str::to_owned));
        things
    }

    fn run_states(&self) -> Vec<RunState> {
        journal::runs(&self.runs())
            .unwrap()
            .into_iter()
            .map(|run| run.state)
            .collect()
    }
}

fn script(id: &str, text: &str) -> Script {
    Script {
        id: id.into(),
        title: format!("do {id}"),
        text: text.into(),
        env: BTreeMap::new(),
        timeout: Duration::from_secs(60),
        retries: 0,
        reboot: false,
    }
}

fn layer(recipe: &str, digest: char) -> LayerPlan {
    let version = semver::Version::new(1, 0, 0);
    LayerPlan {
        recipe: recipe.into(),
        version: version.clone(),
        digest: digest.to_string().repeat(64),
        manifest_json: format!("{{\"recipe\":\"{recipe}\"}}"),
        layer: Layer {
            labels: BTreeMap::from([("team".into(), "ci".into())]),
            provision: vec![script(
                &format!("{recipe}/step-001"),
                &format!("echo building {recipe}\necho {recipe} >\"$MACHINE/built\"\n"),
            )],
            validate: vec![script(
                &format!("{recipe}/validate-001"),
                "test -s \"$MACHINE/built\"\n",
            )],
            test: vec![script(&format!("{recipe}/test-001"), "echo tested\n")],
            ..Layer::new(recipe, version)
        },
    }
}

#[tokio::test]
async fn a_recipe_becomes_an_image_that_is_found_again() {
    let world = World::new().await;
    let target = world.target().await;
    let plan = world.plan(&target).await;
    let heard = Heard::default();
    let baked = world.bake(&plan, Cancel::never(), &heard).await.unwrap();

    assert_eq!(baked.left_over, []);
    assert_eq!(world.run_states(), [RunState::Finished]);
    assert_eq!(world.machines.left(), [] as [String; 0]);
    let found = images::find(&world.clients, &"b".repeat(12)).await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(found[0].is_ready());
    assert_eq!(found[0].tag("team"), Some("ci"));
    assert_eq!(
        (&found[0].id, found[0].name.as_str()),
        (&baked.image, "worker-1.0.0-bbbbbbbbbbbb")
    );
    let manifest = images::manifest(&world.clients, &"b".repeat(64))
        .await
        .unwrap();
    assert_eq!(manifest.as_deref(), Some("{\"recipe\":\"worker\"}"));
    let latest = world
        .clients
        .ssm
        .get_parameter()
        .name("/piaas-bake/worker/latest")
        .send()
        .await
        .unwrap();
    assert_eq!(
        latest.parameter().unwrap().value(),
        Some(baked.image.as_str())
    );
    // What is left is the image, its snapshot and its two parameters.
    assert_eq!(world.things().await.len(), 4);

    let events = heard.0.into_inner().unwrap();
    let phases: Vec<Phase> = events
        .iter()
        .filter_map(|event| match event {
            Event::PhaseFinished { phase, .. } => Some(*phase),
            _ => None,
        })
        .collect();
    assert_eq!(phases, Phase::ALL);
    let lines: Vec<&str> = events
        .iter()
        .filter_map(|event| match event {
            Event::Output { line } => Some(line.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(
        lines,
        ["building base", "building worker", "tested", "tested"]
    );
    let log = std::fs::read_to_string(&baked.log).unwrap();
    assert!(log.contains("building worker\n"), "{log}");
}

#[tokio::test]
async fn an_image_that_exists_is_enough_unless_forced() {
    let world = World::new().await;
    let mut target = world.target().await;
    let first = world
        .bake(&world.plan(&target).await, Cancel::never(), &())
        .await
        .unwrap();
    world.wire.fail(Fault::None);
    assert!(matches!(
        world.decide(&target).await.unwrap(),
        Decision::AlreadyBaked(image) if image.id == first.image
    ));
    assert_eq!(
        world
            .wire
            .operations()
            .into_iter()
            .find(|operation| changes(operation)),
        None
    );

    target.force = true;
    let second = world
        .bake(&world.plan(&target).await, Cancel::never(), &())
        .await
        .unwrap();
    assert_eq!(second.name, format!("{}-2", first.name));
    let latest = world
        .clients
        .ssm
        .get_parameter()
        .name("/piaas-bake/worker/latest")
        .send()
        .await
        .unwrap();
    assert_eq!(
        latest.parameter().unwrap().value(),
        Some(second.image.as_str())
    );
}

#[tokio::test]
async fn a_bake_starts_from_its_parents_image() {
    let world = World::new().await;
    let whole = world.target().await;
    let parent = Target {
        layers: whole.layers[..1].to_vec(),
        ..whole.clone()
    };
    let parent = world
        .bake(&world.plan(&parent).await, Cancel::never(), &())
        .await
        .unwrap();
    let plan = world.plan(&whole).await;
    assert_eq!(
        (&plan.start.image.id, plan.steps.len(), plan.test.len()),
        (&parent.image, 1, 2)
    );
    world.bake(&plan, Cancel::never(), &()).await.unwrap();
}

async fn bake_with(change: impl FnOnce(&mut Plan)) -> (World, BakeError) {
    let world = World::new().await;
    let mut plan = world.plan(&world.target().await).await;
    change(&mut plan);
    let error = world.bake(&plan, Cancel::never(), &()).await.unwrap_err();
    assert_eq!(error.left_over, []);
    assert_eq!(world.things().await, [] as [String; 0]);
    assert_eq!(world.run_states(), [RunState::Finished]);
    (world, error)
}

#[tokio::test]
async fn a_script_that_fails_is_named_with_its_last_lines_wherever_it_runs() {
    type Pick = fn(&mut Plan) -> &mut Vec<Script>;
    let lists: [(Pick, Phase); 3] = [
        (|plan| &mut plan.steps, Phase::Provision),
        (|plan| &mut plan.validate, Phase::Validate),
        (|plan| &mut plan.test, Phase::Test),
    ];
    for (pick, phase) in lists {
        let (_world, error) = bake_with(|plan| {
            pick(plan)[1].text = "echo first; echo the reason >&2; exit 3\n".into()
        })
        .await;
        assert_eq!((error.phase, error.exit_code()), (Some(phase), 6));
        assert!(
            matches!(
                error.failure,
                Failure::Script {
                    exit_code: 3,
                    attempts: 1,
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(error.last_lines, ["first", "the reason"]);
        assert!(
            std::fs::read_to_string(&error.log)
                .unwrap()
                .contains("the reason")
        );
    }
}

#[tokio::test]
async fn what_comes_back_after_sealing_is_found() {
    // A careless service of the recipe writes a history while the machine is being sealed.
    let (_world, error) = bake_with(|plan| {
        plan.validate[1].text =
            "echo 'mkdir -p \"$MACHINE/root\"; echo x >\"$MACHINE/root/.bash_history\"' >\"$MACHINE/after-seal\"\n".into();
    })
    .await;
    assert!(
        matches!(&error.failure, Failure::NotSealed { remains, .. } if remains[0].path.ends_with("/root/.bash_history")),
        "{error}"
    );
}

#[tokio::test]
async fn a_builder_that_is_taken_away_ends_the_bake_and_leaves_nothing() {
    let (_world, error) = bake_with(|plan| {
        plan.steps[1].text = "echo begun; echo 'no capacity' >\"$MACHINE/taken-away\"\n".into();
    })
    .await;
    let Failure::InstanceLost { state, reason, .. } = &error.failure else {
        panic!("{error}");
    };
    assert_eq!(
        (state.as_str(), error.phase),
        ("terminated", Some(Phase::Provision))
    );
    assert!(reason.contains("no capacity"), "{reason}");
    let text = error.to_string();
    assert!(
        text.contains("terminated") && text.contains("no capacity"),
        "{text}"
    );
    assert_eq!(error.exit_code(), 6);
}

#[tokio::test]
async fn what_stays_in_use_is_given_up_and_named() {
    // Each refusal has another request id, which is no progress.
    let rule = "schema: piaas-bake/faults/v1\nfaults:\n  \
                - { fault: error, on: 'ec2:DeleteSecurityGroup', status: 400, code: DependencyViolation, times: always }\n";
    let world = World::with(Arc::new(Faults::parse(rule).unwrap())).await;
    let mut plan = world.plan(&world.target().await).await;
    plan.steps[0].text = "exit 3\n".into();
    let heard = Heard::default();
    let error = world
        .bake(&plan, Cancel::never(), &heard)
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), 7);
    let [left] = error.left_over.as_slice() else {
        panic!("{:?}", error.left_over)
    };
    assert_eq!(left.kind, piaas_bake::bake::Resource::SecurityGroup);
    assert!(left.error.contains("DependencyViolation"), "{}", left.error);
    assert!(left.command.contains("cloud gc") && left.command.contains("--run"));
    // It says once what it waits for, and why.
    let events = heard.0.into_inner().unwrap();
    let notes = events.iter().filter(
        |event| matches!(event, Event::Note { text } if text.contains("DependencyViolation")),
    );
    assert_eq!(notes.count(), 1);
}

#[tokio::test]
async fn a_bake_survives_reads_that_are_late() {
    // What has been made is not found for ten seconds, nor its tags.
    let rule = "schema: piaas-bake/faults/v1\nfaults:\n  \
                - { fault: stale, on: 'ec2:Describe*', seconds: 10, times: always }\n";
    let world = World::with(Arc::new(Faults::parse(rule).unwrap())).await;
    let plan = world.plan(&world.target().await).await;
    let baked = world.bake(&plan, Cancel::never(), &()).await.unwrap();
    world.clock.sleep(Duration::from_secs(60)).await;
    let things = world.things().await;
    assert!(
        things.iter().any(|thing| thing.contains(&baked.image)),
        "{things:?}"
    );
    assert_eq!(world.machines.left(), [""; 0]);
    assert_eq!(world.run_states(), [RunState::Finished]);
}

#[tokio::test]
async fn a_reboot_goes_on_after_the_step() {
    let world = World::new().await;
    let mut plan = world.plan(&world.target().await).await;
    plan.steps[0].reboot = true;
    let heard = Heard::default();
    world.bake(&plan, Cancel::never(), &heard).await.unwrap();
    let events = heard.0.into_inner().unwrap();
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::StepSkipped { number: 1, .. }))
    );
}

/// Interrupts a bake as a phase begins.
struct StopAt(Phase, piaas_bake::bake::Canceller);
impl Sink<Event> for StopAt {
    fn emit(&self, event: Stamped) {
        if event.event == (Event::PhaseStarted { phase: self.0 }) {
            self.1.cancel();
        }
    }
}

#[tokio::test]
async fn an_interruption_in_any_phase_undoes_everything() {
    for phase in Phase::ALL
        .into_iter()
        .filter(|phase| *phase != Phase::Release)
    {
        let world = World::new().await;
        let plan = world.plan(&world.target().await).await;
        let (canceller, cancel) = cancel_pair();
        let error = world
            .bake(&plan, cancel, &StopAt(phase, canceller))
            .await
            .unwrap_err();
        assert_eq!(error.exit_code(), 130, "{phase:?}: {error}");
        assert_eq!(world.things().await, [] as [String; 0], "{phase:?}");
    }
}

/// Requests of a bake that goes well, with their numbers.
async fn requests() -> Vec<(usize, String)> {
    let world = World::new().await;
    let plan = world.plan(&world.target().await).await;
    world.wire.fail(Fault::None);
    world.bake(&plan, Cancel::never(), &()).await.unwrap();
    world.wire.operations().into_iter().enumerate().collect()
}

pub fn changes(operation: &str) -> bool {
    !operation.starts_with("Describe") && !operation.starts_with("Get")
}

/// Bakes until a request hangs, and drops the bake: that is what `kill -9` leaves, no undo, the lock free.
async fn killed(world: &World, plan: &Plan, fault: Fault, context: &str) {
    world.wire.fail(fault);
    tokio::select! {
        outcome = world.bake(plan, Cancel::never(), &()) => panic!("{context}: {outcome:?}"),
        () = world.wire.hung.notified() => {}
    }
    world.wire.fail(Fault::None);
}

/// After a clean-up nothing is left, or exactly one whole image; of one whose run came to no good end after that, the pointer
/// may be missing.
async fn assert_all_or_nothing(world: &World, context: &str) {
    let things = world.things().await;
    let ready = images::list(&world.clients, None)
        .await
        .unwrap()
        .iter()
        .filter(|image| image.is_ready())
        .count();
    let pointers = things.iter().filter(|one| one.starts_with("latest"));
    let pointers = pointers.count();
    assert_eq!(things.len() - pointers, ready * 3, "{context}: {things:?}");
    assert!(pointers <= ready, "{context}: {things:?}");
}

#[tokio::test]
async fn refused_at_any_request_it_leaves_nothing_or_a_finished_image() {
    let mut finished = 0;
    for (number, operation) in requests().await {
        let context = format!("{operation} (request {number}) refused");
        let world = World::new().await;
        let plan = world.plan(&world.target().await).await;
        world.wire.fail(Fault::Refuse(number));
        let outcome = world.bake(&plan, Cancel::never(), &()).await;
        if let Err(error) = &outcome {
            assert_eq!(error.left_over, [], "{context}");
            assert_eq!(error.exit_code(), 5, "{context}");
            let things = world.things().await;
            // Only the pointer comes after the image is ready, and that may be in use by then.
            let is_finished = operation.ends_with("Parameter") && things.len() == 3;
            finished += usize::from(is_finished);
            assert_eq!(error.finished.is_some(), is_finished, "{context}");
            assert!(is_finished || things.is_empty(), "{context}: {things:?}");
        }
        world.undo_dead_runs().await;
        assert_all_or_nothing(&world, &context).await;
    }
    // The look at the pointer, and the pointer itself.
    assert_eq!(finished, 2);
}
