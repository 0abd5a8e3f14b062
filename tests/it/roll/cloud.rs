//! The local cloud with a group of scripted machines, and the workers on them: they take jobs, are protected while they
//! run one, and answer as a worker agent does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use aws_sdk_autoscaling::types::{Instance, LaunchTemplateSpecification, LifecycleState};
use jiff::{SignedDuration, Timestamp};
use piaas_bake::aws::Clients;
use piaas_bake::clock::{Clock as _, JumpingClock};
use piaas_bake::localcloud::engine::LocalCloud;
use piaas_bake::localcloud::faults::Faults;
use piaas_bake::localcloud::scripted::{Outcome, Recorded, Scripted};
use piaas_bake::localcloud::{BASE_IMAGE, connector};

use crate::aws;

pub const GROUP: &str = "workers";
/// What the checks of a machine find that is shutting down.
pub const LEAVES: &str = "fail the system is stopping, failed units: none";

/// What goes on on the machines.
#[derive(Debug, Default)]
pub struct Jobs {
    /// Machines whose image is this fail their checks.
    pub bad: Option<String>,
    /// Machines of the group whose image is this become unhealthy.
    pub dying: Option<String>,
    /// The first machine of the group whose image is this ends amid its checks.
    pub leaving: Option<String>,
    /// It is that one.
    pub left: Option<String>,
    /// The canary takes a job of this length.
    pub canary: SignedDuration,
    /// Until when a machine runs a job.
    busy: BTreeMap<String, Timestamp>,
    /// Jobs that a termination ended.
    pub killed: Vec<String>,
    audited: usize,
    looked: Option<Timestamp>,
}

/// The cloud, and what the test itself does to it.
pub struct Stage {
    pub cloud: Arc<LocalCloud>,
    pub clock: Arc<JumpingClock>,
    pub driver: Arc<Scripted>,
    jobs: Arc<Mutex<Jobs>>,
    /// Clients of the test, beside the roll's.
    clients: Clients,
    pub template: String,
    pub new_image: String,
    dir: tempfile::TempDir,
}

impl Stage {
    /// A group with one instance for each number: minutes for which it is busy.
    pub async fn new(busy: &[i64]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = JumpingClock::starting_at("2026-01-01T12:00:00Z".parse().unwrap());
        let driver = Arc::new(Scripted::new(clock.clone()));
        let cloud = LocalCloud::open(dir.path(), driver.clone(), clock.clone()).unwrap();
        let jobs = Arc::new(Mutex::new(Jobs::default()));
        let worker = Worker {
            jobs: jobs.clone(),
            driver: Arc::downgrade(&driver),
            clock: clock.clone(),
        };
        driver.on_commands(move |instance, command| worker.answer(instance, &command.script));
        let clients = aws::connect(connector(cloud.clone()), clock.clone()).await;
        let new_image = second_image(&clients, &clock).await;
        let template = aws::template(&clients, "workers", aws::launches(BASE_IMAGE)).await;
        let stage = Self {
            cloud,
            clock,
            driver,
            jobs,
            clients,
            template,
            new_image,
            dir,
        };
        stage.create_group(busy).await;
        stage
    }

    /// Clients of whoever may do everything, over a wire without faults.
    pub fn clients(&self) -> Clients {
        self.clients.clone()
    }

    /// From now on the roll's wire ends at a cloud with these faults.
    pub fn meddle(&mut self, faults: Faults) {
        let (driver, clock) = (self.driver.clone(), self.clock.clone());
        let faults = Some(Arc::new(faults));
        self.cloud = LocalCloud::open_with(self.dir.path(), driver, clock, faults).unwrap();
    }

    async fn create_group(&self, busy: &[i64]) {
        let size = i32::try_from(busy.len()).unwrap();
        let create = aws::group(&self.clients, GROUP, &self.template)
            .min_size(0)
            .max_size(size)
            .desired_capacity(size)
            .new_instances_protected_from_scale_in(true);
        create.send().await.unwrap();
        self.pass(10);
        let now = self.clock.now();
        for (member, minutes) in self.members().await.iter().zip(busy) {
            let until = now + SignedDuration::from_mins(*minutes);
            let id = member.instance_id().unwrap().to_owned();
            self.jobs().busy.insert(id, until);
        }
        self.live().await;
    }

    pub fn pass(&self, seconds: u64) {
        self.clock.advance(std::time::Duration::from_secs(seconds));
    }

    pub fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap()
    }

    pub async fn members(&self) -> Vec<Instance> {
        self.group().await.instances.unwrap_or_default()
    }

    async fn group(&self) -> aws_sdk_autoscaling::types::AutoScalingGroup {
        aws::find_group(&self.clients, GROUP).await.unwrap()
    }

    fn image_of(&self, id: &str) -> String {
        self.driver.launched(id).unwrap().image_id
    }

    /// What the workers and their health checks do as time passes: whoever runs no job is not protected any more.
    pub async fn live(&self) {
        let now = self.clock.now();
        if self.jobs().looked.replace(now) == Some(now) {
            return;
        }
        let dying = self.jobs().dying.clone();
        let mut free = Vec::new();
        for member in self.members().await {
            let id = member.instance_id().unwrap().to_owned();
            if member.lifecycle_state() != Some(&LifecycleState::InService) {
                continue;
            }
            if dying.as_ref() == Some(&self.image_of(&id)) {
                let call = self.clients.autoscaling.set_instance_health();
                let call = call.instance_id(&id).health_status("Unhealthy");
                call.send().await.unwrap();
                continue;
            }
            let busy = self.jobs().busy.get(&id).is_some_and(|until| *until > now);
            if !busy && member.protected_from_scale_in() == Some(true) {
                free.push(id);
            }
        }
        if !free.is_empty() {
            let call = self.clients.autoscaling.set_instance_protection();
            let call = call.auto_scaling_group_name(GROUP);
            let call = call
                .set_instance_ids(Some(free))
                .protected_from_scale_in(false);
            call.send().await.unwrap();
        }
        self.audit();
    }

    /// The group ends the machine that leaves, and puts another in its place.
    pub async fn end_leaving(&self) {
        let ends = {
            let mut jobs = self.jobs();
            let left = jobs.left.clone();
            left.filter(|_| jobs.leaving.take().is_some())
        };
        if let Some(id) = ends {
            let call = self
                .clients
                .autoscaling
                .terminate_instance_in_auto_scaling_group();
            let call = call
                .instance_id(id)
                .should_decrement_desired_capacity(false);
            call.send().await.unwrap();
        }
    }

    /// Writes down whose job a termination has ended.
    pub fn audit(&self) {
        let (calls, now) = (self.driver.calls(), self.clock.now());
        let mut jobs = self.jobs();
        for call in &calls[jobs.audited..] {
            if let Recorded::Terminate(id) = call
                && jobs.busy.get(id).is_some_and(|until| *until > now)
            {
                jobs.killed.push(id.clone());
            }
        }
        jobs.audited = calls.len();
    }

    /// One version everywhere, the group launches it, nothing is left, no job was killed.
    pub async fn assert_all_on(&self, version: u64) {
        self.audit();
        let group = self.group().await;
        let wanted = version.to_string();
        let launches = group
            .launch_template()
            .and_then(|template| template.version());
        assert_eq!(launches, Some(wanted.as_str()));
        let mut ids = Vec::new();
        for member in group.instances() {
            let template = member.launch_template().unwrap();
            assert_eq!(template.version(), Some(wanted.as_str()), "{member:?}");
            assert_eq!(member.lifecycle_state(), Some(&LifecycleState::InService));
            ids.push(member.instance_id().unwrap().to_owned());
        }
        assert_eq!(
            ids.len(),
            usize::try_from(group.desired_capacity().unwrap()).unwrap()
        );
        ids.sort();
        assert_eq!(self.driver.live_machines(), ids, "a machine is left");
        assert_eq!(self.jobs().killed, Vec::<String>::new());
        let versions = self
            .clients
            .ec2
            .describe_launch_template_versions()
            .launch_template_id(&self.template)
            .send()
            .await
            .unwrap();
        let mut kept: Vec<i64> = versions
            .launch_template_versions()
            .iter()
            .filter_map(|one| one.version_number())
            .collect();
        kept.sort_unstable();
        assert_eq!(kept, if version == 1 { vec![1] } else { vec![1, 2] });
    }

    /// Statuses of all refreshes, the newest first.
    pub async fn refreshes(&self) -> Vec<String> {
        let answer = self.clients.autoscaling.describe_instance_refreshes();
        let answer = answer.auto_scaling_group_name(GROUP).send().await.unwrap();
        let all = answer.instance_refreshes.unwrap_or_default();
        all.iter()
            .map(|one| one.status().unwrap().as_str().to_owned())
            .collect()
    }

    /// Machines that were ever launched.
    pub fn launches(&self) -> usize {
        let calls = self.driver.calls();
        let launches = calls
            .iter()
            .filter(|call| matches!(call, Recorded::Launch(_)));
        launches.count()
    }

    pub async fn point_group(&self, version: &str) {
        let template = LaunchTemplateSpecification::builder()
            .launch_template_id(&self.template)
            .version(version)
            .build();
        let call = self.clients.autoscaling.update_auto_scaling_group();
        let call = call
            .auto_scaling_group_name(GROUP)
            .launch_template(template);
        call.send().await.unwrap();
    }
}

/// A second image, made from a machine that is gone afterwards.
async fn second_image(clients: &Clients, clock: &Arc<JumpingClock>) -> String {
    let run = clients.ec2.run_instances().image_id(BASE_IMAGE);
    let run = run
        .instance_type("t3.micro".into())
        .min_count(1)
        .max_count(1);
    let run = run.send().await.unwrap();
    let builder = run.instances()[0].instance_id().unwrap();
    clock.advance(std::time::Duration::from_secs(10));
    let make = clients
        .ec2
        .create_image()
        .instance_id(builder)
        .name("second");
    let image = make.send().await.unwrap().image_id.unwrap();
    clock.advance(std::time::Duration::from_secs(60));
    let end = clients.ec2.terminate_instances().instance_ids(builder);
    end.send().await.unwrap();
    image
}

/// The worker agent of every machine.
struct Worker {
    jobs: Arc<Mutex<Jobs>>,
    driver: std::sync::Weak<Scripted>,
    clock: Arc<JumpingClock>,
}

impl Worker {
    fn answer(&self, instance: &str, script: &str) -> Option<Outcome> {
        let image = self.driver.upgrade()?.launched(instance)?.image_id;
        let now = self.clock.now();
        let mut jobs = self.jobs.lock().unwrap();
        if script.contains("is-system-running") {
            let job = now + jobs.canary;
            jobs.busy.entry(instance.to_owned()).or_insert(job);
            if jobs.left.is_none() && jobs.leaving.as_ref() == Some(&image) {
                jobs.left = Some(instance.to_owned());
            }
            let verdict = if jobs.left.as_deref() == Some(instance) {
                LEAVES
            } else if jobs.bad.as_ref() == Some(&image) {
                "fail no good"
            } else {
                "pass"
            };
            return Some(Outcome::output(format!(
                "piaas-check worker present\npiaas-check {verdict}\n"
            )));
        }
        let busy = jobs.busy.get(instance).is_some_and(|until| *until > now);
        let state = if busy { "busy" } else { "idle" };
        let generation = script
            .split("cordon --generation ")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        let drained = match generation {
            Some(generation) if !busy => {
                format!(r#"{{"generation":{generation},"at":"2026-01-01T00:00:00Z"}}"#)
            }
            _ => "null".to_owned(),
        };
        Some(Outcome::output(format!(
            r#"{{"schema":"piaas-worker/v1","state":"{state}","since":null,"why":"","cordon":null,"drained":{drained}}}"#
        )))
    }
}
