//! What `--format ndjson` writes: one JSON object a line, each with the version of this format and its time.
//!
//! A key that is there stays, with its meaning, as long as `v` is the same; new keys and new events may come. The JSON
//! Schema is `piaas-bake schema events`.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::events::Stamped;
use crate::{bake, fleet, roll, vm};

/// Version of the format.
pub const VERSION: u8 = 1;

/// One line.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Line<W> {
    /// Version of the format: 1.
    pub v: u8,
    /// When it happened (RFC 3339, UTC).
    #[schemars(with = "String")]
    pub at: Timestamp,
    #[serde(flatten)]
    pub word: W,
}

impl<W> Line<W> {
    /// A line about now.
    pub fn now(word: W) -> Self {
        Self {
            v: VERSION,
            at: Timestamp::now(),
            word,
        }
    }
}

/// Everything that a line can say.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "of", rename_all = "kebab-case")]
#[allow(clippy::large_enum_variant)]
pub enum Told {
    /// A bake goes on.
    Bake {
        /// Several bakes may go on at once.
        recipe: String,
        #[serde(flatten)]
        event: bake::Event,
    },
    /// The test of an image in a virtual machine goes on.
    Test {
        image: String,
        #[serde(flatten)]
        event: vm::event::Event,
    },
    /// A roll goes on.
    Roll {
        #[serde(flatten)]
        event: roll::event::Event,
    },
    /// A fleet is run.
    Fleet {
        #[serde(flatten)]
        event: fleet::event::Event,
    },
}

/// What is not part of a stream of events.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Word<R> {
    /// What `--format json` would have written: the last line of a verb that did its work.
    Result { result: R },
    /// The last line of a verb that failed; each of its `findings` has file, line, column, message and help.
    Error { error: R },
    /// `rebake`: what was found out about a recipe.
    Judgement { judgement: R },
    /// `fleet status --watch`: how the fleet stands.
    Status { status: R },
}

/// Any line, for the schema.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is there for its schema")]
#[allow(clippy::large_enum_variant)]
enum Any {
    Told(Told),
    Word(Word<serde_json::Value>),
}

impl Told {
    /// A line of a stream.
    #[must_use]
    pub fn line<E>(stamped: Stamped<E>, told: impl FnOnce(E) -> Self) -> Line<Self> {
        Line {
            v: VERSION,
            at: stamped.at,
            word: told(stamped.event),
        }
    }
}

/// The JSON Schema of a line.
#[must_use]
pub fn schema() -> String {
    let settings = schemars::generate::SchemaSettings::draft07();
    let mut schema = settings
        .into_generator()
        .into_root_schema_for::<Line<Any>>();
    schema.insert(
        "title".into(),
        "A line of piaas-bake --format ndjson".into(),
    );
    let mut text = format!("{:#}", schema.to_value());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_flat_json_object() {
        let phase = bake::Phase::Seal;
        let stamped = Stamped {
            at: Timestamp::UNIX_EPOCH,
            event: bake::Event::PhaseStarted { phase },
        };
        let line = Told::line(stamped, |event| Told::Bake {
            recipe: "web".to_owned(),
            event,
        });
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"v":1,"at":"1970-01-01T00:00:00Z","of":"bake","recipe":"web","event":"phase-started","phase":"seal"}"#
        );
    }
}
