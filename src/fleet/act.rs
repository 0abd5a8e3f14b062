//! Acting: the calls of a plan, made so that a lost reply does nothing twice.

use std::collections::BTreeMap;

use aws_sdk_autoscaling::config::retry::RetryConfig;
use aws_sdk_autoscaling::operation::launch_instances::LaunchInstancesOutput;
use aws_sdk_autoscaling::types::RetryStrategy;

use super::decide::{Decision, Purpose};
use super::look::PATIENCE;
use super::memory::Reply;
use super::word;
use crate::aws::error::Context as _;
use crate::aws::{Clients, Error, Kind, ssm};

/// The SDK repeats a call whose answer was lost. A decrement must not be repeated like that, and a launch is repeated
/// by the next tick, which looks first.
fn once() -> aws_sdk_autoscaling::config::Builder {
    aws_sdk_autoscaling::Config::builder().retry_config(RetryConfig::disabled())
}

/// `LaunchInstances`, with the token that makes repeating it harmless.
///
/// # Errors
/// [`Error`] of missing credentials or permissions.
pub async fn launch(
    clients: &Clients,
    group: &str,
    count: u32,
    token: &str,
    zone: Option<&String>,
) -> Result<Reply, Error> {
    let answer = clients
        .autoscaling
        .launch_instances()
        .auto_scaling_group_name(group)
        .requested_capacity(i32::try_from(count).unwrap_or(i32::MAX))
        .client_token(token)
        .set_availability_zones(zone.map(|zone| vec![zone.clone()]))
        // A launch that fails is tried in another zone by the next tick, not by the group.
        .retry_strategy(RetryStrategy::None)
        .customize()
        .config_override(once())
        .send()
        .await
        .call("autoscaling", "LaunchInstances");
    match answer {
        Ok(answer) => Ok(launched(&answer)),
        Err(error) if error.kind == Kind::Unauthorized => Err(error),
        Err(error) if error.kind == Kind::Throttled => Ok(Reply::Later(error.to_string())),
        // The token finds out what became of it.
        Err(error) if is_open(&error) => Ok(Reply::Lost(error.to_string())),
        Err(error) => Ok(Reply::Refused(error.to_string())),
    }
}

fn launched(answer: &LaunchInstancesOutput) -> Reply {
    let ids: Vec<String> = answer
        .instances()
        .iter()
        .flat_map(|collection| collection.instance_ids().iter().cloned())
        .collect();
    let errors: Vec<String> = answer
        .errors()
        .iter()
        .map(|error| {
            format!(
                "{}: {}",
                error.error_code().unwrap_or("error"),
                error.error_message().unwrap_or("no message")
            )
        })
        .collect();
    if ids.is_empty() && errors.is_empty() {
        // It may run into its time-out and answer with nothing but the token (User Guide, "Launch instances
        // synchronously").
        return Reply::Lost("the launch goes on".to_owned());
    }
    Reply::Launched { ids, errors }
}

/// Whether nobody knows if the call was carried out. Codes: botocore, `ResourceContentionFault`,
/// `IdempotentCallInProgressFault`, `ScalingActivityInProgressFault`.
fn is_open(error: &Error) -> bool {
    matches!(error.kind, Kind::Transport | Kind::Server)
        || [
            "ResourceContention",
            "IdempotentCallInProgress",
            "ScalingActivityInProgress",
        ]
        .iter()
        .any(|code| error.has_code(code))
}

/// `TerminateInstanceInAutoScalingGroup`.
///
/// # Errors
/// [`Error`] of missing credentials or permissions.
pub async fn terminate(clients: &Clients, id: &str, decrement: bool) -> Result<Reply, Error> {
    let answer = clients
        .autoscaling
        .terminate_instance_in_auto_scaling_group()
        .instance_id(id)
        .should_decrement_desired_capacity(decrement)
        .customize()
        .config_override(once())
        .send()
        .await
        .call("autoscaling", "TerminateInstanceInAutoScalingGroup");
    match answer {
        Ok(_) => Ok(Reply::Done),
        Err(error) if error.kind == Kind::Unauthorized => Err(error),
        Err(error) if error.kind == Kind::Throttled => Ok(Reply::Later(error.to_string())),
        Err(error) if is_open(&error) => Ok(Reply::Lost(error.to_string())),
        // Gone already: what was wanted.
        Err(error) if error.message.contains("not found") => Ok(Reply::Done),
        Err(error) => Ok(Reply::Refused(error.to_string())),
    }
}

/// Cordons and uncordons, one command for all that are told the same. Gives what came of each, by instance.
///
/// # Errors
/// [`Error`] of `SendCommand` or of reading the answers.
pub async fn tell(
    clients: &Clients,
    decisions: &[&Decision],
) -> Result<BTreeMap<String, Reply>, Error> {
    let mut orders: BTreeMap<(u64, Option<Purpose>), Vec<String>> = BTreeMap::new();
    for decision in decisions {
        let (key, id) = match decision {
            Decision::Cordon {
                id,
                generation,
                purpose,
                ..
            } => ((*generation, Some(*purpose)), id),
            Decision::Uncordon { id, generation, .. } => ((*generation, None), id),
            Decision::Launch { .. } | Decision::Terminate { .. } => continue,
        };
        orders.entry(key).or_default().push(id.clone());
    }
    let mut replies = BTreeMap::new();
    for ((generation, purpose), ids) in orders {
        let (script, comment) = match purpose {
            Some(purpose) => (
                word::cordon(generation, &purpose.reason()),
                "piaas-bake fleet: cordon",
            ),
            None => (word::uncordon(generation), "piaas-bake fleet: uncordon"),
        };
        let answers = ssm::ask(clients, &ids, &script, PATIENCE, comment).await?;
        for id in ids {
            let reply = match word::obeyed(&id, answers.get(&id)) {
                Ok(()) => Reply::Done,
                Err(why) => Reply::Refused(why),
            };
            replies.insert(id, reply);
        }
    }
    Ok(replies)
}
