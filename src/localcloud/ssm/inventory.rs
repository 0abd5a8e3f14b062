//! What SSM knows of the agents.

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::engine::Call;
use super::super::regions::private_domain;
use super::super::state::{Instance, InstanceState};
use super::super::wire::error::ApiError;
use super::super::wire::json::{epoch, input};
use super::{listed, put_some};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Describe {
    #[serde(default)]
    filters: Vec<Filter>,
    #[serde(default)]
    instance_information_filter_list: Vec<OldFilter>,
    #[serde(default)]
    max_results: Option<usize>,
    #[serde(default)]
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Filter {
    key: String,
    values: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OldFilter {
    key: String,
    #[serde(rename = "valueSet")]
    values: Vec<String>,
}

/// Whether the agent of an instance takes commands.
pub fn is_online(instance: &Instance) -> bool {
    instance.state == InstanceState::Running && instance.agent_online_since.is_some()
}

fn ping(instance: &Instance) -> &'static str {
    if is_online(instance) {
        "Online"
    } else {
        "ConnectionLost"
    }
}

/// What a filter looks at; its key is known.
fn field(instance: &Instance, key: &str) -> Vec<String> {
    let value = match key {
        "InstanceIds" => &instance.id,
        "PingStatus" => ping(instance),
        "PlatformTypes" => "Linux",
        "ResourceType" => "EC2Instance",
        "tag-key" => return instance.tags.keys().cloned().collect(),
        _ => {
            let tag = key
                .strip_prefix("tag:")
                .and_then(|tag| instance.tags.get(tag));
            return tag.cloned().into_iter().collect();
        }
    };
    vec![value.to_owned()]
}

pub(super) fn describe(call: &mut Call<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let describe: Describe = input(body)?;
    let old = describe.instance_information_filter_list.into_iter();
    let mut filters = describe.filters;
    filters.extend(old.map(|filter| Filter {
        key: filter.key,
        values: filter.values,
    }));
    for Filter { key, .. } in &filters {
        let known = [
            "InstanceIds",
            "PingStatus",
            "PlatformTypes",
            "ResourceType",
            "tag-key",
        ];
        if !known.contains(&key.as_str()) && !key.starts_with("tag:") {
            return Err(ApiError::new(
                "InvalidFilterKey",
                format!("The filter key {key} is not valid."),
            ));
        }
    }
    // A terminated instance is no longer a managed node.
    let registered = call
        .state
        .instances
        .values()
        .filter(|instance| instance.agent_registered && !instance.state.is_ending());
    let mut found = Vec::new();
    for instance in registered {
        let mut matches = true;
        for filter in &filters {
            let values = field(instance, &filter.key);
            matches &= values.iter().any(|value| filter.values.contains(value));
        }
        if matches {
            found.push(item(call, instance));
        }
    }
    let asked = (describe.max_results, describe.next_token.as_deref());
    listed(
        "DescribeInstanceInformation",
        "InstanceInformationList",
        found,
        asked,
        5..=50,
    )
}

fn item(call: &Call<'_>, instance: &Instance) -> Value {
    let mut item = json!({
        "InstanceId": instance.id,
        "PingStatus": ping(instance),
        "AgentVersion": "3.3.0.0",
        "IsLatestVersion": true,
        "PlatformType": "Linux",
        "PlatformName": "Debian GNU/Linux",
        "PlatformVersion": "12",
        "ResourceType": "EC2Instance",
        "IPAddress": instance.private_ip,
        "ComputerName": format!(
            "ip-{}.{}",
            instance.private_ip.replace('.', "-"),
            private_domain(call.region)
        ),
    });
    let seen = if is_online(instance) {
        Some(epoch(call.now))
    } else {
        None
    };
    put_some(&mut item, "LastPingDateTime", seen);
    put_some(
        &mut item,
        "RegistrationDate",
        instance.agent_online_since.map(epoch),
    );
    item
}
