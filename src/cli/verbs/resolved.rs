//! `show --resolved`: a recipe merged along its line, and where each value comes from.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use crate::cli::context::Context;
use crate::cli::output;
use crate::recipe::model::{InlineText, LineRecipe, Location, Origin, Resolved};

use super::show;

/// As one document.
pub fn json(resolved: &Resolved) -> Json {
    let parameters: serde_json::Map<String, Json> = resolved
        .about
        .iter()
        .map(|(name, about)| {
            let known = json!({
                "value": match &about.secret {
                    Some(reference) => json!(reference.to_string()),
                    None => json!(resolved.parameters.get(name)),
                },
                "secret": about.secret.is_some(),
                "type": about.kind,
                "description": about.description,
                "declared": location(&about.declared),
                "from": origin(&about.origin),
            });
            (name.clone(), known)
        })
        .collect();
    let settings: serde_json::Map<String, Json> = resolved
        .settings()
        .into_iter()
        .map(|(key, value)| {
            let from = match resolved.origins.get(&key) {
                Some(at) => with_kind("recipe", at),
                None => json!({ "kind": "default" }),
            };
            (key, json!({ "value": value, "from": from }))
        })
        .collect();
    let line: Vec<Json> = resolved.line.iter().map(recipe).collect();
    json!({
        "recipe": resolved.name,
        "version": resolved.version.to_string(),
        "description": resolved.description,
        "base": resolved.base,
        "parameters": parameters,
        "settings": settings,
        "line": line,
    })
}

fn recipe(recipe: &LineRecipe) -> Json {
    let items: Vec<Json> = contents(recipe)
        .into_iter()
        .map(|(kind, title, when, at)| {
            let when = when.map(|when| when.text.as_str());
            json!({ "kind": kind, "title": title, "when": when, "from": location(at) })
        })
        .collect();
    json!({
        "recipe": recipe.name,
        "version": recipe.version.to_string(),
        "contents": items,
    })
}

/// Kind, title, condition and place of what a recipe adds, in the order in which a bake comes to it.
fn contents(recipe: &LineRecipe) -> Vec<Content<'_>> {
    let packages = recipe
        .packages
        .iter()
        .map(|one| ("package", one.name.as_str(), one.when.as_ref(), &one.at));
    let files = recipe
        .files
        .iter()
        .map(|one| ("file", one.path.as_str(), one.when.as_ref(), &one.at));
    let trees = recipe
        .trees
        .iter()
        .map(|one| ("tree", one.path.as_str(), one.when.as_ref(), &one.at));
    let lists = [
        ("step", &recipe.steps),
        ("validate", &recipe.validate),
        ("test", &recipe.test),
    ];
    let steps = lists.into_iter().flat_map(|(kind, list)| {
        list.iter()
            .map(move |one| (kind, one.name.as_str(), one.when.as_ref(), &one.at))
    });
    packages.chain(files).chain(trees).chain(steps).collect()
}

type Content<'r> = (&'static str, &'r str, Option<&'r InlineText>, &'r Location);

fn location(at: &Location) -> Json {
    json!({ "file": at.file, "line": at.line, "column": at.column })
}

fn with_kind(kind: &str, at: &Location) -> Json {
    json!({ "kind": kind, "file": at.file, "line": at.line, "column": at.column })
}

fn origin(origin: &Origin) -> Json {
    match origin {
        Origin::Default(at) => with_kind("default", at),
        Origin::Recipe(at) => with_kind("recipe", at),
        Origin::Values(at) => with_kind("values", at),
        Origin::CommandLine => json!({ "kind": "set" }),
        Origin::Sample => json!({ "kind": "sample" }),
    }
}

/// For people.
pub fn text(context: &Context, resolved: &Resolved) -> String {
    let style = context.out;
    let mut out = show::head(style, resolved);
    if !resolved.parameters.is_empty() {
        out.push_str("\nparameters\n");
        let rows: Vec<Vec<String>> = resolved
            .about
            .iter()
            .map(|(name, about)| {
                let value = match &about.secret {
                    Some(reference) => Some(format!("secret {reference}")),
                    None => resolved.parameters.get(name).map(show::shown),
                };
                vec![
                    format!("  {name}"),
                    value.unwrap_or_default(),
                    words(&about.origin),
                ]
            })
            .collect();
        out.push_str(&output::table(&rows));
    }
    out.push_str("\nsettings\n");
    let rows: Vec<Vec<String>> = resolved
        .settings()
        .into_iter()
        .map(|(key, value)| {
            let from = resolved.origins.get(&key).map_or("default".into(), place);
            let value = match value {
                Json::String(text) => text,
                other => other.to_string(),
            };
            vec![format!("  {key}"), value, from]
        })
        .collect();
    out.push_str(&output::table(&rows));
    for recipe in &resolved.line {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "\n{} {}", style.bold(&recipe.name), recipe.version);
        let rows: Vec<Vec<String>> = contents(recipe)
            .into_iter()
            .map(|(kind, title, when, at)| {
                let when = when.map(|when| format!(", when {}", when.text));
                let place = format!("{}{}", place(at), when.unwrap_or_default());
                vec![format!("  {kind}"), title.to_owned(), place]
            })
            .collect();
        out.push_str(&output::table(&rows));
    }
    out
}

fn place(at: &Location) -> String {
    format!("{}:{}", at.file.display(), at.line)
}

fn words(origin: &Origin) -> String {
    match origin {
        Origin::Default(at) => format!("default, {}", place(at)),
        Origin::Recipe(at) => format!("set, {}", place(at)),
        Origin::Values(at) => format!("--values {}", place(at)),
        Origin::CommandLine => "--set".into(),
        Origin::Sample => "nobody gave one".into(),
    }
}
