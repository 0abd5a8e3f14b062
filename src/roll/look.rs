//! Looking: from the answers of the cloud to a [`World`] and a [`Survey`](super::preflight::Survey).

use std::collections::BTreeMap;

use aws_sdk_autoscaling::types::AutoScalingGroup;
use aws_sdk_ec2::types::ResponseLaunchTemplateData;
use jiff::Timestamp;

use super::record::{Heading, RollRecord};
use super::world::{
    CanaryMachine, Check, Errand, Group, Life, Member, Refresh, Status, Version, WorkerWord, World,
};
use super::{checks, difference, store};
use crate::aws::error::Context as _;
use crate::aws::groups::{FILTER_VALUES, number};
pub use crate::aws::groups::{filter, instances, raw_group};
use crate::aws::ssm;
use crate::aws::{Clients, Error, Kind};
use crate::bake::Verdict;

/// Tag of everything that a roll launches: its id.
pub(super) const ROLL_TAG: &str = "piaas-bake:roll";
/// Tag of a canary: its group.
pub(crate) const CANARY_TAG: &str = "piaas-bake:canary";
/// Tags that EC2 gives to what it launches from a template (EC2 User Guide, "Launch from a launch template").
const TEMPLATE_TAG: &str = "aws:ec2launchtemplate:id";
const VERSION_TAG: &str = "aws:ec2launchtemplate:version";

/// What one process knows of the machines of the group, beyond what is on record. Losing it costs a check, no more.
#[derive(Debug, Default)]
pub struct Memory {
    /// By instance: the check's command, if it was sent, and how it stands.
    pub checks: BTreeMap<String, MemberCheck>,
    pub workers: BTreeMap<String, WorkerWord>,
    pub(super) workers_asked: Option<Timestamp>,
    /// Commands that ask workers how they stand, by instance.
    pub(super) questions: BTreeMap<String, String>,
}

impl Memory {
    /// Whether a worker has not answered yet.
    pub(super) fn is_asking(&self) -> bool {
        !self.questions.is_empty()
    }
}

/// The checks of one instance.
#[derive(Debug, Clone)]
pub struct MemberCheck {
    pub command: Option<String>,
    pub since: Timestamp,
    pub check: Check,
}

/// Looks at everything that the next decision needs.
///
/// # Errors
/// [`Error`] of the call that failed.
pub async fn look(
    clients: &Clients,
    record: &RollRecord,
    memory: &mut Memory,
) -> Result<World, Error> {
    let mut raw = raw_group(clients, &record.group).await?;
    let mut world = World {
        request: store::request(clients, &record.group).await?,
        refreshes: if raw.is_some() {
            refreshes(clients, &record.group, &record.template).await?
        } else {
            Vec::new()
        },
        ..World::default()
    };
    // One that has ended may have replaced instances since the group was looked at: it would be started again for those.
    if !world.refreshes.is_empty() && world.active().is_none() {
        raw = raw_group(clients, &record.group).await?;
    }
    if let Some(raw) = &raw {
        let mut group = group(clients, raw, &record.template).await?;
        check_members(clients, record, memory, &mut group).await?;
        world.group = Some(group);
    }
    match record.new_version {
        None => world.versions = versions(clients, &record.template).await?,
        Some(number) if record.heading == Heading::Back => {
            world.users = Some(users(clients, &record.template, number).await?);
        }
        Some(number) if !record.verified => {
            world.difference =
                compare(clients, &record.template, record.old.version, number).await?;
        }
        Some(_) => {}
    }
    if !record.canary.gone {
        world.canary = canary(clients, record).await?;
        world.errand = errand(clients, record).await?;
    }
    Ok(world)
}

/// A group with the images of its instances.
///
/// # Errors
/// [`Error`] of `DescribeInstances`.
pub async fn group(
    clients: &Clients,
    raw: &AutoScalingGroup,
    template: &str,
) -> Result<Group, Error> {
    let ids: Vec<String> = raw
        .instances()
        .iter()
        .filter_map(|instance| instance.instance_id().map(str::to_owned))
        .collect();
    let mut images = BTreeMap::new();
    for ids in ids.chunks(FILTER_VALUES) {
        let filters = vec![filter("instance-id", ids.iter().cloned())];
        for instance in instances(clients, filters).await? {
            if let (Some(id), Some(image)) = (instance.instance_id, instance.image_id) {
                images.insert(id, image);
            }
        }
    }
    let members = raw.instances().iter().filter_map(|instance| {
        let id = instance.instance_id()?.to_owned();
        Some(Member {
            version: number(instance.launch_template(), template),
            image: images.get(&id).cloned(),
            life: Life::read(
                instance
                    .lifecycle_state()
                    .map_or("", aws_sdk_autoscaling::types::LifecycleState::as_str),
            ),
            // `Healthy` or `Unhealthy` (`Instance`, `HealthStatus`).
            healthy: instance.health_status() != Some("Unhealthy"),
            protected: instance.protected_from_scale_in().unwrap_or(false),
            check: Check::NotYet,
            worker: None,
            id,
        })
    });
    Ok(Group {
        name: raw.auto_scaling_group_name().unwrap_or_default().to_owned(),
        version: number(raw.launch_template(), template),
        desired: raw
            .desired_capacity()
            .and_then(|desired| desired.try_into().ok())
            .unwrap_or(0),
        members: members.collect(),
    })
}

/// The refreshes of a group, newest first: the first page, up to a hundred.
///
/// # Errors
/// [`Error`] of `DescribeInstanceRefreshes`.
pub async fn refreshes(
    clients: &Clients,
    group: &str,
    template: &str,
) -> Result<Vec<Refresh>, Error> {
    let answer = clients
        .autoscaling
        .describe_instance_refreshes()
        .auto_scaling_group_name(group)
        .max_records(100)
        .send()
        .await
        .call("autoscaling", "DescribeInstanceRefreshes")?;
    let time = |time: Option<&aws_smithy_types::DateTime>| {
        time.and_then(|time| Timestamp::new(time.secs(), 0).ok())
    };
    let mut found: Vec<Refresh> = answer
        .instance_refreshes()
        .iter()
        .filter_map(|refresh| {
            let desired = refresh
                .desired_configuration()
                .and_then(|desired| desired.launch_template());
            let rollback = refresh
                .rollback_details()
                .and_then(|details| details.rollback_reason());
            let reasons = [refresh.status_reason(), rollback];
            Some(Refresh {
                id: refresh.instance_refresh_id()?.to_owned(),
                status: Status::read(refresh.status()?.as_str()),
                reason: reasons.into_iter().flatten().collect::<Vec<_>>().join("; "),
                percent: refresh
                    .percentage_complete()
                    .and_then(|percent| percent.try_into().ok())
                    .unwrap_or(0),
                version: number(desired, template),
                // Not there before it begins to work: newest of all.
                started: time(refresh.start_time()).unwrap_or(Timestamp::MAX),
                ended: time(refresh.end_time()),
            })
        })
        .collect();
    // The order is documented; sorting is stable, so that order decides between equals.
    found.sort_by_key(|refresh| std::cmp::Reverse(refresh.started));
    Ok(found)
}

async fn versions(clients: &Clients, template: &str) -> Result<Vec<Version>, Error> {
    let mut found = Vec::new();
    let mut token = None;
    loop {
        let page = clients
            .ec2
            .describe_launch_template_versions()
            .launch_template_id(template)
            .set_next_token(token)
            .send()
            .await
            .call("ec2", "DescribeLaunchTemplateVersions")?;
        found.extend(page.launch_template_versions().iter().filter_map(|one| {
            Some(Version {
                number: one.version_number()?.try_into().ok()?,
                description: one.version_description().unwrap_or_default().to_owned(),
            })
        }));
        token = page.next_token.filter(|token| !token.is_empty());
        if token.is_none() {
            return Ok(found);
        }
    }
}

/// Number and data of one version; `version` is a number, `$Latest` or `$Default`. `None` if it does not exist.
///
/// # Errors
/// [`Error`] of `DescribeLaunchTemplateVersions`.
pub async fn version(
    clients: &Clients,
    template: &str,
    version: &str,
) -> Result<Option<(u64, ResponseLaunchTemplateData)>, Error> {
    let answer = clients
        .ec2
        .describe_launch_template_versions()
        .launch_template_id(template)
        .versions(version)
        .send()
        .await
        .call("ec2", "DescribeLaunchTemplateVersions");
    let found = match answer {
        Ok(answer) => answer.launch_template_versions.unwrap_or_default(),
        Err(error) if error.kind == Kind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(found.into_iter().next().and_then(|one| {
        Some((
            one.version_number?.try_into().ok()?,
            one.launch_template_data?,
        ))
    }))
}

async fn compare(
    clients: &Clients,
    template: &str,
    old: u64,
    new: u64,
) -> Result<Option<Vec<super::world::Difference>>, Error> {
    let old = version(clients, template, &old.to_string()).await?;
    let new = version(clients, template, &new.to_string()).await?;
    Ok(match (old, new) {
        (Some((_, old)), Some((_, new))) => Some(difference::between(&old, &new)),
        _ => None,
    })
}

/// Instances that live and groups that launch, from this version.
async fn users(clients: &Clients, template: &str, version: u64) -> Result<Vec<String>, Error> {
    let filters = vec![
        filter(&format!("tag:{TEMPLATE_TAG}"), [template.to_owned()]),
        filter(&format!("tag:{VERSION_TAG}"), [version.to_string()]),
        filter(
            "instance-state-name",
            ["pending", "running", "stopping", "stopped"].map(str::to_owned),
        ),
    ];
    let mut users: Vec<String> = instances(clients, filters)
        .await?
        .into_iter()
        .filter_map(|instance| instance.instance_id)
        .collect();
    let mut token = None;
    loop {
        let page = clients
            .autoscaling
            .describe_auto_scaling_groups()
            .set_next_token(token)
            .send()
            .await
            .call("autoscaling", "DescribeAutoScalingGroups")?;
        users.extend(page.auto_scaling_groups().iter().filter_map(|group| {
            let specification = group.launch_template()?;
            let uses = specification.launch_template_id() == Some(template)
                && specification.version() == Some(version.to_string().as_str());
            let name = group.auto_scaling_group_name()?;
            uses.then(|| format!("group {name}"))
        }));
        token = page.next_token.filter(|token| !token.is_empty());
        if token.is_none() {
            users.sort();
            return Ok(users);
        }
    }
}

/// The canary of this roll, found by its tag: it exists even if the answer to its launch was lost.
async fn canary(clients: &Clients, record: &RollRecord) -> Result<Option<CanaryMachine>, Error> {
    let filters = vec![filter(&format!("tag:{ROLL_TAG}"), [record.id.clone()])];
    let found = instances(clients, filters).await?;
    let Some(instance) = found.into_iter().next() else {
        return Ok(None);
    };
    let id = instance.instance_id.unwrap_or_default();
    let state = instance
        .state
        .and_then(|state| state.name)
        .map_or_else(String::new, |name| name.as_str().to_owned());
    let online = state == "running" && ssm::ping(clients, &id).await? == "Online";
    Ok(Some(CanaryMachine {
        id,
        state,
        reason: instance
            .state_reason
            .and_then(|reason| reason.message)
            .unwrap_or_default(),
        online,
    }))
}

/// Whether EC2 says that an instance runs.
async fn is_running(clients: &Clients, id: &str) -> Result<bool, Error> {
    let filters = vec![
        filter("instance-id", [id.to_owned()]),
        filter("instance-state-name", ["running".to_owned()]),
    ];
    Ok(!instances(clients, filters).await?.is_empty())
}

async fn errand(clients: &Clients, record: &RollRecord) -> Result<Option<Errand>, Error> {
    let canary = &record.canary;
    let (Some(instance), Some(sent)) = (&canary.instance, &canary.sent) else {
        return Ok(None);
    };
    let Some(invocation) = ssm::invocation(clients, instance, &sent.id).await? else {
        return Ok(Some(Errand::Underway));
    };
    if invocation.verdict == Verdict::Underway {
        return Ok(Some(Errand::Underway));
    }
    let code = match invocation.verdict {
        Verdict::Success => Some(0),
        Verdict::Failed(code) => Some(code),
        _ => None,
    };
    Ok(Some(match sent.errand {
        super::record::Errand::Check => {
            let found = checks::read(&invocation.stdout, &record.options.checks);
            let failure = match (code, found.failure) {
                (Some(_), failure) => failure,
                (None, _) => Some(format!(
                    "the command with the checks {}",
                    invocation.verdict
                )),
            };
            Errand::Checked {
                failure,
                worker: found.worker,
            }
        }
        super::record::Errand::Cordon => Errand::Cordoned(match code {
            Some(code) => {
                checks::emptiness(code, &invocation.stdout, super::act::generation(record))
            }
            None => super::world::Emptiness::Unknown(format!(
                "the cordon command {}",
                invocation.verdict
            )),
        }),
    }))
}

/// Brings the checks of the group's new instances forward, and puts what is known into the group.
async fn check_members(
    clients: &Clients,
    record: &RollRecord,
    memory: &mut Memory,
    group: &mut Group,
) -> Result<(), Error> {
    memory
        .checks
        .retain(|id, _| group.members.iter().any(|member| member.id == *id));
    memory
        .workers
        .retain(|id, _| group.members.iter().any(|member| member.id == *id));
    let questions = std::mem::take(&mut memory.questions);
    for (id, command) in questions {
        if !group.members.iter().any(|member| member.id == id) {
            continue;
        }
        match ssm::invocation(clients, &id, &command).await? {
            Some(invocation) if invocation.verdict != Verdict::Underway => {
                match checks::word(&invocation.stdout) {
                    Some(word) => memory.workers.insert(id, word),
                    None => memory.workers.remove(&id),
                };
            }
            _ => {
                memory.questions.insert(id, command);
            }
        }
    }
    for member in &mut group.members {
        member.worker = memory.workers.get(&member.id).cloned();
        let Some(known) = memory.checks.get_mut(&member.id) else {
            continue;
        };
        if let (Check::Underway, Some(command)) = (&known.check, &known.command)
            && let Some(invocation) = ssm::invocation(clients, &member.id, command).await?
        {
            let check = match invocation.verdict {
                Verdict::Underway => Check::Underway,
                Verdict::Success | Verdict::Failed(_) => {
                    let found = checks::read(&invocation.stdout, &record.options.checks);
                    found.failure.map_or(Check::Passed, Check::Failed)
                }
                // The machine went away with its agent: Auto Scaling's health check says what that means.
                Verdict::Undeliverable if member.life != Life::InService => Check::NotYet,
                other => Check::Failed(format!("the command with the checks {other}")),
            };
            known.check = match check {
                // So did one that was ended amid its checks: nothing is said against its image. EC2 is asked after the
                // verdict, since the group's answer is older than that.
                Check::Failed(_) if !is_running(clients, &member.id).await? => Check::NotYet,
                check => check,
            };
        }
        member.check = known.check.clone();
    }
    Ok(())
}
