//! Tags, on creation and later.

use super::super::engine::Call;
use super::super::state::{Spot, State, Tags};
use super::super::wire::error::ApiError;
use super::super::wire::query::Params;
use super::super::wire::xml::Xml;
use super::filters::{Filters, Page};
use super::{done, invalid_value, spot};

/// Tags per resource (EC2 User Guide, "Tag restrictions").
const LIMIT: usize = 50;

/// Tags for one kind of resource that is being created.
#[derive(Debug, Default)]
pub struct Specifications(Vec<(String, Tags)>);

impl Specifications {
    /// Takes `TagSpecification.n`; `kinds` are the resource types that the operation creates.
    pub fn take(params: &mut Params, kinds: &[&str]) -> Result<Self, ApiError> {
        let mut all: Vec<(String, Tags)> = Vec::new();
        for (index, mut specification) in params
            .structures("TagSpecification")
            .into_iter()
            .enumerate()
        {
            let kind = specification.require("ResourceType")?;
            let tags = take(&mut specification)?;
            specification.finish(&format!("TagSpecification.{}", index + 1))?;
            if !kinds.contains(&kind.as_str()) || all.iter().any(|(other, _)| *other == kind) {
                return Err(invalid_value(
                    "TagSpecification",
                    &kind,
                    "It is not a valid taggable resource type for this operation.",
                ));
            }
            all.push((kind, tags));
        }
        Ok(Self(all))
    }

    /// The tags for one kind.
    pub fn of(&self, kind: &str) -> Tags {
        self.0
            .iter()
            .find(|(name, _)| name == kind)
            .map(|(_, tags)| tags.clone())
            .unwrap_or_default()
    }
}

/// Takes `Tag.n`.
fn take(params: &mut Params) -> Result<Tags, ApiError> {
    let mut tags = Tags::new();
    for (index, mut tag) in params.structures("Tag").into_iter().enumerate() {
        let key = tag.require("Key")?;
        let value = tag.take("Value").unwrap_or_default();
        tag.finish(&format!("Tag.{}", index + 1))?;
        if key.chars().count() > 127 || key.starts_with("aws:") {
            return Err(invalid_value(
                "Tag.Key",
                &key,
                "Keys have at most 127 characters and do not begin with aws:.",
            ));
        }
        if value.chars().count() > 256 {
            return Err(invalid_value(
                "Tag.Value",
                &value,
                "Values have at most 256 characters.",
            ));
        }
        if tags.insert(key.clone(), value).is_some() {
            return Err(ApiError::new(
                "InvalidParameterValue",
                format!("Duplicate tag key '{key}' specified."),
            ));
        }
    }
    if tags.len() > LIMIT {
        return Err(ApiError::new(
            "TagLimitExceeded",
            "The maximum number of tags per resource is 50.",
        ));
    }
    Ok(tags)
}

/// `tagSet`.
pub fn set(tags: &Tags) -> Xml {
    Xml::list(
        tags.iter().map(|(key, value)| {
            Xml::children([("key", Xml::text(key)), ("value", Xml::text(value))])
        }),
    )
}

/// Type of a resource and its tags.
fn resource<'a>(state: &'a mut State, id: &str) -> Result<&'a mut Tags, ApiError> {
    let unknown = || ApiError::new("InvalidID", format!("The ID '{id}' is not valid"));
    let (prefix, _) = id.split_once('-').ok_or_else(unknown)?;
    let missing = |code: &str, what: &str| {
        ApiError::new(code, format!("The {what} ID '{id}' does not exist"))
    };
    match prefix {
        "i" => {
            let found = state
                .instances
                .get_mut(id)
                .map(|instance| &mut instance.tags);
            found.ok_or_else(|| missing("InvalidInstanceID.NotFound", "instance"))
        }
        "ami" => {
            let found = state
                .images
                .get_mut(id)
                .filter(|image| image.owner_id == super::super::ACCOUNT_ID);
            found
                .map(|image| &mut image.tags)
                .ok_or_else(|| missing("InvalidAMIID.NotFound", "image"))
        }
        "snap" => {
            let found = state.snapshots.get_mut(id);
            let found = found.filter(|snapshot| snapshot.owner_id == super::super::ACCOUNT_ID);
            let found = found.map(|snapshot| &mut snapshot.tags);
            found.ok_or_else(|| missing("InvalidSnapshot.NotFound", "snapshot"))
        }
        "lt" => {
            let found = state.launch_templates.get_mut(id);
            let found = found.map(|template| &mut template.tags);
            found.ok_or_else(|| missing("InvalidLaunchTemplateId.NotFound", "launch template"))
        }
        "sg" => {
            let found = state.groups.get_mut(id).map(|group| &mut group.tags);
            found.ok_or_else(|| missing("InvalidGroup.NotFound", "security group"))
        }
        "sir" => {
            let is_of = |spot: &Spot| spot.request_id == id;
            let found = state
                .instances
                .find_mut(|one| one.spot.as_ref().is_some_and(is_of));
            let found = found.and_then(|one| one.spot.as_mut());
            let found = found.map(|spot| &mut spot.tags);
            let code = "InvalidSpotInstanceRequestID.NotFound";
            found.ok_or_else(|| missing(code, "spot instance request"))
        }
        "vol" => {
            let found = state
                .instances
                .find_mut(|one| one.volume.id == id && !one.state.is_ending());
            let found = found.map(|instance| &mut instance.volume.tags);
            found.ok_or_else(|| missing("InvalidVolume.NotFound", "volume"))
        }
        "eni" => {
            let found = state
                .instances
                .find_mut(|one| one.interface_id == id && !one.state.is_ending());
            let found = found.map(|instance| &mut instance.interface_tags);
            let code = "InvalidNetworkInterfaceID.NotFound";
            found.ok_or_else(|| missing(code, "network interface"))
        }
        _ => Err(unknown()),
    }
}

pub(super) fn create(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let ids = params.texts("ResourceId");
    let tags = take(&mut params)?;
    if ids.is_empty() || tags.is_empty() {
        return Err(ApiError::new(
            "MissingParameter",
            "The request must contain the parameters ResourceId and Tag",
        ));
    }
    call.accept(&params)?;
    // All or none: every resource is looked at before the first is changed.
    for id in &ids {
        let mut all = resource(call.state, id)?.clone();
        all.extend(tags.clone());
        if all.len() > LIMIT {
            return Err(ApiError::new(
                "TagLimitExceeded",
                "The maximum number of tags per resource is 50.",
            ));
        }
    }
    for id in &ids {
        resource(call.state, id)?.extend(tags.clone());
    }
    Ok(done())
}

pub(super) fn delete(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let ids = params.texts("ResourceId");
    let mut wanted = Vec::new();
    for (index, mut tag) in params.structures("Tag").into_iter().enumerate() {
        wanted.push((tag.require("Key")?, tag.take("Value")));
        tag.finish(&format!("Tag.{}", index + 1))?;
    }
    if ids.is_empty() {
        return Err(ApiError::new(
            "MissingParameter",
            "The request must contain the parameter ResourceId",
        ));
    }
    call.accept(&params)?;
    for id in &ids {
        resource(call.state, id)?;
    }
    for id in &ids {
        // No tag given: all go. A tag with a value goes only if it has that value.
        resource(call.state, id)?.retain(|key, value| {
            let goes = wanted.is_empty()
                || wanted.iter().any(|(name, with)| {
                    name == key && with.as_ref().is_none_or(|with| with == value)
                });
            !goes
        });
    }
    Ok(done())
}

pub(super) fn describe(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let filters = Filters::take(
        &mut params,
        &["key", "value", "resource-id", "resource-type"],
    )?;
    let page = Page::take("DescribeTags", &mut params, false)?;
    call.accept(&params)?;
    let state = &call.state;
    let mut resources: Vec<(&str, &str, &Tags)> = Vec::new();
    resources.extend(
        state
            .images
            .values()
            .map(|image| (image.id.as_str(), "image", &image.tags)),
    );
    resources.extend(
        state
            .instances
            .values()
            .map(|one| (one.id.as_str(), "instance", &one.tags)),
    );
    resources.extend(
        state
            .instances
            .values()
            .map(|one| (one.volume.id.as_str(), "volume", &one.volume.tags)),
    );
    resources.extend(state.instances.values().map(|one| {
        let id = one.interface_id.as_str();
        (id, "network-interface", &one.interface_tags)
    }));
    resources.extend(
        spot::requests(state)
            .map(|(_, one)| (one.request_id.as_str(), "spot-instances-request", &one.tags)),
    );
    resources.extend(
        state
            .snapshots
            .values()
            .map(|one| (one.id.as_str(), "snapshot", &one.tags)),
    );
    resources.extend(
        state
            .groups
            .values()
            .map(|one| (one.id.as_str(), "security-group", &one.tags)),
    );
    resources.extend(
        state
            .launch_templates
            .values()
            .map(|one| (one.id.as_str(), "launch-template", &one.tags)),
    );
    let mut rows: Vec<_> = resources
        .into_iter()
        .flat_map(|(id, kind, tags)| {
            tags.iter()
                .map(move |(key, value)| (format!("{id} {key}"), id, kind, key, value))
        })
        .filter(|(_, id, kind, key, value)| {
            let one = Tags::from([((*key).clone(), (*value).clone())]);
            filters.matches(&one, |field| {
                vec![match field {
                    "key" => (*key).clone(),
                    "value" => (*value).clone(),
                    "resource-id" => (*id).to_owned(),
                    _ => (*kind).to_owned(),
                }]
            })
        })
        .collect();
    rows.sort();
    let (rows, token) = page.cut(rows, |row| &row.0);
    let set = Xml::list(rows.into_iter().map(|(_, id, kind, key, value)| {
        Xml::children([
            ("resourceId", Xml::text(id)),
            ("resourceType", Xml::text(kind)),
            ("key", Xml::text(key)),
            ("value", Xml::text(value)),
        ])
    }));
    Ok(Xml::children([("tagSet", set)]).with_some("nextToken", token))
}
