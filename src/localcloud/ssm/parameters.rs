//! Parameter Store.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::super::engine::Call;
use super::super::quotas::{self, Quota};
use super::super::state::ParameterVersion;
use super::super::wire::constraint;
use super::super::wire::error::ApiError;
use super::super::wire::json::{epoch, input};
use super::super::{ACCOUNT_ID, BASE_PARAMETER, regions};
use super::{listed, put_some};

/// Versions of one parameter that are kept (SSM quotas, "Maximum number of past values per parameter").
const HISTORY: usize = 100;
/// Value sizes in bytes of the tiers (SSM quotas).
const STANDARD: usize = 4 * 1024;
const ADVANCED: usize = 8 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Put {
    name: String,
    value: String,
    #[serde(rename = "Type")]
    kind: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    overwrite: bool,
    #[serde(default)]
    tier: Option<String>,
    #[serde(default)]
    data_type: Option<String>,
    #[serde(default)]
    tags: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Get {
    name: String,
    #[serde(default)]
    with_decryption: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct GetSeveral {
    names: Vec<String>,
    #[serde(default)]
    with_decryption: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ByPath {
    path: String,
    #[serde(default)]
    recursive: bool,
    #[serde(default)]
    with_decryption: bool,
    #[serde(default)]
    max_results: Option<usize>,
    #[serde(default)]
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Delete {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct DeleteSeveral {
    names: Vec<String>,
}

fn validation(message: impl Into<String>) -> ApiError {
    ApiError::new("ValidationException", message)
}

/// Rules of `PutParameter`, `Name`.
fn check_name(name: &str) -> Result<(), ApiError> {
    let reserved = name.trim_start_matches('/').to_ascii_lowercase();
    if reserved.starts_with("aws") {
        return Err(ApiError::new(
            "AccessDeniedException",
            format!("No access to reserved parameter name: {name}."),
        ));
    }
    if reserved.starts_with("ssm") {
        return Err(validation(
            "Parameter name: can't be prefixed with \"ssm\" (case-insensitive).",
        ));
    }
    if name.len() > 1011 {
        return Err(validation(
            "Parameter name must not be longer than 1011 characters.",
        ));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-/".contains(c);
    if name.is_empty() || !name.chars().all(allowed) {
        return Err(validation(
            "Parameter name: can't be empty. Only a mix of letters, numbers and the following 4 symbols .-_/ are \
             allowed.",
        ));
    }
    let levels = name.trim_start_matches('/').split('/').count();
    if levels > 15 {
        return Err(ApiError::new(
            "HierarchyLevelLimitExceededException",
            "Parameter hierarchies are limited to 15 levels.",
        ));
    }
    if name.contains('/') && !name.starts_with('/') {
        return Err(validation("Parameter name must be a fully qualified name."));
    }
    Ok(())
}

/// The tier that a value gets, and whether it fits.
fn tier(wanted: Option<&str>, value: &str) -> Result<&'static str, ApiError> {
    let (name, limit) = match wanted {
        None | Some("Standard") => ("Standard", STANDARD),
        Some("Intelligent-Tiering") if value.len() <= STANDARD => ("Standard", STANDARD),
        Some("Advanced" | "Intelligent-Tiering") => ("Advanced", ADVANCED),
        Some(other) => {
            return Err(validation(format!(
                "Value '{other}' at 'tier' is not one of Standard, Advanced, Intelligent-Tiering"
            )));
        }
    };
    if value.len() <= limit {
        return Ok(name);
    }
    let message = if name == "Standard" {
        "Standard tier parameters support a maximum parameter value of 4096 characters. To create a larger parameter \
         value, upgrade the parameter to use the advanced-parameter tier."
    } else {
        "Advanced tier parameters support a maximum parameter value of 8192 characters."
    };
    Err(validation(message))
}

/// Whether a value is one of its data type (`PutParameter`, `DataType`).
fn check_value(call: &Call<'_>, data_type: &str, value: &str) -> Result<(), ApiError> {
    match data_type {
        "text" => Ok(()),
        "aws:ec2:image" if call.state.images.contains_key(value) => Ok(()),
        "aws:ec2:image" => Err(validation(format!("The image {value} does not exist."))),
        "aws:ssm:integration" => Err(validation(
            "The local cloud has no integrations: DataType aws:ssm:integration is not there.",
        )),
        other => Err(validation(format!(
            "The data type {other} is not one of text, aws:ec2:image and aws:ssm:integration."
        ))),
    }
}

pub(super) fn put(call: &mut Call<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let put: Put = input(body)?;
    check_name(&put.name)?;
    for (name, text, limits) in [
        ("description", &put.description, 0..=1024),
        ("dataType", &put.data_type, 0..=128),
    ] {
        let text = text.as_deref().unwrap_or_default();
        constraint::length(name, text, limits).map_err(validation)?;
    }
    if let Some(tag) = put.tags.first() {
        return Err(validation(format!(
            "The local cloud has no tags on parameters: {tag}"
        )));
    }
    let before = call
        .state
        .parameters
        .get(&put.name)
        .and_then(|versions| versions.last());
    if before.is_some() && !put.overwrite {
        return Err(ApiError::new(
            "ParameterAlreadyExists",
            "The parameter already exists. To overwrite this value, set the overwrite option in the request to true.",
        ));
    }
    if before.is_none() {
        let standard = call
            .state
            .parameters
            .values()
            .filter(|versions| versions.last().is_some_and(|one| one.tier == "Standard"));
        quotas::check(call, Quota::Parameters, standard.count())?;
    }
    let kind = match (put.kind, before) {
        (Some(kind), _) if matches!(kind.as_str(), "String" | "StringList" | "SecureString") => {
            kind
        }
        (Some(kind), _) => {
            return Err(ApiError::new(
                "UnsupportedParameterType",
                format!("The parameter type {kind} is not supported."),
            ));
        }
        (None, Some(before)) => before.kind.clone(),
        (None, None) => {
            return Err(validation(
                "A parameter type is required when you create a parameter.",
            ));
        }
    };
    if put.value.is_empty() {
        return Err(validation(
            "Value '' at 'value' failed to satisfy constraint: Member must have length greater than or equal to 1",
        ));
    }
    // An advanced parameter stays advanced (PutParameter, `Tier`).
    let wanted = match (put.tier.as_deref(), before) {
        (None, Some(before)) => Some(before.tier.as_str()),
        (given, _) => given,
    };
    if wanted == Some("Standard") && before.is_some_and(|before| before.tier == "Advanced") {
        return Err(validation(
            "This parameter uses the advanced-parameter tier. You can't downgrade a parameter from the advanced-parameter tier to the standard-parameter tier.",
        ));
    }
    let tier = tier(wanted, &put.value)?;
    let data_type = put.data_type.unwrap_or_else(|| "text".to_owned());
    check_value(call, &data_type, &put.value)?;
    let version = before.map_or(1, |before| before.version + 1);
    let description = put
        .description
        .or_else(|| before.map(|before| before.description.clone()));
    let versions = call.state.parameters.or_insert(put.name, Vec::new());
    versions.push(ParameterVersion {
        version,
        value: put.value,
        kind,
        tier: tier.to_owned(),
        description: description.unwrap_or_default(),
        data_type,
        modified: call.now,
    });
    if versions.len() > HISTORY {
        versions.remove(0);
    }
    Ok(json!({"Version": version, "Tier": tier}))
}

/// The public parameter of the base image.
fn public(call: &Call<'_>) -> ParameterVersion {
    ParameterVersion {
        version: 1,
        value: regions::base_image(call.region),
        kind: "String".to_owned(),
        tier: "Standard".to_owned(),
        description: String::new(),
        data_type: "aws:ec2:image".to_owned(),
        modified: call.state.created,
    }
}

/// A parameter by name, `name:version`, or ARN. A SecureString is shown as it is kept on AWS, where it is not
/// decrypted: as something that tells nothing.
fn find(call: &Call<'_>, wanted: &str, decrypted: bool) -> Result<Value, ApiError> {
    let missing = || {
        ApiError::new(
            "ParameterNotFound",
            format!("Parameter {wanted} not found."),
        )
    };
    let rest = match wanted.strip_prefix(&format!("arn:aws:ssm:{}:", call.region)) {
        // Public parameters have no owner.
        Some(rest) => rest
            .strip_prefix(ACCOUNT_ID)
            .unwrap_or(rest)
            .strip_prefix(":parameter/")
            .ok_or_else(missing)?,
        None => wanted,
    };
    let (name, selector) = match rest.split_once(':') {
        Some((name, selector)) => (name, Some(selector)),
        None => (rest, None),
    };
    // In an ARN a path has no slash before it.
    let path = format!("/{name}");
    let is_path =
        rest != wanted && (path == BASE_PARAMETER || call.state.parameters.contains_key(&path));
    let name = if is_path { path.as_str() } else { name };
    if name == BASE_PARAMETER {
        return Ok(describe(call, name, &public(call), selector, decrypted));
    }
    let versions = call.state.parameters.get(name).ok_or_else(missing)?;
    let version = match selector {
        None => versions.last(),
        Some(number) => versions
            .iter()
            .find(|version| version.version.to_string() == number),
    };
    let version = version.ok_or_else(|| {
        ApiError::new(
            "ParameterVersionNotFound",
            format!("Systems Manager could not find version {} of {name}. Verify the version and try again.", selector.unwrap_or("latest")),
        )
    })?;
    Ok(describe(call, name, version, selector, decrypted))
}

fn describe(
    call: &Call<'_>,
    name: &str,
    version: &ParameterVersion,
    selector: Option<&str>,
    decrypted: bool,
) -> Value {
    let owner = if name == BASE_PARAMETER {
        ""
    } else {
        ACCOUNT_ID
    };
    let slash = if name.starts_with('/') { "" } else { "/" };
    let mut object = json!({
        "Name": name,
        "Type": version.kind,
        "Value": if decrypted || version.kind != "SecureString" {
            version.value.clone()
        } else {
            encrypted(name, version)
        },
        "Version": version.version,
        "LastModifiedDate": epoch(version.modified),
        "ARN": format!("arn:aws:ssm:{}:{owner}:parameter{slash}{name}", call.region),
        "DataType": version.data_type,
    });
    put_some(
        &mut object,
        "Selector",
        selector.map(|selector| format!(":{selector}")),
    );
    object
}

/// Something in the place of a value under a key: base64, another one for each version.
fn encrypted(name: &str, version: &ParameterVersion) -> String {
    let text = format!("{name}\0{}\0{}", version.version, version.value);
    BASE64.encode([&b"local"[..], &Sha256::digest(text)].concat())
}

pub(super) fn get(call: &mut Call<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let get: Get = input(body)?;
    Ok(json!({"Parameter": find(call, &get.name, get.with_decryption)?}))
}

pub(super) fn get_several(call: &mut Call<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let get: GetSeveral = input(body)?;
    check_names(&get.names)?;
    let mut parameters = Vec::new();
    let mut invalid = Vec::new();
    for name in get.names {
        match find(call, &name, get.with_decryption) {
            Ok(parameter) => parameters.push(parameter),
            Err(_) => invalid.push(name),
        }
    }
    Ok(json!({"Parameters": parameters, "InvalidParameters": invalid}))
}

/// How many names one request takes, and how long each may be: that of a public one with its whole path.
fn check_names(names: &[String]) -> Result<(), ApiError> {
    if (1..=10).contains(&names.len()) {
        constraint::lengths("names", names, 1..=2048).map_err(validation)
    } else {
        Err(validation(
            "1 validation error detected: Value at 'names' failed to satisfy constraint: Member must have length from 1 to 10",
        ))
    }
}

pub(super) fn get_by_path(call: &mut Call<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let get: ByPath = input(body)?;
    if !get.path.starts_with('/') {
        return Err(validation(
            "The parameter doesn't meet the parameter name requirements. The parameter name must begin with a forward slash \"/\".",
        ));
    }
    let below = format!("{}/", get.path.trim_end_matches('/'));
    let mut all = call.state.parameters.clone();
    all.insert(BASE_PARAMETER.to_owned(), vec![public(call)]);
    let found: Vec<_> = all
        .iter()
        .filter(|(name, _)| {
            let rest = name.strip_prefix(&below);
            rest.is_some_and(|rest| get.recursive || !rest.contains('/'))
        })
        .filter_map(|(name, versions)| {
            Some(describe(
                call,
                name,
                versions.last()?,
                None,
                get.with_decryption,
            ))
        })
        .collect();
    let asked = (get.max_results, get.next_token.as_deref());
    listed("GetParametersByPath", "Parameters", found, asked, 1..=10)
}

pub(super) fn delete(call: &mut Call<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let delete: Delete = input(body)?;
    match call.state.parameters.remove(&delete.name) {
        Some(_) => Ok(json!({})),
        None => Err(ApiError::new(
            "ParameterNotFound",
            format!("Parameter {} not found.", delete.name),
        )),
    }
}

pub(super) fn delete_several(call: &mut Call<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let delete: DeleteSeveral = input(body)?;
    check_names(&delete.names)?;
    let (deleted, invalid): (Vec<_>, Vec<_>) = delete
        .names
        .into_iter()
        .partition(|name| call.state.parameters.remove(name).is_some());
    Ok(json!({"DeletedParameters": deleted, "InvalidParameters": invalid}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_have_their_limits() {
        let four = "x".repeat(STANDARD);
        let five = "x".repeat(STANDARD + 1);
        assert_eq!(tier(None, &four).unwrap(), "Standard");
        assert_eq!(
            tier(Some("Standard"), &five).unwrap_err().code,
            "ValidationException"
        );
        assert_eq!(
            tier(Some("Intelligent-Tiering"), &four).unwrap(),
            "Standard"
        );
        assert_eq!(
            tier(Some("Intelligent-Tiering"), &five).unwrap(),
            "Advanced"
        );
        assert!(tier(Some("Advanced"), &"x".repeat(ADVANCED + 1)).is_err());
    }

    #[test]
    fn names_follow_the_rules() {
        check_name("/piaas-bake/ci-worker/latest").unwrap();
        assert_eq!(
            check_name("/aws/mine").unwrap_err().code,
            "AccessDeniedException"
        );
        for bad in ["", "a b", "a/b", "ssm-x"] {
            assert_eq!(
                check_name(bad).unwrap_err().code,
                "ValidationException",
                "{bad}"
            );
        }
    }
}
