//! Records of instance refreshes.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::super::records::TemplateName;

/// Status of a refresh (Auto Scaling API, `InstanceRefreshStatus`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    Pending,
    InProgress,
    Baking,
    Successful,
    Failed,
    Cancelling,
    Cancelled,
    RollbackInProgress,
    RollbackFailed,
    RollbackSuccessful,
}

impl Status {
    /// As the API names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::InProgress => "InProgress",
            Self::Baking => "Baking",
            Self::Successful => "Successful",
            Self::Failed => "Failed",
            Self::Cancelling => "Cancelling",
            Self::Cancelled => "Cancelled",
            Self::RollbackInProgress => "RollbackInProgress",
            Self::RollbackFailed => "RollbackFailed",
            Self::RollbackSuccessful => "RollbackSuccessful",
        }
    }

    /// Whether another refresh of the group must wait for it.
    #[must_use]
    pub fn is_active(self) -> bool {
        self.is_forward() || matches!(self, Self::Cancelling | Self::RollbackInProgress)
    }

    /// Whether it brings the desired configuration.
    #[must_use]
    pub fn is_forward(self) -> bool {
        matches!(self, Self::Pending | Self::InProgress | Self::Baking)
    }
}

/// What happens to instances that are protected from scale-in (`ScaleInProtectedInstances`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OfProtected {
    Wait,
    Ignore,
    Refresh,
}

impl OfProtected {
    /// As the API names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Wait => "Wait",
            Self::Ignore => "Ignore",
            Self::Refresh => "Refresh",
        }
    }
}

/// What happens to instances in standby (`StandbyInstances`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OfStandby {
    Wait,
    Ignore,
    Terminate,
}

impl OfStandby {
    /// As the API names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Wait => "Wait",
            Self::Ignore => "Ignore",
            Self::Terminate => "Terminate",
        }
    }
}

/// `RefreshPreferences`, with its defaults in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preferences {
    /// Percent of the desired capacity, 0 to 100.
    pub min_healthy: usize,
    /// Percent, 100 to 200; leaving it out is not the same as 100.
    pub max_healthy: Option<usize>,
    /// Seconds.
    pub warmup: i64,
    /// Percent, ascending; empty without checkpoints.
    pub checkpoints: Vec<usize>,
    /// Seconds.
    pub checkpoint_delay: i64,
    pub skip_matching: bool,
    pub auto_rollback: bool,
    pub protected: OfProtected,
    pub standby: OfStandby,
    /// Seconds.
    pub bake: i64,
}

impl Preferences {
    /// The fewest instances that serve, and the most that serve or begin to, while a group of this desired capacity is
    /// refreshed (User Guide, "How an instance refresh works", "Core concepts"; API, `RefreshPreferences`).
    #[must_use]
    pub fn bounds(&self, desired: usize) -> (usize, usize) {
        let least = (desired * self.min_healthy).div_ceil(100);
        // With 100 the guide says launch first, whether or not a maximum is given.
        let launches_first = self.max_healthy.is_some() || self.min_healthy == 100;
        if launches_first {
            // A group that leaves no room in either direction makes some by one launch above its bounds. How a maximum
            // is rounded is not documented: down, so that it is one.
            let most = desired * self.max_healthy.unwrap_or(100) / 100;
            let cramped = least >= desired && most <= desired;
            (least, most.max(desired) + usize::from(cramped))
        } else {
            // Without a maximum the old instance ends while the new one starts, also where that leaves too few.
            (least.min(desired.saturating_sub(1)), desired)
        }
    }
}

/// A rollback of a refresh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    pub reason: String,
    pub started: Timestamp,
    /// How far the refresh was.
    pub percent: usize,
    pub remaining: usize,
}

/// New instances fail, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    pub since: Timestamp,
    /// The newest failure.
    pub why: String,
}

/// An instance refresh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refresh {
    pub id: String,
    pub status: Status,
    pub created: Timestamp,
    pub started: Option<Timestamp>,
    pub ended: Option<Timestamp>,
    pub reason: Option<String>,
    pub preferences: Preferences,
    /// `None`: the group's own template.
    pub desired: Option<TemplateName>,
    /// Instances that the group had when it was asked for; empty once it is over.
    pub original: BTreeSet<String>,
    /// 0 to 100.
    pub percent: usize,
    /// `InstancesToUpdate`.
    pub remaining: usize,
    pub rollback: Option<Rollback>,
    /// Instances launched before those that they replace were ended.
    pub surge: usize,
    /// The last checkpoint that was reached, in percent, and the instances that it was a percentage of.
    pub reached: usize,
    pub reached_of: usize,
    /// The end of a checkpoint's delay, or of the bake time.
    pub pause: Option<Timestamp>,
    /// Since when nothing can be replaced.
    pub blocked: Option<Timestamp>,
    pub failing: Option<Failing>,
    /// Instances that were as they should be when it was looked at last.
    pub updated: usize,
}

impl Refresh {
    /// Writes down that an instance failed. It counts against the refresh if it is new and never was ready.
    pub fn failed(&mut self, id: &str, in_service: Option<Timestamp>, why: String, now: Timestamp) {
        let warm = in_service.is_some_and(|since| self.is_warm(since, now));
        if self.replaces() && !self.original.contains(id) && !warm {
            self.count_failure(why, now);
        }
    }

    /// Writes down that an instance could not be launched.
    pub fn not_launched(&mut self, why: String, now: Timestamp) {
        if self.replaces() {
            self.count_failure(why, now);
        }
    }

    fn count_failure(&mut self, why: String, now: Timestamp) {
        let since = self.failing.as_ref().map_or(now, |failing| failing.since);
        self.failing = Some(Failing { since, why });
    }

    fn replaces(&self) -> bool {
        matches!(
            self.status,
            Status::InProgress | Status::Baking | Status::RollbackInProgress
        )
    }

    /// Whether the warm-up of an instance is over that has been in service since then.
    #[must_use]
    pub fn is_warm(&self, since: Timestamp, now: Timestamp) -> bool {
        now.duration_since(since) >= SignedDuration::from_secs(self.preferences.warmup)
    }

    /// Turns back: what it replaced gets the group's own configuration again.
    pub fn roll_back(&mut self, reason: String, now: Timestamp) {
        self.status = Status::RollbackInProgress;
        self.rollback = Some(Rollback {
            reason,
            started: now,
            percent: self.percent,
            remaining: self.remaining,
        });
        self.reason = None;
        (self.pause, self.blocked, self.failing) = (None, None, None);
    }

    /// Ends it.
    pub fn end(&mut self, status: Status, reason: Option<String>, now: Timestamp) {
        self.status = status;
        self.reason = reason;
        self.ended = Some(now);
        self.original.clear();
        self.surge = 0;
        (self.pause, self.blocked, self.failing) = (None, None, None);
    }

    /// It cannot go on.
    pub fn fail(&mut self, reason: String, now: Timestamp) {
        if self.status == Status::RollbackInProgress {
            self.end(Status::RollbackFailed, Some(reason), now);
        } else if self.preferences.auto_rollback {
            self.roll_back(format!("The instance refresh failed: {reason}"), now);
        } else {
            self.end(Status::Failed, Some(reason), now);
        }
    }
}
