//! `DescribeParameters`: what is known of parameters besides their values.

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::ACCOUNT_ID;
use super::super::engine::Call;
use super::super::state::ParameterVersion;
use super::super::wire::error::ApiError;
use super::super::wire::json::{epoch, input};
use super::listed;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Describe {
    #[serde(default)]
    parameter_filters: Vec<Filter>,
    #[serde(default)]
    max_results: Option<usize>,
    #[serde(default)]
    next_token: Option<String>,
}

/// `ParameterStringFilter`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Filter {
    key: String,
    #[serde(default)]
    option: Option<String>,
    #[serde(default)]
    values: Vec<String>,
}

impl Filter {
    /// Whether a parameter matches any of the values.
    fn matches(&self, name: &str, version: &ParameterVersion) -> Result<bool, ApiError> {
        let default = if self.key == "Path" {
            "OneLevel"
        } else {
            "Equals"
        };
        let option = self.option.as_deref().unwrap_or(default);
        let any =
            |matches: &dyn Fn(&str) -> bool| Ok(self.values.iter().any(|value| matches(value)));
        match (self.key.as_str(), option) {
            ("Name", "Equals") => any(&|value| name == value),
            ("Name", "BeginsWith") => any(&|value| name.starts_with(value)),
            ("Name", "Contains") => any(&|value| name.contains(value)),
            ("Path", "Recursive") => any(&|path| below(path, name).is_some()),
            ("Path", "OneLevel") => {
                any(&|path| below(path, name).is_some_and(|rest| !rest.contains('/')))
            }
            ("Type", "Equals") => any(&|value| version.kind == value),
            ("Tier", "Equals") => any(&|value| version.tier == value),
            ("DataType", "Equals") => any(&|value| version.data_type == value),
            ("Name" | "Path" | "Type" | "Tier" | "DataType", option) => Err(ApiError::new(
                "InvalidFilterOption",
                format!("The filter option {option} is not valid for {}.", self.key),
            )),
            (key, _) => Err(ApiError::new(
                "InvalidFilterKey",
                format!(
                    "The local cloud has no filter {key}: it has Name, Path, Type, Tier and DataType."
                ),
            )),
        }
    }
}

/// What of `name` lies below `path`.
pub(super) fn below<'a>(path: &str, name: &'a str) -> Option<&'a str> {
    name.strip_prefix(path.trim_end_matches('/'))?
        .strip_prefix('/')
}

pub(super) fn describe(call: &mut Call<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let describe: Describe = input(body)?;
    let mut found = Vec::new();
    for (name, versions) in call.state.parameters.iter() {
        let Some(latest) = versions.last() else {
            continue;
        };
        let mut matches = true;
        for filter in &describe.parameter_filters {
            matches &= filter.matches(name, latest)?;
        }
        if matches {
            found.push(item(call.region, name, latest));
        }
    }
    let asked = (describe.max_results, describe.next_token.as_deref());
    listed("DescribeParameters", "Parameters", found, asked, 1..=50)
}

fn item(region: &str, name: &str, latest: &ParameterVersion) -> Value {
    let slash = if name.starts_with('/') { "" } else { "/" };
    json!({
        "Name": name,
        "ARN": format!("arn:aws:ssm:{region}:{ACCOUNT_ID}:parameter{slash}{name}"),
        "Type": latest.kind,
        "LastModifiedDate": epoch(latest.modified),
        "LastModifiedUser": format!("arn:aws:iam::{ACCOUNT_ID}:root"),
        "Description": latest.description,
        "Version": latest.version,
        "Tier": latest.tier,
        "Policies": [],
        "DataType": latest.data_type,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(key: &str, option: Option<&str>, value: &str) -> Result<bool, String> {
        let version = ParameterVersion {
            version: 1,
            value: "v".into(),
            kind: "String".into(),
            tier: "Standard".into(),
            description: String::new(),
            data_type: "text".into(),
            modified: jiff::Timestamp::UNIX_EPOCH,
        };
        let filter = Filter {
            key: key.into(),
            option: option.map(str::to_owned),
            values: vec![value.into()],
        };
        filter
            .matches("/piaas-bake/ci/latest", &version)
            .map_err(|error| error.code)
    }

    #[test]
    fn filters() {
        for (key, option, value, expected) in [
            ("Name", None, "/piaas-bake/ci/latest", Ok(true)),
            ("Name", Some("BeginsWith"), "/piaas-bake/c", Ok(true)),
            ("Name", Some("BeginsWith"), "piaas-bake", Ok(false)),
            ("Name", Some("Contains"), "ci", Ok(true)),
            ("Path", Some("Recursive"), "/piaas-bake", Ok(true)),
            ("Path", None, "/piaas-bake", Ok(false)),
            ("Path", None, "/piaas-bake/ci/", Ok(true)),
            ("Path", Some("Recursive"), "/piaas", Ok(false)),
            ("Type", None, "SecureString", Ok(false)),
            (
                "Tier",
                Some("BeginsWith"),
                "S",
                Err("InvalidFilterOption".to_owned()),
            ),
            ("Label", None, "x", Err("InvalidFilterKey".to_owned())),
        ] {
            assert_eq!(
                matches(key, option, value),
                expected,
                "{key} {option:?} {value}"
            );
        }
    }
}
