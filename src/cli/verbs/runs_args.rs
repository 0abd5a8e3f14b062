//! The command line of `runs`.

use clap::{Args, Subcommand};

use crate::cli::completions;

/// What to do with runs; without a word they are listed.
#[derive(Debug, Subcommand)]
pub enum RunsVerb {
    /// Show what a run did, record by record, and what it has left
    Show(RunArgs),
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Its id
    #[arg(add = completions::runs())]
    pub run: String,
}
