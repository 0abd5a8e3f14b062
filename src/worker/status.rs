//! What a worker's agent says of itself: one line of JSON, schema `piaas-worker/v1`.
//!
//! Controllers read it as the output of `piaas-worker status`, `cordon` and `uncordon`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Name and version of the shape; readers refuse any other.
pub const SCHEMA: &str = "piaas-worker/v1";

/// How a worker stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: String,
    pub state: State,
    /// Since when it is in this state, by the machine's clock; `at - since` is how long, free of skew. None before the
    /// first look.
    pub since: Option<Timestamp>,
    /// Why the state is unknown, or what else a person should know.
    pub why: Option<String>,
    /// Names of the jobs that run, as the CI agent gives them; there may be more jobs than names.
    pub jobs: Vec<String>,
    /// Set while it was told to take no more jobs.
    pub cordon: Option<Cordon>,
    /// Set once it is final that no job runs and none will ever start.
    pub drained: Option<Drained>,
    /// Whether Auto Scaling protects the instance from scale-in. None: it is in no group, or that is not known yet.
    pub protected: Option<bool>,
    /// EC2 instance id. None where there is no metadata service.
    pub instance: Option<String>,
    /// Of the agent.
    pub version: String,
    /// The machine's clock at the answer.
    pub at: Timestamp,
}

/// Whether a job runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Busy,
    Idle,
    /// It cannot be told. This is never a reason to end a worker.
    Unknown,
}

/// The order to take no more jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cordon {
    /// Of the command that gave it; see [`super::agent`].
    pub generation: u64,
    pub reason: Option<String>,
    /// When it was first given, by the machine's clock.
    pub at: Timestamp,
}

/// The promise that no job runs and none will start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Of the latest cordon that it answers.
    pub generation: u64,
    /// When the worker became empty, by the machine's clock.
    pub at: Timestamp,
}

impl Status {
    /// One line of JSON, without its end.
    #[must_use]
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("texts, numbers and times are JSON")
    }

    /// Reads the first line of `text` that is a status; what else is in it does not matter.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        text.lines()
            .filter(|line| line.trim_start().starts_with('{'))
            .filter_map(|line| serde_json::from_str::<Self>(line).ok())
            .find(|status| status.schema == SCHEMA)
    }

    /// What is said for an agent that does not answer.
    #[must_use]
    pub fn silent(why: String, at: Timestamp) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            state: State::Unknown,
            since: None,
            why: Some(why),
            jobs: Vec::new(),
            cordon: None,
            drained: None,
            protected: None,
            instance: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_every_field_and_is_read_back() {
        let at: Timestamp = "2026-11-25T10:00:00Z".parse().unwrap();
        let mut status = Status::silent("no answer".into(), at);
        assert_eq!(
            status.to_line(),
            format!(
                r#"{{"schema":"piaas-worker/v1","state":"unknown","since":null,"why":"no answer","jobs":[],"cordon":null,"drained":null,"protected":null,"instance":null,"version":"{}","at":"2026-11-25T10:00:00Z"}}"#,
                env!("CARGO_PKG_VERSION")
            )
        );
        status.cordon = Some(Cordon {
            generation: u64::MAX,
            reason: None,
            at,
        });
        let text = format!("noise\n{{\"a\":1}}\n{}\n", status.to_line());
        assert_eq!(Status::read(&text), Some(status.clone()));
        assert_eq!(Status::read(&text.replace("/v1", "/v2")), None);
        assert_eq!(Status::read(""), None);
    }
}
