//! Spot Instances: one-time requests that end with their instances (EC2 User Guide, "Spot Instances").
//!
//! Machines here cost nothing, so there is no price. What takes a Spot Instance away is the script of faults.

use jiff::Timestamp;

use super::super::driver::Driver;
use super::super::engine::Call;
use super::super::state::{Instance, InstanceState, Reason, Spot, State, Tags};
use super::super::wire::error::ApiError;
use super::super::wire::query::Params;
use super::super::wire::xml::Xml;
use super::filters::{Filters, Page};
use super::lifecycle::set_state;
use super::{invalid_value, is_id, tags, time};

/// Code of the reason of an instance that EC2 has taken back (EC2 API Reference, `StateReason`).
pub const INTERRUPTED: &str = "Server.SpotInstanceTermination";

/// Takes `InstanceMarketOptions`: whether Spot Instances are asked for.
///
/// # Errors
/// A market or an option that machines here do not have.
pub fn take(params: &mut Params) -> Result<bool, ApiError> {
    let mut options = params.structure("InstanceMarketOptions");
    let market = options.take("MarketType");
    let mut spot = options.structure("SpotOptions");
    options.finish("InstanceMarketOptions")?;
    let only = |spot: &mut Params, name: &str, value: &str, why: &str| match spot.take(name) {
        Some(other) if other != value => Err(invalid_value(name, &other, why)),
        Some(_) | None => Ok(()),
    };
    let given = spot != Params::default();
    only(
        &mut spot,
        "SpotInstanceType",
        "one-time",
        "Persistent requests work with the interruption behaviors hibernate and stop only, which the local cloud has not.",
    )?;
    only(
        &mut spot,
        "InstanceInterruptionBehavior",
        "terminate",
        "The local cloud has terminate only.",
    )?;
    if let Some(price) = spot.take("MaxPrice") {
        let why = "The local cloud has no Spot price.";
        return Err(invalid_value("MaxPrice", &price, why));
    }
    // `BlockDurationMinutes` is over (EC2 API Reference, `SpotMarketOptions`), `ValidUntil` is for persistent requests.
    spot.finish("InstanceMarketOptions.SpotOptions")?;
    match market.as_deref() {
        Some("spot") => Ok(true),
        None | Some("on-demand") if !given => Ok(false),
        None | Some("on-demand") => Err(ApiError::new(
            "InvalidParameterCombination",
            "SpotOptions are for MarketType spot.",
        )),
        Some(other) => {
            let why = "The local cloud has on-demand and spot.";
            Err(invalid_value("MarketType", other, why))
        }
    }
}

impl Spot {
    /// A request of this moment that is fulfilled at once.
    pub(super) fn new(call: &mut Call<'_>, zone: &str, instance_type: &str, tags: Tags) -> Self {
        // Eight digits, as EC2's own.
        let request_id = call.state.new_id("sir")[..12].to_owned();
        let reclaim = call.driver.reclaim(zone, instance_type);
        let notice_at = reclaim.and_then(|one| call.now.checked_add(one.after).ok());
        let ends_at = reclaim.and_then(|one| notice_at?.checked_add(one.notice).ok());
        Self {
            request_id,
            tags,
            notice_at,
            ends_at,
            noticed: false,
        }
    }
}

/// Tells a machine that it will be taken back, and takes it back, when it is time.
pub fn interrupt(instance: &mut Instance, driver: &dyn Driver, now: Timestamp) {
    let Some(spot) = &mut instance.spot else {
        return;
    };
    let (Some(notice_at), Some(ends_at)) = (spot.notice_at, spot.ends_at) else {
        return;
    };
    if instance.state.is_ending() {
        return;
    }
    if !spot.noticed && now >= notice_at {
        // One that could not be told is tried again at the next look.
        spot.noticed = driver.notice(&instance.id, ends_at).is_ok();
    }
    if now >= ends_at && driver.shut_down(&instance.id).is_ok() {
        let why = Reason {
            code: INTERRUPTED.to_owned(),
            message: format!("{INTERRUPTED}: Spot instance termination"),
        };
        set_state(instance, InstanceState::ShuttingDown, Some(why), now);
    }
}

/// State, code and message of a request (EC2 User Guide, "Spot Instance request status").
fn status(instance: &Instance, spot: &Spot) -> (&'static str, &'static str, &'static str) {
    let reason = instance.state_reason.as_ref().map(|one| one.code.as_str());
    match (instance.state.is_ending(), reason) {
        (false, _) if spot.noticed => (
            "active",
            "marked-for-termination",
            "The Spot Instance is marked for termination.",
        ),
        (false, _) => ("active", "fulfilled", "Your Spot request is fulfilled."),
        (true, Some(INTERRUPTED)) => (
            "closed",
            "instance-terminated-no-capacity",
            "Your Spot Instance was terminated because there is no Spot capacity available that matches your request.",
        ),
        (true, Some(code)) if code.starts_with("Server.") => (
            "closed",
            "instance-terminated-by-service",
            "Your Spot Instance was terminated by the service.",
        ),
        (true, _) => (
            "closed",
            "instance-terminated-by-user",
            "Spot Instance terminated due to user-initiated termination.",
        ),
    }
}

/// All requests, each with the instance that fulfils it.
pub(super) fn requests(state: &State) -> impl Iterator<Item = (&Instance, &Spot)> {
    let all = state.instances.values();
    all.filter_map(|instance| Some((instance, instance.spot.as_ref()?)))
}

pub(super) fn describe(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let ids = params.texts("SpotInstanceRequestId");
    let known = [
        "spot-instance-request-id",
        "instance-id",
        "state",
        "status-code",
        "type",
        "launched-availability-zone",
        "launch.image-id",
        "launch.instance-type",
    ];
    let filters = Filters::take(&mut params, &known)?;
    let page = Page::take("DescribeSpotInstanceRequests", &mut params, !ids.is_empty())?;
    call.accept(&params)?;
    for id in &ids {
        if !is_id("sir", id) {
            return Err(ApiError::new(
                "InvalidSpotInstanceRequestID.Malformed",
                format!("The spot instance request ID '{id}' is malformed"),
            ));
        }
        if !requests(call.state).any(|(_, spot)| spot.request_id == *id) {
            return Err(ApiError::new(
                "InvalidSpotInstanceRequestID.NotFound",
                format!("The spot instance request ID '{id}' does not exist"),
            ));
        }
    }
    let mut wanted: Vec<_> = requests(call.state)
        .filter(|(instance, spot)| {
            let (state, code, _) = status(instance, spot);
            (ids.is_empty() || ids.contains(&spot.request_id))
                && filters.matches(&spot.tags, |field| {
                    let value = match field {
                        "spot-instance-request-id" => &spot.request_id,
                        "instance-id" => &instance.id,
                        "state" => state,
                        "status-code" => code,
                        "type" => "one-time",
                        "launched-availability-zone" => &instance.availability_zone,
                        "launch.image-id" => &instance.image_id,
                        _ => &instance.instance_type,
                    };
                    vec![value.to_owned()]
                })
        })
        .collect();
    wanted.sort_by(|a, b| a.1.request_id.cmp(&b.1.request_id));
    let (found, token) = page.cut(wanted, |(_, spot)| &spot.request_id);
    let set = Xml::list(
        found
            .into_iter()
            .map(|(instance, spot)| item(instance, spot)),
    );
    Ok(Xml::children([("spotInstanceRequestSet", set)]).with_some("nextToken", token))
}

fn item(instance: &Instance, spot: &Spot) -> Xml {
    let (state, code, message) = status(instance, spot);
    let marked = spot.notice_at.filter(|_| spot.noticed);
    let updated = instance
        .terminated_at
        .or(marked)
        .unwrap_or(instance.launch_time);
    let launch = Xml::children([
        ("imageId", Xml::text(&instance.image_id)),
        ("instanceType", Xml::text(&instance.instance_type)),
    ]);
    let status = Xml::children([
        ("code", Xml::text(code)),
        ("message", Xml::text(message)),
        ("updateTime", time(updated)),
    ]);
    Xml::children([
        ("spotInstanceRequestId", Xml::text(&spot.request_id)),
        ("type", Xml::text("one-time")),
        ("state", Xml::text(state)),
        ("status", status),
        ("instanceId", Xml::text(&instance.id)),
        ("launchSpecification", launch),
        (
            "launchedAvailabilityZone",
            Xml::text(&instance.availability_zone),
        ),
        ("createTime", time(instance.launch_time)),
        ("productDescription", Xml::text("Linux/UNIX")),
        ("instanceInterruptionBehavior", Xml::text("terminate")),
        ("tagSet", tags::set(&spot.tags)),
    ])
}
