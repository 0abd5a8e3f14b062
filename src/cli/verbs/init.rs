//! `init`: a first recipe.

use serde_json::json;

use crate::cli::args::{Format, InitArgs};
use crate::cli::context::{Context, invalid};
use crate::cli::error::CliResult;
use crate::cli::{exit, output};
use crate::recipe;

pub fn run(context: &Context, args: &InitArgs) -> CliResult {
    let path = recipe::init(&context.settings.recipes, &args.name, args.from.as_deref()).map_err(
        |found| {
            let mut error = invalid(&found);
            error.code = exit::FAILURE;
            error.message = format!("the recipe `{}` was not made", args.name);
            error
        },
    )?;
    match context.format {
        Format::Json => output::json(&json!({ "recipe": args.name, "path": path }))?,
        Format::Human => {
            output::data(&format!("{}\n", path.display()))?;
            output::note(&format!(
                "next: piaas-bake lint {0} && piaas-bake bake {0}",
                args.name
            ));
        }
    }
    Ok(exit::DONE)
}
