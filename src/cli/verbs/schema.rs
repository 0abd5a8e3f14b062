//! `schema`: the JSON Schemas of what people write and of what machines read.

use crate::cli::args::SchemaOf;
use crate::cli::error::CliResult;
use crate::cli::{exit, lines, output};
use crate::recipe::schema;

pub fn run(of: SchemaOf) -> CliResult {
    output::data(&match of {
        SchemaOf::Recipe => schema::text(),
        SchemaOf::Events => lines::schema(),
    })?;
    Ok(exit::DONE)
}
