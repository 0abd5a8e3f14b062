//! `worker`: the CI agent that the agent on the machine talks to.

use std::path::PathBuf;
use std::time::Duration;

use crate::recipe::diagnostic::Diagnostics;
use crate::recipe::format::{Adapter, Buildbot, Command, keys};
use crate::recipe::model::{InlineText, WorkerCommands, WorkerSpec};
use crate::recipe::node::{Fields, Node};
use crate::recipe::units;
use crate::worker::config;

/// Where the unit of a worker reports, if the recipe does not say.
const REPORT: &str = "/run/buildbot-worker/report.json";
const TIMEOUT: Duration = Duration::from_secs(10);
/// Three commands, one after the other, must end before systemd takes the agent for hung.
const LONGEST: Duration = Duration::from_secs(30);

pub fn read_worker(node: Node<'_>, found: &mut Diagnostics) -> Option<WorkerSpec> {
    if node.is_null() {
        let help = "what a parent installed stays; change it with a `worker` section, or leave it";
        found.push(node.diagnostic("`worker` cannot be taken away", help));
        return None;
    }
    let before = found.0.len();
    let adapter = adapter(&node, found)?;
    let spec = if adapter == "buildbot" {
        buildbot(&node.fields(keys::<Buildbot>(), found), found)
    } else {
        command(&node.fields(keys::<Command>(), found), found)
    };
    spec.filter(|_| found.0.len() == before)
}

/// Read first: which other keys are known depends on it.
fn adapter<'d>(node: &Node<'d>, found: &mut Diagnostics) -> Option<&'d str> {
    let help = "write `adapter: buildbot`, or `adapter: command` with commands of your own";
    let entry = node
        .entries(found)
        .into_iter()
        .find(|entry| entry.key == "adapter");
    let Some(entry) = entry else {
        if node.is_map() {
            found.push(node.diagnostic("`adapter` is missing", help));
        }
        return None;
    };
    let name = entry.node.text(found)?;
    let adapters = keys::<Adapter>();
    if adapters.contains(&name) {
        return Some(name);
    }
    found.push(entry.node.diagnostic(
        format!("`{name}` is not an adapter"),
        format!("choose from: {}", adapters.join(", ")),
    ));
    None
}

fn buildbot(fields: &Fields<'_>, found: &mut Diagnostics) -> Option<WorkerSpec> {
    let help = "write the worker's unit, such as `unit: buildbot-worker@ci.service`";
    let unit = fields
        .require("unit", help, found)
        .and_then(|node| node.checked("the name of a service", units::is_service, help, found));
    let report = match fields.get("report") {
        None => Some(REPORT.to_owned()),
        Some(node) => node.checked(
            "an absolute path below /run",
            |text| text.starts_with("/run/") && !text.split('/').any(|part| part == ".."),
            "the worker writes it anew after each boot; write a path below /run",
            found,
        ),
    };
    Some(WorkerSpec::Buildbot(config::Buildbot {
        unit: unit?,
        report: PathBuf::from(report?),
    }))
}

fn command(fields: &Fields<'_>, found: &mut Diagnostics) -> Option<WorkerSpec> {
    let mut text = |key: &str, help: &str| -> Option<InlineText> {
        let node = fields.require(key, help, found)?;
        let filled = |text: &str| !text.trim().is_empty();
        let text = node.checked("a command", filled, help, found)?;
        Some(InlineText::of(&node, text))
    };
    let status = text(
        "status",
        "a command that ends with 0 when no job runs, and with 1 when jobs run; each line of its output names one",
    );
    let stop = text(
        "stop",
        "a command that makes the CI agent take no more jobs, also after a reboot",
    );
    let stopped = text(
        "stopped",
        "a command that ends with 0 when the CI agent takes no more jobs, and with 1 while it does",
    );
    let start = text("start", "a command that makes the CI agent take jobs again");
    let timeout = match fields.get("timeout") {
        None => Some(TIMEOUT),
        Some(node) => node.parsed(
            "a duration",
            |text| match units::duration(text)? {
                limit if limit > LONGEST => Err(format!("at most {} s", LONGEST.as_secs())),
                limit if limit < Duration::from_secs(1) => Err("at least 1 s".to_owned()),
                limit => Ok(limit),
            },
            found,
        ),
    };
    Some(WorkerSpec::Command(Box::new(WorkerCommands {
        status: status?,
        stop: stop?,
        stopped: stopped?,
        start: start?,
        timeout: timeout?,
    })))
}
