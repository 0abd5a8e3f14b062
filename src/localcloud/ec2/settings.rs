//! What an instance is launched with: the parameters that `RunInstances` and launch templates share.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::ACCOUNT_ID;
use super::super::engine::Call;
use super::super::state::{Image, MetadataOptions};
use super::super::wire::error::ApiError;
use super::super::wire::query::Params;
use super::network::{self, PLACES, Place};
use super::tags::Specifications;
use super::{images, invalid_value, spot, types};

/// User data in bytes, before base64 (EC2 User Guide, "Instance user data").
const USER_DATA_LIMIT: usize = 16 * 1024;
/// The instance type of a launch that names none. AWS documents `m1.small`, which machines here do not have.
const DEFAULT_TYPE: &str = "t3.micro";

/// What a launch makes that has tags (EC2 API Reference, `RunInstances`, `TagSpecification`).
const TAGGED: [&str; 4] = [
    "instance",
    "volume",
    "network-interface",
    "spot-instances-request",
];

/// Settings as they were given; whether what they name exists is another matter.
#[derive(Debug)]
pub struct Settings {
    pub image_id: Option<String>,
    pub instance_type: String,
    pub subnet: Option<String>,
    pub zone: Option<String>,
    pub group_ids: Vec<String>,
    pub instance_profile: Option<String>,
    pub user_data: Option<String>,
    pub metadata: MetadataOptions,
    pub terminate_on_shutdown: bool,
    pub disable_api_termination: bool,
    pub volume: VolumeWanted,
    /// Detailed monitoring.
    pub monitored: bool,
    pub ebs_optimized: bool,
    pub tags: Specifications,
    /// Spot Instances are asked for.
    pub spot: bool,
}

/// What a block device mapping says of a root volume.
#[derive(Debug, Default)]
pub struct VolumeWanted {
    pub size: Option<u64>,
    pub kind: Option<String>,
    pub encrypted: Option<bool>,
}

/// Takes `BlockDeviceMapping.n`; only the root device can be mapped.
pub fn take_root_volume(params: &mut Params) -> Result<VolumeWanted, ApiError> {
    let mut wanted = VolumeWanted::default();
    for (index, mut mapping) in params
        .structures("BlockDeviceMapping")
        .into_iter()
        .enumerate()
    {
        let device = mapping.require("DeviceName")?;
        let mut ebs = mapping.structure("Ebs");
        mapping.finish(&format!("BlockDeviceMapping.{}", index + 1))?;
        if device != images::ROOT_DEVICE {
            return Err(ApiError::new(
                "InvalidBlockDeviceMapping",
                format!(
                    "Invalid device name {device}: machines here have {} only",
                    images::ROOT_DEVICE
                ),
            ));
        }
        if index > 0 {
            return Err(ApiError::new(
                "InvalidBlockDeviceMapping",
                format!("The device {device} is mapped more than once."),
            ));
        }
        wanted = VolumeWanted {
            size: ebs.parsed("VolumeSize")?,
            kind: ebs.take("VolumeType"),
            encrypted: ebs.parsed("Encrypted")?,
        };
        if ebs.parsed("DeleteOnTermination")? == Some(false) {
            let why = "No volume here outlives its instance.";
            return Err(invalid_value("Ebs.DeleteOnTermination", "false", why));
        }
        if let Some(kind) = wanted
            .kind
            .as_deref()
            .filter(|kind| !matches!(*kind, "gp2" | "gp3"))
        {
            return Err(invalid_value(
                "VolumeType",
                kind,
                "The local cloud has gp2 and gp3.",
            ));
        }
        ebs.finish(&format!("BlockDeviceMapping.{}.Ebs", index + 1))?;
    }
    Ok(wanted)
}

impl Settings {
    /// Takes the parameters; those that are no settings of an instance stay.
    ///
    /// # Errors
    /// A value that no machine here could have.
    pub fn take(region: &str, params: &mut Params) -> Result<Self, ApiError> {
        let instance_profile = take_profile(params)?;
        let zone = take_placement(region, params)?;
        let mut monitoring = params.structure("Monitoring");
        let monitored = monitoring.flag("Enabled")?;
        monitoring.finish("Monitoring")?;
        let (subnet, group_ids) = take_network(params)?;
        if let Some(name) = params.take("KeyName") {
            // There are none: commands reach machines through their agents.
            return Err(ApiError::new(
                "InvalidKeyPair.NotFound",
                format!("The key pair '{name}' does not exist"),
            ));
        }
        let behavior = params.take("InstanceInitiatedShutdownBehavior");
        Ok(Self {
            image_id: params.take("ImageId").filter(|id| !id.is_empty()),
            instance_type: params
                .take("InstanceType")
                .unwrap_or_else(|| DEFAULT_TYPE.to_owned()),
            subnet,
            zone,
            group_ids,
            instance_profile,
            user_data: take_user_data(params)?,
            metadata: take_metadata(params)?,
            terminate_on_shutdown: match behavior.as_deref() {
                None | Some("stop") => false,
                Some("terminate") => true,
                Some(other) => {
                    return Err(invalid_value(
                        "InstanceInitiatedShutdownBehavior",
                        other,
                        "",
                    ));
                }
            },
            disable_api_termination: params.flag("DisableApiTermination")?,
            volume: take_root_volume(params)?,
            monitored,
            ebs_optimized: params.flag("EbsOptimized")?,
            tags: Specifications::take(params, &TAGGED)?,
            spot: spot::take(params)?,
        })
    }

    /// Where the instances go: the subnet's zone, the zone, or else the first one.
    ///
    /// # Errors
    /// The subnet does not exist, or is in another zone than the one named.
    pub fn place(&self, region: &str) -> Result<&'static Place, ApiError> {
        let by_zone = self
            .zone
            .as_deref()
            .and_then(|zone| Place::of_zone(region, zone));
        let Some(subnet) = &self.subnet else {
            return Ok(by_zone.unwrap_or(&PLACES[0]));
        };
        let place = Place::of_subnet(region, subnet)?;
        match by_zone.filter(|other| *other != place) {
            Some(other) => Err(invalid_value(
                "availabilityZone",
                &other.zone(region),
                &format!(
                    "The subnet '{subnet}' is in the availability zone {}",
                    place.zone(region)
                ),
            )),
            None => Ok(place),
        }
    }

    /// Checks that everything named exists and fits together; gives the image.
    ///
    /// # Errors
    /// As `RunInstances` refuses it.
    pub fn check(&self, call: &Call<'_>) -> Result<Image, ApiError> {
        let image_id = self.image_id.as_deref().ok_or_else(|| {
            ApiError::new(
                "MissingParameter",
                "The request must contain the parameter ImageId",
            )
        })?;
        let image_id = images::resolve(call.state, image_id)?;
        let image = images::usable(call.state, &image_id)?;
        types::find(&self.instance_type)?;
        self.place(call.region)?;
        for id in &self.group_ids {
            network::check_group(call, id)?;
        }
        let least = image.size;
        if let Some(size) = self.volume.size.filter(|size| *size < least) {
            return Err(ApiError::new(
                "InvalidBlockDeviceMapping",
                format!(
                    "Volume of size {size}GB is smaller than snapshot '{}', expect size >= {least}GB",
                    image.snapshot_id
                ),
            ));
        }
        if image.encrypted && self.volume.encrypted == Some(false) {
            let why = "A volume of an encrypted snapshot is encrypted.";
            return Err(invalid_value("Ebs.Encrypted", "false", why));
        }
        Ok(image)
    }
}

/// The name of an instance profile, which can be given by its ARN.
fn take_profile(params: &mut Params) -> Result<Option<String>, ApiError> {
    let mut profile = params.structure("IamInstanceProfile");
    let (name, arn) = (profile.take("Name"), profile.take("Arn"));
    profile.finish("IamInstanceProfile")?;
    let Some(arn) = arn else { return Ok(name) };
    if name.is_some() {
        return Err(ApiError::new(
            "InvalidParameterCombination",
            "IamInstanceProfile.Name cannot be used together with IamInstanceProfile.Arn.",
        ));
    }
    let prefix = format!("arn:aws:iam::{ACCOUNT_ID}:instance-profile/");
    let name = arn.strip_prefix(&prefix);
    // A path would be lost: machines know profiles by name.
    let name = name.filter(|name| !name.is_empty() && !name.contains('/'));
    let why = format!("Instance profiles here have ARNs of the form {prefix}NAME.");
    name.map(|name| Some(name.to_owned()))
        .ok_or_else(|| invalid_value("IamInstanceProfile.Arn", &arn, &why))
}

/// The zone that is asked for.
fn take_placement(region: &str, params: &mut Params) -> Result<Option<String>, ApiError> {
    let mut placement = params.structure("Placement");
    let zone = placement.take("AvailabilityZone");
    if let Some(other) = zone
        .as_deref()
        .filter(|zone| Place::of_zone(region, zone).is_none())
    {
        return Err(invalid_value(
            "AvailabilityZone",
            other,
            "The zone does not exist.",
        ));
    }
    if let Some(tenancy) = placement
        .take("Tenancy")
        .filter(|tenancy| tenancy != "default")
    {
        return Err(invalid_value(
            "Tenancy",
            &tenancy,
            "The local cloud has the default only.",
        ));
    }
    placement.finish("Placement")?;
    Ok(zone)
}

/// Subnet and security groups, from the request or from its one network interface.
fn take_network(params: &mut Params) -> Result<(Option<String>, Vec<String>), ApiError> {
    let mut subnet = params.take("SubnetId");
    let mut groups = params.texts("SecurityGroupId");
    for (index, mut interface) in params
        .structures("NetworkInterface")
        .into_iter()
        .enumerate()
    {
        if index > 0 {
            return Err(ApiError::new(
                "InvalidParameterValue",
                "Machines here have one network interface.",
            ));
        }
        let outside = [
            ("SubnetId", subnet.is_some()),
            ("SecurityGroupId", !groups.is_empty()),
        ];
        if let Some((given, _)) = outside.iter().find(|(_, given)| *given) {
            return Err(ApiError::new(
                "InvalidParameterCombination",
                format!(
                    "{given} is that of the network interface where there is one; give NetworkInterface.1.{given}."
                ),
            ));
        }
        check_interface(&mut interface)?;
        subnet = interface.take("SubnetId");
        groups = interface.texts("SecurityGroupId");
        interface.finish("NetworkInterface.1")?;
    }
    Ok((subnet, groups))
}

/// Takes what machines have one value of each for, and refuses the others.
fn check_interface(interface: &mut Params) -> Result<(), ApiError> {
    let refused = |name: &str, value: &str, why: &str| {
        Err(invalid_value(
            &format!("NetworkInterface.1.{name}"),
            value,
            why,
        ))
    };
    let index = interface.parsed::<u32>("DeviceIndex")?;
    if let Some(index) = index.filter(|index| *index != 0) {
        let why = "Machines here have one network interface, whose device index is 0.";
        return refused("DeviceIndex", &index.to_string(), why);
    }
    if interface.flag("AssociatePublicIpAddress")? {
        let why = "The local cloud has no public addresses.";
        return refused("AssociatePublicIpAddress", "true", why);
    }
    if interface.parsed("DeleteOnTermination")? == Some(false) {
        let why = "No network interface here outlives its instance.";
        return refused("DeleteOnTermination", "false", why);
    }
    Ok(())
}

fn take_user_data(params: &mut Params) -> Result<Option<String>, ApiError> {
    let Some(encoded) = params.take("UserData").filter(|data| !data.is_empty()) else {
        return Ok(None);
    };
    let malformed = || {
        ApiError::new(
            "InvalidUserData.Malformed",
            "Invalid BASE64 encoding of user data.",
        )
    };
    let data = STANDARD.decode(encoded.trim()).map_err(|_| malformed())?;
    if data.len() > USER_DATA_LIMIT {
        return Err(ApiError::new(
            "InvalidParameterValue",
            "User data is limited to 16384 bytes",
        ));
    }
    String::from_utf8(data).map(Some).map_err(|_| {
        ApiError::new(
            "InvalidUserData.Malformed",
            "The local cloud takes user data that is UTF-8 text.",
        )
    })
}

/// Whether a parameter with two values has the second; the first is the default.
fn switch(options: &mut Params, name: &str, values: [&str; 2]) -> Result<bool, ApiError> {
    match options.take(name) {
        None => Ok(false),
        Some(value) if values.contains(&value.as_str()) => Ok(value == values[1]),
        Some(value) => Err(invalid_value(
            name,
            &value,
            &format!("It must be {} or {}.", values[0], values[1]),
        )),
    }
}

fn take_metadata(params: &mut Params) -> Result<MetadataOptions, ApiError> {
    let mut options = params.structure("MetadataOptions");
    let tokens_required = switch(&mut options, "HttpTokens", ["optional", "required"])?;
    let hop_limit = options
        .parsed::<u8>("HttpPutResponseHopLimit")?
        .unwrap_or(1);
    let tags_enabled = switch(
        &mut options,
        "InstanceMetadataTags",
        ["disabled", "enabled"],
    )?;
    if let Some(endpoint) = options
        .take("HttpEndpoint")
        .filter(|endpoint| endpoint != "enabled")
    {
        return Err(invalid_value(
            "HttpEndpoint",
            &endpoint,
            "Machines here always have the endpoint.",
        ));
    }
    options.finish("MetadataOptions")?;
    if !(1..=64).contains(&hop_limit) {
        return Err(invalid_value(
            "HttpPutResponseHopLimit",
            &hop_limit.to_string(),
            "It must be from 1 to 64.",
        ));
    }
    Ok(MetadataOptions {
        tokens_required,
        hop_limit,
        tags_enabled,
    })
}
