//! `RunInstances`, and launches by other services.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::super::ACCOUNT_ID;
use super::super::driver::LaunchSpec;
use super::super::engine::Call;
use super::super::quotas;
use super::super::state::{
    Image, Instance, InstanceState, Process, Reason, Spot, State, Tags, Token, Volume,
};
use super::super::wire::error::ApiError;
use super::super::wire::query::Params;
use super::super::wire::xml::Xml;
use super::launch_templates::{self, Reference};
use super::network::{Place, default_group_id};
use super::settings::Settings;
use super::{describe, invalid_value};

/// Instances to launch.
#[derive(Debug)]
pub struct Order {
    pub settings: Settings,
    /// Tags besides those of the settings; of the same key, these count.
    pub tags: Tags,
    pub min: usize,
    pub max: usize,
    pub client_token: Option<String>,
    /// The process that wants them; `None`: a service, which looks after them itself.
    pub owner: Option<Process>,
}

pub(super) fn run(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let request = hex::encode(Sha256::digest(format!("{params:?}")));
    if let Some(answer) = repeated(call, &params, &request)? {
        call.unless_dry()?;
        return Ok(answer);
    }
    let order = take_order(call, &mut params)?;
    call.accept(&params)?;
    let token = order.client_token.clone();
    let reservation = launch(call, &order)?;
    if let Some(token) = token {
        call.state.tokens.insert(
            token,
            Token {
                request,
                made: reservation.clone(),
            },
        );
    }
    Ok(describe::reservation(call.state, &reservation))
}

fn take_order(call: &Call<'_>, params: &mut Params) -> Result<Order, ApiError> {
    let mut counts = [0_usize; 2];
    for (slot, name) in counts.iter_mut().zip(["MinCount", "MaxCount"]) {
        let value = params.require(name)?;
        *slot = value
            .parse()
            .map_err(|_| invalid_value(name, &value, "It must be a number."))?;
    }
    let [min, max] = counts;
    if min == 0 || max < min {
        let why = "It must be from 1 to maxCount.";
        return Err(invalid_value("minCount", &min.to_string(), why));
    }
    let client_token = params.take("ClientToken");
    if let Some(token) = client_token
        .as_deref()
        .filter(|token| token.len() > 64 || !token.is_ascii())
    {
        let why = "A token has at most 64 ASCII characters.";
        return Err(invalid_value("ClientToken", token, why));
    }
    let mut template = params.structure("LaunchTemplate");
    let reference = Reference::take(&mut template)?;
    template.finish("LaunchTemplate")?;
    let mut tags = Tags::new();
    if let Some(reference) = reference {
        let found = launch_templates::resolve(call.state, &reference)?;
        params.inherit(&found.parameters);
        tags = found.system_tags();
    }
    Ok(Order {
        settings: Settings::take(call.region, params)?,
        tags,
        min,
        max,
        client_token,
        owner: Some(call.process),
    })
}

/// Launches between `min` and `max` instances; gives their reservation's id.
///
/// # Errors
/// As `RunInstances` refuses it; nothing has been launched then.
pub fn launch(call: &mut Call<'_>, order: &Order) -> Result<String, ApiError> {
    let image = order.settings.check(call)?;
    let place = order.settings.place(call.region)?;
    let zone = place.zone(call.region);
    // A server error (EC2 API Reference, "Server error codes"): clients try it again.
    call.driver
        .capacity(&zone, &order.settings.instance_type)
        .map_err(|error| {
            ApiError::new("InsufficientInstanceCapacity", error.message)
                .with_status(http::StatusCode::INTERNAL_SERVER_ERROR)
        })?;
    let mut addresses = free_addresses(call.state, place);
    if addresses.len() < order.min {
        return Err(ApiError::new(
            "InsufficientFreeAddressesInSubnet",
            format!(
                "There are not enough free addresses in subnet '{}' to satisfy the requested number of instances.",
                place.subnet(call.region)
            ),
        ));
    }
    let room = quotas::room(call, &order.settings)?;
    if room < order.min {
        return Err(quotas::exceeded(call, order.settings.spot));
    }
    addresses.truncate(order.max.min(room));
    let reservation = call.state.new_id("r");
    for (index, address) in addresses.into_iter().enumerate() {
        let place = (place, address);
        let instance = launch_one(call, order, &image, &reservation, index, place);
        call.state.instances.insert(instance.id.clone(), instance);
    }
    Ok(reservation)
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
    Ok(Some(describe::reservation(call.state, &known.made)))
}

/// Addresses in a place that no live instance has.
pub(super) fn free_addresses(state: &State, place: &Place) -> Vec<String> {
    let live = state
        .instances
        .values()
        .filter(|one| one.state != InstanceState::Terminated);
    let taken: BTreeSet<_> = live.map(|instance| instance.private_ip.as_str()).collect();
    let all = place.numbers.clone();
    let all = all.map(|number| format!("172.31.{number}.100"));
    all.filter(|address| !taken.contains(address.as_str()))
        .collect()
}

fn launch_one(
    call: &mut Call<'_>,
    order: &Order,
    image: &Image,
    reservation: &str,
    index: usize,
    (place, address): (&Place, String),
) -> Instance {
    let wanted = &order.settings;
    let mut tags = wanted.tags.of("instance");
    tags.extend(order.tags.clone());
    let mut instance = Instance {
        id: call.state.new_id("i"),
        reservation_id: reservation.to_owned(),
        launch_index: u32::try_from(index).unwrap_or(u32::MAX),
        image_id: image.id.clone(),
        instance_type: wanted.instance_type.clone(),
        launch_time: call.now,
        first_launch: None,
        state: InstanceState::Pending,
        state_reason: Some(Reason {
            code: "pending".to_owned(),
            message: "pending".to_owned(),
        }),
        transition_reason: String::new(),
        private_ip: address,
        availability_zone: place.zone(call.region),
        region: call.region.to_owned(),
        group_ids: match wanted.group_ids.as_slice() {
            [] => vec![default_group_id(call.region)],
            ids => ids.to_vec(),
        },
        instance_profile: wanted.instance_profile.clone(),
        client_token: order.client_token.clone(),
        metadata: wanted.metadata.clone(),
        terminate_on_shutdown: wanted.terminate_on_shutdown,
        disable_api_termination: wanted.disable_api_termination,
        interface_id: call.state.new_id("eni"),
        interface_tags: wanted.tags.of("network-interface"),
        monitored: wanted.monitored,
        ebs_optimized: wanted.ebs_optimized,
        volume: Volume {
            id: call.state.new_id("vol"),
            size: wanted.volume.size.unwrap_or(image.size),
            kind: wanted
                .volume
                .kind
                .clone()
                .unwrap_or_else(|| image.volume_kind.clone()),
            encrypted: image.encrypted || wanted.volume.encrypted == Some(true),
            delete_on_termination: true,
            tags: wanted.tags.of("volume"),
        },
        tags,
        agent_registered: false,
        agent_online_since: None,
        terminated_at: None,
        spot: None,
        owner: order.owner,
    };
    if wanted.spot {
        let zone = instance.availability_zone.clone();
        let tags = wanted.tags.of("spot-instances-request");
        instance.spot = Some(Spot::new(call, &zone, &instance.instance_type, tags));
    }
    if let Err(error) = call.driver.launch(&spec(&instance, image, wanted)) {
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

fn spec(instance: &Instance, image: &Image, wanted: &Settings) -> LaunchSpec {
    LaunchSpec {
        instance_id: instance.id.clone(),
        snapshot_id: image.snapshot_id.clone(),
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
        spot: instance.spot.is_some(),
        silent: false,
    }
}
