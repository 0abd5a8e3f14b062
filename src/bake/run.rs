//! One run under way: its journal, its events, its log, its limits. The phases act through this.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use super::checkpoint::COMMANDS;
use super::engine::Disks;
use super::error::Failure;
use super::event::{Event, Phase, Resource, Stamped};
use super::follow::Tail;
use super::names::{BundleStore, RunId, client_token};
use super::plan::Plan;
use super::undo::Undo;
use crate::aws::tags::{self, Tags};
use crate::aws::wait::{Pace, Patience};
use crate::aws::{self, Clients};
use crate::cancel::Cancel;
use crate::events::Sink;
use crate::journal::{Entry, Facts, IntentId, Journal, State};
use crate::lease::{self, Held, Hold as _, Lease};

/// Lines of a script's output that a failure repeats.
const LAST_LINES: usize = 20;

/// Facts that the undo reads back.
pub(crate) mod facts {
    /// Id of the run.
    pub const RUN: &str = "run";
    /// What a parameter held before; absent if it did not exist.
    pub const PREVIOUS: &str = "previous";
    /// What the run put there.
    pub const VALUE: &str = "value";
    /// After how many minutes a machine ends itself, and when anyone may remove it: a call that is repeated must say the
    /// same.
    pub const MINUTES: &str = "minutes";
    pub const EXPIRES: &str = "expires";
    /// Below what a lease lies.
    pub const PATH: &str = "path";
    /// Bucket and key of an object.
    pub const BUCKET: &str = "bucket";
    pub const KEY: &str = "key";
}

pub(super) struct Run<'a> {
    pub clients: &'a Clients,
    pub plan: &'a Plan,
    pub id: RunId,
    pub journal: Journal,
    pub sink: &'a dyn Sink<Event>,
    /// Where bundles are put for machines to fetch; `None`: they go in commands.
    pub bundles: Option<BundleStore>,
    /// Keep the layer of a script each time that so much work has been done since the last one; `None`: of none.
    pub layers: Option<Duration>,
    /// Where finished disks can be read.
    pub disks: Option<&'a dyn Disks>,
    /// When anyone may remove what this run leaves.
    pub expires: Timestamp,
    pub tail: Tail,
    /// That of its digest; it is given back with all that is removed in the end.
    pub lease: Option<Lease>,
    /// Commands that may still run on a machine, by what they are for: of the process that died.
    under_way: BTreeMap<String, String>,
    cancel: Cancel,
    deadline: Timestamp,
    log: Log,
    phase: Option<(Phase, Timestamp)>,
}

impl<'a> Run<'a> {
    pub fn new(
        clients: &'a Clients,
        plan: &'a Plan,
        id: RunId,
        journal: Journal,
        log: Log,
        sink: &'a dyn Sink<Event>,
        cancel: Cancel,
    ) -> Self {
        let now = clients.clock.now();
        Self {
            clients,
            plan,
            id,
            journal,
            sink,
            bundles: None,
            layers: None,
            disks: None,
            expires: plan.expires(now),
            tail: Tail::new(LAST_LINES),
            lease: None,
            under_way: BTreeMap::new(),
            cancel,
            deadline: deadline(plan, now),
            log,
            phase: None,
        }
    }

    /// What removes things of this run.
    pub fn undo(&self) -> Undo<'a> {
        Undo {
            clients: self.clients,
            sink: self.sink,
            seed: self.id.seed(),
        }
    }

    pub fn now(&self) -> Timestamp {
        self.clients.clock.now()
    }

    pub fn emit(&self, event: Event) {
        self.sink.emit(Stamped {
            at: self.now(),
            event,
        });
    }

    /// The phase under way.
    pub fn phase(&self) -> Option<Phase> {
        self.phase.map(|(phase, _)| phase)
    }

    /// Ends the phase under way and begins this one.
    pub fn enter(&mut self, phase: Phase) -> Result<(), Failure> {
        self.leave();
        self.check()?;
        self.phase = Some((phase, self.now()));
        self.emit(Event::PhaseStarted { phase });
        Ok(())
    }

    /// Ends the phase under way.
    pub fn leave(&mut self) {
        if let Some((phase, since)) = self.phase.take() {
            self.emit(Event::PhaseFinished {
                phase,
                milliseconds: milliseconds(since, self.now()),
            });
        }
    }

    /// Fails if somebody asked to stop or the time is up.
    pub fn check(&self) -> Result<(), Failure> {
        if self.cancel.is_cancelled() {
            return Err(Failure::Cancelled);
        }
        if self.now() >= self.deadline {
            return Err(Failure::TooLong {
                limit: self.plan.build.timeout,
            });
        }
        Ok(())
    }

    /// The limit of time begins now: what came before was another run's time.
    pub fn begin_time_anew(&mut self) {
        let now = self.now();
        self.expires = self.plan.expires(now);
        self.deadline = deadline(self.plan, now);
    }

    /// From here on the run goes to its end: a wish to stop, or its limit of time, comes too late.
    pub fn commit(&mut self) {
        self.cancel = Cancel::never();
        self.lease = None;
        self.deadline = Timestamp::MAX;
    }

    /// A wait of this run.
    pub fn pace(&self, patience: Patience) -> Pace {
        Pace::new(patience, self.id.seed())
    }

    /// Pauses until the next look, or until somebody asks to stop.
    pub async fn pause(&mut self, pace: &mut Pace, state: &str) -> Result<(), Failure> {
        self.check()?;
        let mut left = pace.after(self.now(), state)?;
        loop {
            self.renew().await?;
            let pause = left.min(lease::RENEWAL);
            tokio::select! {
                () = self.clients.clock.sleep(pause) => {}
                () = self.cancel.cancelled() => {}
            }
            self.check()?;
            left -= pause;
            if left.is_zero() {
                return Ok(());
            }
        }
    }

    /// The same for a caller whose own error tells more than that nothing has changed.
    pub async fn pause_after(
        &mut self,
        pace: &mut Pace,
        state: &str,
        error: aws::Error,
    ) -> Result<(), Failure> {
        match self.pause(pace, state).await {
            Err(Failure::Stalled(_)) => Err(error.into()),
            paused => paused,
        }
    }

    /// Keeps the lease of the run, if it has one.
    async fn renew(&mut self) -> Result<(), Failure> {
        let Some(lease) = &mut self.lease else {
            return Ok(());
        };
        match lease.keep().await {
            Ok(()) => Ok(()),
            // It holds for a while longer, and whoever takes it then is seen at the next renewal.
            Err(Held::Cloud(error)) if error.is_transient() => Ok(()),
            Err(held) => {
                self.lease = None;
                Err(held.into())
            }
        }
    }

    /// The token of a step of this run.
    pub fn token(&self, step: &str) -> String {
        client_token(&self.plan.digest, &self.id, step)
    }

    /// Tags of everything that this run creates.
    pub fn tags(&self, name: &str) -> Tags {
        let plan = self.plan;
        let mut all = Tags::new();
        tags::put(&mut all, tags::RUN, self.id.as_str());
        tags::put(&mut all, tags::RECIPE, &plan.recipe);
        tags::put(&mut all, tags::VERSION, &plan.version.to_string());
        tags::put(&mut all, tags::DIGEST, &plan.digest);
        tags::put(&mut all, tags::BASE_IMAGE, plan.root_image());
        tags::put(&mut all, tags::NAME, name);
        all
    }

    /// Tags of an image and of its snapshots: the recipe's labels, and ours. They have an end until the image is finished.
    pub fn image_tags(&self) -> Tags {
        let mut all = self.plan.labels.clone();
        // Ours have the last word; the recipe cannot name them anyway.
        all.extend(self.temporary_tags(&self.plan.image_name, self.expires));
        all
    }

    /// Tags of what does not outlast the run, and may be removed by anyone once its time is over.
    pub fn temporary_tags(&self, name: &str, expires: Timestamp) -> Tags {
        let mut all = self.tags(name);
        tags::put(&mut all, tags::EXPIRES, &expires.to_string());
        all
    }

    /// Goes on where a process has died: with the commands that it may have left under way.
    pub fn go_on(&mut self) {
        for name in COMMANDS {
            if let Some(id) = self.journal.ledger().checkpoint(name) {
                self.under_way.insert(name.to_owned(), id.to_owned());
            }
        }
    }

    /// What a part of the run left for the rest of it; `None` if it is still to be done.
    pub fn passed(&self, name: &str) -> Option<String> {
        self.journal.ledger().checkpoint(name).map(str::to_owned)
    }

    /// Writes down that a part of the run is done.
    pub fn pass(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        Ok(self.journal.checkpoint(name, value, self.now())?)
    }

    /// The command for something that another process of this run had sent, once.
    pub fn attach(&mut self, name: &str) -> Option<String> {
        self.under_way.remove(name)
    }

    /// Writes down that these stay.
    pub fn keep(&mut self, mut ids: Vec<IntentId>) -> Result<(), Failure> {
        let ledger = self.journal.ledger();
        ids.retain(|id| {
            ledger
                .entry(*id)
                .is_none_or(|entry| entry.state != State::Kept)
        });
        if !ids.is_empty() {
            self.journal.keep(ids, self.now())?;
        }
        Ok(())
    }

    /// What the run has of this already.
    pub fn standing(&self, kind: Resource, token: &str) -> Option<&Entry> {
        self.journal.ledger().standing(kind.as_str(), token)
    }

    /// Creates something: writes the intent, acts, writes the outcome. `call` gives the ids of what it made.
    ///
    /// A failure that does not say that nothing was made leaves the intent open: the undo will search for what it may have made.
    ///
    /// In a run that is gone on with, what is there is not made again; where nobody knows, the same call is made again, which is
    /// to find out: it has the same token.
    pub async fn create(
        &mut self,
        kind: Resource,
        token: &str,
        facts: Facts,
        call: impl Future<Output = Result<Vec<String>, aws::Error>>,
    ) -> Result<(IntentId, String), Failure> {
        let (intent, made) = self.attempt(kind, token, facts, call).await?;
        Ok((intent, made?))
    }

    /// As [`Run::create`], for a caller that has an answer to a refusal: gives the intent either way.
    pub async fn attempt(
        &mut self,
        kind: Resource,
        token: &str,
        mut facts: Facts,
        call: impl Future<Output = Result<Vec<String>, aws::Error>>,
    ) -> Result<(IntentId, Result<String, aws::Error>), Failure> {
        self.check()?;
        let intent = match self.standing(kind, token) {
            Some(Entry {
                id,
                state: State::Done | State::Kept,
                ids,
                ..
            }) => {
                let made = ids.first().map_or_else(|| token.to_owned(), String::clone);
                return Ok((*id, Ok(made)));
            }
            Some(open) => open.id,
            None => {
                facts.insert(facts::RUN.to_owned(), self.id.to_string());
                let now = self.now();
                self.journal.intent(kind.as_str(), token, facts, now)?
            }
        };
        match call.await {
            Ok(ids) => {
                self.journal.outcome(intent, ids.clone(), self.now())?;
                let id = ids.into_iter().next().unwrap_or_else(|| token.to_owned());
                self.emit(Event::Created {
                    kind,
                    id: id.clone(),
                });
                Ok((intent, Ok(id)))
            }
            Err(error) => {
                if error.did_nothing() {
                    self.journal
                        .failed(intent, &error.to_string(), self.now())?;
                }
                Ok((intent, Err(error)))
            }
        }
    }

    /// Writes a line to the run's log file.
    pub fn write_log(&mut self, line: &str) -> Result<(), Failure> {
        self.log.line(line)
    }

    /// The run's log file.
    pub fn log_path(&self) -> &Path {
        &self.log.path
    }
}

/// When a run that begins now has to be over.
fn deadline(plan: &Plan, now: Timestamp) -> Timestamp {
    now.checked_add(plan.build.timeout)
        .unwrap_or(Timestamp::MAX)
}

/// Whole milliseconds from one time to a later one.
pub(super) fn milliseconds(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_millis()).unwrap_or(0)
}

/// The file that gets the machines' whole output.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    /// A new one, or the one that is there, to be gone on with.
    pub fn open(path: PathBuf) -> Result<Self, Failure> {
        match File::options().append(true).create(true).open(&path) {
            Ok(file) => Ok(Self { file, path }),
            Err(source) => Err(Failure::Log { path, source }),
        }
    }

    fn line(&mut self, line: &str) -> Result<(), Failure> {
        writeln!(self.file, "{line}").map_err(|source| Failure::Log {
            path: self.path.clone(),
            source,
        })
    }
}
