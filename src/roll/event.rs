//! What a roll tells while it goes on. The terminal and JSON lines are readers of this stream.

use jiff::Timestamp;
use serde::Serialize;

use super::record::{Heading, Outcome, RollRecord, Side};
use super::refresh::BLOCKED;
use super::step::Call;
use super::world::{Check, Difference, Life, WorkerWord, World};
use crate::events;

/// One instance of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Row {
    pub id: String,
    pub version: Option<u64>,
    pub image: Option<String>,
    pub life: Life,
    pub protected: bool,
    pub worker: Option<WorkerWord>,
    /// Whether it is on the version that the group goes to.
    pub there: bool,
    /// What it waits for, in words; empty if for nothing.
    pub waits_for: String,
    /// When that wait ends at the latest, or is begun anew.
    #[schemars(with = "Option<String>")]
    pub until: Option<Timestamp>,
}

/// The group as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct View {
    pub group: String,
    pub roll: String,
    pub heading: Heading,
    pub old: Side,
    pub new: Option<Side>,
    /// Why it goes back.
    pub reason: Option<String>,
    /// Instances on the version that the group goes to, and others.
    pub there: usize,
    pub others: usize,
    pub desired: u32,
    /// Id, status and percentage of the refresh under way.
    pub refresh: Option<(String, String, u32)>,
    /// Id and state of the canary while there is one.
    pub canary: Option<(String, String)>,
    pub instances: Vec<Row>,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A roll begins, or is picked up where another process left it.
    Begun {
        roll: String,
        group: String,
        picked_up: bool,
        old: Side,
        new_image: String,
    },
    /// The new version was read back.
    Difference {
        version: u64,
        fields: Vec<Difference>,
    },
    Looked(View),
    /// A call is about to be made.
    Calling {
        call: Call,
    },
    /// The cloud asks for patience, or an answer was lost.
    Again {
        reason: String,
    },
    Waiting {
        reason: String,
        #[schemars(with = "String")]
        until: Timestamp,
    },
    TurnedBack {
        reason: String,
    },
    /// It is over; every instance with version and image, as EC2 and Auto Scaling say.
    Ended {
        outcome: Outcome,
        reason: Option<String>,
        instances: Vec<Row>,
        group_version: Option<u64>,
        left: Vec<String>,
    },
}

/// An event and its time.
pub type Stamped = events::Stamped<Event>;

/// Draws up how a group stands.
#[must_use]
pub fn view(record: &RollRecord, world: &World) -> View {
    let target = record.target();
    let active = world.active();
    let rows: Vec<Row> = world
        .group
        .iter()
        .flat_map(|group| &group.members)
        .map(|member| {
            let there = target.as_ref().is_some_and(|target| member.is_on(target));
            let since = active
                .map(|active| active.started)
                .filter(|since| *since < Timestamp::MAX);
            let (waits_for, until) = match (member.life, there, &member.check) {
                (Life::Pending, ..) => ("its boot and hooks".to_owned(), None),
                (Life::Standby, ..) => ("its return from standby".to_owned(), None),
                (Life::Terminating, ..) => ("its end".to_owned(), None),
                (Life::InService, true, Check::Underway) => ("its checks".to_owned(), None),
                (Life::InService, true, Check::Failed(why)) => (format!("nothing: {why}"), None),
                (Life::InService, true, _) => (String::new(), None),
                (Life::InService, false, _) if active.is_none() => {
                    ("the refresh to begin".to_owned(), None)
                }
                (Life::InService, false, _) if member.protected => {
                    let busy = member
                        .worker
                        .as_ref()
                        .is_some_and(|worker| worker.state == "busy");
                    let what = if busy {
                        "its job, then its drain"
                    } else {
                        "its drain"
                    };

                    (what.to_owned(), since.map(|since| since + BLOCKED))
                }
                (Life::InService, false, _) => ("its replacement".to_owned(), None),
            };
            Row {
                id: member.id.clone(),
                version: member.version,
                image: member.image.clone(),
                life: member.life,
                protected: member.protected,
                worker: member.worker.clone(),
                there,
                waits_for,
                until,
            }
        })
        .collect();
    let staying = || rows.iter().filter(|row| row.life != Life::Terminating);
    View {
        group: record.group.clone(),
        roll: record.id.clone(),
        heading: record.heading,
        old: record.old.clone(),
        new: record.new_side(),
        reason: record.reason.clone(),
        there: staying().filter(|row| row.there).count(),
        others: staying().filter(|row| !row.there).count(),
        desired: world.group.as_ref().map_or(0, |group| group.desired),
        refresh: active.map(|one| (one.id.clone(), format!("{:?}", one.status), one.percent)),
        canary: world
            .canary
            .as_ref()
            .filter(|canary| !record.canary.gone && canary.state != "terminated")
            .map(|canary| (canary.id.clone(), canary.state.clone())),
        instances: rows,
    }
}
