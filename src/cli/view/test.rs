//! The events of a boot proof on a screen.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use super::progress::Progress;
use crate::events::Stamped;
use crate::vm::event::Event;

/// Shows events until the stream ends.
pub async fn show(mut events: UnboundedReceiver<Stamped<Event>>, mut progress: Progress) {
    while let Some(Stamped { event, .. }) = events.recv().await {
        one(&mut progress, event);
    }
}

fn one(progress: &mut Progress, event: Event) {
    match event {
        Event::Started {
            image_name,
            accelerator,
            ..
        } => progress.note(&format!(
            "booting {image_name} in QEMU, with {}",
            accelerator.as_str()
        )),
        Event::PhaseStarted { phase } => progress.begin(phase.title()),
        Event::PhaseFinished {
            phase,
            milliseconds,
        } => progress.done(phase.title(), Duration::from_millis(milliseconds)),
        Event::StepStarted {
            number,
            total,
            title,
            attempt,
        } => progress.script(number, total, &title, attempt),
        Event::StepFinished {
            title,
            exit_code: 0,
            seconds,
        } => progress.step(&title, seconds),
        Event::StepFinished {
            title, exit_code, ..
        } => progress.note(&format!("  {title}: exit code {exit_code}")),
        Event::Output { line } => progress.output(&line),
        Event::Checked { check } if check.passed => {
            progress.note(&format!("  {}: {}", check.name, check.detail));
        }
        Event::Checked { check } => progress.failed(&format!("{}: {}", check.name, check.detail)),
    }
}
