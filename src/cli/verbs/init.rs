//! `init`: a first recipe.

use serde_json::json;

use crate::cli::args::{Format, InitArgs};
use crate::cli::context::{Context, invalid};
use crate::cli::error::CliResult;
use crate::cli::{exit, output};
use crate::recipe;

/// The base of a recipe that names none.
const DEBIAN: &str = "/aws/service/debian/release/12/latest/amd64";

pub fn run(context: &Context, args: &InitArgs) -> CliResult {
    let written = recipe::init(
        &context.settings.recipes,
        &args.name,
        args.from.as_deref().unwrap_or(DEBIAN),
    )
    .map_err(|found| {
        let mut error = invalid(&found);
        error.code = exit::FAILURE;
        error.message = format!("the recipe `{}` was not made", args.name);
        error
    })?;
    match context.format {
        Format::Json => output::json(&json!({ "recipe": args.name, "written": written }))?,
        Format::Human => {
            for path in &written {
                output::data(&format!("{}\n", path.display()))?;
            }
            output::note(&format!(
                "next: piaas-bake lint {0} && piaas-bake bake {0}",
                args.name
            ));
        }
    }
    Ok(exit::DONE)
}
