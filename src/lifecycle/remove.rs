//! Removing what may go. Images and notes are looked at once more before that, and each removal may be repeated.

use serde::Serialize;

use super::judge::{Found, Kind};
use crate::aws::objects::Place;
use crate::aws::{Clients, parameters, tags};
use crate::bake::names::Noted;
use crate::bake::{Failure, Resource, facts, images, undo};
use crate::events::Sink;
use crate::journal::{Entry, Facts, IntentId, State};
use crate::lease::Term;

/// Something that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removed {
    pub kind: Kind,
    pub id: String,
}

/// Something that could not be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stuck {
    pub kind: Kind,
    pub id: String,
    pub error: String,
    /// The command that removes it.
    pub command: String,
}

/// Removes these, by kinds: nothing is in the way of what comes later. What another process has taken into use since it was
/// found stays, and is in neither list.
pub async fn remove(
    clients: &Clients,
    found: &[Found],
    sink: &dyn Sink<crate::bake::Event>,
) -> (Vec<Removed>, Vec<Stuck>) {
    let (mut removed, mut stuck) = (Vec::new(), Vec::new());
    let undo = undo::Undo {
        clients,
        sink,
        seed: 0,
    };
    let mut found: Vec<&Found> = found.iter().collect();
    found.sort_by_key(|one| one.kind);
    let entries: Vec<Entry> = found.iter().map(|one| entry(one)).collect();
    undo.begin(&entries).await;
    for (one, entry) in found.into_iter().zip(&entries) {
        let done = match one.kind {
            Kind::Image => image(&undo, one).await,
            Kind::Note => note(&undo, &one.id).await,
            Kind::Lease => lease(clients, &one.id).await,
            Kind::Snapshot => undo.delete_snapshot(&one.id).await.map(|()| true),
            Kind::Machine | Kind::SecurityGroup | Kind::Bundle => {
                undo.remove(entry).await.map(|()| true)
            }
        };
        let (kind, id) = (one.kind, one.id.clone());
        match done {
            Ok(true) => removed.push(Removed { kind, id }),
            Ok(false) => {}
            Err(error) => stuck.push(Stuck {
                command: clients.commands.complete(&by_hand(one)),
                error: error.to_string(),
                kind,
                id,
            }),
        }
    }
    (removed, stuck)
}

/// An unfinished image; `false` if it was finished meanwhile.
async fn image(undo: &undo::Undo<'_>, found: &Found) -> Result<bool, Failure> {
    let is_finished = |image: images::Image| image.tag(tags::STATUS) != Some(tags::STATUS_TESTING);
    if images::get(undo.clients, &found.id)
        .await?
        .is_some_and(is_finished)
    {
        return Ok(false);
    }
    undo.remove_image(&found.id, &found.run).await?;
    Ok(true)
}

/// A note; `false` if it has got its image meanwhile.
async fn note(undo: &undo::Undo<'_>, name: &str) -> Result<bool, Failure> {
    let has_image = match Noted::read(name) {
        Some(Noted::Manifest(digest)) => {
            !images::of_digest(undo.clients, &digest).await?.is_empty()
        }
        Some(Noted::Packages(image)) => images::get(undo.clients, &image).await?.is_some(),
        None => true,
    };
    if has_image {
        return Ok(false);
    }
    undo.delete_parameter(name).await?;
    Ok(true)
}

/// A lease; `false` if somebody holds it by now.
async fn lease(clients: &Clients, name: &str) -> Result<bool, Failure> {
    let found = parameters::values(clients, vec![name.to_owned()]).await?;
    let holds = |text: &String| Term::read(text).may_hold(clients.clock.now());
    if found.values().any(holds) {
        return Ok(false);
    }
    parameters::delete(clients, &[name.to_owned()]).await?;
    Ok(true)
}

/// What a bake calls something of this kind.
fn resource(kind: Kind) -> Resource {
    match kind {
        Kind::Machine => Resource::Builder,
        Kind::SecurityGroup => Resource::SecurityGroup,
        Kind::Bundle => Resource::Bundle,
        Kind::Image | Kind::Snapshot => Resource::Image,
        Kind::Note => Resource::Manifest,
        Kind::Lease => Resource::Lease,
    }
}

/// What a journal would say of it.
fn entry(found: &Found) -> Entry {
    let mut facts = Facts::from([(facts::RUN.to_owned(), found.run.clone())]);
    if let Some(place) = Place::parse(&found.id) {
        facts.insert(facts::BUCKET.to_owned(), place.bucket);
        facts.insert(facts::KEY.to_owned(), place.key);
    }
    Entry {
        id: IntentId(0),
        kind: resource(found.kind).as_str().to_owned(),
        token: found.id.clone(),
        facts,
        ids: vec![found.id.clone()],
        state: State::Done,
    }
}

/// The command of the AWS CLI that removes it.
#[must_use]
pub fn by_hand(found: &Found) -> String {
    match found.kind {
        Kind::Snapshot => format!("aws ec2 delete-snapshot --snapshot-id {}", found.id),
        kind => undo::of_the_cli(resource(kind), &entry(found)),
    }
}
