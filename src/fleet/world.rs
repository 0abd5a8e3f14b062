//! What a look at the fleet gives. Plain data.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

pub use crate::aws::groups::Life;

/// Whether a job runs, as the worker itself says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Busy,
    Idle,
    Unknown,
}

/// A worker that was told to take no more jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cordon {
    pub generation: u64,
    pub reason: Option<String>,
}

/// The worker's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Said {
    pub state: State,
    /// Since when it is in this state, by its own clock.
    pub since: Option<Timestamp>,
    /// Its own clock at the answer.
    pub at: Timestamp,
    pub why: Option<String>,
    pub jobs: Vec<String>,
    pub cordon: Option<Cordon>,
    /// The generation at which it drained. Final: it never takes a job again.
    pub drained: Option<u64>,
}

impl Said {
    /// For how long it is in its state: one clock, so skew does not matter.
    #[must_use]
    pub fn lasts(&self) -> Option<SignedDuration> {
        let since = self.since?;
        Some(self.at.duration_since(since).max(SignedDuration::ZERO))
    }
}

/// What came of asking a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    Said(Said),
    /// No answer that can be read, and why.
    Silent(String),
}

/// An instance of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    pub id: String,
    /// Number of the launch template version that the group launched it from.
    pub version: Option<u64>,
    pub zone: String,
    pub life: Life,
    pub healthy: bool,
    /// From scale-in.
    pub protected: bool,
    /// When EC2 launched it; `None` where EC2 does not show it.
    pub launched: Option<Timestamp>,
    /// EC2's name of its state; empty where EC2 does not show it.
    pub power: String,
    pub word: Word,
}

impl Member {
    /// Whether it is on its way out.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.life == Life::Terminating || is_ending(&self.power)
    }
}

/// Whether EC2's name of a state means that an instance is on its way out, or out.
#[must_use]
pub fn is_ending(power: &str) -> bool {
    matches!(power, "shutting-down" | "terminated")
}

/// The Auto Scaling group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    pub name: String,
    pub min: u32,
    pub max: u32,
    pub desired: u32,
    /// The launch template version that it launches, as the group has it: a number, `$Latest` or `$Default`.
    pub version: Option<String>,
    /// What that is today, where it is no number.
    pub resolved: Option<u64>,
    /// Id of the launch template.
    pub template: Option<String>,
    /// The group is `NewInstancesProtectedFromScaleIn`.
    pub protects_new: bool,
    /// Suspended processes.
    pub suspended: Vec<String>,
    pub zones: Vec<String>,
    /// The group has a warm pool.
    pub warm_pool: bool,
    pub members: Vec<Member>,
}

impl Group {
    /// The number of the version that it launches.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        self.version.as_ref()?.parse().ok()
    }
}

/// What the CI server says of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CiState {
    Busy,
    Idle,
}

/// What the CI server says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Demand {
    /// No CI server is configured: the workers' own word is all there is.
    NotAsked,
    Known {
        /// Jobs that wait for a worker.
        queued: u32,
        /// Its workers by instance; `None` if it does not say.
        workers: Option<BTreeMap<String, CiState>>,
    },
    Unreachable(String),
}

/// An instance refresh under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rolling {
    /// The version that every instance is to run in the end; `None` if nobody can tell.
    pub target: Option<u64>,
    /// For people: which refresh, and how far.
    pub what: String,
}

/// Everything that a decision is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct World {
    pub group: Group,
    pub demand: Demand,
    pub rolling: Option<Rolling>,
    /// State in EC2 of instances that we asked to end and that are not in the group any more; empty if EC2 does not
    /// show one.
    pub gone: BTreeMap<String, String>,
}
