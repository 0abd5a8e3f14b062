//! A recipe to start from.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, Diagnostics, suggest};
use super::load::{FILE, line, names};
use super::{schema, units};
use crate::whole;

/// Writes a short, commented recipe that lints clean, and returns the files written; among them the
/// JSON Schema, if the directory has none. `from` is the name of a recipe, an
/// SSM parameter (`/…`) or an AMI id.
///
/// # Errors
/// The name is not a recipe name, something of that name is already there, `from` is unknown, or the disk says no.
pub fn init(dir: &Path, name: &str, from: &str) -> Result<Vec<PathBuf>, Diagnostics> {
    if !units::is_recipe_name(name) {
        let help = "use lower-case letters, digits and hyphens, a letter first";
        return Err(Diagnostic::new(format!("`{name}` is not a recipe name"), help).into());
    }
    let base = match from {
        _ if from.starts_with('/') => format!("ssm: {from}"),
        _ if from.starts_with("ami-") => format!("ami: {from}"),
        _ => parent_line(dir, from)?,
    };
    let home = dir.join(name);
    let file = home.join(FILE);
    let failed = |error: std::io::Error| {
        Diagnostics::from(Diagnostic::new(
            format!("cannot write {}: {error}", file.display()),
            "check the path and its permissions",
        ))
    };
    let taken = || {
        let help = "choose another name, or remove it first";
        Diagnostics::from(Diagnostic::new(
            format!("{} is already there", home.display()),
            help,
        ))
    };
    fs::create_dir_all(dir).map_err(failed)?;
    match fs::create_dir(&home) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            if !is_vacant(&home, &file) {
                return Err(taken());
            }
        }
        made => made.map_err(failed)?,
    }
    // For editors; one that is there already is left as it is.
    let schema = dir.join(schema::FILE);
    let mut written = vec![file.clone()];
    if !schema.exists() {
        whole::replace(&schema, schema::text().as_bytes()).map_err(failed)?;
        written.push(schema);
    }
    let text = recipe(name, &base);
    match whole::create(&file, 0o644, |new| new.write_all(text.as_bytes())) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(taken()),
        made => made.map(|()| written).map_err(failed),
    }
}

/// Whether there is nothing but what a process has left that died before it had written the file.
fn is_vacant(home: &Path, file: &Path) -> bool {
    let unfinished = whole::beside(file);
    fs::read_dir(home).is_ok_and(|mut entries| {
        entries.all(|entry| entry.is_ok_and(|entry| entry.path() == unfinished))
    })
}

fn parent_line(dir: &Path, from: &str) -> Result<String, Diagnostics> {
    let known = names(dir).unwrap_or_default();
    if !known.iter().any(|candidate| candidate == from) {
        let help = format!(
            "{} An SSM parameter (/aws/service/…) or an AMI id will do too",
            suggest(from, known.iter().map(String::as_str))
        );
        return Err(
            Diagnostic::new(format!("there is no recipe `{from}` to build on"), help).into(),
        );
    }
    let recipes = line(dir, from)?.recipes;
    let parent = &recipes
        .last()
        .expect("a line that was read holds the recipe it was read for")
        .version;
    // Before 1.0.0 every minor version may break (semver.org, 4).
    let range = if parent.major == 0 {
        format!("^0.{}", parent.minor)
    } else {
        format!("^{}", parent.major)
    };
    Ok(format!("recipe: {from}, version: {range}"))
}

fn recipe(name: &str, base: &str) -> String {
    format!(
        "{}
schema: piaas-bake/v1
name: {name}
version: 0.1.0
description: Says hello from a file.
from: {{ {base} }}   # a recipe, or an image: ssm, ami, filter
parameters:
  greeting: {{ type: string, default: Hello, description: What the file says. }}   # also: enum, pattern
packages: []          # Debian packages, such as [git, curl]
files:
  - {{ path: /etc/greeting, content: \"{{{{ greeting }}}}\\n\" }}   # or `source:` a file beside this one, `tree:` a directory
steps:
  - {{ name: Show it, run: cat /etc/greeting }}   # under a condition: `when: greeting != \"\"`
test:                 # on a machine booted from the new image
  - {{ name: The greeting is there, run: \"grep -Fx {{{{ greeting }}}} /etc/greeting\" }}
",
        schema::HEADER
    )
}
