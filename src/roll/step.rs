//! What a roll does next, and what becomes of its record by it. Plain data.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::record::{Asked, Errand, Heading, Mark, Outcome, RollRecord, Sent, Side, Worker};

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make this call, and learn from its reply.
    Act(Call),
    /// Nothing can be done before something changes; look again then.
    Wait {
        reason: String,
        until: Timestamp,
    },
    Done(Outcome),
}

impl Step {
    /// Waits for a while.
    #[must_use]
    pub fn wait(now: Timestamp, pause: Duration, reason: impl Into<String>) -> Self {
        Self::Wait {
            reason: reason.into(),
            until: now + pause,
        }
    }

    /// Writes something into the record.
    #[must_use]
    pub fn note(note: Note) -> Self {
        Self::Act(Call::Note(note))
    }

    /// Turns back.
    #[must_use]
    pub fn turn_back(reason: impl Into<String>) -> Self {
        Self::note(Note::TurnBack(reason.into()))
    }
}

/// One call to the cloud, or one entry in the record. Each may be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    /// `CreateLaunchTemplateVersion`, with a client token.
    CreateVersion,
    /// `RunInstances`, with a client token.
    LaunchCanary,
    /// `SendCommand` with all checks.
    CheckCanary(String),
    /// `SendCommand`: take no more jobs; say whether one runs.
    CordonCanary(String),
    /// `TerminateInstances`.
    TerminateCanary(String),
    /// `SendCommand` with all checks, to instances of the group.
    CheckMembers(Vec<String>),
    /// `StartInstanceRefresh`.
    StartRefresh(Side),
    /// `CancelInstanceRefresh`; `busy` if it is to be started again for busy workers.
    CancelRefresh { id: String, busy: bool },
    /// `RollbackInstanceRefresh`.
    RollbackRefresh(String),
    /// `UpdateAutoScalingGroup`: only where no instance is left to replace.
    PointGroup(Side),
    /// `DeleteLaunchTemplateVersions`.
    DropVersion(u64),
    /// Nothing but an entry in the record.
    Note(Note),
}

/// Something learnt by looking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Note {
    VersionFound(u64),
    VersionVerified,
    CanaryFound(String),
    /// The checks of the canary are over.
    CanaryJudged {
        failure: Option<String>,
        worker: Worker,
    },
    /// The last command to the canary did not settle it: it is sent again.
    CanaryAskAgain {
        /// The worker answered, so its silence is counted anew.
        answered: bool,
    },
    CanaryGone,
    CanaryLeft(String),
    RefreshFound {
        id: String,
        version: u64,
    },
    /// A refresh ended, and only busy workers kept it from its end.
    RefreshBusy(String),
    /// `StartInstanceRefresh` was asked for, and nothing came of it.
    RefreshLost,
    Stand(String),
    TurnBack(String),
    GiveUp(String),
    VersionKept(String),
    End(Outcome),
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Done,
    /// The id of what was made or found: a version, an instance, a command, a refresh.
    Made(String),
    /// The cloud will not do it, and asking again does not help.
    Refused(String),
    /// It could not be done now: look, and decide anew.
    Later(String),
}

impl RollRecord {
    /// What must be on record before a call is made.
    pub fn intend(&mut self, call: &Call, newest: Option<&str>, now: Timestamp) {
        match call {
            Call::CreateVersion => self.version_asked = true,
            Call::LaunchCanary => {
                self.canary.asked.get_or_insert(now);
            }
            Call::CordonCanary(_) => {
                self.canary.leaving.get_or_insert(now);
            }
            Call::StartRefresh(side) => {
                self.asked = Some(Asked {
                    version: side.version,
                    after: newest.map(str::to_owned),
                });
            }
            _ => {}
        }
    }

    /// What a call's reply teaches.
    pub fn learn(&mut self, call: &Call, reply: &Reply, now: Timestamp) {
        match (call, reply) {
            (Call::Note(note), _) => self.note(note, now),
            (_, Reply::Later(_)) => {}
            (Call::CreateVersion, Reply::Made(number)) => self.new_version = number.parse().ok(),
            (Call::CreateVersion, Reply::Refused(why)) => {
                self.version_asked = false;
                self.turn_back(why);
            }
            (Call::LaunchCanary, Reply::Made(id)) => self.canary.instance = Some(id.clone()),
            (Call::LaunchCanary, Reply::Refused(why)) => {
                self.canary.gone = true;
                self.turn_back(why);
            }
            (Call::CheckCanary(_), Reply::Made(id)) => self.send(id, Errand::Check, now),
            (Call::CordonCanary(_), Reply::Made(id)) => self.send(id, Errand::Cordon, now),
            (Call::CheckCanary(_), Reply::Refused(why)) => {
                self.judge(Some(why), Worker::Unknown, now);
            }
            (Call::StartRefresh(side), Reply::Made(id)) => {
                self.remember(id, side.version);
                self.asked = None;
                self.attempts += 1;
                self.mark = None;
            }
            (Call::StartRefresh(_) | Call::PointGroup(_), Reply::Refused(why)) => {
                self.asked = None;
                match self.heading {
                    Heading::Forward => self.turn_back(why),
                    Heading::Back => self.given_up = Some(why.chars().take(400).collect()),
                }
            }
            (Call::CancelRefresh { id, busy: true }, Reply::Done) => self.busy(id),
            (Call::RollbackRefresh(_), Reply::Refused(_)) => self.irreversible = true,
            (Call::DropVersion(_), Reply::Done) => self.dropped = true,
            (Call::DropVersion(_), Reply::Refused(why)) => self.keep(why),
            _ => {}
        }
    }

    fn note(&mut self, note: &Note, now: Timestamp) {
        match note {
            Note::VersionFound(number) => self.new_version = Some(*number),
            Note::VersionVerified => self.verified = true,
            Note::CanaryFound(id) => self.canary.instance = Some(id.clone()),
            Note::CanaryJudged { failure, worker } => self.judge(failure.as_ref(), *worker, now),
            Note::CanaryAskAgain { answered } => {
                self.canary.sent = None;
                if *answered {
                    self.canary.worker = Worker::Present;
                    self.canary.leaving = Some(now);
                }
            }
            Note::CanaryGone => self.canary.gone = true,
            Note::CanaryLeft(why) => {
                self.canary.gone = true;
                self.canary.left = Some(why.clone());
                let id = self.canary.instance.clone().unwrap_or_default();
                self.left.push(format!(
                    "canary {id} ({why}); once its job is over: aws ec2 terminate-instances --instance-ids {id}"
                ));
            }
            Note::RefreshFound { id, version } => {
                self.remember(id, *version);
                self.asked = None;
                self.attempts += 1;
                self.mark = None;
            }
            Note::RefreshBusy(id) => self.busy(id),
            Note::RefreshLost => {
                self.asked = None;
                self.refreshes.pop();
                self.mark = None;
            }
            Note::Stand(stand) => {
                self.mark = Some(Mark {
                    stand: stand.clone(),
                    since: now,
                });
            }
            Note::TurnBack(reason) => self.turn_back(reason),
            Note::GiveUp(reason) => self.given_up = Some(reason.chars().take(400).collect()),
            Note::VersionKept(why) => self.keep(why),
            Note::End(outcome) => {
                self.outcome = Some(*outcome);
                self.ended = Some(now);
            }
        }
    }

    fn send(&mut self, id: &str, errand: Errand, now: Timestamp) {
        self.canary.sent = Some(Sent {
            id: id.to_owned(),
            errand,
            at: now,
        });
    }

    fn judge(&mut self, failure: Option<&String>, worker: Worker, now: Timestamp) {
        self.canary.passed = Some(failure.is_none());
        self.canary.worker = worker;
        self.canary.sent = None;
        self.canary.leaving = Some(now);
        if let (Some(why), Heading::Forward) = (failure, self.heading) {
            self.turn_back(&format!("the canary failed: {why}"));
        }
    }

    fn busy(&mut self, id: &str) {
        if let Some(refresh) = self.refreshes.iter_mut().find(|one| one.id == id)
            && !refresh.busy
        {
            refresh.busy = true;
            self.attempts = self.attempts.saturating_sub(1);
        }
    }

    fn keep(&mut self, why: &str) {
        self.dropped = true;
        if let Some(number) = self.new_version {
            self.left.push(format!(
                "launch template version {number} ({why}); once nothing uses it: aws ec2 \
                 delete-launch-template-versions --launch-template-id {} --versions {number}",
                self.template
            ));
        }
    }
}
