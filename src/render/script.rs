//! What a machine runs: scripts in order, and the payloads they install.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::image::SOURCE_DATE;
use crate::image::leaks::{self, Sealed};
use crate::recipe::model::Manager;
use crate::recipe::seconds;

/// Cleans a builder before it becomes an image, and asserts that it is clean.
pub const SEAL: &str = include_str!("../../templates/seal.sh");

/// The table that [`SEAL`] works through.
pub const SEALED_PATHS: &str = leaks::TABLE;

/// What [`SEALED_PATHS`] has besides on a machine that gets secrets.
pub const SEALED_SECRETS: &str =
    "\n# Secrets of steps.\nnow\tgone\t/run/piaas-bake-secrets\trandom: secrets of steps\n";

/// Everything one recipe of a line does, rendered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    pub recipe: String,
    pub version: semver::Version,
    /// Tags for the image, merged along the line up to this recipe.
    pub labels: BTreeMap<String, String>,
    /// What installs the packages.
    pub manager: Manager,
    /// The packages that `provision` installs, by name.
    pub packages: Vec<String>,
    /// The base images that its lock file pins, at the root of a line.
    #[serde(default)]
    pub pins: BTreeMap<String, String>,
    /// The versions of all packages that its lock file has, by name; empty without one.
    #[serde(default)]
    pub locked: BTreeMap<String, String>,
    /// What all scripts find in `SOURCE_DATE_EPOCH`, as the lock file at the root of the line pins it.
    #[serde(default = "source_date")]
    pub source_date: i64,
    /// The files that `provision` installs.
    pub files: Vec<InstalledFile>,
    /// Those of them that are downloaded.
    #[serde(default)]
    pub downloads: Vec<InstalledDownload>,
    /// The directories that trees of `provision` make.
    pub directories: Vec<InstalledDirectory>,
    /// The symbolic links in trees of `provision`.
    pub links: Vec<InstalledLink>,
    /// The secrets that its scripts read: the reference, by parameter.
    pub secrets: BTreeMap<String, String>,
    /// What it says about paths that the image must not have, or may.
    #[serde(default)]
    pub sealed: Vec<Sealed>,
    /// The agent on the worker, if this layer installs it.
    pub worker: Option<InstalledWorker>,
    /// Packages, files, the worker's agent and steps, in order.
    pub provision: Vec<Script>,
    /// Checks on the builder, after all provisioning of the line.
    pub validate: Vec<Script>,
    /// Checks on an instance booted from the new image.
    pub test: Vec<Script>,
    /// Bytes that scripts install, by their sha256 in hex; a script finds one at `"$PIAAS_BUNDLE/files/<sha256>"`.
    ///
    /// Not in the layer's JSON: a plan file keeps them beside it.
    #[serde(skip)]
    pub payloads: BTreeMap<String, Bytes>,
}

impl Layer {
    /// A layer that does nothing yet.
    #[must_use]
    pub fn new(recipe: impl Into<String>, version: semver::Version) -> Self {
        Self {
            recipe: recipe.into(),
            version,
            labels: BTreeMap::new(),
            manager: Manager::Apt,
            packages: Vec::new(),
            pins: BTreeMap::new(),
            locked: BTreeMap::new(),
            source_date: SOURCE_DATE,
            files: Vec::new(),
            downloads: Vec::new(),
            directories: Vec::new(),
            links: Vec::new(),
            secrets: BTreeMap::new(),
            sealed: Vec::new(),
            worker: None,
            provision: Vec::new(),
            validate: Vec::new(),
            test: Vec::new(),
            payloads: BTreeMap::new(),
        }
    }
}

fn source_date() -> i64 {
    SOURCE_DATE
}

/// A file that a layer installs; its bytes are the payload `sha256`, or are downloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledFile {
    /// Absolute path on the machine.
    pub path: String,
    pub owner: String,
    pub group: String,
    /// Four octal digits, such as `0644`.
    pub mode: String,
    pub sha256: String,
}

/// A file that a layer downloads.
///
/// The file counts for the digest as all files do: path, owner, group, mode and sha256. The URL counts too, because it
/// is in the script: a digest covers to the byte what a machine runs, and a plan file is held to that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstalledDownload {
    pub url: String,
    /// In hex.
    pub sha256: String,
}

/// A directory that a layer makes, 0755, unless it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledDirectory {
    /// Absolute path on the machine.
    pub path: String,
    pub owner: String,
    pub group: String,
}

/// A symbolic link that a layer makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledLink {
    /// Absolute path on the machine.
    pub path: String,
    /// Where it leads, relative to its directory.
    pub target: String,
    pub owner: String,
    pub group: String,
}

/// The agent that a layer installs, and what it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstalledWorker {
    /// sha256 of the binary, in hex.
    pub agent: String,
    /// sha256 of its configuration, in hex.
    pub config: String,
}

/// One script, complete: user values are in it, quoted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Unique in the line and stable: `<recipe>/<phase>-<NNN>-<slug>`; safe as a file name once `/` is replaced.
    pub id: String,
    /// For people.
    pub title: String,
    /// A first line `#!…` names the interpreter; without one it is `/bin/sh -eu`.
    pub text: String,
    /// Environment of the script, plain text.
    pub env: BTreeMap<String, String>,
    #[serde(rename = "timeout_seconds", with = "seconds")]
    pub timeout: Duration,
    pub retries: u32,
    pub reboot: bool,
}
