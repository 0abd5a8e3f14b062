//! Readers of the event stream.

pub mod bake;
pub mod fleet;
pub mod progress;
pub mod roll;
pub mod text;

use serde::Serialize;
use tokio::sync::mpsc::UnboundedReceiver;

use super::output;
use crate::events::Stamped;

/// Writes events as JSON lines until the stream ends. A reader that has gone does not stop the work.
pub async fn write_json<E: Serialize>(mut events: UnboundedReceiver<Stamped<E>>) {
    while let Some(event) = events.recv().await {
        let _ = output::json_line(&event);
    }
}
