//! The network: one VPC with a subnet in each of three zones, as the addresses of the machines on this host have it.

use std::ops::RangeInclusive;

use super::super::engine::Call;
use super::super::state::{Instance, SecurityGroup, Tags};
use super::super::wire::error::ApiError;
use super::super::wire::query::Params;
use super::super::wire::xml::Xml;
use super::super::{ACCOUNT_ID, regions};
use super::filters::{Filters, Page};
use super::is_id;
use super::tags::{self, Specifications};

/// The default VPC of the default region.
const VPC: &str = "vpc-0000000000000001f";
/// Its default security group.
const DEFAULT_GROUP: &str = "sg-0000000000000001f";
const CIDR: &str = "172.31.0.0/16";

/// A region's default VPC.
pub fn vpc(region: &str) -> String {
    regions::id(region, VPC)
}

/// Id of its default security group.
pub fn default_group_id(region: &str) -> String {
    regions::id(region, DEFAULT_GROUP)
}

/// The default VPC's default security group.
pub fn default_group(region: &str) -> SecurityGroup {
    SecurityGroup {
        id: default_group_id(region),
        name: "default".to_owned(),
        description: "default VPC security group".to_owned(),
        tags: Tags::new(),
    }
}

/// An availability zone of every region, with the default VPC's subnet in it.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    letter: char,
    /// In the default region.
    usual: &'static str,
    cidr: &'static str,
    /// The third byte of its machines' addresses: each machine has a network of its own.
    pub numbers: RangeInclusive<u8>,
}

/// All there are. They are one host, so they fail together; what depends on zones can be tried all the same.
pub const PLACES: [Place; 3] = [
    Place {
        letter: 'a',
        usual: "subnet-0000000000000001f",
        cidr: "172.31.0.0/18",
        numbers: 1..=63,
    },
    Place {
        letter: 'b',
        usual: "subnet-0000000000000002f",
        cidr: "172.31.64.0/18",
        numbers: 64..=127,
    },
    Place {
        letter: 'c',
        usual: "subnet-0000000000000003f",
        cidr: "172.31.128.0/18",
        numbers: 128..=191,
    },
];

impl Place {
    /// The zone's name in a region.
    pub fn zone(&self, region: &str) -> String {
        format!("{region}{}", self.letter)
    }

    /// The place of a zone, by the zone's name.
    pub fn of_zone(region: &str, zone: &str) -> Option<&'static Self> {
        let letter = zone.strip_prefix(region)?;
        let mut places = PLACES.iter();
        places.find(|place| letter.chars().eq([place.letter]))
    }

    /// The default VPC's subnet in the zone of a region.
    pub fn subnet(&self, region: &str) -> String {
        regions::id(region, self.usual)
    }

    /// The place of a subnet of a region.
    ///
    /// # Errors
    /// `InvalidSubnetID.NotFound`.
    pub fn of_subnet(region: &str, id: &str) -> Result<&'static Self, ApiError> {
        let mut places = PLACES.iter();
        places
            .find(|place| place.subnet(region) == id)
            .ok_or_else(|| missing("InvalidSubnetID.NotFound", "subnet ID", id))
    }

    /// The place of an instance.
    pub fn of(instance: &Instance) -> &'static Self {
        Self::of_zone(&instance.region, &instance.availability_zone).unwrap_or(&PLACES[0])
    }
}

/// The zones of a region.
pub fn zones(region: &str) -> Vec<String> {
    PLACES.iter().map(|place| place.zone(region)).collect()
}

fn missing(code: &str, what: &str, id: &str) -> ApiError {
    ApiError::new(code, format!("The {what} '{id}' does not exist"))
}

/// Refuses ids that are not the one there is.
fn only(given: &[String], there: &str, code: &str, what: &str) -> Result<(), ApiError> {
    match given.iter().find(|id| *id != there) {
        Some(id) => Err(missing(code, what, id)),
        None => Ok(()),
    }
}

/// Refuses a security group that does not exist.
pub fn check_group(call: &Call<'_>, id: &str) -> Result<(), ApiError> {
    if call.state.groups.contains_key(id) {
        Ok(())
    } else {
        let code = if is_id("sg", id) {
            "InvalidGroup.NotFound"
        } else {
            "InvalidGroupId.Malformed"
        };
        Err(missing(code, "security group", id))
    }
}

pub(super) fn describe_regions(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let names = params.texts("RegionName");
    let filters = Filters::take(&mut params, &["region-name", "endpoint", "opt-in-status"])?;
    params.flag("AllRegions")?;
    call.accept(&params)?;
    if let Some(name) = names.iter().find(|name| !regions::exists(name)) {
        return Err(missing("InvalidParameterValue", "region", name));
    }
    let endpoint = |name: &str| format!("ec2.{name}.amazonaws.com");
    let opted = |opt_in: bool| {
        if opt_in {
            "opted-in"
        } else {
            "opt-in-not-required"
        }
    };
    let wanted = regions::REGIONS.iter().filter(|(name, opt_in)| {
        (names.is_empty() || names.iter().any(|one| one == name))
            && filters.matches(&Tags::new(), |field| {
                vec![match field {
                    "region-name" => (*name).to_owned(),
                    "endpoint" => endpoint(name),
                    _ => opted(*opt_in).to_owned(),
                }]
            })
    });
    let items = wanted.map(|(name, opt_in)| {
        Xml::children([
            ("regionName", Xml::text(name)),
            ("regionEndpoint", Xml::text(endpoint(name))),
            ("optInStatus", Xml::text(opted(*opt_in))),
        ])
    });
    Ok(Xml::children([("regionInfo", Xml::list(items))]))
}

pub(super) fn describe_zones(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let names = params.texts("ZoneName");
    let filters = Filters::take(
        &mut params,
        &["zone-name", "region-name", "state", "zone-type"],
    )?;
    params.flag("AllAvailabilityZones")?;
    call.accept(&params)?;
    let all = zones(call.region);
    if let Some(name) = names.iter().find(|name| !all.contains(name)) {
        return Err(missing("InvalidParameterValue", "availability zone", name));
    }
    let wanted = all.into_iter().filter(|zone| {
        (names.is_empty() || names.contains(zone))
            && filters.matches(&Tags::new(), |field| {
                vec![match field {
                    "zone-name" => zone.clone(),
                    "region-name" => call.region.to_owned(),
                    "state" => "available".to_owned(),
                    _ => "availability-zone".to_owned(),
                }]
            })
    });
    let items = wanted.map(|zone| {
        Xml::children([
            ("zoneName", Xml::text(zone)),
            ("zoneState", Xml::text("available")),
            ("regionName", Xml::text(call.region)),
            ("zoneType", Xml::text("availability-zone")),
            ("optInStatus", Xml::text("opt-in-not-required")),
            ("messageSet", Xml::list([])),
        ])
    });
    Ok(Xml::children([("availabilityZoneInfo", Xml::list(items))]))
}

pub(super) fn describe_vpcs(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let ids = params.texts("VpcId");
    let filters = Filters::take(
        &mut params,
        &[
            "vpc-id",
            "is-default",
            "isDefault",
            "state",
            "cidr",
            "owner-id",
        ],
    )?;
    // There is one: no token is ever given, so none is taken.
    Page::take("DescribeVpcs", &mut params, !ids.is_empty())?;
    call.accept(&params)?;
    let own = vpc(call.region);
    only(&ids, &own, "InvalidVpcID.NotFound", "vpc ID")?;
    let matches = filters.matches(&Tags::new(), |field| {
        let value = match field {
            "vpc-id" => &own,
            "is-default" | "isDefault" => "true",
            "state" => "available",
            "cidr" => CIDR,
            _ => ACCOUNT_ID,
        };
        vec![value.to_owned()]
    });
    let vpc = Xml::children([
        ("vpcId", Xml::text(&own)),
        ("ownerId", Xml::text(ACCOUNT_ID)),
        ("state", Xml::text("available")),
        ("cidrBlock", Xml::text(CIDR)),
        ("instanceTenancy", Xml::text("default")),
        ("isDefault", Xml::text(true)),
    ]);
    Ok(Xml::children([(
        "vpcSet",
        Xml::list(matches.then_some(vpc)),
    )]))
}

pub(super) fn describe_subnets(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let ids = params.texts("SubnetId");
    let known = [
        "subnet-id",
        "vpc-id",
        "availability-zone",
        "default-for-az",
        "state",
        "cidr-block",
        "owner-id",
    ];
    let filters = Filters::take(&mut params, &known)?;
    // They fit on the smallest page: no token is ever given, so none is taken.
    Page::take("DescribeSubnets", &mut params, !ids.is_empty())?;
    call.accept(&params)?;
    for id in &ids {
        Place::of_subnet(call.region, id)?;
    }
    let wanted = PLACES.iter().filter(|place| {
        (ids.is_empty() || ids.iter().any(|id| *id == place.subnet(call.region)))
            && filters.matches(&Tags::new(), |field| {
                vec![match field {
                    "subnet-id" => place.subnet(call.region),
                    "vpc-id" => vpc(call.region),
                    "availability-zone" => place.zone(call.region),
                    "default-for-az" => "true".to_owned(),
                    "state" => "available".to_owned(),
                    "cidr-block" => place.cidr.to_owned(),
                    _ => ACCOUNT_ID.to_owned(),
                }]
            })
    });
    let subnets = wanted.map(|place| {
        Xml::children([
            ("subnetId", Xml::text(place.subnet(call.region))),
            ("vpcId", Xml::text(vpc(call.region))),
            ("ownerId", Xml::text(ACCOUNT_ID)),
            ("state", Xml::text("available")),
            ("cidrBlock", Xml::text(place.cidr)),
            (
                "availableIpAddressCount",
                Xml::text(super::instances::free_addresses(call.state, place).len()),
            ),
            ("availabilityZone", Xml::text(place.zone(call.region))),
            ("defaultForAz", Xml::text(true)),
            ("mapPublicIpOnLaunch", Xml::text(false)),
        ])
    });
    Ok(Xml::children([("subnetSet", Xml::list(subnets))]))
}

fn group_arn(region: &str, id: &str) -> String {
    format!("arn:aws:ec2:{region}:{ACCOUNT_ID}:security-group/{id}")
}

pub(super) fn create_group(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let name = params.require("GroupName")?;
    let description = params.require("GroupDescription")?;
    let vpc = params.take("VpcId");
    let tags = Specifications::take(&mut params, &["security-group"])?.of("security-group");
    call.accept(&params)?;
    let own = self::vpc(call.region);
    if let Some(vpc) = vpc {
        only(&[vpc], &own, "InvalidVpcID.NotFound", "vpc ID")?;
    }
    if name.chars().count() > 255 || name.starts_with("sg-") {
        return Err(super::invalid_value(
            "groupName",
            &name,
            "A name has at most 255 characters and does not begin with sg-.",
        ));
    }
    if description.chars().count() > 255 {
        return Err(super::invalid_value(
            "GroupDescription",
            &description,
            "Character count must be <= 255.",
        ));
    }
    if call.state.groups.values().any(|group| group.name == name) {
        return Err(ApiError::new(
            "InvalidGroup.Duplicate",
            format!("The security group '{name}' already exists for VPC '{own}'"),
        ));
    }
    let id = call.state.new_id("sg");
    let answer = Xml::children([
        ("groupId", Xml::text(&id)),
        ("securityGroupArn", Xml::text(group_arn(call.region, &id))),
        ("tagSet", tags::set(&tags)),
    ]);
    call.state.groups.insert(
        id.clone(),
        SecurityGroup {
            id,
            name,
            description,
            tags,
        },
    );
    Ok(answer)
}

pub(super) fn describe_groups(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let ids = params.texts("GroupId");
    let names = params.texts("GroupName");
    let filters = Filters::take(
        &mut params,
        &[
            "group-id",
            "group-name",
            "vpc-id",
            "description",
            "owner-id",
        ],
    )?;
    let page = Page::take("DescribeSecurityGroups", &mut params, !ids.is_empty())?;
    call.accept(&params)?;
    for id in &ids {
        check_group(call, id)?;
    }
    if let Some(name) = names
        .iter()
        .find(|name| !call.state.groups.values().any(|group| group.name == **name))
    {
        return Err(missing("InvalidGroup.NotFound", "security group", name));
    }
    let vpc = vpc(call.region);
    let wanted = call.state.groups.values().filter(|group| {
        (ids.is_empty() || ids.contains(&group.id))
            && (names.is_empty() || names.contains(&group.name))
            && filters.matches(&group.tags, |field| {
                let value = match field {
                    "group-id" => &group.id,
                    "group-name" => &group.name,
                    "vpc-id" => &vpc,
                    "description" => &group.description,
                    _ => ACCOUNT_ID,
                };
                vec![value.to_owned()]
            })
    });
    let (groups, token) = page.cut(wanted.collect(), |group| &group.id);
    let egress = || {
        Xml::children([
            ("ipProtocol", Xml::text("-1")),
            (
                "ipRanges",
                Xml::list([Xml::children([("cidrIp", Xml::text("0.0.0.0/0"))])]),
            ),
        ])
    };
    let set = Xml::list(groups.into_iter().map(|group| {
        Xml::children([
            ("groupId", Xml::text(&group.id)),
            ("groupName", Xml::text(&group.name)),
            ("groupDescription", Xml::text(&group.description)),
            ("ownerId", Xml::text(ACCOUNT_ID)),
            ("vpcId", Xml::text(&vpc)),
            (
                "securityGroupArn",
                Xml::text(group_arn(call.region, &group.id)),
            ),
            ("ipPermissions", Xml::list([])),
            ("ipPermissionsEgress", Xml::list([egress()])),
            ("tagSet", tags::set(&group.tags)),
        ])
    }));
    Ok(Xml::children([("securityGroupInfo", set)]).with_some("nextToken", token))
}

pub(super) fn delete_group(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let id = params.take("GroupId");
    let name = params.take("GroupName");
    call.accept(&params)?;
    let id = match (id, name) {
        (Some(id), None) => id,
        (None, Some(name)) => {
            let found = call.state.groups.values().find(|group| group.name == name);
            found
                .map(|group| group.id.clone())
                .ok_or_else(|| missing("InvalidGroup.NotFound", "security group", &name))?
        }
        (Some(_), Some(_)) => {
            return Err(ApiError::new(
                "InvalidParameterCombination",
                "Either GroupId or GroupName must be specified, not both.",
            ));
        }
        (None, None) => {
            return Err(ApiError::new(
                "MissingParameter",
                "The request must contain the parameter GroupId",
            ));
        }
    };
    check_group(call, &id)?;
    if id == default_group_id(call.region) {
        return Err(ApiError::new(
            "CannotDelete",
            "the specified group: \"default\" cannot be deleted by a user",
        ));
    }
    // A terminated instance no longer has an interface, so nothing of it depends on the group.
    let used = call.state.instances.values().any(|instance| {
        instance.state != super::super::state::InstanceState::Terminated
            && instance.group_ids.contains(&id)
    });
    if used {
        return Err(ApiError::new(
            "DependencyViolation",
            format!("resource {id} has a dependent object"),
        ));
    }
    call.state.groups.remove(&id);
    Ok(super::done().with("groupId", Xml::text(id)))
}
