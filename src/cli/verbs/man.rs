//! `man`: the manual pages, from the same source as `--help`.

use std::path::Path;

use clap::CommandFactory as _;

use crate::cli::args::Cli;
use crate::cli::context::io;
use crate::cli::error::{CliError, CliResult};
use crate::cli::{exit, output};

pub fn run(dir: Option<&Path>) -> CliResult {
    let command = Cli::command();
    let Some(dir) = dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .render(&mut page)
            .map_err(|error| CliError::failure("cannot make the page").because(&error))?;
        output::data(&String::from_utf8_lossy(&page))?;
        return Ok(exit::DONE);
    };
    std::fs::create_dir_all(dir).map_err(|error| io("make", dir, &error))?;
    clap_mangen::generate_to(command, dir).map_err(|error| io("write to", dir, &error))?;
    output::note(&format!(
        "the pages are in {0}; read one with: man {0}/piaas-bake.1",
        dir.display()
    ));
    Ok(exit::DONE)
}
