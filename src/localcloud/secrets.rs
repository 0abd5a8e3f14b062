//! Secrets Manager, as far as a recipe's `secretsmanager:ARN` needs it: secrets with their versions and stages.
//!
//! Secrets Manager API, version 2017-10-17. There are no keys, no rotation and no replicas here.

mod versions;

use bytes::Bytes;
use http::{Request, Response};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ACCOUNT_ID;
use super::engine::{Call, JsonOperation, answer_json};
use super::state::{Records, Tags};
use super::wire::constraint;
use super::wire::error::ApiError;
use super::wire::json::{epoch, input};
use versions::{CURRENT, Content, Version};

/// The key that secrets have when none is named (`CreateSecret`, `KmsKeyId`).
const OWN_KEY: &str = "alias/aws/secretsmanager";
/// Tags that a secret may have (Secrets Manager quotas).
const MOST_TAGS: usize = 50;

/// A secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    pub arn: String,
    pub name: String,
    description: String,
    tags: Tags,
    created: Timestamp,
    changed: Timestamp,
    /// When it will be gone for good, if somebody has deleted it.
    gone: Option<Timestamp>,
    versions: Vec<Version>,
}

impl Secret {
    fn head(&self) -> Value {
        json!({"ARN": self.arn, "Name": self.name})
    }

    fn usable(&self) -> Result<(), ApiError> {
        match self.gone {
            None => Ok(()),
            Some(_) => Err(request(
                "You can't perform this operation on the secret because it was marked for deletion.",
            )),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Create {
    name: String,
    client_request_token: Option<String>,
    description: Option<String>,
    kms_key_id: Option<String>,
    secret_string: Option<String>,
    secret_binary: Option<String>,
    #[serde(default)]
    tags: Vec<Tag>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Tag {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Get {
    secret_id: String,
    version_id: Option<String>,
    version_stage: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Put {
    secret_id: String,
    client_request_token: Option<String>,
    secret_string: Option<String>,
    secret_binary: Option<String>,
    version_stages: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Delete {
    secret_id: String,
    recovery_window_in_days: Option<i64>,
    force_delete_without_recovery: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct One {
    secret_id: String,
}

fn validation(message: impl Into<String>) -> ApiError {
    ApiError::new("ValidationException", message)
}

fn parameter(message: impl Into<String>) -> ApiError {
    ApiError::new("InvalidParameterException", message)
}

fn request(message: impl Into<String>) -> ApiError {
    ApiError::new("InvalidRequestException", message)
}

/// Every operation there is, by name.
const OPERATIONS: &[(&str, JsonOperation)] = &[
    ("CreateSecret", create),
    ("DeleteSecret", delete),
    ("DescribeSecret", describe),
    ("GetSecretValue", get),
    ("PutSecretValue", put),
    ("RestoreSecret", restore),
];

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<Bytes>,
    request_id: &str,
) -> Result<Response<Bytes>, ApiError> {
    let now = call.now;
    call.state
        .secrets
        .retain(|secret| secret.gone.is_none_or(|gone| now < gone));
    let service = ("secretsmanager", "secretsmanager.");
    answer_json(call, request, request_id, service, OPERATIONS)
}

/// By name, by ARN, or by an ARN without its last seven characters (`GetSecretValue`, `SecretId`).
fn find<'a>(secrets: &'a mut Records<Secret>, id: &str) -> Result<&'a mut Secret, ApiError> {
    constraint::length("secretId", id, 1..=2048).map_err(validation)?;
    if !id.starts_with("arn:") {
        check_name(id)?;
    }
    let found = secrets.find_mut(|secret| {
        let arn = &secret.arn;
        secret.name == id || arn == id || arn[..arn.len() - 7] == *id
    });
    found.ok_or_else(|| {
        ApiError::new(
            "ResourceNotFoundException",
            "Secrets Manager can't find the specified secret.",
        )
    })
}

fn check_name(name: &str) -> Result<(), ApiError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-/_+=.@!".contains(c);
    if name.chars().all(allowed) {
        return Ok(());
    }
    Err(validation(
        "Invalid name. Must be a valid name containing alphanumeric characters, or any of the following: -/_+=.@!",
    ))
}

fn create(call: &mut Call<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let asked: Create = input(body)?;
    constraint::length("name", &asked.name, 1..=512).map_err(validation)?;
    check_name(&asked.name)?;
    let description = asked.description.unwrap_or_default();
    constraint::length("description", &description, 0..=2048).map_err(validation)?;
    if let Some(key) = asked.kms_key_id.filter(|key| key != OWN_KEY) {
        return Err(parameter(format!(
            "The local cloud has no keys of yours: KmsKeyId may be {OWN_KEY}, not {key}."
        )));
    }
    if asked.tags.len() > MOST_TAGS {
        return Err(parameter(format!("Tags may be {MOST_TAGS} at most.")));
    }
    for tag in &asked.tags {
        constraint::length("tags.key", &tag.key, 1..=128).map_err(validation)?;
        constraint::length("tags.value", &tag.value, 0..=256).map_err(validation)?;
    }
    let content = Content::of(asked.secret_string, asked.secret_binary)?;
    let token = versions::token(asked.client_request_token)?;
    if let Some(there) = call.state.secrets.get(&asked.name) {
        return created_again(there, token.as_deref(), content.as_ref());
    }
    let id = token.unwrap_or_else(|| call.state.new_uuid());
    let suffix = call.state.new_uuid();
    let mut secret = Secret {
        arn: format!(
            "arn:aws:secretsmanager:{}:{ACCOUNT_ID}:secret:{}-{}",
            call.region,
            asked.name,
            &suffix[..6]
        ),
        name: asked.name,
        description,
        tags: asked
            .tags
            .into_iter()
            .map(|tag| (tag.key, tag.value))
            .collect(),
        created: call.now,
        changed: call.now,
        gone: None,
        versions: Vec::new(),
    };
    let mut answer = secret.head();
    // Without a content it has no version.
    if let Some(content) = content {
        answer["VersionId"] = json!(id);
        let version = Version::new(id, content, call.now);
        versions::add(&mut secret.versions, version, &[CURRENT.to_owned()]);
    }
    call.state.secrets.insert(secret.name.clone(), secret);
    Ok(answer)
}

/// The same request once more has the same answer (`CreateSecret`, `ClientRequestToken`).
fn created_again(
    there: &Secret,
    token: Option<&str>,
    content: Option<&Content>,
) -> Result<Value, ApiError> {
    if there.gone.is_some() {
        return Err(request(
            "You can't create this secret because a secret with this name is already scheduled for deletion.",
        ));
    }
    let version = there
        .versions
        .iter()
        .find(|version| Some(version.id.as_str()) == token);
    match version {
        Some(version) if Some(&version.content) == content => {
            let mut answer = there.head();
            answer["VersionId"] = json!(version.id);
            Ok(answer)
        }
        Some(_) | None => Err(ApiError::new(
            "ResourceExistsException",
            format!(
                "The operation failed because the secret {} already exists.",
                there.name
            ),
        )),
    }
}

fn get(call: &mut Call<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let asked: Get = input(body)?;
    if let Some(id) = &asked.version_id {
        constraint::length("versionId", id, 32..=64).map_err(validation)?;
    }
    if let Some(stage) = &asked.version_stage {
        constraint::length("versionStage", stage, 1..=256).map_err(validation)?;
    }
    let secret = find(&mut call.state.secrets, &asked.secret_id)?;
    secret.usable()?;
    let version = versions::find(
        &secret.versions,
        asked.version_id.as_deref(),
        asked.version_stage.as_deref(),
    )?;
    let mut answer = secret.head();
    answer["VersionId"] = json!(version.id);
    answer["VersionStages"] = json!(version.stages);
    answer["CreatedDate"] = epoch(version.created);
    match &version.content {
        Content::String(text) => answer["SecretString"] = json!(text),
        Content::Binary(base64) => answer["SecretBinary"] = json!(base64),
    }
    Ok(answer)
}

fn put(call: &mut Call<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let asked: Put = input(body)?;
    let stages = versions::stages(asked.version_stages)?;
    let content = Content::of(asked.secret_string, asked.secret_binary)?
        .ok_or_else(|| request("You must provide either SecretString or SecretBinary."))?;
    let id = versions::token(asked.client_request_token)?.unwrap_or_else(|| call.state.new_uuid());
    let now = call.now;
    let secret = find(&mut call.state.secrets, &asked.secret_id)?;
    secret.usable()?;
    let mut answer = secret.head();
    answer["VersionId"] = json!(id);
    match secret.versions.iter().find(|version| version.id == id) {
        Some(version) if version.content == content => {}
        Some(_) => {
            return Err(ApiError::new(
                "ResourceExistsException",
                "You can't modify an existing version, you can only create a new version. ClientRequestToken names one \
                 with another content.",
            ));
        }
        None => {
            versions::add(
                &mut secret.versions,
                Version::new(id.clone(), content, now),
                &stages,
            );
            secret.changed = now;
        }
    }
    let version = versions::find(&secret.versions, Some(&id), None)?;
    answer["VersionStages"] = json!(version.stages);
    Ok(answer)
}

fn describe(call: &mut Call<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let asked: One = input(body)?;
    let secret = find(&mut call.state.secrets, &asked.secret_id)?;
    let mut answer = secret.head();
    if !secret.description.is_empty() {
        answer["Description"] = json!(secret.description);
    }
    answer["CreatedDate"] = epoch(secret.created);
    answer["LastChangedDate"] = epoch(secret.changed);
    if let Some(gone) = secret.gone {
        answer["DeletedDate"] = epoch(gone);
    }
    let tags = secret.tags.iter();
    answer["Tags"] = tags
        .map(|(key, value)| json!({"Key": key, "Value": value}))
        .collect();
    let versions = secret.versions.iter();
    let stages: serde_json::Map<String, Value> = versions
        .map(|version| (version.id.clone(), json!(version.stages)))
        .collect();
    if !stages.is_empty() {
        answer["VersionIdsToStages"] = stages.into();
    }
    Ok(answer)
}

fn delete(call: &mut Call<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let asked: Delete = input(body)?;
    let force = asked.force_delete_without_recovery.unwrap_or(false);
    if force && asked.recovery_window_in_days.is_some() {
        return Err(parameter(
            "You can't use ForceDeleteWithoutRecovery in conjunction with RecoveryWindowInDays.",
        ));
    }
    let days = asked.recovery_window_in_days.unwrap_or(30);
    if !(7..=30).contains(&days) {
        return Err(parameter(
            "RecoveryWindowInDays value must be between 7 and 30 days (inclusive).",
        ));
    }
    let now = call.now;
    let secret = match find(&mut call.state.secrets, &asked.secret_id) {
        // To force the end of what is not there is no error (`DeleteSecret`, `ForceDeleteWithoutRecovery`).
        Err(error) if force && error.code == "ResourceNotFoundException" => {
            let id = asked.secret_id;
            let arn = format!(
                "arn:aws:secretsmanager:{}:{ACCOUNT_ID}:secret:{id}",
                call.region
            );
            let arn = if id.starts_with("arn:") { &id } else { &arn };
            return Ok(json!({"ARN": arn, "Name": id, "DeletionDate": epoch(now)}));
        }
        found => found?,
    };
    let mut answer = secret.head();
    if force {
        let name = secret.name.clone();
        call.state.secrets.remove(&name);
        answer["DeletionDate"] = epoch(now);
        return Ok(answer);
    }
    secret.usable()?;
    let gone = now + SignedDuration::from_hours(24 * days);
    secret.gone = Some(gone);
    answer["DeletionDate"] = epoch(gone);
    Ok(answer)
}

fn restore(call: &mut Call<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let asked: One = input(body)?;
    let secret = find(&mut call.state.secrets, &asked.secret_id)?;
    secret.gone = None;
    Ok(secret.head())
}
