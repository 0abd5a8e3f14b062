//! Ctrl-C and SIGTERM: the first asks the work to stop and undo, the second ends the process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::error::CliError;
use super::{exit, output};

/// Turns true at the first Ctrl-C or SIGTERM. A second one ends the process with `last_words` on stderr.
///
/// # Errors
/// The signals cannot be listened to.
pub fn watch_signals(last_words: String) -> Result<watch::Receiver<bool>, CliError> {
    let refused = |error: std::io::Error| CliError::failure("cannot listen for signals").because(&error);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        let mut seen = 0;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            seen += 1;
            if seen == 1 {
                output::note("\nstopping: what was created is being removed; interrupt again to stop at once");
                sender.send_replace(true);
            } else {
                output::note(&last_words);
                std::process::exit(i32::from(exit::INTERRUPTED));
            }
        }
    });
    Ok(receiver)
}
