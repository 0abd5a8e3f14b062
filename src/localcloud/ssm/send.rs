//! `SendCommand`: what is checked before a script goes to its machines.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::driver::CommandSpec;
use super::super::engine::Call;
use super::super::s3::{Buckets, OutputTarget, is_bucket_name};
use super::super::state::{Command, OutputPlace};
use super::super::wire::constraint;
use super::super::wire::error::ApiError;
use super::super::wire::json::input;
use super::commands::{DOCUMENT, describe, invalid_instances, is_over};
use super::inventory::is_online;

/// Size of a command's parameters (SSM quotas, "Maximum document size" 64 KB).
const SIZE_LIMIT: usize = 64 * 1024;
/// `executionTimeout`, default and limits in seconds (document `AWS-RunShellScript`).
const EXECUTION_DEFAULT: u64 = 3600;
const EXECUTION_LIMITS: std::ops::RangeInclusive<u64> = 5..=172_800;
/// The newest commands, and the commands of this time, are never dropped.
const KEPT: usize = 100;
const KEPT_FOR: SignedDuration = SignedDuration::from_hours(1);
/// `TimeoutSeconds`, default and limits.
const DELIVERY_DEFAULT: u64 = 3600;
const DELIVERY_LIMITS: std::ops::RangeInclusive<u64> = 30..=2_592_000;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Send {
    document_name: String,
    #[serde(default)]
    document_version: Option<String>,
    #[serde(default)]
    instance_ids: Vec<String>,
    #[serde(default)]
    parameters: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    comment: String,
    #[serde(default)]
    timeout_seconds: Option<u64>,
    #[serde(default)]
    output_s3_bucket_name: Option<String>,
    #[serde(default)]
    output_s3_key_prefix: Option<String>,
    /// "The system ignores it" (`SendCommand`); the region is the bucket's.
    #[serde(default)]
    output_s3_region: Option<String>,
}

impl Send {
    /// Checks all that does not depend on the state of machines.
    fn check(&self) -> Result<(), ApiError> {
        let out_of_range = |name: &str| {
            ApiError::new(
                "ValidationException",
                format!(
                    "1 validation error detected: Value at '{name}' failed to satisfy constraint"
                ),
            )
        };
        if self.document_name != DOCUMENT {
            return Err(ApiError::new(
                "InvalidDocument",
                format!(
                    "Document {} does not exist: the local cloud has {DOCUMENT}.",
                    self.document_name
                ),
            ));
        }
        let version = self.document_version.as_deref().unwrap_or("$DEFAULT");
        if !matches!(version, "1" | "$DEFAULT" | "$LATEST") {
            return Err(ApiError::new(
                "InvalidDocumentVersion",
                format!("{DOCUMENT} has no version {version}."),
            ));
        }
        let known = ["commands", "workingDirectory", "executionTimeout"];
        if let Some(name) = self
            .parameters
            .keys()
            .find(|name| !known.contains(&name.as_str()))
        {
            return Err(ApiError::new(
                "InvalidParameters",
                format!("{DOCUMENT} has no parameter {name}."),
            ));
        }
        if !self.parameters.contains_key("commands") {
            return Err(ApiError::new(
                "InvalidParameters",
                "The parameter commands is missing.",
            ));
        }
        let size: usize = self
            .parameters
            .values()
            .flatten()
            .map(|value| value.len() + 1)
            .sum();
        if size > SIZE_LIMIT {
            return Err(ApiError::new(
                "MaxDocumentSizeExceeded",
                format!(
                    "The size of the document exceeds {SIZE_LIMIT} bytes: the parameters have {size}."
                ),
            ));
        }
        if self.comment.chars().count() > 100 {
            return Err(out_of_range("comment"));
        }
        if !(1..=50).contains(&self.instance_ids.len()) {
            return Err(out_of_range("instanceIds"));
        }
        let mut seen = std::collections::BTreeSet::new();
        if let Some(twice) = self.instance_ids.iter().find(|id| !seen.insert(*id)) {
            return Err(ApiError::new(
                "DuplicateInstanceId",
                format!("The instance ID {twice} is given twice."),
            ));
        }
        let invalid = |message| ApiError::new("ValidationException", message);
        for (name, value, limits) in [
            ("outputS3BucketName", &self.output_s3_bucket_name, 3..=63),
            ("outputS3KeyPrefix", &self.output_s3_key_prefix, 0..=500),
            ("outputS3Region", &self.output_s3_region, 3..=20),
        ] {
            if let Some(value) = value {
                constraint::length(name, value, limits).map_err(invalid)?;
            }
        }
        if !DELIVERY_LIMITS.contains(&self.delivery_timeout()) {
            return Err(out_of_range("timeoutSeconds"));
        }
        Ok(())
    }

    /// Where the output goes; the bucket must be there.
    fn output(&self, buckets: &Buckets) -> Result<Option<OutputPlace>, ApiError> {
        let Some(name) = &self.output_s3_bucket_name else {
            return match &self.output_s3_key_prefix {
                None => Ok(None),
                Some(prefix) => Err(ApiError::new(
                    "ValidationException",
                    format!("OutputS3KeyPrefix {prefix} without OutputS3BucketName"),
                )),
            };
        };
        let bucket = if is_bucket_name(name) {
            let bucket = buckets.bucket(name);
            bucket.map_err(|error| ApiError::internal(error.to_string()))?
        } else {
            None
        };
        let bucket = bucket.ok_or_else(|| {
            let message = format!("The S3 bucket {name} (OutputS3BucketName) doesn't exist.");
            ApiError::new("InvalidOutputFolder", message)
        })?;
        let prefix = self.output_s3_key_prefix.as_deref().unwrap_or_default();
        Ok(Some(OutputPlace {
            region: bucket.region,
            bucket: name.clone(),
            prefix: prefix.trim_end_matches('/').to_owned(),
        }))
    }

    fn delivery_timeout(&self) -> u64 {
        self.timeout_seconds.unwrap_or(DELIVERY_DEFAULT)
    }

    /// The first value of a parameter, if it is not empty.
    fn parameter(&self, name: &str) -> Option<&String> {
        self.parameters
            .get(name)
            .and_then(|values| values.first())
            .filter(|value| !value.is_empty())
    }
}

/// `executionTimeout` in seconds. What lies outside its limits becomes the default without a word, as in the agent
/// (amazon-ssm-agent, `pluginutil.go`).
fn execution_timeout(text: Option<&String>) -> Result<u64, ApiError> {
    let Some(text) = text else {
        return Ok(EXECUTION_DEFAULT);
    };
    let seconds: u64 = text.parse().map_err(|_| {
        ApiError::new(
            "InvalidParameters",
            format!("Parameter \"executionTimeout\" value \"{text}\" is not valid."),
        )
    })?;
    Ok(if EXECUTION_LIMITS.contains(&seconds) {
        seconds
    } else {
        EXECUTION_DEFAULT
    })
}

pub(super) fn send(call: &mut Call<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let send: Send = input(body)?;
    send.check()?;
    let output = send.output(&Buckets::of(call.directory))?;
    let command_id = call.state.new_uuid();
    let spec = CommandSpec {
        output: output.as_ref().map(|place| OutputTarget {
            cloud: call.directory.to_owned(),
            bucket: place.bucket.clone(),
            prefix: place.prefix.clone(),
            command_id: command_id.clone(),
        }),
        command_id,
        script: send
            .parameters
            .get("commands")
            .map(|lines| lines.join("\n"))
            .unwrap_or_default(),
        working_directory: send.parameter("workingDirectory").cloned(),
        execution_timeout: execution_timeout(send.parameter("executionTimeout"))?,
    };
    let is_offline = |id: &&String| !call.state.instances.get(id).is_some_and(is_online);
    let offline: Vec<_> = send
        .instance_ids
        .iter()
        .filter(is_offline)
        .map(String::as_str)
        .collect();
    if !offline.is_empty() {
        return Err(invalid_instances(&offline));
    }
    forget(call);
    let command = Command {
        id: spec.command_id.clone(),
        document: send.document_name.clone(),
        comment: send.comment.clone(),
        instance_ids: send.instance_ids.clone(),
        requested: call.now,
        delivery_timeout: send.delivery_timeout(),
        execution_timeout: spec.execution_timeout,
        cancelled: None,
        output,
    };
    // Described before it is handed over: the answer to sending is always `Pending`.
    let mut answer = json!({"Command": describe(call, &command)});
    answer["Command"]["Parameters"] = json!(send.parameters);
    for instance in &send.instance_ids {
        let handed_over = call.driver.send_command(instance, &spec);
        handed_over.map_err(|error| ApiError::internal(error.to_string()))?;
    }
    call.state.commands.insert(spec.command_id, command);
    Ok(answer)
}

/// Drops old commands that are over. SSM keeps them for 30 days; here every request carries all records, and a fleet
/// sends some thousand a day.
fn forget(call: &mut Call<'_>) {
    let mut newest: Vec<_> = call.state.commands.values().collect();
    newest.sort_by_key(|command| std::cmp::Reverse(command.requested));
    let old = newest
        .into_iter()
        .skip(KEPT)
        .filter(|command| call.now.duration_since(command.requested) >= KEPT_FOR)
        .filter(|command| is_over(call, command))
        .map(|command| command.id.clone());
    let old: Vec<String> = old.collect();
    for id in old {
        call.state.commands.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Result<u64, ApiError> {
        execution_timeout(Some(&text.to_owned()))
    }

    #[test]
    fn an_execution_timeout_outside_its_limits_is_the_default() {
        assert_eq!(seconds("600").unwrap(), 600);
        assert_eq!(seconds("4").unwrap(), EXECUTION_DEFAULT);
        assert_eq!(seconds("172801").unwrap(), EXECUTION_DEFAULT);
        assert_eq!(seconds("1h").unwrap_err().code, "InvalidParameters");
    }

    #[test]
    fn what_the_document_does_not_have_is_refused() {
        let check = |text: &str| {
            let send: Send = input(text.as_bytes())?;
            send.check()
        };
        let ids = r#""InstanceIds": ["i-1"]"#;
        let code = |text: String| check(&text).unwrap_err().code;
        assert_eq!(
            code(format!(r#"{{"DocumentName": "Other", {ids}}}"#)),
            "InvalidDocument"
        );
        let named = format!(r#""DocumentName": "AWS-RunShellScript", {ids}"#);
        assert_eq!(
            code(format!(r#"{{{named}, "Parameters": {{"x": ["1"]}}}}"#)),
            "InvalidParameters"
        );
        assert_eq!(code(format!("{{{named}}}")), "InvalidParameters");
        assert_eq!(
            code(format!(r#"{{{named}, "Targets": []}}"#)),
            "ValidationException"
        );
        let large = "x".repeat(SIZE_LIMIT);
        let large = format!(r#"{{{named}, "Parameters": {{"commands": ["{large}"]}}}}"#);
        assert_eq!(code(large), "MaxDocumentSizeExceeded");
        check(&format!(
            r#"{{{named}, "Parameters": {{"commands": ["true"]}}}}"#
        ))
        .unwrap();
    }
}
