//! Templates to scripts.
//!
//! In a script every `{{ value }}` is one safe word of the shell, every list several (`quote`); what would break that is
//! refused with its place. Files and environment values are rendered as plain text, except a file template whose name
//! ends in `.sh.tera`: that is a script too. Packages and files of a recipe become one script each.

pub(crate) mod downloads;
mod engine;
mod layer;
pub mod locked;
pub mod machine;
pub(crate) mod origin;
mod own;
mod place;
mod quote;
pub mod script;
mod secrets;
pub(crate) mod tags;
pub(crate) mod template;
mod trees;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use script::{Layer, Script};

use crate::image::SOURCE_DATE;
use crate::image::leaks::Sealed;
use crate::recipe::diagnostic::{Diagnostic, Diagnostics};
use crate::recipe::model::{Location, Resolved};
use crate::recipe::{self, Given, Lock, Merged};
use crate::whole;

/// Renders a recipe line: one layer per recipe, root first. `agent` is the binary of the worker's agent, for recipes that
/// install it or have secrets ([`Resolved::needs_agent`]); a mere check for faults can do without, and gives none.
///
/// # Errors
/// Everything that is wrong with its templates, and parameters that none of them uses.
pub fn render(resolved: &Resolved, agent: &[u8]) -> Result<Vec<Layer>, Diagnostics> {
    render_but(&BTreeSet::new(), resolved, agent)
}

/// Loads a recipe line for a caller that renders it later.
///
/// # Errors
/// As [`recipe::load`]; if it is the merge that fails, with what is wrong with the templates, as [`lint`] says it.
pub fn load(dir: &Path, name: &str, given: &Given) -> Result<Resolved, Diagnostics> {
    let merged = recipe::merge_with(dir, name, given)?;
    if merged.found.is_empty() {
        return Ok(merged.resolved);
    }
    lint(merged)
}

/// Checks a recipe line for faults, also one whose recipes do not fit each other.
///
/// # Errors
/// What is wrong with the merge, and with every template; what follows from the merge alone is not said again.
pub fn lint(merged: Merged) -> Result<Resolved, Diagnostics> {
    let mut found = merged.found;
    if let Err(more) = render_but(&merged.in_doubt, &merged.resolved, &[]) {
        found.extend(more);
    }
    found.or(merged.resolved)
}

/// What the recipes of a line download, root first.
///
/// # Errors
/// What is wrong with the texts that say it.
pub fn downloads(resolved: &Resolved) -> Result<Vec<Vec<downloads::Asked>>, Diagnostics> {
    let (mut renderer, mut found) = (renderer(resolved), Diagnostics::default());
    let line = resolved.line.iter();
    let asked = line
        .map(|recipe| downloads::asked(recipe, &mut renderer, &mut found))
        .collect();
    found.or(asked)
}

fn renderer(resolved: &Resolved) -> template::Renderer {
    let mut of = resolved.about.values();
    let sampled = of.any(|about| about.origin == recipe::model::Origin::Sample);
    template::Renderer::new(&resolved.parameters).sampled(sampled)
}

/// Renders all but what names one of these parameters: that is only checked.
fn render_but(
    in_doubt: &BTreeSet<String>,
    resolved: &Resolved,
    agent: &[u8],
) -> Result<Vec<Layer>, Diagnostics> {
    let mut renderer = renderer(resolved).but(in_doubt);
    let mut found = Diagnostics::default();
    let mut below = false;
    let layers = resolved
        .line
        .iter()
        .map(|recipe| {
            let mut layer = layer::layer(recipe, agent, &mut renderer, &mut found);
            secrets::attach(recipe, &mut layer, &resolved.about, agent, &mut found);
            let lock = recipe.lock.as_ref();
            let (first, last) = locked::guards(&recipe.name, lock, below);
            layer.provision.splice(0..0, first);
            layer.provision.extend(last);
            layer.locked = lock.map(Lock::versions).unwrap_or_default();
            layer.pins = lock.map(Lock::pins).unwrap_or_default();
            layer.source_date = resolved.source_date();
            below |= lock.is_some();
            layer
        })
        .collect();
    // Only a clean look tells what is unused: a template that does not parse may use anything.
    if found.is_empty() {
        for (name, about) in &resolved.about {
            if !renderer.used().contains(name) {
                found.push(unused(name, &about.declared));
            }
        }
    }
    found.or(layers)
}

fn unused(name: &str, at: &Location) -> Diagnostic {
    layer::at_entry(
        at,
        format!("no template uses the parameter `{name}`"),
        &format!("name it in a template as `{{{{ {name} }}}}`, or remove it"),
    )
}

/// Writes what a bake from the base image on runs below `dir`, for people to read: `<recipe>/<phase>-<NNN>-<slug>`, the
/// environment of a script beside it in `….env`, payloads in `files/<sha256>`, the runner, its lists and the seal of each
/// machine in `builder.bundle` and `tester.bundle` (no recipe has a dot in its name), and `user-data.sh`. Returns the files
/// written, in order of their paths.
///
/// # Errors
/// `AlreadyExists` if there is anything in `dir`; whatever the file system says.
pub fn write_dir(layers: &[Layer], user_data: &str, dir: &Path) -> io::Result<Vec<PathBuf>> {
    let all = |of: fn(&Layer) -> &[Script]| -> Vec<Script> {
        layers.iter().flat_map(of).cloned().collect()
    };
    let (steps, validate, test) = (
        all(|layer| &layer.provision),
        all(|layer| &layer.validate),
        all(|layer| &layer.test),
    );
    let payloads = layers
        .iter()
        .flat_map(|layer| layer.payloads.clone())
        .collect();
    let sealed: Vec<Sealed> = layers
        .iter()
        .flat_map(|layer| layer.sealed.clone())
        .collect();
    let date = layers.last().map_or(SOURCE_DATE, |top| top.source_date);
    let lists = [("steps", &*steps), ("validate", &*validate)];
    let builder = machine::entries(&lists, &payloads, &sealed, date);
    let tester = machine::entries(&[("test", &test)], &payloads, &[], date);

    let mut files = BTreeMap::from([("user-data.sh".to_owned(), user_data.as_bytes())]);
    for (machine, entries) in [("builder", &builder), ("tester", &tester)] {
        for (path, entry) in entries {
            let place = match entry.is {
                machine::Kind::Script(script) => script.id.clone(),
                machine::Kind::Environment(script) if script.env.is_empty() => continue,
                machine::Kind::Environment(script) => format!("{}.env", script.id),
                machine::Kind::Payload => path.clone(),
                machine::Kind::Frame => format!("{machine}.bundle/{path}"),
            };
            files.insert(place, entry.bytes.as_ref());
        }
    }
    whole::fill(dir, |to| {
        for (place, bytes) in &files {
            let path = to.join(place);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, bytes)?;
        }
        Ok(())
    })?;
    Ok(files.into_keys().map(|place| dir.join(place)).collect())
}

#[cfg(test)]
mod tests;
