//! Snapshots and volumes.

use super::super::ACCOUNT_ID;
use super::super::engine::Call;
use super::super::state::{Progress, Snapshot};
use super::super::wire::error::ApiError;
use super::super::wire::query::Params;
use super::super::wire::xml::Xml;
use super::filters::{Filters, Page};
use super::{images, is_id, tags, time};

pub fn state_name(state: Progress) -> &'static str {
    match state {
        Progress::Pending => "pending",
        Progress::Done => "completed",
        Progress::Failed => "error",
    }
}

fn not_found(id: &str) -> ApiError {
    if is_id("snap", id) {
        ApiError::new(
            "InvalidSnapshot.NotFound",
            format!("The snapshot '{id}' does not exist."),
        )
    } else {
        ApiError::new(
            "InvalidSnapshotID.Malformed",
            format!("Value ({id}) for parameter snapshotId is invalid. Expected: 'snap-...'."),
        )
    }
}

pub(super) fn describe(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let ids = params.texts("SnapshotId");
    let owners = params.texts("Owner");
    let known = [
        "snapshot-id",
        "status",
        "owner-id",
        "volume-id",
        "description",
        "progress",
        "volume-size",
    ];
    let filters = Filters::take(&mut params, &known)?;
    let page = Page::take("DescribeSnapshots", &mut params, !ids.is_empty())?;
    call.accept(&params)?;
    if let Some(id) = ids.iter().find(|id| !call.state.snapshots.contains_key(id)) {
        return Err(not_found(id));
    }
    let field = |snapshot: &Snapshot, name: &str| {
        vec![match name {
            "snapshot-id" => snapshot.id.clone(),
            "status" => state_name(snapshot.state).to_owned(),
            "owner-id" => snapshot.owner_id.clone(),
            "volume-id" => snapshot.volume_id.clone(),
            "description" => snapshot.description.clone(),
            "progress" => format!("{}%", snapshot.percent),
            _ => snapshot.size.to_string(),
        }]
    };
    let wanted = call.state.snapshots.values().filter(|snapshot| {
        let owned =
            |owner: &String| snapshot.owner_id == if owner == "self" { ACCOUNT_ID } else { owner };
        (ids.is_empty() || ids.contains(&snapshot.id))
            && (owners.is_empty() || owners.iter().any(owned))
            && filters.matches(&snapshot.tags, |name| field(snapshot, name))
    });
    let (found, token) = page.cut(wanted.collect(), |snapshot| &snapshot.id);
    let set = Xml::list(found.into_iter().map(|snapshot| {
        let message = Some(&snapshot.state_message).filter(|message| !message.is_empty());
        Xml::children([
            ("snapshotId", Xml::text(&snapshot.id)),
            ("volumeId", Xml::text(&snapshot.volume_id)),
            ("status", Xml::text(state_name(snapshot.state))),
            ("startTime", time(snapshot.started)),
            ("progress", Xml::text(format!("{}%", snapshot.percent))),
            ("ownerId", Xml::text(&snapshot.owner_id)),
            ("volumeSize", Xml::text(snapshot.size)),
            ("description", Xml::text(&snapshot.description)),
            ("encrypted", Xml::text(snapshot.encrypted)),
            ("storageTier", Xml::text("standard")),
            ("tagSet", tags::set(&snapshot.tags)),
        ])
        .with_some("statusMessage", message.map(Xml::text))
        .with_some("completionTime", snapshot.completed.map(time))
    }));
    Ok(Xml::children([("snapshotSet", set)]).with_some("nextToken", token))
}

pub(super) fn delete(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let id = params.require("SnapshotId")?;
    call.accept(&params)?;
    remove(call, &id)?;
    Ok(super::done())
}

/// Removes a snapshot that no image uses.
///
/// # Errors
/// `InvalidSnapshot.NotFound`, `InvalidSnapshot.InUse`, `AuthFailure`, or the driver's.
pub fn remove(call: &mut Call<'_>, id: &str) -> Result<(), ApiError> {
    let snapshot = call.state.snapshots.get(id).ok_or_else(|| not_found(id))?;
    if snapshot.owner_id != ACCOUNT_ID {
        return Err(
            ApiError::new("AuthFailure", format!("Not authorized for snapshot {id}"))
                .with_status(http::StatusCode::FORBIDDEN),
        );
    }
    if let Some(image) = call
        .state
        .images
        .values()
        .find(|image| image.snapshot_id == id)
    {
        return Err(ApiError::new(
            "InvalidSnapshot.InUse",
            format!("The snapshot {id} is currently in use by {}", image.id),
        ));
    }
    call.driver
        .delete_snapshot(id)
        .map_err(|error| ApiError::internal(error.to_string()))?;
    call.state.snapshots.remove(id);
    Ok(())
}

/// Nothing is encrypted here, and nobody has given this account a key of its own.
pub(super) fn default_key(call: &mut Call<'_>, params: Params) -> Result<Xml, ApiError> {
    call.accept(&params)?;
    Ok(Xml::children([("kmsKeyId", Xml::text("alias/aws/ebs"))]))
}

pub(super) fn describe_volumes(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let ids = params.texts("VolumeId");
    let known = [
        "volume-id",
        "status",
        "attachment.instance-id",
        "size",
        "volume-type",
    ];
    let filters = Filters::take(&mut params, &known)?;
    let page = Page::take("DescribeVolumes", &mut params, !ids.is_empty())?;
    call.accept(&params)?;
    let mut live: Vec<_> = call
        .state
        .instances
        .values()
        .filter(|instance| !instance.state.is_ending())
        .collect();
    live.sort_by(|a, b| a.volume.id.cmp(&b.volume.id));
    if let Some(id) = ids
        .iter()
        .find(|id| !live.iter().any(|instance| instance.volume.id == **id))
    {
        return Err(ApiError::new(
            "InvalidVolume.NotFound",
            format!("The volume '{id}' does not exist."),
        ));
    }
    live.retain(|instance| {
        let volume = &instance.volume;
        (ids.is_empty() || ids.contains(&volume.id))
            && filters.matches(&volume.tags, |name| {
                vec![match name {
                    "volume-id" => volume.id.clone(),
                    "status" => "in-use".to_owned(),
                    "attachment.instance-id" => instance.id.clone(),
                    "size" => volume.size.to_string(),
                    _ => volume.kind.clone(),
                }]
            })
    });
    let (found, token) = page.cut(live, |instance| &instance.volume.id);
    let set = Xml::list(found.into_iter().map(|instance| {
        let volume = &instance.volume;
        let source = call
            .state
            .images
            .get(&instance.image_id)
            .map(|image| &image.snapshot_id);
        let attachment = Xml::children([
            ("volumeId", Xml::text(&volume.id)),
            ("instanceId", Xml::text(&instance.id)),
            ("device", Xml::text(images::ROOT_DEVICE)),
            ("status", Xml::text("attached")),
            ("attachTime", time(instance.attached())),
            (
                "deleteOnTermination",
                Xml::text(volume.delete_on_termination),
            ),
        ]);
        Xml::children([
            ("volumeId", Xml::text(&volume.id)),
            ("size", Xml::text(volume.size)),
            ("availabilityZone", Xml::text(&instance.availability_zone)),
            ("status", Xml::text("in-use")),
            ("createTime", time(instance.attached())),
            ("volumeType", Xml::text(&volume.kind)),
            ("encrypted", Xml::text(volume.encrypted)),
            ("attachmentSet", Xml::list([attachment])),
            ("tagSet", tags::set(&volume.tags)),
        ])
        .with_some("snapshotId", source.map(Xml::text))
    }));
    Ok(Xml::children([("volumeSet", set)]).with_some("nextToken", token))
}
