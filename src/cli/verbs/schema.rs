//! `schema`: the JSON Schema of recipe files.

use crate::cli::error::CliResult;
use crate::cli::{exit, output};
use crate::recipe::schema;

pub fn run() -> CliResult {
    output::data(&schema::text())?;
    Ok(exit::DONE)
}
