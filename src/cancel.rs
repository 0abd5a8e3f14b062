//! Asking work to stop.

use tokio::sync::watch;

/// Asks. Cheap to clone; for a signal handler.
#[derive(Debug, Clone)]
pub struct Canceller(watch::Sender<bool>);

/// Hears it.
#[derive(Debug, Clone)]
pub struct Cancel(watch::Receiver<bool>);

/// A connected pair.
#[must_use]
pub fn pair() -> (Canceller, Cancel) {
    let (sender, receiver) = watch::channel(false);
    (Canceller(sender), Cancel(receiver))
}

impl Canceller {
    /// Asks the bake to stop and to remove what it created. Repeating it changes nothing.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }
}

impl Cancel {
    /// A bake that nobody stops.
    #[must_use]
    pub fn never() -> Self {
        pair().1
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }

    /// Completes once somebody asks; never, if the other side is gone.
    pub async fn cancelled(&mut self) {
        if self.0.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn asking_is_heard_before_and_after() {
        let (canceller, mut cancel) = pair();
        assert!(!cancel.is_cancelled());
        canceller.cancel();
        cancel.cancelled().await;
        assert!(cancel.is_cancelled());
    }
}
