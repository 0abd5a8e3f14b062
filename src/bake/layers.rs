//! The layers of single scripts that are kept: which there are, and their removal.

use super::images::{Image, PARTS, describe, filter, part_name};
use super::names::packages_parameter;
use crate::aws::error::Context as _;
use crate::aws::{Clients, Error, Kind, tags};

/// All of this account and region, newest first.
///
/// # Errors
/// [`Error`] of `DescribeImages`.
pub async fn list(clients: &Clients) -> Result<Vec<Image>, Error> {
    let filters = vec![filter("tag-key", [tags::LAYER.to_owned()])];
    describe(clients, &["self".to_owned()], filters).await
}

/// Removes one, with its snapshot and what was noted of it. Repeating it is harmless.
///
/// # Errors
/// [`Error`] of `DeregisterImage`, `DeleteSnapshot` or `DeleteParameters`.
pub async fn remove(clients: &Clients, layer: &Image) -> Result<(), Error> {
    let gone_is_fine = |answer: Result<(), Error>| match answer {
        Err(error) if error.kind == Kind::NotFound => Ok(()),
        other => other,
    };
    let request = clients.ec2.deregister_image().image_id(&layer.id);
    let answer = request.send().await.call("ec2", "DeregisterImage");
    gone_is_fine(answer.map(drop))?;
    for snapshot in &layer.snapshots {
        let request = clients.ec2.delete_snapshot().snapshot_id(snapshot);
        let answer = request.send().await.call("ec2", "DeleteSnapshot");
        gone_is_fine(answer.map(drop))?;
    }
    let name = packages_parameter(&layer.id);
    let names = (0..PARTS).map(|index| part_name(&name, index)).collect();
    let request = clients.ssm.delete_parameters().set_names(Some(names));
    // Names that are not there are said to be invalid, and are no error (DeleteParameters, `InvalidParameters`).
    request.send().await.call("ssm", "DeleteParameters")?;
    Ok(())
}
