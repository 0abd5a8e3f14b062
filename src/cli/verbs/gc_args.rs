//! The command line of `gc`.

use clap::Args;

/// What is removed is told by its tags and its name, so it needs no journal: that of a run may be lost, or lie on another
/// host. Things of a run that may be under way elsewhere stay until they expire. Finished images always stay.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Remove it; without this nothing is changed
    #[arg(long)]
    pub yes: bool,
    /// Only what this run has left, by its id
    #[arg(long, value_name = "RUN", add = crate::cli::completions::dead_runs())]
    pub run: Option<String>,
}
