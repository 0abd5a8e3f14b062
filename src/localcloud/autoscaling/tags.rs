//! Tags of groups.

use super::super::ec2::filters::{self, Page};
use super::super::engine::Call;
use super::super::wire::error::ApiError;
use super::super::wire::query::Params;
use super::super::wire::xml::Xml;
use super::records::GroupTag;
use super::{invalid, not_found, nothing, with_group};

const KIND: &str = "auto-scaling-group";
/// Tags per group (User Guide, "Tag Auto Scaling groups and instances").
const LIMIT: usize = 50;

/// Takes `Tags.member.n`: group, key, tag. `group`: the group that is being made, which the tags need not name.
pub(super) fn take(
    params: &mut Params,
    group: Option<&str>,
) -> Result<Vec<(String, String, GroupTag)>, ApiError> {
    let mut tags = Vec::new();
    for (index, mut tag) in params.structures("Tags.member").into_iter().enumerate() {
        let key = tag.require("Key")?;
        let value = tag.take("Value").unwrap_or_default();
        let propagate = tag.flag("PropagateAtLaunch")?;
        let resource = tag.take("ResourceId");
        if let Some(kind) = tag.take("ResourceType").filter(|kind| kind != KIND) {
            return Err(invalid(format!(
                "{kind} is not a valid resource type; there is {KIND}"
            )));
        }
        tag.finish(&format!("Tags.member.{}", index + 1))?;
        if key.chars().count() > 128 || key.starts_with("aws:") || value.chars().count() > 256 {
            return Err(invalid(format!(
                "Invalid tag '{key}': a key has at most 128 characters and does not begin with aws:, a value has at most \
                 256."
            )));
        }
        let resource = match (resource, group) {
            (Some(named), Some(group)) if named != group => {
                return Err(invalid(format!(
                    "The tag '{key}' names {named}, not the group {group}."
                )));
            }
            (Some(named), _) => named,
            (None, Some(group)) => group.to_owned(),
            (None, None) => {
                return Err(invalid("The request must contain the parameter ResourceId"));
            }
        };
        tags.push((resource, key, GroupTag { value, propagate }));
    }
    if tags.len() > LIMIT {
        return Err(ApiError::new(
            "LimitExceeded",
            format!("A group has at most {LIMIT} tags."),
        ));
    }
    Ok(tags)
}

/// `TagDescription`.
pub(super) fn show(group: &str, key: &str, tag: &GroupTag) -> Xml {
    Xml::children([
        ("ResourceId", Xml::text(group)),
        ("ResourceType", Xml::text(KIND)),
        ("Key", Xml::text(key)),
        ("Value", Xml::text(&tag.value)),
        ("PropagateAtLaunch", Xml::text(tag.propagate)),
    ])
}

/// Takes `Filters.member.n`: names and values.
pub(super) fn take_filters(
    params: &mut Params,
    known: &[&str],
    by_key: bool,
) -> Result<Vec<(String, Vec<String>)>, ApiError> {
    let mut filters = Vec::new();
    let list = params.structures("Filters.member");
    for (index, mut filter) in list.into_iter().enumerate() {
        let name = filter.require("Name")?;
        let values = filter.texts("Values.member");
        filter.finish(&format!("Filters.member.{}", index + 1))?;
        let is_known = known.contains(&name.as_str()) || (by_key && name.starts_with("tag:"));
        if !is_known {
            return Err(invalid(format!(
                "Filter type {name} is not correct. Allowed filter types are: {}",
                known.join(", ")
            )));
        }
        filters.push((name, values));
    }
    Ok(filters)
}

/// The tags of a request that is about tags: there must be some.
fn take_some(mut params: Params) -> Result<Vec<(String, String, GroupTag)>, ApiError> {
    let tags = take(&mut params, None)?;
    params.finish("")?;
    if tags.is_empty() {
        return Err(invalid("The request must contain the parameter Tags"));
    }
    Ok(tags)
}

pub(super) fn create(call: &mut Call<'_>, params: Params) -> Result<Xml, ApiError> {
    let tags = take_some(params)?;
    let missing = tags
        .iter()
        .find(|(group, ..)| !call.state.scaling.contains_key(group));
    if let Some((group, ..)) = missing {
        return Err(not_found(group));
    }
    for (group, key, tag) in tags {
        with_group(call, &group, |_, group| {
            if group.tags.len() >= LIMIT && !group.tags.contains_key(&key) {
                return Err(ApiError::new(
                    "LimitExceeded",
                    format!("A group has at most {LIMIT} tags."),
                ));
            }
            group.tags.insert(key, tag);
            Ok(())
        })?;
    }
    Ok(nothing())
}

pub(super) fn delete(call: &mut Call<'_>, params: Params) -> Result<Xml, ApiError> {
    let tags = take_some(params)?;
    for (group, key, tag) in tags {
        with_group(call, &group, |_, group| {
            // With a value, only the tag of that value goes (`DeleteTags`).
            let goes = tag.value.is_empty()
                || group
                    .tags
                    .get(&key)
                    .is_some_and(|known| known.value == tag.value);
            if goes {
                group.tags.remove(&key);
            }
            Ok(())
        })?;
    }
    Ok(nothing())
}

pub(super) fn describe(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let known = ["auto-scaling-group", "key", "value", "propagate-at-launch"];
    let filters = take_filters(&mut params, &known, false)?;
    let page = Page::within("DescribeTags", &mut params, "MaxRecords", false, 1..=100)?;
    params.finish("")?;
    let mut rows: Vec<(String, &str, &str, &GroupTag)> = Vec::new();
    for group in call.state.scaling.values() {
        for (key, tag) in &group.tags {
            let fits = filters.iter().all(|(name, values)| {
                let propagate = tag.propagate.to_string();
                let text = match name.as_str() {
                    "auto-scaling-group" => &group.name,
                    "key" => key,
                    "value" => &tag.value,
                    _ => &propagate,
                };
                values.iter().any(|value| filters::matches(value, text))
            });
            if fits {
                rows.push((format!("{} {key}", group.name), &group.name, key, tag));
            }
        }
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    let (rows, token) = page.cut(rows, |row| &row.0);
    let list = rows
        .into_iter()
        .map(|(_, group, key, tag)| show(group, key, tag));
    Ok(Xml::children([("Tags", Xml::members(list))]).with_some("NextToken", token))
}
