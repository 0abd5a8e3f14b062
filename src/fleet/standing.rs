//! Where each worker stands. Pure.

use jiff::Timestamp;
use serde::Serialize;

use super::memory::Memory;
use super::policy::Policy;
use super::world::{CiState, Demand, Life, Member, Said, State, Word, World};

/// What the reason of a cordon of ours begins with; other cordons are a person's, and are left alone.
pub const OURS: &str = "piaas-bake fleet: ";

/// Where a worker stands. Times in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Standing {
    /// Launched, and expected to answer before this time.
    Booting {
        #[schemars(with = "String")]
        deadline: Timestamp,
    },
    /// It runs a job, or the CI server says so.
    Busy {
        secs: Option<i64>,
        jobs: Vec<String>,
    },
    /// It waits for a job.
    Idle { secs: i64 },
    /// It takes no more jobs, and may still run one.
    Draining { ours: bool, busy: bool },
    /// It will never take a job again, and runs none.
    Drained,
    /// Nobody knows whether a job runs on it.
    Unknown {
        why: String,
        #[schemars(with = "String")]
        since: Timestamp,
    },
    /// It was drained and asked to end.
    Leaving {
        #[schemars(with = "String")]
        since: Timestamp,
    },
    /// On its way out.
    Ending,
    /// Taken out of service by a person.
    Standby,
    /// Auto Scaling is about to replace it.
    Unhealthy,
}

/// Where a member stands.
#[must_use]
pub fn standing(
    world: &World,
    member: &Member,
    policy: &Policy,
    memory: &Memory,
    now: Timestamp,
) -> Standing {
    if member.is_ending() {
        return Standing::Ending;
    }
    if let Some(ending) = memory.ends(&member.id) {
        let since = Timestamp::from_second(ending.since).unwrap_or(now);
        return Standing::Leaving { since };
    }
    match member.life {
        Life::Standby => return Standing::Standby,
        Life::Pending | Life::InService | Life::Terminating => {}
    }
    if !member.healthy {
        return Standing::Unhealthy;
    }
    let deadline = member.launched.unwrap_or(now) + policy.boot_deadline;
    // What is not known of a new instance is that it has not arrived yet.
    let unknown = |why: String| {
        if now < deadline {
            return Standing::Booting { deadline };
        }
        let since = memory.unknown.get(&member.id);
        let since = since.and_then(|since| Timestamp::from_second(*since).ok());
        Standing::Unknown {
            why,
            // The memory is a parameter that others can write: what it knows of began in the past.
            since: since.map_or(now, |since| since.min(now)),
        }
    };
    if member.life == Life::Pending {
        return unknown("the group has not put it into service".to_owned());
    }
    let said = match &member.word {
        Word::Said(said) => said,
        Word::Silent(why) => return unknown(why.clone()),
    };
    if said.drained.is_some() {
        return Standing::Drained;
    }
    if let Some(cordon) = &said.cordon {
        let reason = cordon.reason.as_deref().unwrap_or_default();
        return Standing::Draining {
            ours: reason.starts_with(OURS),
            busy: said.state != State::Idle,
        };
    }
    match said.state {
        State::Busy => busy(said),
        State::Unknown => unknown(
            said.why
                .clone()
                .unwrap_or_else(|| "the worker agent does not know".to_owned()),
        ),
        State::Idle => match veto(&world.demand, &member.id) {
            None => Standing::Idle {
                // Since when it does not say: it has only just begun.
                secs: said.lasts().map_or(0, |lasts| lasts.as_secs()),
            },
            Some(Veto::Busy) => busy(said),
            Some(Veto::Missing) => unknown(
                "it is idle, but the CI server does not list it as one of its workers".to_owned(),
            ),
        },
    }
}

fn busy(said: &Said) -> Standing {
    let secs = (said.state == State::Busy).then(|| said.lasts().map(|lasts| lasts.as_secs()));
    Standing::Busy {
        secs: secs.flatten(),
        jobs: said.jobs.clone(),
    }
}

/// What the CI server says against a worker that is idle by its own word.
enum Veto {
    Busy,
    Missing,
}

fn veto(demand: &Demand, id: &str) -> Option<Veto> {
    let Demand::Known {
        workers: Some(workers),
        ..
    } = demand
    else {
        return None;
    };
    match workers.get(id) {
        Some(CiState::Idle) => None,
        Some(CiState::Busy) => Some(Veto::Busy),
        None => Some(Veto::Missing),
    }
}
