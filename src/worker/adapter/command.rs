//! A CI agent that is seen and told by commands of the recipe.

use std::time::Duration;

use super::shell::{self, Ended, sh};
use crate::worker::agent::{Intake, Jobs, Seen};
use crate::worker::config;

/// The adapter `command`.
#[derive(Debug)]
pub struct Command {
    config: config::Command,
}

impl Command {
    pub fn new(config: config::Command) -> Self {
        Self { config }
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(self.config.timeout.max(1))
    }

    /// The intake first: a job that starts before it closes is seen by the question after it.
    pub async fn look(&self) -> Seen {
        let stopped = shell::tell(sh(&self.config.stopped), self.limit()).await;
        let status = shell::ask(sh(&self.config.status), self.limit()).await;
        Seen {
            jobs: jobs(status),
            intake: intake(&stopped),
        }
    }

    pub async fn close(&self) -> Result<(), String> {
        self.tell("stop", &self.config.stop).await
    }

    pub async fn open(&self) -> Result<(), String> {
        self.tell("start", &self.config.start).await
    }

    async fn tell(&self, name: &str, text: &str) -> Result<(), String> {
        match shell::tell(sh(text), self.limit()).await {
            Ok(Some(0)) => Ok(()),
            Ok(code) => Err(format!("the command `{name}` {}", ended(code))),
            Err(why) => Err(format!("the command `{name}`: {why}")),
        }
    }
}

fn jobs(status: Result<Ended, String>) -> Jobs {
    match status {
        Ok(Ended { code: Some(0), .. }) => Jobs::Idle,
        Ok(Ended {
            code: Some(1),
            stdout,
        }) => Jobs::Busy(
            stdout
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .map(str::to_owned)
                .collect(),
        ),
        Ok(Ended { code, .. }) => Jobs::Unknown(format!("the command `status` {}", ended(code))),
        Err(why) => Jobs::Unknown(format!("the command `status`: {why}")),
    }
}

fn intake(stopped: &Result<Option<i32>, String>) -> Intake {
    match stopped {
        Ok(Some(0)) => Intake::Closed,
        Ok(Some(1)) => Intake::Open,
        _ => Intake::Unknown,
    }
}

fn ended(code: Option<i32>) -> String {
    match code {
        Some(code) => format!("ended with exit code {code}"),
        None => "was killed by a signal".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(status: &str, stopped: &str) -> Command {
        Command::new(config::Command {
            status: status.into(),
            stop: "exit 0".into(),
            stopped: stopped.into(),
            start: "exit 5".into(),
            timeout: 1,
        })
    }

    #[tokio::test]
    async fn exit_codes_tell_the_state_and_any_other_is_unknown() {
        let cases = [
            ("exit 0", "exit 1", Jobs::Idle, Intake::Open),
            (
                "printf 'a\\n\\n b \\n'; exit 1",
                "exit 0",
                Jobs::Busy(vec!["a".into(), "b".into()]),
                Intake::Closed,
            ),
            (
                "exit 127",
                "exit 2",
                Jobs::Unknown("the command `status` ended with exit code 127".into()),
                Intake::Unknown,
            ),
            (
                "kill -9 $$",
                "kill -9 $$",
                Jobs::Unknown("the command `status` was killed by a signal".into()),
                Intake::Unknown,
            ),
            (
                "sleep 600",
                "sleep 600",
                Jobs::Unknown("the command `status`: it did not end within 1 s".into()),
                Intake::Unknown,
            ),
        ];
        for (status, stopped, jobs, intake) in cases {
            let seen = command(status, stopped).look().await;
            assert_eq!(seen, Seen { jobs, intake }, "{status}");
        }
    }

    #[tokio::test]
    async fn an_order_counts_only_if_its_command_succeeds() {
        let command = command("exit 0", "exit 0");
        assert_eq!(command.close().await, Ok(()));
        assert_eq!(
            command.open().await,
            Err("the command `start` ended with exit code 5".into())
        );
    }
}
