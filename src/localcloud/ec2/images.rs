//! Images: `CreateImage`, `DescribeImages`, `DeregisterImage`.

use super::super::driver::SnapshotSpec;
use super::super::engine::Call;
use super::super::quotas::{self, Quota};
use super::super::state::{Image, InstanceState, Progress, Snapshot, State};
use super::super::wire::error::ApiError;
use super::super::wire::query::Params;
use super::super::wire::xml::Xml;
use super::super::{ACCOUNT_ID, BASE_OWNER, BASE_PARAMETER, regions};
use super::filters::{Filters, Page, matches};
use super::settings::take_root_volume;
use super::tags::{self, Specifications};
use super::{describe as instances, invalid_value, is_id, snapshots, time};

/// Device name of every root volume.
pub const ROOT_DEVICE: &str = "/dev/xvda";
/// How the disks boot.
pub const BOOT_MODE: &str = "uefi";

const FILTERS: &[&str] = &[
    "image-id",
    "name",
    "description",
    "state",
    "owner-id",
    "owner-alias",
    "architecture",
    "boot-mode",
    "is-public",
    "root-device-name",
    "root-device-type",
    "virtualization-type",
    "image-type",
    "hypervisor",
    "ena-support",
    "creation-date",
    "source-instance-id",
    "block-device-mapping.snapshot-id",
];

pub fn state_name(state: Progress) -> &'static str {
    match state {
        Progress::Pending => "pending",
        Progress::Done => "available",
        Progress::Failed => "failed",
    }
}

fn not_found(id: &str) -> ApiError {
    if is_id("ami", id) {
        ApiError::new(
            "InvalidAMIID.NotFound",
            format!("The image id '[{id}]' does not exist"),
        )
    } else {
        ApiError::new(
            "InvalidAMIID.Malformed",
            format!("Invalid id: \"{id}\" (expecting \"ami-...\")"),
        )
    }
}

/// The image that an `ImageId` stands for now: itself, or the value of a parameter, `resolve:ssm:NAME` or
/// `resolve:ssm:NAME:VERSION` (EC2 API Reference, `RequestLaunchTemplateData`, `ImageId`).
///
/// # Errors
/// `InvalidParameterValue` for a parameter or a version that is not there, a label, or an ARN.
pub fn resolve(state: &State, id: &str) -> Result<String, ApiError> {
    let Some(wanted) = id.strip_prefix("resolve:ssm:") else {
        return Ok(id.to_owned());
    };
    let refused = |why: &str| invalid_value("ImageId", id, why);
    if wanted.starts_with("arn:") {
        return Err(refused(
            "ARNs are for parameters of other accounts, which the local cloud has not; give the name.",
        ));
    }
    let (name, version) = match wanted.split_once(':') {
        Some((name, version)) => (name, Some(version)),
        None => (wanted, None),
    };
    if name == BASE_PARAMETER && version.is_none_or(|version| version == "1") {
        return Ok(regions::base_image(&state.region));
    }
    let versions = state.parameters.get(name);
    let versions = versions.ok_or_else(|| refused("There is no such parameter."))?;
    let found = match version {
        None => versions.last(),
        Some(number) => versions
            .iter()
            .find(|one| one.version.to_string() == number),
    };
    let found = found.ok_or_else(|| refused("The parameter has no such version."))?;
    Ok(found.value.clone())
}

/// An image to launch from.
///
/// # Errors
/// `InvalidAMIID.…`, also for an image that is not available.
pub fn usable(state: &State, id: &str) -> Result<Image, ApiError> {
    let image = state.images.get(id).ok_or_else(|| not_found(id))?;
    if image.state == Progress::Done {
        Ok(image.clone())
    } else {
        Err(ApiError::new(
            "InvalidAMIID.Unavailable",
            format!(
                "The image ID '{id}' is {}, not available.",
                state_name(image.state)
            ),
        ))
    }
}

/// Names have 3 to 128 of these characters (EC2 API Reference, `CreateImage`, `Name`).
fn check_name(name: &str) -> Result<(), ApiError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "()[] ./-'@_".contains(c);
    if (3..=128).contains(&name.chars().count()) && name.chars().all(allowed) {
        Ok(())
    } else {
        Err(ApiError::new(
            "InvalidAMIName.Malformed",
            "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, '(', ')', '.', \
             '-', '/' and '_'",
        ))
    }
}

pub(super) fn create(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let instance_id = params.require("InstanceId")?;
    let name = params.require("Name")?;
    let description = params.take("Description").unwrap_or_default();
    if description.chars().count() > 255 {
        return Err(invalid_value(
            "Description",
            &description,
            "It has at most 255 characters.",
        ));
    }
    let no_reboot = params.flag("NoReboot")?;
    let volume = take_root_volume(&mut params)?;
    let tags = Specifications::take(&mut params, &["image", "snapshot"])?;
    call.accept(&params)?;
    check_name(&name)?;
    instances::check_ids(call.state, std::slice::from_ref(&instance_id))?;
    let Some(instance) = call.state.instances.get(&instance_id).cloned() else {
        return Err(ApiError::internal(
            "an instance that was just found is gone",
        ));
    };
    if !matches!(
        instance.state,
        InstanceState::Running | InstanceState::Stopping | InstanceState::Stopped
    ) {
        return Err(ApiError::new(
            "IncorrectState",
            format!("The instance '{instance_id}' is not in the 'running' or 'stopped' state."),
        ));
    }
    if let Some(other) = call
        .state
        .images
        .values()
        .find(|image| image.owner_id == ACCOUNT_ID && image.name == name)
    {
        return Err(ApiError::new(
            "InvalidAMIName.Duplicate",
            format!("AMI name {name} is already in use by AMI {}", other.id),
        ));
    }
    if let Some(encrypted) = volume.encrypted {
        // EC2 API Reference, `CreateImage`, `BlockDeviceMapping`.
        let why = "The encryption status of an image's volumes cannot be changed here.";
        return Err(invalid_value("Ebs.Encrypted", &encrypted.to_string(), why));
    }
    let size = volume.size.unwrap_or(instance.volume.size);
    if size < instance.volume.size {
        return Err(ApiError::new(
            "InvalidBlockDeviceMapping",
            format!(
                "The volume of {ROOT_DEVICE} has {} GiB; an image cannot have less",
                instance.volume.size
            ),
        ));
    }
    let own = |owner: &str| owner == ACCOUNT_ID;
    let images = call.state.images.values().filter(|one| own(&one.owner_id));
    quotas::check(call, Quota::Images, images.count())?;
    let snapshots = call.state.snapshots.values();
    let snapshots = snapshots.filter(|one| own(&one.owner_id));
    quotas::check(call, Quota::Snapshots, snapshots.count())?;
    let snapshot_id = call.state.new_id("snap");
    let id = call.state.new_id("ami");
    call.driver
        .snapshot(&SnapshotSpec {
            snapshot_id: snapshot_id.clone(),
            instance_id: instance_id.clone(),
            size_gib: size,
        })
        .map_err(|error| ApiError::internal(error.to_string()))?;
    if instance.state == InstanceState::Running && !no_reboot {
        call.driver
            .reboot(&instance_id)
            .map_err(|error| ApiError::internal(error.to_string()))?;
    }
    call.state.snapshots.insert(
        snapshot_id.clone(),
        Snapshot {
            id: snapshot_id.clone(),
            description: format!("Created by CreateImage({instance_id}) for {id}"),
            owner_id: ACCOUNT_ID.to_owned(),
            started: call.now,
            completed: None,
            state: Progress::Pending,
            state_message: String::new(),
            percent: 0,
            volume_id: instance.volume.id,
            size,
            encrypted: instance.volume.encrypted,
            tags: tags.of("snapshot"),
        },
    );
    let source = call
        .state
        .images
        .get(&instance.image_id)
        .map(|image| image.id.clone());
    call.state.images.insert(
        id.clone(),
        Image {
            id: id.clone(),
            name,
            description,
            owner_id: ACCOUNT_ID.to_owned(),
            created: call.now,
            state: Progress::Pending,
            state_reason: None,
            snapshot_id,
            size,
            volume_kind: volume.kind.unwrap_or(instance.volume.kind),
            encrypted: instance.volume.encrypted,
            source_instance_id: Some(instance_id),
            source_image_id: source,
            tags: tags.of("image"),
            owner: Some(call.process),
        },
    );
    Ok(Xml::children([("imageId", Xml::text(id))]))
}

fn field(image: &Image, name: &str) -> Vec<String> {
    let value = match name {
        "image-id" => &image.id,
        "name" => &image.name,
        "description" => &image.description,
        "state" => state_name(image.state),
        "owner-id" => &image.owner_id,
        "architecture" => "x86_64",
        "boot-mode" => BOOT_MODE,
        "is-public" => return vec![(image.owner_id != ACCOUNT_ID).to_string()],
        "root-device-name" => ROOT_DEVICE,
        "root-device-type" => "ebs",
        "virtualization-type" => "hvm",
        "image-type" => "machine",
        "hypervisor" => "xen",
        "ena-support" => "true",
        "creation-date" => {
            return vec![image.created.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string()];
        }
        "source-instance-id" => image.source_instance_id.as_deref().unwrap_or_default(),
        "block-device-mapping.snapshot-id" => &image.snapshot_id,
        // `owner-alias`: neither account has one.
        _ => return Vec::new(),
    };
    vec![value.to_owned()]
}

fn owned(image: &Image, owner: &str) -> bool {
    image.owner_id == if owner == "self" { ACCOUNT_ID } else { owner }
}

pub(super) fn describe(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let ids = params.texts("ImageId");
    let owners = params.texts("Owner");
    let executable_by = params.texts("ExecutableBy");
    let filters = Filters::take(&mut params, FILTERS)?;
    params.flag("IncludeDeprecated")?;
    params.flag("IncludeDisabled")?;
    let page = Page::take("DescribeImages", &mut params, !ids.is_empty())?;
    call.accept(&params)?;
    if let Some(id) = ids.iter().find(|id| !call.state.images.contains_key(id)) {
        return Err(not_found(id));
    }
    let executable = |image: &Image, who: &String| match who.as_str() {
        "all" => image.owner_id == BASE_OWNER,
        // Images that others have shared with us explicitly: none.
        "self" => false,
        account => matches(account, ACCOUNT_ID) && image.owner_id == ACCOUNT_ID,
    };
    let wanted = call.state.images.values().filter(|image| {
        (ids.is_empty() || ids.contains(&image.id))
            && (owners.is_empty() || owners.iter().any(|owner| owned(image, owner)))
            && (executable_by.is_empty() || executable_by.iter().any(|who| executable(image, who)))
            && filters.matches(&image.tags, |name| field(image, name))
    });
    let (found, token) = page.cut(wanted.collect(), |image| &image.id);
    let set = Xml::list(found.into_iter().map(|image| item(call.region, image)));
    Ok(Xml::children([("imagesSet", set)]).with_some("nextToken", token))
}

fn item(region: &str, image: &Image) -> Xml {
    let ebs = Xml::children([
        ("snapshotId", Xml::text(&image.snapshot_id)),
        ("volumeSize", Xml::text(image.size)),
        ("deleteOnTermination", Xml::text(true)),
        ("volumeType", Xml::text(&image.volume_kind)),
        ("encrypted", Xml::text(image.encrypted)),
    ]);
    let mapping = Xml::children([("deviceName", Xml::text(ROOT_DEVICE)), ("ebs", ebs)]);
    let source = image.source_image_id.as_ref();
    Xml::children([
        ("imageId", Xml::text(&image.id)),
        (
            "imageLocation",
            Xml::text(format!("{}/{}", image.owner_id, image.name)),
        ),
        ("imageState", Xml::text(state_name(image.state))),
        ("imageOwnerId", Xml::text(&image.owner_id)),
        ("creationDate", time(image.created)),
        ("isPublic", Xml::text(image.owner_id != ACCOUNT_ID)),
        ("architecture", Xml::text("x86_64")),
        ("imageType", Xml::text("machine")),
        ("name", Xml::text(&image.name)),
        ("description", Xml::text(&image.description)),
        ("rootDeviceType", Xml::text("ebs")),
        ("rootDeviceName", Xml::text(ROOT_DEVICE)),
        ("blockDeviceMapping", Xml::list([mapping])),
        ("virtualizationType", Xml::text("hvm")),
        ("hypervisor", Xml::text("xen")),
        ("enaSupport", Xml::text(true)),
        ("bootMode", Xml::text(BOOT_MODE)),
        ("platformDetails", Xml::text("Linux/UNIX")),
        ("usageOperation", Xml::text("RunInstances")),
        ("tagSet", tags::set(&image.tags)),
    ])
    .with_some(
        "stateReason",
        image.state_reason.as_ref().map(instances::reason_item),
    )
    .with_some(
        "sourceInstanceId",
        image.source_instance_id.as_ref().map(Xml::text),
    )
    .with_some("sourceImageId", source.map(Xml::text))
    .with_some("sourceImageRegion", source.map(|_| Xml::text(region)))
}

pub(super) fn deregister(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let id = params.require("ImageId")?;
    let with_snapshots = params.flag("DeleteAssociatedSnapshots")?;
    call.accept(&params)?;
    let image = call.state.images.get(&id).ok_or_else(|| not_found(&id))?;
    if image.owner_id != ACCOUNT_ID {
        return Err(
            ApiError::new("AuthFailure", format!("Not authorized for image:{id}"))
                .with_status(http::StatusCode::FORBIDDEN),
        );
    }
    let snapshot_id = image.snapshot_id.clone();
    call.state.images.remove(&id);
    let mut answer = super::done();
    if with_snapshots {
        snapshots::remove(call, &snapshot_id)?;
        let result = Xml::children([
            ("snapshotId", Xml::text(&snapshot_id)),
            ("returnCode", Xml::text("success")),
        ]);
        answer = answer.with("deleteSnapshotResultSet", Xml::list([result]));
    }
    Ok(answer)
}
