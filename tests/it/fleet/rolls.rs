//! Rolls beside the controller, over a wire of their own: each is begun once enough jobs are done, its process dies at a
//! random request, and the next one picks it up from its record. One that turns back is begun anew, as a person would.

use piaas_bake::cancel::Cancel;
use piaas_bake::events::Sink;
use piaas_bake::roll::event::{Event, Stamped};
use piaas_bake::roll::preflight::{self, Image, Verdict};
use piaas_bake::roll::record::{self, Options, RollRecord};
use piaas_bake::roll::{self, Held, RollError, store};

use super::chance::Chance;
use super::machines::BUILDER;
use super::*;

/// `MaxHealthyPercentage` of the rolls.
pub const MAX_HEALTHY: u32 = 120;
/// Tries for each image before something is wrong with more than luck.
const TRIES: usize = 20;

/// What came of them.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub rolled_out: usize,
    /// Why others turned back.
    pub turned_back: Vec<String>,
    /// Processes that died at a request.
    pub deaths: usize,
    /// Processes that ended with an error of the cloud.
    pub failed: usize,
}

/// What the rolls go by.
pub struct Rolls {
    wire: Wire,
    clients: Clients,
    images: Vec<String>,
    pub tally: Mutex<Tally>,
}

impl Sink<Event> for Heard {
    fn emit(&self, event: Stamped) {
        if !matches!(event.event, Event::Looked(_)) {
            self.hear(format!("{} the roll: {:?}", event.at, event.event));
        }
    }
}

/// Why a process that rolls ended before its roll.
enum Ended {
    /// The next one goes on.
    Failed(String),
    /// It should never have come to this.
    Wrong(String),
}

impl From<RollError> for Ended {
    fn from(error: RollError) -> Self {
        match error {
            RollError::Cloud(error) => Self::Failed(error.to_string()),
            error => Self::Wrong(error.to_string()),
        }
    }
}

impl From<Held> for Ended {
    fn from(held: Held) -> Self {
        RollError::from(held).into()
    }
}

impl From<store::StoreError> for Ended {
    fn from(error: store::StoreError) -> Self {
        RollError::from(error).into()
    }
}

impl From<piaas_bake::aws::Error> for Ended {
    fn from(error: piaas_bake::aws::Error) -> Self {
        RollError::from(error).into()
    }
}

impl Rolls {
    pub async fn new(
        cloud: &Arc<LocalCloud>,
        calm: &Clients,
        clock: &SharedClock,
        plan: Plan,
    ) -> Self {
        let wire = Wire::new(cloud.clone(), plan.seed.wrapping_add(1));
        let policy = iam::roll(GROUP, None, PLACE);
        let judge = plan.judged.then(|| Judge::new(&policy, calm.clone()));
        let way = behind(judge.as_ref(), &wire);
        let clients = aws::connect(way, clock.clone()).await;
        Self {
            images: images(calm, plan.rolls).await,
            wire,
            clients,
            tally: Mutex::default(),
        }
    }

    /// Whether the group runs the last image.
    pub fn are_over(&self) -> bool {
        self.tally.lock().unwrap().rolled_out == self.images.len()
    }

    pub fn faults(&self) -> Vec<String> {
        self.wire.state.lock().unwrap().faults.clone()
    }

    pub fn lost_answers(&self) -> usize {
        self.wire.state.lock().unwrap().lost
    }
}

/// Images that are made of a machine which is gone afterwards.
async fn images(clients: &Clients, count: usize) -> Vec<String> {
    let mut made = Vec::new();
    if count == 0 {
        return made;
    }
    let run = clients.ec2.run_instances().image_id(BASE_IMAGE);
    let run = run.instance_type(BUILDER.into()).min_count(1).max_count(1);
    let run = run.send().await.unwrap();
    let builder = run.instances()[0].instance_id().unwrap();
    clients.clock.sleep(Duration::from_secs(10)).await;
    for number in 0..count {
        let name = format!("image {number}");
        let make = clients.ec2.create_image().instance_id(builder).name(name);
        made.push(make.send().await.unwrap().image_id.unwrap());
        clients.clock.sleep(Duration::from_secs(60)).await;
    }
    let end = clients.ec2.terminate_instances().instance_ids(builder);
    end.send().await.unwrap();
    made
}

/// What every call of `roll start` does: take the lease, go on with the record if it is of this roll, else look first.
async fn go_on(world: &World, id: &str, image: &str, heard: &Heard) -> Result<RollRecord, Ended> {
    let clients = &world.rolls.clients;
    let mut lease = lease::take(clients, &roll::lease_name(GROUP), "a roll").await?;
    let found = store::load(clients, GROUP).await?;
    let record = match found {
        Some(record) if record.id == id => record,
        Some(record) if !record.is_over() => {
            return Err(Ended::Wrong(format!("roll {} is not over", record.id)));
        }
        _ => begin(clients, id, image).await?,
    };
    let cancel = Cancel::never();
    let record = roll::drive(clients, record, &mut lease, cancel, heard).await?;
    // One that is not given back runs out.
    let _ = lease.release().await;
    Ok(record)
}

async fn begin(clients: &Clients, id: &str, image: &str) -> Result<RollRecord, Ended> {
    let image = Image {
        id: image.to_owned(),
        name: "n".into(),
        state: "available".into(),
        status: Some("ready".into()),
        architecture: "x86_64".into(),
    };
    let new_image = image.id.clone();
    let survey = roll::survey(clients, GROUP, image).await?;
    let survey = survey.ok_or_else(|| Ended::Wrong("there is no group".into()))?;
    let (template, old) = match preflight::judge(&survey) {
        Ok(Verdict::Roll { template, old }) => (template, old),
        other => return Err(Ended::Wrong(format!("nothing to roll: {other:?}"))),
    };
    let options = Options {
        canary: true,
        checks: vec!["test -e /etc/hostname".into()],
        warmup: 60,
        max_healthy: MAX_HEALTHY,
        checkpoints: vec![],
        checkpoint_delay: 0,
    };
    let (id, group, now) = (id.to_owned(), GROUP.to_owned(), clients.clock.now());
    Ok(RollRecord::new(
        id, group, template, old, new_image, options, now,
    ))
}

/// One roll, whatever becomes of its processes. `None`: something is wrong, and was written down.
async fn roll(
    world: &World,
    plan: Plan,
    (id, image): (&str, &str),
    chance: &mut Chance,
    heard: &Heard,
) -> Option<RollRecord> {
    let rolls = &world.rolls;
    loop {
        let after = usize::try_from(chance.below(plan.roll_deaths)).unwrap();
        rolls.wire.state.lock().unwrap().hang_in = Some(after);
        let ended = tokio::select! {
            biased;
            ended = go_on(world, id, image, heard) => Some(ended),
            () = rolls.wire.hung.notified() => None,
        };
        rolls.wire.state.lock().unwrap().hang_in = None;
        match ended {
            Some(Ok(record)) => return Some(record),
            Some(Err(Ended::Wrong(what))) => {
                world.ci.lock().unwrap().faults.push(what);
                return None;
            }
            Some(Err(Ended::Failed(why))) => {
                heard.hear(format!("a process of the roll ended: {why}"));
                rolls.tally.lock().unwrap().failed += 1;
            }
            None => {
                heard.hear("a process of the roll died".into());
                rolls.tally.lock().unwrap().deaths += 1;
            }
        }
    }
}

/// All rolls, one after the other.
pub async fn run(world: &World, plan: Plan, heard: &Heard) {
    let rolls = &world.rolls;
    let mut chance = Chance::new(plan.seed.wrapping_add(2));
    rolls.wire.state.lock().unwrap().weather = plan.weather;
    for (number, image) in rolls.images.iter().enumerate() {
        let due = (number + 1) * plan.jobs / (plan.rolls + 1);
        while world.ci.lock().unwrap().tally.done < due {
            world.ticked.notified().await;
        }
        for attempt in 1.. {
            let id = format!("20260101T120000-{number:04}{attempt:04}");
            let Some(record) = roll(world, plan, (&id, image), &mut chance, heard).await else {
                return;
            };
            if let Some(wrong) = world.disproved(&record).await {
                let mut ci = world.ci.lock().unwrap();
                ci.faults.push(format!("roll {id}: {wrong}: {record:?}"));
                return;
            }
            let mut tally = rolls.tally.lock().unwrap();
            if record.outcome == Some(record::Outcome::RolledOut) {
                tally.rolled_out += 1;
                break;
            }
            tally.turned_back.push(record.reason.unwrap_or_default());
            if attempt == TRIES {
                let what = format!("{TRIES} rolls turned back: {:?}", tally.turned_back);
                world.ci.lock().unwrap().faults.push(what);
                return;
            }
        }
    }
}

impl World {
    /// What speaks against the end of a roll: an instance that runs something else than the version where it ended, a
    /// template version that is left, a canary that is.
    async fn disproved(&self, record: &RollRecord) -> Option<String> {
        let there = match record.outcome? {
            record::Outcome::RolledOut => record.new_side()?,
            record::Outcome::RolledBack => record.old.clone(),
            record::Outcome::Halted => return Some("it halted".into()),
        };
        if !record.left.is_empty() {
            return Some(format!("it left {:?}", record.left));
        }
        let raw = roll::look::raw_group(&self.calm, GROUP).await.unwrap()?;
        let template = &record.template;
        let group = roll::look::group(&self.calm, &raw, template).await.unwrap();
        if let Err(unsettled) = roll::settled(&group, &there) {
            return Some(format!("the group is not there: {unsettled:?}"));
        }
        let versions = self.calm.ec2.describe_launch_template_versions();
        let versions = versions.launch_template_id(template).send().await.unwrap();
        let versions = versions.launch_template_versions();
        let made = versions.iter().filter(|version| {
            let description = version.version_description().unwrap_or_default();
            description == record.version_description()
        });
        let kept = made.count() == 1;
        if kept != (there.version != record.old.version) {
            return Some("its template version is there, or is not".into());
        }
        let canary = record.canary.instance.as_ref();
        let live = self.driver.scripted.live_machines();
        canary
            .filter(|id| live.contains(id))
            .map(|id| format!("its canary {id} is left"))
    }
}
