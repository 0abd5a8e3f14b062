//! What the agent of a worker decides. Pure: time, observations and commands come in, decisions go out.
//!
//! The worker decides, controllers ask. A **cordon** says: take no more jobs. The agent passes it on to the CI agent
//! through an adapter, and looks. Once the CI agent has closed its intake, and a look that began after that found no job,
//! the worker is **drained**, and that is final: it takes no job any more, whatever it is told, across restarts of the
//! agent and of the machine. So whoever terminates a drained worker, however late, kills no job. An **uncordon** before
//! that makes it take jobs again; after it, it is refused.
//!
//! Every command has a **generation**. Controllers give each command a higher one than the last; the same command with
//! the same generation is a repeat. A command with a lower generation than the highest seen is refused: it is late, and
//! the one who sent it may be out of office.
//!
//! The shell around it may take commands at any time, but carries out orders and looks one at a time.
//!
//! A decision is in force only once it was kept on disk ([`Decision`], [`Agent::keep`]): what was never kept was never
//! said, and nothing was done because of it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, Unit};
use serde::{Deserialize, Serialize};

use super::status::{Cordon, Drained, SCHEMA, State, Status};

/// A look older than this says nothing about now.
pub const STALE: Duration = Duration::from_secs(30);

/// A point in time: the wall clock to tell people, and time since boot to measure with, which nobody sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub wall: Timestamp,
    pub up: Duration,
}

impl Moment {
    /// `up` later than the Unix epoch is as good a point as any: for simulations with one clock.
    #[must_use]
    pub fn of(wall: Timestamp) -> Self {
        let up = Duration::try_from(wall.as_duration()).unwrap_or_default();
        Self { wall, up }
    }
}

/// What one look at the CI agent found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub jobs: Jobs,
    pub intake: Intake,
}

/// Whether a job runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jobs {
    /// With their names, as far as there are any.
    Busy(Vec<String>),
    Idle,
    /// It cannot be told, and why.
    Unknown(String),
}

/// Whether a job can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intake {
    Open,
    /// It was told to close, and has not yet: one more job may start.
    Closing,
    /// No job can start.
    Closed,
    Unknown,
}

/// A look that has begun; its findings are handed in with it.
#[derive(Debug)]
pub struct Look(u64);

/// What must survive a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The instance that this is about; a state that came with the image of another instance is none.
    pub instance: Option<String>,
    /// The highest generation of all commands that were taken.
    pub generation: Option<u64>,
    pub cordon: Option<Cordon>,
    pub drained: Option<Drained>,
    /// It was uncordoned, and the CI agent has not been seen with an open intake since.
    pub reopening: bool,
}

/// A decision that is to be kept on disk, and then to be handed to [`Agent::keep`]. It is in force only after that.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a decision is in force only once it is kept"]
pub struct Decision {
    from: Kept,
    next: Kept,
}

impl Decision {
    /// What to write.
    #[must_use]
    pub fn to_keep(&self) -> &Kept {
        &self.next
    }

    /// Whether it changes anything; a repeated command does not.
    #[must_use]
    pub fn is_news(&self) -> bool {
        self.from != self.next
    }
}

/// A command is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("generation {given} is out of date: {seen} was seen already")]
    Stale { given: u64, seen: u64 },
    #[error("the worker is drained, which is final; terminate it")]
    Drained,
}

/// What the adapter is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Close the intake, and keep it closed. Repeating it must be harmless.
    Close,
    /// Open it again.
    Open,
}

/// What is known beside the agent's own state, for [`Agent::status`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    pub protected: Option<bool>,
    /// Something else that a person should know.
    pub note: Option<String>,
}

/// The state of an agent.
#[derive(Debug, Clone)]
pub struct Agent {
    kept: Kept,
    /// Number of the last look that has begun.
    begun: u64,
    /// The last look that has ended: what it saw, when.
    last: Option<(Seen, Moment)>,
    /// Since when the state is what it is, by time since boot.
    since: Duration,
    /// Looks after this number began after the order was carried out. None: it was not, or another order came.
    closed_by: Option<u64>,
    opened_by: Option<u64>,
    /// Looks after this number began after the intake was seen closed.
    seen_closed: Option<u64>,
}

impl Agent {
    /// An agent that starts on `instance`, with what it kept before.
    #[must_use]
    pub fn start(kept: Option<Kept>, instance: Option<String>, now: Moment) -> Self {
        let mut kept = kept.unwrap_or_default();
        let other = |kept: &str| instance.as_deref().is_some_and(|now| now != kept);
        if kept.instance.as_deref().is_some_and(other) {
            kept = Kept::default();
        }
        if instance.is_some() {
            kept.instance = instance;
        }
        Self {
            kept,
            begun: 0,
            last: None,
            since: now.up,
            closed_by: None,
            opened_by: None,
            seen_closed: None,
        }
    }

    /// What is in force.
    #[must_use]
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// The instance id, learnt after the start.
    pub fn name(&mut self, instance: String) {
        self.kept.instance.get_or_insert(instance);
    }

    /// Whether it takes no job any more, ever.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.kept.drained.is_some()
    }

    /// The command to take no more jobs. A later one renews the generation of an earlier one; what has been drained
    /// stays drained and answers to the later one too.
    ///
    /// # Errors
    /// [`Refused::Stale`].
    pub fn cordon(
        &self,
        generation: u64,
        reason: Option<String>,
        now: Moment,
    ) -> Result<Decision, Refused> {
        let repeat = |cordon: &Cordon| cordon.generation == generation;
        if let Some(seen) = self.kept.generation
            && generation <= seen
            && !self.kept.cordon.as_ref().is_some_and(repeat)
        {
            return Err(Refused::Stale {
                given: generation,
                seen,
            });
        }
        let mut next = self.kept.clone();
        next.generation = Some(generation);
        next.reopening = false;
        next.cordon = Some(match next.cordon.take() {
            Some(cordon) if cordon.generation == generation => cordon,
            Some(cordon) => Cordon {
                generation,
                reason,
                at: cordon.at,
            },
            None => Cordon {
                generation,
                reason,
                at: now.wall,
            },
        });
        if let Some(drained) = &mut next.drained {
            drained.generation = generation;
        }
        Ok(self.decision(next))
    }

    /// The command to take jobs again. Without a cordon there is nothing to do, and that is fine.
    ///
    /// # Errors
    /// [`Refused`]: it is late, not later than the cordon, or the worker is drained.
    pub fn uncordon(&self, generation: u64) -> Result<Decision, Refused> {
        if self.is_drained() {
            return Err(Refused::Drained);
        }
        if let Some(seen) = self.kept.generation
            && (generation < seen || (generation == seen && self.kept.cordon.is_some()))
        {
            return Err(Refused::Stale {
                given: generation,
                seen,
            });
        }
        let mut next = self.kept.clone();
        next.generation = Some(generation);
        next.reopening |= next.cordon.take().is_some();
        Ok(self.decision(next))
    }

    fn decision(&self, next: Kept) -> Decision {
        Decision {
            from: self.kept.clone(),
            next,
        }
    }

    /// A decision was kept: it is in force now. False if another one was kept since it was made; then it is void.
    #[must_use = "a void decision must be made anew"]
    pub fn keep(&mut self, decision: Decision) -> bool {
        if decision.from != self.kept {
            return false;
        }
        // An order that was carried out before stands only as long as it is the one that is wanted.
        if self.kept.cordon.is_some() != decision.next.cordon.is_some() {
            self.closed_by = None;
            self.opened_by = None;
            self.seen_closed = None;
        }
        self.kept = decision.next;
        true
    }

    /// A look at the CI agent begins.
    #[must_use = "its findings are handed in with it"]
    pub fn begin_look(&mut self) -> Look {
        self.begun += 1;
        Look(self.begun)
    }

    /// What a look found. Some: a decision follows.
    pub fn end_look(&mut self, look: Look, seen: Seen, now: Moment) -> Option<Decision> {
        if self.state(now) != state_of(&seen) {
            self.since = now.up;
        }
        let Look(number) = look;
        let after = |mark: Option<u64>| mark.is_some_and(|mark| number > mark);
        let empty = after(self.seen_closed)
            && seen.intake == Intake::Closed
            && seen.jobs == Jobs::Idle
            && self.kept.drained.is_none();
        match seen.intake {
            Intake::Closed if after(self.closed_by) => {
                self.seen_closed.get_or_insert(self.begun);
            }
            _ => self.seen_closed = None,
        }
        let open = seen.intake == Intake::Open && after(self.opened_by);
        self.last = Some((seen, now));
        let mut next = self.kept.clone();
        if empty && let Some(cordon) = &self.kept.cordon {
            next.drained = Some(Drained {
                generation: cordon.generation,
                at: now.wall,
            });
            return Some(self.decision(next));
        }
        if open && self.kept.reopening {
            next.reopening = false;
            return Some(self.decision(next));
        }
        None
    }

    /// What the adapter is to do now, if anything; asked for again until a look shows that it worked.
    #[must_use]
    pub fn order(&self) -> Option<Order> {
        let intake = self.last.as_ref().map(|(seen, _)| seen.intake);
        if self.kept.cordon.is_some() || self.is_drained() {
            let done = self.closed_by.is_some() && intake == Some(Intake::Closed);
            return (!done).then_some(Order::Close);
        }
        (self.kept.reopening && self.opened_by.is_none_or(|_| intake != Some(Intake::Open)))
            .then_some(Order::Open)
    }

    /// The adapter has carried out an order. Nothing is said of one that failed: it is asked for again.
    pub fn carried_out(&mut self, order: Order) {
        let wanted = self.kept.cordon.is_some() || self.is_drained();
        match order {
            Order::Close if wanted => {
                self.closed_by.get_or_insert(self.begun);
            }
            Order::Open if !wanted => {
                self.opened_by.get_or_insert(self.begun);
            }
            // A command came in between.
            _ => {}
        }
    }

    /// Whether the instance is to be protected from scale-in.
    #[must_use]
    pub fn wants_protection(&self) -> bool {
        !self.is_drained()
    }

    /// How the worker stands.
    #[must_use]
    pub fn status(&self, surroundings: &Surroundings, now: Moment) -> Status {
        let state = self.state(now);
        let (mut why, mut jobs) = (surroundings.note.clone(), Vec::new());
        match &self.last {
            None => why = Some("the agent has just started".to_owned()),
            Some((_, at)) if state == State::Unknown && stale(*at, now) => {
                let seconds = now.up.saturating_sub(at.up).as_secs();
                why = Some(format!("the last look was {seconds} s ago"));
            }
            Some((seen, _)) => match &seen.jobs {
                Jobs::Unknown(reason) => why = Some(reason.clone()),
                Jobs::Busy(names) => jobs.clone_from(names),
                Jobs::Idle => {}
            },
        }
        // A look that is out of date leaves nothing known since it was made.
        let since = match &self.last {
            Some((_, at)) if stale(*at, now) => at.up,
            _ => self.since,
        };
        // To the millisecond, so that two clocks read one after the other give the same answer twice.
        let rounded = |time: Timestamp| time.round(Unit::Millisecond).unwrap_or(time);
        let past = SignedDuration::try_from(now.up.saturating_sub(since)).unwrap_or_default();
        Status {
            schema: SCHEMA.to_owned(),
            state,
            since: self
                .last
                .as_ref()
                .and_then(|_| now.wall.checked_sub(past).ok())
                .map(rounded),
            why,
            jobs,
            cordon: self.kept.cordon.clone(),
            drained: self.kept.drained.clone(),
            protected: surroundings.protected,
            instance: self.kept.instance.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: rounded(now.wall),
        }
    }

    fn state(&self, now: Moment) -> State {
        match &self.last {
            Some((seen, at)) if !stale(*at, now) => state_of(seen),
            _ => State::Unknown,
        }
    }
}

fn stale(at: Moment, now: Moment) -> bool {
    now.up.saturating_sub(at.up) > STALE
}

fn state_of(seen: &Seen) -> State {
    match seen.jobs {
        Jobs::Busy(_) => State::Busy,
        Jobs::Idle => State::Idle,
        Jobs::Unknown(_) => State::Unknown,
    }
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
