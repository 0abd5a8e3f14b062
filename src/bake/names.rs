//! Names and tokens. Pure.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use semver::Version;
use sha2::{Digest as _, Sha256};

use crate::journal::RunHeader;
use crate::recipe::units::is_sha256;

/// Id of one run: UTC time and eight hex digits of chance, such as `20260102T030405-1f2e3d4c`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunId(String);

impl RunId {
    /// The id of a run that starts now.
    #[must_use]
    pub fn new(now: Timestamp, chance: u32) -> Self {
        Self(format!("{}-{chance:08x}", now.strftime("%Y%m%dT%H%M%S")))
    }

    /// The id of a run that was begun before.
    #[must_use]
    pub fn of(header: &RunHeader) -> Self {
        Self(header.run.clone())
    }

    /// When a run of this id started; `None` if it is no id of a run.
    #[must_use]
    pub fn started(id: &str) -> Option<Timestamp> {
        let (time, chance) = id.split_once('-')?;
        let is_chance = chance.len() == 8 && chance.bytes().all(|b| b.is_ascii_hexdigit());
        let time = Timestamp::strptime("%Y%m%dT%H%M%S%z", format!("{time}+0000")).ok()?;
        is_chance.then_some(time)
    }

    /// As text: the value of the run tag and the name of the run's files.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A number that differs between runs, to spread their pauses.
    pub(super) fn seed(&self) -> u64 {
        let hash = Sha256::digest(self.0.as_bytes());
        u64::from_le_bytes(std::array::from_fn(|index| hash[index]))
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The most characters an AMI's name may have (EC2 API Reference, `CreateImage`).
pub const IMAGE_NAME_LIMIT: usize = 128;

/// `<recipe>-<version>-<digest12>`. A `+` of the version becomes `_`: EC2 does not take it.
#[must_use]
pub fn image_name(recipe: &str, version: &Version, digest: &str) -> String {
    format!("{recipe}-{version}-{}", &digest[..digest.len().min(12)]).replace('+', "_")
}

/// `piaas-bake-layer-<recipe>-<digest32>`, of the layer of a script.
#[must_use]
pub fn layer_name(recipe: &str, digest: &str) -> String {
    let name = format!("piaas-bake-layer-{recipe}");
    let short: String = name.chars().take(IMAGE_NAME_LIMIT - 33).collect();
    format!("{short}-{}", &digest[..digest.len().min(32)])
}

/// `name` if it is free, else the first free one of `name-2`, `name-3`, …
#[must_use]
pub fn free_name(name: &str, taken: &BTreeSet<&str>) -> String {
    std::iter::once(name.to_owned())
        .chain((2u32..).map(|number| format!("{name}-{number}")))
        .find(|candidate| !taken.contains(candidate.as_str()))
        .unwrap_or_else(|| name.to_owned())
}

/// A client token: the same for a repeated call of the same step, 64 characters as EC2 allows.
#[must_use]
pub fn client_token(digest: &str, run: &RunId, step: &str) -> String {
    hex::encode(Sha256::digest(
        format!("{digest}\n{run}\n{step}").as_bytes(),
    ))
}

/// The place in S3 where bundles are put for machines to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleStore {
    pub bucket: String,
    /// What keys begin with, without a slash at either end; perhaps empty.
    pub prefix: String,
}

impl BundleStore {
    /// The key of a bundle: of this run alone, and told from its others by the SHA-256.
    #[must_use]
    pub fn key(&self, run: &RunId, sha256: &[u8; 32]) -> String {
        self.below(&format!("{run}/{}.tar.gz", hex::encode(sha256)))
    }

    /// The run whose bundle lies under a key; `None` for what is no bundle's.
    #[must_use]
    pub fn run_of<'k>(&self, key: &'k str) -> Option<&'k str> {
        let (run, file) = key.strip_prefix(&self.below(""))?.split_once('/')?;
        let is_bundle = is_sha256(file.strip_suffix(".tar.gz")?);
        (is_bundle && RunId::started(run).is_some()).then_some(run)
    }

    /// The key of something of ours; `*` stands for all.
    #[must_use]
    pub fn below(&self, rest: &str) -> String {
        if self.prefix.is_empty() {
            rest.to_owned()
        } else {
            format!("{}/{rest}", self.prefix)
        }
    }
}

/// A name that an image goes by: what an SSM parameter points at.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// The image to use.
    Latest,
    /// A tested image that somebody may choose to use.
    Candidate,
}

impl Channel {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Latest, Self::Candidate];

    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Latest => "latest",
            Self::Candidate => "candidate",
        }
    }

    /// SSM parameter that holds the id of the image of a recipe.
    #[must_use]
    pub fn parameter(self, recipe: &str) -> String {
        format!("/piaas-bake/{recipe}/{}", self.as_str())
    }
}

/// SSM parameter that holds the packages of an image; see [`super::packages`]. Further parts as for manifests.
#[must_use]
pub fn packages_parameter(image: &str) -> String {
    format!("{IMAGES}{image}/packages")
}

/// SSM parameter that holds the manifest of a digest; see [`super::images::manifest`] for further parts.
#[must_use]
pub fn manifest_parameter(digest: &str) -> String {
    format!("{MANIFESTS}{digest}")
}

const MANIFESTS: &str = "/piaas-bake/manifests/";
const IMAGES: &str = "/piaas-bake/images/";

/// What a parameter, or a part of it, tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Noted {
    /// The manifest of this digest.
    Manifest(String),
    /// What was installed into the image of this id.
    Packages(String),
}

impl Noted {
    /// What the names of all of them begin with.
    pub const PLACES: [&str; 2] = [MANIFESTS, IMAGES];

    /// Reads a parameter's name; `None` if it is no note of ours.
    pub fn read(parameter: &str) -> Option<Self> {
        if let Some(digest) = manifest_digest(parameter) {
            return is_sha256(digest).then(|| Self::Manifest(digest.to_owned()));
        }
        let (image, rest) = parameter.strip_prefix(IMAGES)?.split_once('/')?;
        let part = rest.strip_prefix("packages")?;
        let is_part = part.is_empty() || part.strip_prefix('.')?.parse::<u8>().is_ok();
        (image.starts_with("ami-") && is_part).then(|| Self::Packages(image.to_owned()))
    }
}

/// The digest whose manifest, or a part of it, a parameter of this name holds.
#[must_use]
pub(super) fn manifest_digest(parameter: &str) -> Option<&str> {
    let name = parameter.strip_prefix(MANIFESTS)?;
    Some(name.split_once('.').map_or(name, |(digest, _)| digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_id_sorts_by_time() {
        let early = RunId::new("2026-01-02T03:04:05Z".parse().unwrap(), 0xffff_ffff);
        let late = RunId::new("2026-01-02T03:04:06Z".parse().unwrap(), 0);
        assert_eq!(early.as_str(), "20260102T030405-ffffffff");
        assert!(early < late);
        assert_ne!(early.seed(), late.seed());
    }

    #[test]
    fn only_what_a_run_has_named_is_read_as_such() {
        let started = "2026-01-02T03:04:05Z".parse().unwrap();
        let run = RunId::new(started, 0x1f2e_3d4c);
        assert_eq!(RunId::started(run.as_str()), Some(started));
        for other in [
            "",
            "20260102T030405",
            "20260102T030405-1f2e3d4",
            "20260132T030405-1f2e3d4c",
        ] {
            assert_eq!(RunId::started(other), None, "{other}");
        }
        for prefix in ["", "some/where"] {
            let store = BundleStore {
                bucket: "b".into(),
                prefix: prefix.into(),
            };
            let key = store.key(&run, &[7; 32]);
            assert_eq!(store.run_of(&key), Some(run.as_str()));
            for other in [
                format!("x{key}"),
                format!("{key}.tmp"),
                key.replace("0707", "07x7"),
            ] {
                assert_eq!(store.run_of(&other), None, "{other}");
            }
        }
    }

    #[test]
    fn notes_are_told_from_other_parameters() {
        let digest = "ab".repeat(32);
        let manifest = Noted::Manifest(digest.clone());
        assert_eq!(
            Noted::read(&manifest_parameter(&digest)),
            Some(manifest.clone())
        );
        assert_eq!(
            Noted::read(&format!("{}.2", manifest_parameter(&digest))),
            Some(manifest)
        );
        let packages = packages_parameter("ami-1");
        assert_eq!(
            Noted::read(&packages),
            Some(Noted::Packages("ami-1".into()))
        );
        assert_eq!(
            Noted::read(&format!("{packages}.2")),
            Some(Noted::Packages("ami-1".into()))
        );
        for other in [
            "/piaas-bake/web/latest",
            "/piaas-bake/manifests/abc",
            "/piaas-bake/images/ami-1/mine",
        ] {
            assert_eq!(Noted::read(other), None, "{other}");
        }
    }

    #[test]
    fn image_names_hold_twelve_digits_and_no_plus() {
        let name = image_name(
            "web",
            &Version::parse("1.0.0+b7").unwrap(),
            &"ab".repeat(32),
        );
        assert_eq!(name, "web-1.0.0_b7-abababababab");
    }

    #[test]
    fn a_taken_name_gets_the_next_number() {
        assert_eq!(free_name("a", &BTreeSet::new()), "a");
        assert_eq!(free_name("a", &BTreeSet::from(["a", "a-2"])), "a-3");
    }

    #[test]
    fn tokens_are_stable_and_differ_by_step() {
        let run = RunId::new(Timestamp::UNIX_EPOCH, 1);
        let token = client_token("d", &run, "builder");
        assert_eq!(token, client_token("d", &run, "builder"));
        assert_ne!(token, client_token("d", &run, "tester"));
        assert_eq!(token.len(), 64);
    }
}
