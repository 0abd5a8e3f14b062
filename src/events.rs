//! A stream of events with their times: what a bake, a roll and a fleet tell while they work. The terminal, JSON lines
//! and tests are its readers.

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedSender;

/// An event and when it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamped<E> {
    pub at: Timestamp,
    pub event: E,
}

/// A reader of the stream. It must not block: the work waits for it.
pub trait Sink<E>: Send + Sync {
    /// Takes the next event.
    fn emit(&self, event: Stamped<E>);
}

/// Nobody listens.
impl<E> Sink<E> for () {
    fn emit(&self, _: Stamped<E>) {}
}

/// Events go into a channel; a reader that has gone does not stop the work.
impl<E: Send> Sink<E> for UnboundedSender<Stamped<E>> {
    fn emit(&self, event: Stamped<E>) {
        let _gone = self.send(event);
    }
}
