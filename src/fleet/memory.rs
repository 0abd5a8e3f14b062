//! What the controller must not forget: what it asked for and has not seen come true. In Parameter Store, written
//! before each call that it protects, and small: it holds what is in flight, not the fleet.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::decide::Decision;
use super::world::{Group, World};
use crate::aws::parameters::{LIMIT, segment};

/// Schema of the memory.
pub const SCHEMA: &str = "piaas-bake-fleet/v1";
/// Most instances whose end may be in flight at the same time: each takes some 55 bytes of 4 KB.
pub const ENDING_MOST: usize = 40;
/// Most instances of a launch in flight: each takes 22 bytes.
pub const LAUNCH_MOST: u32 = 50;
/// Most workers whose silence is timed, the longest first.
const UNKNOWN_MOST: usize = 90;
/// Most lines of the log, and the length of one.
const LOG_MOST: usize = 12;
const LINE_MOST: usize = 200;
/// How long what was just asked for may stay invisible: reads are eventually consistent.
pub const VISIBLE: SignedDuration = SignedDuration::from_mins(2);
/// How long a launch is repeated with its token. How long Auto Scaling knows a token is not documented ("idempotency
/// window"), and EC2 knows its own for 24 hours at least; an hour is well within. What a launch made that was never
/// answered is in the group by then, and is counted there.
pub const TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(1);
/// How long a zone is left alone that had no capacity.
pub const SHORT: SignedDuration = SignedDuration::from_mins(3);

/// A `LaunchInstances` call that may have been made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    pub token: String,
    pub count: u32,
    /// `None`: the group has one zone.
    pub zone: Option<String>,
    pub asked: Timestamp,
    /// What it made, once it was answered, and when that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<(Timestamp, Vec<String>)>,
}

/// A `TerminateInstanceInAutoScalingGroup` call that may have been made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(i64, i64, bool)", into = "(i64, i64, bool)")]
pub struct Ending {
    /// First asked for, seconds since 1970.
    pub since: i64,
    /// Last asked for, seconds since 1970.
    pub asked: i64,
    pub decrement: bool,
}

impl From<(i64, i64, bool)> for Ending {
    fn from((since, asked, decrement): (i64, i64, bool)) -> Self {
        Self {
            since,
            asked,
            decrement,
        }
    }
}

impl From<Ending> for (i64, i64, bool) {
    fn from(ending: Ending) -> Self {
        (ending.since, ending.asked, ending.decrement)
    }
}

impl Ending {
    /// Whether the call may still be invisible.
    #[must_use]
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        now.as_second().saturating_sub(self.asked) < VISIBLE.as_secs()
    }
}

/// What is in flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub schema: String,
    /// Epoch of the lease under which it was last written.
    pub epoch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<Launch>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ending: BTreeMap<String, Ending>,
    /// Zones without capacity, and until when they are left alone, seconds since 1970. The empty name is the only
    /// zone of a group that has one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub short: BTreeMap<String, i64>,
    /// Since when workers are unknown, seconds since 1970. In a parameter of its own.
    #[serde(skip)]
    pub unknown: BTreeMap<String, i64>,
}

/// A memory that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "the fleet's memory {name} cannot be read ({cause}); if no controller runs, remove it with: aws ssm \
     delete-parameter --name {name}"
)]
pub struct Unreadable {
    pub name: String,
    pub cause: String,
}

/// What was done last, for people; newest last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(with = "Vec<(String, String)>")]
pub struct Log(pub Vec<(Timestamp, String)>);

impl Log {
    /// Adds a line.
    pub fn push(&mut self, at: Timestamp, line: &str) {
        self.0.push((at, line.chars().take(LINE_MOST).collect()));
        let spare = self.0.len().saturating_sub(LOG_MOST);
        self.0.drain(..spare);
    }
}

/// Name of the parameter with what is in flight.
#[must_use]
pub fn parameter(group: &str) -> String {
    format!("/piaas-bake/fleets/{}", segment(group))
}

/// Name of the parameter with the workers that are unknown.
#[must_use]
pub fn unknown_parameter(group: &str) -> String {
    format!("{}/unknown", parameter(group))
}

/// Name of the parameter with the log.
#[must_use]
pub fn log_parameter(group: &str) -> String {
    format!("{}/log", parameter(group))
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            epoch: 0,
            launch: None,
            ending: BTreeMap::new(),
            short: BTreeMap::new(),
            unknown: BTreeMap::new(),
        }
    }
}

impl Memory {
    /// Reads it.
    ///
    /// # Errors
    /// [`Unreadable`]: it is not a memory, or one of another version of this program.
    pub fn from_json(name: &str, text: &str) -> Result<Self, Unreadable> {
        let unreadable = |cause: String| Unreadable {
            name: name.to_owned(),
            cause,
        };
        let memory: Self =
            serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
        if memory.schema == SCHEMA {
            Ok(memory)
        } else {
            Err(unreadable(format!("its schema is {}", memory.schema)))
        }
    }

    /// As JSON, within the size of a standard parameter.
    #[must_use]
    pub fn to_json(&self) -> String {
        let text = serde_json::to_string(self).expect("a memory has only text keys");
        debug_assert!(text.len() <= LIMIT, "{} bytes", text.len());
        text
    }

    /// The workers that are unknown, as JSON.
    #[must_use]
    pub fn unknown_json(&self) -> String {
        serde_json::to_string(&self.unknown).expect("only text keys")
    }

    /// Whether this instance was asked to end.
    #[must_use]
    pub fn ends(&self, id: &str) -> Option<Ending> {
        self.ending.get(id).copied()
    }

    /// Instances of the last launch that the group does not show yet.
    #[must_use]
    pub fn unseen(&self, group: &Group, now: Timestamp) -> u32 {
        let Some((at, made)) = self.launch.as_ref().and_then(|launch| launch.made.as_ref()) else {
            return 0;
        };
        if now.duration_since(*at) >= VISIBLE {
            return 0;
        }
        let unseen = made
            .iter()
            .filter(|id| !group.members.iter().any(|member| member.id == **id));
        u32::try_from(unseen.count()).unwrap_or(u32::MAX)
    }

    /// Takes in what was seen. `unknown` are the workers that are unknown now.
    pub fn observe(&mut self, world: &World, unknown: &[String], now: Timestamp) {
        let over = |launch: &Launch| match &launch.made {
            None => now.duration_since(launch.asked) >= TOKEN_LIFE,
            Some(_) => false,
        };
        let seen = self.unseen(&world.group, now) == 0;
        if self
            .launch
            .as_ref()
            .is_some_and(|launch| over(launch) || (launch.made.is_some() && seen))
        {
            self.launch = None;
        }
        self.ending.retain(|id, _| {
            let in_group = world.group.members.iter().any(|member| member.id == *id);
            // Gone: not in the group, and ended in EC2 or forgotten by it.
            let power = world.gone.get(id).map_or("", String::as_str);
            in_group || !(power.is_empty() || power == "terminated")
        });
        self.short.retain(|_, until| *until > now.as_second());
        self.unknown.retain(|id, _| unknown.contains(id));
        for id in unknown {
            if self.unknown.len() < UNKNOWN_MOST {
                self.unknown.entry(id.clone()).or_insert(now.as_second());
            }
        }
    }

    /// Writes the intent of a decision.
    pub fn intend(&mut self, decision: &Decision, now: Timestamp) {
        match decision {
            Decision::Launch {
                token, count, zone, ..
            } => {
                let repeated = self
                    .launch
                    .as_ref()
                    .is_some_and(|launch| launch.token == *token);
                if !repeated {
                    self.launch = Some(Launch {
                        token: token.clone(),
                        count: *count,
                        zone: zone.clone(),
                        asked: now,
                        made: None,
                    });
                }
            }
            Decision::Terminate { id, decrement, .. } => {
                let now = now.as_second();
                let ending = self.ending.entry(id.clone()).or_insert(Ending {
                    since: now,
                    asked: now,
                    decrement: *decrement,
                });
                (ending.asked, ending.decrement) = (now, *decrement);
            }
            Decision::Cordon { .. } | Decision::Uncordon { .. } => {}
        }
    }

    /// Writes the outcome of a decision.
    pub fn learn(&mut self, decision: &Decision, reply: &Reply, now: Timestamp) {
        match (decision, reply) {
            (_, Reply::Lost(_)) => {}
            (Decision::Launch { zone, .. }, Reply::Launched { ids, errors }) => {
                if !errors.is_empty() {
                    let zone = zone.clone().unwrap_or_default();
                    self.short.insert(zone, (now + SHORT).as_second());
                }
                match &mut self.launch {
                    Some(launch) if !ids.is_empty() => launch.made = Some((now, ids.clone())),
                    launch => *launch = None,
                }
            }
            (Decision::Launch { zone, .. }, Reply::Refused(_)) => {
                self.launch = None;
                let zone = zone.clone().unwrap_or_default();
                self.short.insert(zone, (now + SHORT).as_second());
            }
            (Decision::Launch { .. }, Reply::Later(_)) => self.launch = None,
            (Decision::Terminate { id, .. }, Reply::Refused(_) | Reply::Later(_)) => {
                self.ending.remove(id);
            }
            _ => {}
        }
    }
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    Done,
    Launched {
        ids: Vec<String>,
        /// Code and message of what could not be launched.
        errors: Vec<String>,
    },
    /// The cloud, or the worker, will not do it.
    Refused(String),
    /// It was not done; it may be asked for again.
    Later(String),
    /// Nobody knows whether it was done.
    Lost(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_was_asked_for_at_no_time_is_not_fresh() {
        let asked_at = |asked| Ending {
            since: asked,
            asked,
            decrement: true,
        };
        let now = Timestamp::from_second(1_767_268_800).unwrap();
        assert!(!asked_at(i64::MIN).is_fresh(now));
        assert!(asked_at(now.as_second()).is_fresh(now));
    }

    #[test]
    fn the_largest_memory_fits_into_a_parameter() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let id = |n: usize| format!("i-{n:017x}");
        let ending = Ending {
            since: now.as_second(),
            asked: now.as_second(),
            decrement: false,
        };
        let memory = Memory {
            epoch: u64::MAX,
            launch: Some(Launch {
                token: "x".repeat(64),
                count: LAUNCH_MOST,
                zone: Some("ap-southeast-1a".into()),
                asked: now,
                made: Some((now, (0..LAUNCH_MOST as usize).map(id).collect())),
            }),
            ending: (0..ENDING_MOST).map(|n| (id(n), ending)).collect(),
            short: (0..6)
                .map(|n| (format!("ap-southeast-1{n}"), now.as_second()))
                .collect(),
            unknown: (0..UNKNOWN_MOST)
                .map(|n| (id(n), now.as_second()))
                .collect(),
            ..Memory::default()
        };
        let text = memory.to_json();
        assert!(text.len() <= LIMIT, "{}", text.len());
        assert!(memory.unknown_json().len() <= LIMIT);
        let mut read = Memory::from_json("x", &text).unwrap();
        read.unknown.clone_from(&memory.unknown);
        assert_eq!(read, memory);
        let mut log = Log::default();
        for _ in 0..50 {
            log.push(now, &"x".repeat(500));
        }
        assert!(serde_json::to_string(&log).unwrap().len() <= LIMIT);
    }
}
