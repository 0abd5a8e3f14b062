//! Commands with a time limit. What is still running then is killed, children included.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

/// The most output that is read.
const LARGEST: u64 = 64 * 1024;

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// None: a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
}

/// A shell command of the configuration.
#[must_use]
pub fn sh(text: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(text);
    command
}

/// Runs a command and reads what it says.
///
/// # Errors
/// It cannot be started, or it took too long.
pub async fn ask(mut command: Command, limit: Duration) -> Result<Ended, String> {
    command.stdout(Stdio::piped());
    let mut group = Group::spawn(&mut command)?;
    let stdout = group.0.stdout.take();
    let whole = async {
        let mut bytes = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(LARGEST).read_to_end(&mut bytes).await?;
        }
        Ok((group.0.wait().await?, bytes))
    };
    match tokio::time::timeout(limit, whole).await {
        Ok(Ok((status, bytes))) => Ok(Ended {
            code: status.code(),
            stdout: String::from_utf8_lossy(&bytes).into_owned(),
        }),
        Ok(Err(error)) => Err(broken(&error)),
        Err(_) => Err(late(limit)),
    }
}

/// Runs a command whose output goes to the journal; what it leaves behind goes on running.
///
/// # Errors
/// It cannot be started, or it took too long.
pub async fn tell(mut command: Command, limit: Duration) -> Result<Option<i32>, String> {
    // Both of them to the journal: stdout of the agent is for nobody else.
    command.stdout(Stdio::inherit());
    let mut group = Group::spawn(&mut command)?;
    match tokio::time::timeout(limit, group.0.wait()).await {
        Ok(Ok(status)) => {
            group.release();
            Ok(status.code())
        }
        Ok(Err(error)) => Err(broken(&error)),
        Err(_) => Err(late(limit)),
    }
}

fn broken(error: &std::io::Error) -> String {
    format!("cannot run it: {error}")
}

fn late(limit: Duration) -> String {
    format!("it did not end within {} s", limit.as_secs())
}

/// A command in a process group of its own, killed with all of it when this is dropped.
struct Group(Child, Option<Pid>);

impl Group {
    fn spawn(command: &mut Command) -> Result<Self, String> {
        let child = command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| broken(&error))?;
        let group = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self(child, group))
    }

    /// Lets what is left of it live.
    fn release(&mut self) {
        self.1 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.1 {
            // Nothing is left of most of them.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_gives_its_code_and_its_words() {
        let ended = ask(sh("echo one; echo two; exit 3"), Duration::from_secs(10)).await;
        assert_eq!(
            ended,
            Ok(Ended {
                code: Some(3),
                stdout: "one\ntwo\n".into()
            })
        );
        let code = tell(sh("exit 4"), Duration::from_secs(10)).await;
        assert_eq!(code, Ok(Some(4)));
    }

    #[tokio::test]
    async fn a_hung_command_ends_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let text = format!(
            "sleep 600 & echo $! >{0}.new; mv {0}.new {0}; wait",
            pid.display()
        );
        let late = ask(sh(&text), Duration::from_millis(500)).await;
        assert!(late.unwrap_err().contains("did not end"));
        let pid: i32 = std::fs::read_to_string(pid)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        // A zombie that nobody reaps has ended too.
        let runs = || {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z "))
        };
        while runs() {
            assert!(std::time::Instant::now() < deadline, "{pid} still runs");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
