//! The write-ahead log of a run: what it is about to create, what came of it, what has been undone.
//!
//! One file per run, `<state>/runs/<run-id>.jsonl`, append-only, one checksummed JSON record per line, each flushed
//! to disk before the next thing happens. A run holds an exclusive `flock` on its file as long as it lives, so a
//! file without an end whose lock is free belongs to a run that died; its ledger says what to undo.
//!
//! The journal knows nothing of clouds: a kind, a client token and ids are plain strings to it.

mod file;
mod ledger;
mod record;

#[cfg(any(test, feature = "fuzz"))]
pub(crate) use file::{Broken, replay};
pub use file::{Journal, RunFile, RunState, inspect, path_of, paths, read, records, runs};
pub use ledger::{Entry, Illegal, Ledger, State, UNDOING};
pub use record::{BAKE, FORMAT, Facts, IntentId, Record, RunHeader};
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use record::{decode, encode};

/// The journal could not be written, read or understood.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("cannot {action} the journal {path}: {source}")]
    Io {
        action: &'static str,
        path: std::path::PathBuf,
        source: std::io::Error,
    },
    /// A record before the last one does not match its checksum, or is not a record.
    #[error(
        "the journal {path} is damaged at line {line}; look at what the run left with \
         `piaas-bake images list` and your cloud's console, then move the file away"
    )]
    Damaged {
        path: std::path::PathBuf,
        line: usize,
    },
    /// The records do not follow from each other.
    #[error("the journal {path} does not add up: {source}")]
    Illegal {
        path: std::path::PathBuf,
        source: Illegal,
    },
    /// A later version of this program wrote it.
    #[error(
        "the journal {path} is of format {format}, and this piaas-bake knows those up to {FORMAT}; use the version that began \
         the run"
    )]
    Newer {
        path: std::path::PathBuf,
        format: u32,
    },
    /// Another process holds the run.
    #[error("the run in {path} is alive: another process holds its lock")]
    Alive { path: std::path::PathBuf },
}
