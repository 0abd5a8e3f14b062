//! The line of a recipe: its parents up to an image that is not ours, merged into one.
//!
//! Rules of the merge, root first: packages, files, steps and checks keep their recipe and run in the order of the
//! line; `image` and `build` are taken key by key from the recipe nearest to the one asked for; a parameter belongs
//! to the recipe that declares it and all below it, and the nearest value wins, `--set` before all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::diagnostic::{Diagnostic, Diagnostics, nearest};
use super::model::{BaseRef, BuildSpec, ImageSpec, Location, Resolved, Value};
use super::raw::{self, From, Parameter, Raw, Type};

/// The longest line.
const MAX_LINE: usize = 32;

/// Names of the recipes in a directory, sorted: its folders that hold a `recipe.yaml`.
///
/// # Errors
/// The directory cannot be read.
pub fn names(recipes: &Path) -> Result<Vec<String>, Diagnostics> {
    let fail = |error: std::io::Error| {
        let finding = Diagnostic::general(
            None,
            format!("cannot read the recipes in {}: {error}", recipes.display()),
        );
        Diagnostics::from(finding.help("run this where `recipes/` is, or pass --recipes DIR"))
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(recipes).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if entry.path().join("recipe.yaml").is_file()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Loads a recipe and its line, checks it and merges it. `sets` are the values of `--set`, last one wins.
///
/// # Errors
/// Everything that is wrong with the recipes of the line or with the values.
pub fn load(
    recipes: &Path,
    name: &str,
    sets: &[(String, String)],
) -> Result<Resolved, Diagnostics> {
    resolve(recipes, name, sets, false)
}

/// Loads a recipe as [`load`] does, with a stand-in for each parameter that has no value: for looking at a recipe
/// that is not about to be baked.
///
/// # Errors
/// As [`load`].
pub fn load_for_lint(recipes: &Path, name: &str) -> Result<Resolved, Diagnostics> {
    resolve(recipes, name, &[], true)
}

fn resolve(
    recipes: &Path,
    name: &str,
    sets: &[(String, String)],
    stand_ins: bool,
) -> Result<Resolved, Diagnostics> {
    let (line, base) = read_line(recipes, name)?;
    let mut found = Vec::new();
    let parameters = merge_parameters(&line, sets, stand_ins, &mut found);
    let Some(leaf) = line.last() else {
        return Err(Diagnostic::general(None, "the line is empty").into());
    };
    let resolved = Resolved {
        name: leaf.own.name.clone(),
        version: leaf.own.version.clone(),
        description: leaf.description.clone(),
        base,
        parameters,
        declared: declarations(&line),
        image: merge_image(&line),
        build: merge_build(&line),
        line: line.iter().map(|raw| raw.own.clone()).collect(),
    };
    Diagnostics::check(found, resolved)
}

/// Reads the recipes from the one asked for up to the base; gives them root first.
fn read_line(recipes: &Path, name: &str) -> Result<(Vec<Raw>, BaseRef), Diagnostics> {
    let mut line: Vec<Raw> = Vec::new();
    let mut asked: Option<(semver::VersionReq, Location)> = None;
    let mut next = name.to_owned();
    loop {
        if let Some(first) = line.iter().position(|raw| raw.own.name == next) {
            let mut path: Vec<&str> = line[first..]
                .iter()
                .map(|raw| raw.own.name.as_str())
                .collect();
            path.push(&next);
            let message = format!(
                "the recipes build on each other in a circle: {}",
                path.join(" -> ")
            );
            return Err(
                with_place(message, asked, "let one of them start from a base image").into(),
            );
        }
        if line.len() == MAX_LINE {
            let message = format!("the line is longer than {MAX_LINE} recipes");
            return Err(with_place(message, asked, "merge some of them").into());
        }
        let dir = folder(recipes, &next)
            .map_err(|(message, help)| with_place(message, asked.clone(), &help))?;
        let raw = raw::read(&dir).map_err(|found| match Diagnostics::check(found, ()) {
            Err(found) => found,
            Ok(()) => {
                Diagnostic::general(Some(dir.join("recipe.yaml")), "the recipe cannot be read")
                    .into()
            }
        })?;
        if let Some((range, at)) = &asked
            && !range.matches(&raw.own.version)
        {
            let message = format!(
                "no version of `{next}` fits `{range}`: it is {}",
                raw.own.version
            );
            return Err(with_place(
                message,
                Some((range.clone(), at.clone())),
                "change the range or the parent",
            )
            .into());
        }
        let from = raw.from.clone();
        line.push(raw);
        match from {
            From::Base(base) => {
                line.reverse();
                return Ok((line, base));
            }
            From::Recipe { name, version, at } => {
                asked = Some((version, at));
                next = name;
            }
        }
    }
}

fn folder(recipes: &Path, name: &str) -> Result<PathBuf, (String, String)> {
    let dir = recipes.join(name);
    if raw::is_name(name) && dir.join("recipe.yaml").is_file() {
        return Ok(dir);
    }
    let known = names(recipes).unwrap_or_default();
    let help = match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => {
            "start one with `piaas-bake init NAME`, or pass --recipes DIR".to_owned()
        }
        None => format!("the recipes here are {}", known.join(", ")),
    };
    Err((
        format!("there is no recipe `{name}` in {}", recipes.display()),
        help,
    ))
}

fn with_place(
    message: String,
    asked: Option<(semver::VersionReq, Location)>,
    help: &str,
) -> Diagnostic {
    match asked {
        None => Diagnostic::general(None, message),
        Some((_, at)) => placed(&at, message),
    }
    .help(help)
}

/// A finding at a place in a file that is not at hand.
pub(crate) fn placed(at: &Location, message: impl Into<String>) -> Diagnostic {
    let text = std::fs::read_to_string(&at.file).unwrap_or_default();
    Diagnostic::at(&at.file, &text, at.line, at.column, message)
}

fn merge_parameters(
    line: &[Raw],
    sets: &[(String, String)],
    stand_ins: bool,
    found: &mut Vec<Diagnostic>,
) -> BTreeMap<String, Value> {
    let mut declared: BTreeMap<&str, (Type, &Parameter)> = BTreeMap::new();
    let mut values: BTreeMap<String, Value> = BTreeMap::new();
    for raw in line {
        for (name, parameter) in &raw.parameters {
            if let Some(kind) = parameter.declared {
                declared.insert(name, (kind, parameter));
                if parameter.value.is_none() {
                    values.remove(name);
                }
            }
            let Some(value) = &parameter.value else {
                continue;
            };
            match declared.get(name.as_str()) {
                None => found.push(undeclared(
                    name,
                    &declared,
                    placed(
                        &parameter.at,
                        format!("no recipe of the line declares `{name}`"),
                    ),
                )),
                Some((kind, _)) if !kind.fits(value) => {
                    let message = format!("`{name}` is of the type `{}`", kind.name());
                    found.push(placed(&parameter.at, message).help(
                        "change the value; a text needs quotes where YAML reads something else",
                    ));
                }
                Some(_) => {
                    values.insert(name.clone(), value.clone());
                }
            }
        }
    }
    for (name, text) in sets {
        match declared.get(name.as_str()) {
            None => found.push(undeclared(
                name,
                &declared,
                Diagnostic::general(
                    None,
                    format!("--set {name}: no recipe of the line declares it"),
                ),
            )),
            Some((kind, _)) => match kind.parse(text) {
                Some(value) => {
                    values.insert(name.clone(), value);
                }
                None => {
                    let message = format!(
                        "--set {name}: `{text}` is not of the type `{}`",
                        kind.name()
                    );
                    found
                        .push(Diagnostic::general(None, message).help("give a value of that type"));
                }
            },
        }
    }
    for (name, (kind, parameter)) in &declared {
        let set = sets.iter().any(|(set, _)| set == name);
        if values.contains_key(*name) || set {
            continue;
        }
        if stand_ins {
            values.insert((*name).to_owned(), kind.stand_in());
        } else {
            let finding = placed(
                &parameter.at,
                format!("the parameter `{name}` has no value"),
            );
            found.push(finding.help(format!("pass `--set {name}=VALUE`, or give it a default")));
        }
    }
    values
}

fn undeclared(
    name: &str,
    declared: &BTreeMap<&str, (Type, &Parameter)>,
    finding: Diagnostic,
) -> Diagnostic {
    match nearest(name, declared.keys().copied()) {
        Some(near) => finding.help(format!("did you mean `{near}`?")),
        None => finding.help(format!(
            "declare it: `{name}: {{ type: string, description: … }}`"
        )),
    }
}

fn declarations(line: &[Raw]) -> BTreeMap<String, Location> {
    let parameters = line.iter().flat_map(|raw| &raw.parameters);
    parameters
        .filter(|(_, parameter)| parameter.declared.is_some())
        .map(|(name, parameter)| (name.clone(), parameter.at.clone()))
        .collect()
}

fn merge_image(line: &[Raw]) -> ImageSpec {
    let nearest = |get: fn(&Raw) -> Option<String>| line.iter().rev().find_map(get);
    ImageSpec {
        size_gib: line
            .iter()
            .rev()
            .find_map(|raw| raw.image.size_gib)
            .unwrap_or(8),
        filesystem: nearest(|raw| raw.image.filesystem.clone())
            .unwrap_or_else(|| "ext4".to_owned()),
        architecture: nearest(|raw| raw.image.architecture.clone())
            .unwrap_or_else(|| "x86_64".to_owned()),
        boot_mode: nearest(|raw| raw.image.boot_mode.clone()).unwrap_or_else(|| "uefi".to_owned()),
    }
}

fn merge_build(line: &[Raw]) -> BuildSpec {
    let nearest = |get: fn(&Raw) -> Option<String>| line.iter().rev().find_map(get);
    BuildSpec {
        instance_type: nearest(|raw| raw.build.instance_type.clone())
            .unwrap_or_else(|| "t3.medium".to_owned()),
        subnet: nearest(|raw| raw.build.subnet.clone()),
        security_groups: line
            .iter()
            .rev()
            .find_map(|raw| raw.build.security_groups.clone())
            .unwrap_or_default(),
        instance_profile: nearest(|raw| raw.build.instance_profile.clone()),
        timeout: line
            .iter()
            .rev()
            .find_map(|raw| raw.build.timeout)
            .unwrap_or(Duration::from_secs(3600)),
    }
}
