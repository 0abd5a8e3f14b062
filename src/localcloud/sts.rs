//! STS, version 2011-06-15: who calls, and sessions of roles.
//!
//! There are no policies here. Every role of the account is there, and trusts the account; there are no roles of others.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};

use super::ACCOUNT_ID;
use super::sessions::{Identity, Session};
use super::wire::constraint;
use super::wire::error::ApiError;
use super::wire::query::Params;
use super::wire::xml::{Xml, response, wrapped};

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// Seconds that a session may last (`AssumeRole`, `DurationSeconds`), and does if nobody says.
const DURATION: RangeInclusive<i64> = 900..=43_200;
const DEFAULT_DURATION: i64 = 3600;
/// Seconds that the session of a role may last which a session takes.
const LONGEST_IN_CHAIN: i64 = 3600;
/// Session tags (`AssumeRole`, `Tags`).
const MOST_TAGS: usize = 50;

/// Parameters of `AssumeRole` that say what there is not here, with the code and why.
const NOT_HERE: [(&str, &str, &str); 6] = [
    (
        "Policy",
        "ValidationError",
        "the local cloud has no policies",
    ),
    (
        "PolicyArns",
        "ValidationError",
        "the local cloud has no policies",
    ),
    (
        "ProvidedContexts",
        "ValidationError",
        "the local cloud has no context providers",
    ),
    (
        "MinimumSessionTokenSize",
        "ValidationError",
        "the local cloud's tokens are as long as they are",
    ),
    (
        "SerialNumber",
        "AccessDenied",
        "the local cloud has no MFA devices",
    ),
    (
        "TokenCode",
        "AccessDenied",
        "the local cloud has no MFA devices",
    ),
];

pub(super) fn handle(
    body: &[u8],
    caller: &Identity,
    now: Timestamp,
    request_id: &str,
) -> Result<Response<Bytes>, ApiError> {
    let mut params = Params::parse(body)?;
    let action = params.require("Action")?;
    params.take("Version");
    let result = match action.as_str() {
        "AssumeRole" => assume_role(params, caller, now, request_id),
        "GetCallerIdentity" => params.finish("").map(|()| identity(caller)),
        _ => {
            return Err(ApiError::new(
                "InvalidAction",
                format!("The action {action} is not valid for this web service."),
            ));
        }
    };
    // STS has one code for what is wrong with a request.
    let result = result.map_err(|error| match error.code.as_str() {
        "MissingParameter" | "InvalidParameterValue" | "UnknownParameter" => invalid(error.message),
        _ => error,
    })?;
    let metadata = Xml::children([("RequestId", Xml::text(request_id))]);
    let text = wrapped(&action, NAMESPACE, Some(&result), &metadata);
    Ok(response(StatusCode::OK, request_id, &text))
}

fn identity(caller: &Identity) -> Xml {
    Xml::children([
        ("Arn", Xml::text(caller.arn())),
        ("UserId", Xml::text(caller.id())),
        ("Account", Xml::text(ACCOUNT_ID)),
    ])
}

fn assume_role(
    mut params: Params,
    caller: &Identity,
    now: Timestamp,
    request_id: &str,
) -> Result<Xml, ApiError> {
    let role = params.require("RoleArn")?;
    constraint::length("roleArn", &role, 20..=2048).map_err(invalid)?;
    let name = params.require("RoleSessionName")?;
    worded("roleSessionName", &name, 2..=64, "+=,.@-")?;
    let duration = duration(&mut params, caller)?;
    let tags = tags(&mut params, caller)?;
    if let Some(id) = params.take("ExternalId") {
        // No role asks for one, so any will do.
        worded("externalId", &id, 2..=1224, "+=,.@:/-")?;
    }
    let source_identity = source_identity(&mut params, caller)?;
    for (parameter, code, why) in NOT_HERE {
        let below = params.structure(parameter).into_map();
        if params.take(parameter).is_some() || !below.is_empty() {
            let status = match code {
                "AccessDenied" => StatusCode::FORBIDDEN,
                _ => StatusCode::BAD_REQUEST,
            };
            let message = format!("The parameter {parameter} cannot be honoured: {why}.");
            return Err(ApiError::new(code, message).with_status(status));
        }
    }
    params.finish("")?;

    let account = account_of(&role).ok_or_else(|| invalid(format!("{role} is invalid")))?;
    if account != ACCOUNT_ID {
        return Err(denied(caller, &role));
    }
    let session = Session {
        role,
        name,
        expires: now + SignedDuration::from_secs(duration),
        source_identity,
        tags,
        request: request_id.to_owned(),
    };
    let keys = session.keys();
    let expires = session.expires.strftime("%Y-%m-%dT%H:%M:%SZ");
    let credentials = Xml::children([
        ("AccessKeyId", Xml::text(keys.access_key)),
        ("SecretAccessKey", Xml::text(keys.secret_key)),
        ("SessionToken", Xml::text(keys.token)),
        ("Expiration", Xml::text(expires)),
    ]);
    let user = Xml::children([
        ("AssumedRoleId", Xml::text(session.id())),
        ("Arn", Xml::text(session.arn())),
    ]);
    Ok(
        Xml::children([("Credentials", credentials), ("AssumedRoleUser", user)])
            .with_some("SourceIdentity", session.source_identity.map(Xml::text)),
    )
}

/// The account of a role's ARN; none if it is no ARN of a role.
fn account_of(role: &str) -> Option<&str> {
    let (account, path) = role.strip_prefix("arn:aws:iam::")?.split_once(":role/")?;
    let name = path.rsplit('/').next()?;
    let is_name = (1..=64).contains(&name.len()) && name.chars().all(|one| is_word(one, "+=,.@-"));
    let is_account = account.len() == 12 && account.bytes().all(|one| one.is_ascii_digit());
    (is_name && is_account).then_some(account)
}

fn duration(params: &mut Params, caller: &Identity) -> Result<i64, ApiError> {
    let Some(seconds) = params.parsed::<i64>("DurationSeconds")? else {
        return Ok(DEFAULT_DURATION);
    };
    let bound = if seconds < *DURATION.start() {
        format!("greater than or equal to {}", DURATION.start())
    } else if seconds > *DURATION.end() {
        format!("less than or equal to {}", DURATION.end())
    } else if seconds > LONGEST_IN_CHAIN && matches!(caller, Identity::Role(_)) {
        return Err(invalid(
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining",
        ));
    } else {
        return Ok(seconds);
    };
    Err(invalid(format!(
        "1 validation error detected: Value '{seconds}' at 'durationSeconds' failed to satisfy constraint: Member must \
         have value {bound}"
    )))
}

/// The tags that the session hands on: its own that are transitive, and those that were handed on to the caller. The
/// others are seen by policies alone.
fn tags(params: &mut Params, caller: &Identity) -> Result<BTreeMap<String, String>, ApiError> {
    let is_tag =
        |one: char| one.is_alphanumeric() || one.is_whitespace() || "_.:/=+-@".contains(one);
    let mut given = BTreeMap::new();
    // Keys that differ in case alone are the same.
    let mut seen: Vec<String> = Vec::new();
    let mut handed_on = match caller {
        Identity::User => BTreeMap::new(),
        Identity::Role(session) => session.tags.clone(),
    };
    for (index, mut tag) in params.structures("Tags.member").into_iter().enumerate() {
        let key = tag.require("Key")?;
        let value = tag.take("Value");
        let value = value.ok_or_else(|| invalid(format!("The tag {key} has no Value")))?;
        tag.finish(&format!("Tags.member.{}", index + 1))?;
        constraint::length("tags.key", &key, 1..=128).map_err(invalid)?;
        constraint::length("tags.value", &value, 0..=256).map_err(invalid)?;
        if !key.chars().chain(value.chars()).all(is_tag) {
            return Err(invalid(format!(
                "The tag {key}={value} in Tags has other characters than letters, digits, spaces and _.:/=+-@"
            )));
        }
        if handed_on.keys().any(|one| one.eq_ignore_ascii_case(&key)) {
            return Err(invalid(format!(
                "The tag {key} in Tags is one that the calling session handed on"
            )));
        }
        if seen.contains(&key.to_lowercase()) {
            return Err(invalid(format!(
                "Duplicate tag keys found in Tags: {key}. Please note that tag keys are case insensitive."
            )));
        }
        seen.push(key.to_lowercase());
        given.insert(key, value);
    }
    let transitive = params.texts("TransitiveTagKeys.member");
    for (name, count) in [
        ("tags", given.len()),
        ("transitiveTagKeys", transitive.len()),
    ] {
        if count > MOST_TAGS {
            return Err(invalid(format!(
                "1 validation error detected: Value at '{name}' failed to satisfy constraint: Member must have length \
                 less than or equal to {MOST_TAGS}"
            )));
        }
    }
    constraint::lengths("transitiveTagKeys", &transitive, 1..=128).map_err(invalid)?;
    for key in transitive {
        let tag = given.iter().find(|(one, _)| one.eq_ignore_ascii_case(&key));
        let (key, value) = tag.ok_or_else(|| {
            invalid(format!(
                "The specified transitive tag key must be included in the requested tags; TransitiveTagKeys has {key}."
            ))
        })?;
        handed_on.insert(key.clone(), value.clone());
    }
    Ok(handed_on)
}

/// Who is behind the session: once said, it stays the same in a chain of roles.
fn source_identity(params: &mut Params, caller: &Identity) -> Result<Option<String>, ApiError> {
    let given = params.take("SourceIdentity");
    if let Some(given) = &given {
        worded("sourceIdentity", given, 2..=64, "+=,.@-")?;
    }
    let set = match caller {
        Identity::User => None,
        Identity::Role(session) => session.source_identity.clone(),
    };
    match (given, set) {
        (Some(given), Some(set)) if given != set => {
            let message = format!(
                "The SourceIdentity of the calling session is {set}, and cannot be changed to {given}."
            );
            Err(ApiError::new("AccessDenied", message).with_status(StatusCode::FORBIDDEN))
        }
        (given, set) => Ok(given.or(set)),
    }
}

/// Whether a character is one of `\w` or of these.
fn is_word(one: char, more: &str) -> bool {
    one.is_ascii_alphanumeric() || one == '_' || more.contains(one)
}

/// Whether a text is as long as its shape allows, and of its characters.
fn worded(
    name: &str,
    value: &str,
    limits: RangeInclusive<usize>,
    more: &str,
) -> Result<(), ApiError> {
    constraint::length(name, value, limits).map_err(invalid)?;
    if value.chars().all(|one| is_word(one, more)) {
        return Ok(());
    }
    Err(invalid(format!(
        "1 validation error detected: Value '{value}' at '{name}' failed to satisfy constraint: Member must satisfy \
         regular expression pattern: [\\w{more}]*"
    )))
}

fn denied(caller: &Identity, role: &str) -> ApiError {
    let message = format!(
        "User: {} is not authorized to perform: sts:AssumeRole on resource: {role}",
        caller.arn()
    );
    ApiError::new("AccessDenied", message).with_status(StatusCode::FORBIDDEN)
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new("ValidationError", message)
}
