//! How the parameters of a launch template are shown: `ResponseLaunchTemplateData`.

use std::collections::BTreeMap;

use super::super::wire::query::Params;
use super::super::wire::xml::Xml;

/// Members that are one value: name in a request, name in an answer.
type Names = &'static [(&'static str, &'static str)];

const VALUES: Names = &[
    ("EbsOptimized", "ebsOptimized"),
    ("ImageId", "imageId"),
    ("InstanceType", "instanceType"),
    ("DisableApiTermination", "disableApiTermination"),
    (
        "InstanceInitiatedShutdownBehavior",
        "instanceInitiatedShutdownBehavior",
    ),
    ("UserData", "userData"),
];
const PROFILE: Names = &[("Arn", "arn"), ("Name", "name")];
const MONITORING: Names = &[("Enabled", "enabled")];
const PLACEMENT: Names = &[
    ("AvailabilityZone", "availabilityZone"),
    ("Tenancy", "tenancy"),
];
const METADATA: Names = &[
    ("HttpTokens", "httpTokens"),
    ("HttpPutResponseHopLimit", "httpPutResponseHopLimit"),
    ("HttpEndpoint", "httpEndpoint"),
    ("InstanceMetadataTags", "instanceMetadataTags"),
];
const SPOT: Names = &[
    ("SpotInstanceType", "spotInstanceType"),
    (
        "InstanceInterruptionBehavior",
        "instanceInterruptionBehavior",
    ),
];
const INTERFACE: Names = &[
    ("AssociatePublicIpAddress", "associatePublicIpAddress"),
    ("DeleteOnTermination", "deleteOnTermination"),
    ("DeviceIndex", "deviceIndex"),
    ("SubnetId", "subnetId"),
];
const EBS: Names = &[
    ("DeleteOnTermination", "deleteOnTermination"),
    ("Encrypted", "encrypted"),
    ("VolumeSize", "volumeSize"),
    ("VolumeType", "volumeType"),
];

fn values(params: &mut Params, names: Names) -> Xml {
    Xml::children(
        names
            .iter()
            .filter_map(|(name, shown)| Some((*shown, Xml::text(params.take(name)?)))),
    )
}

/// A structure or a list that is left out when it is empty.
fn unless_empty(xml: Xml) -> Option<Xml> {
    match &xml {
        Xml::Children(children) if children.is_empty() => None,
        Xml::Children(_) | Xml::Text(_) => Some(xml),
    }
}

/// `launchTemplateData`.
pub fn show(parameters: &BTreeMap<String, String>) -> Xml {
    let mut params = Params::from(parameters.clone());
    let mut data = values(&mut params, VALUES);
    for (name, shown, names) in [
        ("IamInstanceProfile", "iamInstanceProfile", PROFILE),
        ("Monitoring", "monitoring", MONITORING),
        ("Placement", "placement", PLACEMENT),
        ("MetadataOptions", "metadataOptions", METADATA),
    ] {
        let inner = unless_empty(values(&mut params.structure(name), names));
        data = data.with_some(shown, inner);
    }
    let mut market = params.structure("InstanceMarketOptions");
    let options = unless_empty(values(&mut market.structure("SpotOptions"), SPOT));
    let market = values(&mut market, &[("MarketType", "marketType")]);
    let market = market.with_some("spotOptions", options);
    data = data.with_some("instanceMarketOptions", unless_empty(market));
    let groups = params.texts("SecurityGroupId");
    let groups = Xml::list(groups.into_iter().map(Xml::text));
    data = data.with_some("securityGroupIdSet", unless_empty(groups));
    let interfaces = params.structures("NetworkInterface");
    let interfaces = Xml::list(interfaces.into_iter().map(interface));
    data = data.with_some("networkInterfaceSet", unless_empty(interfaces));
    let mappings = params.structures("BlockDeviceMapping");
    let mappings = Xml::list(mappings.into_iter().map(mapping));
    data = data.with_some("blockDeviceMappingSet", unless_empty(mappings));
    let tags = params.structures("TagSpecification");
    let tags = Xml::list(tags.into_iter().map(tag_specification));
    data.with_some("tagSpecificationSet", unless_empty(tags))
}

fn interface(mut params: Params) -> Xml {
    let groups = params.texts("SecurityGroupId").into_iter();
    let groups = Xml::children(groups.map(|id| ("groupId", Xml::text(id))));
    values(&mut params, INTERFACE).with_some("groupSet", unless_empty(groups))
}

fn mapping(mut params: Params) -> Xml {
    let ebs = values(&mut params.structure("Ebs"), EBS);
    values(&mut params, &[("DeviceName", "deviceName")]).with_some("ebs", unless_empty(ebs))
}

fn tag_specification(mut params: Params) -> Xml {
    let tags = params.structures("Tag");
    let tags = Xml::list(tags.into_iter().map(|mut tag| {
        values(&mut tag, &[("Key", "key")])
            .with("value", Xml::text(tag.take("Value").unwrap_or_default()))
    }));
    values(&mut params, &[("ResourceType", "resourceType")]).with("tagSet", tags)
}
