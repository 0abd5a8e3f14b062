//! `show`: a recipe merged along its line.

use std::fmt::Write as _;

use serde_json::json;

use super::resolved;
use crate::cli::args::{Format, ShowArgs};
use crate::cli::context::{Context, invalid};
use crate::cli::error::CliResult;
use crate::cli::style::{Style, elapsed};
use crate::cli::{exit, output};
use crate::recipe::model::{BaseRef, Resolved, Value};
use crate::{digest, render};

pub fn run(context: &Context, args: &ShowArgs) -> CliResult {
    let given = args.recipe.sets.given();
    let resolved = render::load(&context.settings.recipes, &args.recipe.recipe, &given)
        .map_err(|found| invalid(&found))?;
    if args.resolved {
        // The bytes of the worker's agent are of no interest here.
        render::render(&resolved, &[]).map_err(|found| invalid(&found))?;
        match context.format {
            Format::Json => output::json(&resolved::json(&resolved))?,
            Format::Human => output::data(&resolved::text(context, &resolved))?,
        }
        return Ok(exit::DONE);
    }
    let layers = context.render(&resolved)?;
    let chain = digest::chain(&resolved, &layers);
    match context.format {
        Format::Json => {
            let line: Vec<_> = chain
                .iter()
                .map(|(manifest, digest)| json!({ "digest": digest, "manifest": manifest }))
                .collect();
            output::json(&json!({
                "recipe": resolved.name,
                "version": resolved.version.to_string(),
                "description": resolved.description,
                "base": resolved.base,
                "parameters": resolved.parameters,
                "labels": resolved.labels,
                "image": resolved.image,
                "build": resolved.build,
                "line": line,
            }))?;
        }
        Format::Human => output::data(&text(context, &resolved, &chain, &layers))?,
    }
    Ok(exit::DONE)
}

/// What a recipe is, and what it builds on.
pub fn head(style: Style, resolved: &Resolved) -> String {
    format!(
        "{} {}\n{}\n\nbuilds on  {}\n",
        style.bold(&resolved.name),
        resolved.version,
        resolved.description,
        base(&resolved.base)
    )
}

fn text(
    context: &Context,
    resolved: &Resolved,
    chain: &[(digest::Manifest, digest::Digest)],
    layers: &[render::script::Layer],
) -> String {
    let style = context.out;
    let mut out = head(style, resolved);
    let image = &resolved.image;
    let build = &resolved.build;
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "image      {} GiB, {}, {}, {}\nbuilder    {}, at most {}",
        image.size_gib,
        image.filesystem,
        image.architecture,
        image.boot_mode,
        build.instance_types.join(" or "),
        elapsed(build.timeout)
    );
    if !resolved.parameters.is_empty() {
        out.push_str("\nparameters\n");
        let rows: Vec<Vec<String>> = resolved
            .parameters
            .iter()
            .map(|(name, value)| vec![format!("  {name}"), shown(value)])
            .collect();
        out.push_str(&output::table(&rows));
    }
    for ((_, digest), layer) in chain.iter().zip(layers) {
        let _ = writeln!(
            out,
            "\n{} {}  {}",
            style.bold(&layer.recipe),
            layer.version,
            style.dim(&digest.short())
        );
        if !layer.packages.is_empty() {
            let _ = writeln!(out, "  packages  {}", layer.packages.join(" "));
        }
        for file in &layer.files {
            let _ = writeln!(out, "  file      {}", file.path);
        }
        let steps = layer.provision.iter();
        for (kind, script) in steps
            .map(|script| ("step", script))
            .chain(layer.validate.iter().map(|script| ("validate", script)))
            .chain(layer.test.iter().map(|script| ("test", script)))
        {
            let _ = writeln!(out, "  {kind:<8}  {}", script.title);
        }
    }
    out
}

/// A base reference in words.
pub fn base(base: &BaseRef) -> String {
    match base {
        BaseRef::Ami { id } => id.clone(),
        BaseRef::Ssm { parameter } => format!("the image named by the SSM parameter {parameter}"),
        BaseRef::Filter { owners, filters } => {
            let filters: Vec<String> = filters
                .iter()
                .map(|(name, values)| format!("{name} = {}", values.join(" or ")))
                .collect();
            format!(
                "the newest image of {} with {}",
                owners.join(" or "),
                filters.join(", ")
            )
        }
        BaseRef::ImageBuilder { arn } => format!("the Image Builder image {arn}"),
    }
}

pub fn shown(value: &Value) -> String {
    match value {
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::String(value) => format!("{value:?}"),
        Value::List(values) => format!("{values:?}"),
    }
}
