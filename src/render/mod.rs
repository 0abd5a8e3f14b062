//! Templates to scripts.
//!
//! In a script every `{{ value }}` is one safe word of the shell, every list several (`quote`); what would break that is
//! refused with its place. Files and environment values are rendered as plain text, except a file template whose name
//! ends in `.sh.tera`: that is a script too. Packages and files of a recipe become one script each.

mod engine;
mod layer;
pub(crate) mod origin;
mod place;
mod quote;
pub mod script;
mod secrets;
pub(crate) mod tags;
pub(crate) mod template;
mod trees;
mod worker;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use script::{Layer, Script};

use crate::recipe::diagnostic::{Diagnostic, Diagnostics};
use crate::recipe::files;
use crate::recipe::model::{Location, Resolved};

/// Renders a recipe line: one layer per recipe, root first. `agent` is the binary of the worker's agent, for recipes that
/// install it or have secrets ([`Resolved::needs_agent`]); a mere check for faults can do without, and gives none.
///
/// # Errors
/// Everything that is wrong with its templates, and parameters that none of them uses.
pub fn render(resolved: &Resolved, agent: &[u8]) -> Result<Vec<Layer>, Diagnostics> {
    let mut renderer = template::Renderer::new(&resolved.parameters);
    let mut found = Diagnostics::default();
    let layers = resolved
        .line
        .iter()
        .map(|recipe| {
            let mut layer = layer::layer(recipe, agent, &mut renderer, &mut found);
            secrets::attach(recipe, &mut layer, &resolved.about, agent, &mut found);
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
    // The file was read a moment ago; without it the message only lacks the line.
    let text = files::text(&at.file).unwrap_or_default();
    Diagnostic::at(
        at.clone(),
        &text,
        format!("no template uses the parameter `{name}`"),
        format!("name it in a template as `{{{{ {name} }}}}`, or remove it"),
    )
}

/// Writes all scripts and payloads below `dir`, for people to read: `<recipe>/<phase>-<NNN>-<slug>`, the environment of a
/// script beside it in `….env`, payloads in `files/<sha256>`. Returns the files written, in order.
///
/// # Errors
/// `AlreadyExists` if there is anything in `dir`; whatever the file system says.
pub fn write_dir(layers: &[Layer], dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(dir)?;
    if fs::read_dir(dir)?.next().is_some() {
        let message = format!("{} is not empty", dir.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    let mut written = Vec::new();
    let mut put = |path: PathBuf, bytes: &[u8]| -> io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, bytes)?;
        written.push(path);
        Ok(())
    };
    for layer in layers {
        for script in layer
            .provision
            .iter()
            .chain(&layer.validate)
            .chain(&layer.test)
        {
            put(dir.join(&script.id), script.text.as_bytes())?;
            if !script.env.is_empty() {
                put(
                    dir.join(format!("{}.env", script.id)),
                    env_text(script).as_bytes(),
                )?;
            }
        }
        for (sha256, bytes) in &layer.payloads {
            put(dir.join("files").join(sha256), bytes)?;
        }
    }
    Ok(written)
}

fn env_text(script: &Script) -> String {
    let mut out = Vec::new();
    for (name, value) in &script.env {
        out.extend_from_slice(format!("export {name}=").as_bytes());
        quote::quote(value, &mut out)
            .expect("rendering refuses NUL, and writing to memory cannot fail");
        out.push(b'\n');
    }
    String::from_utf8(out).expect("texts in quotes are text")
}

#[cfg(test)]
mod tests;
