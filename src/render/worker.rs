//! The agent on the worker, as a part of a layer: its binary, what it is told, and its unit.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::origin::Origin;
use super::own::Own;
use super::script::{InstalledFile, InstalledWorker};
use super::tags::Dialect;
use super::template::Renderer;
use crate::recipe::diagnostic::Diagnostics;
use crate::recipe::model::{InlineText, WorkerSpec};
use crate::worker::config::{self, Config};

/// The script that installs it.
pub static SCRIPT: LazyLock<Own> =
    LazyLock::new(|| Own::new(include_str!("../../templates/worker.sh.tera"), "files"));
const SERVICE: &str = include_str!("../../templates/piaas-worker.service");
const UNIT: &str = include_str!("../../templates/worker-unit.conf");

pub const TITLE: &str = "Install the worker agent";
pub const TIMEOUT: Duration = Duration::from_secs(300);
const BINARY: &str = "/usr/local/bin/piaas-worker";

/// What is to be installed; the bytes by their sha256.
pub struct Parts {
    pub files: Vec<InstalledFile>,
    pub payloads: BTreeMap<String, Bytes>,
    pub installed: InstalledWorker,
}

/// Renders the section of a recipe. `agent` is the binary. None: something is wrong with it, and `found` says what.
pub fn parts(
    spec: &WorkerSpec,
    agent: &[u8],
    renderer: &mut Renderer,
    found: &mut Diagnostics,
) -> Option<Parts> {
    let config = config(spec, renderer, found)?;
    let mut parts = Parts {
        files: Vec::new(),
        payloads: BTreeMap::new(),
        installed: InstalledWorker {
            agent: String::new(),
            config: String::new(),
        },
    };
    parts.installed.agent = parts.put(BINARY, "0755", agent);
    parts.installed.config = parts.put(config::PATH, "0644", config.to_json().as_bytes());
    parts.put(
        "/etc/systemd/system/piaas-worker.service",
        "0644",
        SERVICE.as_bytes(),
    );
    if let Config::Buildbot(buildbot) = &config {
        let path = format!(
            "/etc/systemd/system/{}.d/50-piaas-worker.conf",
            buildbot.unit
        );
        parts.put(&path, "0644", UNIT.as_bytes());
    }
    Some(parts)
}

impl Parts {
    /// Returns the sha256.
    fn put(&mut self, path: &str, mode: &str, bytes: &[u8]) -> String {
        let sha256 = hex::encode(Sha256::digest(bytes));
        self.files.push(InstalledFile {
            path: path.to_owned(),
            owner: "root".to_owned(),
            group: "root".to_owned(),
            mode: mode.to_owned(),
            sha256: sha256.clone(),
        });
        self.payloads
            .insert(sha256.clone(), Bytes::copy_from_slice(bytes));
        sha256
    }
}

fn config(spec: &WorkerSpec, renderer: &mut Renderer, found: &mut Diagnostics) -> Option<Config> {
    let mut text = |text: &InlineText| {
        renderer.render(&text.text, Origin::Inline(text), Dialect::Script, found)
    };
    match spec {
        WorkerSpec::Buildbot(config) => Some(Config::Buildbot(config.clone())),
        WorkerSpec::Command(commands) => {
            // All of them, so that everything that is wrong is found at once.
            let (status, stop) = (text(&commands.status), text(&commands.stop));
            let (stopped, start) = (text(&commands.stopped), text(&commands.start));
            Some(Config::Command(config::Command {
                status: status?,
                stop: stop?,
                stopped: stopped?,
                start: start?,
                timeout: commands.timeout.as_secs(),
            }))
        }
    }
}
