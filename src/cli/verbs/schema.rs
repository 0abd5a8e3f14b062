//! `schema`: the JSON Schemas of what people write and of what machines read.

use crate::cli::args::SchemaOf;
use crate::cli::error::{CliError, CliResult};
use crate::cli::{exit, lines, output};
use crate::recipe::schema;

pub fn run(of: SchemaOf) -> CliResult {
    let text = match of {
        SchemaOf::Recipe => schema::text(),
        SchemaOf::Events => lines::schema(),
    };
    if output::has_lines() {
        let schema: serde_json::Value = serde_json::from_str(&text).map_err(|error| {
            CliError::new(exit::BUG, "the schema is no JSON document").because(&error)
        })?;
        output::json(&schema)?;
    } else {
        output::data(&text)?;
    }
    Ok(exit::DONE)
}
