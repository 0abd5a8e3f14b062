//! `render`: what a bake from the base image on would run, as files.

use serde_json::json;

use crate::cli::args::{CloudName, Format, RenderArgs};
use crate::cli::context::{Context, invalid, io};
use crate::cli::error::CliResult;
use crate::cli::{exit, output};
use crate::{bake, localcloud, render};

pub fn run(context: &Context, args: &RenderArgs) -> CliResult {
    let resolved = render::load(
        &context.settings.recipes,
        &args.recipe.recipe,
        &args.recipe.sets.given(),
    )
    .map_err(|found| invalid(&found))?;
    let layers = context.render(&resolved)?;
    let region = match (&context.settings.region, context.settings.cloud) {
        (Some(region), _) => region,
        (None, CloudName::Local) => localcloud::DEFAULT_REGION,
        // It may stand in a profile, which is read with the credentials only: a bake fills it in.
        (None, CloudName::Aws) => "@REGION@",
    };
    let user_data = bake::user_data(region, bake::plan::lifetime(&resolved.build));
    let written = render::write_dir(&layers, &user_data, &args.output).map_err(|error| {
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
