//! Versions of a secret, and the stages that name them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::wire::constraint;
use super::super::wire::error::ApiError;
use super::{parameter, request, validation};

/// The stage of the version that is given when none is asked for.
pub const CURRENT: &str = "AWSCURRENT";
const PREVIOUS: &str = "AWSPREVIOUS";
/// The largest content, in characters or bytes (`SecretString`, `SecretBinary`).
const LARGEST: usize = 65_536;

/// What is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    String(String),
    /// As base64, the way it travels.
    Binary(String),
}

impl Content {
    /// What a request gives; nothing if it gives none.
    ///
    /// # Errors
    /// It is too long, no base64, or both are given. No message quotes it.
    pub fn of(string: Option<String>, binary: Option<String>) -> Result<Option<Self>, ApiError> {
        let sized = |name: &str, length: usize| match length {
            0 => Err(validation(format!(
                "1 validation error detected: Value at '{name}' failed to satisfy constraint: Member must have length \
                 greater than or equal to 1"
            ))),
            1..=LARGEST => Ok(()),
            _ => Err(validation(format!(
                "1 validation error detected: Value at '{name}' failed to satisfy constraint: Member must have length \
                 less than or equal to {LARGEST}"
            ))),
        };
        match (string, binary) {
            (Some(_), Some(_)) => Err(parameter(
                "You can't specify both SecretString and SecretBinary in the same secret.",
            )),
            (Some(text), None) => {
                sized("secretString", text.chars().count())?;
                Ok(Some(Self::String(text)))
            }
            (None, Some(text)) => {
                let bytes = STANDARD
                    .decode(&text)
                    .map_err(|_| validation("Value at 'secretBinary' is not base64"))?;
                sized("secretBinary", bytes.len())?;
                Ok(Some(Self::Binary(text)))
            }
            (None, None) => Ok(None),
        }
    }
}

/// One version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub id: String,
    pub content: Content,
    pub stages: Vec<String>,
    pub created: Timestamp,
}

impl Version {
    pub fn new(id: String, content: Content, created: Timestamp) -> Self {
        Self {
            id,
            content,
            stages: Vec::new(),
            created,
        }
    }
}

/// The token of a request, which becomes the id of a version.
///
/// # Errors
/// Its length.
pub fn token(given: Option<String>) -> Result<Option<String>, ApiError> {
    if let Some(token) = &given {
        constraint::length("clientRequestToken", token, 32..=64).map_err(validation)?;
    }
    Ok(given)
}

/// The stages that a new version is to have.
///
/// # Errors
/// There are none, too many, or one of the wrong length.
pub fn stages(given: Option<Vec<String>>) -> Result<Vec<String>, ApiError> {
    let stages = given.unwrap_or_else(|| vec![CURRENT.to_owned()]);
    if !(1..=20).contains(&stages.len()) {
        return Err(validation(
            "1 validation error detected: Value at 'versionStages' failed to satisfy constraint: Member must have length \
             from 1 to 20",
        ));
    }
    constraint::lengths("versionStages", &stages, 1..=256).map_err(validation)?;
    Ok(stages)
}

/// Adds a version. A stage is that of one version only; the one that was current is the previous one now, and a version
/// without a stage is given up (`PutSecretValue`).
pub fn add(versions: &mut Vec<Version>, mut new: Version, stages: &[String]) {
    let takes = |stage: &str| stages.iter().any(|one| one == stage);
    // The first version is the current one, whatever it is called.
    let current = takes(CURRENT) || versions.is_empty();
    let was = versions.iter().position(|one| is(one, CURRENT));
    for (place, version) in versions.iter_mut().enumerate() {
        version
            .stages
            .retain(|stage| !takes(stage) && !(current && (stage == CURRENT || stage == PREVIOUS)));
        if current && Some(place) == was {
            version.stages.push(PREVIOUS.to_owned());
        }
    }
    new.stages = stages.to_vec();
    if current && !takes(CURRENT) {
        new.stages.push(CURRENT.to_owned());
    }
    versions.push(new);
    versions.retain(|version| !version.stages.is_empty());
}

fn is(version: &Version, stage: &str) -> bool {
    version.stages.iter().any(|one| one == stage)
}

/// The version that is asked for.
///
/// # Errors
/// There is none, or the id and the stage name two.
pub fn find<'a>(
    versions: &'a [Version],
    id: Option<&str>,
    stage: Option<&str>,
) -> Result<&'a Version, ApiError> {
    let missing = |what: String| {
        ApiError::new(
            "ResourceNotFoundException",
            format!("Secrets Manager can't find the specified secret value for {what}"),
        )
    };
    let Some(id) = id else {
        let stage = stage.unwrap_or(CURRENT);
        let found = versions.iter().find(|version| is(version, stage));
        return found.ok_or_else(|| missing(format!("staging label: {stage}")));
    };
    let found = versions.iter().find(|version| version.id == id);
    let found = found.ok_or_else(|| missing(format!("VersionId: {id}")))?;
    if stage.is_some_and(|stage| !is(found, stage)) {
        return Err(request(
            "You provided a VersionStage that is not associated to the provided VersionId.",
        ));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(id: &str) -> Version {
        let content = Content::String(id.to_owned());
        Version::new(id.to_owned(), content, Timestamp::UNIX_EPOCH)
    }

    fn shown(versions: &[Version]) -> Vec<String> {
        let one = |version: &Version| format!("{}: {}", version.id, version.stages.join(" "));
        versions.iter().map(one).collect()
    }

    #[test]
    fn the_current_one_becomes_the_previous_one_and_that_one_goes() {
        let mut all = Vec::new();
        let current = [CURRENT.to_owned()];
        add(&mut all, version("a"), &current);
        add(&mut all, version("b"), &current);
        assert_eq!(shown(&all), ["a: AWSPREVIOUS", "b: AWSCURRENT"]);
        add(&mut all, version("c"), &current);
        assert_eq!(shown(&all), ["b: AWSPREVIOUS", "c: AWSCURRENT"]);
        add(&mut all, version("d"), &["NEXT".to_owned()]);
        assert_eq!(shown(&all), ["b: AWSPREVIOUS", "c: AWSCURRENT", "d: NEXT"]);
        add(&mut all, version("e"), &["NEXT".to_owned()]);
        assert_eq!(shown(&all), ["b: AWSPREVIOUS", "c: AWSCURRENT", "e: NEXT"]);
    }

    #[test]
    fn the_first_version_is_current_whatever_it_is_called() {
        let mut all = Vec::new();
        add(&mut all, version("a"), &["MINE".to_owned()]);
        assert_eq!(shown(&all), ["a: MINE AWSCURRENT"]);
    }

    #[test]
    fn what_is_too_long_is_not_quoted() {
        let long = "hunter2".repeat(10_000);
        let error = Content::of(Some(long), None).unwrap_err();
        assert!(!error.message.contains("hunter2"), "{}", error.message);
        assert!(Content::of(Some("a".into()), Some("YQ==".into())).is_err());
        assert!(Content::of(None, Some("no base64".into())).is_err());
    }
}
