//! One bake of a digest at a time, on whatever host: a lease says whose turn it is. Whoever comes second waits, and uses the
//! image of the first, or bakes after all if there is none.

use std::time::Duration;

use super::error::Failure;
use super::event::{Event, Resource};
use super::images::{self, Image};
use super::run::{Run, facts};
use crate::aws::wait::Patience;
use crate::aws::{Error, Kind, tags};
use crate::journal::Facts;
use crate::lease::{self, Held, Holder, Incarnation, Look, Watch};

/// As long as the other bake renews its lease, it moves; the time limit of ours ends the wait.
const OTHER: Patience = Patience {
    what: "another bake of the same to end",
    stall: Duration::from_secs(600),
    first: Duration::from_millis(500),
    longest: Duration::from_secs(5),
};

/// The name of a digest's lease.
fn name(digest: &str) -> String {
    format!("{LEASES}/{digest}")
}

/// What the names of these leases begin with.
pub(crate) const LEASES: &str = "bakes";

/// Waits until no other run bakes the digest of this one. Gives the image that another one has made of it meanwhile; else the
/// lease is ours, and what dead runs have left under the name is removed.
pub(super) async fn claim(run: &mut Run<'_>) -> Result<Option<Image>, Failure> {
    let name = name(&run.plan.digest);
    let mut pace = run.pace(OTHER);
    let mut told = String::new();
    // A process of this run that has died may have it: its journal has been ours since.
    let mut watch = Watch::new(&name, Some(run.id.as_str()));
    loop {
        let state = match watch.look(run.clients).await? {
            Look::Held(term, _) => {
                if told != term.holder {
                    run.emit(Event::Waiting {
                        what: format!("the run {}", term.holder),
                        state: "bakes the same".to_owned(),
                    });
                    told.clone_from(&term.holder);
                }
                // It gives its lease back only after its image is there.
                if let Some(image) = finished(run, &of_others(run).await?) {
                    return Ok(Some(image));
                }
                format!("{} {}", term.holder, term.expires)
            }
            Look::Free(spot) => {
                if take(run, &name, spot).await? {
                    if !told.is_empty() {
                        run.begin_time_anew();
                    }
                    let others = of_others(run).await?;
                    let image = finished(run, &others);
                    if image.is_none() {
                        remove_stale(run, &others).await?;
                    }
                    return Ok(image);
                }
                "free".to_owned()
            }
        };
        run.pause(&mut pace, &state).await?;
    }
}

/// Whether the lease is ours; another run may be faster.
async fn take(run: &mut Run<'_>, name: &str, spot: lease::Spot) -> Result<bool, Failure> {
    let clients = run.clients;
    let holder = Holder {
        name: run.id.to_string(),
        process: Incarnation::own(),
    };
    let facts = Facts::from([(facts::PATH.to_owned(), lease::path(name))]);
    // A process that goes on with a run takes it anew.
    let token = format!("{name} {}", run.journal.ledger().resumed());
    let mut taken = None;
    let call = async {
        let faster = |who: &str| Error::exists("ssm", "PutParameter", who);
        let lease = match spot.take(clients, holder).await {
            Ok(lease) => lease.ok_or_else(|| faster("another run was faster"))?,
            Err(Held::ByAnother(who)) => return Err(faster(&who)),
            Err(Held::Cloud(error)) => return Err(error),
        };
        let parameter = lease.parameter();
        taken = Some(lease);
        Ok(vec![parameter])
    };
    let (intent, made) = run.attempt(Resource::Lease, &token, facts, call).await?;
    match made {
        Ok(_) => {
            run.lease = taken;
            Ok(true)
        }
        Err(error) if error.kind == Kind::AlreadyExists => {
            // It is another's: there is nothing of ours to undo.
            run.journal.failed(intent, &error.to_string(), run.now())?;
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// What others have under the name of the image to be, which was free when the plan was made.
async fn of_others(run: &Run<'_>) -> Result<Vec<Image>, Error> {
    let mut named = images::named(run.clients, &run.plan.image_name).await?;
    named.retain(|image| image.tag(tags::RUN) != Some(run.id.as_str()));
    Ok(named)
}

/// The one of these that is finished, and of our digest.
fn finished(run: &Run<'_>, images: &[Image]) -> Option<Image> {
    let is_finished = |image: &&Image| image.is_ready() && image.digest() == Some(&run.plan.digest);
    images.iter().find(is_finished).cloned()
}

/// Removes those of these that dead runs have left: who holds the lease is the only one who bakes the image.
async fn remove_stale(run: &Run<'_>, images: &[Image]) -> Result<(), Failure> {
    let undo = run.undo();
    for image in images.iter().filter(|image| !image.is_ready()) {
        if let Some(of) = image.tag(tags::RUN) {
            undo.remove_image(&image.id, of).await?;
        }
    }
    Ok(())
}
