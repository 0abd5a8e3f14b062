//! Runs whose process is gone: what is left of them, and its removal.

use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use super::checkpoint;
use super::error::LeftOver;
use super::event::Event;
use super::finished;
use super::saved;
use super::undo::Undo;
use crate::aws::{Clients, Commands};
use crate::events::Sink;
use crate::journal::{self, Journal, RunFile, RunHeader, RunState};

/// Why a run that died is undone: nobody went on with it.
const CLEANED_UP: &str = "its process died, and a clean-up came before anybody went on with it";

/// What became of a run that had died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadRun {
    pub run: String,
    pub recipe: String,
    /// Set where the run acted elsewhere (cloud, account, region): nothing was done about it.
    pub elsewhere: Option<String>,
    /// The image that the run had finished, and that stays.
    pub image: Option<String>,
    pub left_over: Vec<LeftOver>,
}

/// Removes what dead runs left, by their journals; runs of another account, region or cloud are only named.
///
/// # Errors
/// [`journal::Error`] if a journal cannot be read.
pub async fn undo_dead_runs(
    clients: &Clients,
    account: &str,
    runs: &Path,
    sink: &dyn Sink<Event>,
) -> Result<Vec<DeadRun>, journal::Error> {
    let mut all = Vec::new();
    for file in journal::runs(runs)? {
        if file.state == RunState::Dead {
            all.extend(undo_dead_run(clients, account, &file.path, sink).await?);
        }
    }
    Ok(all)
}

/// The same for the run of this journal. `None` if it lives, or died before it wrote a word.
///
/// # Errors
/// [`journal::Error`] if the journal cannot be read.
pub async fn undo_dead_run(
    clients: &Clients,
    account: &str,
    path: &Path,
    sink: &dyn Sink<Event>,
) -> Result<Option<DeadRun>, journal::Error> {
    let mut journal = match Journal::adopt(path) {
        Err(journal::Error::Alive { .. }) => return Ok(None),
        other => other?,
    };
    let Some(header) = journal.ledger().header().cloned() else {
        // It died before it wrote a word.
        let _already_gone = std::fs::remove_file(path);
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        forget_plan(runs_of(path), &name);
        return Ok(None);
    };
    if journal.ledger().result().is_some() {
        // It was gone on with, and has come to its end, since somebody looked.
        return Ok(None);
    }
    let mut dead = DeadRun {
        run: header.run.clone(),
        recipe: header.recipe.clone(),
        elsewhere: None,
        image: None,
        left_over: Vec::new(),
    };
    dead.elsewhere = elsewhere(&header, clients, account);
    if dead.elsewhere.is_none() {
        let undo = Undo {
            clients,
            sink,
            seed: 0,
        };
        let is_finished = undo.settle(&mut journal).await;
        dead.image = finished::finished(journal.ledger()).map(str::to_owned);
        if journal.ledger().checkpoint(journal::UNDOING).is_none() {
            // What is removed cannot be gone on with, also if this does not come to its end.
            journal.checkpoint(journal::UNDOING, CLEANED_UP, clients.clock.now())?;
        }
        dead.left_over = undo.all(&mut journal, &[], is_finished).await;
        if journal.ledger().to_undo().is_empty() {
            let result = finished::result(journal.ledger());
            journal.end(result, clients.clock.now())?;
        }
        drop(journal);
        forget_plan(runs_of(path), &dead.run);
    }
    Ok(Some(dead))
}

/// Where a run acted (cloud, account, region), if that is not here.
#[must_use]
pub fn elsewhere(header: &RunHeader, clients: &Clients, account: &str) -> Option<String> {
    let here = [clients.cloud, account, &clients.region].join(" ");
    let there = [&*header.cloud, &header.account, &header.region].join(" ");
    (here != there).then_some(there)
}

/// What a live or dead run has created and not removed yet, for a process that must stop at once.
#[must_use]
pub fn unfinished(ledger: &journal::Ledger, commands: &Commands) -> Vec<LeftOver> {
    super::undo::describe(&finished::to_remove(ledger), commands)
}

/// Until when a run has kept the machine that it failed on, for somebody to look at.
#[must_use]
pub fn kept_until(ledger: &journal::Ledger) -> Option<Timestamp> {
    ledger.checkpoint(checkpoint::KEPT)?.parse().ok()
}

/// Removes the plan that was kept for whoever might have to go on with a run, once the run is over or cannot be gone on with.
pub fn forget_plan(runs: &Path, run: &str) {
    let journal = journal::read(&journal::path_of(runs, run));
    let needed = journal.is_ok_and(|ledger| {
        ledger.result().is_none() && ledger.checkpoint(journal::UNDOING).is_none()
    });
    if !needed {
        // One that stays takes a little room, until the run's journal is removed as well.
        let _stays = std::fs::remove_file(saved::path_of(runs, run));
    }
}

/// Whether a run can be gone on with where it was begun ([`elsewhere`]): it is a bake that died as it worked, and its plan
/// is there.
#[must_use]
pub fn can_be_resumed(run: &RunFile) -> bool {
    let name = run.path.file_stem().unwrap_or_default().to_string_lossy();
    run.state == RunState::Dead
        && is_under_way(&run.ledger).is_ok()
        && saved::path_of(runs_of(&run.path), &name).exists()
}

/// The directory of a journal.
fn runs_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// Why nobody can go on with a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotResumable {
    #[error("the run {run} is over ({result})")]
    Over { run: String, result: String },
    #[error("the run {run} failed, and its clean-up has begun: {reason}")]
    Undoing { run: String, reason: String },
    #[error("the run {run} is no bake but a `{purpose}`, which is begun anew")]
    NoBake { run: String, purpose: String },
    #[error("the run {run} was begun by a piaas-bake that could not be resumed")]
    Old { run: String },
    #[error("the run died before its first word, and has made nothing")]
    Empty,
    #[error("the run {run} acts on {place}")]
    Elsewhere { run: String, place: String },
}

/// Whether a bake of this process could go on with a run, as far as its journal tells.
///
/// # Errors
/// [`NotResumable`].
pub fn resumable(
    ledger: &journal::Ledger,
    clients: &Clients,
    account: &str,
) -> Result<(), NotResumable> {
    let header = is_under_way(ledger)?;
    let run = header.run.clone();
    match elsewhere(header, clients, account) {
        Some(place) => Err(NotResumable::Elsewhere { run, place }),
        None => Ok(()),
    }
}

fn is_under_way(ledger: &journal::Ledger) -> Result<&RunHeader, NotResumable> {
    let Some(header) = ledger.header() else {
        return Err(NotResumable::Empty);
    };
    let run = header.run.clone();
    if let Some(result) = ledger.result() {
        let result = result.to_owned();
        return Err(NotResumable::Over { run, result });
    }
    if header.purpose != journal::BAKE {
        let purpose = header.purpose.clone();
        return Err(NotResumable::NoBake { run, purpose });
    }
    if !header.has_checkpoints() {
        return Err(NotResumable::Old { run });
    }
    if let Some(reason) = ledger.checkpoint(journal::UNDOING) {
        let reason = reason.to_owned();
        return Err(NotResumable::Undoing { run, reason });
    }
    Ok(header)
}
