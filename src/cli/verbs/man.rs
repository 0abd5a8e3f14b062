//! `man`: the manual pages, from the same source as `--help`.

use std::path::Path;

use clap::CommandFactory as _;
use serde_json::json;

use crate::cli::args::{Cli, Format};
use crate::cli::context::{Context, io};
use crate::cli::error::{CliError, CliResult};
use crate::cli::{exit, output};

pub fn run(context: &Context, dir: Option<&Path>) -> CliResult {
    let command = Cli::command();
    let Some(dir) = dir else {
        context.no_json("a page of the manual")?;
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .render(&mut page)
            .map_err(|error| CliError::failure("cannot make the page").because(&error))?;
        output::data(&String::from_utf8_lossy(&page))?;
        return Ok(exit::DONE);
    };
    std::fs::create_dir_all(dir).map_err(|error| io("make", dir, &error))?;
    clap_mangen::generate_to(command, dir).map_err(|error| io("write to", dir, &error))?;
    if context.format == Format::Json {
        output::json(&json!({ "dir": dir }))?;
    }
    output::note(&format!(
        "the pages are in {0}; read one with: man {0}/piaas-bake.1",
        dir.display()
    ));
    Ok(exit::DONE)
}
