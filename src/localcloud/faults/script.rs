//! The file of a script: `schema: piaas-bake/faults/v1`.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;

use super::{Fault, Faults, Inner, Rule, Target, Trouble};
use crate::localcloud::driver::Reclaim;
use crate::localcloud::quotas::Quota;

const SCHEMA: &str = "piaas-bake/faults/v1";
/// The longest time that a rule may name, in seconds: an hour.
const LONGEST: u64 = 3600;
/// From the notice to the end of a Spot Instance: two minutes (EC2 User Guide, "Spot Instance interruption notices").
const NOTICE: u64 = 120;

/// A script that cannot be used, with its place.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    #[error(transparent)]
    Yaml(#[from] serde_yaml::Error),
    #[error("its schema is {0:?}; this program knows {SCHEMA}")]
    Schema(String),
    #[error("fault {number} (`{fault}`): {why}")]
    Rule {
        /// Counted from 1.
        number: usize,
        fault: String,
        why: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    schema: String,
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    faults: Vec<Entry>,
    /// What the account may have, where it is not what AWS gives everybody.
    #[serde(default)]
    quotas: BTreeMap<Quota, u64>,
}

/// How often a rule meddles.
#[derive(Deserialize)]
#[serde(untagged)]
enum Times {
    Count(u64),
    Word(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Throttle,
    Error,
    DropRequest,
    DropReply,
    Reset,
    Duplicate,
    Slow,
    Stale,
    Capacity,
    LaunchFailure,
    NoAgent,
    SpotReclaim,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    fault: Kind,
    on: Option<String>,
    zone: Option<String>,
    #[serde(rename = "type")]
    instance_type: Option<String>,
    #[serde(default)]
    after: u64,
    times: Option<Times>,
    #[serde(default = "always")]
    one_in: u64,
    seconds: Option<u64>,
    delay: Option<u64>,
    status: Option<u16>,
    code: Option<String>,
    message: Option<String>,
    reason: Option<String>,
}

const fn always() -> u64 {
    1
}

impl Kind {
    const fn name(&self) -> &'static str {
        match self {
            Self::Throttle => "throttle",
            Self::Error => "error",
            Self::DropRequest => "drop-request",
            Self::DropReply => "drop-reply",
            Self::Reset => "reset",
            Self::Duplicate => "duplicate",
            Self::Slow => "slow",
            Self::Stale => "stale",
            Self::Capacity => "capacity",
            Self::LaunchFailure => "launch-failure",
            Self::NoAgent => "no-agent",
            Self::SpotReclaim => "spot-reclaim",
        }
    }
}

impl Entry {
    fn seconds(&self) -> Result<u64, String> {
        match self.seconds {
            Some(seconds @ 1..=LONGEST) => Ok(seconds),
            Some(other) => Err(format!("seconds: {other} is not from 1 to {LONGEST}")),
            None => Err("it needs `seconds`".to_owned()),
        }
    }

    /// Refuses what this kind of fault does nothing with.
    fn only(&self, allowed: &[&str]) -> Result<(), String> {
        let given = [
            ("on", self.on.is_some()),
            ("zone", self.zone.is_some()),
            ("type", self.instance_type.is_some()),
            ("seconds", self.seconds.is_some()),
            ("delay", self.delay.is_some()),
            ("status", self.status.is_some()),
            ("code", self.code.is_some()),
            ("message", self.message.is_some()),
            ("reason", self.reason.is_some()),
        ];
        let odd = given
            .iter()
            .find(|(name, is)| *is && !allowed.contains(name));
        match odd {
            Some((name, _)) => Err(format!(
                "`{name}` means nothing here; it takes after, times, one_in, {}",
                allowed.join(", ")
            )),
            None => Ok(()),
        }
    }

    fn target(&self) -> Result<Target, String> {
        let fault = match self.fault {
            Kind::Throttle => Fault::Throttle,
            Kind::DropRequest => Fault::DropRequest,
            Kind::DropReply => Fault::DropReply,
            Kind::Reset => Fault::Reset,
            Kind::Duplicate => Fault::Duplicate,
            Kind::Slow => Fault::Slow(Duration::from_secs(self.seconds()?)),
            Kind::Stale => {
                let seconds = i64::try_from(self.seconds()?).unwrap_or(i64::MAX);
                Fault::Stale(SignedDuration::from_secs(seconds))
            }
            Kind::Error => {
                let status = self.status.unwrap_or(500);
                if !(400..600).contains(&status) {
                    return Err(format!("status: {status} is not from 400 to 599"));
                }
                if self.code.is_none() && status < 500 {
                    return Err("a status below 500 needs a `code`".to_owned());
                }
                return Ok(self.error(status));
            }
            Kind::Capacity => return Ok(self.machine(Trouble::NoCapacity)),
            Kind::NoAgent => return Ok(self.machine(Trouble::NoAgent)),
            Kind::SpotReclaim => {
                let notice = match self.seconds {
                    None => NOTICE,
                    Some(_) => self.seconds()?,
                };
                let after = self.delay.unwrap_or(0);
                if after > LONGEST {
                    return Err(format!("delay: {after} is more than {LONGEST}"));
                }
                return Ok(self.machine(Trouble::Reclaimed(Reclaim {
                    after: Duration::from_secs(after),
                    notice: Duration::from_secs(notice),
                })));
            }
            Kind::LaunchFailure => {
                let reason = self.reason.clone();
                let reason = reason.unwrap_or_else(|| "the script says so".to_owned());
                return Ok(self.machine(Trouble::LaunchFails(reason)));
            }
        };
        Ok(self.request(fault))
    }

    fn error(&self, status: u16) -> Target {
        let message = self.message.clone();
        self.request(Fault::Error {
            status,
            code: self.code.clone(),
            message: message.unwrap_or_else(|| "A fault of the script.".to_owned()),
        })
    }

    fn request(&self, fault: Fault) -> Target {
        Target::Request {
            operation: self.on.clone().unwrap_or_else(|| "*".to_owned()),
            fault,
        }
    }

    fn machine(&self, trouble: Trouble) -> Target {
        let any = || "*".to_owned();
        Target::Machine {
            zone: self.zone.clone().unwrap_or_else(any),
            instance_type: self.instance_type.clone().unwrap_or_else(any),
            trouble,
        }
    }

    fn rule(&self) -> Result<Rule, String> {
        self.only(match self.fault {
            Kind::Throttle
            | Kind::DropRequest
            | Kind::DropReply
            | Kind::Reset
            | Kind::Duplicate => &["on"],
            Kind::Slow | Kind::Stale => &["on", "seconds"],
            Kind::Error => &["on", "status", "code", "message"],
            Kind::Capacity | Kind::NoAgent => &["zone", "type"],
            Kind::SpotReclaim => &["zone", "type", "seconds", "delay"],
            Kind::LaunchFailure => &["zone", "type", "reason"],
        })?;
        if let Some(on) = self.on.as_deref().filter(|on| *on != "*") {
            let service = on.split_once(':').map_or(on, |(service, _)| service);
            let known = [
                "ec2",
                "autoscaling",
                "ssm",
                "secretsmanager",
                "sts",
                "imagebuilder",
                "s3",
                "*",
            ];
            if !on.contains(':') || !known.contains(&service) {
                return Err(format!(
                    "on: `{on}` is not SERVICE:OPERATION, such as ec2:RunInstances or ssm:*; the services are {}",
                    known[..7].join(", ")
                ));
            }
            if service == "s3" && matches!(self.fault, Kind::Stale) {
                return Err(format!("on: `{on}`: reads of s3 are never late"));
            }
        }
        if self.one_in == 0 {
            return Err("one_in: 0 is never".to_owned());
        }
        let times = match &self.times {
            None => Some(1),
            Some(Times::Count(count)) => Some(*count),
            Some(Times::Word(word)) if word == "always" => None,
            Some(Times::Word(word)) => {
                return Err(format!("times: `{word}` is neither a number nor `always`"));
            }
        };
        Ok(Rule {
            target: self.target()?,
            after: self.after,
            times,
            one_in: self.one_in,
        })
    }
}

impl Faults {
    /// Reads a script.
    ///
    /// # Errors
    /// [`ScriptError`], with line and column where it is no YAML of this kind.
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        let file: File = serde_yaml::from_str(text)?;
        if file.schema != SCHEMA {
            return Err(ScriptError::Schema(file.schema));
        }
        let mut rules = Vec::new();
        for (index, entry) in file.faults.iter().enumerate() {
            let rule = entry.rule().map_err(|why| ScriptError::Rule {
                number: index + 1,
                fault: entry.fault.name().to_owned(),
                why,
            })?;
            rules.push(rule);
        }
        let late = rules.iter().filter_map(|rule| match rule.target {
            Target::Request {
                fault: Fault::Stale(ago),
                ..
            } => Some(ago),
            _ => None,
        });
        let memory = late.max();
        Ok(Self {
            inner: std::sync::Mutex::new(Inner {
                rules,
                chance: file.seed,
                past: BTreeMap::new(),
            }),
            memory,
            seed: file.seed,
            quotas: file.quotas,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_nothing_is_refused_with_its_place() {
        let file = |rule: &str| format!("schema: {SCHEMA}\nfaults:\n  - {rule}\n");
        for (rule, words) in [
            ("{ fault: throtle }", "line 3"),
            (
                "{ fault: throttle, seconds: 3 }",
                "`seconds` means nothing here",
            ),
            ("{ fault: slow }", "needs `seconds`"),
            ("{ fault: stale, seconds: 0 }", "not from 1 to 3600"),
            ("{ fault: throttle, on: RunInstances }", "SERVICE:OPERATION"),
            ("{ fault: stale, seconds: 3, on: 's3:*' }", "never late"),
            ("{ fault: throttle, on: 'iam:*' }", "the services are ec2"),
            ("{ fault: throttle, times: often }", "neither a number"),
            ("{ fault: error, status: 400 }", "needs a `code`"),
            ("{ fault: error, status: 302 }", "from 400 to 599"),
            (
                "{ fault: capacity, on: 'ec2:*' }",
                "`on` means nothing here",
            ),
            ("{ fault: throttle, one_in: 0 }", "never"),
            ("{ fault: spot-reclaim, seconds: 0 }", "from 1 to 3600"),
            ("{ fault: spot-reclaim, delay: 9999 }", "more than 3600"),
            ("{ fault: no-agent, delay: 3 }", "`delay` means nothing"),
            ("{ fault: throttle, colour: red }", "colour"),
        ] {
            let error = Faults::parse(&file(rule)).unwrap_err().to_string();
            assert!(error.contains(words), "{rule}: {error}");
        }
        let error = Faults::parse("schema: v9\nfaults: []\n").unwrap_err();
        assert!(error.to_string().contains(SCHEMA), "{error}");
    }
}
