//! `RunInstances`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::super::ACCOUNT_ID;
use super::super::driver::LaunchSpec;
use super::super::engine::Call;
use super::super::state::{
    Image, Instance, InstanceState, MetadataOptions, Reason, Tags, Token, Volume,
};
use super::super::wire::error::ApiError;
use super::super::wire::query::Params;
use super::super::wire::xml::Xml;
use super::network::{self, DEFAULT_GROUP};
use super::tags::Specifications;
use super::{describe, images, invalid_value, types};

/// Addresses for machines: 172.31.1.100 to 172.31.254.100, one network each.
pub const ADDRESSES: usize = 254;
/// User data in bytes, before base64 (EC2 User Guide, "Instance user data").
const USER_DATA_LIMIT: usize = 16 * 1024;

/// What `RunInstances` was asked for.
struct Wanted {
    image: Image,
    instance_type: String,
    min: usize,
    max: usize,
    client_token: Option<String>,
    group_ids: Vec<String>,
    instance_profile: Option<String>,
    user_data: Option<String>,
    metadata: MetadataOptions,
    terminate_on_shutdown: bool,
    disable_api_termination: bool,
    volume: VolumeWanted,
    tags: Specifications,
}

/// What a block device mapping says of a root volume.
#[derive(Debug, Default)]
pub(super) struct VolumeWanted {
    pub size: Option<u64>,
    pub kind: Option<String>,
    pub delete_on_termination: Option<bool>,
}

/// Takes `BlockDeviceMapping.n`; only the root device can be mapped.
pub(super) fn take_root_volume(params: &mut Params) -> Result<VolumeWanted, ApiError> {
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
        wanted = VolumeWanted {
            size: ebs.parsed("VolumeSize")?,
            kind: ebs.take("VolumeType"),
            delete_on_termination: ebs.parsed("DeleteOnTermination")?,
        };
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

impl Wanted {
    fn take(call: &Call<'_>, params: &mut Params) -> Result<Self, ApiError> {
        let image_id = params.require("ImageId")?;
        let instance_type = params
            .take("InstanceType")
            .unwrap_or_else(|| "t3.micro".to_owned());
        let mut counts = [0_usize; 2];
        for (slot, name) in counts.iter_mut().zip(["MinCount", "MaxCount"]) {
            let value = params.require(name)?;
            *slot = value
                .parse()
                .map_err(|_| invalid_value(name, &value, "It must be a number."))?;
        }
        let [min, max] = counts;
        let mut profile = params.structure("IamInstanceProfile");
        let instance_profile = match (profile.take("Name"), profile.take("Arn")) {
            (Some(name), _) => Some(name),
            (None, Some(arn)) => arn.rsplit('/').next().map(str::to_owned),
            (None, None) => None,
        };
        profile.finish("IamInstanceProfile")?;
        let mut placement = params.structure("Placement");
        if let Some(zone) = placement
            .take("AvailabilityZone")
            .filter(|zone| *zone != network::zone(call.region))
        {
            return Err(invalid_value(
                "AvailabilityZone",
                &zone,
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
        let mut monitoring = params.structure("Monitoring");
        monitoring.flag("Enabled")?;
        monitoring.finish("Monitoring")?;
        params.flag("EbsOptimized")?;
        let (subnet, group_ids) = take_network(params)?;
        if let Some(name) = params.take("KeyName") {
            // There are none: commands reach machines through their agents.
            return Err(ApiError::new(
                "InvalidKeyPair.NotFound",
                format!("The key pair '{name}' does not exist"),
            ));
        }
        let client_token = params.take("ClientToken");
        if let Some(token) = client_token
            .as_deref()
            .filter(|token| token.len() > 64 || !token.is_ascii())
        {
            return Err(invalid_value(
                "ClientToken",
                token,
                "A token has at most 64 ASCII characters.",
            ));
        }
        let behavior = params.take("InstanceInitiatedShutdownBehavior");
        let wanted = Self {
            instance_type,
            min,
            max,
            client_token,
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
            tags: Specifications::take(params, &["instance", "volume", "network-interface"])?,
            image: images::usable(call.state, &image_id)?,
            group_ids,
        };
        params.finish("")?;
        if let Some(subnet) = subnet {
            network::check_subnet(&subnet)?;
        }
        wanted.check(call)?;
        Ok(wanted)
    }

    fn check(&self, call: &Call<'_>) -> Result<(), ApiError> {
        types::find(&self.instance_type)?;
        if self.min == 0 || self.max < self.min {
            return Err(invalid_value(
                "minCount",
                &self.min.to_string(),
                "It must be from 1 to maxCount.",
            ));
        }
        for id in &self.group_ids {
            network::check_group(call, id)?;
        }
        let least = self.image.size;
        if let Some(size) = self.volume.size.filter(|size| *size < least) {
            return Err(ApiError::new(
                "InvalidBlockDeviceMapping",
                format!(
                    "Volume of size {size}GB is smaller than snapshot '{}', expect size >= {least}GB",
                    self.image.snapshot_id
                ),
            ));
        }
        Ok(())
    }
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
        interface.parsed::<u32>("DeviceIndex")?;
        interface.flag("AssociatePublicIpAddress")?;
        interface.flag("DeleteOnTermination")?;
        subnet = interface.take("SubnetId").or(subnet);
        groups.extend(interface.texts("SecurityGroupId"));
        interface.finish("NetworkInterface.1")?;
    }
    Ok((subnet, groups))
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

pub(super) fn run(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let request = hex::encode(Sha256::digest(format!("{params:?}")));
    if let Some(answer) = repeated(call, &params, &request)? {
        return Ok(answer);
    }
    let wanted = Wanted::take(call, &mut params)?;
    call.accept(&params)?;
    let mut addresses = free_addresses(call);
    if addresses.len() < wanted.min {
        return Err(ApiError::new(
            "InstanceLimitExceeded",
            format!(
                "This host has addresses for {ADDRESSES} instances; {} are left",
                addresses.len()
            ),
        ));
    }
    addresses.truncate(wanted.max);
    let reservation = call.state.new_id("r");
    for (index, address) in addresses.into_iter().enumerate() {
        let instance = launch(call, &wanted, &reservation, index, address);
        call.state.instances.insert(instance.id.clone(), instance);
    }
    if let Some(token) = wanted.client_token {
        call.state.tokens.insert(
            token,
            Token {
                request,
                reservation_id: reservation.clone(),
            },
        );
    }
    Ok(describe::reservation(call.state, &reservation))
}

/// The answer to a request that was made before with the same client token, which lasts as long as its instances are
/// visible.
fn repeated(call: &Call<'_>, params: &Params, request: &str) -> Result<Option<Xml>, ApiError> {
    let Some(token) = params.clone().take("ClientToken") else {
        return Ok(None);
    };
    let Some(known) = call.state.tokens.get(&token) else {
        return Ok(None);
    };
    if known.request != request {
        return Err(ApiError::new(
            "IdempotentParameterMismatch",
            "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
        ));
    }
    Ok(Some(describe::reservation(
        call.state,
        &known.reservation_id,
    )))
}

/// A number that no live instance has, in the third byte.
fn free_addresses(call: &Call<'_>) -> Vec<String> {
    let live = call
        .state
        .instances
        .values()
        .filter(|one| one.state != InstanceState::Terminated);
    let taken: Vec<_> = live.map(|instance| instance.private_ip.as_str()).collect();
    let all = (1..=ADDRESSES).map(|number| format!("172.31.{number}.100"));
    all.filter(|address| !taken.contains(&address.as_str()))
        .collect()
}

fn launch(
    call: &mut Call<'_>,
    wanted: &Wanted,
    reservation: &str,
    index: usize,
    address: String,
) -> Instance {
    let tags = wanted.tags.of("instance");
    let zone = network::zone(call.region);
    let mut instance = Instance {
        id: call.state.new_id("i"),
        reservation_id: reservation.to_owned(),
        launch_index: u32::try_from(index).unwrap_or(u32::MAX),
        image_id: wanted.image.id.clone(),
        instance_type: wanted.instance_type.clone(),
        launch_time: call.now,
        state: InstanceState::Pending,
        state_reason: Some(Reason {
            code: "pending".to_owned(),
            message: "pending".to_owned(),
        }),
        transition_reason: String::new(),
        private_ip: address,
        availability_zone: zone,
        region: call.region.to_owned(),
        group_ids: match wanted.group_ids.as_slice() {
            [] => vec![DEFAULT_GROUP.to_owned()],
            ids => ids.to_vec(),
        },
        instance_profile: wanted.instance_profile.clone(),
        client_token: wanted.client_token.clone(),
        metadata: wanted.metadata.clone(),
        terminate_on_shutdown: wanted.terminate_on_shutdown,
        disable_api_termination: wanted.disable_api_termination,
        interface_id: call.state.new_id("eni"),
        volume: Volume {
            id: call.state.new_id("vol"),
            size: wanted.volume.size.unwrap_or(wanted.image.size),
            kind: wanted
                .volume
                .kind
                .clone()
                .unwrap_or_else(|| wanted.image.volume_kind.clone()),
            delete_on_termination: wanted.volume.delete_on_termination.unwrap_or(true),
            tags: wanted.tags.of("volume"),
        },
        tags,
        agent_registered: false,
        agent_online_since: None,
        terminated_at: None,
        owner: call.process,
    };
    if let Err(error) = call.driver.launch(&spec(&instance, wanted)) {
        // As on AWS, the call succeeds and the instance is terminated with the reason.
        let why = Reason {
            code: "Server.InternalError".to_owned(),
            message: format!("Server.InternalError: {error}"),
        };
        super::lifecycle::set_state(
            &mut instance,
            InstanceState::Terminated,
            Some(why),
            call.now,
        );
    }
    instance
}

fn spec(instance: &Instance, wanted: &Wanted) -> LaunchSpec {
    LaunchSpec {
        instance_id: instance.id.clone(),
        snapshot_id: wanted.image.snapshot_id.clone(),
        image_id: instance.image_id.clone(),
        instance_type: instance.instance_type.clone(),
        region: instance.region.clone(),
        availability_zone: instance.availability_zone.clone(),
        private_ip: instance.private_ip.clone(),
        account_id: ACCOUNT_ID.to_owned(),
        user_data: wanted.user_data.clone(),
        imds_tokens_required: instance.metadata.tokens_required,
        imds_hop_limit: instance.metadata.hop_limit,
        metadata_tags: if instance.metadata.tags_enabled {
            instance.tags.clone()
        } else {
            Tags::new()
        },
        instance_profile: instance.instance_profile.clone(),
        terminate_on_shutdown: instance.terminate_on_shutdown,
    }
}
