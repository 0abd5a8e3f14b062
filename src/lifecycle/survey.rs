//! What there is in the cloud that runs have made and that is no finished image. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::Filter;
use aws_sdk_ssm::types::ParameterStringFilter;
use aws_smithy_types::DateTime;
use jiff::Timestamp;

use super::judge::{Expiry, Found, Kind, Use};
use crate::aws::error::Context as _;
use crate::aws::groups::{FILTER_VALUES, filter, instances};
use crate::aws::{Clients, Error, tags};
use crate::bake::LEASES;
use crate::bake::images::Image;
use crate::bake::names::{BundleStore, Noted, RunId};
use crate::lease::{self, Term};

/// What is there.
#[derive(Debug, Default)]
pub struct Survey {
    pub found: Vec<Found>,
    /// What could not be looked at: of this nothing is found, nor of what can only be judged by it.
    pub unseen: Vec<Unseen>,
}

/// A look that failed.
#[derive(Debug)]
pub struct Unseen {
    /// In words: "the security groups".
    pub what: &'static str,
    pub error: Error,
}

impl Survey {
    /// What a look has brought; a failed one is written down.
    fn see<T>(&mut self, what: &'static str, seen: Result<T, Error>) -> Option<T> {
        match seen {
            Ok(seen) => Some(seen),
            Err(error) => {
                self.unseen.push(Unseen { what, error });
                None
            }
        }
    }
}

/// Looks at the region that the clients are for, and at the bucket. Runs are to be read after this: what is found then
/// has a journal, if it is of this host.
pub async fn survey(clients: &Clients, bundles: Option<&BundleStore>) -> Survey {
    let mut all = Survey::default();
    // Notes come first: an image is there before its notes are.
    let notes = all.see("the notes on images", notes(clients).await);
    let images = all.see("the images", own_images(clients).await);
    let mut found = Vec::new();
    if let Some(images) = &images {
        found.extend(images.iter().filter_map(unfinished));
        found.extend(without_image(notes.unwrap_or_default(), images));
    }
    let machines = all.see("the machines", machines(clients).await);
    found.extend(machines.unwrap_or_default());
    let snapshots = all.see("the snapshots", snapshots(clients).await);
    if let (Some(snapshots), Some(images)) = (snapshots, &images) {
        found.extend(without_use(snapshots, images));
    }
    let groups = all.see("the security groups", groups(clients).await);
    found.extend(groups.unwrap_or_default());
    let leases = all.see("the leases", leases(clients).await);
    found.extend(leases.unwrap_or_default());
    if let Some(store) = bundles {
        let bundles = all.see("the bundles", objects(clients, store).await);
        found.extend(bundles.unwrap_or_default());
    }
    let used = uses(clients, &mut found).await;
    if all
        .see("who uses the images and the groups", used)
        .is_none()
    {
        found.retain(|one| !matches!(one.kind, Kind::Image | Kind::SecurityGroup | Kind::Note));
    }
    found.sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
    all.found = found;
    all
}

fn ours() -> Filter {
    filter("tag-key", [tags::RUN.to_owned()])
}

fn time(time: Option<&DateTime>) -> Option<Timestamp> {
    let time = time?;
    Timestamp::new(time.secs(), i32::try_from(time.subsec_nanos()).ok()?).ok()
}

/// Something with the tags of a run.
fn tagged(kind: Kind, id: &str, tags: &tags::Tags, made: Option<Timestamp>) -> Found {
    let tag = |key: &str| tags.get(key).cloned().unwrap_or_default();
    let expires = match tags.get(tags::EXPIRES).map(String::as_str) {
        Some(tags::NEVER) => Expiry::Never,
        Some(text) => text.parse().map_or(Expiry::Unstated, Expiry::At),
        None => Expiry::Unstated,
    };
    Found {
        kind,
        id: id.to_owned(),
        run: tag(tags::RUN),
        recipe: tag(tags::RECIPE),
        made,
        expires,
        used: Use::Nobody,
    }
}

/// All images of this account, disabled ones too: somebody may have registered one of a snapshot of ours.
async fn own_images(clients: &Clients) -> Result<Vec<Image>, Error> {
    let all = clients
        .ec2
        .describe_images()
        .owners("self")
        .include_disabled(true)
        .into_paginator()
        .items()
        .send()
        .collect::<Result<Vec<_>, _>>()
        .await
        .call("ec2", "DescribeImages")?;
    Ok(all.iter().map(Image::read).collect())
}

/// An image that has not become ready, and that nobody has kept. Layers of scripts are for bakes to come.
fn unfinished(image: &Image) -> Option<Found> {
    let is_ours = image.tag(tags::RUN).is_some() && image.digest().is_some();
    let is_unfinished = image.tag(tags::STATUS) == Some(tags::STATUS_TESTING)
        && image.tag(tags::EXPIRES) != Some(tags::NEVER);
    let made = image.created.parse().ok();
    (is_ours && is_unfinished).then(|| tagged(Kind::Image, &image.id, &image.tags, made))
}

async fn machines(clients: &Clients) -> Result<Vec<Found>, Error> {
    let states = ["pending", "running", "stopping", "stopped"].map(str::to_owned);
    let live = filter("instance-state-name", states);
    let all = instances(clients, vec![ours(), live]).await?;
    let found = all.iter().filter_map(|instance| {
        let all = tags::from_ec2(instance.tags());
        let made = time(instance.launch_time());
        let mut one = tagged(Kind::Machine, instance.instance_id()?, &all, made);
        if let Some(group) = all.get("aws:autoscaling:groupName") {
            one.used = Use::By(format!("the Auto Scaling group {group}"));
        }
        Some(one)
    });
    Ok(found.collect())
}

/// A snapshot, and the layer of a script that it is of.
type OfLayer = (Found, Option<String>);

async fn snapshots(clients: &Clients) -> Result<Vec<OfLayer>, Error> {
    // Those of layers are of no run: they are for bakes to come.
    let ours = filter("tag-key", [tags::RUN, tags::LAYER].map(str::to_owned));
    let all = clients
        .ec2
        .describe_snapshots()
        .owner_ids("self")
        .filters(ours)
        .into_paginator()
        .items()
        .send()
        .collect::<Result<Vec<_>, _>>()
        .await
        .call("ec2", "DescribeSnapshots")?;
    let found = all.iter().filter_map(|snapshot| {
        let all = tags::from_ec2(snapshot.tags());
        let made = time(snapshot.start_time());
        let one = tagged(Kind::Snapshot, snapshot.snapshot_id()?, &all, made);
        Some((one, all.get(tags::LAYER).cloned()))
    });
    Ok(found.collect())
}

/// Those of no image. One of a layer may not be named by its image yet.
fn without_use(snapshots: Vec<OfLayer>, images: &[Image]) -> impl Iterator<Item = Found> {
    let used: BTreeSet<&String> = images.iter().flat_map(|image| &image.snapshots).collect();
    let layers: BTreeSet<&str> = images
        .iter()
        .filter_map(|image| image.tag(tags::LAYER))
        .collect();
    snapshots.into_iter().filter_map(move |(mut one, layer)| {
        if used.contains(&one.id) {
            return None;
        }
        if let Some(layer) = layer {
            if layers.contains(layer.as_str()) {
                return None;
            }
            one.used = Use::OfNothing;
        }
        Some(one)
    })
}

async fn groups(clients: &Clients) -> Result<Vec<Found>, Error> {
    let all = clients
        .ec2
        .describe_security_groups()
        .filters(ours())
        .into_paginator()
        .items()
        .send()
        .collect::<Result<Vec<_>, _>>()
        .await
        .call("ec2", "DescribeSecurityGroups")?;
    let found = all.iter().filter_map(|group| {
        let all = tags::from_ec2(group.tags());
        // EC2 does not say when a group was made; its run's name does.
        let made = all.get(tags::RUN).and_then(|run| RunId::started(run));
        Some(tagged(Kind::SecurityGroup, group.group_id()?, &all, made))
    });
    Ok(found.collect())
}

/// Objects whose names are of a bundle.
async fn objects(clients: &Clients, store: &BundleStore) -> Result<Vec<Found>, Error> {
    let mut pages = clients
        .s3
        .list_objects_v2()
        .bucket(&store.bucket)
        .prefix(store.below(""))
        .into_paginator()
        .send();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await {
        for object in page.call("s3", "ListObjectsV2")?.contents() {
            let Some((key, run)) = object.key().and_then(|key| Some((key, store.run_of(key)?)))
            else {
                continue;
            };
            found.push(Found {
                kind: Kind::Bundle,
                id: format!("s3://{}/{key}", store.bucket),
                run: run.to_owned(),
                recipe: String::new(),
                made: time(object.last_modified()),
                expires: Expiry::Unstated,
                used: Use::Nobody,
            });
        }
    }
    Ok(found)
}

/// Leases of bakes, which end by themselves, and are in nobody's way then.
async fn leases(clients: &Clients) -> Result<Vec<Found>, Error> {
    let mut pages = clients
        .ssm
        .get_parameters_by_path()
        .path(lease::path(LEASES))
        .recursive(true)
        .into_paginator()
        .send();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await {
        for parameter in page.call("ssm", "GetParametersByPath")?.parameters() {
            let Some(name) = parameter.name() else {
                continue;
            };
            let term = Term::read(parameter.value().unwrap_or_default());
            found.push(Found {
                kind: Kind::Lease,
                id: name.to_owned(),
                run: term.holder,
                recipe: String::new(),
                made: time(parameter.last_modified_date()),
                expires: Expiry::At(term.expires),
                used: Use::Nobody,
            });
        }
    }
    Ok(found)
}

/// A parameter that tells of an image.
struct Note {
    name: String,
    of: Noted,
    changed: Option<Timestamp>,
}

async fn notes(clients: &Clients) -> Result<Vec<Note>, Error> {
    let ours = ParameterStringFilter::builder()
        .key("Name")
        .option("BeginsWith")
        .set_values(Some(Noted::PLACES.map(str::to_owned).to_vec()))
        .build()
        .map_err(|error| Error::incomplete("ssm", "DescribeParameters", &error.to_string()))?;
    let mut pages = clients
        .ssm
        .describe_parameters()
        .parameter_filters(ours)
        .max_results(50)
        .into_paginator()
        .send();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await {
        for parameter in page.call("ssm", "DescribeParameters")?.parameters() {
            let Some((name, of)) = parameter
                .name()
                .and_then(|name| Some((name.to_owned(), Noted::read(name)?)))
            else {
                continue;
            };
            let changed = time(parameter.last_modified_date());
            found.push(Note { name, of, changed });
        }
    }
    Ok(found)
}

/// The notes on images that are not there, and those on unfinished ones: these are judged as their image is.
fn without_image(notes: Vec<Note>, images: &[Image]) -> impl Iterator<Item = Found> {
    notes.into_iter().filter_map(move |note| {
        let tells_of = |image: &&Image| match &note.of {
            Noted::Manifest(digest) => image.digest() == Some(digest),
            Noted::Packages(id) => image.id == *id,
        };
        let mut all = images.iter().filter(tells_of);
        let mut one = match all.next() {
            // Of several the newest, which is the last to expire.
            Some(first) => all.try_fold(unfinished(first)?, |newest, image| {
                let other = unfinished(image)?;
                Some(if other.made > newest.made {
                    other
                } else {
                    newest
                })
            })?,
            None => Found {
                kind: Kind::Note,
                id: String::new(),
                run: String::new(),
                recipe: String::new(),
                made: note.changed,
                expires: Expiry::Unstated,
                used: Use::OfNothing,
            },
        };
        one.kind = Kind::Note;
        one.id = note.name;
        Some(one)
    })
}

/// Finds who else has to do with what was found: machines that run from an image or stand in a group. What a machine of a
/// run uses lasts as long as that machine, also where another process of the run has made it.
async fn uses(clients: &Clients, found: &mut [Found]) -> Result<(), Error> {
    let of_kind = |kind| -> Vec<String> {
        let ids = found.iter().filter(|one| one.kind == kind);
        ids.map(|one| one.id.clone()).collect()
    };
    let known = found.iter().filter(|one| one.kind == Kind::Machine);
    let known: BTreeMap<String, Expiry> = known.map(|one| (one.id.clone(), one.expires)).collect();
    let (mut users, mut lasts) = (BTreeMap::new(), BTreeMap::new());
    for (kind, name) in [
        (Kind::Image, "image-id"),
        (Kind::SecurityGroup, "instance.group-id"),
    ] {
        for some in of_kind(kind).chunks(FILTER_VALUES) {
            for instance in instances(clients, vec![filter(name, some.to_vec())]).await? {
                let id = instance.instance_id().unwrap_or_default();
                let state = instance.state().and_then(|state| state.name());
                let is_gone = state
                    .is_some_and(|name| matches!(name.as_str(), "shutting-down" | "terminated"));
                if is_gone {
                    continue;
                }
                let groups = instance.security_groups().iter();
                let groups = groups.filter_map(|group| group.group_id());
                for used in groups.chain(instance.image_id()).map(str::to_owned) {
                    match known.get(id) {
                        Some(Expiry::At(end)) => {
                            let last = lasts.entry(used).or_insert(*end);
                            *last = (*last).max(*end);
                        }
                        _ => {
                            users.insert(used, format!("the instance {id}"));
                        }
                    }
                }
            }
        }
    }
    for one in found {
        if let (Use::Nobody, Some(user)) = (&one.used, users.remove(&one.id)) {
            one.used = Use::By(user);
        }
        if let (Expiry::At(own), Some(last)) = (one.expires, lasts.get(&one.id)) {
            one.expires = Expiry::At(own.max(*last));
        }
    }
    Ok(())
}
