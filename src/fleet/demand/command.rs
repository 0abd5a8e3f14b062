//! The queue as a command prints it: `{"queued": 3, "workers": {"i-…": "busy"}}`.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

use super::{Asked, Source};
use crate::fleet::world::{CiState, Demand};

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that are read of what it prints.
const LARGEST: u64 = 4 << 20;

/// A shell command that knows the queue.
#[derive(Debug)]
pub struct Script {
    command: String,
    patience: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Printed {
    queued: u32,
    workers: Option<BTreeMap<String, CiState>>,
}

/// A child in a process group of its own, which ends with this value.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let pid = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = pid.and_then(Pid::from_raw) {
            // What has gone by itself is not there to be killed.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Reads what a command has printed.
pub(crate) fn read(printed: &[u8]) -> Result<Demand, String> {
    let printed: Printed = serde_json::from_slice(printed).map_err(|error| {
        format!("the demand command printed something else than {{\"queued\": N, \"workers\": {{…}}}}: {error}")
    })?;
    Ok(Demand::Known {
        queued: printed.queued,
        workers: printed.workers,
    })
}

impl Script {
    /// A command for `/bin/sh -c`.
    #[must_use]
    pub fn new(command: String) -> Self {
        Self {
            command,
            patience: PATIENCE,
        }
    }

    async fn look(&self) -> Result<Demand, String> {
        let printed = tokio::time::timeout(self.patience, self.run()).await;
        let printed = printed.map_err(|_| {
            format!(
                "the demand command took longer than {} s",
                self.patience.as_secs()
            )
        })??;
        read(&printed)
    }

    async fn run(&self) -> Result<Vec<u8>, String> {
        let broken = |error: std::io::Error| format!("the demand command cannot be run: {error}");
        let child = Command::new("/bin/sh")
            .arg("-c")
            .arg(&self.command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(broken)?;
        let mut group = Group(child);
        let (stdout, stderr) = (group.0.stdout.take(), group.0.stderr.take());
        let (mut printed, mut complaint) = (Vec::new(), Vec::new());
        let (read, complained) = tokio::join!(
            async {
                match stdout {
                    Some(stdout) => stdout.take(LARGEST).read_to_end(&mut printed).await,
                    None => Ok(0),
                }
            },
            async {
                match stderr {
                    Some(stderr) => stderr.take(LARGEST).read_to_end(&mut complaint).await,
                    None => Ok(0),
                }
            }
        );
        read.and(complained).map_err(broken)?;
        let status = group.0.wait().await.map_err(broken)?;
        if status.success() {
            return Ok(printed);
        }
        let complaint = String::from_utf8_lossy(&complaint);
        let last = complaint
            .trim_end()
            .lines()
            .last()
            .unwrap_or("it said nothing");
        Err(format!("the demand command ended with {status}: {last}"))
    }
}

impl Source for Script {
    fn ask(&self) -> Asked<'_> {
        Box::pin(async { self.look().await.unwrap_or_else(Demand::Unreachable) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(command: &str) -> Demand {
        Script::new(command.to_owned()).ask().await
    }

    #[tokio::test]
    async fn a_command_gives_queue_and_workers_or_the_reason_why_not() {
        let known = ask(r#"echo '{"queued": 3, "workers": {"i-1": "busy"}}'"#).await;
        let workers = BTreeMap::from([("i-1".to_owned(), CiState::Busy)]);
        assert_eq!(
            known,
            Demand::Known {
                queued: 3,
                workers: Some(workers)
            }
        );
        for (command, reason) in [
            ("echo no >&2; exit 3", "exit status: 3: no"),
            ("echo '{\"queued\": -1}'", "invalid value"),
            ("echo '{\"queue\": 1}'", "unknown field"),
            (
                "echo '{\"queued\": 1, \"workers\": {\"i-1\": \"lazy\"}}'",
                "lazy",
            ),
        ] {
            let Demand::Unreachable(why) = ask(command).await else {
                panic!("{command}")
            };
            assert!(why.contains(reason), "{why}");
        }
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_ended_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = Script {
            command: format!("sleep 600 & echo $! > {}; wait", file.display()),
            patience: Duration::from_millis(500),
        };
        let Demand::Unreachable(why) = script.ask().await else {
            panic!()
        };
        assert!(why.contains("took longer"), "{why}");
        let pid = std::fs::read_to_string(file).unwrap();
        let stat = format!("/proc/{}/stat", pid.trim());
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        // Ended, though perhaps not collected by its new parent.
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(std::time::Instant::now() < deadline, "it still runs");
            tokio::task::yield_now().await;
        }
    }
}
