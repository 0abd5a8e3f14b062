//! Readers of the event stream.

pub mod bake;
pub mod fleet;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod golden_groups;
pub mod progress;
pub mod roll;
pub mod test;
pub mod text;

use tokio::sync::mpsc::UnboundedReceiver;

use super::lines::Told;
use super::output;
use crate::events::Stamped;

/// Writes events as lines of ndjson until the stream ends. A reader that has gone does not stop the work.
pub async fn write_lines<E>(mut events: UnboundedReceiver<Stamped<E>>, told: impl Fn(E) -> Told) {
    while let Some(event) = events.recv().await {
        let _ = output::line(&Told::line(event, &told));
    }
}
