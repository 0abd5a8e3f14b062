//! The packages that `lock --update` names: whether there is one recipe that they are of, and whether its lock file has
//! them.

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit;
use crate::recipe::diagnostic::nearest;
use crate::recipe::model::Resolved;
use crate::recipe::{self, Lock};

/// Refuses packages without the one recipe that they are of.
///
/// # Errors
/// What to write instead (exit code 2).
pub fn judge_order(
    context: &Context,
    names: &[String],
    packages: &[String],
) -> Result<(), CliError> {
    if packages.is_empty() || names.len() == 1 {
        return Ok(());
    }
    let known = recipe::names(&context.settings.recipes).unwrap_or_default();
    let (recipes, packages): (Vec<_>, Vec<_>) = packages
        .iter()
        .map(String::as_str)
        .partition(|name| known.iter().any(|one| one == name));
    let usage = |message: String, right: &[&str]| {
        let right = right.join(" ").trim_end().to_owned();
        Err(CliError::new(exit::USAGE, message).hint(format!("write: piaas-bake lock {right}")))
    };
    match (names, recipes.first()) {
        ([], Some(first)) => usage(
            format!("`{first}` is a recipe, and after --update come packages"),
            &[&recipes.join(" "), "--update", &packages.join(" ")],
        ),
        ([], None) => usage(
            "after --update come packages, and no recipe is named that they are of".to_owned(),
            &["RECIPE", "--update", &packages.join(" ")],
        ),
        _ => usage(
            "after --update come packages of one recipe, and several are named".to_owned(),
            &["RECIPE", "--update", &packages.join(" ")],
        ),
    }
}

/// Refuses packages that the lock file of a recipe does not have.
///
/// # Errors
/// The first of them, and what could be meant.
pub fn judge_packages(
    context: &Context,
    resolved: &Resolved,
    packages: &[String],
) -> Result<(), CliError> {
    if packages.is_empty() {
        return Ok(());
    }
    let name = &resolved.name;
    let Some(lock) = resolved.line.last().and_then(|one| one.lock.as_ref()) else {
        let message = format!("{name} has no lock file of which packages could move");
        return Err(CliError::failure(message).hint(format!("make it: piaas-bake lock {name}")));
    };
    let has = |lock: &Lock, package: &str| lock.packages.iter().any(|one| one.name == package);
    let Some(lacks) = packages.iter().find(|package| !has(lock, package)) else {
        return Ok(());
    };
    let refused = CliError::failure(format!("the lock file of {name} has no package `{lacks}`"));
    let below = resolved
        .line
        .iter()
        .rev()
        .find(|one| one.lock.as_ref().is_some_and(|lock| has(lock, lacks)));
    if let Some(below) = below {
        return Err(refused.hint(format!(
            "it is locked for {0}: piaas-bake lock {0} --update {lacks}",
            below.name
        )));
    }
    let is_recipe =
        recipe::names(&context.settings.recipes).is_ok_and(|known| known.contains(lacks));
    if is_recipe {
        return Err(refused.hint("it is a recipe: recipes come before --update"));
    }
    let known = lock.packages.iter().map(|one| one.name.as_str());
    Err(refused.hint(match nearest(lacks, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("`lock {name}` locks what the recipe asks for and the lock file has not"),
    }))
}
