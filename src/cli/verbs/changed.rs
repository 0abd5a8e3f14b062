//! `plan --changed-since`: the recipes that are not what they were at a revision of git. Changes nothing, asks no cloud.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use crate::cli::args::{Format, PlanArgs};
use crate::cli::context::{Context, invalid};
use crate::cli::error::{CliError, CliResult};
use crate::cli::{exit, github, output, worker_agent};
use crate::digest::{self, Change, Changed, Line};
use crate::recipe::model::Resolved;
use crate::recipe::{Diagnostics, Revision, RevisionError};
use crate::{parallel, recipe, render};

/// Jobs that one matrix may have (GitHub Docs, "Usage limits": 256 jobs per workflow run from a matrix).
const MATRIX_LIMIT: usize = 256;

pub fn run(context: &Context, args: &PlanArgs, rev: &str) -> CliResult {
    let recipes = &context.settings.recipes;
    // The same on both sides, so it changes no digest by itself.
    let agent = agent(context)?;
    let after = now(recipes, &agent)?;
    let revision = Revision::checkout(recipes, rev).map_err(|error| unreadable(&error))?;
    let before = then(&revision, &agent);
    let mut list = digest::changed(&before, &after);
    if args.leaves {
        list.retain(|one| one.leaf);
    }
    // Whoever bakes from a list has nobody to ask for values.
    let (list, unfit): (Vec<Changed>, Vec<Changed>) = if context.matrix {
        list.into_iter()
            .filter(|one| one.change != Change::Removed)
            .partition(|one| recipe::load(recipes, &one.recipe, &recipe::Given::default()).is_ok())
    } else {
        (list, Vec::new())
    };
    for one in &unfit {
        output::note(&format!(
            "left out: {} changed, and needs values that only `--set` or `--values` gives",
            one.recipe
        ));
    }
    context.summarize(&summary(&list, rev))?;
    match context.format {
        _ if context.matrix => output::data(&matrix(&list)?)?,
        Format::Json => output::json(&json!({ "since": rev, "changed": list }))?,
        Format::Human => output::data(&text(context, &list, rev))?,
    }
    Ok(exit::DONE)
}

/// The agent of workers, if a recipe installs it; digests are those that a bake would have.
fn agent(context: &Context) -> Result<Vec<u8>, CliError> {
    let recipes = &context.settings.recipes;
    let names = recipe::names(recipes).map_err(|found| invalid(&found))?;
    let mut loaded = names
        .iter()
        .filter_map(|name| recipe::load_for_lint(recipes, name).ok());
    match loaded.find(Resolved::needs_agent) {
        Some(resolved) => worker_agent::load(&context.settings, &resolved),
        None => Ok(Vec::new()),
    }
}

/// The lines of all recipes. A parameter that a caller must set has a stand-in, on both sides.
fn now(recipes: &Path, agent: &[u8]) -> Result<BTreeMap<String, Line>, CliError> {
    let names = recipe::names(recipes).map_err(|found| invalid(&found))?;
    let mut lines = BTreeMap::new();
    let mut found = Diagnostics::default();
    let all = parallel::map(&names, |name| line(recipes, name, agent));
    for (name, line) in names.into_iter().zip(all) {
        match line {
            Ok(line) => {
                lines.insert(name, line);
            }
            Err(more) => found.extend(more),
        }
    }
    found.or(lines).map_err(|found| invalid(&found))
}

/// The lines of the recipes as they were; for one that cannot be read, why.
fn then(revision: &Revision, agent: &[u8]) -> BTreeMap<String, Result<Line, String>> {
    // Without the directory there was no recipe.
    let names = recipe::names(revision.recipes()).unwrap_or_default();
    let reason = |found: Diagnostics| {
        let first = found.0.into_iter().next();
        first.map_or_else(String::new, |one| {
            let dir = format!("{}/", revision.dir().display());
            one.message.replace(&dir, "")
        })
    };
    let all = parallel::map(&names, |name| line(revision.recipes(), name, agent));
    let all = all.into_iter().map(|line| line.map_err(reason));
    names.into_iter().zip(all).collect()
}

fn line(recipes: &Path, name: &str, agent: &[u8]) -> Result<Line, Diagnostics> {
    let resolved = recipe::load_for_lint(recipes, name)?;
    let layers = render::render(&resolved, agent)?;
    let chain = digest::chain(&resolved, &layers);
    Ok(chain.into_iter().map(|(manifest, _)| manifest).collect())
}

fn unreadable(error: &RevisionError) -> CliError {
    let edge = CliError::failure(error.to_string());
    match error {
        RevisionError::NoRevision { .. } => {
            edge.hint("name a commit, a tag or a branch, such as HEAD^ or origin/main")
        }
        RevisionError::Shallow { .. } => edge,
        _ => edge.hint("the recipes must be in a git repository, to be compared with a revision"),
    }
}

/// One line of JSON, as `strategy.matrix` takes it.
fn matrix(list: &[Changed]) -> Result<String, CliError> {
    if list.len() > MATRIX_LIMIT {
        return Err(CliError::failure(format!(
            "{} recipes changed; a matrix of GitHub Actions has at most {MATRIX_LIMIT} jobs",
            list.len()
        ))
        .hint("pass --leaves, or bake in one job: piaas-bake rebake --stale"));
    }
    let include: Vec<_> = list
        .iter()
        .map(|one| {
            json!({
                "recipe": one.recipe,
                "digest": one.digest,
                "why": one.why.join("; "),
            })
        })
        .collect();
    Ok(format!("{}\n", json!({ "include": include })))
}

fn word(change: Change) -> &'static str {
    match change {
        Change::New => "new",
        Change::Changed => "changed",
        Change::Removed => "removed",
    }
}

fn text(context: &Context, list: &[Changed], rev: &str) -> String {
    if list.is_empty() {
        return format!("no recipe changed since {rev}\n");
    }
    let mut out = String::new();
    for one in list {
        let digest = one.digest.map(|digest| digest.short()).unwrap_or_default();
        out.push_str(&format!(
            "{} {} {}\n",
            context.out.bold(&one.recipe),
            word(one.change),
            context.out.dim(&digest)
        ));
        for why in &one.why {
            out.push_str(&format!("  {why}\n"));
        }
    }
    out
}

fn summary(list: &[Changed], rev: &str) -> String {
    let since = github::plain(rev);
    if list.is_empty() {
        return format!("### No recipe changed since {since}\n\n");
    }
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|one| {
            vec![
                one.recipe.clone(),
                word(one.change).to_owned(),
                one.digest.map(|digest| digest.short()).unwrap_or_default(),
                one.why.join("; "),
            ]
        })
        .collect();
    format!(
        "### Recipes changed since {since}\n\n{}",
        github::table(&["recipe", "change", "digest", "why"], &rows)
    )
}
