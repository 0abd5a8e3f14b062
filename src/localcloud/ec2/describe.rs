//! Instances as `DescribeInstances` and its kin show them.

use std::collections::BTreeMap;

use super::super::engine::Call;
use super::super::state::{Instance, InstanceState, Reason, Spot, State};
use super::super::wire::error::ApiError;
use super::super::wire::query::Params;
use super::super::wire::xml::Xml;
use super::super::{ACCOUNT_ID, regions};
use super::filters::{Filters, Page};
use super::network::{Place, vpc};
use super::{images, is_id, tags, time};

const FILTERS: &[&str] = &[
    "instance-id",
    "image-id",
    "instance-type",
    "instance-state-name",
    "instance-state-code",
    "client-token",
    "private-ip-address",
    "availability-zone",
    "reservation-id",
    "vpc-id",
    "subnet-id",
    "instance.group-id",
    "group-id",
    "owner-id",
    "architecture",
    "root-device-name",
    "key-name",
    "dns-name",
    "private-dns-name",
    "instance-lifecycle",
    "spot-instance-request-id",
];

fn field(instance: &Instance, name: &str) -> Vec<String> {
    let (code, state) = instance.state.code_and_name();
    let value = match name {
        "instance-id" => &instance.id,
        "image-id" => &instance.image_id,
        "instance-type" => &instance.instance_type,
        "instance-state-name" => state,
        "instance-state-code" => return vec![code.to_string()],
        "client-token" => instance.client_token.as_deref().unwrap_or_default(),
        "private-ip-address" => &instance.private_ip,
        "availability-zone" => &instance.availability_zone,
        "reservation-id" => &instance.reservation_id,
        "vpc-id" => return vec![vpc(&instance.region)],
        "subnet-id" => return vec![subnet(instance)],
        "instance.group-id" | "group-id" => return instance.group_ids.clone(),
        "owner-id" => ACCOUNT_ID,
        "architecture" => "x86_64",
        "root-device-name" => images::ROOT_DEVICE,
        "private-dns-name" => return vec![dns_name(instance)],
        // An on-demand one has neither.
        "instance-lifecycle" | "spot-instance-request-id" => {
            let spot = instance.spot.iter();
            let value = |spot: &Spot| match name {
                "instance-lifecycle" => "spot".to_owned(),
                _ => spot.request_id.clone(),
            };
            return spot.map(value).collect();
        }
        _ => "",
    };
    vec![value.to_owned()]
}

fn dns_name(instance: &Instance) -> String {
    let domain = regions::private_domain(&instance.region);
    format!("ip-{}.{domain}", instance.private_ip.replace('.', "-"))
}

fn subnet(instance: &Instance) -> String {
    Place::of(instance).subnet(&instance.region)
}

/// The instances with these ids, in this order.
///
/// # Errors
/// `InvalidInstanceID.Malformed` or `InvalidInstanceID.NotFound` that names all that are missing.
pub fn check_ids(state: &State, ids: &[String]) -> Result<(), ApiError> {
    if let Some(id) = ids.iter().find(|id| !is_id("i", id)) {
        return Err(ApiError::new(
            "InvalidInstanceID.Malformed",
            format!("Invalid id: \"{id}\""),
        ));
    }
    let missing: Vec<_> = ids
        .iter()
        .filter(|id| !state.instances.contains_key(id))
        .map(String::as_str)
        .collect();
    match missing.as_slice() {
        [] => Ok(()),
        [id] => Err(ApiError::new(
            "InvalidInstanceID.NotFound",
            format!("The instance ID '{id}' does not exist"),
        )),
        several => Err(ApiError::new(
            "InvalidInstanceID.NotFound",
            format!("The instance IDs '{}' do not exist", several.join(", ")),
        )),
    }
}

pub(super) fn instances(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let ids = params.texts("InstanceId");
    let filters = Filters::take(&mut params, FILTERS)?;
    let page = Page::take("DescribeInstances", &mut params, !ids.is_empty())?;
    call.accept(&params)?;
    check_ids(call.state, &ids)?;
    let wanted = call.state.instances.values().filter(|instance| {
        (ids.is_empty() || ids.contains(&instance.id))
            && filters.matches(&instance.tags, |name| field(instance, name))
    });
    let (found, token) = page.cut(wanted.collect(), |instance| &instance.id);
    let mut reservations: BTreeMap<&str, Vec<&Instance>> = BTreeMap::new();
    for instance in found {
        reservations
            .entry(&instance.reservation_id)
            .or_default()
            .push(instance);
    }
    let set = reservations
        .into_iter()
        .map(|(id, members)| reservation_of(call.state, id, &members));
    Ok(Xml::children([("reservationSet", Xml::list(set))]).with_some("nextToken", token))
}

/// One reservation with all its instances.
pub fn reservation(state: &State, id: &str) -> Xml {
    let mut members: Vec<_> = state
        .instances
        .values()
        .filter(|instance| instance.reservation_id == id)
        .collect();
    members.sort_by_key(|instance| instance.launch_index);
    reservation_of(state, id, &members)
}

fn reservation_of(state: &State, id: &str, members: &[&Instance]) -> Xml {
    Xml::children([
        ("reservationId", Xml::text(id)),
        ("ownerId", Xml::text(ACCOUNT_ID)),
        ("groupSet", Xml::list([])),
        (
            "instancesSet",
            Xml::list(members.iter().map(|instance| item(state, instance))),
        ),
    ])
}

/// `instanceState`, `currentState`, `previousState`.
pub fn state_item(state: InstanceState) -> Xml {
    let (code, name) = state.code_and_name();
    Xml::children([("code", Xml::text(code)), ("name", Xml::text(name))])
}

/// `stateReason`.
pub fn reason_item(reason: &Reason) -> Xml {
    Xml::children([
        ("code", Xml::text(&reason.code)),
        ("message", Xml::text(&reason.message)),
    ])
}

fn item(state: &State, instance: &Instance) -> Xml {
    let base = Xml::children([
        ("instanceId", Xml::text(&instance.id)),
        ("imageId", Xml::text(&instance.image_id)),
        ("instanceState", state_item(instance.state)),
        ("reason", Xml::text(&instance.transition_reason)),
        ("amiLaunchIndex", Xml::text(instance.launch_index)),
        ("instanceType", Xml::text(&instance.instance_type)),
        ("launchTime", time(instance.launch_time)),
        (
            "placement",
            Xml::children([
                ("availabilityZone", Xml::text(&instance.availability_zone)),
                ("tenancy", Xml::text("default")),
            ]),
        ),
        (
            "monitoring",
            Xml::children([("state", Xml::text(monitoring(instance)))]),
        ),
        ("architecture", Xml::text("x86_64")),
        ("rootDeviceType", Xml::text("ebs")),
        ("rootDeviceName", Xml::text(images::ROOT_DEVICE)),
        ("virtualizationType", Xml::text("hvm")),
        (
            "clientToken",
            Xml::text(instance.client_token.as_deref().unwrap_or_default()),
        ),
        ("hypervisor", Xml::text("xen")),
        ("ebsOptimized", Xml::text(instance.ebs_optimized)),
        ("enaSupport", Xml::text(true)),
        ("bootMode", Xml::text(images::BOOT_MODE)),
        ("currentInstanceBootMode", Xml::text("uefi")),
        ("platformDetails", Xml::text("Linux/UNIX")),
        ("usageOperation", Xml::text("RunInstances")),
        ("metadataOptions", metadata(instance)),
        ("tagSet", tags::set(&instance.tags)),
    ])
    .with_some(
        "instanceLifecycle",
        instance.spot.as_ref().map(|_| Xml::text("spot")),
    )
    .with_some(
        "spotInstanceRequestId",
        instance
            .spot
            .as_ref()
            .map(|spot| Xml::text(&spot.request_id)),
    )
    .with_some(
        "stateReason",
        instance.state_reason.as_ref().map(reason_item),
    )
    .with_some(
        "iamInstanceProfile",
        instance.instance_profile.as_ref().map(|name| {
            let arn = format!("arn:aws:iam::{ACCOUNT_ID}:instance-profile/{name}");
            Xml::children([
                ("arn", Xml::text(arn)),
                ("id", Xml::text("AIPALOCALPIAASBAKE00")),
            ])
        }),
    );
    if instance.state == InstanceState::Terminated {
        // Its disk, its address and its interface are gone.
        base.with("blockDeviceMapping", Xml::list([]))
            .with("networkInterfaceSet", Xml::list([]))
    } else {
        with_attachments(base, state, instance)
    }
}

fn with_attachments(base: Xml, state: &State, instance: &Instance) -> Xml {
    let groups = || {
        Xml::list(instance.group_ids.iter().map(|id| {
            let name = state.groups.get(id).map_or("", |group| &group.name);
            Xml::children([("groupId", Xml::text(id)), ("groupName", Xml::text(name))])
        }))
    };
    let volume = &instance.volume;
    let mapping = Xml::children([
        ("deviceName", Xml::text(images::ROOT_DEVICE)),
        (
            "ebs",
            Xml::children([
                ("volumeId", Xml::text(&volume.id)),
                ("status", Xml::text("attached")),
                ("attachTime", time(instance.attached())),
                (
                    "deleteOnTermination",
                    Xml::text(volume.delete_on_termination),
                ),
            ]),
        ),
    ]);
    let interface = Xml::children([
        ("networkInterfaceId", Xml::text(&instance.interface_id)),
        ("subnetId", Xml::text(subnet(instance))),
        ("vpcId", Xml::text(vpc(&instance.region))),
        ("ownerId", Xml::text(ACCOUNT_ID)),
        ("status", Xml::text("in-use")),
        ("privateIpAddress", Xml::text(&instance.private_ip)),
        ("sourceDestCheck", Xml::text(true)),
        ("groupSet", groups()),
        ("interfaceType", Xml::text("interface")),
        (
            "attachment",
            Xml::children([
                ("deviceIndex", Xml::text(0)),
                ("status", Xml::text("attached")),
                ("attachTime", time(instance.attached())),
                ("deleteOnTermination", Xml::text(true)),
            ]),
        ),
    ]);
    base.with("subnetId", Xml::text(subnet(instance)))
        .with("vpcId", Xml::text(vpc(&instance.region)))
        .with("privateIpAddress", Xml::text(&instance.private_ip))
        .with("privateDnsName", Xml::text(dns_name(instance)))
        .with("dnsName", Xml::text(""))
        .with("sourceDestCheck", Xml::text(true))
        .with("groupSet", groups())
        .with("blockDeviceMapping", Xml::list([mapping]))
        .with("networkInterfaceSet", Xml::list([interface]))
}

/// `MonitoringState`: detailed monitoring begins with the machine.
fn monitoring(instance: &Instance) -> &'static str {
    match (instance.monitored, instance.state) {
        (false, _) => "disabled",
        (true, InstanceState::Pending) => "pending",
        (true, _) => "enabled",
    }
}

fn metadata(instance: &Instance) -> Xml {
    let options = &instance.metadata;
    let enabled = |yes: bool| Xml::text(if yes { "enabled" } else { "disabled" });
    Xml::children([
        ("state", Xml::text("applied")),
        (
            "httpTokens",
            Xml::text(if options.tokens_required {
                "required"
            } else {
                "optional"
            }),
        ),
        ("httpPutResponseHopLimit", Xml::text(options.hop_limit)),
        ("httpEndpoint", Xml::text("enabled")),
        ("httpProtocolIpv6", Xml::text("disabled")),
        ("instanceMetadataTags", enabled(options.tags_enabled)),
    ])
}

pub(super) fn status(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let ids = params.texts("InstanceId");
    let filters = Filters::take(
        &mut params,
        &[
            "instance-state-name",
            "instance-state-code",
            "availability-zone",
        ],
    )?;
    let all = params.flag("IncludeAllInstances")?;
    let page = Page::take("DescribeInstanceStatus", &mut params, !ids.is_empty())?;
    call.accept(&params)?;
    check_ids(call.state, &ids)?;
    let wanted = call.state.instances.values().filter(|instance| {
        (ids.is_empty() || ids.contains(&instance.id))
            && (all || instance.state == InstanceState::Running)
            && filters.matches(&instance.tags, |name| field(instance, name))
    });
    let (found, token) = page.cut(wanted.collect(), |instance| &instance.id);
    let set = Xml::list(found.into_iter().map(|instance| {
        // The reachability check passes once something inside answers.
        let (status, check) = match (instance.state, instance.agent_online_since) {
            (InstanceState::Running, Some(_)) => ("ok", "passed"),
            (InstanceState::Running, None) => ("initializing", "initializing"),
            _ => ("not-applicable", "insufficient-data"),
        };
        let summary = || {
            let detail = Xml::children([
                ("name", Xml::text("reachability")),
                ("status", Xml::text(check)),
            ]);
            Xml::children([
                ("status", Xml::text(status)),
                ("details", Xml::list([detail])),
            ])
        };
        Xml::children([
            ("instanceId", Xml::text(&instance.id)),
            ("availabilityZone", Xml::text(&instance.availability_zone)),
            ("instanceState", state_item(instance.state)),
            ("systemStatus", summary()),
            ("instanceStatus", summary()),
        ])
    }));
    Ok(Xml::children([("instanceStatusSet", set)]).with_some("nextToken", token))
}
