//! Looking: from the answers of the cloud, the workers and the CI server to a [`World`].

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_autoscaling::types::AutoScalingGroup;
use aws_sdk_ec2::types::Instance;
use jiff::Timestamp;

use super::demand::Source;
use super::memory::Memory;
use super::word::{self, UNREGISTERED};
use super::world::{Group, Life, Member, Rolling, Word, World};
use crate::aws::groups::{FILTER_VALUES, filter, instances, number, raw_group};
use crate::aws::{Clients, Error, ssm};
use crate::roll::look::{refreshes, version};
use crate::roll::store::{self, StoreError};
use crate::roll::world::{Refresh, Status};

/// How long the workers have to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Looks at everything that the next decision needs; `None` if there is no such group.
///
/// # Errors
/// [`Error`] of the call that failed.
pub async fn look(
    clients: &Clients,
    group: &str,
    memory: &Memory,
    source: &dyn Source,
) -> Result<Option<World>, Error> {
    let Some(raw) = raw_group(clients, group).await? else {
        return Ok(None);
    };
    let mut group = describe(clients, &raw).await?;
    let ids: Vec<String> = group.members.iter().map(|one| one.id.clone()).collect();
    let ending = memory.ending.keys().filter(|id| !ids.contains(*id));
    let ending: Vec<String> = ending.cloned().collect();
    let mut powers = powers(clients, ids.iter().chain(&ending)).await?;
    for member in &mut group.members {
        if let Some((power, launched)) = powers.remove(&member.id) {
            (member.power, member.launched) = (power, launched);
        }
    }
    let gone = ending
        .into_iter()
        .map(|id| {
            let power = powers
                .remove(&id)
                .map_or_else(String::new, |(power, _)| power);
            (id, power)
        })
        .collect();
    let (words, demand) = tokio::join!(listen(clients, &group), source.ask());
    let mut words = words?;
    for member in &mut group.members {
        if let Some(word) = words.remove(&member.id) {
            member.word = word;
        }
    }
    let rolling = rolling(clients, &group).await?;
    Ok(Some(World {
        group,
        demand,
        rolling,
        gone,
    }))
}

/// The group, without what EC2 and the workers know of its instances.
async fn describe(clients: &Clients, raw: &AutoScalingGroup) -> Result<Group, Error> {
    let specification = raw.launch_template();
    let template = specification
        .and_then(|specification| specification.launch_template_id())
        .map(str::to_owned);
    // A group without a version takes the default one (Auto Scaling API, `LaunchTemplateSpecification`).
    let named = specification.map(|one| one.version().unwrap_or("$Default").to_owned());
    let resolved = match (&template, &named) {
        (Some(template), Some(named)) if named.starts_with('$') => {
            let found = version(clients, template, named).await?;
            found.map(|(number, _)| number)
        }
        _ => None,
    };
    let count = |count: Option<i32>| count.and_then(|count| count.try_into().ok()).unwrap_or(0);
    let members = raw.instances().iter().filter_map(|instance| {
        let state = instance.lifecycle_state()?.as_str();
        Some(Member {
            id: instance.instance_id()?.to_owned(),
            version: number(
                instance.launch_template(),
                template.as_deref().unwrap_or_default(),
            ),
            zone: instance.availability_zone().unwrap_or_default().to_owned(),
            life: Life::read(state),
            // `Healthy` or `Unhealthy` (`Instance`, `HealthStatus`).
            healthy: instance.health_status() != Some("Unhealthy"),
            protected: instance.protected_from_scale_in().unwrap_or(false),
            launched: None,
            power: String::new(),
            word: Word::Silent("it is not in service".to_owned()),
        })
    });
    Ok(Group {
        name: raw.auto_scaling_group_name().unwrap_or_default().to_owned(),
        min: count(raw.min_size()),
        max: count(raw.max_size()),
        desired: count(raw.desired_capacity()),
        version: named,
        resolved,
        protects_new: raw.new_instances_protected_from_scale_in().unwrap_or(false),
        suspended: raw
            .suspended_processes()
            .iter()
            .filter_map(|process| process.process_name().map(str::to_owned))
            .collect(),
        zones: raw.availability_zones().to_vec(),
        warm_pool: raw.warm_pool_configuration().is_some(),
        members: members.collect(),
        template,
    })
}

/// State and launch time of instances, by id, as far as EC2 shows them.
async fn powers(
    clients: &Clients,
    ids: impl Iterator<Item = &String>,
) -> Result<BTreeMap<String, (String, Option<Timestamp>)>, Error> {
    let ids: Vec<String> = ids.cloned().collect();
    let mut found = BTreeMap::new();
    for ids in ids.chunks(FILTER_VALUES) {
        let filters = vec![filter("instance-id", ids.iter().cloned())];
        found.extend(
            instances(clients, filters)
                .await?
                .into_iter()
                .filter_map(power),
        );
    }
    Ok(found)
}

fn power(instance: Instance) -> Option<(String, (String, Option<Timestamp>))> {
    let launched = instance
        .launch_time
        .and_then(|time| Timestamp::new(time.secs(), 0).ok());
    let name = instance.state.and_then(|state| state.name)?;
    Some((instance.instance_id?, (name.as_str().to_owned(), launched)))
}

/// What each worker says.
async fn listen(clients: &Clients, group: &Group) -> Result<BTreeMap<String, Word>, Error> {
    let serving = |member: &&Member| member.life == Life::InService && member.power == "running";
    let ids: Vec<String> = group
        .members
        .iter()
        .filter(serving)
        .map(|member| member.id.clone())
        .collect();
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let pings = ssm::pings(clients, &ids).await?;
    let (online, offline): (Vec<String>, Vec<String>) = ids
        .into_iter()
        .partition(|id| pings.get(id).is_some_and(|ping| ping == "Online"));
    let comment = "piaas-bake fleet: worker status";
    let answers = ssm::ask(clients, &online, &word::question(), PATIENCE, comment).await?;
    let mut words = BTreeMap::new();
    for id in online {
        let word = word::read(&id, answers.get(&id));
        words.insert(id, word);
    }
    for id in offline {
        let why = pings.get(&id).map_or_else(
            || UNREGISTERED.to_owned(),
            |ping| format!("its SSM agent is not online: {ping}"),
        );
        words.insert(id, Word::Silent(why));
    }
    Ok(words)
}

/// The refresh under way, and where it goes.
async fn rolling(clients: &Clients, group: &Group) -> Result<Option<Rolling>, Error> {
    let template = group.template.as_deref().unwrap_or_default();
    let refreshes = refreshes(clients, &group.name, template).await?;
    let Some(refresh) = refreshes.into_iter().find(|one| one.status.is_active()) else {
        return Ok(None);
    };
    let record = match store::load(clients, &group.name).await {
        Ok(record) => record.filter(|record| !record.is_over()),
        Err(StoreError::Cloud(error)) => return Err(error),
        // A record that nobody can read says nothing; the refresh itself still does.
        Err(StoreError::Record(_)) => None,
    };
    let old = record.map(|record| record.old.version);
    Ok(Some(Rolling {
        target: target(&refresh, group.number(), old),
        what: format!(
            "refresh {} {:?} {} %",
            refresh.id, refresh.status, refresh.percent
        ),
    }))
}

/// The version that a refresh under way ends at. `old` is the version before the roll that it belongs to. The refresh
/// itself is asked, not the roll: Auto Scaling turns one back by itself when it fails.
fn target(refresh: &Refresh, launches: Option<u64>, old: Option<u64>) -> Option<u64> {
    match refresh.status {
        // The group names the new version only once a refresh has succeeded.
        Status::RollbackInProgress => old.or(launches),
        // It stops where it is.
        Status::Cancelling => None,
        // Without a desired configuration it goes to what the group launches.
        _ => refresh.version.or(launches),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_where_the_refresh_ends() {
        let refresh = |status, version| Refresh {
            id: "r".into(),
            status,
            reason: String::new(),
            percent: 0,
            version,
            started: Timestamp::UNIX_EPOCH,
            ended: None,
        };
        let cases = [
            (Status::InProgress, Some(4), Some(3), None, Some(4)),
            (Status::Pending, None, Some(3), None, Some(3)),
            (Status::RollbackInProgress, Some(4), Some(3), None, Some(3)),
            (
                Status::RollbackInProgress,
                Some(4),
                Some(4),
                Some(3),
                Some(3),
            ),
            (Status::Cancelling, Some(4), Some(3), Some(3), None),
            (Status::InProgress, None, None, None, None),
        ];
        for (status, version, launches, old, expected) in cases {
            assert_eq!(target(&refresh(status, version), launches, old), expected);
        }
    }
}
