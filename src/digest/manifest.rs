//! The named inputs of a layer, and their canonical form.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Digest;
use crate::image::leaks::Sealed;
use crate::recipe::model::{BaseRef, ImageSpec, Resolved};
use crate::render::script::{
    InstalledDirectory, InstalledFile, InstalledLink, InstalledWorker, Layer, SEAL, SEALED_PATHS,
    SEALED_SECRETS, Script,
};

/// Name and version of the format; another version gives other digests.
pub const FORMAT: &str = "piaas-bake/manifest/1";

/// The inputs of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    pub recipe: String,
    pub version: semver::Version,
    /// Tags for the image, merged along the line. A layer without any has no such input.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What the layer stands on.
    pub on: Under,
    /// The base images that the lock file of the root pins, by region and architecture. A layer above has its parent's
    /// digest, and one without a lock has no such input.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pins: BTreeMap<String, String>,
    /// Packages by name. They are in a script too; here they can be told apart.
    pub packages: Vec<String>,
    /// Versions of what the lock file has, by package, likewise. A layer without a lock has no such input.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub locked: BTreeMap<String, String>,
    /// Files with the sha256 of their bytes, likewise.
    pub files: Vec<InstalledFile>,
    /// Directories of file trees. A layer without trees has no such input.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub directories: Vec<InstalledDirectory>,
    /// Symbolic links of file trees, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<InstalledLink>,
    /// References of the secrets that scripts read, by parameter; never a value. A layer without any has no such input.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// What it says about paths that the image must not have, or may, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sealed: Vec<Sealed>,
    /// The agent on the worker. A layer without one has no such input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<ManifestWorker>,
    pub provision: Vec<ManifestScript>,
    pub validate: Vec<ManifestScript>,
    pub test: Vec<ManifestScript>,
    pub image: ImageSpec,
    /// Of what cleans the builder before it becomes an image: the script and its table, one after the other.
    pub seal: Digest,
    /// What scripts find in `SOURCE_DATE_EPOCH`: as the lock file of the root pins it, else
    /// [`SOURCE_DATE`](crate::image::SOURCE_DATE).
    pub source_date: i64,
}

/// What a layer stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Under {
    /// An image that is not ours.
    Base(BaseRef),
    /// The layer below.
    Parent(Digest),
}

/// The agent on the worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestWorker {
    /// Of the binary.
    pub agent: Digest,
    /// Of what it is told.
    pub config: Digest,
}

/// A script, without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestScript {
    pub id: String,
    pub title: String,
    /// Of the rendered text.
    pub sha256: Digest,
    pub env: BTreeMap<String, String>,
    pub reboot: bool,
}

/// A text is not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("this is not a manifest: {0}")]
    Parse(#[from] serde_json::Error),
    #[error(
        "this manifest has the format `{0}`, this version reads `{FORMAT}`; use the piaas-bake that wrote it"
    )]
    Format(String),
}

impl Manifest {
    /// JSON with sorted keys, without blanks and without floating-point numbers: equal manifests give equal bytes.
    #[must_use]
    pub fn to_canonical_json(&self) -> String {
        let value = serde_json::to_value(self)
            .expect("a manifest holds texts, integers, lists and maps with text keys");
        let mut json = String::new();
        canonical(&value, &mut json);
        json
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// The text is not JSON of this shape, or of another format version.
    pub fn from_json(json: &str) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Format {
            format: String,
        }
        let Format { format } = serde_json::from_str(json)?;
        if format != FORMAT {
            return Err(ManifestError::Format(format));
        }
        Ok(serde_json::from_str(json)?)
    }

    /// The digest of the layer.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_canonical_json().as_bytes())
    }
}

/// Sorts the keys itself: whether `serde_json` does depends on the features that other crates ask of it.
pub(super) fn canonical(value: &serde_json::Value, json: &mut String) {
    use serde_json::Value;
    match value {
        Value::Array(items) => {
            json.push('[');
            for (n, item) in items.iter().enumerate() {
                json.push_str(if n > 0 { "," } else { "" });
                canonical(item, json);
            }
            json.push(']');
        }
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            json.push('{');
            for (n, (key, item)) in sorted.into_iter().enumerate() {
                json.push_str(if n > 0 { "," } else { "" });
                json.push_str(&Value::from(key.as_str()).to_string());
                json.push(':');
                canonical(item, json);
            }
            json.push('}');
        }
        other => json.push_str(&other.to_string()),
    }
}

/// The manifests and digests of a line, root first. `layers` are what `resolved` renders to.
#[must_use]
pub fn chain(resolved: &Resolved, layers: &[Layer]) -> Vec<(Manifest, Digest)> {
    // As merged up to each recipe, so a layer has the same digest in every line that holds it.
    let images = resolved.line.iter().map(|recipe| &recipe.image);
    chain_of(&resolved.base, layers.iter().zip(images))
}

/// As [`chain`], of layers on a base, each with the disk of its image.
#[must_use]
pub fn chain_of<'a>(
    base: &BaseRef,
    layers: impl Iterator<Item = (&'a Layer, &'a ImageSpec)>,
) -> Vec<(Manifest, Digest)> {
    let mut chain: Vec<(Manifest, Digest)> = Vec::new();
    for (layer, image) in layers {
        let on = chain.last().map_or_else(
            || Under::Base(base.clone()),
            |(_, digest)| Under::Parent(*digest),
        );
        let manifest = manifest(on, layer, image);
        let digest = manifest.digest();
        chain.push((manifest, digest));
    }
    chain
}

fn manifest(on: Under, layer: &Layer, image: &ImageSpec) -> Manifest {
    Manifest {
        format: FORMAT.into(),
        recipe: layer.recipe.clone(),
        version: layer.version.clone(),
        labels: layer.labels.clone(),
        on,
        packages: layer.packages.clone(),
        locked: layer.locked.clone(),
        pins: layer.pins.clone(),
        files: layer.files.clone(),
        directories: layer.directories.clone(),
        links: layer.links.clone(),
        secrets: layer.secrets.clone(),
        sealed: layer.sealed.clone(),
        worker: layer.worker.as_ref().map(worker),
        provision: layer.provision.iter().map(script).collect(),
        validate: layer.validate.iter().map(script).collect(),
        test: layer.test.iter().map(script).collect(),
        image: image.clone(),
        seal: if layer.secrets.is_empty() {
            Digest::of([SEAL, SEALED_PATHS].concat().as_bytes())
        } else {
            Digest::of([SEAL, SEALED_PATHS, SEALED_SECRETS].concat().as_bytes())
        },
        source_date: layer.source_date,
    }
}

fn worker(worker: &InstalledWorker) -> ManifestWorker {
    let digest = |hex: &str| hex.parse().expect("a rendered sha256 is one");
    ManifestWorker {
        agent: digest(&worker.agent),
        config: digest(&worker.config),
    }
}

pub(super) fn script(script: &Script) -> ManifestScript {
    ManifestScript {
        id: script.id.clone(),
        title: script.title.clone(),
        sha256: Digest::of(script.text.as_bytes()),
        env: script.env.clone(),
        reboot: script.reboot,
    }
}
