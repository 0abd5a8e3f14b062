//! Records of Auto Scaling groups.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::refresh::records::Refresh;

/// Where an instance is in its life in a group (EC2 Auto Scaling User Guide, "Instance lifecycle").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lifecycle {
    Pending,
    PendingWait,
    PendingProceed,
    InService,
    Terminating,
    TerminatingWait,
    TerminatingProceed,
    Standby,
}

impl Lifecycle {
    /// As the API names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::PendingWait => "Pending:Wait",
            Self::PendingProceed => "Pending:Proceed",
            Self::InService => "InService",
            Self::Terminating => "Terminating",
            Self::TerminatingWait => "Terminating:Wait",
            Self::TerminatingProceed => "Terminating:Proceed",
            Self::Standby => "Standby",
        }
    }

    /// On the way in.
    #[must_use]
    pub fn is_pending(self) -> bool {
        matches!(
            self,
            Self::Pending | Self::PendingWait | Self::PendingProceed
        )
    }

    /// On the way out.
    #[must_use]
    pub fn is_terminating(self) -> bool {
        matches!(
            self,
            Self::Terminating | Self::TerminatingWait | Self::TerminatingProceed
        )
    }

    /// Whether it counts towards the desired capacity.
    #[must_use]
    pub fn counts(self) -> bool {
        self.is_pending() || self == Self::InService
    }
}

/// A launch template as a group names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateName {
    pub id: String,
    pub name: String,
    /// A number, `$Latest` or `$Default`; kept as it was given.
    pub version: String,
}

/// A tag of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupTag {
    pub value: String,
    /// Whether instances that are launched from now on get it too.
    pub propagate: bool,
}

/// What a lifecycle hook holds up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transition {
    Launching,
    Terminating,
}

/// How a lifecycle action ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ActionResult {
    Continue,
    Abandon,
}

/// A lifecycle hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    pub transition: Transition,
    /// Seconds that one heartbeat gives.
    pub heartbeat: i64,
    pub default_result: ActionResult,
    pub metadata: Option<String>,
}

impl Hook {
    /// Seconds that an instance waits at most, however often its time is extended: 48 hours or 100 heartbeats,
    /// whichever is less (`PutLifecycleHook`, `HeartbeatTimeout`).
    #[must_use]
    pub fn global_timeout(&self) -> i64 {
        (48 * 3600).min(self.heartbeat.saturating_mul(100))
    }
}

/// A lifecycle action: an instance that a hook holds up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleAction {
    pub hook: String,
    pub token: String,
    pub started: Timestamp,
    /// When the default result takes effect.
    pub deadline: Timestamp,
    /// When it does whatever heartbeats come.
    pub end: Timestamp,
    pub default_result: ActionResult,
    /// Once somebody has completed it, or its time was over.
    pub result: Option<ActionResult>,
}

/// An instance of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub instance_id: String,
    pub instance_type: String,
    pub zone: String,
    /// The template with the number of the version that it was launched from.
    pub template: TemplateName,
    pub lifecycle: Lifecycle,
    pub healthy: bool,
    pub protected: bool,
    pub joined: Timestamp,
    pub in_service: Option<Timestamp>,
    pub actions: Vec<LifecycleAction>,
    /// The scaling activity that brings it in or takes it out.
    pub activity: Option<String>,
}

/// State of a scaling activity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ActivityStatus {
    PreInService,
    InProgress,
    MidLifecycleAction,
    Successful,
    Failed,
    Cancelled,
}

impl ActivityStatus {
    /// As the API names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PreInService => "PreInService",
            Self::InProgress => "InProgress",
            Self::MidLifecycleAction => "MidLifecycleAction",
            Self::Successful => "Successful",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
        }
    }

    /// Whether nothing comes of it any more.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Successful | Self::Failed | Self::Cancelled)
    }
}

/// A scaling activity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    pub id: String,
    pub description: String,
    pub cause: String,
    /// The Availability Zone of its instance, if there is one.
    pub zone: Option<String>,
    pub started: Timestamp,
    pub ended: Option<Timestamp>,
    pub status: ActivityStatus,
    pub message: Option<String>,
    /// 0 to 100.
    pub progress: u8,
}

/// An Auto Scaling group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub name: String,
    pub arn: String,
    pub region: String,
    pub created: Timestamp,
    pub min: usize,
    pub max: usize,
    pub desired: usize,
    pub template: TemplateName,
    pub zones: Vec<String>,
    /// `VPCZoneIdentifier`.
    pub subnets: Option<String>,
    /// Seconds.
    pub cooldown: i64,
    /// Seconds.
    pub health_grace: i64,
    /// `DefaultInstanceWarmup` in seconds.
    pub warmup: Option<i64>,
    pub protect_new: bool,
    pub termination_policies: Vec<String>,
    pub tags: BTreeMap<String, GroupTag>,
    pub context: Option<String>,
    /// Suspended processes, and why.
    pub suspended: BTreeMap<String, String>,
    pub hooks: BTreeMap<String, Hook>,
    pub members: BTreeMap<String, Member>,
    pub activities: Vec<Activity>,
    /// It goes once its instances are gone.
    pub deleting: bool,
    /// Why the capacity is about to change: the first sentence of the next activities' cause.
    pub reason: Option<String>,
    /// Launches that failed one after the other, and when the next one is due.
    pub failures: u32,
    pub retry_at: Option<Timestamp>,
    /// When a user's request last changed the capacity, for `HonorCooldown`.
    pub scaled_at: Option<Timestamp>,
    /// The newest last; only that one can be under way.
    #[serde(default)]
    pub refreshes: Vec<Refresh>,
}

impl Group {
    /// Whether a process is not suspended.
    #[must_use]
    pub fn runs(&self, process: &str) -> bool {
        !self.suspended.contains_key(process)
    }

    /// How many instances each of its zones has, of those that count.
    #[must_use]
    pub fn by_zone(&self) -> BTreeMap<String, usize> {
        let mut zones: BTreeMap<String, usize> =
            self.zones.iter().map(|zone| (zone.clone(), 0)).collect();
        for member in self.members.values() {
            if member.lifecycle.counts()
                && let Some(count) = zones.get_mut(&member.zone)
            {
                *count += 1;
            }
        }
        zones
    }

    /// Instances that count towards the desired capacity.
    #[must_use]
    pub fn capacity(&self) -> usize {
        let all = self.members.values();
        all.filter(|member| member.lifecycle.counts()).count()
    }

    /// The refresh under way.
    #[must_use]
    pub fn refresh(&self) -> Option<&Refresh> {
        self.refreshes
            .last()
            .filter(|refresh| refresh.status.is_active())
    }

    /// The refresh under way, to change it.
    pub fn refresh_mut(&mut self) -> Option<&mut Refresh> {
        self.refreshes
            .last_mut()
            .filter(|refresh| refresh.status.is_active())
    }

    /// What the group launches now. During a refresh that is the desired configuration, for scale-outs too (User Guide,
    /// "How an instance refresh works", "Desired configuration"); from a rollback or a cancellation on its own again.
    #[must_use]
    pub fn launches(&self) -> &TemplateName {
        self.refresh()
            .filter(|refresh| refresh.status.is_forward())
            .and_then(|refresh| refresh.desired.as_ref())
            .unwrap_or(&self.template)
    }

    /// An activity by its id.
    pub fn activity(&mut self, id: &str) -> Option<&mut Activity> {
        self.activities
            .iter_mut()
            .find(|activity| activity.id == id)
    }
}
