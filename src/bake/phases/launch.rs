//! Builders and testers: their security group, their launch, their boot, their stop.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_ec2::config::Builder;
use aws_sdk_ec2::types::{
    IamInstanceProfileSpecification, InstanceType, ResourceType, ShutdownBehavior,
};
use base64::Engine as _;

use super::super::bundle::user_data;
use super::super::error::Failure;
use super::super::event::{Event, Resource};
use super::super::images::{Image, filter};
use super::super::machine;
use super::super::run::{Run, facts};
use super::places::{Attempt, attempts};
use crate::aws::error::Context as _;
use crate::aws::ssm;
use crate::aws::wait::Patience;
use crate::aws::{AskElsewhere, Clients, Error, Kind, Room, tags};
use crate::journal::{Facts, IntentId};

const BOOT: Patience = Patience {
    what: "the instance to run and its agent to answer",
    stall: Duration::from_secs(600),
    first: Duration::from_millis(40),
    longest: Duration::from_secs(3),
};
/// Amazon EC2 User Guide, "Insufficient instance capacity": wait a few minutes, then ask again.
const ROOM: Patience = Patience {
    what: "EC2 to have room for a machine",
    stall: Duration::from_secs(900),
    first: Duration::from_secs(15),
    longest: Duration::from_secs(60),
};
const SETTLE: Patience = Patience {
    what: "a new security group or image to be visible to all of EC2",
    stall: Duration::from_secs(30),
    first: Duration::from_secs(1),
    longest: Duration::from_secs(5),
};
const STOP: Patience = Patience {
    what: "the instance to stop",
    // EC2 gives the operating system a few minutes, then forces it; reports of twenty minutes exist.
    stall: Duration::from_secs(1800),
    first: Duration::from_millis(40),
    longest: Duration::from_secs(10),
};

/// The security groups of this run: those that the recipe names, or a new one without inbound rules.
pub async fn security_groups(
    run: &mut Run<'_>,
) -> Result<(Vec<String>, Option<IntentId>), Failure> {
    let build = &run.plan.build;
    if !build.security_groups.is_empty() {
        return Ok((build.security_groups.clone(), None));
    }
    let vpc = vpc_of(run, &build.subnets).await?;
    let name = format!("piaas-bake-{}", run.id);
    let call = run
        .clients
        .ec2
        .create_security_group()
        .group_name(&name)
        .description(format!("piaas-bake run {}: no inbound rules", run.id))
        .set_vpc_id(vpc)
        .tag_specifications(tags::specification(
            ResourceType::SecurityGroup,
            &run.temporary_tags(&name, run.expires),
        ));
    let clients = run.clients;
    let own_name = name.clone();
    let call = async move {
        match call.send().await.call("ec2", "CreateSecurityGroup") {
            Ok(answer) => answer
                .group_id
                .map(|id| vec![id])
                .ok_or_else(|| Error::incomplete("ec2", "CreateSecurityGroup", "group id")),
            // The name holds the run's id: it was made by a call of ours whose answer was lost.
            Err(error) if error.kind == Kind::AlreadyExists => {
                groups_named(clients, &own_name).await
            }
            Err(error) => Err(error),
        }
    };
    let (intent, id) = run
        .create(Resource::SecurityGroup, &name, Facts::new(), call)
        .await?;
    Ok((vec![id], Some(intent)))
}

/// Ids of the security groups with this name.
pub(in super::super) async fn groups_named(
    clients: &Clients,
    name: &str,
) -> Result<Vec<String>, Error> {
    let answer = clients
        .ec2
        .describe_security_groups()
        .filters(filter("group-name", [name.to_owned()]))
        .send()
        .await
        .call("ec2", "DescribeSecurityGroups")?;
    let groups = answer.security_groups().iter();
    Ok(groups
        .filter_map(|group| group.group_id().map(str::to_owned))
        .collect())
}

/// The VPC of these subnets; `None` if there are none, and EC2 takes the default one.
async fn vpc_of(run: &Run<'_>, subnets: &[String]) -> Result<Option<String>, Failure> {
    if subnets.is_empty() {
        return Ok(None);
    }
    let answer = run
        .clients
        .ec2
        .describe_subnets()
        .set_subnet_ids(Some(subnets.to_vec()))
        .send()
        .await
        .call("ec2", "DescribeSubnets")?;
    let vpcs = answer.subnets().iter();
    let vpcs: BTreeSet<&str> = vpcs.filter_map(|subnet| subnet.vpc_id()).collect();
    let mut vpcs = vpcs.into_iter();
    match (vpcs.next(), vpcs.next()) {
        (Some(one), None) => Ok(Some(one.to_owned())),
        (None, _) => Err(Error::incomplete("ec2", "DescribeSubnets", "VPC of the subnet").into()),
        // A security group is one VPC's.
        (Some(_), Some(_)) => Err(Failure::ManyNetworks {
            subnets: subnets.to_vec(),
        }),
    }
}

/// A machine to be launched.
pub struct Machine<'a> {
    pub kind: Resource,
    /// Which one of its run it is.
    pub step: &'a str,
    pub image: &'a Image,
    /// What its name says that it is of.
    pub of: &'a str,
    pub groups: &'a [String],
    /// Of its root volume.
    pub gib: u32,
}

/// Launches a builder or tester from `image`.
pub async fn instance(
    run: &mut Run<'_>,
    kind: Resource,
    image: &Image,
    groups: &[String],
) -> Result<(IntentId, String), Failure> {
    let plan = run.plan;
    let machine = Machine {
        kind,
        step: kind.as_str(),
        image,
        of: &plan.image_name,
        groups,
        gib: plan.volume_gib,
    };
    launch(run, machine).await
}

/// Launches a machine in the first place that has room for it, and waits for some if none has.
pub async fn launch(
    run: &mut Run<'_>,
    machine: Machine<'_>,
) -> Result<(IntentId, String), Failure> {
    let mut pace = run.pace(ROOM);
    let attempts = attempts(run, machine.kind, machine.step);
    loop {
        let mut refused = None;
        let mut is_full = false;
        for attempt in &attempts {
            let (intent, made) = launch_in(run, &machine, attempt).await?;
            let error = match made {
                Ok(id) => return Ok((intent, id)),
                Err(error) => error,
            };
            let Some(room) = Room::of(&error) else {
                return Err(error.into());
            };
            is_full |= room == Room::Full;
            if is_full || attempts.len() > 1 {
                run.emit(Event::Waiting {
                    what: attempt.place.to_string(),
                    state: format!("no room: {}", error.message),
                });
            }
            refused = Some(error);
        }
        let refused = refused.ok_or(Failure::NoType)?;
        if !is_full {
            return Err(refused.into());
        }
        run.pause_after(&mut pace, "no room", refused).await?;
    }
}

/// Asks for a machine in one place.
async fn launch_in(
    run: &mut Run<'_>,
    machine: &Machine<'_>,
    attempt: &Attempt<'_>,
) -> Result<(IntentId, Result<String, Error>), Failure> {
    let plan = run.plan;
    let &Machine {
        kind,
        image,
        of,
        groups,
        gib,
        ..
    } = machine;
    let Attempt { place, token } = attempt;
    let name = format!("piaas-bake {} {}", kind.as_str(), of);
    let begun = run.standing(kind, token);
    let begun = begun.map_or_else(Facts::new, |entry| entry.facts.clone());
    let stated = |name| begun.get(name).map(String::as_str);
    let expires = stated(facts::EXPIRES).and_then(|at| at.parse().ok());
    let expires = expires.unwrap_or(run.expires);
    let minutes = stated(facts::MINUTES).and_then(|minutes| minutes.parse().ok());
    let minutes: u64 = minutes.unwrap_or_else(|| {
        let left = run.expires.duration_since(run.now()).as_secs();
        u64::try_from(left).unwrap_or(0).div_ceil(60)
    });
    let known = Facts::from([
        (facts::MINUTES.to_owned(), minutes.to_string()),
        (facts::EXPIRES.to_owned(), expires.to_string()),
    ]);
    let all_tags = run.temporary_tags(&name, expires);
    let user_data = user_data(&run.clients.region, Duration::from_secs(minutes * 60));
    let profile = plan.build.instance_profile.as_ref().map(|name| {
        IamInstanceProfileSpecification::builder()
            .name(name)
            .build()
    });
    let request = run
        .clients
        .ec2
        .run_instances()
        .image_id(&image.id)
        .instance_type(InstanceType::from(place.instance_type))
        .min_count(1)
        .max_count(1)
        .client_token(token)
        .set_subnet_id(place.subnet.map(str::to_owned))
        .set_security_group_ids(Some(groups.to_vec()))
        .set_iam_instance_profile(profile)
        .set_block_device_mappings(Some(machine::volumes(image, gib)))
        .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
        .metadata_options(machine::metadata())
        .user_data(base64::engine::general_purpose::STANDARD.encode(user_data))
        .tag_specifications(tags::specification(ResourceType::Instance, &all_tags))
        .tag_specifications(tags::specification(ResourceType::Volume, &all_tags));
    let clients = run.clients;
    let mut pace = run.pace(SETTLE);
    let call = async move {
        let answer = loop {
            let answer = request
                .clone()
                .customize()
                .config_override(Builder::new().retry_classifier(AskElsewhere))
                .send()
                .await
                .call("ec2", "RunInstances");
            let Err(error) = &answer else { break answer };
            // The token makes this safe to repeat. A group or image that really does not exist ends the wait.
            match pace.after(clients.clock.now(), &error.mark()) {
                Ok(pause) if error.kind == Kind::NotFound => clients.clock.sleep(pause).await,
                _ => break answer,
            }
        }?;
        let id = answer
            .instances()
            .first()
            .and_then(|instance| instance.instance_id());
        Ok(vec![
            id.ok_or_else(|| Error::incomplete("ec2", "RunInstances", "instance id"))?
                .to_owned(),
        ])
    };
    run.attempt(kind, token, known, call).await
}

/// Waits until an instance runs and its agent answers.
pub async fn online(run: &mut Run<'_>, instance: &str) -> Result<(), Failure> {
    let mut pace = run.pace(BOOT);
    let mut before = String::new();
    loop {
        let state = match machine::look(run.clients, instance).await? {
            Some(found) if found.is_lost() || found.state.starts_with("stop") => {
                return Err(found.lost(instance));
            }
            Some(found) if found.state == "running" => {
                format!("running, agent {}", ssm::ping(run.clients, instance).await?)
            }
            Some(found) => found.state,
            None => "not visible yet".to_owned(),
        };
        if state == "running, agent Online" {
            return Ok(());
        }
        if state != before {
            run.emit(Event::Waiting {
                what: instance.to_owned(),
                state: state.clone(),
            });
            before.clone_from(&state);
        }
        run.pause(&mut pace, &state).await?;
    }
}

/// Stops an instance and waits until it is off.
pub async fn stop(run: &mut Run<'_>, instance: &str) -> Result<(), Failure> {
    run.check()?;
    run.clients
        .ec2
        .stop_instances()
        .instance_ids(instance)
        .send()
        .await
        .call("ec2", "StopInstances")?;
    let mut pace = run.pace(STOP);
    loop {
        let state = match machine::look(run.clients, instance).await? {
            Some(found) if found.state == "stopped" => return Ok(()),
            Some(found) if found.is_lost() => return Err(found.lost(instance)),
            Some(found) => found.state,
            None => "not visible".to_owned(),
        };
        run.pause(&mut pace, &state).await?;
    }
}
