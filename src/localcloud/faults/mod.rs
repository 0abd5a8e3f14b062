//! What goes wrong on purpose: a script of faults on the wire and in the machines, for tests and for `cloud serve --faults`.
//!
//! Each rule waits for requests that it is about, lets some pass, and then meddles with as many as it says. Chance comes
//! from the script's seed, so a script is one story as long as its requests come in one order.

mod machines;
mod script;
mod trickle;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

pub use machines::Meddling;
pub use script::ScriptError;
pub use trickle::Trickle;

use super::driver::Reclaim;
use super::ec2::filters::matches;
use super::quotas::Quota;
use super::state::State;
use super::wire::Service;
use super::wire::error::ApiError;

/// What is done to one request.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// The service asks for patience; nothing is done.
    Throttle,
    /// The service gives this error; nothing is done.
    Error {
        status: u16,
        /// The service's own, if none is given.
        code: Option<String>,
        message: String,
    },
    /// The connection ends before anything is done.
    DropRequest,
    /// It is done, and the connection ends without an answer.
    DropReply,
    /// It is done, and the connection is reset.
    Reset,
    /// It arrives twice; the client sees the second answer.
    Duplicate,
    /// The body of the answer takes this long.
    Slow(Duration),
    /// Something that is only read is read as it was this long ago.
    Stale(SignedDuration),
}

/// What is done to one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// There is none of this type in this zone.
    NoCapacity,
    /// It ends as soon as it is launched.
    LaunchFails(String),
    /// Its agent never comes online.
    NoAgent,
    /// It is taken back, if it is a Spot Instance.
    Reclaimed(Reclaim),
}

/// What a rule is about, and what it does.
#[derive(Debug, Clone, PartialEq)]
enum Target {
    Request {
        operation: String,
        fault: Fault,
    },
    Machine {
        zone: String,
        instance_type: String,
        trouble: Trouble,
    },
}

/// One rule with what is left of it.
#[derive(Debug, Clone, PartialEq)]
struct Rule {
    target: Target,
    /// How many it lets pass first.
    after: u64,
    /// How many it meddles with; `None`: with all.
    times: Option<u64>,
    /// It meddles with one in so many, by chance.
    one_in: u64,
}

#[derive(Debug)]
struct Inner {
    rules: Vec<Rule>,
    chance: u64,
    /// The records as they were, by region, the oldest first, as far back as a rule reads.
    past: BTreeMap<String, VecDeque<(Timestamp, Arc<State>)>>,
}

/// A script under way.
#[derive(Debug)]
pub struct Faults {
    inner: Mutex<Inner>,
    /// How far back a rule reads, if one does.
    memory: Option<SignedDuration>,
    seed: u64,
    quotas: BTreeMap<Quota, u64>,
}

impl Inner {
    /// Takes one turn of the first rule that is about this and is due.
    fn turn<T>(&mut self, about: impl Fn(&Target) -> Option<T>) -> Option<T> {
        for rule in &mut self.rules {
            let Some(what) = about(&rule.target) else {
                continue;
            };
            if rule.times == Some(0) {
                continue;
            }
            if rule.after > 0 {
                rule.after -= 1;
                continue;
            }
            if rule.one_in > 1 {
                // SplitMix64 (Steele, Lea, Flood 2014).
                self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut mixed = self.chance;
                mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                if !(mixed ^ (mixed >> 31)).is_multiple_of(rule.one_in) {
                    continue;
                }
            }
            if let Some(left) = &mut rule.times {
                *left -= 1;
            }
            return Some(what);
        }
        None
    }
}

impl Faults {
    fn locked(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What chance comes from.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// What the script allows of something, if it speaks of it.
    pub(super) fn quota(&self, quota: Quota) -> Option<u64> {
        self.quotas.get(&quota).copied()
    }

    /// What is done to a request, by the names of its service and its operation.
    pub(crate) fn on_request(&self, service: Service, operation: &str) -> Option<Fault> {
        let name = format!("{}:{operation}", service.name());
        // Reads of S3 are never late ("Amazon S3 data consistency model").
        let reads = service != Service::S3 && is_read(operation);
        self.locked().turn(|target| match target {
            Target::Request {
                operation: pattern,
                fault,
            } if matches(pattern, &name) && (reads || !matches!(fault, Fault::Stale(_))) => {
                Some(fault.clone())
            }
            _ => None,
        })
    }

    /// What is done to a machine. `kind` says which troubles are asked about.
    fn on_machine(
        &self,
        zone: &str,
        instance_type: &str,
        kind: impl Fn(&Trouble) -> bool,
    ) -> Option<Trouble> {
        self.locked().turn(|target| match target {
            Target::Machine {
                zone: zones,
                instance_type: types,
                trouble,
            } if matches(zones, zone) && matches(types, instance_type) && kind(trouble) => {
                Some(trouble.clone())
            }
            _ => None,
        })
    }

    /// Keeps the records for those who will read them late.
    pub(super) fn remember(&self, state: &State, now: Timestamp) {
        let Some(memory) = self.memory else { return };
        let mut inner = self.locked();
        let past = inner.past.entry(state.region.clone()).or_default();
        past.push_back((now, Arc::new(state.clone())));
        // The newest of those that are too old is what the oldest reader sees.
        while past.len() > 1 && past[1].0 <= now - memory {
            past.pop_front();
        }
    }

    /// The records as they were this long ago, or the oldest there are.
    pub(super) fn past(
        &self,
        region: &str,
        ago: SignedDuration,
        now: Timestamp,
    ) -> Option<Arc<State>> {
        let inner = self.locked();
        let then = now - ago;
        let mut own = inner.past.get(region)?.iter();
        let oldest = own.clone().next();
        let before = own.rfind(|(at, _)| *at <= then);
        before.or(oldest).map(|(_, state)| state.clone())
    }
}

/// Whether an operation changes nothing.
fn is_read(operation: &str) -> bool {
    ["Describe", "Get", "List"]
        .iter()
        .any(|verb| operation.starts_with(verb))
}

/// The code of a service that has failed, by its status: from its model, or the common errors of its API reference.
pub(super) const fn failed(service: Service, status: u16) -> &'static str {
    match (service, status) {
        (Service::ImageBuilder, 503) => "ServiceUnavailableException",
        (_, 503) => "ServiceUnavailable",
        (Service::Ec2 | Service::S3, _) => "InternalError",
        (Service::Ssm, _) => "InternalServerError",
        (Service::Secrets, _) => "InternalServiceError",
        (Service::ImageBuilder, _) => "ServiceException",
        (Service::AutoScaling | Service::Sts, _) => "InternalFailure",
    }
}

/// The error of a service that is asked too often (EC2: "RequestLimitExceeded"; the others: common errors).
pub(super) fn throttled(service: Service) -> ApiError {
    let status = http::StatusCode::SERVICE_UNAVAILABLE;
    match service {
        Service::Ec2 => {
            ApiError::new("RequestLimitExceeded", "Request limit exceeded.").with_status(status)
        }
        Service::AutoScaling | Service::Sts => ApiError::new("Throttling", "Rate exceeded"),
        Service::Ssm | Service::Secrets => ApiError::new("ThrottlingException", "Rate exceeded"),
        Service::ImageBuilder => {
            ApiError::new("CallRateLimitExceededException", "Rate exceeded").with_status(status)
        }
        Service::S3 => {
            ApiError::new("SlowDown", "Please reduce your request rate.").with_status(status)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Faults {
        Faults::parse(text).unwrap()
    }

    #[test]
    fn a_rule_lets_some_pass_and_ends() {
        let script = faults(
            "schema: piaas-bake/faults/v1\nfaults:\n  - { fault: throttle, on: 'ec2:Run*', after: 1, times: 2 }\n",
        );
        let ask = || script.on_request(Service::Ec2, "RunInstances").is_some();
        assert_eq!([ask(), ask(), ask(), ask()], [false, true, true, false]);
        assert_eq!(script.on_request(Service::Ssm, "SendCommand"), None);
    }

    #[test]
    fn chance_is_the_seeds() {
        let text = |seed: u64| {
            format!(
                "schema: piaas-bake/faults/v1\nseed: {seed}\nfaults:\n  - {{ fault: drop-reply, one_in: 3, times: always }}\n"
            )
        };
        let story = |seed| {
            let script = faults(&text(seed));
            (0..300)
                .map(|_| script.on_request(Service::Ec2, "X").is_some())
                .collect::<Vec<_>>()
        };
        assert_eq!(story(1), story(1));
        assert_ne!(story(1), story(2));
        let hits = story(1).iter().filter(|hit| **hit).count();
        assert!((70..130).contains(&hits), "{hits}");
    }

    #[test]
    fn only_reads_are_stale() {
        let script = faults(
            "schema: piaas-bake/faults/v1\nfaults:\n  - { fault: stale, seconds: 60, times: always }\n",
        );
        assert_eq!(script.on_request(Service::Ec2, "RunInstances"), None);
        let late = Fault::Stale(SignedDuration::from_secs(60));
        assert_eq!(
            script.on_request(Service::Ec2, "DescribeInstances"),
            Some(late)
        );
    }
}
