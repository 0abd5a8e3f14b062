//! A group whose workers run jobs, on machines that play a script: what is ended while a job runs on it is written down.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use aws_sdk_ec2::types::Tag;
use jiff::{SignedDuration, Timestamp};
use piaas_bake::aws::Clients;
use piaas_bake::clock::SystemClock;
use piaas_bake::localcloud::BASE_IMAGE;
use piaas_bake::localcloud::scripted::{Launch, Outcome, Recorded, Scripted, SnapshotPlay};
use piaas_bake::worker::status::{Cordon, Drained, State, Status};

use super::World;
use crate::aws;
use crate::support::Sandbox;

pub(super) const GROUP: &str = "workers";
/// In which what takes no time has happened.
const LOOKS: usize = 10;

/// The worker agents of all machines.
#[derive(Debug, Default)]
pub(super) struct Workers {
    /// Machines on which a job runs.
    pub busy: BTreeSet<String>,
    /// Jobs that the end of their machine ended.
    pub killed: Vec<String>,
    /// The job of each machine ends once it was looked at this often while it is to be replaced.
    pub patience: Option<usize>,
    cordons: BTreeMap<String, u64>,
    drained: BTreeMap<String, u64>,
    audited: usize,
}

impl Workers {
    /// What the agent of a machine answers to a command.
    fn answer(&mut self, instance: &str, script: &str) -> Outcome {
        if script.contains("is-system-running") {
            return Outcome::output("piaas-check worker present\npiaas-check pass\n");
        }
        let is_busy = self.busy.contains(instance);
        let after = |word: &str| {
            let rest = script.split(word).nth(1)?;
            rest.split_whitespace().next()?.parse::<u64>().ok()
        };
        if let Some(generation) = after(" uncordon --generation ") {
            if self.drained.contains_key(instance) {
                return Outcome {
                    exit_code: 4,
                    ..self.status(instance)
                };
            }
            assert!(
                self.cordons
                    .get(instance)
                    .is_none_or(|one| *one <= generation)
            );
            self.cordons.remove(instance);
        } else if let Some(generation) = after(" cordon --generation ") {
            self.cordons.insert(instance.to_owned(), generation);
            if !is_busy {
                self.drained.insert(instance.to_owned(), generation);
            }
        }
        self.status(instance)
    }

    fn status(&self, instance: &str) -> Outcome {
        let at = Timestamp::now();
        let hour = at - SignedDuration::from_hours(1);
        let is_busy = self.busy.contains(instance);
        let status = Status {
            state: if is_busy { State::Busy } else { State::Idle },
            since: Some(hour),
            why: None,
            cordon: self.cordons.get(instance).map(|generation| Cordon {
                generation: *generation,
                reason: Some("piaas-bake fleet: a test".to_owned()),
                at: hour,
            }),
            drained: self.drained.get(instance).map(|generation| Drained {
                generation: *generation,
                at: hour,
            }),
            protected: Some(true),
            instance: Some(instance.to_owned()),
            ..Status::silent(String::new(), at)
        };
        Outcome::output(status.to_line())
    }

    /// Writes down which machines were ended while a job ran on them.
    fn audit(&mut self, machines: &Scripted) {
        let calls = machines.calls();
        for call in &calls[self.audited..] {
            if let Recorded::Terminate(id) = call
                && self.busy.contains(id)
            {
                self.killed.push(id.clone());
            }
        }
        self.audited = calls.len();
    }
}

/// A world with a group of workers.
pub(super) struct Fleet {
    pub world: World<Scripted>,
    workers: Arc<Mutex<Workers>>,
    pub template: String,
    /// What the group is rolled to.
    pub image: String,
}

impl Fleet {
    /// A group of so many, a job on the first of them.
    pub async fn new(size: i32) -> Self {
        let machines = Scripted::new(SystemClock::shared());
        // Nothing takes its time: what is waited for is the process.
        machines.set_launch(Launch::Boots(Duration::ZERO));
        machines.set_agent(Some(Duration::ZERO));
        machines.set_stop(Duration::ZERO);
        machines.set_snapshot(SnapshotPlay::Completes(Duration::ZERO));
        let workers = Arc::new(Mutex::new(Workers::default()));
        let agents = workers.clone();
        machines.on_commands(move |instance, command| {
            Some(agents.lock().unwrap().answer(instance, &command.script))
        });
        let world = World::over(Sandbox::new(), Arc::new(machines)).await;
        let clients = &world.clients;
        let image = second_image(clients).await;
        let template = aws::template(clients, "workers", aws::launches(BASE_IMAGE)).await;
        let create = aws::group(clients, GROUP, &template)
            .min_size(0)
            .max_size(2 * size)
            .desired_capacity(size)
            .new_instances_protected_from_scale_in(true);
        create.send().await.unwrap();
        // As a fleet demands it.
        let suspend = clients.autoscaling.suspend_processes();
        let suspend = suspend.auto_scaling_group_name(GROUP);
        let suspend = suspend.scaling_processes("AZRebalance");
        suspend.send().await.unwrap();
        let wanted = usize::try_from(size).unwrap();
        // Nothing takes its time here: each look brings it on.
        let mut members = Vec::new();
        for _ in 0..LOOKS {
            members = aws::in_service(clients, GROUP).await;
            if members.len() == wanted {
                break;
            }
        }
        assert_eq!(members.len(), wanted);
        workers.lock().unwrap().busy.insert(members[0].clone());
        let this = Self {
            world,
            workers,
            template,
            image,
        };
        this.watch();
        this
    }

    pub fn workers(&self) -> MutexGuard<'_, Workers> {
        self.workers.lock().unwrap()
    }

    /// From now on workers live as their cloud is looked at.
    fn watch(&self) {
        let life = Life {
            workers: self.workers.clone(),
            machines: Arc::downgrade(&self.world.machines),
            clients: self.world.clients.clone(),
        };
        let witness = move |operation: &str| life.goes_on(operation);
        assert!(self.world.gate.witness.set(Box::new(witness)).is_ok());
    }

    /// No job was killed, and the machines are those of the group.
    pub async fn assert_sound(&self, context: &str) {
        assert_eq!(self.workers().killed, [] as [String; 0], "{context}");
        let mut members = aws::in_service(&self.world.clients, GROUP).await;
        members.sort();
        assert_eq!(self.world.machines.live_machines(), members, "{context}");
        let group = aws::find_group(&self.world.clients, GROUP).await.unwrap();
        let desired = usize::try_from(group.desired_capacity().unwrap()).unwrap();
        assert_eq!(members.len(), desired, "{context}");
    }

    /// Of all who had the lease there is the newest term, and no other.
    pub async fn assert_one_lease(&self, context: &str) {
        let call = self.world.clients.ssm.get_parameters_by_path();
        let found = call.path("/piaas-bake/leases").recursive(true).send().await;
        assert!(found.unwrap().parameters().len() <= 1, "{context}");
    }

    /// Machines that were ever launched.
    pub fn launches(&self) -> usize {
        let calls = self.world.machines.calls();
        let launches = calls
            .iter()
            .filter(|call| matches!(call, Recorded::Launch(_)));
        launches.count()
    }
}

/// What workers do by themselves.
struct Life {
    workers: Arc<Mutex<Workers>>,
    machines: Weak<Scripted>,
    clients: Clients,
}

impl Life {
    fn goes_on(&self, operation: &str) {
        let Some(machines) = self.machines.upgrade() else {
            return;
        };
        self.workers.lock().unwrap().audit(&machines);
        if operation == "DescribeInstanceRefreshes" {
            tokio::runtime::Handle::current().block_on(self.release());
        }
    }

    /// Workers without a job are not protected any more.
    async fn release(&self) {
        let group = aws::find_group(&self.clients, GROUP).await.unwrap();
        let refreshes = self.clients.autoscaling.describe_instance_refreshes();
        let refreshes = refreshes.auto_scaling_group_name(GROUP).send().await;
        let refreshes = refreshes.unwrap().instance_refreshes.unwrap_or_default();
        let waits = refreshes
            .iter()
            .any(|one| one.status().is_some_and(|one| one.as_str() == "InProgress"));
        {
            let mut workers = self.workers.lock().unwrap();
            if waits && let Some(left) = &mut workers.patience {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    workers.busy.clear();
                }
            }
        }
        let free: Vec<String> = {
            let workers = self.workers.lock().unwrap();
            let members = group.instances().iter();
            members
                .filter(|one| {
                    one.protected_from_scale_in() == Some(true)
                        && one
                            .lifecycle_state()
                            .is_some_and(|state| state.as_str() == "InService")
                })
                .filter_map(|one| one.instance_id().map(str::to_owned))
                .filter(|id| !workers.busy.contains(id))
                .collect()
        };
        if !free.is_empty() {
            let call = self.clients.autoscaling.set_instance_protection();
            let call = call
                .auto_scaling_group_name(GROUP)
                .set_instance_ids(Some(free))
                .protected_from_scale_in(false);
            call.send().await.unwrap();
        }
    }
}

/// A second image, as of a bake, whose builder is gone.
async fn second_image(clients: &Clients) -> String {
    let ec2 = &clients.ec2;
    let run = ec2
        .run_instances()
        .image_id(BASE_IMAGE)
        .instance_type("t3.micro".into())
        .min_count(1)
        .max_count(1);
    let run = run.send().await.unwrap();
    let builder = run.instances()[0].instance_id().unwrap();
    let make = ec2.create_image().instance_id(builder).name("second");
    let image = make.send().await.unwrap().image_id.unwrap();
    let mut state = String::new();
    for _ in 0..LOOKS {
        let images = ec2.describe_images().image_ids(&image).send().await;
        let images = images.unwrap();
        state = images.images()[0].state().unwrap().as_str().to_owned();
        if state == "available" {
            break;
        }
    }
    assert_eq!(state, "available");
    let status = Tag::builder().key("piaas-bake:status").value("ready");
    let tag = ec2.create_tags().resources(&image).tags(status.build());
    tag.send().await.unwrap();
    let end = ec2.terminate_instances().instance_ids(builder);
    end.send().await.unwrap();
    image
}
