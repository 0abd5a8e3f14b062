//! `render`: the scripts that a bake would run, as files.

use serde_json::json;

use crate::cli::args::{Format, RenderArgs};
use crate::cli::context::{Context, invalid, io};
use crate::cli::error::CliResult;
use crate::cli::{exit, output};
use crate::{recipe, render};

pub fn run(context: &Context, args: &RenderArgs) -> CliResult {
    let resolved = recipe::load(
        &context.settings.recipes,
        &args.recipe.recipe,
        &args.recipe.sets.given(),
    )
    .map_err(|found| invalid(&found))?;
    let layers = context.render(&resolved)?;
    let written = render::write_dir(&layers, &args.output).map_err(|error| {
        io("write the scripts to", &args.output, &error)
            .hint("choose a directory that is empty or does not exist")
    })?;
    match context.format {
        Format::Json => output::json(&json!({ "written": written }))?,
        Format::Human => {
            let lines: String = written
                .iter()
                .map(|path| format!("{}\n", path.display()))
                .collect();
            output::data(&lines)?;
        }
    }
    Ok(exit::DONE)
}
