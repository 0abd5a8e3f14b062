//! The command line of `policy`.

use clap::{Args, Subcommand};

use crate::cli::args::SetArgs;
use crate::cli::completions;

/// What the policy is for.
#[derive(Debug, Subcommand)]
pub enum PolicyVerb {
    /// Baking a recipe, going on with a bake or undoing it, and comparing its images
    Bake(BakePolicyArgs),
    /// Listing, showing and promoting images
    Images,
    /// Finding and removing what runs have left
    Gc,
    /// Running a command on a machine of an image, as `cloud run` does
    Run,
    /// Rolling a group of workers to another image
    Roll {
        /// Name of the Auto Scaling group
        #[arg(add = completions::groups())]
        group: String,
    },
    /// Running the fleet of a group
    Fleet {
        /// Name of the Auto Scaling group
        #[arg(add = completions::groups())]
        group: String,
    },
}

#[derive(Debug, Args)]
pub struct BakePolicyArgs {
    /// Name of the recipe
    #[arg(add = completions::recipes())]
    pub recipe: String,
    #[command(flatten)]
    pub sets: SetArgs,
    /// Bakes of candidates instead of the latest
    #[arg(long)]
    pub candidate: bool,
    /// What the role of the builder's instance profile needs, besides the managed policy AmazonSSMManagedInstanceCore
    #[arg(long)]
    pub builder: bool,
}
