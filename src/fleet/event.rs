//! What a fleet tells while it is run. The terminal and JSON lines are readers of this stream.

use jiff::Timestamp;
use serde::Serialize;

use super::alarm::Alarm;
use super::decide::{Counts, Decision, Plan, Row};
use super::memory::{Log, Reply};
use super::world::{Demand, World};
use crate::events;

/// The fleet as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct View {
    pub group: String,
    /// When it was looked at. Events have an `at` of their own.
    #[serde(rename = "seen_at")]
    #[schemars(with = "String")]
    pub at: Timestamp,
    pub min: u32,
    pub desired: u32,
    pub max: u32,
    /// The launch template version that new instances come from.
    pub version: Option<String>,
    /// The refresh under way, and its target version.
    pub refresh: Option<(String, Option<u64>)>,
    /// Jobs in the queue, if the CI server says so.
    pub queued: Option<u32>,
    /// Why the CI server cannot be asked.
    pub unreachable: Option<String>,
    pub counts: Counts,
    /// Idle workers that there should be.
    pub required: u32,
    pub workers: Vec<Row>,
    pub alarms: Vec<Alarm>,
    /// What was done last, newest last.
    pub log: Log,
}

/// Draws up how a fleet stands.
#[must_use]
pub fn view(world: &World, plan: &Plan, log: &Log, now: Timestamp) -> View {
    let group = &world.group;
    let (queued, unreachable) = match &world.demand {
        Demand::Known { queued, .. } => (Some(*queued), None),
        Demand::Unreachable(why) => (None, Some(why.clone())),
        Demand::NotAsked => (None, None),
    };
    let rolling = world.rolling.as_ref();
    View {
        group: group.name.clone(),
        at: now,
        min: group.min,
        desired: group.desired,
        max: group.max,
        version: group.version.clone(),
        refresh: rolling.map(|rolling| (rolling.what.clone(), rolling.target)),
        queued,
        unreachable,
        counts: plan.counts,
        required: plan.required,
        workers: plan.rows.clone(),
        alarms: plan.alarms.clone(),
        log: log.clone(),
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A controller begins.
    Begun {
        group: String,
        epoch: u64,
    },
    Looked(Box<View>),
    /// A call is about to be made; its intent is on record.
    Deciding {
        decision: Decision,
    },
    /// It was made.
    Decided {
        decision: Decision,
        reply: Reply,
    },
    /// An instance that was asked to end is gone: not in the group, and ended in EC2.
    Gone {
        id: String,
    },
    /// Something for people, once when it begins and once when it is over.
    Alarm {
        alarm: Alarm,
    },
    Cleared {
        about: String,
    },
    /// A tick failed; the next one looks anew.
    Failed {
        error: String,
    },
}

/// An event and its time.
pub type Stamped = events::Stamped<Event>;

/// A decision in a few words.
#[must_use]
pub fn told(decision: &Decision) -> String {
    match decision {
        Decision::Launch {
            count, zone, why, ..
        } => {
            let zone = zone
                .as_ref()
                .map_or_else(String::new, |zone| format!(" in {zone}"));
            format!("launch {count}{zone}: {why}")
        }
        Decision::Cordon { id, why, .. } => format!("cordon {id}: {why}"),
        Decision::Uncordon { id, why, .. } => format!("uncordon {id}: {why}"),
        Decision::Terminate { id, why, .. } => format!("terminate {id}: {why}"),
    }
}
