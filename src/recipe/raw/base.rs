//! `from`: what a recipe builds on.

use std::collections::BTreeMap;

use semver::VersionReq;

use super::parameters::texts;
use super::{NAME_HELP, Place};
use crate::recipe::diagnostic::Diagnostics;
use crate::recipe::format::{self, keys};
use crate::recipe::model::BaseRef;
use crate::recipe::node::Node;
use crate::recipe::units;

/// What a recipe is built on.
#[derive(Debug)]
pub enum From {
    Recipe {
        name: String,
        name_at: Place,
        version: Option<(VersionReq, Place)>,
    },
    Base(BaseRef),
}

pub fn read_from(node: Node<'_>, found: &mut Diagnostics) -> Option<From> {
    let fields = node.fields(keys::<format::From>(), found);
    let choice = fields.one_of(&format::From::ONE_OF, found)?;
    let version = fields.entry("version").and_then(|entry| {
        if choice.key != "recipe" {
            found.push(entry.diagnostic("`version` goes with `recipe` only", "remove it"));
        }
        let range = entry.node.parsed(
            "a version range",
            |text| VersionReq::parse(text).map_err(|_| RANGE_HELP.into()),
            found,
        )?;
        Some((range, Place::of(&entry.node)))
    });
    let node = choice.node;
    Some(match choice.key {
        "recipe" => From::Recipe {
            name: node.checked("a recipe name", units::is_recipe_name, NAME_HELP, found)?,
            name_at: Place::of(&node),
            version,
        },
        "ssm" => From::Base(BaseRef::Ssm {
            parameter: node.checked(
                "the name of an SSM parameter",
                |text| {
                    text.starts_with('/')
                        && text
                            .bytes()
                            .all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b))
                },
                "write its whole name, such as /aws/service/debian/release/12/latest/amd64",
                found,
            )?,
        }),
        "ami" => From::Base(BaseRef::Ami {
            id: node.checked(
                "an AMI id",
                units::is_ami_id,
                "write `ami-` and 8 or 17 hex digits",
                found,
            )?,
        }),
        "imagebuilder" => From::Base(BaseRef::ImageBuilder {
            arn: node.checked(
                "an Image Builder image ARN",
                |text| {
                    text.starts_with("arn:")
                        && text.contains(":imagebuilder:")
                        && text.contains(":image/")
                },
                "write arn:aws:imagebuilder:<region>:<account>:image/<name>/<version>/<build>",
                found,
            )?,
        }),
        _ => From::Base(read_filter(node, found)?),
    })
}

const RANGE_HELP: &str = "write a range such as ^1, ~1.2 or >=1.0, <3";

pub fn read_filter(node: Node<'_>, found: &mut Diagnostics) -> Option<BaseRef> {
    let fields = node.fields(keys::<format::Filter>(), found);
    let owners = fields.require(
        "owners",
        "name the owners: without them anybody's image could match",
        found,
    )?;
    let owners = texts(owners, found);
    if owners.is_empty() {
        found.push(node.diagnostic(
            "`owners` is empty",
            "name at least one account id, `amazon` or `self`",
        ));
    }
    let mut filters = BTreeMap::new();
    if let Some(name) = fields.get("name").and_then(|name| name.text(found)) {
        filters.insert("name".to_string(), vec![name.to_string()]);
    }
    for entry in fields
        .get("filters")
        .map(|node| node.entries(found))
        .unwrap_or_default()
    {
        if filters
            .insert(entry.key.to_string(), texts(entry.node, found))
            .is_some()
        {
            found.push(entry.diagnostic("the filter `name` is given twice", "keep one of them"));
        }
    }
    if filters.is_empty() {
        found.push(node.diagnostic(
            "the filter matches every image of its owners",
            "write at least a `name:`",
        ));
    }
    Some(BaseRef::Filter { owners, filters })
}
