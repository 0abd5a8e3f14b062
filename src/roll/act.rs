//! Acting: one call of a roll, made so that repeating it does nothing twice.

use std::time::Duration;

use aws_sdk_autoscaling::types::{
    DesiredConfiguration, LaunchTemplateSpecification as GroupTemplate, RefreshPreferences,
    ScaleInProtectedInstances, StandbyInstances,
};
use aws_sdk_ec2::types::{
    LaunchTemplateSpecification, RequestLaunchTemplateData, ResourceType, ShutdownBehavior,
};
use jiff::SignedDuration;
use sha2::{Digest as _, Sha256};

use super::canary::BOOT;
use super::checks;
use super::look::{self, CANARY_TAG, MemberCheck, Memory, ROLL_TAG};
use super::record::{Heading, RollRecord, Side};
use super::step::{Call, Reply};
use super::world::Check;
use crate::aws::error::Context as _;
use crate::aws::ssm;
use crate::aws::{Clients, Error, Kind, tags};

/// How long the checks of one machine may take; the worker agent alone is given two minutes.
const CHECKS: Duration = Duration::from_secs(1800);
const CORDON: Duration = Duration::from_secs(60);
/// When anybody may remove a canary, after its launch.
const EXPIRY: SignedDuration = SignedDuration::from_hours(24);

/// The generation of this roll's cordons: the lease's epoch is its high part.
#[must_use]
pub fn generation(record: &RollRecord) -> u64 {
    record.epoch << 32
}

/// A client token: the same for the same step of the same roll, 64 characters as EC2 allows.
fn token(record: &RollRecord, step: &str) -> String {
    hex::encode(Sha256::digest(
        format!("roll\n{}\n{}\n{step}", record.group, record.id).as_bytes(),
    ))
}

/// Makes a call.
///
/// # Errors
/// [`Error`] of a call that failed for a reason that has nothing to do with this roll, such as credentials.
pub async fn act(
    clients: &Clients,
    record: &RollRecord,
    memory: &mut Memory,
    call: &Call,
) -> Result<Reply, Error> {
    let result = match call {
        Call::Note(_) => Ok(Reply::Done),
        Call::CreateVersion => create_version(clients, record).await,
        Call::LaunchCanary => launch_canary(clients, record).await,
        Call::CheckCanary(id) => {
            let script = checks::script(&record.options.checks);
            send(clients, id, &script, CHECKS, "piaas-bake roll: checks").await
        }
        Call::CordonCanary(id) => {
            let script = checks::cordon(generation(record));
            send(clients, id, &script, CORDON, "piaas-bake roll: cordon").await
        }
        Call::TerminateCanary(id) => terminate(clients, id).await,
        Call::CheckMembers(ids) => check_members(clients, record, memory, ids).await,
        Call::StartRefresh(side) => start_refresh(clients, record, side).await,
        Call::CancelRefresh { .. } => cancel(clients, record).await,
        Call::RollbackRefresh(_) => rollback(clients, record).await,
        Call::PointGroup(side) => point(clients, record, side).await,
        Call::DropVersion(version) => drop_version(clients, record, *version).await,
    };
    match result {
        Err(error) if is_for_later(&error) => Ok(Reply::Later(error.to_string())),
        Err(error) if error.kind == Kind::Unauthorized => Err(error),
        Err(error) => Ok(Reply::Refused(error.to_string())),
        Ok(reply) => Ok(reply),
    }
}

/// Whether the world is busy, or has moved on: look again. Codes: Auto Scaling API Reference, errors of the calls.
fn is_for_later(error: &Error) -> bool {
    error.is_transient()
        || [
            "ResourceContention",
            "ScalingActivityInProgress",
            "InstanceRefreshInProgress",
            "ActiveInstanceRefreshNotFound",
        ]
        .iter()
        .any(|code| error.has_code(code))
        // A new image, template version or agent that is not visible everywhere yet.
        || error.has_code("InvalidInstanceId")
}

async fn create_version(clients: &Clients, record: &RollRecord) -> Result<Reply, Error> {
    let data = RequestLaunchTemplateData::builder()
        .image_id(&record.new_image)
        .build();
    let answer = clients
        .ec2
        .create_launch_template_version()
        .client_token(token(record, "version"))
        .launch_template_id(&record.template)
        .source_version(record.old.version.to_string())
        .version_description(record.version_description())
        .launch_template_data(data)
        .send()
        .await
        .call("ec2", "CreateLaunchTemplateVersion")?;
    let number = answer
        .launch_template_version
        .and_then(|version| version.version_number)
        .ok_or_else(|| Error::incomplete("ec2", "CreateLaunchTemplateVersion", "version number"))?;
    Ok(Reply::Made(number.to_string()))
}

async fn launch_canary(clients: &Clients, record: &RollRecord) -> Result<Reply, Error> {
    let Some(version) = record.new_version else {
        return Err(Error::incomplete(
            "ec2",
            "RunInstances",
            "version to launch",
        ));
    };
    let asked = record.canary.asked.unwrap_or(record.started);
    let mut all = tags::Tags::new();
    tags::put(&mut all, ROLL_TAG, &record.id);
    tags::put(&mut all, CANARY_TAG, &record.group);
    tags::put(&mut all, tags::EXPIRES, &(asked + EXPIRY).to_string());
    tags::put(&mut all, tags::NAME, &format!("canary of {}", record.group));
    let subnet = subnet(clients, record, version).await?;
    let template = LaunchTemplateSpecification::builder()
        .launch_template_id(&record.template)
        .version(version.to_string())
        .build();
    let answer = clients
        .ec2
        .run_instances()
        .launch_template(template)
        .min_count(1)
        .max_count(1)
        .client_token(token(record, "canary"))
        .set_subnet_id(subnet)
        .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
        .tag_specifications(tags::specification(ResourceType::Instance, &all))
        .send()
        .await
        .call("ec2", "RunInstances")?;
    let id = answer
        .instances()
        .first()
        .and_then(|instance| instance.instance_id());
    Ok(Reply::Made(
        id.ok_or_else(|| Error::incomplete("ec2", "RunInstances", "instance id"))?
            .to_owned(),
    ))
}

/// The group's first subnet, unless the template says where its network interfaces are.
async fn subnet(
    clients: &Clients,
    record: &RollRecord,
    version: u64,
) -> Result<Option<String>, Error> {
    let data = look::version(clients, &record.template, &version.to_string()).await?;
    if data.is_some_and(|(_, data)| !data.network_interfaces().is_empty()) {
        return Ok(None);
    }
    let group = look::raw_group(clients, &record.group).await?;
    let subnets = group.and_then(|group| group.vpc_zone_identifier);
    Ok(subnets.and_then(|all| {
        let first = all.split(',').next()?.trim().to_owned();
        (!first.is_empty()).then_some(first)
    }))
}

async fn send(
    clients: &Clients,
    instance: &str,
    script: &str,
    timeout: Duration,
    comment: &str,
) -> Result<Reply, Error> {
    let id = ssm::send(clients, instance, script, timeout, comment).await?;
    Ok(Reply::Made(id))
}

async fn terminate(clients: &Clients, id: &str) -> Result<Reply, Error> {
    let answer = clients
        .ec2
        .terminate_instances()
        .instance_ids(id)
        .send()
        .await
        .call("ec2", "TerminateInstances");
    match answer {
        Ok(_) => Ok(Reply::Done),
        Err(error) if error.kind == Kind::NotFound => Ok(Reply::Done),
        Err(error) => Err(error),
    }
}

/// Sends the checks to instances whose agent is online; one whose agent does not come online in time has failed.
async fn check_members(
    clients: &Clients,
    record: &RollRecord,
    memory: &mut Memory,
    ids: &[String],
) -> Result<Reply, Error> {
    let now = clients.clock.now();
    let script = checks::script(&record.options.checks);
    let mut offline = Vec::new();
    for id in ids {
        let known = memory.checks.entry(id.clone()).or_insert(MemberCheck {
            command: None,
            since: now,
            check: Check::NotYet,
        });
        let ping = ssm::ping(clients, id).await?;
        if ping == "Online" {
            let comment = "piaas-bake roll: checks";
            let command = ssm::send(clients, id, &script, CHECKS, comment).await?;
            known.command = Some(command);
            known.check = Check::Underway;
        } else if now.duration_since(known.since) >= BOOT {
            known.check = Check::Failed(format!("its SSM agent is {ping}"));
        } else {
            offline.push(id.as_str());
        }
    }
    if offline.is_empty() {
        return Ok(Reply::Done);
    }
    Ok(Reply::Later(format!(
        "the SSM agent of {} is not online yet",
        offline.join(", ")
    )))
}

async fn start_refresh(
    clients: &Clients,
    record: &RollRecord,
    side: &Side,
) -> Result<Reply, Error> {
    let options = &record.options;
    let int = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    let forward = record.heading == Heading::Forward;
    // The way back does not stop for checkpoints.
    let checkpoints = Some(options.checkpoints.iter().map(|one| int(*one)).collect())
        .filter(|list: &Vec<i32>| forward && !list.is_empty());
    let preferences = RefreshPreferences::builder()
        // Launch before terminate: nothing goes before its replacement is warm.
        .min_healthy_percentage(100)
        .max_healthy_percentage(int(options.max_healthy))
        .instance_warmup(int(options.warmup))
        .skip_matching(true)
        .auto_rollback(forward)
        .scale_in_protected_instances(ScaleInProtectedInstances::Wait)
        .standby_instances(StandbyInstances::Wait)
        .set_checkpoint_delay(checkpoints.as_ref().map(|_| int(options.checkpoint_delay)))
        .set_checkpoint_percentages(checkpoints)
        .build();
    let answer = clients
        .autoscaling
        .start_instance_refresh()
        .auto_scaling_group_name(&record.group)
        .desired_configuration(
            DesiredConfiguration::builder()
                .launch_template(group_template(record, side))
                .build(),
        )
        .preferences(preferences)
        .send()
        .await
        .call("autoscaling", "StartInstanceRefresh")?;
    answer
        .instance_refresh_id
        .map(Reply::Made)
        .ok_or_else(|| Error::incomplete("autoscaling", "StartInstanceRefresh", "refresh id"))
}

fn group_template(record: &RollRecord, side: &Side) -> GroupTemplate {
    GroupTemplate::builder()
        .launch_template_id(&record.template)
        .version(side.version.to_string())
        .build()
}

async fn cancel(clients: &Clients, record: &RollRecord) -> Result<Reply, Error> {
    clients
        .autoscaling
        .cancel_instance_refresh()
        .auto_scaling_group_name(&record.group)
        .send()
        .await
        .call("autoscaling", "CancelInstanceRefresh")?;
    Ok(Reply::Done)
}

async fn rollback(clients: &Clients, record: &RollRecord) -> Result<Reply, Error> {
    clients
        .autoscaling
        .rollback_instance_refresh()
        .auto_scaling_group_name(&record.group)
        .send()
        .await
        .call("autoscaling", "RollbackInstanceRefresh")?;
    Ok(Reply::Done)
}

async fn point(clients: &Clients, record: &RollRecord, side: &Side) -> Result<Reply, Error> {
    clients
        .autoscaling
        .update_auto_scaling_group()
        .auto_scaling_group_name(&record.group)
        .launch_template(group_template(record, side))
        .send()
        .await
        .call("autoscaling", "UpdateAutoScalingGroup")?;
    Ok(Reply::Done)
}

async fn drop_version(
    clients: &Clients,
    record: &RollRecord,
    version: u64,
) -> Result<Reply, Error> {
    let answer = clients
        .ec2
        .delete_launch_template_versions()
        .launch_template_id(&record.template)
        .versions(version.to_string())
        .send()
        .await
        .call("ec2", "DeleteLaunchTemplateVersions")?;
    let failed = answer
        .unsuccessfully_deleted_launch_template_versions()
        .first();
    let Some(error) = failed.and_then(|failed| failed.response_error()) else {
        return Ok(Reply::Done);
    };
    // EC2 API Reference, `ResponseError`: a version that does not exist is what we want.
    let gone = error
        .code()
        .is_some_and(|code| code.as_str().ends_with("DoesNotExist"));
    Ok(if gone {
        Reply::Done
    } else {
        Reply::Refused(error.message().unwrap_or("EC2 keeps it").to_owned())
    })
}

/// How often the workers of the group are asked how they stand, for people to see.
const WORKERS: SignedDuration = SignedDuration::from_secs(15);

/// Asks workers how they stand. Nothing is decided by the answers, so nothing that goes wrong here matters.
pub async fn ask_workers(clients: &Clients, memory: &mut Memory, ids: Vec<String>) {
    let now = clients.clock.now();
    let due = memory
        .workers_asked
        .is_none_or(|asked| now.duration_since(asked) >= WORKERS);
    if !due || ids.is_empty() {
        return;
    }
    memory.workers_asked = Some(now);
    let comment = "piaas-bake roll: worker status";
    // One command for many: one for each would meet the limits of the account's requests.
    let Ok(sent) = ssm::question(clients, &ids, checks::STATUS, CORDON, comment).await else {
        return;
    };
    for (command, ids) in sent {
        let asked = ids.iter().map(|id| (id.clone(), command.clone()));
        memory.questions.extend(asked);
    }
}
