//! Ctrl-C and SIGTERM: the first asks the work to stop and undo, the second ends the process at once.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::context::Context;
use super::error::CliError;
use super::output;

/// Calls `stop` at the first Ctrl-C or SIGTERM, for work that needs no undoing.
///
/// # Errors
/// The signals cannot be listened to.
pub fn on_signal(stop: impl FnOnce() + Send + 'static) -> Result<(), CliError> {
    let (mut interrupt, mut terminate) = listen()?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop();
    });
    Ok(())
}

/// Calls `stop` at the first Ctrl-C or SIGTERM. A second one ends the process at once, and `last_words` say what is left.
///
/// # Errors
/// The signals cannot be listened to.
pub fn watch_signals(
    context: &Context,
    stop: impl Fn() + Send + 'static,
    last_words: impl Fn() -> CliError + Send + 'static,
) -> Result<(), CliError> {
    let (reader, style, commands) = (context.format, context.err, context.commands());
    let (mut interrupt, mut terminate) = listen()?;
    tokio::spawn(async move {
        let mut asked = false;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if asked {
                let error = last_words().complete(&commands);
                output::failure(&error, reader, style);
                std::process::exit(i32::from(error.code));
            }
            asked = true;
            output::note(
                "stopping: what was created is being removed; interrupt again to stop at once",
            );
            stop();
        }
    });
    Ok(())
}

fn listen() -> Result<(Signal, Signal), CliError> {
    let refused =
        |error: std::io::Error| CliError::failure("cannot listen for signals").because(&error);
    let interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
    let terminate = signal(SignalKind::terminate()).map_err(refused)?;
    Ok((interrupt, terminate))
}
