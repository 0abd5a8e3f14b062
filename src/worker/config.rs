//! What the agent is told about its machine: `/etc/piaas-worker/worker.json`, written by the bake.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where it is in an image.
pub const PATH: &str = "/etc/piaas-worker/worker.json";

/// Which CI agent runs on the machine, and how to talk to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "adapter", rename_all = "lowercase", deny_unknown_fields)]
pub enum Config {
    /// A worker of Buildbot.
    Buildbot(Buildbot),
    /// Whatever these commands talk to.
    Command(Command),
}

/// A worker of Buildbot as a unit of systemd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buildbot {
    /// Such as `buildbot-worker@ci.service`.
    pub unit: String,
    /// The file in which the worker reports what it does.
    pub report: PathBuf,
}

/// Commands for `/bin/sh`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Exit code 0: no job runs. 1: jobs run, each line of output names one. Anything else: it cannot be told.
    pub status: String,
    /// Makes the CI agent take no more jobs, and survives a reboot. Repeating it is harmless.
    pub stop: String,
    /// Exit code 0: it takes no more jobs. 1: it does. Anything else: it cannot be told.
    pub stopped: String,
    /// Makes the CI agent take jobs again. Repeating it is harmless.
    pub start: String,
    /// Seconds that each of them may take.
    pub timeout: u64,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}: {source}; bake the image with a `worker` section, or pass --config FILE", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} is not a configuration of piaas-worker: {source}", path.display())]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_path_buf(),
            source,
        })?;
        serde_json::from_str(&text).map_err(|source| Error::Parse {
            path: path.to_path_buf(),
            source,
        })
    }

    /// The text of the file.
    #[must_use]
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string_pretty(self).expect("texts and numbers are JSON");
        format!("{json}\n")
    }
}
