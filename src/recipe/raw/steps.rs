//! `steps`, `validate` and `test`: what runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::{is_one_line, read_when};
use crate::recipe::diagnostic::Diagnostics;
use crate::recipe::files;
use crate::recipe::format::{MOST_RETRIES, Step, keys};
use crate::recipe::model::{InlineText, Source, StepSpec};
use crate::recipe::node::Node;
use crate::recipe::units;

pub fn read_step(node: Node<'_>, dir: &Path, found: &mut Diagnostics) -> Option<StepSpec> {
    let fields = node.fields(keys::<Step>(), found);
    let name = fields
        .require("name", "say in a few words what the step does", found)
        .and_then(|node| {
            node.checked(
                "one line",
                is_one_line,
                "say in a few words what the step does",
                found,
            )
        });
    let source = fields.one_of(&Step::ONE_OF, found).and_then(|entry| {
        let node = entry.node;
        match entry.key {
            "run" => {
                let text = node.checked(
                    "a script",
                    |text| !text.trim().is_empty(),
                    "write at least one command",
                    found,
                )?;
                Some(Source::Inline(InlineText::of(&node, text)))
            }
            "script" => files::beside(node, dir, found).map(Source::Raw),
            _ => files::beside(node, dir, found).map(Source::Template),
        }
    });
    let env = fields
        .get("env")
        .map(|node| read_env(node, found))
        .unwrap_or_default();
    let timeout = match fields.get("timeout") {
        Some(node) => node.parsed("a duration", units::duration, found),
        None => Some(Duration::from_secs(600)),
    };
    let retries = match fields.get("retries") {
        Some(node) => node.count(MOST_RETRIES, found),
        None => Some(0),
    };
    let reboot = match fields.get("reboot") {
        Some(node) => node.boolean(found),
        None => Some(false),
    };
    let when = read_when(&fields, found);
    Some(StepSpec {
        name: name?,
        source: source?,
        env,
        timeout: timeout?,
        retries: retries?,
        reboot: reboot?,
        when,
        at: node.location(),
    })
}

pub fn read_env(node: Node<'_>, found: &mut Diagnostics) -> BTreeMap<String, InlineText> {
    let mut env = BTreeMap::new();
    for entry in node.entries(found) {
        if !units::is_env_name(entry.key) {
            let help = "use letters, digits and underscores, no digit first";
            found.push(entry.diagnostic(
                format!("`{}` is not the name of an environment variable", entry.key),
                help,
            ));
        } else if entry.key.starts_with("PIAAS_") {
            found.push(entry.diagnostic(
                format!("`{}` is reserved", entry.key),
                "names that begin with PIAAS_ belong to piaas-bake",
            ));
        } else if let Some(text) = entry.node.text(found) {
            let text = InlineText::of(&entry.node, text.to_string());
            env.insert(entry.key.to_string(), text);
        }
    }
    env
}
