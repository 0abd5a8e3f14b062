//! `leaks`: what no image may carry, and what is done about it.

use serde_json::json;

use crate::cli::args::Format;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::{exit, output};
use crate::image::leaks::table;

pub fn run(context: &Context) -> CliResult {
    match context.format {
        Format::Json => {
            let all: Vec<_> = table()
                .iter()
                .map(|leak| json!({ "path": leak.path, "why": leak.why, "action": leak.action }))
                .collect();
            output::json(&json!({ "leaks": all }))?;
        }
        Format::Human => {
            let row =
                |one: &str, two: &str, three: &str| [one, two, three].map(str::to_owned).to_vec();
            let mut rows = vec![row("path", "done", "why")];
            let all = table().iter();
            rows.extend(all.map(|leak| row(&leak.path, leak.action.word(), &leak.why)));
            output::data(&output::table(&rows))?;
        }
    }
    Ok(exit::DONE)
}
