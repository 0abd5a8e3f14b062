//! Regions: each has records of its own, and ids that no other knows.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use sha2::{Digest, Sha256};

use super::{BASE_IMAGE, BASE_SNAPSHOT, DEFAULT_REGION};

/// The regions of the partition `aws` (botocore, endpoints.json), and whether an account must opt in to them (AWS General
/// Reference, "Manage AWS Regions"). The account here has.
pub const REGIONS: [(&str, bool); 34] = [
    ("af-south-1", true),
    ("ap-east-1", true),
    ("ap-east-2", true),
    ("ap-northeast-1", false),
    ("ap-northeast-2", false),
    ("ap-northeast-3", false),
    ("ap-south-1", false),
    ("ap-south-2", true),
    ("ap-southeast-1", false),
    ("ap-southeast-2", false),
    ("ap-southeast-3", true),
    ("ap-southeast-4", true),
    ("ap-southeast-5", true),
    ("ap-southeast-6", true),
    ("ap-southeast-7", true),
    ("ca-central-1", false),
    ("ca-west-1", true),
    ("eu-central-1", false),
    ("eu-central-2", true),
    ("eu-north-1", false),
    ("eu-south-1", true),
    ("eu-south-2", true),
    ("eu-west-1", false),
    ("eu-west-2", false),
    ("eu-west-3", false),
    ("il-central-1", true),
    ("me-central-1", true),
    ("me-south-1", true),
    ("mx-central-1", true),
    ("sa-east-1", false),
    ("us-east-1", false),
    ("us-east-2", false),
    ("us-west-1", false),
    ("us-west-2", false),
];

/// Whether there is such a region.
#[must_use]
pub fn exists(region: &str) -> bool {
    REGIONS.iter().any(|(name, _)| *name == region)
}

/// The id of something that every region has from the beginning; the default region's is the usual one.
#[must_use]
pub fn id(region: &str, usual: &str) -> String {
    if region == DEFAULT_REGION {
        return usual.to_owned();
    }
    let prefix = usual.split('-').next().unwrap_or_default();
    let digest = hex::encode(Sha256::digest(format!("{region}/{usual}")));
    format!("{prefix}-0{}", &digest[..16])
}

/// The base image of a region.
#[must_use]
pub fn base_image(region: &str) -> String {
    id(region, BASE_IMAGE)
}

/// The snapshot of its root device.
#[must_use]
pub fn base_snapshot(region: &str) -> String {
    id(region, BASE_SNAPSHOT)
}

/// Whether a snapshot is a base image's in any region: each is one directory on this host.
#[must_use]
pub fn is_base_snapshot(snapshot: &str) -> bool {
    static ALL: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
        REGIONS
            .iter()
            .map(|(name, _)| base_snapshot(name))
            .collect()
    });
    ALL.contains(snapshot) || locked_digest(snapshot).is_some()
}

/// How many digits of the digest of a base that is locked its ids have.
pub const LOCKED_DIGITS: usize = 16;

/// An id, of an image or a snapshot, for the base of this digest: what ids of others never look like. It is the same in
/// all regions, as the base is.
#[must_use]
pub fn locked_id(prefix: &str, digest: &str) -> String {
    format!("{prefix}-b{digest:.LOCKED_DIGITS$}")
}

/// The first digits of the digest of a base, if the snapshot is of a locked one.
#[must_use]
pub fn locked_digest(snapshot: &str) -> Option<&str> {
    let digits = snapshot.strip_prefix("snap-b")?;
    let hex = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    (digits.len() == LOCKED_DIGITS && digits.bytes().all(hex)).then_some(digits)
}

/// The domain of private names (EC2 User Guide, "EC2 instance hostnames and domains").
#[must_use]
pub fn private_domain(region: &str) -> String {
    if region == DEFAULT_REGION {
        "ec2.internal".to_owned()
    } else {
        format!("{region}.compute.internal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_a_regions_own() {
        assert_eq!(base_image(DEFAULT_REGION), BASE_IMAGE);
        assert_ne!(base_image("eu-west-1"), base_image("eu-west-2"));
        assert_eq!(base_image("eu-west-1").len(), BASE_IMAGE.len());
        for (name, _) in REGIONS {
            assert!(is_base_snapshot(&base_snapshot(name)));
        }
        assert!(!is_base_snapshot("snap-00000000000000000"));
        let locked = locked_id("snap", &"0123456789abcdef".repeat(4));
        assert_eq!(locked_digest(&locked), Some("0123456789abcdef"));
        for other in [
            BASE_SNAPSHOT,
            "snap-b0123456789abcde",
            "snap-b../../../../../..",
        ] {
            assert_eq!(locked_digest(other), None, "{other}");
        }
        assert!(REGIONS.is_sorted());
    }
}
