//! The shell round the decision: look, decide, write the intents, act, write the outcomes; once or for ever.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::alarm::Alarm;
use super::decide::{Decision, Plan, Turn, decide};
use super::demand::Source;
use super::event::{Event, Stamped, View, told, view};
use super::memory::{self, Log, Memory, Reply, Unreadable};
use super::policy::Policy;
use super::preflight::{self, Refusal};
use super::world::World;
use super::{act, look};
use crate::aws::parameters::{segment, set, values};
use crate::aws::{Clients, Commands, Error};
use crate::cancel::Cancel;
use crate::events::Sink;
use crate::lease::{Held, Hold};

/// Makes the decision. There is one in production, [`Core`]; tests put faults into it.
pub trait Brain: Send + Sync {
    fn decide(
        &self,
        world: &World,
        policy: &Policy,
        memory: &Memory,
        turn: Turn,
        now: Timestamp,
    ) -> Plan;
}

/// The decision itself.
#[derive(Debug, Clone, Copy)]
pub struct Core;

impl Brain for Core {
    fn decide(
        &self,
        world: &World,
        policy: &Policy,
        memory: &Memory,
        turn: Turn,
        now: Timestamp,
    ) -> Plan {
        decide(world, policy, memory, turn, now)
    }
}

/// A fleet cannot be run, or not on.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error(transparent)]
    Cloud(#[from] Error),
    #[error(transparent)]
    Memory(#[from] Unreadable),
    #[error("there is no Auto Scaling group {0}")]
    NoGroup(String),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("this process does not hold the fleet any more: {0}")]
    Lost(String),
}

impl From<Held> for FleetError {
    fn from(held: Held) -> Self {
        match held {
            Held::ByAnother(who) => Self::Lost(who),
            Held::Cloud(error) => Self::Cloud(error),
        }
    }
}

/// Name of the lease of a group's controller.
#[must_use]
pub fn lease_name(group: &str) -> String {
    format!("fleet-{}", segment(group))
}

/// What a controller works with.
pub struct Shell<'a> {
    pub clients: &'a Clients,
    pub group: String,
    pub policy: Policy,
    pub source: &'a dyn Source,
    pub brain: &'a dyn Brain,
    pub sink: &'a dyn Sink<Event>,
}

/// A controller of one group. Dropping it at any point, or a `kill -9`, loses nothing: the next one goes on from the
/// memory and the world.
pub struct Controller<'a> {
    shell: Shell<'a>,
    memory: Memory,
    saved: Memory,
    log: Log,
    number: u32,
    alarms: BTreeMap<String, Alarm>,
}

/// The memory and the log of a group's controllers.
async fn load(clients: &Clients, group: &str) -> Result<(Memory, Log), FleetError> {
    let names = [
        memory::parameter(group),
        memory::unknown_parameter(group),
        memory::log_parameter(group),
    ];
    let mut found = values(clients, names.to_vec()).await?;
    let [name, unknown, log] = names;
    let mut memory = match found.remove(&name) {
        Some(text) => Memory::from_json(&name, &text)?,
        None => Memory::default(),
    };
    // Neither is decided by: text that cannot be read is begun anew.
    let read = |text: Option<String>| text.unwrap_or_default();
    memory.unknown = serde_json::from_str(&read(found.remove(&unknown))).unwrap_or_default();
    let log = serde_json::from_str(&read(found.remove(&log))).unwrap_or_default();
    Ok((memory, log))
}

/// Looks at a fleet, and says what a tick would do. Changes nothing, and needs no lease.
///
/// # Errors
/// [`FleetError`].
pub async fn peek(shell: &Shell<'_>) -> Result<View, FleetError> {
    let clients = shell.clients;
    let (memory, log) = load(clients, &shell.group).await?;
    let world = look::look(clients, &shell.group, &memory, shell.source).await?;
    let world = world.ok_or_else(|| FleetError::NoGroup(shell.group.clone()))?;
    let now = clients.clock.now();
    let turn = Turn {
        epoch: memory.epoch,
        number: 0,
    };
    let mut plan = shell
        .brain
        .decide(&world, &shell.policy, &memory, turn, now);
    if let Err(refusal) = preflight::judge(&world, &shell.policy) {
        plan.alarms.insert(0, refused(&refusal));
    }
    complete(&mut plan, &clients.commands);
    Ok(view(&world, &plan, &log, now))
}

/// Completes the commands of alarms: who decides knows of no connection.
fn complete(plan: &mut Plan, commands: &Commands) {
    for alarm in &mut plan.alarms {
        alarm.way_out = alarm.way_out.take().map(|text| commands.complete(&text));
    }
}

/// What an alarm is about that says that there is no demand.
pub const NO_DEMAND: &str = "no demand";

fn refused(refusal: &Refusal) -> Alarm {
    Alarm {
        about: match refusal {
            Refusal::Nobody { .. } => NO_DEMAND.to_owned(),
            _ => "refused".to_owned(),
        },
        text: refusal.to_string(),
        way_out: Some(refusal.way_out()),
    }
}

impl<'a> Controller<'a> {
    /// Reads what the controller before has left.
    ///
    /// # Errors
    /// [`FleetError`].
    pub async fn open(shell: Shell<'a>, hold: &impl Hold) -> Result<Self, FleetError> {
        let (memory, log) = load(shell.clients, &shell.group).await?;
        let controller = Self {
            saved: memory.clone(),
            memory,
            log,
            number: 0,
            alarms: BTreeMap::new(),
            shell,
        };
        controller.emit(Event::Begun {
            group: controller.shell.group.clone(),
            epoch: hold.epoch(),
        });
        Ok(controller)
    }

    fn emit(&self, event: Event) {
        let at = self.shell.clients.clock.now();
        self.shell.sink.emit(Stamped { at, event });
    }

    /// One reconcile. Gives how many decisions were carried out.
    ///
    /// # Errors
    /// [`FleetError`]; what was done is on record, and the next tick looks anew.
    pub async fn tick(&mut self, hold: &mut impl Hold) -> Result<usize, FleetError> {
        let clients = self.shell.clients;
        hold.keep().await?;
        let group = self.shell.group.clone();
        let world = look::look(clients, &group, &self.memory, self.shell.source).await?;
        let world = world.ok_or_else(|| FleetError::NoGroup(group.clone()))?;
        preflight::judge(&world, &self.shell.policy)?;
        let now = clients.clock.now();
        self.number += 1;
        let turn = Turn {
            epoch: hold.epoch(),
            number: self.number,
        };
        let Shell { policy, brain, .. } = &self.shell;
        let mut plan = brain.decide(&world, policy, &self.memory, turn, now);
        complete(&mut plan, &clients.commands);
        self.observe(&world, &plan, now);
        // Looking has taken its time: whoever has lost the lease meanwhile does nothing.
        hold.keep().await?;
        self.memory.epoch = hold.epoch();
        for decision in &plan.decisions {
            self.memory.intend(decision, now);
        }
        self.save().await?;
        self.act(&plan.decisions).await?;
        self.save().await?;
        Ok(plan.decisions.len())
    }

    fn observe(&mut self, world: &World, plan: &Plan, now: Timestamp) {
        let before: Vec<String> = self.memory.ending.keys().cloned().collect();
        self.memory.observe(world, &plan.unknown(), now);
        for id in before {
            if self.memory.ends(&id).is_none() {
                self.emit(Event::Gone { id });
            }
        }
        self.raise(&plan.alarms);
        let view = view(world, plan, &self.log, now);
        self.emit(Event::Looked(Box::new(view)));
    }

    fn raise(&mut self, alarms: &[Alarm]) {
        for alarm in alarms {
            if !self.alarms.contains_key(&alarm.about) {
                self.emit(Event::Alarm {
                    alarm: alarm.clone(),
                });
            }
        }
        let over = |about: &&String| !alarms.iter().any(|alarm| alarm.about == **about);
        let over: Vec<String> = self.alarms.keys().filter(over).cloned().collect();
        for about in over {
            self.emit(Event::Cleared { about });
        }
        let alarms = alarms.iter();
        self.alarms = alarms
            .map(|alarm| (alarm.about.clone(), alarm.clone()))
            .collect();
    }

    /// Writes what has changed.
    async fn save(&mut self) -> Result<(), FleetError> {
        let (clients, group) = (self.shell.clients, &self.shell.group);
        let text = self.memory.to_json();
        if text != self.saved.to_json() {
            set(clients, memory::parameter(group), text).await?;
        }
        if self.memory.unknown != self.saved.unknown {
            let name = memory::unknown_parameter(group);
            set(clients, name, self.memory.unknown_json()).await?;
        }
        self.saved = self.memory.clone();
        Ok(())
    }

    async fn act(&mut self, decisions: &[Decision]) -> Result<(), FleetError> {
        let clients = self.shell.clients;
        let mut told_workers = Vec::new();
        for decision in decisions {
            self.emit(Event::Deciding {
                decision: decision.clone(),
            });
            let reply = match decision {
                Decision::Launch {
                    count, token, zone, ..
                } => act::launch(clients, &self.shell.group, *count, token, zone.as_ref()).await?,
                Decision::Terminate { id, decrement, .. } => {
                    act::terminate(clients, id, *decrement).await?
                }
                Decision::Cordon { .. } | Decision::Uncordon { .. } => {
                    told_workers.push(decision);
                    continue;
                }
            };
            self.learn(decision, reply);
        }
        if !told_workers.is_empty() {
            let mut replies = act::tell(clients, &told_workers).await?;
            for decision in told_workers {
                let id = decision.instance().unwrap_or_default();
                let reply = replies.remove(id);
                let silent = || Reply::Lost("it has not answered".to_owned());
                self.learn(decision, reply.unwrap_or_else(silent));
            }
        }
        if !decisions.is_empty() {
            let name = memory::log_parameter(&self.shell.group);
            let text = serde_json::to_string(&self.log).expect("a log has only text");
            // For people only: losing a line is no matter.
            let _ = set(clients, name, text).await;
        }
        Ok(())
    }

    fn learn(&mut self, decision: &Decision, reply: Reply) {
        let now = self.shell.clients.clock.now();
        self.memory.learn(decision, &reply, now);
        let mut line = told(decision);
        if let Reply::Refused(why) | Reply::Later(why) | Reply::Lost(why) = &reply {
            line = format!("{line} ({why})");
        }
        self.log.push(now, &line);
        self.emit(Event::Decided {
            decision: decision.clone(),
            reply,
        });
    }

    /// Ticks until somebody asks to stop.
    ///
    /// # Errors
    /// [`FleetError`]: the first tick failed, or the lease is lost. A later tick that fails is told, and the next one
    /// looks anew.
    pub async fn run(
        &mut self,
        hold: &mut impl Hold,
        mut cancel: Cancel,
    ) -> Result<(), FleetError> {
        let clock = self.shell.clients.clock.clone();
        let mut first = true;
        loop {
            let started = clock.now();
            // A tick may be dropped anywhere.
            let ticked = tokio::select! {
                ticked = self.tick(hold) => ticked,
                () = cancel.cancelled() => return Ok(()),
            };
            match ticked {
                Ok(_) => first = false,
                Err(error @ FleetError::Lost(_)) => return Err(error),
                Err(error) if first => return Err(error),
                Err(FleetError::Refused(refusal)) => self.raise(&[refused(&refusal)]),
                Err(error) => self.emit(Event::Failed {
                    error: error.to_string(),
                }),
            }
            let passed = clock.now().duration_since(started);
            let passed = Duration::try_from(passed).unwrap_or_default();
            let pause = self.shell.policy.interval.saturating_sub(passed);
            tokio::select! {
                () = clock.sleep(pause) => {}
                () = cancel.cancelled() => return Ok(()),
            }
        }
    }
}
