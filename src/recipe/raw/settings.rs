//! `image` and `build`: the disk that comes out, and the machine that makes it.

use std::time::Duration;

use crate::recipe::diagnostic::Diagnostics;
use crate::recipe::format::{Architecture, BootMode, Build, Filesystem, Image, keys};
use crate::recipe::node::{Fields, Node};
use crate::recipe::units;

#[derive(Debug, Default)]
pub struct RawImage {
    pub size_gib: Option<u32>,
    pub filesystem: Option<String>,
    pub architecture: Option<String>,
    pub boot_mode: Option<String>,
}

/// An inner `None` is an explicit `null`: nothing, whatever the parent says.
#[derive(Debug, Default)]
pub struct RawBuild {
    pub instance_types: Option<Vec<String>>,
    /// Likewise an empty list.
    pub subnets: Option<Vec<String>>,
    pub security_groups: Option<Vec<String>>,
    pub instance_profile: Option<Option<String>>,
    pub timeout: Option<Duration>,
    pub max_age: Option<Duration>,
}

pub fn read_image(node: Node<'_>, found: &mut Diagnostics) -> RawImage {
    let fields = node.fields(keys::<Image>(), found);
    RawImage {
        size_gib: fields
            .get("size")
            .and_then(|node| node.parsed("a size", units::size_gib, found)),
        filesystem: choice(&fields, "filesystem", keys::<Filesystem>(), found),
        architecture: choice(&fields, "architecture", keys::<Architecture>(), found),
        boot_mode: choice(&fields, "boot_mode", keys::<BootMode>(), found),
    }
}

fn choice(
    fields: &Fields<'_>,
    key: &str,
    choices: &[&str],
    found: &mut Diagnostics,
) -> Option<String> {
    let help = format!("choose from: {}", choices.join(", "));
    fields.get(key)?.checked(
        "supported here",
        |text| choices.contains(&text),
        &help,
        found,
    )
}

pub fn read_build(node: Node<'_>, found: &mut Diagnostics) -> RawBuild {
    let fields = node.fields(keys::<Build>(), found);
    let subnets = fields.get("subnet").and_then(|node| {
        if node.is_null() {
            return Some(Vec::new());
        }
        node.one_or_more(
            "a subnet id",
            |text| text.starts_with("subnet-"),
            "write `subnet-…`, or null for the default one",
            found,
        )
    });
    let instance_profile = fields.get("instance_profile").and_then(|node| {
        if node.is_null() {
            return Some(None);
        }
        let filled = |text: &str| !text.trim().is_empty();
        let help = "write its name or ARN, or null";
        node.checked("an instance profile", filled, help, found)
            .map(Some)
    });
    let groups = fields.get("security_groups").map(|node| {
        let mut ids = Vec::new();
        for item in node.items(found) {
            let help = "write its id, `sg-…`; a name is not unique";
            ids.extend(item.checked(
                "a security group id",
                |text| text.starts_with("sg-"),
                help,
                found,
            ));
        }
        ids
    });
    let instance_types = fields.get("instance_type").and_then(|node| {
        node.one_or_more(
            "an instance type",
            |text| text.contains('.') && !text.contains(char::is_whitespace),
            "write one such as t3.medium",
            found,
        )
    });
    RawBuild {
        instance_types,
        subnets,
        security_groups: groups,
        instance_profile,
        timeout: fields
            .get("timeout")
            .and_then(|node| node.parsed("a duration", units::duration, found)),
        max_age: fields
            .get("max_age")
            .and_then(|node| node.parsed("an age", units::age, found)),
    }
}
