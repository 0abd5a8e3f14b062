//! The content hash: sha256 over a canonical manifest of named inputs, one per recipe of the line, chained.
//!
//! A manifest holds what decides the image and nothing else: no time, no host, no path of the checkout, no builder
//! setting. Its canonical form is JSON with sorted keys and no white space; the hash of that text is the digest. The
//! manifest of a child holds its parent's digest, so a change in a parent changes all its children. How long a step
//! may take and how often it is tried do not change what it makes, so they are not inputs.

mod explain;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::image::SOURCE_DATE;
use crate::recipe::model::{BaseRef, Resolved};
use crate::render::script::{Layer, Script};

pub use explain::explain;

/// The format of manifests; a change in what is hashed, or how, needs a new one.
pub const FORMAT: &str = "piaas-bake/manifest/1";

/// A sha256 in lower case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    /// The digest of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(hex::encode(Sha256::digest(bytes)))
    }

    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = text.len() == 64
            && text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        fits.then(|| Self(text.to_owned()))
    }

    /// All 64 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, for people and names.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The named inputs of one recipe of a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    pub recipe: String,
    pub version: String,
    /// The base image, at the root of a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BTreeMap<String, serde_json::Value>>,
    /// Digest of the parent recipe, elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Digest>,
    pub packages: Vec<String>,
    /// Path to `<sha256> <owner>:<group> <mode>`.
    pub files: BTreeMap<String, String>,
    /// In the order in which they run.
    pub provision: Vec<ScriptInput>,
    pub validate: Vec<ScriptInput>,
    pub test: Vec<ScriptInput>,
    /// Disk layout; an input of the last recipe of a line only, whose image it shapes.
    pub image: BTreeMap<String, String>,
    pub source_date: i64,
}

/// A script as an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptInput {
    pub title: String,
    /// Digest of the rendered text.
    pub text: Digest,
    /// Digest of each variable's value; the values may be long.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Digest>,
    pub reboot: bool,
}

impl From<&Script> for ScriptInput {
    fn from(script: &Script) -> Self {
        Self {
            title: script.title.clone(),
            text: Digest::of(script.text.as_bytes()),
            env: script
                .env
                .iter()
                .map(|(name, value)| (name.clone(), Digest::of(value.as_bytes())))
                .collect(),
            reboot: script.reboot,
        }
    }
}

impl Manifest {
    /// The canonical text: JSON, keys sorted, no white space.
    #[must_use]
    pub fn to_canonical_json(&self) -> String {
        // serde_json's maps are sorted by key; going through a value sorts the fields too.
        serde_json::to_value(self)
            .expect("a manifest is texts, numbers and lists")
            .to_string()
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// Not a manifest of this format.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let manifest: Self =
            serde_json::from_str(text).map_err(|error| format!("not a manifest: {error}"))?;
        if manifest.format == FORMAT {
            Ok(manifest)
        } else {
            Err(format!(
                "a manifest of the format {}; this version reads {FORMAT}",
                manifest.format
            ))
        }
    }

    /// The digest of these inputs.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_canonical_json().as_bytes())
    }
}

/// The manifests of a line and their digests, root first.
#[must_use]
pub fn chain(resolved: &Resolved, layers: &[Layer]) -> Vec<(Manifest, Digest)> {
    let mut chain: Vec<(Manifest, Digest)> = Vec::with_capacity(layers.len());
    for layer in layers {
        let parent = chain.last().map(|(_, digest)| digest.clone());
        let manifest = manifest(resolved, layer, parent);
        let digest = manifest.digest();
        chain.push((manifest, digest));
    }
    chain
}

fn manifest(resolved: &Resolved, layer: &Layer, parent: Option<Digest>) -> Manifest {
    let scripts = |scripts: &[Script]| scripts.iter().map(ScriptInput::from).collect();
    Manifest {
        format: FORMAT.to_owned(),
        recipe: layer.recipe.clone(),
        version: layer.version.to_string(),
        base: parent.is_none().then(|| base(&resolved.base)),
        parent,
        packages: layer.packages.clone(),
        files: layer.files.clone(),
        provision: scripts(&layer.provision),
        validate: scripts(&layer.validate),
        test: scripts(&layer.test),
        image: BTreeMap::from([
            (
                "architecture".to_owned(),
                resolved.image.architecture.clone(),
            ),
            ("boot_mode".to_owned(), resolved.image.boot_mode.clone()),
            ("filesystem".to_owned(), resolved.image.filesystem.clone()),
            ("size".to_owned(), format!("{}GiB", resolved.image.size_gib)),
        ]),
        source_date: SOURCE_DATE,
    }
}

fn base(base: &BaseRef) -> BTreeMap<String, serde_json::Value> {
    match serde_json::to_value(base) {
        Ok(serde_json::Value::Object(fields)) => fields.into_iter().collect(),
        _ => unreachable!("a base reference is an enum of structs, which serialises as an object"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format: FORMAT.to_owned(),
            recipe: "web".to_owned(),
            version: "1.0.0".to_owned(),
            base: Some(BTreeMap::from([
                ("kind".to_owned(), "ami".into()),
                ("id".to_owned(), "ami-1".into()),
            ])),
            parent: None,
            packages: vec!["nginx".to_owned()],
            files: BTreeMap::new(),
            provision: Vec::new(),
            validate: Vec::new(),
            test: Vec::new(),
            image: BTreeMap::new(),
            source_date: SOURCE_DATE,
        }
    }

    /// A known answer: whoever changes this changes every digest in the world and needs a new [`FORMAT`].
    #[test]
    fn the_canonical_form_is_fixed() {
        assert_eq!(
            manifest().to_canonical_json(),
            r#"{"base":{"id":"ami-1","kind":"ami"},"files":{},"format":"piaas-bake/manifest/1","image":{},"packages":["nginx"],"provision":[],"recipe":"web","source_date":1686355200,"test":[],"validate":[],"version":"1.0.0"}"#
        );
        assert_eq!(
            manifest().digest().as_str(),
            "5e66f89e6fc619fd88d4a262905e0506de8c4cfee23c2022b156053537e7babf"
        );
    }

    #[test]
    fn a_manifest_survives_its_text() {
        let text = manifest().to_canonical_json();
        assert_eq!(Manifest::from_json(&text), Ok(manifest()));
        assert!(
            Manifest::from_json(&text.replace("manifest/1", "manifest/9"))
                .unwrap_err()
                .contains("manifest/9")
        );
    }

    #[test]
    fn digests_are_64_hexadecimal_digits() {
        assert_eq!(Digest::of(b"").short(), "e3b0c44298fc");
        assert!(Digest::parse(Digest::of(b"x").as_str()).is_some());
        assert!(Digest::parse("ABC").is_none());
    }
}
