//! What a look at the cloud gives. Plain data.

use jiff::Timestamp;
use serde::Serialize;

use super::record::{Side, Worker};
pub use crate::aws::groups::Life;

/// How the checks of a new instance of the group stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    #[default]
    NotYet,
    Underway,
    Passed,
    Failed(String),
}

/// What its worker says, if it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct WorkerWord {
    /// `busy`, `idle`, `unknown`, or `none` where the image has no worker agent.
    pub state: String,
    /// Since when, as the worker gave it.
    pub since: Option<String>,
    pub cordoned: bool,
}

/// An instance of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    pub id: String,
    /// Number of the launch template version that the group launched it from.
    pub version: Option<u64>,
    /// The image that it runs, as EC2 says.
    pub image: Option<String>,
    pub life: Life,
    pub healthy: bool,
    /// From scale-in.
    pub protected: bool,
    pub check: Check,
    pub worker: Option<WorkerWord>,
}

impl Member {
    /// Whether it runs this version and this image.
    #[must_use]
    pub fn is_on(&self, side: &Side) -> bool {
        self.version == Some(side.version) && self.image.as_deref() == Some(side.image.as_str())
    }
}

/// The Auto Scaling group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    pub name: String,
    /// The numbered version that it launches from; `None` if it is no number of our template any more.
    pub version: Option<u64>,
    pub desired: u32,
    pub members: Vec<Member>,
}

/// A version of the launch template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Version {
    pub number: u64,
    pub description: String,
}

/// One field in which two versions differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Difference {
    pub field: String,
    pub old: String,
    pub new: String,
}

/// Status of a refresh (Auto Scaling API, `InstanceRefreshStatus`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Status {
    Pending,
    InProgress,
    Baking,
    Cancelling,
    RollbackInProgress,
    Successful,
    Failed,
    Cancelled,
    RollbackSuccessful,
    RollbackFailed,
}

impl Status {
    /// Reads it as the API writes it. A name that is not documented is taken for one under way: waiting is safe.
    #[must_use]
    pub fn read(text: &str) -> Self {
        match text {
            "Pending" => Self::Pending,
            "Baking" => Self::Baking,
            "Cancelling" => Self::Cancelling,
            "RollbackInProgress" => Self::RollbackInProgress,
            "Successful" => Self::Successful,
            "Failed" => Self::Failed,
            "Cancelled" => Self::Cancelled,
            "RollbackSuccessful" => Self::RollbackSuccessful,
            "RollbackFailed" => Self::RollbackFailed,
            _ => Self::InProgress,
        }
    }

    /// Whether it still changes the group.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(
            self,
            Self::Pending
                | Self::InProgress
                | Self::Baking
                | Self::Cancelling
                | Self::RollbackInProgress
        )
    }

    /// Whether it still goes forward to its desired configuration.
    #[must_use]
    pub const fn is_forward(self) -> bool {
        matches!(self, Self::Pending | Self::InProgress | Self::Baking)
    }
}

/// An instance refresh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refresh {
    pub id: String,
    pub status: Status,
    /// `StatusReason`, and the reason of a rollback behind it.
    pub reason: String,
    pub percent: u32,
    /// The version of its desired configuration, if that is a number of our template.
    pub version: Option<u64>,
    pub started: Timestamp,
    pub ended: Option<Timestamp>,
}

/// The canary as EC2 sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CanaryMachine {
    pub id: String,
    /// `pending`, `running`, `shutting-down`, `terminated`, `stopping`, `stopped`.
    pub state: String,
    /// Why it is in that state, if EC2 says so.
    pub reason: String,
    /// Whether its SSM agent is online.
    pub online: bool,
}

/// How the command stands that was sent to the canary last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Errand {
    Underway,
    /// The checks ended.
    Checked {
        /// `None`: passed.
        failure: Option<String>,
        worker: Worker,
    },
    /// The worker answered to the cordon.
    Cordoned(Emptiness),
}

/// Whether a job may run on a machine that takes no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Emptiness {
    /// It has no worker agent.
    NoWorker,
    /// The worker said that it is drained, for our generation.
    Drained,
    /// It is busy, or winds up.
    NotYet(String),
    /// No usable answer.
    Unknown(String),
}

/// Someone asks the one who rolls to turn back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Request {
    /// The roll that is meant.
    pub roll: String,
    /// Who and when, in words.
    pub reason: String,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct World {
    /// `None`: it does not exist.
    pub group: Option<Group>,
    pub versions: Vec<Version>,
    /// How the new version differs from the old one; `None` while either cannot be read.
    pub difference: Option<Vec<Difference>>,
    /// Newest first.
    pub refreshes: Vec<Refresh>,
    pub canary: Option<CanaryMachine>,
    pub errand: Option<Errand>,
    pub request: Option<Request>,
    /// Who still uses the version that lost: instances and groups. `None` if nobody looked.
    pub users: Option<Vec<String>>,
}

impl World {
    /// The refresh under way.
    #[must_use]
    pub fn active(&self) -> Option<&Refresh> {
        self.refreshes
            .iter()
            .find(|refresh| refresh.status.is_active())
    }
}
