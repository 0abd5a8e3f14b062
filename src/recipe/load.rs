//! From a name to a merged recipe: read the line of recipes up to its base, then merge it, root first.

use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, Diagnostics, suggest, top_of};
use super::files;
use super::merge::{self, Merged};
use super::model::{BaseRef, Resolved};
use super::node::Document;
use super::raw::{self, From, Place, RawRecipe};

/// The file that makes a directory a recipe.
pub const FILE: &str = "recipe.yaml";
/// What somebody wrote who meant [`FILE`].
const MISNAMED: &str = "recipe.yml";

/// A line as it was read: root first, with the base it stands on.
#[derive(Debug)]
pub struct Line {
    pub recipes: Vec<RawRecipe>,
    pub base: BaseRef,
}

/// The names of the recipes in a directory, sorted; also of those whose file cannot be read or has the other extension.
///
/// # Errors
/// The directory cannot be read.
pub fn names(dir: &Path) -> Result<Vec<String>, Diagnostics> {
    let entries = dir.read_dir().map_err(|error| {
        let help = "name the directory of the recipes with `--recipes`, or make a recipe with `piaas-bake init NAME`";
        Diagnostic::new(format!("cannot read the recipes in {}: {error}", dir.display()), help)
    })?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| {
            [FILE, MISNAMED]
                .iter()
                .any(|file| is_there(&entry.path().join(file)))
        })
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// What a caller gives for parameters; the last word of all is that of `sets`.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// Files of `--values`, a later one over an earlier one.
    pub values: Vec<PathBuf>,
    /// `--set name=value`.
    pub sets: Vec<(String, String)>,
}

/// Loads, checks and merges the recipe `name` and all it builds on.
///
/// # Errors
/// Everything that is wrong with any recipe of the line, as far as it can be read.
pub fn load(dir: &Path, name: &str, given: &Given) -> Result<Resolved, Diagnostics> {
    let merged = merge_with(dir, name, given)?;
    merged.found.or(merged.resolved)
}

/// As [`load`], also if the recipes of the line do not fit each other: what can be rendered all the same may have faults of
/// its own.
///
/// # Errors
/// Everything that is wrong with each recipe of the line by itself.
pub fn merge_with(dir: &Path, name: &str, given: &Given) -> Result<Merged, Diagnostics> {
    Ok(merge::merge(
        line(dir, name)?,
        given,
        merge::Missing::Refuse,
    ))
}

/// As [`load`], with a sample of its type for every parameter that a caller must set, so that all the rest can be
/// checked.
///
/// # Errors
/// Everything that is wrong with any recipe of the line, as far as it can be read.
pub fn load_for_lint(dir: &Path, name: &str) -> Result<Resolved, Diagnostics> {
    let merged = merge_for_lint(dir, name)?;
    merged.found.or(merged.resolved)
}

/// As [`merge_with`], with the samples of [`load_for_lint`].
///
/// # Errors
/// Everything that is wrong with each recipe of the line by itself.
pub fn merge_for_lint(dir: &Path, name: &str) -> Result<Merged, Diagnostics> {
    let line = line(dir, name)?;
    Ok(merge::merge(
        line,
        &Given::default(),
        merge::Missing::Sample,
    ))
}

/// Reads the line of recipes of `name`.
pub fn line(dir: &Path, name: &str) -> Result<Line, Diagnostics> {
    let mut found = Diagnostics::default();
    let mut recipes: Vec<RawRecipe> = Vec::new();
    let mut next = name.to_string();
    let mut asked: Option<Place> = None;
    let mut range: Option<(semver::VersionReq, Place)> = None;
    let base = loop {
        if let Some(start) = recipes.iter().position(|recipe| recipe.name == next) {
            let mut circle: Vec<_> = recipes[start..]
                .iter()
                .map(|recipe| recipe.name.as_str())
                .collect();
            circle.push(&next);
            check_range(&recipes[start], range.as_ref(), &mut found);
            let message = format!(
                "the recipes build on each other in a circle: {}",
                circle.join(" -> ")
            );
            found.push(place_or_plain(
                asked.as_ref(),
                message,
                "let one of them start from an image (`ssm`, `ami` or `filter`)",
            ));
            break None;
        }
        // What is wrong with its version is said before what is wrong with itself.
        let mut more = Diagnostics::default();
        let recipe = one(dir, &next, asked.as_ref(), &mut more);
        if let Some(recipe) = &recipe {
            check_range(recipe, range.as_ref(), &mut found);
        }
        found.extend(more);
        let Some(recipe) = recipe else {
            break None;
        };
        let from = match &recipe.from {
            From::Base(base) => Err(base.clone()),
            From::Recipe {
                name,
                name_at,
                version,
            } => Ok((name.clone(), name_at.clone(), version.clone())),
        };
        recipes.push(recipe);
        match from {
            Err(base) => break Some(base),
            Ok((name, at, wanted)) => {
                range = wanted;
                next = name;
                asked = Some(at);
            }
        }
    };
    recipes.reverse();
    match base {
        Some(base) => found.or(Line { recipes, base }),
        None => Err(found.in_order()),
    }
}

fn place_or_plain(place: Option<&Place>, message: String, help: impl Into<String>) -> Diagnostic {
    match place {
        Some(place) => place.diagnostic(message, help),
        None => Diagnostic::new(message, help),
    }
}

/// Whether there is anything of this name. A loop of links, a pipe, a directory without permission: it is there, and
/// reading it says what is wrong.
fn is_there(file: &Path) -> bool {
    file.symlink_metadata().map_or_else(
        |error| {
            !matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            )
        },
        |_| true,
    )
}

/// Reads one recipe file; what is wrong goes to `found`.
fn one(
    dir: &Path,
    name: &str,
    asked: Option<&Place>,
    found: &mut Diagnostics,
) -> Option<RawRecipe> {
    let home = dir.join(name);
    let file = home.join(FILE);
    let there = is_there(&file);
    if there && !super::units::is_recipe_name(name) {
        found.push(place_or_plain(
            asked,
            format!("`{name}` is not a recipe name, and so the directory is no recipe"),
            format!("rename the directory: {}", raw::NAME_HELP),
        ));
        return None;
    }
    if !there && is_there(&home.join(MISNAMED)) {
        found.push(Diagnostic {
            location: Some(top_of(&home.join(MISNAMED))),
            source_line: None,
            message: format!("a recipe is in `{FILE}`, and `{MISNAMED}` is not read"),
            help: Some(format!("rename it to `{FILE}`")),
        });
        return None;
    }
    if !there {
        let help = match names(dir) {
            Ok(known) => suggest(name, known.iter().map(String::as_str)),
            Err(error) => error
                .0
                .into_iter()
                .next()
                .map_or_else(String::new, |first| first.message),
        };
        found.push(place_or_plain(
            asked,
            format!("there is no recipe `{name}` in {}", dir.display()),
            help,
        ));
        return None;
    }
    // Opening a pipe would wait for a writer, and a device may have no end.
    let text = match file.metadata() {
        Ok(about) if !about.is_file() => Err(files::unreadable(&file, "it is not a regular file")),
        _ => files::text(&file),
    };
    let text = text.map_err(|diagnostic| found.push(diagnostic)).ok()?;
    let document = Document::parse(&file, text)
        .map_err(|more| found.extend(more))
        .ok()?;
    raw::read(&document, &home, found)
}

/// Refuses a parent whose version is not in the range asked for.
fn check_range(
    parent: &RawRecipe,
    range: Option<&(semver::VersionReq, Place)>,
    found: &mut Diagnostics,
) {
    let Some((range, at)) = range else { return };
    if !range.matches(&parent.version) {
        let name = &parent.name;
        found.push(at.diagnostic(
            format!(
                "no version in range: `{name}` is at {}, not in `{range}`",
                parent.version
            ),
            format!(
                "widen the range, for example `^{}`, after checking what changed in `{name}`",
                parent.version
            ),
        ));
    }
}
