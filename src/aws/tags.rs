//! The names of the tags, in one place. Everything that a run creates carries them from its creation on.

use std::collections::BTreeMap;

/// Run that created it.
pub const RUN: &str = "piaas-bake:run";
/// Name of the recipe.
pub const RECIPE: &str = "piaas-bake:recipe";
/// Version of the recipe.
pub const VERSION: &str = "piaas-bake:version";
/// Digest of the image, 64 hex digits.
pub const DIGEST: &str = "piaas-bake:digest";
/// When anyone may remove it, RFC 3339; [`NEVER`] on a finished image and its snapshots.
pub const EXPIRES: &str = "piaas-bake:expires";
/// Value of [`EXPIRES`] of what is to stay. A tag cannot be taken away in the call that sets another one.
pub const NEVER: &str = "never";
/// Status of an image: [`STATUS_TESTING`] or [`STATUS_READY`].
pub const STATUS: &str = "piaas-bake:status";
/// Id of the image at the root of the line.
pub const BASE_IMAGE: &str = "piaas-bake:base-image";
/// Of the layer of a single script: the digest of that script on all below it.
pub const LAYER: &str = "piaas-bake:layer";
/// What the console shows.
pub const NAME: &str = "Name";

/// An image that has not passed its tests yet.
pub const STATUS_TESTING: &str = "testing";
/// An image that has passed its tests and is complete.
pub const STATUS_READY: &str = "ready";

/// Tags by key. Sorted, so that requests are the same for the same input.
pub type Tags = BTreeMap<String, String>;

/// The longest tag value, in characters (EC2 User Guide, "Tag restrictions").
const VALUE_LIMIT: usize = 256;

/// Adds a tag, its value cut to what EC2 takes.
pub fn put(tags: &mut Tags, key: &str, value: &str) {
    tags.insert(key.to_owned(), value.chars().take(VALUE_LIMIT).collect());
}

/// The tags as EC2 takes them.
#[must_use]
pub fn to_ec2(tags: &Tags) -> Vec<aws_sdk_ec2::types::Tag> {
    tags.iter()
        .map(|(key, value)| {
            aws_sdk_ec2::types::Tag::builder()
                .key(key)
                .value(value)
                .build()
        })
        .collect()
}

/// The tags as EC2 gives them.
#[must_use]
pub fn from_ec2(tags: &[aws_sdk_ec2::types::Tag]) -> Tags {
    tags.iter()
        .map(|tag| {
            (
                tag.key().unwrap_or_default().to_owned(),
                tag.value().unwrap_or_default().to_owned(),
            )
        })
        .collect()
}

/// Tags for one kind of resource, as requests that create it take them.
#[must_use]
pub fn specification(
    resource: aws_sdk_ec2::types::ResourceType,
    tags: &Tags,
) -> aws_sdk_ec2::types::TagSpecification {
    aws_sdk_ec2::types::TagSpecification::builder()
        .resource_type(resource)
        .set_tags(Some(to_ec2(tags)))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_cut_by_characters() {
        let mut tags = Tags::new();
        put(&mut tags, NAME, &"ü".repeat(300));
        assert_eq!(tags[NAME].chars().count(), 256);
    }

    #[test]
    fn tags_come_back_from_ec2() {
        let tags = Tags::from([
            (RUN.to_owned(), "r".to_owned()),
            (NAME.to_owned(), "n".to_owned()),
        ]);
        assert_eq!(from_ec2(&to_ec2(&tags)), tags);
    }
}
