//! What is written down of a roll, so that any host can go on with it. Plain data; at most 4 KB as JSON.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::aws::parameters::LIMIT;
pub use crate::aws::parameters::segment;

/// Schema of the record.
pub const SCHEMA: &str = "piaas-bake-roll/v1";

/// How many refreshes a record remembers.
const REFRESHES_KEPT: usize = 6;

/// Name of the SSM parameter that holds the record of a group's newest roll.
#[must_use]
pub fn parameter(group: &str) -> String {
    format!("/piaas-bake/rolls/{}", segment(group))
}

/// A launch template version and the image in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Side {
    pub version: u64,
    pub image: String,
}

/// Which way the group goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Heading {
    /// To the new version.
    Forward,
    /// To the version before.
    Back,
}

/// How to roll.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Whether one instance outside the group is checked first.
    pub canary: bool,
    /// The user's checks: shell text, each of which must end with 0 on every new instance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<String>,
    /// Seconds before a new instance counts (`InstanceWarmup`).
    pub warmup: u32,
    /// Percentage of the desired capacity that may exist at the same time, 101 to 200 (`MaxHealthyPercentage`).
    pub max_healthy: u32,
    /// Percentages at which the refresh pauses (`CheckpointPercentages`); empty for none, else it ends with 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checkpoints: Vec<u32>,
    /// Seconds that it pauses (`CheckpointDelay`).
    pub checkpoint_delay: u32,
}

/// What is asked of the canary, or of its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Errand {
    /// All checks.
    Check,
    /// Take no more jobs; say whether one runs.
    Cordon,
}

/// A command that was sent to the canary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    pub id: String,
    pub errand: Errand,
    pub at: Timestamp,
}

/// What is known of the worker on a machine.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Worker {
    /// Nobody has said.
    #[default]
    Unknown,
    /// The image has no worker agent.
    Absent,
    /// The worker agent has answered.
    Present,
}

/// The one instance outside the group that the new version is tried on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Canary {
    /// When its launch was first asked for.
    pub asked: Option<Timestamp>,
    pub instance: Option<String>,
    /// Whether it passed; `None` while it is being checked.
    pub passed: Option<bool>,
    pub worker: Worker,
    pub sent: Option<Sent>,
    /// Since when it is being emptied.
    pub leaving: Option<Timestamp>,
    /// It is terminated, or was never launched.
    pub gone: bool,
    /// It was left alone, because its worker may run a job; why.
    pub left: Option<String>,
}

/// A refresh of this roll.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refresh {
    pub id: String,
    /// The version that it goes to.
    pub version: u64,
    /// Only busy workers kept it from its end: another one is started for them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub busy: bool,
}

/// `StartInstanceRefresh` has no client token: this says that the call may have been made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub version: u64,
    /// The group's newest refresh before the call.
    pub after: Option<String>,
}

/// What a refresh stood at, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub stand: String,
    pub since: Timestamp,
}

/// How a roll ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every instance runs the new version.
    RolledOut,
    /// Every instance runs the version before.
    RolledBack,
    /// Neither could be reached; the record says why.
    Halted,
}

/// One roll of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollRecord {
    pub schema: String,
    pub id: String,
    pub group: String,
    /// Id of the launch template.
    pub template: String,
    pub old: Side,
    pub new_image: String,
    pub new_version: Option<u64>,
    /// `CreateLaunchTemplateVersion` may have been called.
    pub version_asked: bool,
    /// The new version was read back and differs in the image only.
    pub verified: bool,
    pub options: Options,
    pub heading: Heading,
    /// Why it goes back.
    pub reason: Option<String>,
    pub canary: Canary,
    /// The newest refreshes, oldest first.
    pub refreshes: Vec<Refresh>,
    pub asked: Option<Asked>,
    /// Refreshes that were started since the heading changed, without those that busy workers made us repeat.
    pub attempts: u32,
    /// `RollbackInstanceRefresh` was refused: cancel and refresh back instead.
    pub irreversible: bool,
    pub mark: Option<Mark>,
    pub started: Timestamp,
    pub ended: Option<Timestamp>,
    pub outcome: Option<Outcome>,
    /// The version that lost was deleted, or is still used and stays.
    pub dropped: bool,
    /// Why neither version could be reached everywhere.
    pub given_up: Option<String>,
    /// What is left for a person, each with its command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
    /// Epoch of the lease under which it was last worked on.
    pub epoch: u64,
}

/// A record that cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(
        "the roll's record has {size} bytes, more than the {LIMIT} that an SSM parameter holds; give fewer or \
         shorter --canary-check commands"
    )]
    TooLarge { size: usize },
    #[error(
        "the record {name} cannot be read ({cause}); if no roll is under way, remove it with: aws ssm \
         delete-parameter --name {name}"
    )]
    Unreadable { name: String, cause: String },
}

impl RollRecord {
    /// A roll that has not begun.
    #[must_use]
    pub fn new(
        id: String,
        group: String,
        template: String,
        old: Side,
        new_image: String,
        options: Options,
        now: Timestamp,
    ) -> Self {
        let canary = Canary {
            gone: !options.canary,
            ..Canary::default()
        };
        Self {
            schema: SCHEMA.to_owned(),
            id,
            group,
            template,
            old,
            new_image,
            new_version: None,
            version_asked: false,
            verified: false,
            options,
            heading: Heading::Forward,
            reason: None,
            canary,
            refreshes: Vec::new(),
            asked: None,
            attempts: 0,
            irreversible: false,
            mark: None,
            started: now,
            ended: None,
            outcome: None,
            dropped: false,
            given_up: None,
            left: Vec::new(),
            epoch: 0,
        }
    }

    /// As JSON.
    ///
    /// # Errors
    /// [`RecordError::TooLarge`].
    pub fn to_json(&self) -> Result<String, RecordError> {
        let text = serde_json::to_string(self).expect("a record has only text keys");
        if text.len() > LIMIT {
            return Err(RecordError::TooLarge { size: text.len() });
        }
        Ok(text)
    }

    /// From JSON; `name` is the parameter that it was in.
    ///
    /// # Errors
    /// [`RecordError::Unreadable`], also for another schema.
    pub fn from_json(name: &str, text: &str) -> Result<Self, RecordError> {
        let unreadable = |cause: String| RecordError::Unreadable {
            name: name.to_owned(),
            cause,
        };
        let record: Self =
            serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
        if record.schema != SCHEMA {
            return Err(unreadable(format!(
                "schema {}, not {SCHEMA}",
                record.schema
            )));
        }
        Ok(record)
    }

    /// The new version with its image, once there is one.
    #[must_use]
    pub fn new_side(&self) -> Option<Side> {
        Some(Side {
            version: self.new_version?,
            image: self.new_image.clone(),
        })
    }

    /// The version that the group goes to now.
    #[must_use]
    pub fn target(&self) -> Option<Side> {
        match self.heading {
            Heading::Forward => self.new_side(),
            Heading::Back => Some(self.old.clone()),
        }
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.outcome.is_some()
    }

    /// Description of the launch template version that this roll makes, by which it is found again.
    #[must_use]
    pub fn version_description(&self) -> String {
        format!("piaas-bake roll {}", self.id)
    }

    /// Turns round. A roll that is over begins anew in the other direction.
    pub fn turn_back(&mut self, reason: &str) {
        self.heading = Heading::Back;
        // The record must fit its parameter whatever a check printed.
        self.reason = Some(reason.chars().take(400).collect());
        self.attempts = 0;
        // A refresh that was asked for without a reply stays asked for: it may run, and is ours to roll back.
        self.mark = None;
        self.outcome = None;
        self.ended = None;
        self.dropped = false;
        self.given_up = None;
        self.left.clear();
    }

    /// Remembers a refresh of ours.
    pub fn remember(&mut self, id: &str, version: u64) {
        if self.refreshes.iter().any(|refresh| refresh.id == id) {
            return;
        }
        self.refreshes.push(Refresh {
            id: id.to_owned(),
            version,
            busy: false,
        });
        let surplus = self.refreshes.len().saturating_sub(REFRESHES_KEPT);
        self.refreshes.drain(..surplus);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn options() -> Options {
        Options {
            canary: true,
            checks: vec![],
            warmup: 60,
            max_healthy: 120,
            checkpoints: vec![],
            checkpoint_delay: 0,
        }
    }

    pub fn record() -> RollRecord {
        let old = Side {
            version: 3,
            image: "ami-old".into(),
        };
        RollRecord::new(
            "20260101T120000-00000001".into(),
            "workers".into(),
            "lt-1".into(),
            old,
            "ami-new".into(),
            options(),
            Timestamp::UNIX_EPOCH,
        )
    }

    #[test]
    fn a_record_comes_back_from_its_text() {
        let mut one = record();
        one.remember("r-1", 4);
        one.canary.instance = Some("i-1".into());
        let text = one.to_json().unwrap();
        assert_eq!(RollRecord::from_json("p", &text).unwrap(), one);
    }

    #[test]
    fn a_record_that_does_not_fit_or_read_says_the_way_out() {
        let mut one = record();
        one.options.checks = vec!["x".repeat(5000)];
        assert!(
            one.to_json()
                .unwrap_err()
                .to_string()
                .contains("--canary-check")
        );
        let other = record().to_json().unwrap().replace("roll/v1", "roll/v9");
        let error = RollRecord::from_json("/p", &other).unwrap_err().to_string();
        assert!(error.contains("delete-parameter --name /p"), "{error}");
    }

    #[test]
    fn a_group_with_blanks_has_a_parameter_too() {
        assert_eq!(
            parameter("ci-workers_1.a"),
            "/piaas-bake/rolls/ci-workers_1.a"
        );
        assert_eq!(parameter("a b_c/d"), "/piaas-bake/rolls/x_a_20b_5fc_2fd");
    }

    #[test]
    fn the_longest_reason_and_the_most_refreshes_fit() {
        let mut one = record();
        one.turn_back(&"é".repeat(5000));
        for number in 0..20 {
            one.remember(&format!("08b91cf7-8fa6-48af-b6a6-d227f40f1b9{number}"), 4);
        }
        assert_eq!(one.refreshes.len(), REFRESHES_KEPT);
        assert!(one.to_json().unwrap().len() < 3000);
    }
}
