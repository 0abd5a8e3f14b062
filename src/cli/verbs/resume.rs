//! `bake --resume`: a bake whose process has died is gone on with, by the plan that it had.

use std::path::{Path, PathBuf};

use tokio::sync::mpsc::UnboundedSender;

use super::bake::{Way, done, told, watched};
use super::plan::{Order, Wishes};
use super::runs::{existing, name_of};
use super::saved;
use crate::aws::tags;
use crate::bake::checkpoint::{BOOT, PROVISION, SEAL, SEND, STOP, TEST, VALIDATE};
use crate::bake::names::RunId;
use crate::bake::plan::{Plan, again};
use crate::bake::saved::{Outcome, Saved, path_of};
use crate::bake::{self, NotResumable, Settings, Stamped};
use crate::cli::context::{Connected, Context, cloud};
use crate::cli::error::{CliError, CliResult};
use crate::cli::locked::supply;
use crate::cli::{exit, output};
use crate::journal::{self, Journal, Ledger, RunState};
use crate::recipe::model::BaseRef;

/// `wanted` is the id of a run, or empty.
pub async fn run(context: &Context, wanted: &str, keep_on_failure: bool) -> CliResult {
    let connected = context.connect_to_act().await?;
    let path = match wanted {
        "" => only(context, &connected)?,
        run => existing(context, run)?,
    };
    let ledger = journal::read(&path).map_err(|error| unreadable(&error))?;
    bake::resumable(&ledger, &connected.clients, &connected.account.id)
        .map_err(|why| refused(context, &why))?;
    // What was read without it may have changed since.
    let journal = Journal::adopt(&path).map_err(|error| unreadable(&error))?;
    let ledger = journal.ledger();
    bake::resumable(ledger, &connected.clients, &connected.account.id)
        .map_err(|why| refused(context, &why))?;
    let header = ledger
        .header()
        .expect("a run that is resumable has a header");
    let run = RunId::of(header);
    alone(context, &path, &header.digest)?;
    if let Some(local) = &connected.local {
        // Or a clean-up would take its machines for those of a process that is gone.
        local.adopt(tags::RUN, run.as_str()).map_err(|error| {
            CliError::failure("cannot write the local cloud's records").because(&error)
        })?;
    }
    let saved = kept_plan(context, &run)?;
    let order = Order::from(&saved).pinned(&connected)?;
    supply(context, &connected, &[&order], false).await?;
    let wishes = Wishes::from(&saved);
    let plan = plan_again(context, &connected, &saved, (&order, &wishes), &run).await?;
    if plan.digest != header.digest {
        return Err(CliError::new(
            exit::MISMATCH,
            format!("the plan that was kept for the run {run} is another than the run's"),
        )
        .hint(clean_up(context, run.as_str())));
    }
    output::note(&format!("going on with the run {run}: {}", so_far(ledger)));
    let way = Way {
        run: Some(run),
        ..Way::alone(context, keep_on_failure)?
    };
    let clients = &connected.clients;
    let act = async |settings: Settings<'_>, sink: &UnboundedSender<Stamped>| {
        bake::resume(clients, &plan, journal, settings, sink).await
    };
    let (result, returned) = watched(context, &connected, &plan, way, act).await?;
    let baked = told(context, &connected, &plan, result, returned).await?;
    done(context, &plan, &baked)
}

/// The plan as it was, on the images as they were.
async fn plan_again(
    context: &Context,
    connected: &Connected,
    saved: &Saved,
    (order, wishes): (&Order, &Wishes),
    run: &RunId,
) -> Result<Plan, CliError> {
    let gone = |id: &str| {
        CliError::failure(format!(
            "the run {run} cannot be gone on with: the image {id}, on which it stands, is not there any more"
        ))
        .hint(clean_up(context, run.as_str()))
    };
    let Outcome::Bake {
        image_name,
        base,
        start,
        stale,
    } = &saved.outcome
    else {
        return Err(CliError::new(
            exit::MISMATCH,
            format!("the plan that was kept for the run {run} is that of no bake"),
        )
        .hint(clean_up(context, run.as_str())));
    };
    let clients = &connected.clients;
    let base = bake::resolve(
        clients,
        &BaseRef::Ami { id: base.clone() },
        &order.image().architecture,
    )
    .await
    .map_err(|error| match &error {
        bake::BaseError::Cloud(error) => cloud(error),
        _ => gone(base),
    })?;
    let start = bake::images::get(clients, start)
        .await
        .map_err(|error| cloud(&error))?
        .ok_or_else(|| gone(start))?;
    let mut unfinished = Vec::new();
    for id in stale {
        let image = bake::images::get(clients, id).await;
        let image = image.map_err(|error| cloud(&error))?;
        unfinished.extend(image.filter(|image| !image.is_ready()));
    }
    let target = order.target(connected, base, wishes);
    again(&target, image_name.clone(), start, unfinished)
        .map_err(|error| CliError::failure(error.to_string()).hint(clean_up(context, run.as_str())))
}

/// Refuses while another run bakes the same.
fn alone(context: &Context, path: &Path, digest: &str) -> Result<(), CliError> {
    let runs = journal::runs(&context.runs()).map_err(|error| unreadable(&error))?;
    let other = runs.iter().find(|run| {
        let header = run.ledger.header();
        run.state == RunState::Alive
            && run.path != path
            && header.is_some_and(|header| header.digest == digest)
    });
    match other {
        None => Ok(()),
        Some(other) => Err(CliError::new(
            exit::LEASE_HELD,
            format!(
                "run {} bakes this digest at the moment; wait for it, or stop it",
                name_of(&other.path)
            ),
        )),
    }
}

/// The plan that was kept for a run.
fn kept_plan(context: &Context, run: &RunId) -> Result<Saved, CliError> {
    let path = path_of(&context.runs(), run.as_str());
    let file = std::fs::File::open(&path).map_err(|error| {
        CliError::failure(format!(
            "the run {run} cannot be gone on with: its plan is not there"
        ))
        .because(&error)
        .hint(clean_up(context, run.as_str()))
    })?;
    saved::read(file, &path).map_err(|error| error.hint(clean_up(context, run.as_str())))
}

/// The journal of the one run that can be gone on with here.
fn only(context: &Context, connected: &Connected) -> Result<PathBuf, CliError> {
    let runs = journal::runs(&context.runs()).map_err(|error| unreadable(&error))?;
    let mut found = runs.into_iter().filter(|run| {
        bake::can_be_resumed(run)
            && bake::resumable(&run.ledger, &connected.clients, &connected.account.id).is_ok()
    });
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.path),
        (None, _) => Err(CliError::failure("there is no bake to go on with")
            .hint("`piaas-bake runs` lists the runs, and what became of them")),
        (Some(first), Some(second)) => {
            let all = [first, second].into_iter().chain(found);
            let names: Vec<String> = all.map(|run| name_of(&run.path)).collect();
            Err(CliError::new(
                exit::USAGE,
                format!(
                    "{} bakes can be gone on with: {}",
                    names.len(),
                    names.join(", ")
                ),
            )
            .hint(format!(
                "name one of them: piaas-bake bake --resume {}",
                names[0]
            )))
        }
    }
}

fn clean_up(context: &Context, run: &str) -> String {
    let gc = context.commands().own(&format!("cloud gc --run {run}"));
    format!("remove what it left, and bake anew: {gc}")
}

fn refused(context: &Context, why: &NotResumable) -> CliError {
    let error = CliError::failure(why.to_string());
    match why {
        NotResumable::Over { .. } | NotResumable::Empty => {
            error.hint("`piaas-bake runs` lists the runs")
        }
        NotResumable::Elsewhere { .. } => {
            error.hint("choose that with --cloud, --profile and --region")
        }
        NotResumable::Undoing { run, .. }
        | NotResumable::NoBake { run, .. }
        | NotResumable::Old { run } => error.hint(clean_up(context, run)),
    }
}

fn unreadable(error: &journal::Error) -> CliError {
    match error {
        journal::Error::Alive { .. } => CliError::new(exit::LEASE_HELD, error.to_string()),
        _ => CliError::failure("cannot read the runs").because(error),
    }
}

/// How far a run had come, in words.
fn so_far(ledger: &Ledger) -> String {
    // As a bake passes them.
    const PARTS: [(&str, &str); 7] = [
        (TEST, "its image is tested"),
        (STOP, "its builder is sealed and stopped"),
        (SEAL, "its builder is sealed"),
        (VALIDATE, "its steps have run and are validated"),
        (PROVISION, "its steps have run"),
        (SEND, "its builder has the bundle"),
        (BOOT, "its builder has booted"),
    ];
    let part = PARTS
        .into_iter()
        .find(|(name, _)| ledger.checkpoint(name).is_some());
    let words = part.map_or("it had hardly begun", |(_, words)| words);
    match ledger.resumed() {
        0 => words.to_owned(),
        1 => format!("{words}; it was gone on with once before"),
        more => format!("{words}; it was gone on with {more} times before"),
    }
}
