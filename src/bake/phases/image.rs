//! The image: created from the builder, waited for by the progress of its snapshot.

use std::time::Duration;

use aws_sdk_ec2::operation::create_image::builders::CreateImageFluentBuilder;
use aws_sdk_ec2::types::ResourceType;

use super::super::engine::DiskTree;
use super::super::error::Failure;
use super::super::event::{Event, Resource};
use super::super::images::{self, Image};
use super::super::run::Run;
use crate::aws::error::Context as _;
use crate::aws::wait::Patience;
use crate::aws::{Clients, Error, Kind, tags};
use crate::image::leaks;
use crate::journal::{Facts, IntentId};

const SNAPSHOT: Patience = Patience {
    what: "the snapshot to be written",
    // A large volume may stand at one percentage for a long time.
    stall: Duration::from_secs(3600),
    first: Duration::from_millis(40),
    longest: Duration::from_secs(10),
};

/// Reads of EC2 are eventually consistent; and an image that a run had made may be gone when it is gone on with.
const VISIBLE: Patience = Patience {
    what: "the image to be visible",
    stall: Duration::from_secs(300),
    ..SNAPSHOT
};

const DISK: Patience = Patience {
    what: "the disk to be written",
    ..SNAPSHOT
};

/// Creates the image of a stopped builder; its status is `testing`.
pub async fn create(run: &mut Run<'_>, builder: &str) -> Result<(IntentId, String), Failure> {
    let plan = run.plan;
    let mut image_tags = run.image_tags();
    tags::put(&mut image_tags, tags::STATUS, tags::STATUS_TESTING);
    let snapshot_tags = run.image_tags();
    let request = run
        .clients
        .ec2
        .create_image()
        .instance_id(builder)
        .name(&plan.image_name)
        // At most 255 characters (CreateImage, `Description`).
        .description(plan.description.chars().take(255).collect::<String>())
        .tag_specifications(tags::specification(ResourceType::Image, &image_tags))
        .tag_specifications(tags::specification(ResourceType::Snapshot, &snapshot_tags));
    let (clients, own_run) = (run.clients, run.id.to_string());
    let call = async move {
        let id = make(clients, request, &plan.image_name, &own_run).await?;
        Ok(vec![id])
    };
    run.create(Resource::Image, &plan.image_name, Facts::new(), call)
        .await
}

/// Gives an image that an earlier process of this run had made the end of this one: nobody is to remove it before that.
pub async fn put_off(run: &Run<'_>, image: &Image) -> Result<(), Failure> {
    if run.journal.ledger().resumed() > 0 && !image.is_ready() {
        let mut all = tags::Tags::new();
        tags::put(&mut all, tags::EXPIRES, &run.expires.to_string());
        tag(run.clients, image, &all).await?;
    }
    Ok(())
}

/// Sets tags of an image and of its snapshots, all at once.
///
/// # Errors
/// [`Error`] of `CreateTags`.
pub async fn tag(clients: &Clients, image: &Image, all: &tags::Tags) -> Result<(), Error> {
    clients
        .ec2
        .create_tags()
        .set_resources(Some(
            std::iter::once(image.id.clone())
                .chain(image.snapshots.iter().cloned())
                .collect(),
        ))
        .set_tags(Some(tags::to_ec2(all)))
        .send()
        .await
        .call("ec2", "CreateTags")?;
    Ok(())
}

/// Sends the request of a run for an image of this name; gives its id.
///
/// # Errors
/// [`Error`] of `CreateImage`: of the kind [`Kind::AlreadyExists`] if another run has an image of the name.
pub async fn make(
    clients: &Clients,
    request: CreateImageFluentBuilder,
    name: &str,
    run: &str,
) -> Result<String, Error> {
    match request.send().await.call("ec2", "CreateImage") {
        Ok(answer) => answer
            .image_id
            .ok_or_else(|| Error::incomplete("ec2", "CreateImage", "image id")),
        // A call of ours may have made it, its answer lost; an image of another run is not ours to take.
        Err(error) if error.kind == Kind::AlreadyExists => {
            let ours = images::of_run(clients, name, run).await?;
            ours.into_iter().next().map(|image| image.id).ok_or(error)
        }
        Err(error) => Err(error),
    }
}

/// Waits until the image is available, for as long as its snapshot moves.
pub async fn available(run: &mut Run<'_>, id: &str) -> Result<Image, Failure> {
    let mut pace = run.pace(SNAPSHOT);
    let mut unseen = run.pace(VISIBLE);
    let mut shown = None;
    loop {
        let state = match images::get(run.clients, id).await? {
            Some(image) if image.state == "available" => return Ok(image),
            Some(image) if matches!(image.state.as_str(), "pending" | "transient") => {
                let progress = progress(run, &image).await?;
                if let Some((snapshot, percent)) =
                    progress.clone().filter(|now| shown.as_ref() != Some(now))
                {
                    run.emit(Event::Snapshot {
                        id: snapshot,
                        percent,
                    });
                    shown.clone_from(&progress);
                }
                format!("{} {progress:?}", image.state)
            }
            Some(image) => {
                return Err(Failure::ImageFailed {
                    image: image.id,
                    state: image.state,
                    reason: image.state_reason.unwrap_or_default(),
                });
            }
            None => {
                run.pause(&mut unseen, "not visible").await?;
                continue;
            }
        };
        run.pause(&mut pace, &state).await?;
    }
}

/// Holds the finished disk against the table of known leaks, where it can be read: what was written after the builder
/// had been found clean is there too.
pub async fn inspect(run: &mut Run<'_>, made: &Image) -> Result<(), Failure> {
    let Some(disks) = run.disks else {
        return Ok(());
    };
    let mut pace = run.pace(DISK);
    let tree = loop {
        match disks.tree(made) {
            Ok(DiskTree::Here(tree)) => break tree,
            Ok(DiskTree::NotYet) => run.pause(&mut pace, "being written").await?,
            Ok(DiskTree::Elsewhere) => return Ok(()),
            Ok(DiskTree::Failed(reason)) => {
                return Err(Failure::NoDisk {
                    image: made.id.clone(),
                    reason,
                });
            }
            Err(reason) => {
                return Err(Failure::NotInspected {
                    image: made.id.clone(),
                    reason,
                });
            }
        }
    };
    match leaks::inspect(&tree, &run.plan.sealed) {
        remains if remains.is_empty() => Ok(()),
        remains => Err(Failure::NotSealed {
            place: "finished disk",
            remains,
        }),
    }
}

/// The snapshot of the image and how many percent of it are written; `None` before it is visible.
async fn progress(run: &Run<'_>, image: &Image) -> Result<Option<(String, u8)>, Error> {
    let request = run
        .clients
        .ec2
        .describe_snapshots()
        .owner_ids("self")
        .filters(images::filter(
            format!("tag:{}", tags::RUN),
            [image.tag(tags::RUN).unwrap_or_default().to_owned()],
        ));
    let answer = request.send().await.call("ec2", "DescribeSnapshots")?;
    Ok(answer.snapshots().first().map(|snapshot| {
        let percent = snapshot.progress().and_then(percent).unwrap_or(0);
        (
            snapshot.snapshot_id().unwrap_or_default().to_owned(),
            percent,
        )
    }))
}

/// `Progress` of `DescribeSnapshots`: "42%", or nothing at the very beginning.
fn percent(text: &str) -> Option<u8> {
    text.trim()
        .trim_end_matches('%')
        .parse()
        .ok()
        .filter(|percent| *percent <= 100)
}

#[cfg(test)]
mod tests {
    use super::percent;

    #[test]
    fn progress_is_read_with_and_without_a_sign() {
        assert_eq!(percent("42%"), Some(42));
        assert_eq!(percent("100"), Some(100));
        assert_eq!(percent(""), None);
        assert_eq!(percent("101%"), None);
    }
}
