//! Digests of single scripts of a line, chained: what a builder is like after each of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::manifest::{canonical, script};
use super::{Digest, ManifestScript};
use crate::render::machine::RUNNER;
use crate::render::script::Layer;

/// Name and version of the format; another version gives other digests.
const FORMAT: &str = "piaas-bake/step/1";

/// What a script's outcome depends on.
#[derive(Serialize)]
struct Inputs<'a> {
    format: &'static str,
    /// The id of the base image, or the digest of the script before.
    on: &'a str,
    sha256: Digest,
    env: &'a BTreeMap<String, String>,
    reboot: bool,
    /// References of the secrets that its recipe reads.
    secrets: &'a BTreeMap<String, String>,
    /// What runs it.
    runner: Digest,
    source_date: i64,
}

/// A script of a line, and what a builder is after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub recipe: String,
    pub script: ManifestScript,
    /// It stands for all scripts up to this one and for the base image.
    pub digest: Digest,
}

/// The scripts that provision a line, root first, on this base image.
#[must_use]
pub fn steps<'a>(base: &str, layers: impl Iterator<Item = &'a Layer>) -> Vec<Step> {
    let runner = Digest::of(RUNNER.as_bytes());
    let mut on = base.to_owned();
    let mut steps = Vec::new();
    for layer in layers {
        for one in &layer.provision {
            let script = script(one);
            let inputs = Inputs {
                format: FORMAT,
                on: &on,
                sha256: script.sha256,
                env: &script.env,
                reboot: script.reboot,
                secrets: &layer.secrets,
                runner,
                source_date: layer.source_date,
            };
            let value = serde_json::to_value(&inputs)
                .expect("the inputs are texts, integers and maps with text keys");
            let mut json = String::new();
            canonical(&value, &mut json);
            let digest = Digest::of(json.as_bytes());
            on = digest.to_string();
            steps.push(Step {
                recipe: layer.recipe.clone(),
                script,
                digest,
            });
        }
    }
    steps
}
