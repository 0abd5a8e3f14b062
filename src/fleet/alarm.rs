//! What people should know or do. Pure.

use jiff::Timestamp;
use serde::Serialize;

use super::decide::{Plan, words};
use super::memory::Memory;
use super::policy::Policy;
use super::standing::Standing;
use super::world::{Demand, Member, Word, World};
use crate::aws::commands::quote;

/// How long an instance may take to end.
const END: i64 = 600;

/// Something for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Alarm {
    /// What it is about, the same as long as it lasts.
    pub about: String,
    pub text: String,
    /// A command that mends it, or shows more.
    pub way_out: Option<String>,
}

fn alarm(about: impl Into<String>, text: String, way_out: Option<String>) -> Alarm {
    Alarm {
        about: about.into(),
        text,
        way_out,
    }
}

fn remove(id: &str) -> String {
    format!(
        "once you know that no job runs on it: aws autoscaling terminate-instance-in-auto-scaling-group --instance-id \
         {id} --no-should-decrement-desired-capacity"
    )
}

/// Everything that people should know.
#[must_use]
pub fn alarms(
    world: &World,
    policy: &Policy,
    memory: &Memory,
    plan: &Plan,
    shortage: u32,
    now: Timestamp,
) -> Vec<Alarm> {
    let mut found = Vec::new();
    let group = &world.group;
    if let Demand::Unreachable(why) = &world.demand {
        let text = format!(
            "the CI server cannot be asked: {why}; no idle worker goes, and one is launched only when all are busy"
        );
        found.push(alarm("demand", text, None));
    }
    let full = group.desired >= group.max;
    if shortage > 0 && full {
        let more = match shortage {
            1 => "1 more worker is".to_owned(),
            _ => format!("{shortage} more workers are"),
        };
        found.push(alarm(
            "maximum",
            format!(
                "{more} needed, and the group is at its maximum of {}",
                group.max
            ),
            Some(format!(
                "aws autoscaling update-auto-scaling-group --auto-scaling-group-name {} --max-size {}",
                quote(&group.name),
                group.max + shortage
            )),
        ));
    }
    if shortage > 0 && !full && !memory.short.is_empty() {
        let zones: Vec<&str> = memory.short.keys().map(String::as_str).collect();
        let zones = zones.join(", ");
        let place = if zones.is_empty() {
            "instances could not be launched".to_owned()
        } else {
            format!("instances could not be launched in {zones}")
        };
        found.push(alarm(
            "capacity",
            format!("{place}; it is tried again within minutes"),
            Some(format!(
                "aws autoscaling describe-scaling-activities --max-items 5 --auto-scaling-group-name {}",
                quote(&group.name)
            )),
        ));
    }
    if let Some(rolling) = world.rolling.as_ref().filter(|one| one.target.is_none()) {
        let text = format!(
            "{} goes to a version that cannot be told: no worker is drained for it",
            rolling.what
        );
        found.push(alarm("refresh", text, None));
    }
    for (row, member) in plan.rows.iter().zip(&group.members) {
        if let Standing::Unknown { why, since } = &row.standing {
            let lasts = now.duration_since(*since);
            if lasts >= policy.leak_after {
                found.push(leak(member, why, lasts.as_secs(), now));
            }
        }
    }
    for (id, ending) in &memory.ending {
        let lasts = now.as_second().saturating_sub(ending.since);
        if lasts >= END {
            let text = format!("{id} was asked to end {} ago and is not gone", words(lasts));
            let way_out = format!("aws ec2 describe-instances --instance-ids {id}");
            found.push(alarm(format!("end {id}"), text, Some(way_out)));
        }
    }
    found
}

/// A worker of which nothing is known for long. It is never ended for that: a job may run on it.
fn leak(member: &Member, why: &str, secs: i64, now: Timestamp) -> Alarm {
    let id = &member.id;
    let never = matches!(&member.word, Word::Silent(why) if why == super::word::UNREGISTERED);
    let text = match member.launched {
        Some(launched) if never => format!(
            "{id} has not arrived: its SSM agent has not registered in the {} since its launch. It does not count as \
             capacity, and is left for you",
            words(now.duration_since(launched).as_secs())
        ),
        _ => format!(
            "{id} has been unknown for {}: {why}. A job may run on it, so it is left for you",
            words(secs)
        ),
    };
    alarm(format!("unknown {id}"), text, Some(remove(id)))
}
