//! How a bundle comes to its machine: in pieces through Systems Manager, or through a bucket where one is named.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::bundle::Bundle;
use super::super::error::Failure;
use super::super::event::{Event, Resource};
use super::super::run::{Run, facts};
use super::commands::{SHORT, begin, command, end, success, within};
use crate::aws::objects::{self, Place};
use crate::journal::{Facts, IntentId};

/// What failures say of it.
const WHAT: &str = "send the bundle";
/// Parts of a bundle under way at once. An agent runs five commands at a time (amazon-ssm-agent, `CommandWorkersLimit`).
const AT_ONCE: usize = 4;
/// How long the URL opens the object. A command waits up to ten minutes for its agent, and a download that has begun goes
/// on.
const LENT: Duration = Duration::from_secs(900);
/// Bytes that a machine fetches in a second at the least.
const SLOWEST: u64 = 1 << 20;

/// A bundle that lies in a bucket.
pub struct Deposit {
    place: Place,
    intent: IntentId,
}

/// Brings the bundle to the machine, checked and unpacked.
pub async fn send(
    run: &mut Run<'_>,
    instance: &str,
    bundle: &Bundle,
    deposit: Option<Deposit>,
) -> Result<(), Failure> {
    match deposit {
        Some(deposit) => through_bucket(run, instance, bundle, &deposit).await,
        None => in_pieces(run, instance, bundle).await,
    }
}

/// The parts do not depend on each other, so several are under way at a time; the last command puts them together.
async fn in_pieces(run: &mut Run<'_>, instance: &str, bundle: &Bundle) -> Result<(), Failure> {
    let commands = bundle.transfer();
    let Some((last, parts)) = commands.split_last() else {
        return Ok(());
    };
    let mut under_way = VecDeque::new();
    let mut parts = parts.iter();
    let mut done = 0;
    loop {
        while under_way.len() < AT_ONCE
            && let Some(script) = parts.next()
        {
            under_way.push_back(begin(run, instance, script, SHORT, WHAT).await?);
        }
        let Some(oldest) = under_way.pop_front() else {
            break;
        };
        let ended = end(run, instance, &oldest, SHORT).await?;
        success(instance, WHAT, ended)?;
        done += 1;
        run.emit(Event::Waiting {
            what: "bundle".to_owned(),
            state: format!("{done} of {} commands", commands.len()),
        });
    }
    command(run, instance, WHAT, last).await?;
    Ok(())
}

/// Puts the bundle into the bucket, if there is one. Its key is this run's own, so nobody else's object goes with it.
pub async fn deposit(run: &mut Run<'_>, bundle: &Bundle) -> Result<Option<Deposit>, Failure> {
    let Some(store) = run.bundles.clone() else {
        return Ok(None);
    };
    let (clients, archive) = (run.clients, bundle.archive());
    let place = Place {
        key: store.key(&run.id, bundle.sha256()),
        bucket: store.bucket,
    };
    run.emit(Event::Waiting {
        what: "bundle".to_owned(),
        state: format!("{} bytes go through s3://{}", archive.len(), place.bucket),
    });
    let token = place.to_string();
    let known = Facts::from([
        (facts::BUCKET.to_owned(), place.bucket.clone()),
        (facts::KEY.to_owned(), place.key.clone()),
    ]);
    let put = async {
        objects::put(clients, &place, archive, bundle.sha256()).await?;
        Ok(vec![token.clone()])
    };
    let (intent, _) = run.create(Resource::Bundle, &token, known, put).await?;
    Ok(Some(Deposit { place, intent }))
}

/// The object goes as soon as the machine has fetched it.
async fn through_bucket(
    run: &mut Run<'_>,
    instance: &str,
    bundle: &Bundle,
    Deposit { place, intent }: &Deposit,
) -> Result<(), Failure> {
    let clients = run.clients;
    let size = bundle.archive().len() as u64;
    let url = objects::lend(clients, place, LENT).await?;
    let timeout = SHORT + Duration::from_secs(size / SLOWEST);
    let ended = within(run, instance, &bundle.fetch(&url), timeout, WHAT).await?;
    success(instance, WHAT, ended)?;
    // What cannot be removed now is tried again with all the rest.
    if let Some(entry) = run.journal.ledger().entry(*intent).cloned() {
        let undo = run.undo();
        let _tried_again_later = undo.walk(&mut run.journal, &[entry]).await;
    }
    Ok(())
}
