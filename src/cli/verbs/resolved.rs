//! `show --resolved`: a recipe merged along its line, and where each value comes from.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::cli::context::Context;
use crate::cli::output;
use crate::recipe::model::{
    InlineText, LineRecipe, Location, Origin, Resolved, StepSpec, WorkerSpec,
};

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
        "base_from": resolved.line.first().map(|root| location(&root.from_at)),
        "parameters": parameters,
        "settings": settings,
        "line": line,
    })
}

fn recipe(recipe: &LineRecipe) -> Json {
    let items: Vec<Json> = contents(recipe)
        .into_iter()
        .map(|one| {
            let when = one.when.map(|when| when.text.as_str());
            let mut item = json!({ "kind": one.kind, "title": one.title, "when": when, "from": location(one.at) });
            if let Some(reason) = one.reason {
                item["reason"] = json!(reason);
            }
            if let Some(step) = one.step {
                item["timeout"] = json!(seconds(step.timeout));
                item["retries"] = json!(step.retries);
                item["reboot"] = json!(step.reboot);
                item["env"] = json!(step.env.keys().collect::<Vec<_>>());
            }
            item
        })
        .collect();
    json!({
        "recipe": recipe.name,
        "version": recipe.version.to_string(),
        "from": location(&recipe.from_at),
        "worker": recipe.worker.as_ref().map(|worker| serde_json::Map::from_iter(
            told(worker).into_iter().map(|(key, value)| (key.to_owned(), Json::String(value)))
        )),
        "contents": items,
    })
}

/// What the agent on the worker is told, by the keys of the recipe.
fn told(worker: &WorkerSpec) -> Vec<(&'static str, String)> {
    match worker {
        WorkerSpec::Buildbot(buildbot) => vec![
            ("adapter", "buildbot".into()),
            ("unit", buildbot.unit.clone()),
            ("report", buildbot.report.display().to_string()),
        ],
        WorkerSpec::Command(commands) => vec![
            ("adapter", "command".into()),
            ("status", commands.status.text.clone()),
            ("stop", commands.stop.text.clone()),
            ("stopped", commands.stopped.text.clone()),
            ("start", commands.start.text.clone()),
            ("timeout", seconds(commands.timeout)),
        ],
    }
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

/// Something that a recipe adds.
struct Content<'r> {
    kind: &'static str,
    title: &'r str,
    when: Option<&'r InlineText>,
    at: &'r Location,
    /// A step, a validation or a test.
    step: Option<&'r StepSpec>,
    /// Of a line of `seal`.
    reason: Option<&'r str>,
}

/// What a recipe adds, in the order in which a bake comes to it.
fn contents(recipe: &LineRecipe) -> Vec<Content<'_>> {
    let installed = |kind, title, when, at| Content {
        kind,
        title,
        when,
        at,
        step: None,
        reason: None,
    };
    let packages = recipe.packages.iter();
    let packages = packages.map(|one| ("package", &one.name, &one.when, &one.at));
    let files = recipe.files.iter();
    let files = files.map(|one| ("file", &one.path, &one.when, &one.at));
    let downloads = recipe.downloads.iter();
    let downloads = downloads.map(|one| ("download", &one.path, &one.when, &one.at));
    let trees = recipe.trees.iter();
    let trees = trees.map(|one| ("tree", &one.path, &one.when, &one.at));
    let seal = recipe.seal.iter().map(|one| Content {
        kind: one.sealed.action.word(),
        title: &one.sealed.path,
        when: None,
        at: &one.at,
        step: None,
        reason: one.reason.as_deref(),
    });
    let lists = [
        ("step", &recipe.steps),
        ("validate", &recipe.validate),
        ("test", &recipe.test),
    ];
    let steps = lists.into_iter().flat_map(|(kind, list)| {
        list.iter().map(move |step| Content {
            kind,
            title: &step.name,
            when: step.when.as_ref(),
            at: &step.at,
            step: Some(step),
            reason: None,
        })
    });
    packages
        .chain(files)
        .chain(trees)
        .chain(downloads)
        .map(|(kind, title, when, at)| installed(kind, title.as_str(), when.as_ref(), at))
        .chain(steps)
        .chain(seal)
        .collect()
}

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
        let mut rows = vec![vec!["  from".into(), String::new(), place(&recipe.from_at)]];
        for (key, value) in recipe.worker.iter().flat_map(told) {
            let value = value.trim_end();
            // A script of several lines stays in its row.
            let shown = if value.contains(char::is_control) {
                format!("{value:?}")
            } else {
                value.to_owned()
            };
            rows.push(vec!["  worker".into(), key.into(), shown]);
        }
        rows.extend(contents(recipe).into_iter().map(|one| {
            let mut words = place(one.at);
            if let Some(when) = one.when {
                let _ = write!(words, ", when {}", when.text);
            }
            if let Some(reason) = one.reason {
                let _ = write!(words, ", because: {reason}");
            }
            if let Some(step) = one.step {
                let _ = write!(words, ", at most {}", seconds(step.timeout));
                if step.retries > 0 {
                    let _ = write!(words, ", retries {}", step.retries);
                }
                if step.reboot {
                    words.push_str(", then a reboot");
                }
                if !step.env.is_empty() {
                    let names: Vec<_> = step.env.keys().map(String::as_str).collect();
                    let _ = write!(words, ", env {}", names.join(" "));
                }
            }
            vec![format!("  {}", one.kind), one.title.to_owned(), words]
        }));
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
