//! The events of a bake on a screen, or as JSON lines.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use super::progress::Progress;
use crate::bake::event::Listing;
use crate::bake::{Event, Stamped};

/// Shows events until the stream ends.
pub async fn show(mut events: UnboundedReceiver<Stamped>, mut progress: Progress) {
    let mut failing = false;
    while let Some(Stamped { event, .. }) = events.recv().await {
        one(&mut progress, event, &mut failing);
    }
}

pub(super) fn one(progress: &mut Progress, event: Event, failing: &mut bool) {
    match event {
        Event::Started {
            run,
            image_name,
            start_image,
            ..
        } => {
            progress.note(&format!("baking {image_name}"));
            progress.note(&format!("  from {start_image}, run {run}"));
        }
        Event::PhaseStarted { phase } => progress.begin(phase.title()),
        Event::PhaseFinished {
            phase,
            milliseconds,
        } => {
            progress.done(phase.title(), Duration::from_millis(milliseconds));
        }
        Event::Note { text } => progress.note(&format!("  {text}")),
        Event::Waiting { what, state } => progress.at(&format!("{what}: {state}")),
        Event::Created { kind, id } => progress.at(&format!("{} {id}", kind.as_str())),
        Event::Removed { kind, id } if *failing => {
            progress.note(&format!("  removed {} {id}", kind.as_str()))
        }
        Event::Removed { kind, id } => progress.at(&format!("removed {} {id}", kind.as_str())),
        Event::StepStarted {
            number,
            total,
            title,
            attempt,
            ..
        } => progress.script(number, total, &title, attempt),
        Event::StepSkipped { title, .. } => progress.note(&format!("  done before: {title}")),
        Event::StepRetried {
            title, exit_code, ..
        } => {
            progress.note(&format!("  {title}: exit code {exit_code}, trying again"));
        }
        Event::StepFinished {
            title,
            exit_code: 0,
            seconds,
            ..
        } => progress.step(&title, seconds),
        Event::StepFinished {
            title, exit_code, ..
        } => progress.note(&format!("  {title}: exit code {exit_code}")),
        Event::Output { line } => progress.output(&line),
        Event::Snapshot { id, percent } => progress.at(&format!("snapshot {id}: {percent} %")),
        Event::Listing {
            image,
            doing,
            percent,
        } => {
            let doing = match doing {
                Listing::Read => "reading its files",
                Listing::Fetch => "fetching its list",
            };
            progress.at(&format!("{image}: {doing}, {percent} %"));
        }
        Event::Undoing { reason, kept } => {
            *failing = true;
            progress.failed(&reason);
            progress.begin(&match kept {
                Some(kept) => format!("removing what was created, but for {kept}"),
                None => "removing what was created".to_owned(),
            });
        }
        Event::LeftOver { kind, id, command } => {
            progress.note(&format!(
                "  left over: {} {id}; remove it with: {command}",
                kind.as_str()
            ));
        }
        // The verb itself prints the result and the failure.
        Event::Done { .. } => {}
        Event::Failed { .. } => progress.close(),
    }
}
