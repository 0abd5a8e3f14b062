//! `lint`: all that is wrong with recipes, at once.

use std::path::Path;

use serde_json::json;

use crate::cli::args::{Format, LintArgs};
use crate::cli::context::{Context, invalid, say_without_effect};
use crate::cli::error::{CliError, CliResult};
use crate::cli::{exit, output};
use crate::recipe::model::Resolved;
use crate::recipe::{self, Diagnostics};
use crate::{parallel, render};

pub fn run(context: &Context, args: &LintArgs) -> CliResult {
    let recipes = &context.settings.recipes;
    let names = if args.recipe.is_empty() {
        let names = recipe::names(recipes).map_err(|found| invalid(&found))?;
        if names.is_empty() {
            return Err(CliError::failure(format!(
                "there are no recipes in {}",
                recipes.display()
            ))
            .hint("start one with `piaas-bake init NAME`"));
        }
        names
    } else {
        args.recipe.clone()
    };
    let mut clean = Vec::new();
    let mut found = Diagnostics::default();
    for checked in parallel::map(&names, |name| check(recipes, name)) {
        match checked {
            Ok(resolved) => clean.push(resolved),
            // A fault of a parent shows in every child; once is enough.
            Err(diagnostics) => found.extend(diagnostics),
        }
    }
    found.or(()).map_err(|found| invalid(&found))?;
    clean.iter().for_each(say_without_effect);
    match context.format {
        Format::Json => {
            let list: Vec<_> = clean
                .iter()
                .map(|one| json!({ "recipe": one.name, "version": one.version.to_string() }))
                .collect();
            output::json(&json!({ "clean": list }))?;
        }
        Format::Human => {
            let mut text = String::new();
            for one in &clean {
                text.push_str(&format!(
                    "{} {} {}\n",
                    context.out.tick(),
                    one.name,
                    one.version
                ));
            }
            output::data(&text)?;
        }
    }
    Ok(exit::DONE)
}

/// Loads and renders a recipe. A parameter that a caller must set is given a stand-in, so that the rest is checked.
fn check(recipes: &Path, name: &str) -> Result<Resolved, Diagnostics> {
    render::lint(recipe::merge_for_lint(recipes, name)?)
}
