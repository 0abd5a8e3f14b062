//! Runs that are no bakes: they make machines for a while, and mostly leave nothing.

use super::engine::{Settings, header, open, undo};
use super::error::{BakeError, Failure, LeftOver};
use super::event::{Event, Phase};
use super::plan::Plan;
use super::run::Run;
use crate::aws::Clients;
use crate::events::Sink;
use crate::journal::{self, IntentId, Journal};

/// A run that is no bake, from its journal to the removal of what it has made: gives what `act` gives, and what could not be
/// removed. `act` also says what is to stay.
///
/// # Errors
/// [`BakeError`]; everything that the run created has been removed then, but for what it lists as left over.
pub(super) async fn errand<T>(
    clients: &Clients,
    plan: &Plan,
    purpose: &'static str,
    settings: Settings<'_>,
    sink: &dyn Sink<Event>,
    act: impl AsyncFnOnce(&mut Run<'_>) -> Result<(T, Vec<IntentId>), Failure>,
) -> Result<(T, Vec<LeftOver>), BakeError> {
    let log_path = settings.runs.join(format!("{}.log", settings.run));
    let failed = |failure, phase, last_lines, left_over| BakeError {
        failure,
        phase,
        last_lines,
        log: log_path.clone(),
        left_over,
        kept: None,
        finished: None,
    };
    let begun = Journal::create(settings.runs, header(clients, plan, &settings, purpose));
    let mut run = begun
        .map_err(Failure::from)
        .and_then(|journal| open(clients, plan, settings, journal, &log_path, sink))
        .map_err(|failure| failed(failure, None, Vec::new(), Vec::new()))?;
    run.emit(Event::Note {
        text: format!("run {}, log {}", run.id, log_path.display()),
    });
    let outcome = match act(&mut run).await {
        Ok((given, kept)) => run.keep(kept).map(|()| given),
        Err(failure) => Err(failure),
    };
    let phase = run.phase();
    let last_lines = run.tail.to_vec();
    match &outcome {
        Ok(_) => {
            // A wish to stop comes too late to undo anything here.
            let _stopping = run.enter(Phase::Release);
        }
        Err(failure) => {
            run.emit(Event::Undoing {
                reason: failure.to_string(),
                kept: None,
            });
            let _later = run.pass(journal::UNDOING, &failure.to_string());
        }
    }
    let left_over = undo(&mut run, &[]).await;
    run.leave();
    if left_over.is_empty() {
        // The lock alone ends the run as well; a later clean-up would find nothing to do.
        let _later = run.journal.end("undone", run.now());
    }
    match outcome {
        Ok(given) => Ok((given, left_over)),
        Err(failure) => {
            run.emit(Event::Failed {
                error: failure.to_string(),
            });
            Err(failed(failure, phase, last_lines, left_over))
        }
    }
}
