//! What is to be done, and how a fleet looks. Plain data.

use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::alarm::Alarm;
use super::standing::{OURS, Standing};

/// One thing to do, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Decision {
    /// `LaunchInstances`. With the token of a call that was never answered, it is that call once more.
    Launch {
        count: u32,
        token: String,
        zone: Option<String>,
        why: String,
    },
    /// Ask the worker to take no more jobs.
    Cordon {
        id: String,
        generation: u64,
        purpose: Purpose,
        why: String,
    },
    /// Let it take jobs again, if it is not drained yet.
    Uncordon {
        id: String,
        generation: u64,
        why: String,
    },
    /// `TerminateInstanceInAutoScalingGroup`, of a drained worker only.
    Terminate {
        id: String,
        decrement: bool,
        why: String,
    },
}

/// What a worker is cordoned for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    ScaleIn,
    Refresh,
}

impl Purpose {
    /// The reason that the worker is given, and shows.
    #[must_use]
    pub fn reason(self) -> String {
        let why = match self {
            Self::ScaleIn => "idle for too long",
            Self::Refresh => "a refresh replaces it",
        };
        format!("{OURS}{why}")
    }
}

impl Decision {
    /// The instance that it is about.
    #[must_use]
    pub fn instance(&self) -> Option<&str> {
        match self {
            Self::Launch { .. } => None,
            Self::Cordon { id, .. } | Self::Uncordon { id, .. } | Self::Terminate { id, .. } => {
                Some(id)
            }
        }
    }
}

/// Who decides: the epoch of the lease, and a number that grows with each decision under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    pub epoch: u64,
    pub number: u32,
}

impl Turn {
    /// The generation of the cordons of this turn: higher than any before, whoever asked for it.
    #[must_use]
    pub fn generation(self) -> u64 {
        self.epoch << 32 | u64::from(self.number)
    }

    /// A client token, of 64 characters at most (`LaunchInstances`, `ClientToken`).
    #[must_use]
    pub fn token(self, group: &str) -> String {
        let group = hex::encode(Sha256::digest(group.as_bytes()));
        format!("fleet-{}-{}-{}", &group[..12], self.epoch, self.number)
    }
}

/// A worker, and what is to become of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Row {
    pub id: String,
    pub version: Option<u64>,
    #[serde(flatten)]
    pub standing: Standing,
    /// What it waits for, or why it stays; may be empty.
    pub note: String,
    /// When that comes true.
    #[schemars(with = "Option<String>")]
    pub until: Option<Timestamp>,
}

/// How many workers stand where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Counts {
    pub busy: u32,
    pub idle: u32,
    /// With what is launched and not seen yet.
    pub booting: u32,
    pub draining: u32,
    pub drained: u32,
    pub unknown: u32,
    pub ending: u32,
    /// In standby, or about to be replaced as unhealthy.
    pub other: u32,
}

/// What is to be done, and how the fleet looks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub decisions: Vec<Decision>,
    pub rows: Vec<Row>,
    pub counts: Counts,
    /// Idle workers that there should be.
    pub required: u32,
    pub alarms: Vec<Alarm>,
}

impl Plan {
    /// The workers of which nobody knows whether a job runs.
    #[must_use]
    pub fn unknown(&self) -> Vec<String> {
        let unknown = |row: &&Row| matches!(row.standing, Standing::Unknown { .. });
        let rows = self.rows.iter().filter(unknown);
        rows.map(|row| row.id.clone()).collect()
    }
}

/// How long a time is, in words.
#[must_use]
pub fn words(secs: i64) -> String {
    match secs {
        ..120 => format!("{secs} s"),
        120..7200 => format!("{} min", secs / 60),
        _ => format!("{} h {:02} min", secs / 3600, secs % 3600 / 60),
    }
}
