//! The command line of `fleet`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::completions;

/// What to do with a fleet.
#[derive(Debug, Subcommand)]
pub enum FleetVerb {
    /// Run a fleet until it is stopped: look, launch what is missing, shut down what is idle
    Run(FleetArgs),
    /// Look once and do what is needed, for cron or a Lambda
    Tick(FleetArgs),
    /// Show what is busy, what is going, why, and until when; changes nothing
    Status(StatusArgs),
}

#[derive(Debug, Args)]
pub struct FleetArgs {
    /// The fleet's file [default: fleet.yaml, if there is one here]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of the Auto Scaling group [default: the file's]
    #[arg(long, value_name = "GROUP", add = completions::groups())]
    pub group: Option<String>,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// Show it anew every few seconds, until interrupted
    #[arg(long)]
    pub watch: bool,
}
