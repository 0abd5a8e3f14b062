//! The shell round the decision: look, decide, write the intent, act, write the outcome; until it is over.

use std::time::Duration;

use super::event::{Event, Stamped, View, view};
use super::look::{self, Memory};
use super::next::{LOOK, next};
use super::record::{Heading, Outcome, RecordError, RollRecord};
use super::step::{Call, Note, Reply, Step};
use super::store::{self, StoreError};
use super::world::{Life, Request, World};
use super::{act, record};
use crate::aws::{Clients, Error};
use crate::cancel::Cancel;
use crate::events::Sink;
use crate::lease::{Held, Hold};

/// How often in a row the cloud may ask for patience before the roll stops; its record stays.
const PATIENCE: u32 = 400;
/// Between two looks whether workers have answered.
const ANSWER: Duration = Duration::from_millis(250);

/// A roll could not go on. Its record stays, and the next call picks it up.
#[derive(Debug, thiserror::Error)]
pub enum RollError {
    #[error(transparent)]
    Cloud(#[from] Error),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("this process does not hold the group any more: {0}")]
    Lost(String),
    #[error("the cloud refuses a step that the roll cannot do without: {0}")]
    Stuck(String),
    #[error("the cloud asked for patience too often, last: {0}")]
    Impatient(String),
}

impl From<StoreError> for RollError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Cloud(error) => Self::Cloud(error),
            StoreError::Record(error) => Self::Record(error),
        }
    }
}

impl From<Held> for RollError {
    fn from(held: Held) -> Self {
        match held {
            Held::ByAnother(who) => Self::Lost(who),
            Held::Cloud(error) => Self::Cloud(error),
        }
    }
}

struct Drive<'a> {
    clients: &'a Clients,
    record: RollRecord,
    sink: &'a dyn Sink<Event>,
    memory: Memory,
    shown: Option<View>,
    waiting: Option<String>,
    /// The canary has been asked to end.
    ending: bool,
    /// How often in a row the cloud asked for patience.
    later: u32,
}

/// Takes a roll to its end. Dropping the future at any point, or a `kill -9`, loses nothing: the next call of this
/// function goes on from the record and the world.
///
/// # Errors
/// [`RollError`]; the record stays as it is.
pub async fn drive(
    clients: &Clients,
    record: RollRecord,
    hold: &mut impl Hold,
    mut cancel: Cancel,
    sink: &dyn Sink<Event>,
) -> Result<RollRecord, RollError> {
    let mut drive = Drive {
        clients,
        record,
        sink,
        memory: Memory::default(),
        shown: None,
        waiting: None,
        later: 0,
        ending: false,
    };
    hold.keep().await?;
    drive.record.epoch = hold.epoch();
    store::save(clients, &drive.record).await?;
    loop {
        hold.keep().await?;
        let mut world = look::look(clients, &drive.record, &mut drive.memory).await?;
        if cancel.is_cancelled() {
            world.request = Some(Request {
                roll: drive.record.id.clone(),
                reason: "it was interrupted".to_owned(),
            });
        }
        drive.show(&world);
        match next(&drive.record, &world, clients.clock.now()) {
            Step::Done(outcome) => {
                store::forget_request(clients, &drive.record.group).await?;
                drive.ended(&world, outcome);
                return Ok(drive.record);
            }
            Step::Act(call) => {
                if let Some(pause) = drive.act(&world, call).await? {
                    sleep(clients, pause, &mut cancel).await;
                }
            }
            Step::Wait { reason, until } => {
                drive.wait(reason, until);
                let workers = blocking(&drive.record, &world);
                act::ask_workers(clients, &mut drive.memory, workers).await;
                let pause = until.duration_since(clients.clock.now());
                let pause = Duration::try_from(pause).unwrap_or_default();
                sleep(clients, pause, &mut cancel).await;
            }
        }
    }
}

/// Sleeps, less long if somebody interrupts a roll that has not turned back for it yet.
async fn sleep(clients: &Clients, pause: Duration, cancel: &mut Cancel) {
    let before = cancel.is_cancelled();
    tokio::select! {
        () = clients.clock.sleep(pause) => {}
        () = cancel.cancelled(), if !before => {}
    }
}

impl Drive<'_> {
    fn emit(&self, event: Event) {
        let at = self.clients.clock.now();
        self.sink.emit(Stamped { at, event });
    }

    fn show(&mut self, world: &World) {
        let view = view(&self.record, world);
        if self.shown.as_ref() != Some(&view) {
            self.emit(Event::Looked(view.clone()));
            self.shown = Some(view);
        }
    }

    fn wait(&mut self, reason: String, until: jiff::Timestamp) {
        self.later = 0;
        if self.waiting.as_ref() != Some(&reason) {
            self.waiting = Some(reason.clone());
            self.emit(Event::Waiting { reason, until });
        }
    }

    /// One call, its intent on record before it and its outcome after it. Gives how long to pause, if at all.
    async fn act(&mut self, world: &World, call: Call) -> Result<Option<Duration>, RollError> {
        let clients = self.clients;
        self.announce(world, &call);
        let before = self.record.clone();
        let newest = world.refreshes.first().map(|refresh| refresh.id.as_str());
        self.record.intend(&call, newest, clients.clock.now());
        if self.record != before {
            store::save(clients, &self.record).await?;
        }
        let reply = act::act(clients, &self.record, &mut self.memory, &call).await?;
        let intended = self.record.clone();
        self.record.learn(&call, &reply, clients.clock.now());
        if self.record != intended {
            store::save(clients, &self.record).await?;
        }
        if let (Heading::Forward, Heading::Back, Some(reason)) =
            (before.heading, self.record.heading, &self.record.reason)
        {
            self.emit(Event::TurnedBack {
                reason: reason.clone(),
            });
        }
        match reply {
            Reply::Later(reason) if self.later >= PATIENCE => Err(RollError::Impatient(reason)),
            Reply::Later(reason) => {
                self.later += 1;
                if self.waiting.as_ref() != Some(&reason) {
                    self.waiting = Some(reason.clone());
                    self.emit(Event::Again { reason });
                }
                Ok(Some(LOOK))
            }
            Reply::Refused(why) if self.record == intended => Err(RollError::Stuck(why)),
            _ => {
                self.later = 0;
                let ends = matches!(call, Call::TerminateCanary(_));
                // EC2 may show it as running for a while yet: it is not asked again at once.
                let again = ends && std::mem::replace(&mut self.ending, ends);
                Ok(again.then_some(LOOK))
            }
        }
    }

    fn announce(&self, world: &World, call: &Call) {
        match (call, &world.difference, self.record.new_version) {
            (Call::Note(Note::VersionVerified), Some(fields), Some(version)) => {
                self.emit(Event::Difference {
                    version,
                    fields: fields.clone(),
                });
            }
            (Call::Note(_), ..) => {}
            _ => self.emit(Event::Calling { call: call.clone() }),
        }
    }

    /// What is left, with commands for this connection: the record is for all.
    fn left(&self) -> Vec<String> {
        let commands = &self.clients.commands;
        let left = self.record.left.iter();
        left.map(|what| commands.complete(what)).collect()
    }

    fn ended(&self, world: &World, outcome: Outcome) {
        let view = view(&self.record, world);
        self.emit(Event::Ended {
            outcome,
            reason: self
                .record
                .given_up
                .clone()
                .or_else(|| self.record.reason.clone()),
            instances: view.instances,
            group_version: world.group.as_ref().and_then(|group| group.version),
            left: self.left(),
        });
    }
}

/// Instances whose workers keep the roll from going on.
fn blocking(record: &RollRecord, world: &World) -> Vec<String> {
    let Some(target) = record.target() else {
        return Vec::new();
    };
    let members = world.group.iter().flat_map(|group| &group.members);
    members
        .filter(|member| {
            member.life == Life::InService && member.protected && !member.is_on(&target)
        })
        .map(|member| member.id.clone())
        .collect()
}

/// Looks at a roll without taking part in it; workers that it waits for are asked how they stand, and have `patience` to
/// answer. One that does not answer in time may have answered by the next look with the same memory.
///
/// # Errors
/// [`Error`] of a call that looks.
pub async fn observe(
    clients: &Clients,
    record: &RollRecord,
    memory: &mut Memory,
    patience: Duration,
) -> Result<World, Error> {
    let start = clients.clock.now();
    let mut world = look::look(clients, record, memory).await?;
    act::ask_workers(clients, memory, blocking(record, &world)).await;
    let waited = |patience| {
        let waited = clients.clock.now().duration_since(start);
        Duration::try_from(waited).is_ok_and(|waited| waited >= patience)
    };
    while memory.is_asking() && !waited(patience) {
        clients.clock.sleep(ANSWER).await;
        world = look::look(clients, record, memory).await?;
    }
    Ok(world)
}

/// Name of the lease of a group's rolls.
#[must_use]
pub fn lease_name(group: &str) -> String {
    format!("roll-{}", record::segment(group))
}
