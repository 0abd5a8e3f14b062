//! Why a bake failed, and what that leaves.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::bundle::TooLarge;
use super::event::{Phase, Resource};
use crate::aws::ssm::Verdict;
use crate::aws::{self, wait::Stalled};
use crate::image::leaks::{self, Found};
use crate::journal;
use crate::lease::Held;
use crate::render::{downloads, locked};

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Cloud(#[from] aws::Error),
    #[error(transparent)]
    Stalled(#[from] Stalled),
    #[error(transparent)]
    Journal(#[from] journal::Error),
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// A script of the recipe ended with an error.
    #[error("{}", script_message(title, id, *exit_code, *attempts, *limit))]
    Script {
        title: String,
        id: String,
        exit_code: i32,
        attempts: u32,
        limit: Duration,
    },
    /// A command of our own did not succeed.
    #[error("cannot {what} on {instance}: the command {verdict}{}", detail(said))]
    Command {
        what: &'static str,
        instance: String,
        verdict: Verdict,
        said: String,
    },
    /// Something that must not be in an image is still there, or came back. `place` is what was looked at.
    #[error(
        "the {place} is not clean after sealing; still there: {}",
        listed(remains)
    )]
    NotSealed {
        place: &'static str,
        remains: Vec<Found>,
    },
    /// What is on the finished disk could not be read.
    #[error("cannot look for known leaks on the disk of {image}: {reason}")]
    NotInspected { image: String, reason: String },
    /// The machine went away under us.
    #[error(
        "instance {instance} is {state}{}; its console may say more (aws ec2 get-console-output)",
        detail(reason)
    )]
    InstanceLost {
        instance: String,
        state: String,
        reason: String,
    },
    #[error("image {image} is {state}{}", detail(reason))]
    ImageFailed {
        image: String,
        state: String,
        reason: String,
    },
    #[error("the disk of the image {image} could not be written: {reason}")]
    NoDisk { image: String, reason: String },
    #[error(
        "the subnets {} are not of one VPC, and a security group is; list subnets of one VPC (build.subnet)",
        subnets.join(", ")
    )]
    ManyNetworks { subnets: Vec<String> },
    #[error("the plan names no instance type; plan anew")]
    NoType,
    #[error("the manifest of the image is too large to be stored ({size} bytes)")]
    ManifestTooLarge { size: usize },
    #[error("cannot write the log {path}: {source}")]
    Log {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the bake took longer than {}s; raise build.timeout or make the steps faster", limit.as_secs())]
    TooLong { limit: Duration },
    #[error("the builder's note of what {recipe} installs does not read as one")]
    NotRecorded { recipe: String },
    /// What a machine has told of its own files.
    #[error("the list of what is on {instance} cannot be read: {reason}")]
    NotListed { instance: String, reason: String },
    /// Another run bakes the same by now.
    #[error(
        "the run has lost the lease of its digest, which it did not renew in time ({0}); a new bake waits for that run"
    )]
    Overtaken(String),
    #[error("interrupted")]
    Cancelled,
}

impl From<Held> for Failure {
    fn from(held: Held) -> Self {
        match held {
            Held::ByAnother(who) => Self::Overtaken(who),
            Held::Cloud(error) => Self::Cloud(error),
        }
    }
}

/// The most paths that a message names.
const NAMED: usize = 40;

fn listed(remains: &[Found]) -> String {
    let mut names: Vec<String> = remains.iter().take(NAMED).map(Found::to_string).collect();
    if remains.len() > NAMED {
        names.push(format!("and {} more", remains.len() - NAMED));
    }
    names.join(", ")
}

impl Failure {
    /// What to do about it, where that is known.
    #[must_use]
    pub fn ways_out(&self) -> Vec<String> {
        let Self::NotSealed { remains, .. } = self else {
            return Vec::new();
        };
        let mut ways: Vec<String> = leaks::lines(remains)
            .into_iter()
            .map(|[gone, keep]| {
                format!(
                    "add to `seal:` of the recipe: {gone}; or, if every machine is meant to have the same: {keep}"
                )
            })
            .collect();
        if leaks::came_back(remains) {
            ways.push(
                "what is cleaned and came back is written by a service: only enable it, so that it starts at first boot, \
                 or stop it in a step"
                    .to_owned(),
            );
        }
        ways
    }
}

fn script_message(title: &str, id: &str, exit_code: i32, attempts: u32, limit: Duration) -> String {
    let end = match exit_code {
        // timeout(1): 124 if the time-out ended it, 137 if it had to be killed.
        124 | 137 => format!(
            "ran into its time-out of {}s (exit code {exit_code})",
            limit.as_secs()
        ),
        code => format!("ended with exit code {code}"),
    };
    let tries = if attempts > 1 {
        format!(" after {attempts} attempts")
    } else {
        String::new()
    };
    format!("`{title}` ({id}) {end}{tries}")
}

fn detail(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

/// Something that a run created and could not remove.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LeftOver {
    pub kind: Resource,
    /// Its id; the mark to search for if the id was never learned.
    pub id: String,
    /// Why it is still there.
    pub error: String,
    /// AWS CLI command that removes it.
    pub command: String,
}

/// A machine that was left for somebody to look at ([`super::Settings::keep_on_failure`]).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Kept {
    /// The run whose clean-up removes it.
    pub run: String,
    /// Builder or tester.
    pub kind: Resource,
    pub instance: String,
    /// When it ends itself.
    pub until: Timestamp,
}

/// A bake failed; what it had created has been removed, but for [`BakeError::left_over`] and [`BakeError::finished`].
#[derive(Debug, thiserror::Error)]
#[error("{failure}")]
pub struct BakeError {
    #[source]
    pub failure: Failure,
    /// Where in the bake; `None` before its first phase.
    pub phase: Option<Phase>,
    /// The last lines that the machine wrote.
    pub last_lines: Vec<String>,
    /// File with the machines' whole output.
    pub log: PathBuf,
    pub left_over: Vec<LeftOver>,
    pub kept: Option<Kept>,
    /// The image that was finished before it failed, and stays: others may use it already.
    pub finished: Option<String>,
}

impl BakeError {
    /// The process exit code that this error stands for: 7 something is left over or was kept, 130 interrupted, 9 timed out,
    /// 10 another run has taken over, 5 refused by the cloud, 4 not what a lock file or the sha256 of a download says, else 6.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match &self.failure {
            _ if !self.left_over.is_empty() || self.kept.is_some() => 7,
            Failure::Cancelled => 130,
            Failure::Overtaken(_) => 10,
            Failure::TooLong { .. } | Failure::Stalled(_) => 9,
            Failure::Cloud(error) if error.is_refusal() => 5,
            Failure::Script { id, exit_code, .. }
                if (locked::is_guard(id) || downloads::is_own(id))
                    && *exit_code == locked::MISMATCH =>
            {
                4
            }
            _ => 6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(failure: Failure) -> BakeError {
        BakeError {
            failure,
            phase: None,
            last_lines: vec![],
            log: PathBuf::new(),
            left_over: vec![],
            kept: None,
            finished: None,
        }
    }

    #[test]
    fn exit_codes() {
        assert_eq!(error(Failure::Cancelled).exit_code(), 130);
        assert_eq!(
            error(Failure::TooLong {
                limit: Duration::ZERO
            })
            .exit_code(),
            9
        );
        let (place, remains) = ("builder", vec![]);
        assert_eq!(error(Failure::NotSealed { place, remains }).exit_code(), 6);
        for (id, exit_code, code) in [
            ("web/lock-002-check", 4, 4),
            ("web/step-003-checked_downloads", 4, 4),
            ("web/step-003-checked_downloads", 1, 6),
            ("web/step-004-checked-downloads", 4, 6),
        ] {
            let failure = Failure::Script {
                title: "x".into(),
                id: id.into(),
                exit_code,
                attempts: 1,
                limit: Duration::ZERO,
            };
            assert_eq!(error(failure).exit_code(), code, "{id}");
        }
        let mut refused = aws::Error::incomplete("ec2", "RunInstances", "x");
        refused.kind = aws::Kind::Quota;
        let mut refused = error(Failure::Cloud(refused));
        assert_eq!(refused.exit_code(), 5);
        refused.left_over.push(LeftOver {
            kind: Resource::Builder,
            id: "i-1".into(),
            error: "no".into(),
            command: "aws".into(),
        });
        assert_eq!(refused.exit_code(), 7);
    }

    #[test]
    fn what_is_left_is_named_with_its_reason_and_a_way_out() {
        let remains = ["/var/lib/mysql/auto.cnf", "/root/.bash_history"];
        let failure = Failure::NotSealed {
            place: "finished disk",
            remains: remains.map(|path| leaks::explain(path, &[])).to_vec(),
        };
        assert_eq!(
            failure.to_string(),
            "the finished disk is not clean after sealing; still there: \
             /var/lib/mysql/auto.cnf (random: the id of the server), \
             /root/.bash_history (history: what somebody typed)"
        );
        let ways = failure.ways_out();
        assert_eq!(ways.len(), 2);
        let line = "- { path: /var/lib/mysql/auto.cnf, action: gone };";
        assert!(ways[0].contains(line), "{ways:?}");
        let many = vec![leaks::explain("/etc/ssl/private/x", &[]); NAMED + 3];
        assert!(listed(&many).ends_with(", and 3 more"));
        assert_eq!(Failure::Cancelled.ways_out(), [] as [&str; 0]);
    }

    #[test]
    fn a_script_that_ran_out_of_time_says_so() {
        let failure = |exit_code, attempts| {
            let (title, id, limit) = (
                "Install".into(),
                "web/step-001".into(),
                Duration::from_secs(60),
            );
            Failure::Script {
                title,
                id,
                exit_code,
                attempts,
                limit,
            }
            .to_string()
        };
        assert_eq!(
            failure(3, 1),
            "`Install` (web/step-001) ended with exit code 3"
        );
        assert_eq!(
            failure(124, 2),
            "`Install` (web/step-001) ran into its time-out of 60s (exit code 124) after 2 attempts"
        );
    }
}
