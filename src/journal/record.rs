//! Records and how they stand in a line.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Number of an intent within its run; counts from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IntentId(pub u32);

/// What an undo needs to know besides the ids.
pub type Facts = BTreeMap<String, String>;

/// The newest format of journals; one that says nothing is of the first.
///
/// 1: without checkpoints, so that its run can be undone and not be resumed.
pub const FORMAT: u32 = 2;

/// Who runs, on what, where. The first record of every journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunHeader {
    /// [`FORMAT`] at the time.
    #[serde(default = "first_format")]
    pub format: u32,
    /// What the run is for: `bake`, or something else that has machines of its own.
    #[serde(default = "bake")]
    pub purpose: String,
    /// The run's id; also the value of the run tag on everything it creates.
    pub run: String,
    pub recipe: String,
    pub version: String,
    /// Digest of what is being baked, 64 hex digits.
    pub digest: String,
    /// `aws` or `local`.
    pub cloud: String,
    /// Account id as the cloud gives it.
    pub account: String,
    pub region: String,
    pub started: Timestamp,
}

fn first_format() -> u32 {
    1
}

/// Those of the first format do not tell; most were.
fn bake() -> String {
    BAKE.to_owned()
}

impl RunHeader {
    /// Whether the journal says how far the run has come.
    #[must_use]
    pub fn has_checkpoints(&self) -> bool {
        self.format > first_format()
    }
}

/// [`RunHeader::purpose`] of a bake.
pub const BAKE: &str = "bake";

/// One line of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Record {
    /// The run begins.
    Run(RunHeader),
    /// Something is about to be created or changed.
    Intent {
        id: IntentId,
        kind: String,
        token: String,
        facts: Facts,
        at: Timestamp,
    },
    /// It exists; its ids as the cloud gave them.
    Outcome {
        id: IntentId,
        ids: Vec<String>,
        at: Timestamp,
    },
    /// It was refused: nothing came of it.
    Failed {
        id: IntentId,
        error: String,
        at: Timestamp,
    },
    /// These stay: from here on no undo may touch them.
    Kept { ids: Vec<IntentId>, at: Timestamp },
    /// The run has come this far. It is known by its name, and the last one of a name counts.
    Checkpoint {
        name: String,
        /// What the rest of the run needs of it; often empty.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        value: String,
        at: Timestamp,
    },
    /// The run had died, and another process goes on with it.
    Resumed { at: Timestamp },
    /// It is about to be removed.
    Undo { id: IntentId, at: Timestamp },
    /// It is gone.
    Undone { id: IntentId, at: Timestamp },
    /// It could not be removed.
    UndoFailed {
        id: IntentId,
        error: String,
        at: Timestamp,
    },
    /// Nothing is left to do for this run.
    End { result: String, at: Timestamp },
}

impl Record {
    /// When it was written.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Run(header) => header.started,
            Self::Intent { at, .. }
            | Self::Outcome { at, .. }
            | Self::Failed { at, .. }
            | Self::Kept { at, .. }
            | Self::Checkpoint { at, .. }
            | Self::Resumed { at }
            | Self::Undo { at, .. }
            | Self::Undone { at, .. }
            | Self::UndoFailed { at, .. }
            | Self::End { at, .. } => *at,
        }
    }
}

const OPEN: &str = r#"{"crc":""#;
const MIDDLE: &str = r#"","record":"#;

/// One line: a JSON object of the record and the CRC-32C of the record's bytes. Ends with a newline.
pub(crate) fn encode(record: &Record) -> String {
    let body =
        serde_json::to_string(record).expect("a record is plain data, which always serialises");
    format!(
        "{OPEN}{:08x}{MIDDLE}{body}}}\n",
        crc32c::crc32c(body.as_bytes())
    )
}

/// The record of a line without its newline; `None` if it is torn, damaged or not ours.
pub(crate) fn decode(line: &str) -> Option<Record> {
    let (crc, rest) = line.strip_prefix(OPEN)?.split_at_checked(8)?;
    let body = rest.strip_prefix(MIDDLE)?.strip_suffix('}')?;
    if u32::from_str_radix(crc, 16).ok()? != crc32c::crc32c(body.as_bytes()) {
        return None;
    }
    serde_json::from_str(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record {
        Record::Outcome {
            id: IntentId(3),
            ids: vec!["i-1".into(), "vol-2".into()],
            at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_line_is_json_and_comes_back() {
        let line = encode(&sample());
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["record"]["type"], "outcome");
        assert_eq!(decode(line.trim_end()), Some(sample()));
    }

    #[test]
    fn every_shortened_line_is_refused() {
        let line = encode(&sample());
        let line = line.trim_end();
        for end in 0..line.len() {
            assert_eq!(decode(&line[..end]), None, "{}", &line[..end]);
        }
    }

    #[test]
    fn a_changed_byte_is_refused() {
        let line = encode(&sample());
        assert_eq!(
            decode(line.trim_end().replace("vol-2", "vol-3").as_str()),
            None
        );
    }
}
