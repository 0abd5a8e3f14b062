//! What a machine runs: scripts in order, and the payloads they install.

use std::collections::BTreeMap;
use std::time::Duration;

/// Everything one recipe of a line does, rendered.
#[derive(Debug, Clone)]
pub struct Layer {
    pub recipe: String,
    pub version: semver::Version,
    /// Names of the packages that it installs, for the manifest.
    pub packages: Vec<String>,
    /// Files that it installs, for the manifest: path to `<sha256> <owner>:<group> <mode>`.
    pub files: BTreeMap<String, String>,
    /// Packages, files and steps, in order.
    pub provision: Vec<Script>,
    /// Checks on the builder, after all provisioning of the line.
    pub validate: Vec<Script>,
    /// Checks on an instance booted from the new image.
    pub test: Vec<Script>,
    /// Bytes that scripts install, by their sha256 in hex; a script finds one at `"$PIAAS_BUNDLE/files/<sha256>"`.
    pub payloads: BTreeMap<String, Vec<u8>>,
}

/// One script, complete: user values are in it, quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Unique in the line and stable: `<recipe>/<phase>-<NNN>-<slug>`; safe as a file name once `/` is replaced.
    pub id: String,
    /// For people.
    pub title: String,
    /// A first line `#!…` names the interpreter; without one it is `/bin/sh -eu`.
    pub text: String,
    /// Environment of the script, plain text.
    pub env: BTreeMap<String, String>,
    pub timeout: Duration,
    pub retries: u32,
    pub reboot: bool,
}
